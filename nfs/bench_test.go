package nfs

import (
	"io"
	"log/slog"
	"net"
	"strconv"
	"testing"
)

// fixedReplies answers calls of callLen bytes with the same record.
func fixedReplies(callLen int, record []byte) func(net.Conn) {
	return func(c net.Conn) {
		call := make([]byte, callLen)
		for {
			if _, err := io.ReadFull(c, call); err != nil {
				return
			}
			if _, err := c.Write(record); err != nil {
				return
			}
		}
	}
}

// BenchmarkRelay measures one call and its reply through the relay over loopback TCP, both ends
// included; "direct" is the same without the relay.
func BenchmarkRelay(b *testing.B) {
	for _, size := range []int{100, 4 << 10, 64 << 10, 1 << 20} {
		call := callRecord(1, ProgNFS, 3, 6, "")
		id := testIdentity(b)
		forwarded := len(call) - len(claimedAuth()) + len(id.cred)
		record := AppendSuccess(nil, 1, make([]byte, size))
		run := func(b *testing.B, c net.Conn) {
			reply := make([]byte, len(record))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				mustWrite(b, c, call)
				if _, err := io.ReadFull(c, reply); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.Run("direct/"+strconv.Itoa(size), func(b *testing.B) {
			c, err := net.Dial("tcp", startServer(b, fixedReplies(len(call), record)).addr)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			run(b, c)
		})
		b.Run("relay/"+strconv.Itoa(size), func(b *testing.B) {
			server := startServer(b, fixedReplies(forwarded, record))
			s := newTestService(b, Config{Backends: []string{server.addr}, Logger: slog.New(slog.DiscardHandler)})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			stream, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan Outcome)
			go func() { done <- s.Relay(Client{Identity: id}).ServeStream(b.Context(), stream) }()
			run(b, c)
			c.Close()
			<-done
		})
	}
}
