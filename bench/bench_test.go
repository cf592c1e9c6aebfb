package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
)

// freeAddr is an address nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestPeers runs both ends of every peer that answers.
func TestPeers(t *testing.T) {
	for _, p := range peers() {
		if p.name == "floor" {
			continue // it does not connect: see TestFloor
		}
		t.Run(p.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			addr, done := freeAddr(t), make(chan error, 1)
			go func() { done <- p.server(ctx, &options{addr: addr, payload: 1400}) }()
			defer func() {
				cancel()
				<-done
			}()
			for name, o := range map[string]options{
				"upload":     {upload: 3 << 20},
				"download":   {download: 3 << 20},
				"requests":   {requests: 50, request: 512, response: 4096},
				"handshakes": {handshakes: 3},
			} {
				o.addr, o.payload, o.streams, o.connections, o.parallel = addr, 1400, 1, 1, 1
				r, err := p.client(ctx, &o)
				for err != nil && strings.Contains(err.Error(), "refused") && ctx.Err() == nil {
					r, err = p.client(ctx, &o) // the server is not yet there
				}
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if want := o.upload + o.download; want > 0 && r.Bytes != want || r.Requests != o.requests || r.Handshakes != o.handshakes {
					t.Errorf("%s: %+v", name, r)
				}
			}
		})
	}
}

func TestFloor(t *testing.T) {
	key, err := floorKey()
	if err != nil {
		t.Fatal(err)
	}
	b := append([]byte{0x41}, make([]byte, floorHeader-1)...)
	b = key.Seal(b, make([]byte, 100), b, 0)
	key.ProtectHeader(b, floorHeader-floorPNLen, floorPNLen)
	if n, err := floorOpen(key, b); n != 100 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := floorOpen(key, b[:20]); err == nil {
		t.Error("a short datagram was opened")
	}
}

func TestAttribute(t *testing.T) {
	const traces = `File: x
-----------+-----
      30ms   gcmAesEnc
             protect.(*Key).Seal
             quic.(*Conn).flush
-----------+-----
      50ms   Syscall6
             udp.(*Socket).Send
             quic.(*Conn).flush
-----------+-----
      20ms   runtime.futex
`
	hops := senderHops()
	attribute(hops, traces)
	for _, h := range hops {
		want := map[string]float64{"AEAD: seal from chunk to batch": 30, "sendmsg with UDP_SEGMENT": 50, "scheduler, memory, the rest": 20}[h.name]
		if h.share != want {
			t.Errorf("%s: %v %%, want %v", h.name, h.share, want)
		}
	}
	if svg := drawPath(hops, receiverHops()); !strings.HasPrefix(svg, "<svg ") || !strings.Contains(svg, "50.0 %") {
		t.Error("no picture")
	}
}

func TestMedian(t *testing.T) {
	var m []measured
	for _, v := range []float64{5, 1, 3} {
		var x measured
		x.client.Gbps = v
		m = append(m, x)
	}
	gbps := func(m measured) float64 { return m.client.Gbps }
	if median(m, gbps) != 3 || median(m[:2], gbps) != 3 || median(nil, gbps) != 0 {
		t.Error("median")
	}
}

// TestForeignClient runs other implementations' ends of the perf protocol against
// our server: both speak draft-banks-quic-performance. TestForeignServer is the other way.
func TestForeignClient(t *testing.T) {
	for name, client := range map[string]func(context.Context, *options) (*perf.Result, error){"quic-go": quicgoClient, "xnet": xnetClient} {
		t.Run(name, func(t *testing.T) { foreignClient(t, client) })
	}
}

