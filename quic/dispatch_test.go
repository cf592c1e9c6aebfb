package quic

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// TestAddressFamilies: IPv4, IPv6, and IPv4 at a socket of IPv6, however the address
// is written.
func TestAddressFamilies(t *testing.T) {
	listen := func(addr string, cfg *Config) *Endpoint {
		t.Helper()
		s, err := udp.ListenOne(netip.MustParseAddrPort(addr), udp.Config{})
		if err != nil {
			t.Fatal(err)
		}
		e := NewEndpoint([]udp.PacketConn{s}, cfg)
		t.Cleanup(func() { _ = e.Close(testContext(t)) })
		return e
	}
	for _, x := range []struct{ server, client, dial, seen string }{
		{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1", "127.0.0.1"},
		{"127.0.0.1:0", "127.0.0.1:0", "::ffff:127.0.0.1", "127.0.0.1"},
		{"[::1]:0", "[::1]:0", "::1", "::1"},
		{"[::]:0", "127.0.0.1:0", "127.0.0.1", "127.0.0.1"},
		{"[::]:0", "[::]:0", "::ffff:127.0.0.1", "127.0.0.1"},
		{"[::]:0", "[::]:0", "::1", "::1"},
	} {
		server, client := listen(x.server, serverConfig()), listen(x.client, nil)
		c, err := client.Dial(testContext(t), netip.AddrPortFrom(netip.MustParseAddr(x.dial), server.LocalAddr().Port()), clientConfig())
		if err != nil {
			t.Errorf("%s from %s to %s: %v", x.server, x.client, x.dial, err)
			continue
		}
		s, err := server.Accept(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.RemoteAddrPort().Addr().String(); got != x.seen {
			t.Errorf("%s from %s to %s: the server sees %s", x.server, x.client, x.dial, got)
		}
		echoOnce(t, c, s)
		_ = c.CloseWithError(0, "")
	}
}

// TestDispatchByALPN: one listener, three protocols, each with a configuration of its own.
func TestDispatchByALPN(t *testing.T) {
	protos := []string{"smb", "sunrpc", "perf"}
	cfg := serverConfig()
	cfg.GetConfigForClient = func(h *ClientHelloInfo) (*Config, error) {
		one := serverConfig()
		one.NextProtos, one.Tag = h.ALPN[:1], h.ALPN[0]
		return one, nil
	}
	server := newLoopback(t, cfg)
	for i, p := range protos {
		ccfg := clientConfig()
		ccfg.NextProtos = []string{p, protos[(i+1)%len(protos)]}
		c, err := newLoopback(t, nil).Dial(testContext(t), server.LocalAddr(), ccfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := server.Accept(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if c.TLS().ALPN != p || s.TLS().ALPN != p || s.Config().Tag != p {
			t.Errorf("%s: the client has %s, the server %s, of the configuration of %v", p, c.TLS().ALPN, s.TLS().ALPN, s.Config().Tag)
		}
	}
}

// TestSlowStreamStallsNoOther: a stream that nobody reads is full, and the others go on.
func TestSlowStreamStallsNoOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sp := newSimPair(t, 1, simnet.Params{Delay: 5 * time.Millisecond}, serverConfig())
		c, s := sp.dial(clientConfig())
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		slow, err := c.OpenUniStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = slow.SetWriteDeadline(time.Now().Add(10 * time.Second))
		n, err := slow.ReadFrom(&zeros{n: 64 << 20})
		if err == nil {
			t.Fatalf("%d bytes found room that nobody reads", n)
		}
		unread, err := s.AcceptUniStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		other, err := c.OpenUniStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = other.Write(pattern(0, 8<<20))
			_ = other.CloseWrite()
		}()
		in, err := s.AcceptUniStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = in.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, err := io.Copy(io.Discard, in); n != 8<<20 || err != nil {
			t.Errorf("%d bytes came beside a stream that nobody reads, %v", n, err)
		}
		unread.CancelRead(1)
	})
}
