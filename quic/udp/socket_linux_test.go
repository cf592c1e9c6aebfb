package udp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// family is a kind of socket pair on the loopback interface.
type family struct {
	name   string
	listen string // address the receiving socket is bound to
	client string
	to     string // address the client sends to
}

var families = []family{
	{"v4", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1"},
	{"v6", "[::1]:0", "[::1]:0", "::1"},
	{"v4 to dual-stack", "[::]:0", "0.0.0.0:0", "127.0.0.2"},
	{"v6 to dual-stack", "[::]:0", "[::1]:0", "::1"},
	{"dual-stack to v4", "127.0.0.1:0", "[::]:0", "127.0.0.1"},
}

// socket opens a socket that is closed with the test, or after ten seconds, so
// that no Recv waits forever.
func socket(t testing.TB, addr string, cfg Config) *Socket {
	t.Helper()
	s, err := ListenOne(netip.MustParseAddrPort(addr), cfg)
	if err != nil {
		t.Fatal(err)
	}
	guard(t, s)
	return s
}

func guard(t testing.TB, s *Socket) {
	timer := time.AfterFunc(10*time.Second, func() { s.Close() })
	t.Cleanup(func() { timer.Stop(); s.Close() })
}

// pair returns a client, a server and where to send.
func (f family) pair(t testing.TB, cfg Config) (c, s *Socket, to netip.AddrPort) {
	t.Helper()
	s = socket(t, f.listen, cfg)
	c = socket(t, f.client, cfg)
	return c, s, netip.AddrPortFrom(netip.MustParseAddr(f.to), s.LocalAddr().Port())
}

// payload is n bytes in which every segment is different.
func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>13)
	}
	return b
}

// receive reads until n bytes are there; it returns them and the sizes of the
// receives.
func receive(t testing.TB, s *Socket, n int) (data []byte, m RecvMsg, calls []int) {
	t.Helper()
	m.Buf = make([]byte, MinRecvBuffer)
	for len(data) < n {
		if err := s.Recv(&m); err != nil {
			t.Fatalf("after %d of %d bytes: %v", len(data), n, err)
		}
		data = append(data, m.Buf[:m.N]...)
		calls = append(calls, m.N)
	}
	return data, m, calls
}

func TestSendOneReply(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c, s, to := f.pair(t, Config{})
			for ecn := NotECT; ecn <= ECT0; ecn++ {
				want := payload(1200 + int(ecn))
				out := SendMsg{Data: want, Remote: to, ECN: ecn, DontFragment: true}
				if err := c.Send(&out); err != nil || out.Sent != len(want) {
					t.Fatalf("sent %d: %v", out.Sent, err)
				}
				got, m, _ := receive(t, s, len(want))
				if !bytes.Equal(got, want) || m.SegmentSize != m.N {
					t.Fatalf("got %d bytes in segments of %d", len(got), m.SegmentSize)
				}
				// pktinfo: the address the packet came to, unmapped.
				if m.Local != to.Addr() || m.ECN != ecn || m.IfIndex == 0 {
					t.Fatalf("to %s ECN %d on %d, want %s ECN %d", m.Local, m.ECN, m.IfIndex, to.Addr(), ecn)
				}
				if m.Remote.Port() != c.LocalAddr().Port() || m.Remote.Addr().Is4In6() {
					t.Fatalf("from %s, client is %s", m.Remote, c.LocalAddr())
				}
				// The reply comes from where the packet went to, which on a
				// wildcard socket and 127.0.0.2 routing alone would not do.
				reply := SendMsg{Data: want[:100], Remote: m.Remote, Local: m.Local, IfIndex: m.IfIndex, ECN: ecn}
				if err := s.Send(&reply); err != nil {
					t.Fatal(err)
				}
				_, back, _ := receive(t, c, 100)
				if back.Remote != to || back.ECN != ecn {
					t.Fatalf("reply from %s ECN %d, want %s ECN %d", back.Remote, back.ECN, to, ecn)
				}
			}
		})
	}
}

