package interop

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	qgo "github.com/quic-go/quic-go"
	xquic "golang.org/x/net/quic"
)

func mustEnd(t *testing.T, c conn) ended {
	t.Helper()
	e, err := c.Ended(testCtx(t))
	mustNot(t, err, "wait for the connection's end")
	return e
}

func TestCloseApplication(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		for _, byServer := range []bool{false, true} {
			c, d, _ := connect(t, client, server, &settings{})
			exchange(t, c, d, 1)
			if byServer {
				c, d = d, c
			}
			reason := "done “here” " + strings.Repeat("r", 150)
			c.Close(0x1337, reason)
			if e := mustEnd(t, d); !e.app || !e.remote || e.code != 0x1337 || e.reason != reason {
				t.Errorf("by server %v: peer saw %+v", byServer, e)
			}
			if e := mustEnd(t, c); e.remote && e.code != 0x1337 {
				t.Errorf("by server %v: closer saw %+v", byServer, e)
			}
		}
	})
}

func TestCloseTransportByUs(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		c, d, _ := connect(t, client, server, &settings{})
		ours, ok := c.(fsgwConn)
		theirs := d
		if !ok {
			ours, theirs = d.(fsgwConn), c
		}
		exchange(t, c, d, 1)
		ours.CloseTransport(quic.InternalError, "disk on fire")
		e := mustEnd(t, theirs)
		if _, x := theirs.(*xnetConn); x {
			if !e.remote || !strings.Contains(e.reason, "INTERNAL_ERROR") || !strings.Contains(e.reason, "disk on fire") {
				t.Errorf("x/net saw %v", e.err)
			}
		} else if e.app || !e.remote || e.code != uint64(quic.InternalError) || e.reason != "disk on fire" {
			t.Errorf("quic-go saw %+v", e)
		}
	})
}

func TestCloseTransportByXnet(t *testing.T) {
	t.Parallel()
	for _, p := range pairs[2:] {
		for err, want := range map[error]ended{nil: {}, errors.New("gone fishing"): {code: uint64(quic.InternalError)}} {
			c, d, _ := connect(t, p.client, p.server, &settings{})
			exchange(t, c, d, 1)
			x, ok := c.(*xnetConn)
			ours := d
			if !ok {
				x, ours = d.(*xnetConn), c
			}
			x.Abort(err)
			if e := mustEnd(t, ours); e.app || !e.remote || e.code != want.code || e.reason != want.reason {
				t.Errorf("%s to %s: %+v, want %+v", p.client.name, p.server.name, e, want)
			}
		}
	}
}

// dialFails expects a handshake to fail and returns how.
func dialFails(t *testing.T, client stack, to netip.AddrPort, s *settings) error {
	t.Helper()
	c, err := client.dial(testCtx(t), t, to, s)
	if err == nil {
		// The client's part of the handshake may be over before the server refuses.
		e := mustEnd(t, c)
		if err = e.err; err == nil {
			err = errors.New("closed with NO_ERROR")
		}
	}
	return err
}

// wantTransport checks for a peer's transport error code.
func wantTransport(t *testing.T, client stack, err error, code uint64) {
	t.Helper()
	var e ended
	switch client.name {
	case fsgw.name:
		e = fsgwEnded(err)
	case qg.name:
		e = goEnded(err)
	default:
		name := quic.TransportErrorCode(code).String()
		if code >= 0x100 {
			name = fmt.Sprintf("CRYPTO_ERROR(%d)", code-0x100)
		}
		if !strings.Contains(err.Error(), name) {
			t.Errorf("client saw %v, want %s", err, name)
		}
		return
	}
	if e.app || !e.remote || e.code != code {
		t.Errorf("client saw %v (%+v), want code %#x", err, e, code)
	}
}

func TestNoCommonALPN(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		s := &settings{client: clientTLS(false)}
		s.client.NextProtos = []string{"other"}
		wantTransport(t, client, dialFails(t, client, server.listen(t, loopback, s).Addr(), s), 0x178)
	})
}

