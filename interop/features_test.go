package interop

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	qgo "github.com/quic-go/quic-go"
)

// Features that quic-go has and x/net/quic has not: unreliable datagrams, tokens for
// later connections, migration.

type datagramConn interface {
	SendDatagram([]byte) error
	ReceiveDatagram(context.Context) ([]byte, error)
}

var featurePairs = [][2]stack{{qg, fsgw}, {fsgw, qg}}

func TestDatagrams(t *testing.T) {
	t.Parallel()
	s := &settings{
		goConfig: func(c *qgo.Config) { c.EnableDatagrams = true },
		fsgw:     func(c *quic.Config) { c.MaxDatagramFrame = 1500 },
	}
	for _, p := range featurePairs {
		c, d, _ := connect(t, p[0], p[1], s)
		exchange(t, c, d, 1000)
		for i := range 20 {
			from, to := c, d
			if i%2 == 1 {
				from, to = d, c
			}
			want := payload(1+50*i, uint64(i))
			mustNot(t, from.(datagramConn).SendDatagram(want), "send a datagram")
			ctx, cancel := context.WithTimeout(testCtx(t), 30*time.Second)
			got, err := to.(datagramConn).ReceiveDatagram(ctx)
			cancel()
			mustNot(t, err, "receive a datagram") // loopback loses none of so few
			if !bytes.Equal(got, want) {
				t.Errorf("%s to %s: %d bytes arrived of %d", p[0].name, p[1].name, len(got), len(want))
			}
		}
	}
}

// TestTokens: the second connection needs no Retry.
func TestTokens(t *testing.T) {
	t.Parallel()
	var unverified atomic.Int32 // first packets at quic-go without a good token
	goStore, store := qgo.NewLRUTokenStore(10, 4), new(quic.TokenStore)
	s := &settings{
		goTransport: func(tr *qgo.Transport) {
			tr.VerifySourceAddress = func(net.Addr) bool { unverified.Add(1); return true }
		},
		goConfig: func(c *qgo.Config) { c.TokenStore = goStore },
		fsgw:     func(c *quic.Config) { c.Retry, c.Tokens = quic.RetryAlways, store },
	}
	retries := func(ln server) int {
		if ours, ok := ln.(fsgwServer); ok {
			return int(ours.Stats().Retries)
		}
		return int(unverified.Load())
	}
	for _, p := range featurePairs {
		ln := p[1].listen(t, loopback, s)
		first := 0
		for i := range 3 {
			ctx := testCtx(t)
			c, err := p[0].dial(ctx, t, ln.Addr(), s)
			mustNot(t, err, "dial")
			d, err := ln.Accept(ctx)
			mustNot(t, err, "accept")
			exchange(t, c, d, 10000) // NEW_TOKEN comes before the end of it
			n := retries(ln)         // one for each datagram of the ClientHello
			if i == 0 {
				first = n
			}
			if n != first || first == 0 {
				t.Errorf("%s to %s, connection %d: %d Retry packets, %d for the first", p[0].name, p[1].name, i, n, first)
			}
			c.Close(0, "")
			_ = mustEnd(t, d)
		}
	}
}

// TestMigrationByUs moves our client to another address of loopback's.
func TestMigrationByUs(t *testing.T) {
	t.Parallel()
	s := &settings{}
	for _, srv := range []stack{qg, fsgw} {
		ln := srv.listen(t, loopback, s)
		e, _ := fsgwEndpoint(t, netip.MustParseAddrPort("0.0.0.0:0"), nil)
		ctx := testCtx(t)
		ours, err := e.Dial(ctx, ln.Addr(), s.fsgwConfig(s.clientTLS()))
		mustNot(t, err, "dial")
		d, err := ln.Accept(ctx)
		mustNot(t, err, "accept")
		c := fsgwConn{ours}
		exchange(t, c, d, 1<<20)
		for _, to := range []string{"127.0.0.3", "127.0.0.1", "127.0.0.4"} {
			mustNot(t, ours.Migrate(ctx, netip.MustParseAddr(to)), "migrate at "+srv.name)
			exchange(t, c, d, 1<<20)
		}
		if srv.name == fsgw.name {
			want := netip.MustParseAddr("127.0.0.4")
			for end := time.Now().Add(20 * time.Second); d.(fsgwConn).RemoteAddrPort().Addr() != want && time.Now().Before(end); {
				exchange(t, c, d, 1000) // the path is validated beside it
			}
			if got := d.(fsgwConn).RemoteAddrPort().Addr(); got != want {
				t.Errorf("the server sends to %v; %+v", got, d.(fsgwConn).Stats())
			}
		}
	}
}

// TestMigrationByQuicGo moves quic-go's client to another socket.
func TestMigrationByQuicGo(t *testing.T) {
	t.Parallel()
	s := &settings{}
	c, d, _ := connect(t, qg, fsgw, s)
	exchange(t, c, d, 1<<20)
	ctx := testCtx(t)
	for range 2 {
		tr, u, _ := s.goParts(t, loopback)
		path, err := c.(goConn).AddPath(tr)
		mustNot(t, err, "add a path")
		mustNot(t, path.Probe(ctx), "probe")
		mustNot(t, path.Switch(), "switch")
		exchange(t, c, d, 1<<20)
		if got := d.(fsgwConn).RemoteAddrPort(); got != u.LocalAddr().(*net.UDPAddr).AddrPort() {
			t.Errorf("our server sends to %v, not to %v", got, u.LocalAddr())
		}
	}
}

// TestMigrationByNgtcp2 moves ngtcp2's client to another address.
func TestMigrationByNgtcp2(t *testing.T) {
	t.Parallel()
	st := newStage(t, wants{migrate: netip.MustParseAddr("127.0.0.2")}, one(3*mB))
	st.play(ngtcp2, ourPeer, slow(), limit, nil)
	st.want(st.frames(true, "path_response") > 0, "our server did not answer the client's probe")
	st.want(st.frames(true, "path_challenge") > 0 && st.frames(false, "path_response") > 0, "our server did not validate the client's path")
	for _, c := range st.connections() {
		st.want(c.RemoteAddrPort() == st.proxy.back(), "our server sends to %v, not where the client went", c.RemoteAddrPort())
	}
}
