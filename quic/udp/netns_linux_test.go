package udp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/internal/inchild"
)

// inNamespace runs the calling test in a network namespace of its own.
func inNamespace(t *testing.T) bool {
	t.Helper()
	return inchild.Run(t, inchild.Network())
}

// attribute is one attribute of a netlink message.
func attribute(typ uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	return append(append(b, data...), make([]byte, -len(data)&3)...)
}

// netlink makes one request to create something.
func netlink(t *testing.T, typ uint16, body []byte) {
	t.Helper()
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, typ)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg = append(append(msg, make([]byte, 8)...), body...)
	nl, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	must(t, err)
	defer unix.Close(nl)
	must(t, unix.Sendto(nl, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	ack := make([]byte, 4096)
	n, _, err := unix.Recvfrom(nl, ack, 0)
	must(t, err)
	if n < unix.SizeofNlMsghdr+4 {
		t.Fatalf("netlink answered %d bytes", n)
	}
	if errno := -int32(binary.NativeEndian.Uint32(ack[unix.SizeofNlMsghdr:])); errno != 0 {
		t.Fatalf("netlink request %d: %v", typ, unix.Errno(errno))
	}
}

// linkLocal is the address deadEnd gives its interface.
var linkLocal = netip.MustParseAddr("fe80::9:8:1")

// deadEnd makes an interface with MTU 1500, address 10.9.8.1/24 and linkLocal.
// Nobody answers ARP there: what is sent to a neighbour waits in the kernel,
// booked on the sender's buffer, until the kernel gives the neighbour up.
// When it returns the kernel takes packets to these addresses for its own.
func deadEnd(t *testing.T) {
	t.Helper()
	routed := awaitLocalRoute(t, linkLocal)
	body := make([]byte, unix.SizeofIfInfomsg)
	body = append(body, attribute(unix.IFLA_IFNAME, []byte("dead0\x00"))...)
	body = append(body, attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, []byte("veth")))...)
	netlink(t, unix.RTM_NEWLINK, body)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	all, err := net.Interfaces() // the loopback, dead0 and its other end
	must(t, err)
	for _, ifi := range all {
		ifr, err := unix.NewIfreq(ifi.Name)
		must(t, err)
		ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		must(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
		if ifi.Name != "dead0" {
			continue
		}
		for _, family := range []netip.Prefix{netip.MustParsePrefix("10.9.8.1/24"), netip.PrefixFrom(linkLocal, 64)} {
			// struct ifaddrmsg: family, prefix length, flags, scope, index.
			body := []byte{unix.AF_INET, byte(family.Bits()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE}
			if family.Addr().Is6() {
				body[0], body[3] = unix.AF_INET6, unix.RT_SCOPE_LINK
			}
			body = binary.NativeEndian.AppendUint32(body, uint32(ifi.Index))
			netlink(t, unix.RTM_NEWADDR, append(body, attribute(unix.IFA_LOCAL, family.Addr().AsSlice())...))
		}
	}
	routed()
}

// awaitLocalRoute listens for the route that makes addr the host's own. The
// kernel adds it from a work queue, some time after RTM_NEWADDR was answered;
// until then a packet to the address leaves on the link. The function it
// returns waits for the route.
func awaitLocalRoute(t *testing.T, addr netip.Addr) func() {
	t.Helper()
	nl, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(func() { unix.Close(nl) })
	must(t, unix.Bind(nl, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_IPV6_ROUTE - 1)}))
	must(t, unix.SetsockoptTimeval(nl, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}))
	dst := attribute(unix.RTA_DST, addr.AsSlice())
	return func() {
		t.Helper()
		for b := make([]byte, 4096); ; {
			n, _, err := unix.Recvfrom(nl, b, 0)
			if err != nil {
				t.Fatalf("waiting for the local route to %s: %v", addr, err)
			}
			// struct nlmsghdr, struct rtmsg with the table as its fifth byte, attributes.
			if n > unix.SizeofNlMsghdr+unix.SizeofRtMsg &&
				binary.NativeEndian.Uint16(b[4:]) == unix.RTM_NEWROUTE &&
				b[unix.SizeofNlMsghdr+4] == unix.RT_TABLE_LOCAL && bytes.Contains(b[:n], dst) {
				return
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The send buffer really is full: Send says so at once, and OnWritable calls
// everybody once there is room, and not before.
func TestFullSocket(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	deadEnd(t)
	s := socket(t, "10.9.8.1:0", Config{SendBuffer: 4096})
	m := SendMsg{Data: payload(1200), Remote: netip.MustParseAddrPort("10.9.8.2:9")}
	fill := func() int {
		for n := 0; n < 1000; n++ {
			if err := s.Send(&m); err == ErrWouldBlock {
				if m.Sent != 0 {
					t.Fatalf("sent %d and would block", m.Sent)
				}
				return n
			} else if err != nil && !errors.Is(err, unix.EHOSTUNREACH) {
				t.Fatal(err)
			}
		}
		t.Fatal("the buffer never fills")
		return 0
	}
	t.Logf("full after %d datagrams", fill())
	start := time.Now()
	const waiters = 3
	called := make(chan bool, 2*waiters)
	for range waiters {
		s.OnWritable(func() { called <- true })
	}
	for range waiters {
		select {
		case <-called:
		case <-time.After(30 * time.Second):
			t.Fatal("nobody called")
		}
	}
	t.Logf("writable after %v", time.Since(start).Round(time.Millisecond))
	if fill() == 0 {
		t.Error("called, but there is no room")
	}
	if len(called) != 0 {
		t.Errorf("called %d times too often", len(called))
	}
	// Waiters of a socket that is closed are called, too.
	closed := make(chan bool)
	s.OnWritable(func() { close(closed) })
	s.Close()
	<-closed
}

// A datagram over the interface's MTU is refused, alone and in a batch, and
// never sent in fragments; GSO is not blamed.
func TestMessageTooLong(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	deadEnd(t)
	for _, addr := range []string{"10.9.8.1:0", "[::]:0"} {
		s := socket(t, addr, Config{})
		to := netip.MustParseAddrPort("10.9.8.2:9")
		for _, n := range []int{1473, 4 * 1473} {
			m := SendMsg{Data: payload(n), SegmentSize: 1473, Remote: to}
			if err := s.Send(&m); err != ErrMessageTooLong || m.Sent != 0 {
				t.Errorf("%s: %d bytes in segments of 1473: sent %d, %v", addr, n, m.Sent, err)
			}
		}
		if err := s.Send(&SendMsg{Data: payload(4 * 1472), SegmentSize: 1472, Remote: to}); err != nil {
			t.Errorf("%s: segments of 1472: %v", addr, err)
		}
		if s.Caps().MaxSegments != MaxSegments {
			t.Errorf("%s: GSO was given up", addr)
		}
	}
}

func TestLinkLocalZone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	deadEnd(t)
	s := socket(t, "[::]:0", Config{})
	to := netip.AddrPortFrom(linkLocal.WithZone("dead0"), s.LocalAddr().Port())
	must(t, s.Send(&SendMsg{Data: []byte("zone"), Remote: to}))
	got, m, _ := receive(t, s, 4)
	if string(got) != "zone" || m.Remote != to || m.Local != linkLocal {
		t.Errorf("%q from %s to %s, want %s", got, m.Remote, m.Local, to)
	}
	// Without a zone the interface number says which link.
	index, err := s.zones.index("dead0")
	must(t, err)
	must(t, s.Send(&SendMsg{Data: []byte("index"), Remote: netip.AddrPortFrom(linkLocal, to.Port()), IfIndex: int(index), Local: m.Local}))
	if got, _, _ := receive(t, s, 5); string(got) != "index" {
		t.Errorf("%q", got)
	}
}