func TestClientDistrustsServer(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		s := &settings{client: clientTLS(false)}
		s.client.RootCAs = x509.NewCertPool()
		err := dialFails(t, client, server.listen(t, loopback, s).Addr(), s)
		var unknown x509.UnknownAuthorityError
		if !errors.As(err, &unknown) && !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("client saw %v", err)
		}
	})
}

func TestClientCertificate(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		s := &settings{server: serverTLS(true), client: clientTLS(true)}
		c, d, _ := connect(t, client, server, s)
		if f := d.TLS(); f.leaf != string(pki().client.Certificate[0]) {
			t.Error("the server saw another certificate than the client's")
		}
		exchange(t, c, d, 1<<20)
	})
}

func TestClientCertificateMissing(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		s := &settings{server: serverTLS(true)}
		wantTransport(t, client, dialFails(t, client, server.listen(t, loopback, s).Addr(), s), 0x174)
	})
}

func TestRefusedByUs(t *testing.T) {
	t.Parallel()
	for _, client := range []stack{qg, xn, fsgw} {
		for _, refusal := range []struct {
			err  error
			code uint64
		}{
			{&quic.TransportError{Code: quic.ConnectionRefused, Reason: "full"}, uint64(quic.ConnectionRefused)},
			{&quic.AlertError{Alert: quic.AlertUnrecognizedName}, 0x170},
			{&quic.AlertError{Alert: quic.AlertAccessDenied, Reason: "no"}, 0x131},
		} {
			s := &settings{fsgw: func(c *quic.Config) {
				c.GetConfigForClient = func(*quic.ClientHelloInfo) (*quic.Config, error) { return nil, refusal.err }
			}}
			ln := fsgwListen(t, loopback, s)
			wantTransport(t, client, dialFails(t, client, ln.Addr(), &settings{}), refusal.code)
		}
	}
}

func TestRefusedByQuicGo(t *testing.T) {
	t.Parallel()
	s := &settings{goConfig: func(c *qgo.Config) {
		c.GetConfigForClient = func(*qgo.ClientInfo) (*qgo.Config, error) { return nil, errors.New("no") }
	}}
	err := dialFails(t, fsgw, goListen(t, loopback, s).Addr(), &settings{})
	wantTransport(t, fsgw, err, uint64(quic.ConnectionRefused))
}

// TestRefusedAfterTLS closes a connection that ManualAdmit holds.
func TestRefusedAfterTLS(t *testing.T) {
	t.Parallel()
	for _, client := range []stack{qg, xn, fsgw} {
		ln := fsgwListen(t, loopback, &settings{fsgw: func(c *quic.Config) { c.ManualAdmit = true }}).(fsgwServer)
		ctx := testCtx(t)
		refused := make(chan error, 1)
		go func() {
			c, err := ln.Endpoint.Accept(ctx)
			if err == nil {
				c.CloseWithAlert(quic.AlertAccessDenied, "not you")
			}
			refused <- err
		}()
		err := dialFails(t, client, ln.Addr(), &settings{})
		mustNot(t, <-refused, "accept")
		wantTransport(t, client, err, 0x131)
	}
}

