package udp

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// large is a pooled buffer full of data, and a send of it.
func large(to netip.AddrPort) (*Buffer, SendMsg) {
	b := NewBatch()
	n := 45 * 1400
	copy(b.Bytes(), payload(n))
	return b, SendMsg{Data: b.Bytes()[:n], SegmentSize: 1400, Remote: to, Buf: b}
}

// Loopback copies whatever is sent: zero-copy switches itself off, and what
// arrives is right all the time.
func TestZerocopyOffOnLoopback(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			start := Outstanding()
			c, s, to := f.pair(t, Config{Zerocopy: On})
			if !c.Caps().Zerocopy {
				t.Fatal("not offered")
			}
			for i := range 3 * copiedLimit {
				b, m := large(to)
				if err := c.Send(&m); err != nil {
					t.Fatal(err)
				}
				want := slices.Clone(m.Data)
				b.Release()
				if got, _, _ := receive(t, s, len(want)); !bytes.Equal(got, want) {
					t.Fatalf("send %d: other bytes arrived", i)
				}
				_ = control(c.rc, func(fd int) error { c.zc.tryReap(uintptr(fd)); return nil }) // its reader would
			}
			st := c.Stats()
			if c.Caps().Zerocopy || st.ZerocopySends.Load() < copiedLimit || st.ZerocopySends.Load() > 2*copiedLimit {
				t.Errorf("zero-copy %t after %d sends", c.Caps().Zerocopy, st.ZerocopySends.Load())
			}
			if n := st.ZerocopyCopied.Load(); n < copiedLimit {
				t.Errorf("%d copies reported", n)
			}
			if n := Outstanding(); n != start {
				t.Errorf("%d buffers were not given back", n-start)
			}
		})
	}
}

func TestZerocopyModes(t *testing.T) {
	for _, mode := range []Mode{Auto, Off} {
		if c := socket(t, "127.0.0.1:0", Config{Zerocopy: mode}); c.Caps().Zerocopy {
			t.Errorf("used in mode %s", mode)
		}
	}
	s := socket(t, "127.0.0.1:0", Config{})
	c := socket(t, "127.0.0.1:0", Config{Zerocopy: On})
	// small sends, and sends without a buffer, are copied
	b, m := large(s.LocalAddr())
	defer b.Release()
	m.Buf = nil
	must(t, c.Send(&m))
	m.Data, m.Buf = m.Data[:zerocopyMin-1], b
	must(t, c.Send(&m))
	if n := c.Stats().ZerocopySends.Load(); n != 0 {
		t.Errorf("%d sends without a copy", n)
	}
	m.Data = b.Bytes()[:zerocopyMin]
	must(t, c.Send(&m))
	if n := c.Stats().ZerocopySends.Load(); n != 1 {
		t.Errorf("%d sends without a copy, want the large one", n)
	}
	// the pieces of what goes out in several calls wait one by one
	m.Data, m.SegmentSize = b.Bytes()[:65*1000], 1000
	must(t, c.Send(&m))
	if n := c.Stats().ZerocopySends.Load(); n != 2 || c.Stats().SendCalls.Load() != 5 {
		t.Errorf("%d sends without a copy of %d, want one of two pieces", n, c.Stats().SendCalls.Load())
	}
}

// command runs a program of iproute2 in the namespace.
func command(t testing.TB, line string) {
	t.Helper()
	f := strings.Fields(line)
	if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s(the package iproute2 is needed)", line, err, out)
	}
}

// bridge makes a bridge without ports, which takes packets, does not copy them
// and delivers them nowhere. It returns an address beyond it.
func bridge(t testing.TB) netip.AddrPort {
	t.Helper()
	for _, line := range []string{
		"ip link set lo up", "ip link add br0 type bridge", "ip addr add 10.7.7.1/24 dev br0", "ip link set br0 up",
		"ip neigh add 10.7.7.2 lladdr 02:00:00:00:00:02 dev br0",
	} {
		command(t, line)
	}
	return netip.MustParseAddrPort("10.7.7.2:9")
}

func TestZerocopyStaysOnWithoutCopies(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	to := bridge(t)
	start := Outstanding()
	c := socket(t, "10.7.7.1:0", Config{Zerocopy: On})
	done := reader(c)
	const sends = 10 * maxPinned
	for range sends {
		b, m := large(to)
		must(t, c.Send(&m))
		b.Release()
	}
	st := c.Stats()
	if n, copied := st.ZerocopySends.Load(), st.ZerocopyCopied.Load(); !c.Caps().Zerocopy || n < sends*9/10 || copied != 0 {
		t.Errorf("zero-copy %t, %d of %d sends, %d copied", c.Caps().Zerocopy, n, sends, copied)
	}
	c.Close()
	<-done
	awaitOutstanding(t, start)
}

// reader receives until the socket is closed: that is how completions are heard.
func reader(s *Socket) chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		m := RecvMsg{Buf: make([]byte, MinRecvBuffer)}
		for s.Recv(&m) == nil {
		}
	}()
	return done
}

