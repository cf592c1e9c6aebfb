package udp

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkSend sends 46 x 1400 bytes an iteration to a reader on the same
// machine and reports CPU time of both ends for each packet that arrived.
func BenchmarkSend(b *testing.B) {
	for _, bm := range []struct {
		name string
		cfg  Config
	}{
		{"GSO+GRO", Config{}},
		{"GSO", Config{GRO: Off}},
		{"plain", Config{GSO: Off, GRO: Off}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			s, err := ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), bm.cfg)
			if err != nil {
				b.Fatal(err)
			}
			c, err := ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), bm.cfg)
			if err != nil {
				b.Fatal(err)
			}
			const size, count = 1400, 46
			// Credits keep the reader's buffer from overflowing: as much on
			// the way as fits it, and no more.
			credits := make(chan struct{}, 8)
			done := make(chan error)
			go func() {
				m, got := RecvMsg{Buf: make([]byte, MinRecvBuffer)}, 0
				for {
					if err := s.Recv(&m); err != nil {
						done <- err
						return
					}
					for got += m.N; got >= size*count; got -= size * count {
						<-credits
					}
				}
			}()
			m := SendMsg{Data: payload(size * count), SegmentSize: size, Remote: s.LocalAddr()}
			b.SetBytes(size * count)
			b.ReportAllocs()
			before := cpuTime(b)
			b.ResetTimer()
			for range b.N {
				credits <- struct{}{}
				if err := c.Send(&m); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			cpu := cpuTime(b) - before
			b.ReportMetric(float64(cpu)/float64(b.N)/count, "cpu-ns/packet")
			b.ReportMetric(float64(c.Stats().SendDatagrams.Load())/float64(c.Stats().SendCalls.Load()), "packets/call")
			c.Close()
			s.Close()
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				b.Fatal(err)
			}
		})
	}
}

// cpuTime is user and system time of this process in nanoseconds.
func cpuTime(b *testing.B) int64 {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return ru.Utime.Nano() + ru.Stime.Nano()
}

func BenchmarkSteer(b *testing.B) {
	p := short(newID(b, Layout{}, 3, 0))
	for b.Loop() {
		Layout{}.Steer(p, 8)
	}
}

func BenchmarkBuffer(b *testing.B) {
	for b.Loop() {
		NewBuffer().Release()
	}
}
