package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
	"github.com/quic-fsgw/quic-fsgw/internal/tcpio"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// quicStream opens a stream over loopback to a server that runs serve on it.
func quicStream(tb testing.TB, serve func(*quic.Stream)) *quic.Stream {
	tb.Helper()
	cert, err := perf.Certificate()
	check(tb, err)
	endpoint := func(cfg *quic.Config) (*quic.Endpoint, netip.AddrPort) {
		s, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
		check(tb, err)
		e := quic.NewEndpoint([]udp.PacketConn{s}, cfg)
		tb.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			_ = e.Close(ctx)
		})
		return e, e.LocalAddr()
	}
	server, addr := endpoint(&quic.Config{Handshaker: quic.TLS(&tls.Config{Certificates: []tls.Certificate{cert}}), NextProtos: []string{"smb"}, MaxUDPPayload: 1400})
	go func() {
		c, err := server.Accept(tb.Context())
		if err != nil {
			return
		}
		if s, err := c.AcceptStream(tb.Context()); err == nil {
			serve(s)
		}
	}()
	client, _ := endpoint(nil)
	c, err := client.Dial(tb.Context(), addr, &quic.Config{
		Handshaker: quic.TLS(&tls.Config{InsecureSkipVerify: true}), ServerName: "localhost", NextProtos: []string{"smb"}, MaxUDPPayload: 1400,
	})
	check(tb, err)
	s, err := c.OpenStream(tb.Context())
	check(tb, err)
	return s
}

// forwarded is the local end of a TCP connection that is spliced to s.
func forwarded(tb testing.TB, s *quic.Stream) (local *net.TCPConn, done <-chan error) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(tb, err)
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	check(tb, err)
	b, err := l.Accept()
	check(tb, err)
	ended := make(chan error, 1)
	go func() {
		_, _, err := splice(tb.Context(), tcpio.Wrap(b), s)
		b.Close()
		ended <- err
	}()
	tb.Cleanup(func() { a.Close() })
	return a.(*net.TCPConn), ended
}

// echo sends back what arrives, and ends when it ends.
func echo(s *quic.Stream) {
	if _, err := io.Copy(s, s); err == nil {
		_ = s.CloseWrite()
	}
}

// TestSplice carries more than the windows hold, both ways at once, and both ends' FIN.
func TestSplice(t *testing.T) {
	local, done := forwarded(t, quicStream(t, echo))
	want := make([]byte, 8<<20+5)
	for i := range want {
		want[i] = byte(i * 31)
	}
	go func() {
		local.Write(want)
		local.CloseWrite()
	}()
	got, err := io.ReadAll(struct{ io.Reader }{local})
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(want), err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// BenchmarkSplice is one request of 120 bytes and its response through connect's
// copies and a QUIC connection over loopback, both ends in this process.
func BenchmarkSplice(b *testing.B) {
	for _, size := range []int{124, 4 << 10, 1 << 20} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			response := make([]byte, size)
			local, done := forwarded(b, quicStream(b, func(s *quic.Stream) {
				for buf := make([]byte, 120); ; {
					if _, err := io.ReadFull(s, buf); err != nil {
						_ = s.CloseWrite()
						return
					}
					if _, err := s.Write(response); err != nil {
						return
					}
				}
			}))
			request, got := make([]byte, 120), make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := local.Write(request); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(local, got); err != nil {
					b.Fatal(err)
				}
			}
			local.CloseWrite()
			<-done
		})
	}
}
