//go:build unix && !linux

package tlshd

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	socketType    = unix.SOCK_STREAM
	socketNetwork = "unix"
)

// cloexecPair holds ForkLock: there is no flag that makes the pair closed on
// exec in one step.
func cloexecPair() ([2]int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	return fds, err
}

// peerUID returns our own id: the socket's mode is what protects it here.
func peerUID(*net.UnixConn) (int, error) { return os.Geteuid(), nil }
