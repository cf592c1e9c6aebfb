package interop

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	qgo "github.com/quic-go/quic-go"
	xquic "golang.org/x/net/quic"
)

func TestRetry(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		var verified atomic.Bool
		s := &settings{
			fsgw:        func(c *quic.Config) { c.Retry = quic.RetryAlways },
			goTransport: func(tr *qgo.Transport) { tr.VerifySourceAddress = func(net.Addr) bool { return true } },
			goConfig: func(c *qgo.Config) {
				c.GetConfigForClient = func(i *qgo.ClientInfo) (*qgo.Config, error) { verified.Store(i.AddrVerified); return nil, nil }
			},
			xnet:    func(c *xquic.Config) { c.RequireAddressValidation = true },
			between: &faults{},
		}
		c, d, p := connect(t, client, server, s)
		exchange(t, c, d, 1<<20)
		if server.name == qg.name && !verified.Load() {
			t.Error("quic-go did not verify the address")
		}
		if p.retries.Load() == 0 {
			t.Error("no Retry packet was seen")
		}
	})
}

// TestRetryLost: Retry packets, and what a client sends after them, may get lost.
func TestRetryLost(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		s := &settings{
			fsgw:        func(c *quic.Config) { c.Retry = quic.RetryAlways },
			goTransport: func(tr *qgo.Transport) { tr.VerifySourceAddress = func(net.Addr) bool { return true } },
			xnet:        func(c *xquic.Config) { c.RequireAddressValidation = true },
			between:     &faults{dropToClient: 2},
		}
		c, d, _ := connect(t, client, server, s)
		exchange(t, c, d, 1000)
	})
}

// TestVersion2 runs version 2 from the first packet on, in both roles. quic-go has
// no compatible version negotiation: it keeps to what a client begins with.
func TestVersion2(t *testing.T) {
	t.Parallel()
	s := &settings{
		goConfig:    func(c *qgo.Config) { c.Versions = []qgo.Version{qgo.Version2} },
		fsgw:        func(c *quic.Config) { c.Versions = []quic.Version{quic.Version2, quic.Version1} },
		goTransport: func(tr *qgo.Transport) { tr.VerifySourceAddress = func(net.Addr) bool { return true } },
	}
	for _, p := range [][2]stack{{qg, fsgw}, {fsgw, qg}} {
		c, d, _ := connect(t, p[0], p[1], s)
		exchange(t, c, d, 1<<20)
		for _, x := range []conn{c, d} {
			if ours, ok := x.(fsgwConn); ok && ours.Version() != quic.Version2 {
				t.Errorf("%s to %s: %v", p[0].name, p[1].name, ours.Version())
			}
		}
	}
}

func TestVersionNegotiationByUs(t *testing.T) {
	t.Parallel()
	ln := fsgwListen(t, loopback, &settings{fsgw: func(c *quic.Config) { c.Versions = []quic.Version{quic.Version1} }})
	v2 := &settings{goConfig: func(c *qgo.Config) { c.Versions = []qgo.Version{qgo.Version2} }}
	err := dialFails(t, qg, ln.Addr(), v2)
	if e := goEnded(err); e.other != "version" {
		t.Errorf("a client that speaks version 2 only: %v", err)
	}
	both := &settings{goConfig: func(c *qgo.Config) { c.Versions = []qgo.Version{qgo.Version2, qgo.Version1} }}
	c, err := goDial(testCtx(t), t, ln.Addr(), both)
	mustNot(t, err, "a client that prefers version 2")
	d, err := ln.Accept(testCtx(t))
	mustNot(t, err, "accept")
	exchange(t, c, d, 1000)
}

