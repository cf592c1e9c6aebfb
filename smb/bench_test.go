package smb

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// BenchmarkInspector is what looking at the frames costs, per 64 KiB of stream.
func BenchmarkInspector(b *testing.B) {
	for _, size := range []int{124, 4 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			one := message("\xfeSMB", size)
			var stream []byte
			for len(stream) < 1<<20 {
				stream = append(stream, one...)
			}
			in := NewInspector(ToClient, 0)
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				for rest := stream; len(rest) > 0; {
					n := min(len(rest), 64<<10)
					if _, err := in.Inspect(rest[:n]); err != nil {
						b.Fatal(err)
					}
					rest = rest[n:]
				}
			}
		})
	}
}

// BenchmarkRelay is one request of 120 bytes and its response through the relay,
// over loopback TCP on both sides; "direct" is the same without the relay.
func BenchmarkRelay(b *testing.B) {
	for _, size := range []int{124, 4 << 10, 1 << 20} {
		request, response := message("\xfeSMB", 120), message("\xfeSMB", size)
		serve := func(c net.Conn) {
			got := make([]byte, len(request))
			for {
				if _, err := io.ReadFull(c, got); err != nil {
					return
				}
				if _, err := c.Write(response); err != nil {
					return
				}
			}
		}
		run := func(b *testing.B, c net.Conn) {
			got := make([]byte, len(response))
			b.SetBytes(int64(len(response)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(request); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, got); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.Run(fmt.Sprintf("direct/%d", size), func(b *testing.B) {
			client, backend := tcpPair(b)
			go serve(backend)
			run(b, client)
		})
		b.Run(fmt.Sprintf("relay/%d", size), func(b *testing.B) {
			client, stream := tcpPair(b)
			near, backend := tcpPair(b)
			done := make(chan Result, 1)
			go func() { done <- Serve(b.Context(), stream, near, Options{}) }()
			first, answer := negotiateRequest(ProbeConfig{Host: "h"}), negotiateResponse(Dialect311, 0, map[uint16][]byte{ctxEncryption: {1, 0, 2, 0}})
			got := make([]byte, max(len(first), len(answer)))
			for _, step := range []struct {
				from, to net.Conn
				msg      []byte
			}{{client, backend, first}, {backend, client, answer}} {
				if _, err := step.from.Write(step.msg); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(step.to, got[:len(step.msg)]); err != nil {
					b.Fatal(err)
				}
			}
			go serve(backend)
			run(b, client)
			client.Close()
			<-done
		})
	}
}