// TestAdmitLate lets a client in well after its handshake was complete.
func TestAdmitLate(t *testing.T) {
	t.Parallel()
	for _, client := range []stack{qg, xn, fsgw} {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			ln := fsgwListen(t, loopback, &settings{fsgw: func(c *quic.Config) { c.ManualAdmit = true }}).(fsgwServer)
			ctx := testCtx(t)
			c, err := client.dial(ctx, t, ln.Addr(), &settings{})
			mustNot(t, err, "dial")
			d, err := ln.Endpoint.Accept(ctx)
			mustNot(t, err, "accept")
			s, err := c.Open(ctx)
			mustNot(t, err, "open")
			mustNot(t, send(s, payload(50_000, 9)), "send")
			select { // nothing may reach the application meanwhile, however long it takes
			case <-d.Done():
				t.Fatalf("closed while waiting to be admitted: %v", d.Err())
			case <-time.After(400 * time.Millisecond):
			}
			early, cancel := context.WithCancel(ctx)
			cancel()
			if _, err := d.AcceptStream(early); err == nil {
				t.Fatal("a stream was handed out before Admit")
			}
			d.Admit()
			r, err := d.AcceptStream(ctx)
			mustNot(t, err, "accept stream")
			mustNot(t, readAll(fsgwStream{r}, payload(50_000, 9)), "read")
			exchange(t, c, fsgwConn{d}, 100_000)
		})
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	u := listenUDP(t, loopback) // silent, but bound
	t.Cleanup(func() { _ = u.Close() })
	to := u.LocalAddr().String()
	s := &settings{fsgw: func(c *quic.Config) { c.HandshakeTimeout = 300 * time.Millisecond }}
	_, err := fsgwDial(testCtx(t), t, netip.MustParseAddrPort(to), s)
	var he *quic.HandshakeTimeoutError
	if !errors.As(err, &he) {
		t.Fatalf("dial: %v", err)
	}
}

func TestIdleTimeout(t *testing.T) {
	const short = 400 * time.Millisecond
	oursShort := &settings{fsgw: func(c *quic.Config) { c.MaxIdleTimeout = short }}
	theirsShort := &settings{goConfig: func(c *qgo.Config) { c.MaxIdleTimeout = short }, xnet: func(c *xquic.Config) { c.MaxIdleTimeout = short }}
	onPairs(t, func(t *testing.T, client, server stack) {
		for name, s := range map[string]*settings{"ours": oursShort, "theirs": theirsShort} {
			c, d, _ := connect(t, client, server, s)
			exchange(t, c, d, 1000)
			ours, other := ourEnd(c, d), c
			if conn(ours) == c {
				other = d
			}
			if _, x := other.(*xnetConn); x && name == "theirs" {
				// x/net does not advertise its timeout: only itself can be held to it.
				if e := mustEnd(t, other); e.other != "idle" {
					t.Errorf("x/net ended with %+v", e)
				}
				continue
			}
			start := time.Now()
			if e := mustEnd(t, ours); e.other != "idle" {
				t.Errorf("%s is short: we ended with %+v", name, e)
			}
			if took := time.Since(start); took < short/2 || took > 15*time.Second {
				t.Errorf("%s is short: idle timeout after %v", name, took)
			}
			if name == "theirs" { // quic-go takes no advice below 5 s
				if e := mustEnd(t, other); e.other != "idle" {
					t.Errorf("%s is short: the peer ended with %+v", name, e)
				}
			}
		}
	})
}

func TestKeepAlive(t *testing.T) {
	const idle, keep = 500 * time.Millisecond, 100 * time.Millisecond
	ours := &settings{fsgw: func(c *quic.Config) { c.MaxIdleTimeout, c.KeepAlive = idle, keep }}
	theirs := &settings{
		fsgw:     func(c *quic.Config) { c.MaxIdleTimeout = idle },
		goConfig: func(c *qgo.Config) { c.KeepAlivePeriod = keep },
		xnet:     func(c *xquic.Config) { c.KeepAlivePeriod = keep },
	}
	onPairs(t, func(t *testing.T, client, server stack) {
		for name, s := range map[string]*settings{"ours": ours, "theirs": theirs} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c, d, _ := connect(t, client, server, s)
				exchange(t, c, d, 1)
				ctx, cancel := context.WithTimeout(t.Context(), 4*idle)
				defer cancel()
				if e, err := c.Ended(ctx); err == nil {
					t.Fatalf("ended in spite of keepalive: %+v", e)
				}
				exchange(t, c, d, 1000)
			})
		}
	})
}