// TestVersionNegotiationInvariants offers our server a version of which only
// RFC 8999 is known, with connection IDs longer than version 1 allows.
func TestVersionNegotiationInvariants(t *testing.T) {
	t.Parallel()
	ln := fsgwListen(t, loopback, &settings{})
	u, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(ln.Addr()))
	mustNot(t, err, "dial")
	defer u.Close()
	dst, src := payload(40, 5), payload(255, 6)
	b := append([]byte{0xc3, 0x1a, 0x2a, 0x3a, 0x4a, byte(len(dst))}, dst...)
	b = append(append(b, byte(len(src))), src...)
	b = append(b, make([]byte, 1200-len(b))...)
	_, err = u.Write(b)
	mustNot(t, err, "write")
	_ = u.SetReadDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, 2000)
	n, err := u.Read(got)
	mustNot(t, err, "read")
	got = got[:n]
	want := append(append([]byte{0, 0, 0, 0, byte(len(src))}, src...), byte(len(dst)))
	want = append(want, dst...)
	if len(got) < 1+len(want)+4 || got[0]&0x80 == 0 || string(got[1:1+len(want)]) != string(want) {
		t.Fatalf("not the Version Negotiation packet wanted: %x", got)
	}
	found := false
	for v := got[1+len(want):]; len(v) >= 4; v = v[4:] {
		found = found || binary.BigEndian.Uint32(v) == 1
	}
	if !found {
		t.Error("version 1 is not offered")
	}
}

func TestVersionNegotiationByQuicGo(t *testing.T) {
	t.Parallel()
	ln := goListen(t, loopback, &settings{goConfig: func(c *qgo.Config) { c.Versions = []qgo.Version{qgo.Version2} }})
	// A client that speaks version 2, too, starts over in it. quic-go does not say what
	// it speaks, so whether somebody forged the packet cannot be known (RFC 9368,
	// Section 4).
	_, err := fsgwDial(testCtx(t), t, ln.Addr(), &settings{})
	var te *quic.TransportError
	if !errors.As(err, &te) || te.Code != quic.VersionNegotiationError || te.Remote {
		t.Errorf("a client that prefers version 1: %v", err)
	}
	_, err = fsgwDial(testCtx(t), t, ln.Addr(), &settings{fsgw: func(c *quic.Config) { c.Versions = []quic.Version{quic.Version1} }})
	var ve *quic.VersionError
	if !errors.As(err, &ve) {
		t.Fatalf("dial: %v", err)
	}
	for _, v := range ve.Versions {
		if v == uint32(qgo.Version2) {
			return
		}
	}
	t.Errorf("offered: %#x", ve.Versions)
}

// TestLargeClientHello spreads the ClientHello over several Initial packets.
func TestLargeClientHello(t *testing.T) {
	for _, size := range []int{3000, 9000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			onPairs(t, func(t *testing.T, client, server stack) {
				for _, f := range []faults{{}, {delay: time.Millisecond, reorder: 0.5, duplicate: 0.3, seed: 1}} {
					s := &settings{client: clientTLS(false), between: &f}
					for n := 0; n < size; n += 101 {
						s.client.NextProtos = append(s.client.NextProtos, strings.Repeat("p", 90)+fmt.Sprintf("%010d", n))
					}
					c, d, _ := connect(t, client, server, s)
					exchange(t, c, d, 1000)
				}
			})
		})
	}
}

// sessions is a session cache that tells when a ticket has arrived.
type sessions struct {
	tls.ClientSessionCache
	got chan struct{}
}

func (s *sessions) Put(key string, cs *tls.ClientSessionState) {
	s.ClientSessionCache.Put(key, cs)
	if cs != nil {
		select {
		case s.got <- struct{}{}:
		default:
		}
	}
}

func TestResumption(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		if server.name == xn.name {
			return // its server issues no tickets
		}
		for _, certs := range []bool{false, true} {
			cache := &sessions{tls.NewLRUClientSessionCache(10), make(chan struct{}, 1)}
			s := &settings{server: serverTLS(certs), client: clientTLS(certs)}
			s.client.ClientSessionCache = cache
			ln := server.listen(t, loopback, s)
			for i := range 3 {
				ctx := testCtx(t)
				c, err := client.dial(ctx, t, ln.Addr(), s)
				mustNot(t, err, "dial")
				d, err := ln.Accept(ctx)
				mustNot(t, err, "accept")
				exchange(t, c, d, 100)
				if i > 0 && (!c.TLS().resumed || !d.TLS().resumed) {
					t.Errorf("connection %d: resumed: client %v, server %v", i, c.TLS().resumed, d.TLS().resumed)
				}
				if certs && d.TLS().leaf != string(pki().client.Certificate[0]) {
					t.Errorf("connection %d: the client's certificate is not known", i)
				}
				select {
				case <-cache.got:
				case <-ctx.Done():
					t.Fatal("no session ticket came")
				}
				c.Close(0, "")
			}
		}
	})
}