func awaitOutstanding(t *testing.T, want int64) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); Outstanding() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d buffers were not given back", Outstanding()-want)
		}
	}
}

// slowLink is a pair of interfaces in two namespaces, with a queue in between
// that lets a batch through every few milliseconds.
func slowLink(t *testing.T) (to netip.AddrPort, received func() [][]byte) {
	t.Helper()
	for _, line := range []string{
		"ip link set lo up", "ip link add va type veth peer name vb", "ip addr add 10.7.8.1/24 dev va",
		"ip link set va up", "ip link set vb up", "ip neigh add 10.7.8.2 lladdr 02:00:00:00:00:02 dev va",
		"tc qdisc add dev va root tbf rate 80mbit burst 70kb limit 8mb",
	} {
		command(t, line)
	}
	running(t, "va")
	// The other end is a packet socket: it sees the bytes as they leave the queue.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0x0008) // ETH_P_IP
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	ifi, err := net.InterfaceByName("vb")
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: ifi.Index}))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}))
	all := make(chan [][]byte, 1)
	go func() {
		var got [][]byte
		for b := make([]byte, 1<<17); ; {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err == unix.EINTR || err == unix.EAGAIN && len(got) == 0 {
				continue
			}
			if err != nil {
				all <- got
				return
			}
			const headers = 14 + 20 + 8
			if n > headers && b[12] == 8 && b[23] == unix.IPPROTO_UDP {
				got = append(got, slices.Clone(b[headers:n]))
			}
		}
	}()
	return netip.MustParseAddrPort("10.7.8.2:9"), func() [][]byte { return <-all }
}

// running waits until an interface has its carrier: before, the kernel drops what
// is sent.
func running(t *testing.T, name string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		ifi, err := net.InterfaceByName(name)
		must(t, err)
		if ifi.Flags&net.FlagRunning != 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s has no carrier", name)
		}
	}
}

// A queue holds packets back: no buffer comes back to the pool, to be written
// to again, before its packets have left. Every buffer is overwritten as soon as
// it is free, so that reuse before its time would be seen at the other end.
func TestZerocopySlotsAreKept(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	to, received := slowLink(t)
	start := Outstanding()
	c := socket(t, "10.7.8.1:0", Config{SendBuffer: 32 << 20, Zerocopy: On})
	done := reader(c)
	const sends, size, segments = 40, 1400, 45
	most := int32(0)
	for i := range sends {
		b := NewBatch()
		data := b.Bytes()[:size*segments]
		copy(data, bytes.Repeat([]byte{byte(i)}, len(data)))
		for k := range segments {
			binary.BigEndian.PutUint32(data[k*size:], uint32(i))
		}
		m := SendMsg{Data: data, SegmentSize: size, Remote: to, Buf: b}
		must(t, c.Send(&m))
		most = max(most, c.zc.held.Load())
		b.Release()
	}
	if most < sends/4 {
		t.Errorf("only %d sends waited: the queue does not hold anything", most)
	}
	t.Logf("%d of %d sends waited at a time, %d were copied", most, sends, c.Stats().ZerocopyCopied.Load())
	// The socket is closed with completions outstanding.
	closed := time.Now()
	c.Close()
	<-done
	if d := time.Since(closed); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
	if Outstanding() == start {
		t.Error("nothing waits for completion any more: the test shows nothing")
	}
	var datagrams [sends]int
	for _, d := range received() {
		for ; len(d) >= 4; d = d[min(size, len(d)):] { // a batch that was not cut comes whole
			one := d[:min(size, len(d))]
			i := binary.BigEndian.Uint32(one)
			if i >= sends || bytes.Count(one[4:], []byte{byte(i)}) != len(one)-4 {
				t.Fatalf("a datagram of send %d was changed after it was sent", i)
			}
			datagrams[i]++
		}
	}
	// A buffer that was written to again before it left shows as one send twice,
	// and another not at all. The packet socket may miss a few on a busy machine.
	total := 0
	for i, n := range datagrams {
		total += n
		if n > segments {
			t.Errorf("%d datagrams of send %d, which has %d", n, i, segments)
		}
	}
	if total < sends*segments/2 {
		t.Errorf("%d of %d datagrams were seen", total, sends*segments)
	}
	awaitOutstanding(t, start)
	if n := c.Stats().ZerocopyAbandoned.Load(); n != 0 {
		t.Errorf("%d buffers were abandoned", n)
	}
}

// More sends wait than there are slots: the rest is copied.
func TestZerocopyIsBounded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	to, _ := slowLink(t)
	c := socket(t, "10.7.8.1:0", Config{SendBuffer: 64 << 20, Zerocopy: On})
	for range 2 * maxPinned {
		b, m := large(to)
		must(t, c.Send(&m))
		b.Release()
	}
	st := c.Stats()
	if n := c.zc.held.Load(); n > maxPinned || st.SendCalls.Load() != 2*maxPinned || st.ZerocopySends.Load() > 2*maxPinned {
		t.Errorf("%d sends wait, %d sent, %d of them without a copy", n, st.SendCalls.Load(), st.ZerocopySends.Load())
	}
}