func foreignClient(t *testing.T, client func(context.Context, *options) (*perf.Result, error)) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ready, done := make(chan netip.AddrPort, 1), make(chan error, 1)
	reports := make(chan *perf.Result, 8)
	s := perf.Server{
		Listen: netip.MustParseAddrPort("127.0.0.1:0"), Ready: func(a netip.AddrPort) { ready <- a }, Report: func(r *perf.Result) { reports <- r },
	}
	go func() { done <- s.Run(ctx) }()
	addr := (<-ready).String()
	for name, o := range map[string]options{
		"upload": {upload: 3<<20 + 5}, "download": {download: 3<<20 + 5}, "requests": {requests: 20, request: 512, response: 4096},
	} {
		o.addr, o.payload, o.streams, o.connections, o.parallel = addr, 1400, 1, 1, 1
		r, err := client(ctx, &o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		requests := uint64(o.requests) * uint64(o.request+o.response)
		if want := o.upload + o.download + requests; r.Bytes != want {
			t.Errorf("%s: %d bytes, want %d", name, r.Bytes, want)
		}
		// The 8 bytes that say what is wanted back are not counted there.
		if want, got := o.upload+o.download+requests-8*uint64(o.requests), (<-reports).Bytes; got != want {
			t.Errorf("%s: the server counted %d bytes, want %d", name, got, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestForeignServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	addr, done := freeAddr(t), make(chan error, 1)
	go func() { done <- quicgoServer(ctx, &options{addr: addr, payload: 1400}) }()
	defer func() {
		cancel()
		<-done
	}()
	c := perf.Client{Connect: netip.MustParseAddrPort(addr), Upload: 3<<20 + 5, Download: 2<<20 + 7}
	r, err := c.Run(ctx)
	if err != nil || r.Bytes != c.Upload+c.Download {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestForward carries a TCP connection through both ends of the quic-go pair.
func TestForward(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	go func() {
		for {
			c, err := back.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	quicAddr, tcpAddr := freeAddr(t), freeAddr(t)
	o := &options{payload: 1400}
	done := make(chan error, 2)
	go func() { done <- forwardServer(ctx, quicAddr, back.Addr().String(), o) }()
	go func() { done <- forwardClient(ctx, tcpAddr, quicAddr, o) }()
	var c net.Conn
	for c == nil && ctx.Err() == nil {
		c, _ = net.Dial("tcp", tcpAddr) // it may not listen yet
	}
	if c == nil {
		t.Fatal(ctx.Err())
	}
	defer c.Close()
	want := make([]byte, 5<<20+3)
	for i := range want {
		want[i] = byte(i * 13)
	}
	go func() {
		c.Write(want)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(want), err)
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestRates(t *testing.T) {
	const torture = "1.00 second: open[num/s=18,946;avslat=0.00003] close[num/s=18,945;avslat=0.00002]\r2.00 second: open[num/s=16,362;avslat=0.00003] close[num/s=16,300;x]\n"
	if v, err := smallRate(torture, "open"); v != 16362 || err != nil {
		t.Errorf("%v, %v", v, err)
	}
	if _, err := smallRate(torture, "echo"); !errors.Is(err, errNoRate) {
		t.Errorf("%v", err)
	}
	for _, line := range []string{
		`putting file x as \x (306333.0 kB/s) (average 1.9 kB/s)`,
		`getting file \x of size 1 as /dev/null (306333.0 KiloBytes/sec) (average 867946.0 KiloBytes/sec)`,
	} {
		if m := smbclientRate.FindStringSubmatch(line); m == nil || m[1] != "306333.0" {
			t.Errorf("%q in %q", m, line)
		}
	}
}

func TestSpread(t *testing.T) {
	same := func(v float64) float64 { return v }
	for want, v := range map[string][]float64{"": nil, "2.0": {2}, "2.0 (1.0..9.0)": {9, 1, 2}, "2.5 (2.0..3.0)": {3, 2}} {
		if got := spread("%.1f", v, same); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}

func TestSections(t *testing.T) {
	all := (&runner{}).sections()
	if got, err := choose(all, ""); len(got) != len(all) || err != nil {
		t.Errorf("%d, %v", len(got), err)
	}
	got, err := choose(all, "relay,latency")
	if err != nil || len(got) != 2 || got[0].name != "relay" || got[1].name != "latency" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := choose(all, "relay,nothing"); err == nil {
		t.Error("a section that is not there was chosen")
	}
}

// A section that fails says so in the document, and the rest goes on.
func TestFailedSection(t *testing.T) {
	r := &runner{}
	rep := &report{began: time.Now()}
	failed := r.measure(t.Context(), rep, []section{
		{"bad", func(context.Context, *report) error { return errors.New("it broke") }},
		{"good", func(_ context.Context, rep *report) error { rep.section("Good", "text"); return nil }},
	})
	doc := rep.document()
	if failed == nil || !strings.Contains(doc, "it broke") || !strings.Contains(doc, "## Good") {
		t.Errorf("%v\n%s", failed, doc)
	}
}

func TestParseStat(t *testing.T) {
	p, ok := parseStat("42 (a b) c) S 7 42 42 0 -1 4194560 100 0 0 0 150 50 10 5 20 0 8 0 100 0 0\n")
	if !ok || p.parent != 7 || p.cpu != 2.15 {
		t.Errorf("%+v, %t", p, ok)
	}
	if _, ok := parseStat("42 (short) S 7"); ok {
		t.Error("a short line was read")
	}
}

// TestTreeCPU burns time in a grandchild, which must count.
func TestTreeCPU(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "(while :; do :; done) & wait")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pids := func() map[int]procStat { return descendants(cmd.Process.Pid) }
	defer func() {
		for pid := range pids() {
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill()
			}
		}
		cmd.Wait()
	}()
	for began := time.Now(); treeCPU(cmd.Process.Pid) < 0.05; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%v", pids())
		}
	}
	if len(pids()) < 2 {
		t.Errorf("%v", pids())
	}
}
