package udp

import (
	"errors"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// direct is receiving without the runtime's poller: the thread waits in the
// kernel for this one socket. For an exchange of small messages that saves the
// system calls of the poller, and the wake-ups of threads that have nothing to do.
type direct struct {
	event *os.File // an eventfd, written to interrupt the wait
	fds   [2]unix.PollFd
	wait  func(fd uintptr) // made once
	errno unix.Errno
}

func (d *direct) init() error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	d.event = os.NewFile(uintptr(fd), "udp interrupt")
	d.wait = func(fd uintptr) {
		d.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		d.fds[1] = unix.PollFd{Fd: int32(d.event.Fd()), Events: unix.POLLIN}
		_, _, d.errno = unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&d.fds)), 2, 0, 0, 0, 0)
	}
	return nil
}

// Watch turns the poller's watch over the socket on and off. Recv needs it,
// RecvDirect is better without.
func (s *Socket) Watch(on bool) error {
	e := unix.EpollEvent{}
	if on {
		e.Events = inputEvents
	}
	var fd int
	if err := control(s.rc, func(sock int) error { fd = sock; return nil }); err != nil {
		return net.ErrClosed
	}
	err := control(s.ready, func(ep int) error { return unix.EpollCtl(ep, unix.EPOLL_CTL_MOD, fd, &e) })
	if s.done.Load() {
		return net.ErrClosed
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// RecvDirect is Recv, but it waits in the kernel, with the thread it runs on,
// and ends with ErrInterrupted when Interrupt is called or was called before.
// It does not call Idle.
func (s *Socket) RecvDirect(m *RecvMsg) error {
	if len(m.Buf) < MinRecvBuffer {
		return ErrShortBuffer
	}
	r, d := &s.recv, &s.direct
	r.mu.Lock()
	defer r.mu.Unlock()
	r.iov.Base = &m.Buf[0]
	r.iov.SetLen(len(m.Buf))
	defer func() { r.iov.Base = nil }()
	for {
		if err := s.rc.Control(d.wait); err != nil || s.done.Load() {
			return net.ErrClosed
		}
		if d.errno != 0 && d.errno != unix.EINTR {
			return s.recvError(d.errno)
		}
		if d.errno == 0 && d.fds[1].Revents != 0 {
			return s.interrupted()
		}
		if err := s.rc.Control(r.now); err != nil {
			return net.ErrClosed
		}
		switch {
		case r.errno == unix.EAGAIN || r.errno == 0 && r.n == 0:
		case r.errno != 0 && !transient(r.errno):
			return s.recvError(r.errno)
		case r.errno == 0:
			return r.fill(m)
		}
	}
}

// Interrupt makes the RecvDirect under way, or else the next one, return
// ErrInterrupted.
func (s *Socket) Interrupt() {
	one := [8]byte{1}
	if _, err := s.direct.event.Write(one[:]); err != nil && !errors.Is(err, os.ErrClosed) {
		panic("udp: interrupt: " + err.Error()) // an eventfd takes 2^64-1 of these
	}
}

// interrupted takes the interruption.
func (s *Socket) interrupted() error {
	var n [8]byte
	_, _ = s.direct.event.Read(n[:]) // readable: it does not block
	return ErrInterrupted
}
