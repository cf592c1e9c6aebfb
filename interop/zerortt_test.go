package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	qgo "github.com/quic-go/quic-go"
)

// notify tells when a session was stored.
type notify struct {
	tls.ClientSessionCache
	got chan struct{}
}

func (n notify) Put(key string, cs *tls.ClientSessionState) {
	n.ClientSessionCache.Put(key, cs)
	if cs != nil {
		n.got <- struct{}{}
	}
}

// earlyConn is a client's connection that may not be complete.
type earlyConn struct {
	conn
	accepted func(context.Context) (bool, error) // waits for the handshake
}

func earlyDial(ctx context.Context, t *testing.T, who stack, to server, s *settings, between *faults) earlyConn {
	t.Helper()
	at := to.Addr()
	if between != nil {
		at = newProxy(t, at, *between).Addr()
	}
	if who.name == qg.name {
		tr, _, cfg := s.goParts(t, loopback)
		c, err := tr.DialEarly(ctx, net.UDPAddrFromAddrPort(at), s.clientTLS(), cfg)
		mustNot(t, err, "dial")
		return earlyConn{goConn{c}, func(ctx context.Context) (bool, error) {
			select {
			case <-c.HandshakeComplete():
			case <-ctx.Done():
				return false, ctx.Err()
			}
			return c.ConnectionState().Used0RTT, nil
		}}
	}
	e, _ := fsgwEndpoint(t, loopback, nil)
	c, err := e.DialEarly(ctx, at, s.fsgwConfig(s.clientTLS()))
	mustNot(t, err, "dial")
	return earlyConn{fsgwConn{c}, func(ctx context.Context) (bool, error) {
		if err := c.Wait(ctx); err != nil {
			return false, err
		}
		return c.TLS().EarlyData, nil
	}}
}

// earlyListen accepts 0-RTT, before the handshake is complete.
func earlyListen(t *testing.T, who stack, s *settings) server {
	t.Helper()
	if who.name != qg.name {
		return who.listen(t, loopback, s)
	}
	tr, u, cfg := s.goParts(t, loopback)
	ln, err := tr.ListenEarly(s.serverTLS(), cfg)
	mustNot(t, err, "quic-go listen")
	return &goEarlyServer{goServer{tr: tr, u: u}, ln}
}

type goEarlyServer struct {
	goServer
	early *qgo.EarlyListener
}

func (s *goEarlyServer) Accept(ctx context.Context) (conn, error) {
	c, err := s.early.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return goConn{c}, nil
}

// earlySettings are of a pair that knows each other's sessions.
func earlySettings(allow bool) (*settings, chan struct{}) {
	client := clientTLS(false)
	got := make(chan struct{}, 16)
	client.ClientSessionCache = notify{tls.NewLRUClientSessionCache(8), got}
	return &settings{
		server: serverTLS(false), client: client,
		goConfig: func(c *qgo.Config) { c.Allow0RTT = allow },
		fsgw:     func(c *quic.Config) { c.EarlyData = allow; c.InitialRTT = 50 * time.Millisecond },
	}, got
}

// request sends 20 kB on a stream and wants them back.
func request(ctx context.Context, t *testing.T, c conn, seed uint64) {
	t.Helper()
	want := payload(20_000, seed)
	st, err := c.Open(ctx)
	mustNot(t, err, "open a stream")
	_, err = st.Write(want)
	mustNot(t, err, "write")
	mustNot(t, st.CloseWrite(), "close a stream")
	got, err := io.ReadAll(st)
	mustNot(t, err, "read the answer")
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came back of %d", len(got), len(want))
	}
}

// answer sends back what comes on the streams of the connections of ln.
func answer(ctx context.Context, ln server) {
	for {
		d, err := ln.Accept(ctx)
		if err != nil {
			return
		}
		go func() {
			for {
				st, err := d.Accept(ctx)
				if err != nil {
					return
				}
				b, err := io.ReadAll(st)
				if err == nil {
					_, err = st.Write(b)
				}
				if err == nil {
					_ = st.CloseWrite()
				}
			}
		}()
	}
}

// TestZeroRTT is the zerortt case: requests go with the first flight.
func TestZeroRTT(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]*faults{
		"clean": nil,
		"delay": {delay: 15 * time.Millisecond},
		"loss":  {delay: 5 * time.Millisecond, loss: 0.1, reorder: 0.1, seed: 21},
	} {
		for _, p := range append(featurePairs, [2]stack{fsgw, fsgw}) {
			t.Run(name+"/"+p[0].name+"_to_"+p[1].name, func(t *testing.T) {
				s, got := earlySettings(true)
				ln := earlyListen(t, p[1], s)
				ctx := testCtx(t)
				go answer(ctx, ln)
				for i := range uint64(3) {
					c := earlyDial(ctx, t, p[0], ln, s, between)
					request(ctx, t, c, i)
					early, err := c.accepted(ctx)
					mustNot(t, err, "handshake")
					if early != (i > 0) {
						t.Errorf("connection %d: 0-RTT accepted: %v", i, early)
					}
					select {
					case <-got:
					case <-ctx.Done():
						t.Fatal("no session ticket")
					}
					c.Close(0, "")
				}
			})
		}
	}
}

// TestZeroRTTRefused: a server that no longer wants it gets everything behind the
// handshake. quic-go's client tells its user, who would have to begin again.
func TestZeroRTTRefused(t *testing.T) {
	t.Parallel()
	for _, srv := range []stack{qg, fsgw} {
		s, got := earlySettings(true)
		ln := earlyListen(t, srv, s)
		ctx := testCtx(t)
		go answer(ctx, ln)
		c := earlyDial(ctx, t, fsgw, ln, s, nil)
		request(ctx, t, c, 1)
		<-got
		c.Close(0, "")
		refusing, _ := earlySettings(false)
		refusing.server, refusing.client = s.server, s.client // the same tickets
		other := earlyListen(t, srv, refusing)
		go answer(ctx, other)
		c = earlyDial(ctx, t, fsgw, other, refusing, nil)
		request(ctx, t, c, 2)
		if early, err := c.accepted(ctx); err != nil || early {
			t.Errorf("%s: 0-RTT accepted: %v, %v", srv.name, early, err)
		}
		if srv.name == qg.name && !c.TLS().resumed {
			t.Errorf("%s: not resumed: the test shows nothing", srv.name)
		}
	}
}