func TestGSOArrivesAsGRO(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c, s, to := f.pair(t, Config{GSO: On, GRO: On})
			want := payload(46 * 1400)
			err := c.Send(&SendMsg{Data: want, SegmentSize: 1400, Remote: to, ECN: ECT0})
			if err != nil {
				t.Fatal(err)
			}
			got, m, calls := receive(t, s, len(want))
			if !bytes.Equal(got, want) || len(calls) != 1 || m.SegmentSize != 1400 || m.ECN != ECT0 {
				t.Fatalf("%d bytes in receives of %v, segments of %d, ECN %d", len(got), calls, m.SegmentSize, m.ECN)
			}
			if n := c.Stats().SendCalls.Load(); n != 1 {
				t.Errorf("%d system calls, want 1", n)
			}
			if n := s.Stats().RecvDatagrams.Load(); n != 46 {
				t.Errorf("%d datagrams counted, want 46", n)
			}
		})
	}
}

// Sizes around every limit arrive whole and in order.
func TestBatchLimits(t *testing.T) {
	tests := []struct{ size, n, calls int }{
		{1200, 1200, 1},
		{1200, 1201, 1},
		{1200, 64*1200 - 1, 2},   // 64 segments, but over 65507 bytes
		{100, 64 * 100, 1},       // 64 segments exactly
		{100, 64*100 + 1, 2},     // one more
		{1400, 46*1400 + 700, 1}, // a short last one
		{1400, 47 * 1400, 2},
		{MaxPayload, MaxPayload, 1},
		{40000, 80000, 2}, // two do not fit one call
		{0, 1000, 1},
	}
	for _, gso := range []Mode{Auto, Off} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/%d in %d", gso, tt.n, tt.size), func(t *testing.T) {
				c, s, to := families[0].pair(t, Config{GSO: gso})
				want := payload(tt.n)
				m := SendMsg{Data: want, SegmentSize: tt.size, Remote: to}
				if err := c.Send(&m); err != nil || m.Sent != tt.n {
					t.Fatalf("sent %d: %v", m.Sent, err)
				}
				calls := uint64(tt.calls)
				if gso == Off {
					calls = uint64(segments(tt.n, tt.size))
				}
				if got := c.Stats().SendCalls.Load(); got != calls {
					t.Errorf("%d system calls, want %d", got, calls)
				}
				if got, _, _ := receive(t, s, tt.n); !bytes.Equal(got, want) {
					t.Error("data differs")
				}
				if sent, got := c.Stats().SendDatagrams.Load(), s.Stats().RecvDatagrams.Load(); sent != got {
					t.Errorf("%d datagrams sent, %d received", sent, got)
				}
			})
		}
	}
}

func TestGROOff(t *testing.T) {
	c, s, to := families[0].pair(t, Config{GRO: Off})
	if s.Caps().GRO {
		t.Error("caps report GRO")
	}
	want := payload(10 * 1000)
	if err := c.Send(&SendMsg{Data: want, SegmentSize: 1000, Remote: to}); err != nil {
		t.Fatal(err)
	}
	if got, _, calls := receive(t, s, len(want)); !bytes.Equal(got, want) || len(calls) != 10 {
		t.Errorf("%d receives, want 10", len(calls))
	}
}

// A device that cannot segment: EIO, as the kernel answers for devices without
// checksum offload.
func TestGSOFallback(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.EINVAL} {
		t.Run(errno.Error(), func(t *testing.T) {
			c, s, to := families[0].pair(t, Config{})
			c.sendmsg = func(fd uintptr, h *unix.Msghdr, flags uintptr) (int, unix.Errno) {
				if hasSegmentSize(h) {
					return 0, errno
				}
				return sendmsg(fd, h, flags)
			}
			want := payload(20*1400 + 7)
			for range 2 {
				m := SendMsg{Data: want, SegmentSize: 1400, Remote: to, ECN: ECT0}
				if err := c.Send(&m); err != nil || m.Sent != len(want) {
					t.Fatalf("sent %d: %v", m.Sent, err)
				}
				if got, m, _ := receive(t, s, len(want)); !bytes.Equal(got, want) || m.ECN != ECT0 {
					t.Fatal("data differs")
				}
			}
			// Remembered, reported, counted once.
			if c.Caps().MaxSegments != 1 || c.Stats().GSOFallbacks.Load() != 1 {
				t.Errorf("caps %+v, %d fallbacks", c.Caps(), c.Stats().GSOFallbacks.Load())
			}
		})
	}
}

