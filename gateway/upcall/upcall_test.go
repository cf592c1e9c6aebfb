package upcall

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// newHelper is a helper for "files.example.com", in both roles.
func newHelper(t *testing.T, edit func(*tlshd.Config)) *tlshd.Local {
	t.Helper()
	dir := t.TempDir()
	now := time.Now()
	ca, pair, err := pki.NewCA(now, "test", time.Hour)
	if err == nil {
		err = pair.Write(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	}
	if err == nil {
		pair, err = ca.Issue(now, pki.Request{Name: "files.example.com", Server: true, DNS: []string{"files.example.com"}, Life: time.Hour})
	}
	if err == nil {
		err = pair.Write(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"))
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg := tlshd.Config{
		Certificates: []tlshd.Certificate{{Cert: filepath.Join(dir, "server.crt"), Key: filepath.Join(dir, "server.key")}},
		Client:       &tlshd.ClientConfig{CA: []string{filepath.Join(dir, "ca.crt")}},
	}
	if edit != nil {
		edit(&cfg)
	}
	l, err := tlshd.NewLocal(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func endpoint(t *testing.T, at string, cfg *quic.Config) *quic.Endpoint {
	t.Helper()
	s, err := udp.ListenOne(netip.MustParseAddrPort(at), udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	e := quic.NewEndpoint([]udp.PacketConn{s}, cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = e.Close(ctx)
	})
	return e
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func serverConfig(l *tlshd.Local, alpn string) *quic.Config {
	return &quic.Config{
		Handshaker: Handshaker(l.Client), NextProtos: []string{alpn}, EarlyData: true,
		HandshakeOptions: &Policy{Route: "r", Rules: "1", Mode: access.None},
	}
}

// echo answers every stream of every connection with what comes on it.
func echo(ctx context.Context, e *quic.Endpoint) {
	for {
		c, err := e.Accept(ctx)
		if err != nil {
			return
		}
		go func() {
			for {
				s, err := c.AcceptStream(ctx)
				if err != nil {
					return
				}
				if b, err := io.ReadAll(s); err == nil {
					_, _ = s.Write(b)
					_ = s.CloseWrite()
				}
			}
		}()
	}
}

// ask sends want on a stream and waits for it to come back.
func ask(ctx context.Context, t *testing.T, c *quic.Conn, want []byte) {
	t.Helper()
	s, err := c.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(want); err != nil {
		t.Fatal(err)
	}
	_ = s.CloseWrite()
	_ = s.SetReadDeadline(time.Now().Add(30 * time.Second))
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came back of %d, %v", len(got), len(want), err)
	}
}

// 0-RTT with both ends' TLS in a helper: accepted with each session once, and on
// file protocols never.
func TestEarlyData(t *testing.T) {
	for _, alpn := range []string{"perf", "smb", "sunrpc"} {
		t.Run(alpn, func(t *testing.T) {
			l := newHelper(t, nil)
			ctx := testContext(t)
			server := endpoint(t, "127.0.0.1:0", serverConfig(l, alpn))
			go echo(ctx, server)
			ccfg := &quic.Config{Handshaker: Handshaker(l.Client), NextProtos: []string{alpn}, ServerName: "files.example.com"}
			request := bytes.Repeat([]byte("request "), 600)
			accepted, resumed := 0, 0
			for accepted < 2 && resumed < 8 {
				// Each time from another address: tickets are bound to none.
				c, err := endpoint(t, fmt.Sprintf("127.0.0.%d:0", 2+resumed+accepted), nil).DialEarly(ctx, server.LocalAddr(), ccfg)
				if err != nil {
					t.Fatal(err)
				}
				tickets, cancel := c.Subscribe(quic.EventSessionTicket)
				ask(ctx, t, c, request)
				if err := c.Wait(ctx); err != nil {
					t.Fatal(err)
				}
				if c.TLS().Resumed {
					resumed++
				}
				if c.TLS().EarlyData {
					accepted++
				}
				select {
				case <-tickets:
				case <-time.After(100 * time.Millisecond): // it came before, or the next time
				}
				cancel()
				_ = c.CloseWithError(0, "")
			}
			if allowed := alpn == "perf"; (accepted > 0) != allowed {
				t.Errorf("0-RTT accepted %d times, resumed %d times", accepted, resumed)
			}
		})
	}
}
