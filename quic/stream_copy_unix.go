//go:build unix && !linux

package quic

import (
	"golang.org/x/sys/unix"
)

// peek reports whether a socket has bytes or the end of the stream to read.
func peek(fd uintptr) (bool, error) {
	var one [1]byte
	for {
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false, nil
		}
		return err == nil, err
	}
}