// numbered returns a zerocopy whose sends from first on wait.
func waiting(first uint32, n int) (*zerocopy, []*Buffer) {
	z := &zerocopy{base: first, next: first, ready: true, sock: &Socket{}}
	z.on.Store(true)
	var all []*Buffer
	for range n {
		b := NewBatch()
		z.slots[z.next%maxPinned] = b
		z.next++
		z.held.Add(1)
		all = append(all, b)
	}
	return z, all
}

func TestZerocopyCompletions(t *testing.T) {
	for _, first := range []uint32{0, 1000, 1<<32 - 5, 1<<32 - 1} {
		start := Outstanding()
		z, all := waiting(first, 10)
		at := func(i uint32) uint32 { return first + i } // modulo 2^32
		check := func(what string, held int32, base uint32) {
			t.Helper()
			if z.held.Load() != held || z.base != at(base) {
				t.Errorf("from %d, %s: %d wait, the oldest is %d; want %d and %d", first, what, z.held.Load(), z.base-first, held, base)
			}
			for i, b := range all {
				if gone := z.slots[at(uint32(i))%maxPinned] != b; gone != (b.Refs() == 0) {
					t.Errorf("from %d, %s: buffer %d has %d references", first, what, i, b.Refs())
				}
			}
		}
		z.complete(at(3), at(4), false) // out of order
		check("3 to 4", 8, 0)
		z.complete(at(0), at(1), false)
		check("0 to 1", 6, 2)
		z.complete(at(0), at(1), false) // a repetition
		check("0 to 1 again", 6, 2)
		z.complete(at(1), at(3), true) // overlapping
		check("1 to 3", 5, 5)
		z.complete(at(5), at(9), false)
		check("5 to 9", 0, 10)
		if n := Outstanding(); n != start {
			t.Errorf("from %d: %d buffers were not given back", first, n-start)
		}
	}
	// A number that was never sent: the count is not ours alone.
	z, all := waiting(7, 3)
	z.complete(8, 10, false)
	if z.on.Load() || z.held.Load() != 3 {
		t.Errorf("on %t, %d wait", z.on.Load(), z.held.Load())
	}
	for _, b := range all {
		b.Release()
	}
}

// Failed sends take a number or not: the count stays right.
func TestZerocopyFailedSends(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	to := bridge(t)
	start := Outstanding()
	c := socket(t, "10.7.7.1:0", Config{Zerocopy: On})
	b, m := large(to)
	for i := range 20 {
		must(t, c.Send(&m))
		bad := m
		bad.SegmentSize = 9000 // over the interface's MTU
		if err := c.Send(&bad); err != ErrMessageTooLong {
			t.Fatalf("send %d: %v", i, err)
		}
	}
	if n := c.Stats().ZerocopySends.Load(); n != 20 || !c.Caps().Zerocopy {
		t.Errorf("%d sends without a copy, %t", n, c.Caps().Zerocopy)
	}
	_ = control(c.rc, func(fd int) error { c.zc.tryReap(uintptr(fd)); return nil })
	b.Release()
	awaitOutstanding(t, start)
}

// A socket that another process has sent from before: its count goes on.
func TestZerocopyInherited(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	to := bridge(t)
	start := Outstanding()
	first := socket(t, "10.7.7.1:0", Config{Zerocopy: On})
	b, m := large(to)
	for range 5 {
		must(t, first.Send(&m))
	}
	f, err := first.File()
	must(t, err)
	must(t, first.Close())
	second, err := FromFile(f, Config{Zerocopy: On})
	must(t, err)
	guard(t, second)
	for range 5 {
		must(t, second.Send(&m))
	}
	b.Release()
	_ = control(second.rc, func(fd int) error { second.zc.tryReap(uintptr(fd)); return nil })
	awaitOutstanding(t, start)
	if n := second.Stats().ZerocopySends.Load(); n != 5 || second.zc.next < 10 {
		t.Errorf("%d sends without a copy, the next has number %d", n, second.zc.next)
	}
	_ = f.Close()
}

func FuzzCompletion(f *testing.F) {
	b := make([]byte, 48)
	h := binary.NativeEndian
	h.PutUint64(b, 32+16)
	h.PutUint32(b[8:], unix.IPPROTO_IP)
	h.PutUint32(b[12:], unix.IP_RECVERR)
	b[16+4], b[16+6] = originZerocopy, 1
	h.PutUint32(b[16+8:], 3)
	h.PutUint32(b[16+12:], 9)
	f.Add(b)
	if lo, hi, copied, ok := completion(b); lo != 3 || hi != 9 || !copied || !ok {
		f.Fatalf("%d to %d, copied %t, %t", lo, hi, copied, ok)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var aligned [32]uint64 // as the kernel's is
		own := ctlBytes(&aligned)
		lo, hi, copied, ok := completion(own[:copy(own, b)])
		if ok {
			z, all := waiting(lo-2, 5)
			z.complete(lo, hi, copied)
			for _, b := range all {
				if b.Refs() > 0 {
					b.Release()
				}
			}
		}
	})
}
