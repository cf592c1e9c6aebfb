//go:build unix

package nfs

import (
	"errors"
	"syscall"
)

// reuseAddress lets connections to different backends share a source port; the
// few privileged ones would otherwise be the limit for all backends together.
func reuseAddress(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	})
	return errors.Join(err, failed)
}

// addressTaken reports that another source port is worth a try.
func addressTaken(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}
