package interop

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	qgo "github.com/quic-go/quic-go"
	xquic "golang.org/x/net/quic"
)

func TestBadNetwork(t *testing.T) {
	for name, f := range map[string]faults{
		"delay":     {delay: 10 * time.Millisecond},
		"loss":      {delay: 2 * time.Millisecond, loss: 0.02, seed: 11},
		"reorder":   {delay: 2 * time.Millisecond, reorder: 0.1, seed: 12},
		"duplicate": {delay: 2 * time.Millisecond, duplicate: 0.3, seed: 13},
		"corrupt":   {delay: 2 * time.Millisecond, corrupt: 0.02, seed: 14},
		"all":       {delay: 2 * time.Millisecond, loss: 0.01, reorder: 0.05, duplicate: 0.05, corrupt: 0.01, seed: 15},
	} {
		t.Run(name, func(t *testing.T) {
			onPairs(t, func(t *testing.T, client, server stack) {
				c, d, _ := connect(t, client, server, &settings{between: &f})
				exchange(t, c, d, 1<<20)
			})
		})
	}
}

// TestLossyHandshake completes handshakes in which every fifth datagram is
// lost or damaged.
func TestLossyHandshake(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		for seed := range uint64(6) {
			s := &settings{
				server: serverTLS(true), client: clientTLS(true),
				between: &faults{delay: time.Millisecond, loss: 0.15, corrupt: 0.05, duplicate: 0.1, reorder: 0.1, seed: seed},
			}
			// Give the other stacks the time that ours takes.
			s.goConfig = func(c *qgo.Config) { c.HandshakeIdleTimeout = 20 * time.Second }
			s.xnet = func(c *xquic.Config) { c.HandshakeTimeout = 20 * time.Second }
			s.fsgw = func(c *quic.Config) { c.HandshakeTimeout, c.InitialRTT = 20*time.Second, 50*time.Millisecond }
			start := time.Now()
			c, d, _ := connect(t, client, server, s)
			exchange(t, c, d, 1000)
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("seed %d took %v", seed, took)
			}
		}
	})
}

// TestFirstFlightLost drops the first datagrams of each direction.
func TestFirstFlightLost(t *testing.T) {
	for _, f := range []faults{{dropToServer: 1}, {dropToServer: 2}, {dropToServer: 3}, {dropToClient: 1}, {dropToClient: 2}, {dropToClient: 4}, {dropToServer: 2, dropToClient: 2}} {
		t.Run(fmt.Sprintf("server_%d_client_%d", f.dropToServer, f.dropToClient), func(t *testing.T) {
			onPairs(t, func(t *testing.T, client, server stack) {
				s := &settings{between: &f, fsgw: func(c *quic.Config) { c.InitialRTT = 50 * time.Millisecond }}
				c, d, _ := connect(t, client, server, s)
				exchange(t, c, d, 1000)
			})
		})
	}
}

// rebindPairs: x/net does not follow a client that moves.
var rebindPairs = []struct{ client, server stack }{{qg, fsgw}, {xn, fsgw}, {fsgw, fsgw}, {fsgw, qg}}

// rebinder calls Rebind and Cut of a proxy whenever so many bytes have passed.
type rebinder struct {
	stream
	t     *testing.T
	p     *proxy
	every int
	n     int
}

func (r *rebinder) Read(b []byte) (int, error) {
	n, err := r.stream.Read(b)
	r.n += n
	if r.n >= r.every {
		r.n = 0
		r.p.Rebind(r.t)
		r.p.Cut()
		// A client that has nothing to send is not found again, whoever serves it.
		if err == nil {
			err = write(r.stream, []byte("here"))
		}
	}
	return n, err
}

// TestRebinding changes the client's address in the middle of transfers, up
// and down, several times, with and without loss.
func TestRebinding(t *testing.T) {
	t.Parallel()
	for _, p := range rebindPairs {
		for name, f := range map[string]faults{"clean": {delay: time.Millisecond}, "lossy": {delay: time.Millisecond, loss: 0.02, reorder: 0.02, seed: 21}} {
			for _, up := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s_to_%s/%s/up=%v", p.client.name, p.server.name, name, up), func(t *testing.T) {
					t.Parallel()
					rebind(t, p.client, p.server, f, up)
				})
			}
		}
	}
}

