package tlshd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

const (
	socketNetwork = "unix"
	fdSpace       = 0
)

func parseFDs([]byte) []int { return nil }
func closeFDs([]int)        {}

func connFromFile(f *os.File) (*net.UnixConn, error) {
	_ = f.Close()
	return nil, fmt.Errorf("tlshd: passing descriptors: %w", errors.ErrUnsupported)
}

func connFromFD(int) (*net.UnixConn, error) {
	return nil, fmt.Errorf("tlshd: passing descriptors: %w", errors.ErrUnsupported)
}

func sendFD(*net.UnixConn, func([]byte) error) error {
	return fmt.Errorf("tlshd: passing descriptors: %w", errors.ErrUnsupported)
}

// SendConn is not available on Windows.
func SendConn(_, _ *net.UnixConn) error {
	return fmt.Errorf("tlshd: passing descriptors: %w", errors.ErrUnsupported)
}

// RecvConn is not available on Windows.
func RecvConn(*net.UnixConn) (*net.UnixConn, error) {
	return nil, fmt.Errorf("tlshd: passing descriptors: %w", errors.ErrUnsupported)
}

// socketPair goes through a listener in a folder of its own, because Windows
// has Unix sockets but no pairs of them.
func socketPair() (a, b *net.UnixConn, err error) {
	dir, err := os.MkdirTemp("", "tlshd")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	addr := &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if a, err = net.DialUnix("unix", nil, addr); err != nil {
		return nil, nil, err
	}
	if b, err = l.AcceptUnix(); err != nil {
		_ = a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// peerUID returns our own id: the socket's folder is what protects it here.
func peerUID(*net.UnixConn) (int, error) { return os.Geteuid(), nil }
