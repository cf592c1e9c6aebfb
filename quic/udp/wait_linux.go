package udp

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The runtime's poller asks for every event of a descriptor, and a UDP socket
// reports that it can be written to each time a datagram leaves it: with every
// send that wakes whichever thread waits in the poller, often one that sleeps
// on another processor, for nothing. So the socket is kept out of that poller.
// An epoll instance that watches the socket for input only is what the runtime
// watches instead.

// detach takes pc's socket out of the runtime's poller. It closes pc.
func detach(pc *net.UDPConn) (sock, input *os.File, err error) {
	defer func() {
		if cerr := pc.Close(); err == nil && cerr != nil {
			err = cerr
		}
		if err != nil && sock != nil {
			sock.Close()
		}
	}()
	rc, err := pc.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var fd int
	err = control(rc, func(old int) (err error) {
		fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0)
		return os.NewSyscallError("F_DUPFD_CLOEXEC", err)
	})
	if err != nil {
		return nil, nil, err
	}
	// A blocking descriptor is what NewFile does not give to the poller. Nothing
	// here depends on the mode: all calls are made with MSG_DONTWAIT.
	err = os.NewSyscallError("fcntl", unix.SetNonblock(fd, false))
	sock = os.NewFile(uintptr(fd), "udp")
	if err != nil {
		return sock, nil, err
	}
	input, err = watchInput(fd)
	return sock, input, err
}

const inputEvents = unix.EPOLLIN | unix.EPOLLET&0xffffffff

// watchInput makes an epoll instance that is readable when fd has input.
func watchInput(fd int) (*os.File, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	e := unix.EpollEvent{Events: inputEvents}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		unix.Close(ep)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	if err := unix.SetNonblock(ep, true); err != nil {
		unix.Close(ep)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(ep), "udp input"), nil
}

// rawConns gives access to both.
func rawConns(sock, input *os.File) (s, in syscall.RawConn, err error) {
	if s, err = sock.SyscallConn(); err != nil {
		return nil, nil, fmt.Errorf("socket: %w", err)
	}
	if in, err = input.SyscallConn(); err != nil {
		return nil, nil, fmt.Errorf("epoll instance: %w", err)
	}
	return s, in, nil
}
