package udp

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// writable calls functions when the send buffer has room again. It starts one
// goroutine a socket when somebody waits, which ends when nobody does.
type writable struct {
	watch   watch
	mu      sync.Mutex
	waiting []func()
	running bool
	ready   func(fd uintptr) bool // made once
}

// maxWaiting bounds the list: one entry a connection, by contract.
const maxWaiting = 1 << 16

func (w *writable) init(s *Socket) {
	w.watch.init(s, unix.EPOLLOUT)
	w.ready = func(uintptr) bool {
		// Events are edges. Room that appeared between the failed send and now
		// made its edge already, so ask for the state; an edge after this question
		// wakes the poller.
		room := true
		_ = s.rc.Control(func(fd uintptr) { // an error: the socket is closed
			p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			n, err := unix.Poll(p[:], 0)
			if n > 0 && p[0].Revents&(unix.POLLOUT|unix.POLLERR) == unix.POLLERR && s.zc.held.Load() > 0 {
				// Completions of sends without a copy are no room. Nobody else may be
				// reading, and while they lie there nothing new wakes the poller.
				s.zc.tryReap(fd)
				n, err = unix.Poll(p[:], 0)
			}
			room = err != nil && err != unix.EINTR || n > 0
		})
		return room
	}
}

// wait waits for room, or for the end of the socket. An error says that
// waiting is impossible; then the next Send will tell why.
func (w *writable) wait() error {
	if err := w.watch.open(); err != nil {
		return err
	}
	if err := w.watch.ask(true); err != nil {
		return err
	}
	if err := w.watch.wait(w.ready); err != nil {
		return err
	}
	return w.watch.ask(false) // or every datagram would be an event
}

// OnWritable calls f once when Send may succeed again. See PacketConn.
func (s *Socket) OnWritable(f func()) {
	w := &s.writable
	w.mu.Lock()
	if len(w.waiting) >= maxWaiting {
		// The caller broke its promise of one entry a connection; losing a
		// wake-up would stop a connection for good, waking it early does not.
		w.mu.Unlock()
		go f()
		return
	}
	w.waiting = append(w.waiting, f)
	start := !w.running
	w.running = true
	w.mu.Unlock()
	if start {
		go w.run()
	}
}

func (w *writable) run() {
	for {
		if err := w.wait(); err != nil && !w.watch.sock.closed.Load() {
			time.Sleep(time.Millisecond) // no descriptors left: those who wait must not spin
		}
		w.mu.Lock()
		list := w.waiting
		w.waiting = nil
		if len(list) == 0 {
			w.running = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		for _, f := range list {
			f()
		}
	}
}
