package quic

import (
	"crypto/tls"
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
