package udp

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Waiting for a socket. Go's poller always asks the kernel for both directions
// of a descriptor. On a UDP socket every datagram that has left is such an
// event, so while a reader waits, every send would wake a thread for nothing:
// two context switches a batch. So the socket is kept from Go's poller. A watch
// is an epoll instance that asks for one direction of it, and Go's poller
// watches the instance, which is readable when something happened.
//
// A socket nobody reads from (the supervisor's, whose packet process has a
// duplicate) is not watched at all: its packets wake nobody in this process.

// A watch waits for one direction of a socket. It opens when it is first used.
type watch struct {
	sock   *Socket
	events uint32

	mu     sync.Mutex // guards what follows against close
	file   *os.File   // the epoll instance
	closed bool
	past   bool // the deadline has passed

	rc syscall.RawConn // of file; set before the first wait, by the one who waits
	on bool            // events are asked for; only touched by the one who waits

	// Of ask, which must not allocate.
	event          unix.EpollEvent
	ep             int
	failed         error
	withEp, withFd func(uintptr) // made once
}

func (w *watch) init(s *Socket, events uint32) {
	w.sock, w.events = s, events
	w.withFd = func(fd uintptr) {
		w.event.Fd = int32(fd)
		w.failed = unix.EpollCtl(w.ep, unix.EPOLL_CTL_MOD, int(fd), &w.event)
	}
	w.withEp = func(ep uintptr) {
		w.ep = int(ep)
		if err := s.rc.Control(w.withFd); err != nil {
			w.failed = err
		}
	}
}

// open prepares the watch and asks for its events.
func (w *watch) open() error {
	if w.rc != nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("udp: watch %s: %w (is the limit of open files reached?)", w.sock.local, os.NewSyscallError("epoll_create1", err))
	}
	err = unix.SetNonblock(ep, true) // what os.NewFile goes by
	if err == nil {
		err = control(w.sock.rc, func(fd int) error {
			return unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: w.events | unix.EPOLLET, Fd: int32(fd)})
		})
	}
	file := os.NewFile(uintptr(ep), "epoll")
	if err == nil && w.past {
		err = file.SetReadDeadline(longAgo)
	}
	if err == nil {
		w.rc, err = file.SyscallConn()
	}
	if err != nil {
		w.rc = nil
		file.Close()
		return fmt.Errorf("udp: watch %s: %w", w.sock.local, err)
	}
	w.file, w.on = file, true
	return nil
}

// wait calls try until it returns true, at once and then whenever the socket
// has had an event.
func (w *watch) wait(try func(uintptr) bool) error { return w.rc.Read(try) }

// ask switches events on or off. What is there already when they are switched on
// may be no event: the kernel tells of it only if the socket is not on the
// instance's list of those that are ready, where it may have been left by an
// earlier event, as nobody reads that list. So look again after switching them on.
func (w *watch) ask(on bool) error {
	if w.on == on {
		return nil
	}
	w.event.Events = 0
	if on {
		w.event.Events = w.events | unix.EPOLLET
	}
	if err := w.rc.Control(w.withEp); err != nil {
		return err
	}
	if w.failed != nil {
		return w.failed
	}
	w.on = on
	return nil
}

// expire makes wait fail with os.ErrDeadlineExceeded from now on.
func (w *watch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.past = true
	if w.file != nil {
		_ = w.file.SetReadDeadline(longAgo) // it is open and pollable
	}
}

// interrupt makes wait fail with os.ErrDeadlineExceeded until it is called with false.
func (w *watch) interrupt(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.past || w.file == nil {
		return
	}
	at := longAgo
	if !on {
		at = time.Time{}
	}
	_ = w.file.SetReadDeadline(at)
}

func (w *watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.file != nil {
		_ = w.file.Close()
	}
}