// TestHandshakeFlood opens many connections at once.
func TestHandshakeFlood(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		ctx := testCtx(t)
		s := &settings{}
		ln := server.listen(t, loopback, s)
		const n = 20
		var wg sync.WaitGroup
		errc := make(chan error, 2*n)
		for i := range n {
			wg.Add(2)
			go func() {
				defer wg.Done()
				c, err := client.dial(ctx, t, ln.Addr(), s)
				if err == nil {
					err = echoOne(ctx, c, payload(1000, uint64(i)))
				}
				errc <- err
			}()
			go func() {
				defer wg.Done()
				d, err := ln.Accept(ctx)
				if err == nil {
					err = echo(ctx, d, 1)
				}
				errc <- err
			}()
		}
		wg.Wait()
		for range 2 * n {
			mustNot(t, <-errc, "connection")
		}
	})
}

// keyUpdates waits until end has counted n key updates, exchanging data meanwhile.
func keyUpdates(t *testing.T, ctx context.Context, c, d conn, ours fsgwConn, n uint64) {
	t.Helper()
	for ours.Stats().KeyUpdates < n {
		mustNot(t, ctx.Err(), fmt.Sprintf("wait for %d key updates, have %d", n, ours.Stats().KeyUpdates))
		exchange(t, c, d, 100_000)
	}
}

func ourEnd(c, d conn) fsgwConn {
	if f, ok := c.(fsgwConn); ok {
		return f
	}
	return d.(fsgwConn)
}

// TestKeyUpdateByPeer: quic-go and x/net both update after about 100 packets.
func TestKeyUpdateByPeer(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		for _, f := range []*faults{nil, {delay: 2 * time.Millisecond, reorder: 0.1, loss: 0.02, seed: 3}} {
			c, d, _ := connect(t, client, server, &settings{between: f})
			keyUpdates(t, testCtx(t), c, d, ourEnd(c, d), 1)
			exchange(t, c, d, 1<<20)
		}
	})
}

// TestKeyUpdateByUs updates as often as RFC 9001 lets us, in the middle of transfers.
func TestKeyUpdateByUs(t *testing.T) {
	onPairs(t, func(t *testing.T, client, server stack) {
		for _, f := range []*faults{nil, {delay: 2 * time.Millisecond, reorder: 0.1, loss: 0.02, seed: 4}} {
			c, d, _ := connect(t, client, server, &settings{between: f})
			ours := ourEnd(c, d)
			ctx := testCtx(t)
			for done := 0; done < 8; {
				mustNot(t, ctx.Err(), fmt.Sprintf("after %d key updates", done))
				if ours.UpdateKeys() == nil {
					done++
				}
				exchange(t, c, d, 50_000)
			}
			exchange(t, c, d, 1<<20)
		}
	})
}

// TestGarbage: what is no QUIC packet must neither be answered nor disturb anybody.
func TestGarbage(t *testing.T) {
	t.Parallel()
	ln := fsgwListen(t, loopback, &settings{})
	u, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(ln.Addr()))
	mustNot(t, err, "dial")
	defer u.Close()
	for size := range 1500 {
		b := make([]byte, size)
		_, _ = rand.Read(b)
		if size > 5 && size%2 == 0 {
			b[0] |= 0xc0 // long header, version 1
			copy(b[1:], []byte{0, 0, 0, 1})
		}
		if size == 0 {
			continue
		}
		_, _ = u.Write(b)
	}
	c, err := goDial(testCtx(t), t, ln.Addr(), &settings{})
	mustNot(t, err, "dial")
	d, err := ln.Accept(testCtx(t))
	mustNot(t, err, "accept")
	exchange(t, c, d, 100_000)
}
