package udp

import "golang.org/x/sys/windows"

// What this system calls a datagram over the MTU and a full queue.
const (
	errTooLong   = windows.WSAEMSGSIZE
	errNoBuffers = windows.WSAENOBUFS
)

// dontFragment sets DF on a socket of IPv4 (four), IPv6 or both families, and
// says whether the system agreed for all of them.
func dontFragment(fd uintptr, four, six bool) bool {
	const ( // ws2ipdef.h
		ipDontFragment = 14
		ipv6DontFrag   = 14
	)
	ok := true
	if four {
		ok = windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IP, ipDontFragment, 1) == nil
	}
	if six {
		ok = windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, ipv6DontFrag, 1) == nil && ok
	}
	return ok
}
