//go:build darwin || freebsd

package udp

import "golang.org/x/sys/unix"

// dontFragment sets DF on a socket of IPv4 (four), IPv6 or both families, and
// says whether the system agreed for all of them.
func dontFragment(fd uintptr, four, six bool) bool {
	ok := true
	if four {
		ok = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_DONTFRAG, 1) == nil
	}
	if six {
		ok = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1) == nil && ok
	}
	return ok
}