// A kernel that refuses to segment, no test in its place: it does for a socket that
// sends without checksums (SO_NO_CHECK), and takes the same datagrams one by one.
func TestGSORefusedByKernel(t *testing.T) {
	c, s, to := families[0].pair(t, Config{})
	if c.Caps().MaxSegments < 2 {
		t.Fatal("no GSO to begin with")
	}
	must(t, control(c.rc, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }))
	want := payload(30*1400 + 7)
	for range 3 {
		m := SendMsg{Data: want, SegmentSize: 1400, Remote: to}
		if err := c.Send(&m); err != nil || m.Sent != len(want) {
			t.Fatalf("sent %d: %v", m.Sent, err)
		}
		if got, _, _ := receive(t, s, len(want)); !bytes.Equal(got, want) {
			t.Fatal("data differs")
		}
	}
	if st := c.Stats(); c.Caps().MaxSegments != 1 || st.GSOFallbacks.Load() != 1 || st.SendCalls.Load() != 3*31 {
		t.Errorf("caps %+v, %d fallbacks, %d calls", c.Caps(), st.GSOFallbacks.Load(), st.SendCalls.Load())
	}
}

// hasSegmentSize looks for UDP_SEGMENT as the kernel would.
func hasSegmentSize(h *unix.Msghdr) bool {
	if h.Control == nil {
		return false
	}
	msgs, err := unix.ParseSocketControlMessage(controlBytes(h))
	if err != nil {
		return false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_UDP && m.Header.Type == unix.UDP_SEGMENT {
			return true
		}
	}
	return false
}

// An error that is not GSO's fault must not cost us GSO.
func TestGSOKeptOnOtherErrors(t *testing.T) {
	c, _, to := families[0].pair(t, Config{})
	// A source address that is not ours is EINVAL as well.
	err := c.Send(&SendMsg{Data: payload(4000), SegmentSize: 1000, Remote: to, Local: netip.MustParseAddr("192.0.2.1")})
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("send from a foreign address: %v", err)
	}
	if c.Caps().MaxSegments != MaxSegments || c.Stats().GSOFallbacks.Load() != 0 {
		t.Errorf("GSO was given up: %+v", c.Caps())
	}
}

func TestSendErrors(t *testing.T) {
	c, _, to := families[0].pair(t, Config{})
	v6only := socket(t, "[::1]:0", Config{})
	tests := []struct {
		name string
		s    *Socket
		m    SendMsg
		want error
	}{
		{"empty", c, SendMsg{Remote: to}, errEmpty},
		{"over the limit of UDP", c, SendMsg{Data: payload(MaxPayload + 1), Remote: to}, ErrMessageTooLong},
		{"no destination", c, SendMsg{Data: payload(1)}, nil},
		{"no port", c, SendMsg{Data: payload(1), Remote: netip.AddrPortFrom(to.Addr(), 0)}, nil},
		{"v6 on a v4 socket", c, SendMsg{Data: payload(1), Remote: netip.MustParseAddrPort("[::1]:9")}, unix.EAFNOSUPPORT},
		{"v4 on a v6 socket", v6only, SendMsg{Data: payload(1), Remote: to}, unix.EAFNOSUPPORT},
		{"families mixed", c, SendMsg{Data: payload(1), Remote: to, Local: netip.IPv6Loopback()}, nil},
		{"unknown zone", v6only, SendMsg{Data: payload(1), Remote: netip.MustParseAddrPort("[fe80::1%nosuchif]:9")}, nil},
	}
	for _, tt := range tests {
		err := tt.s.Send(&tt.m)
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) || tt.m.Sent != 0 {
			t.Errorf("%s: %v, want %v; sent %d", tt.name, err, tt.want, tt.m.Sent)
		}
	}
	for errno, want := range map[unix.Errno]error{
		unix.EAGAIN: ErrWouldBlock, unix.ENOBUFS: ErrNoBuffers, unix.EMSGSIZE: ErrMessageTooLong, unix.EPERM: unix.EPERM,
	} {
		c.sendmsg = func(uintptr, *unix.Msghdr, uintptr) (int, unix.Errno) { return -1, errno }
		if err := c.Send(&SendMsg{Data: payload(1), Remote: to}); !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", errno, err, want)
		}
	}
	if st := c.Stats(); st.WouldBlock.Load() != 1 || st.NoBufs.Load() != 1 || st.TooLong.Load() != 2 {
		t.Errorf("counted %d %d %d", st.WouldBlock.Load(), st.NoBufs.Load(), st.TooLong.Load())
	}
}

