package quic

import (
	"crypto/tls"
	"errors"
	"testing"
)

// ticketCache tells when a session ticket has arrived.
type ticketCache struct {
	tls.ClientSessionCache
	got chan struct{}
}

func (c ticketCache) Put(key string, s *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, s)
	if s != nil {
		c.got <- struct{}{}
	}
}

func TestTLSResumes(t *testing.T) {
	cache := ticketCache{tls.NewLRUClientSessionCache(4), make(chan struct{}, 8)}
	ccfg := clientConfig()
	ccfg.Handshaker = TLS(&tls.Config{RootCAs: testPKI().roots, ClientSessionCache: cache})
	se, ce := newLoopback(t, serverConfig()), newLoopback(t, nil)
	ctx := testContext(t)
	for i := range 3 {
		client, err := ce.Dial(ctx, se.LocalAddr(), ccfg)
		if err != nil {
			t.Fatal(err)
		}
		server, err := se.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if want := i > 0; client.TLS().Resumed != want || server.TLS().Resumed != want {
			t.Errorf("connection %d: resumed: client %v, server %v", i, client.TLS().Resumed, server.TLS().Resumed)
		}
		select {
		case <-cache.got:
		case <-ctx.Done():
			t.Fatal("no session ticket came")
		}
	}
}

// twisted is TLS that reads other transport parameters than were sent.
type twisted struct{ Handshaker }

func (h twisted) Handshake(req *HandshakeRequest, sink func(HandshakeEvent)) Handshake {
	return h.Handshaker.Handshake(req, func(e HandshakeEvent) {
		if e.Kind == EventPeerTransportParams {
			e.Data = append(clone(e.Data), 0x40, 0x52, 0) // one more, empty
		}
		sink(e)
	})
}

// mute is TLS that never says what transport parameters it has read.
type mute struct{ Handshaker }

func (h mute) Handshake(req *HandshakeRequest, sink func(HandshakeEvent)) Handshake {
	return h.Handshaker.Handshake(req, func(e HandshakeEvent) {
		if e.Kind != EventPeerTransportParams {
			sink(e)
		}
	})
}

// A server acts on the transport parameters of the ClientHello before TLS has
// read them. TLS has to read the same.
func TestTransportParamsAreReadTwice(t *testing.T) {
	for _, c := range []struct {
		wrap func(Handshaker) Handshaker
		code TransportErrorCode
	}{
		{func(h Handshaker) Handshaker { return twisted{h} }, TransportParameterError},
		{func(h Handshaker) Handshaker { return mute{h} }, InternalError},
	} {
		cfg := serverConfig()
		cfg.Handshaker = c.wrap(cfg.Handshaker)
		se, ce := newLoopback(t, cfg), newLoopback(t, nil)
		ctx := testContext(t)
		client, err := ce.Dial(ctx, se.LocalAddr(), clientConfig())
		if err == nil {
			<-client.Done() // TLS was complete for it before the server looked
			err = client.Err()
		}
		var te *TransportError
		if !errors.As(err, &te) || !te.Remote || te.Code != c.code {
			t.Errorf("%v, want %v from the server", err, c.code)
		}
	}
}
