package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// direct is receiving without the runtime's poller: the thread waits in the
// kernel for this one socket. For an exchange of small messages that saves the
// system calls of the poller and the switches between goroutines, which cost
// more than the message. Where that would keep the only processor there is for
// goroutines, it looks for what arrives and lets others run between looks, and
// waits in the poller when it has looked long enough.
type direct struct {
	mu     sync.Mutex
	event  *os.File // an eventfd, written to interrupt the wait; opened when first used
	closed bool
	polls  bool // it waits, or is about to wait, in the poller

	pending atomic.Bool // interrupted, and not yet told so
	spin    spin
	share   bool             // others run meanwhile
	look    func(fd uintptr) // made once
	bell    bell

	fds   [2]unix.PollFd
	wait  func(fd uintptr) // made once
	errno unix.Errno
}

// open makes the eventfd.
func (d *direct) open(s *Socket) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.event != nil || d.closed {
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("%w (is the limit of open files reached?)", os.NewSyscallError("eventfd", err))
	}
	d.event, d.look = os.NewFile(uintptr(fd), "eventfd"), s.looks
	d.wait = func(sock uintptr) {
		d.fds = [2]unix.PollFd{{Fd: int32(sock), Events: unix.POLLIN}, {Fd: int32(fd), Events: unix.POLLIN}}
		_, _, d.errno = unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&d.fds)), uintptr(len(d.fds)), 0, 0, 0, 0)
	}
	return nil
}

// interrupt ends the wait under way, or else the next one.
func (s *Socket) interrupt() {
	d := &s.direct
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.event == nil {
		return
	}
	d.pending.Store(true)
	if d.polls {
		s.recv.watch.interrupt(true)
		return
	}
	d.write()
}

// write makes the eventfd readable. Called with the lock held.
func (d *direct) write() {
	// It takes 2^64-1 of these; closed, there is nobody to interrupt.
	_, _ = d.event.Write(binary.NativeEndian.AppendUint64(nil, 1))
}

// interrupted takes an interrupt that was written to the eventfd.
func (d *direct) interrupted() error {
	var n [8]byte
	_, _ = d.event.Read(n[:]) // there is something to read
	d.pending.Store(false)
	return ErrInterrupted
}

// close frees the eventfd. Nobody may be waiting.
func (d *direct) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.event != nil {
		_ = d.event.Close()
		d.event = nil
	}
	d.bell.close()
}

// RecvDirect is Recv, but it returns ErrInterrupted when Interrupt was called. It
// does not call Idle. It waits in the kernel with the thread it runs on, and so
// keeps the processor that goroutines run on until the runtime's monitor takes it
// away; with share it does not, and lets others run while it looks.
func (s *Socket) RecvDirect(m *RecvMsg, share bool) error {
	if len(m.Buf) < MinRecvBuffer {
		return ErrShortBuffer
	}
	r, d := &s.recv, &s.direct
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(r.watch.open(), d.open(s)); err != nil {
		return s.recvError(err)
	}
	var err error
	if share {
		err = d.bell.open()
	} else {
		err = r.watch.ask(false)
	}
	if err != nil {
		return s.recvError(err)
	}
	r.iov.Base = &m.Buf[0]
	r.iov.SetLen(len(m.Buf))
	defer func() { r.iov.Base = nil }()
	for {
		if s.closed.Load() || s.drain.active.Load() {
			return net.ErrClosed
		}
		found, err := s.spin(share)
		switch {
		case err != nil:
		case found && share:
			err = r.counted()
		case found:
		case share:
			err = s.pollDirect()
		default:
			err = s.waitDirect()
		}
		switch {
		case err == ErrInterrupted:
			return err
		case err != nil:
			return s.recvError(err)
		case r.errno == 0 && r.n > 0:
			return r.fill(m)
		case r.errno == unix.EAGAIN && s.zc.held.Load() > 0:
			_ = s.rc.Control(s.zc.reaper) // completions end the wait, too, until they are read
		case r.errno != 0 && r.errno != unix.EAGAIN && !transient(r.errno):
			return s.recvError(r.errno)
		}
	}
}

// waitDirect waits in the kernel, and looks once.
func (s *Socket) waitDirect() error {
	r, d := &s.recv, &s.direct
	if err := s.rc.Control(d.wait); err != nil {
		return err
	}
	switch {
	case d.errno == unix.EINTR:
		r.errno, r.n = 0, 0 // as if nothing but an empty datagram had come
		return nil
	case d.errno != 0:
		return d.errno
	case d.fds[1].Revents != 0:
		return d.interrupted()
	}
	return s.rc.Control(r.now)
}

// pollDirect waits in the poller.
func (s *Socket) pollDirect() error {
	r, d := &s.recv, &s.direct
	d.mu.Lock()
	if d.pending.Load() {
		defer d.mu.Unlock()
		return d.interrupted()
	}
	d.polls = true
	d.mu.Unlock()
	err := r.wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.polls = false
	late := errors.Is(err, os.ErrDeadlineExceeded)
	if d.pending.Load() {
		r.watch.interrupt(false)
		if !late { // something came, too: the next call is interrupted
			d.write()
			return err
		}
		d.pending.Store(false)
		return ErrInterrupted
	}
	if late { // the socket was replaced
		r.errno, r.n = 0, 0
		return nil
	}
	return err
}

// Interrupt makes the RecvDirect under way, or else the next one, return
// ErrInterrupted.
func (s *Socket) Interrupt() { s.interrupt() }