// A batch that stops half way says how far it came, and the rest can be sent.
func TestPartialBatch(t *testing.T) {
	c, s, to := families[0].pair(t, Config{GSO: Off})
	calls := 0
	c.sendmsg = func(fd uintptr, h *unix.Msghdr, flags uintptr) (int, unix.Errno) {
		if calls++; calls == 4 {
			return -1, unix.EAGAIN
		}
		return sendmsg(fd, h, flags)
	}
	want := payload(10 * 1000)
	m := SendMsg{Data: want, SegmentSize: 1000, Remote: to}
	if err := c.Send(&m); err != ErrWouldBlock || m.Sent != 3000 {
		t.Fatalf("sent %d: %v", m.Sent, err)
	}
	ready := make(chan struct{})
	c.OnWritable(func() { close(ready) })
	<-ready
	m.Data = want[m.Sent:]
	if err := c.Send(&m); err != nil || m.Sent != 7000 {
		t.Fatalf("sent %d: %v", m.Sent, err)
	}
	if got, _, _ := receive(t, s, len(want)); !bytes.Equal(got, want) {
		t.Error("data differs")
	}
}

// HOSTILE 30: a zero-length datagram is no reason to return, to fail or to
// spin: one system call each.
func TestZeroLengthDatagrams(t *testing.T) {
	_, s, to := families[0].pair(t, Config{})
	plain, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	const empty = 3*maxQuiet + 1
	for range empty {
		if _, err := plain.Write(nil); err != nil {
			t.Fatal(err)
		}
	}
	plain.Write([]byte("real"))
	got, _, calls := receive(t, s, 4)
	if string(got) != "real" || len(calls) != 1 {
		t.Fatalf("%q in %v", got, calls)
	}
	if st := s.Stats(); st.EmptyDatagrams.Load() != empty || st.RecvCalls.Load() != empty+1 {
		t.Errorf("%d empty datagrams, %d calls", st.EmptyDatagrams.Load(), st.RecvCalls.Load())
	}
}

// An ICMP error about something we sent is not an error of Recv.
func TestPortUnreachableIgnored(t *testing.T) {
	c, s, to := families[0].pair(t, Config{})
	nobody := socket(t, "127.0.0.1:0", Config{})
	gone := nobody.LocalAddr()
	nobody.Close()
	// With IP_RECVERR the kernel reports what it would otherwise hide from an
	// unconnected socket: the strictest case, as with an inherited descriptor.
	if err := control(s.rc, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&SendMsg{Data: []byte("x"), Remote: gone}); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(&SendMsg{Data: []byte("real"), Remote: to}); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := receive(t, s, 4); string(got) != "real" {
		t.Fatalf("%q", got)
	}
	if n := s.Stats().RecvErrors.Load(); n != 1 {
		t.Errorf("%d errors counted, want 1", n)
	}
}

func TestRecvAfterClose(t *testing.T) {
	s := socket(t, "127.0.0.1:0", Config{})
	got := make(chan error)
	go func() {
		m := RecvMsg{Buf: make([]byte, MinRecvBuffer)}
		got <- s.Recv(&m)
	}()
	s.Close()
	if err := <-got; err != net.ErrClosed {
		t.Errorf("blocked Recv: %v", err)
	}
	if err := s.Recv(&RecvMsg{Buf: make([]byte, MinRecvBuffer)}); err != net.ErrClosed {
		t.Errorf("Recv: %v", err)
	}
	if err := s.Send(&SendMsg{Data: []byte("x"), Remote: netip.MustParseAddrPort("127.0.0.1:9")}); err != net.ErrClosed {
		t.Errorf("Send: %v", err)
	}
	called := make(chan struct{})
	s.OnWritable(func() { close(called) })
	<-called
}

func TestRecvShortBuffer(t *testing.T) {
	s := socket(t, "127.0.0.1:0", Config{})
	if err := s.Recv(&RecvMsg{Buf: make([]byte, MinRecvBuffer-1)}); err != ErrShortBuffer {
		t.Errorf("%v", err)
	}
}

// Datagrams that did not fit the receive buffer are counted, not silent.
func TestOverflowCounted(t *testing.T) {
	s := socket(t, "127.0.0.1:0", Config{RecvBuffer: 4096})
	c := socket(t, "127.0.0.1:0", Config{GSO: Off})
	const sent = 200
	for range sent {
		if err := c.Send(&SendMsg{Data: payload(1000), Remote: s.LocalAddr()}); err != nil {
			t.Fatal(err)
		}
	}
	m := RecvMsg{Buf: make([]byte, MinRecvBuffer)}
	// The drops are told with the first datagram queued after them.
	if err := s.Recv(&m); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(&SendMsg{Data: []byte("last"), Remote: s.LocalAddr()}); err != nil {
		t.Fatal(err)
	}
	for string(m.Buf[:m.N]) != "last" {
		if err := s.Recv(&m); err != nil {
			t.Fatal(err)
		}
	}
	got, lost := s.Stats().RecvDatagrams.Load(), s.Stats().RxQueueOverflow.Load()
	if got+lost != sent+1 || lost == 0 {
		t.Errorf("%d received and %d lost of %d", got, lost, sent+1)
	}
}

