package tcpio

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// unpaced takes a socket to this host itself out of the system's congestion
// control, which may pace, as BBR does: there is no path to spare, and every pause
// is a timer's interrupt, a fifth of what a relay costs. Reno is in every kernel and
// allowed to everybody. It has to be chosen before the socket is connected or
// listens, for what was paced once remains so. Where that fails nothing is lost
// but time. It is for net.Dialer.Control and net.ListenConfig.Control.
func unpaced(_, address string, c syscall.RawConn) error {
	if to, err := netip.ParseAddrPort(address); err != nil || !to.Addr().Unmap().IsLoopback() {
		return nil
	}
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
	})
}
