package quic

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// peek reports whether a socket has bytes or the end of the stream to read. It
// does not block, so it does not tell the scheduler that it might.
func peek(fd uintptr) (bool, error) {
	var one [1]byte
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&one[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return true, nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false, nil
		}
		return false, errno
	}
}