func rebind(t *testing.T, client, server stack, f faults, up bool) {
	c, d, p := connect(t, client, server, &settings{between: &f})
	exchange(t, c, d, 1000)
	from, to := c, d
	if !up {
		from, to = d, c
	}
	ctx := testCtx(t)
	data := payload(2<<20, 8)
	all(t,
		func() error {
			return guard(ctx, from, func() error {
				s, err := from.Open(ctx)
				if err != nil {
					return err
				}
				return send(s, data)
			})
		},
		func() error {
			return guard(ctx, to, func() error {
				s, err := to.Accept(ctx)
				if err != nil {
					return err
				}
				return readAll(&rebinder{stream: s, t: t, p: p, every: 512 << 10}, data)
			})
		})
	exchange(t, c, d, 100_000)
	if ours, ok := d.(fsgwConn); ok {
		if n := ours.Stats().PathChanges; n < 2 {
			t.Errorf("the server has followed %d times", n)
		}
		if ours.RemoteAddrPort() != p.back() {
			t.Errorf("the server knows the client as %v, not %v", ours.RemoteAddrPort(), p.back())
		}
	}
}

// restart kills the server unheard and starts another in its place.
func restart(t *testing.T, server stack, ln server, p *proxy, s *settings) {
	t.Helper()
	p.black.Store(true)
	ln.Kill()
	server.listen(t, ln.Addr(), s)
	p.black.Store(false)
}

func resetSettings(key [32]byte) *settings {
	return &settings{
		fsgw:        func(c *quic.Config) { c.ResetKey, c.MaxIdleTimeout = &key, 3*time.Second },
		goTransport: func(tr *qgo.Transport) { k := qgo.StatelessResetKey(key); tr.StatelessResetKey = &k },
		goConfig:    func(c *qgo.Config) { c.MaxIdleTimeout = 3 * time.Second },
		xnet:        func(c *xquic.Config) { c.StatelessResetKey, c.MaxIdleTimeout = key, 3*time.Second },
	}
}

// TestStatelessReset restarts the server: with the same key the client learns
// that its connection is gone, with another it must not believe the reset.
func TestStatelessReset(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		for _, size := range []int{1, 5000} {
			for _, same := range []bool{true, false} {
				t.Run(fmt.Sprintf("%d_bytes/same_key=%v", size, same), func(t *testing.T) {
					t.Parallel()
					statelessReset(t, client, server, size, same)
				})
			}
		}
	})
}

func statelessReset(t *testing.T, client, server stack, size int, same bool) {
	ctx := testCtx(t)
	s := resetSettings([32]byte{1})
	ln := server.listen(t, loopback, s)
	p := newProxy(t, ln.Addr(), faults{})
	c, err := client.dial(ctx, t, p.Addr(), s)
	mustNot(t, err, "dial")
	d, err := ln.Accept(ctx)
	mustNot(t, err, "accept")
	exchange(t, c, d, 100_000)
	if !same {
		s = resetSettings([32]byte{2})
	}
	restart(t, server, ln, p, s)
	want := "idle"
	// x/net's server gives no token for its first connection ID.
	if same = same && server.name != xn.name; same {
		want = "reset"
	}
	if same && server.name == qg.name {
		size = max(size, 20) // it answers nothing of 42 bytes or less
	}
	st, err := c.Open(ctx)
	mustNot(t, err, "open")
	mustNot(t, write(st, payload(size, 1)), "write")
	start := time.Now()
	if e := mustEnd(t, c); e.other != want {
		t.Errorf("ended with %+v, want %s", e, want)
	}
	if took := time.Since(start); same && took > 2*time.Second {
		t.Errorf("the reset took %v", took)
	}
}

// TestBlackHole: a network that goes away ends the connection by idle
// timeout, one that comes back does not.
func TestBlackHole(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		s := resetSettings([32]byte{1})
		s.between = &faults{}
		c, d, p := connect(t, client, server, s)
		exchange(t, c, d, 1000)
		p.black.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		st, err := c.Open(t.Context())
		mustNot(t, err, "open")
		sent := make(chan error, 1)
		go func() { sent <- send(st, payload(100_000, 2)) }()
		if _, err := c.Ended(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("ended early: %v", err)
		}
		p.black.Store(false)
		r, err := d.Accept(testCtx(t))
		mustNot(t, err, "accept")
		mustNot(t, readAll(r, payload(100_000, 2)), "read")
		mustNot(t, <-sent, "write")
		p.black.Store(true)
		if e := mustEnd(t, ourEnd(c, d)); e.other != "idle" {
			t.Errorf("ended with %+v", e)
		}
	})
}