func TestCaps(t *testing.T) {
	c := socket(t, "127.0.0.1:0", Config{}).Caps()
	if c.MaxSegments != MaxSegments || !c.GRO || !c.ECN || !c.DF || c.RecvBuffer < 4096 || c.SendBuffer < 4096 {
		t.Errorf("%+v", c)
	}
	c = socket(t, "127.0.0.1:0", Config{GSO: Off, GRO: Off, RecvBuffer: 20000, SendBuffer: 30000}).Caps()
	// The kernel books twice what was asked for.
	if c.MaxSegments != 1 || c.GRO || c.RecvBuffer != 40000 || c.SendBuffer != 60000 {
		t.Errorf("%+v", c)
	}
	if c = socket(t, "127.0.0.1:0", Config{MaxSegments: 10}).Caps(); c.MaxSegments != 10 {
		t.Errorf("%+v", c)
	}
}

func TestFileAndBack(t *testing.T) {
	c, s, to := families[2].pair(t, Config{})
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	// A process that only keeps the file must not be woken for each datagram.
	if err := f.SetReadDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
		t.Errorf("the file is in the poller: %v", err)
	}
	s.Close()
	again, err := FromFile(f, Config{})
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	guard(t, again)
	if again.LocalAddr() != s.LocalAddr() {
		t.Errorf("address %s became %s", s.LocalAddr(), again.LocalAddr())
	}
	if err := c.Send(&SendMsg{Data: payload(5000), SegmentSize: 1000, Remote: to}); err != nil {
		t.Fatal(err)
	}
	if got, m, _ := receive(t, again, 5000); !bytes.Equal(got, payload(5000)) || m.Local != to.Addr() {
		t.Errorf("to %s", m.Local)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := FromFile(r, Config{}); err == nil {
		t.Error("a pipe was taken for a socket")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tf, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer tf.Close()
	if _, err := FromFile(tf, Config{}); err == nil {
		t.Error("a TCP socket was taken for a UDP socket")
	}
}

// The hot path allocates nothing: not a batch sent, not a batch received.
func TestZeroAlloc(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c, s, to := f.pair(t, Config{})
			out := SendMsg{Data: payload(46 * 1400), SegmentSize: 1400, Remote: to, ECN: ECT0}
			back := SendMsg{Data: payload(100), ECN: ECT0}
			in := RecvMsg{Buf: make([]byte, MinRecvBuffer)}
			n := testing.AllocsPerRun(200, func() {
				if err := c.Send(&out); err != nil {
					t.Fatal(err)
				}
				if err := s.Recv(&in); err != nil {
					t.Fatal(err)
				}
				back.Remote, back.Local, back.IfIndex = in.Remote, in.Local, in.IfIndex
				if err := s.Send(&back); err != nil {
					t.Fatal(err)
				}
				if err := c.Recv(&in); err != nil {
					t.Fatal(err)
				}
			})
			if n != 0 {
				t.Errorf("%v allocations a round trip, want 0", n)
			}
		})
	}
}

// What the kernel writes is checked like anything else: no control data, cut
// or lying about its length, makes the parser leave its bounds.
func FuzzControl(f *testing.F) {
	ok := make([]byte, 64)
	binary.NativeEndian.PutUint64(ok, uint64(unix.CmsgLen(4)))
	binary.NativeEndian.PutUint32(ok[8:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(ok[12:], unix.UDP_GRO)
	binary.NativeEndian.PutUint32(ok[16:], 1200)
	f.Add(ok)
	f.Add(ok[:17])
	f.Add(bytes.Repeat([]byte{0xff}, 256))
	f.Add([]byte{})
	s := socket(f, "127.0.0.1:0", Config{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &receiver{sock: s}
		all := ctlBytes(&r.ctl)
		r.hdr.SetControllen(copy(all, b))
		m := RecvMsg{N: 5000, SegmentSize: 5000}
		r.control(&m)
		if m.SegmentSize < 1 || m.SegmentSize > m.N || m.ECN > 3 {
			t.Errorf("%+v", m)
		}
	})
}
