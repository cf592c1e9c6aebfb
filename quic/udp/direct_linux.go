package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// direct is receiving without the runtime's poller: the thread waits in the
// kernel for this one socket. For an exchange of small messages that saves the
// system calls of the poller and the switches between goroutines, which cost
// more than the message.
type direct struct {
	mu     sync.Mutex
	event  *os.File // an eventfd, written to interrupt the wait; opened when first used
	closed bool

	pending atomic.Bool // interrupted, and not yet told so
	spin    spin

	fds   [2]unix.PollFd
	wait  func(fd uintptr) // made once
	errno unix.Errno
}

// open makes the eventfd.
func (d *direct) open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.event != nil || d.closed {
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("%w (is the limit of open files reached?)", os.NewSyscallError("eventfd", err))
	}
	d.event = os.NewFile(uintptr(fd), "eventfd")
	d.wait = func(sock uintptr) {
		d.fds = [2]unix.PollFd{{Fd: int32(sock), Events: unix.POLLIN}, {Fd: int32(fd), Events: unix.POLLIN}}
		_, _, d.errno = unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&d.fds)), uintptr(len(d.fds)), 0, 0, 0, 0)
	}
	return nil
}

// interrupt ends the wait under way, or else the next one.
func (d *direct) interrupt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.event != nil {
		d.pending.Store(true)
		// It takes 2^64-1 of these; closed, there is nobody to interrupt.
		_, _ = d.event.Write(binary.NativeEndian.AppendUint64(nil, 1))
	}
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
}

// RecvDirect is Recv, but it waits in the kernel, with the thread it runs on,
// and returns ErrInterrupted when Interrupt was called. It does not call Idle.
func (s *Socket) RecvDirect(m *RecvMsg) error {
	if len(m.Buf) < MinRecvBuffer {
		return ErrShortBuffer
	}
	r, d := &s.recv, &s.direct
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(r.watch.open(), d.open()); err != nil {
		return s.recvError(err)
	}
	if err := r.watch.ask(false); err != nil {
		return s.recvError(err)
	}
	r.iov.Base = &m.Buf[0]
	r.iov.SetLen(len(m.Buf))
	defer func() { r.iov.Base = nil }()
	for {
		if s.closed.Load() || s.drain.active.Load() {
			return net.ErrClosed
		}
		if found, err := s.spin(); err != nil {
			return s.recvError(err)
		} else if found {
			return r.fill(m)
		}
		if err := s.rc.Control(d.wait); err != nil {
			return s.recvError(err)
		}
		if d.errno != 0 {
			if d.errno != unix.EINTR {
				return s.recvError(d.errno)
			}
			continue
		}
		if d.fds[1].Revents != 0 {
			var n [8]byte
			_, _ = d.event.Read(n[:]) // there is something to read
			d.pending.Store(false)
			return ErrInterrupted
		}
		if err := s.rc.Control(r.now); err != nil {
			return s.recvError(err)
		}
		switch {
		case r.errno == 0 && r.n > 0:
			return r.fill(m)
		case r.errno == unix.EAGAIN && s.zc.held.Load() > 0:
			_ = s.rc.Control(s.zc.reaper) // completions end the wait, too, until they are read
		case r.errno != 0 && r.errno != unix.EAGAIN && !transient(r.errno):
			return s.recvError(r.errno)
		}
	}
}

// A spin decides whether to look again and again for a moment before waiting in
// the kernel. An answer often takes less time than to put a processor to sleep
// and to wake it, which on a virtual machine costs 50 microseconds each time: the
// kernel then takes one processor for the asking process and the other for the
// answering one, each of which sleeps until the other has worked. Where answers
// take longer, it is tried less and less often.
type spin struct{ pause, skip int } // waits

const (
	// spinTime is how long to look. The processor is offered to others between looks.
	spinTime = 100 * time.Microsecond
	// maxSpinPause is how many waits pass between two attempts that were in vain.
	maxSpinPause = 1<<10 - 1
)

func (p *spin) worth() bool {
	if p.skip > 0 {
		p.skip--
		return false
	}
	return true
}

func (p *spin) ended(found bool) {
	if found {
		p.pause = 0
		return
	}
	p.pause = min(2*p.pause+1, maxSpinPause)
	p.skip = p.pause
}

// spin looks for a datagram for a moment, and reports whether it found one.
func (s *Socket) spin() (found bool, err error) {
	r, d := &s.recv, &s.direct
	if !d.spin.worth() {
		return false, nil
	}
	for end := time.Now().Add(spinTime); !found && time.Now().Before(end); {
		if d.pending.Load() {
			return false, nil
		}
		// Who is to answer may be waiting for this very processor.
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		if err := s.rc.Control(r.now); err != nil {
			return false, err
		}
		if r.errno != 0 && r.errno != unix.EAGAIN && !transient(r.errno) {
			return false, r.errno
		}
		found = r.errno == 0 && r.n > 0
	}
	d.spin.ended(found)
	return found, nil
}

// Interrupt makes the RecvDirect under way, or else the next one, return
// ErrInterrupted.
func (s *Socket) Interrupt() { s.direct.interrupt() }
