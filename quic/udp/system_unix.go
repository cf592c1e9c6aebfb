//go:build unix && !linux

package udp

import "golang.org/x/sys/unix"

// What this system calls a datagram over the MTU and a full queue.
const (
	errTooLong   = unix.EMSGSIZE
	errNoBuffers = unix.ENOBUFS
)
