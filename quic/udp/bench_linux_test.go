package udp

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/internal/inchild"
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

// BenchmarkZerocopy sends into a bridge without ports, in a namespace of its
// own: the kernel does all of a send's work and neither copies for the receiver
// nor delivers. It shows from which size on a send is worth pinning for; the
// table in docs/tuning.md was made with it.
func BenchmarkZerocopy(b *testing.B) {
	if !benchInNamespace(b) {
		return
	}
	to := bridge(b)
	for _, size := range []int{1400, 9800, 16800, 32200, 64400} {
		for _, bm := range []struct {
			name string
			cfg  Config
			pin  bool
		}{
			{"copy", Config{GSO: Off, Zerocopy: Off}, false},
			{"GSO", Config{Zerocopy: Off}, false},
			{"GSO+zerocopy", Config{Zerocopy: On}, true},
		} {
			b.Run(fmt.Sprintf("%d/%s", size, bm.name), func(b *testing.B) { sendInto(b, to, bm.cfg, size, bm.pin) })
		}
	}
}

// sendInto sends size bytes an iteration from pooled buffers, as a connection
// does. Without pinning that is the same one, warm in the cache, again and
// again; what is pinned comes back in its time.
func sendInto(b *testing.B, to netip.AddrPort, cfg Config, size int, pin bool) {
	c, err := ListenOne(netip.MustParseAddrPort("10.7.7.1:0"), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if pin {
		least := c.zc.least
		c.zc.least = 0
		defer func() { c.zc.least = least }()
	}
	b.SetBytes(int64(size))
	before := cpuTime(b)
	for b.Loop() {
		buf := NewBatch()
		clear(buf.Bytes()[:size]) // written to before every send, as sealing does
		m := SendMsg{Data: buf.Bytes()[:size], SegmentSize: 1400, Remote: to}
		if pin {
			m.Buf = buf
		}
		if err := c.Send(&m); err != nil {
			b.Fatal(err)
		}
		buf.Release()
	}
	b.ReportMetric(float64(cpuTime(b)-before)/1e9/(float64(b.N)*float64(size)/(1<<30)), "cpu-s/GiB")
	if pin {
		b.ReportMetric(float64(c.Stats().ZerocopySends.Load())/float64(b.N), "pinned/send")
	}
}

// benchInNamespace is inNamespace for a benchmark: the child writes the results.
func benchInNamespace(b *testing.B) bool {
	const mark = "UDP_BENCH_IN_NAMESPACE"
	if os.Getenv(mark) != "" {
		return true
	}
	if b.N > 1 {
		return false // once is enough
	}
	args := []string{"-test.run=^$", "-test.bench=^" + b.Name() + "$"}
	for _, f := range []string{"test.benchtime", "test.count"} {
		args = append(args, "-"+f+"="+flag.Lookup(f).Value.String())
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = inchild.Network()
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	return false
}
