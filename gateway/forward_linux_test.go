package gateway_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// otherProcess is a QUIC server of its own, as another process would be: it has
// nothing of the gateway's but the clients it is given. It sends back what it
// gets, after its name.
func otherProcess(t *testing.T, g *inProcess, alpn, name string, retry quic.RetryMode) netip.AddrPort {
	t.Helper()
	group, err := udp.ListenGroup(netip.MustParseAddrPort("127.0.0.1:0"), 1, udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	at := group.Sockets()[0].LocalAddr()
	server := &tls.Config{Certificates: g.server.Certificates}
	e := quic.NewEndpoint([]udp.PacketConn{group.Sockets()[0]}, &quic.Config{Handshaker: quic.TLS(server), NextProtos: []string{alpn}, Retry: retry}, quic.WithLayout(group.Layout()))
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := e.Accept(ctx)
			if err != nil {
				return
			}
			work.Go(func() {
				s, err := c.AcceptStream(ctx)
				if err != nil {
					return
				}
				_, _ = io.WriteString(s, name)
				_, _ = io.Copy(s, s)
				_ = s.CloseWrite()
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		cctx, ccancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer ccancel()
		if err := e.Close(cctx); err != nil {
			t.Error(err)
		}
		work.Wait()
	})
	return at
}

// echoed sends data on a new stream of c and wants the name of the process and the data back.
func echoed(ctx context.Context, c *quic.Conn, name string, size int) error {
	s, err := c.OpenStream(ctx)
	if err != nil {
		return err
	}
	if d, ok := ctx.Deadline(); ok {
		_ = s.SetDeadline(d)
	}
	data := make([]byte, size)
	_, _ = rand.Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(data)
		sent <- errors.Join(err, s.CloseWrite())
	}()
	got, err := io.ReadAll(s)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(got, append([]byte(name), data...)) {
		return fmt.Errorf("%d bytes came back, and not from %s as they were sent", len(got), name)
	}
	return nil
}

// threeProcesses is a gateway for sunrpc, with h3 and smb given to two others.
func threeProcesses(t *testing.T, retry quic.RetryMode) *inProcess {
	t.Helper()
	server := ganeshatest.Start(t)
	_, mount, _ := strings.Cut(server.Mount, ":")
	base := newInProcessConfig(t, inProcessConfig{backends: `"` + server.NFS + `"`, mount: mount}) // for its certificates
	if err := base.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	web, smb := otherProcess(t, base, "h3", "web", retry), otherProcess(t, base, "smb", "samba", retry)
	g := base.again(t, inProcessConfig{backends: `"` + server.NFS + `"`, mount: mount, nfs: fmt.Sprintf(
		"  - {name: web, match: {alpn: h3}, forward: {udp: %q}}\n  - {name: samba, match: {alpn: smb, server_name: [files.test]}, forward: {udp: %q}}\n", web, smb)})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return g
}

// clientEndpoint is one UDP socket of a client.
func clientEndpoint(t *testing.T) *quic.Endpoint {
	t.Helper()
	group, err := udp.ListenGroup(netip.MustParseAddrPort("127.0.0.1:0"), 1, udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	e := quic.NewEndpoint([]udp.PacketConn{group.Sockets()[0]}, nil, quic.WithLayout(group.Layout()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = e.Close(ctx)
	})
	return e
}

func (g *inProcess) dial(ctx context.Context, e *quic.Endpoint, at netip.AddrPort, alpn ...string) (*quic.Conn, error) {
	return e.Dial(ctx, at, &quic.Config{Handshaker: quic.TLS(g.client), ServerName: testName, NextProtos: alpn})
}

// Three processes on one port, by protocol: each client reaches its own, also
// where the other process validates addresses with Retry, and two protocols
// from one socket do not mix.
func TestForward(t *testing.T) {
	for _, retry := range []quic.RetryMode{quic.RetryNever, quic.RetryAlways} {
		g := threeProcesses(t, retry)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for alpn, name := range map[string]string{"h3": "web", "smb": "samba"} {
			for range 4 {
				wg.Go(func() {
					e := clientEndpoint(t)
					for range 2 { // the second connection comes from the same address
						c, err := g.dial(ctx, e, g.addr, alpn)
						if err != nil {
							t.Errorf("%s: %v", alpn, err)
							return
						}
						if err := echoed(ctx, c, name, 1<<20); err != nil {
							t.Errorf("%s: %v", alpn, err)
						}
						_ = c.CloseWithError(0, "")
					}
				})
			}
		}
		wg.Go(func() {
			if err := g.copyBothWays(ctx, "f", 1<<20); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()

		e := clientEndpoint(t)
		web, err := g.dial(ctx, e, g.addr, "h3")
		if err != nil {
			t.Fatal(err)
		}
		rpc, err := g.dial(ctx, e, g.addr, "sunrpc")
		if err != nil {
			t.Fatal(err)
		}
		s, err := rpc.OpenStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			null(t, s)
		}
		if err := echoed(ctx, web, "web", 100<<10); err != nil {
			t.Error(err)
		}
		null(t, s)
		// What no route takes is refused as ever.
		var te *quic.TransportError
		if _, err := g.dial(ctx, e, g.addr, "nothing"); !errors.As(err, &te) || te.Code != quic.CryptoErrorBase+120 {
			t.Errorf("an unknown protocol: %v", err)
		}
	}
}

// A ClientHello in several datagrams that come in the wrong order, or twice, or
// one of them much later, is routed all the same.
func TestForwardReordered(t *testing.T) {
	g := threeProcesses(t, quic.RetryNever)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for alpn, want := range map[string]string{"h3": "web", "smb": "samba", "sunrpc": ""} {
		at := reorder(t, g.addr)
		c, err := g.dial(ctx, clientEndpoint(t), at, "filler-"+strings.Repeat("x", 200), alpn)
		if err != nil {
			t.Fatalf("%s: %v", alpn, err)
		}
		if want != "" {
			if err := echoed(ctx, c, want, 100<<10); err != nil {
				t.Errorf("%s: %v", alpn, err)
			}
			continue
		}
		s, err := c.OpenStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		null(t, s)
	}
}

// reorder passes datagrams between a client and to. The client's first is
// held until its second has gone twice.
func reorder(t *testing.T, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	front, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	var peer netip.AddrPort
	var mu sync.Mutex
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65536)
		var held []byte
		for n := 0; ; n++ {
			k, from, err := front.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			mu.Lock()
			peer = from
			mu.Unlock()
			switch n {
			case 0:
				held = bytes.Clone(buf[:k])
			case 1:
				_, _ = back.Write(buf[:k])
				_, _ = back.Write(buf[:k])
				_, _ = back.Write(held)
			default:
				_, _ = back.Write(buf[:k])
			}
		}
	})
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			k, err := back.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			mu.Lock()
			to := peer
			mu.Unlock()
			if err == nil {
				_, _ = front.WriteToUDPAddrPort(buf[:k], to)
			}
		}
	})
	t.Cleanup(func() {
		front.Close()
		back.Close()
		wg.Wait()
	})
	return front.LocalAddr().(*net.UDPAddr).AddrPort()
}

// A route that is added to a gateway without any needs a restart, and says so.
func TestForwardReload(t *testing.T) {
	g := newInProcess(t, "127.0.0.1:9", "9")
	defer g.Close(context.Background())
	c := inProcessConfig{backends: `"127.0.0.1:9"`, mount: "9", nfs: "  - {name: web, match: {alpn: h3}, forward: {udp: '127.0.0.1:8443'}}\n"}
	if err := g.Reload(g.config(t, c)); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("reload: %v", err)
	}
}
