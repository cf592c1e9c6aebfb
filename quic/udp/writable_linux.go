package udp

import (
	"sync"

	"golang.org/x/sys/unix"
)

// writable calls functions when the send buffer has room again. It starts one
// goroutine a socket when somebody waits, which ends when nobody does.
type writable struct {
	sock    *Socket
	mu      sync.Mutex
	waiting []func()
	running bool
	ready   func(fd uintptr) bool // made once
}

// maxWaiting bounds the list: one entry a connection, by contract.
const maxWaiting = 1 << 16

func (w *writable) init(s *Socket) {
	w.sock = s
	w.ready = func(fd uintptr) bool {
		// The poller reports edges. Room that appeared between the failed send
		// and now made its edge already, so ask for the state; an edge after
		// this question wakes the poller.
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p[:], 0)
		if n > 0 && p[0].Revents&(unix.POLLOUT|unix.POLLERR) == unix.POLLERR && s.zc.held.Load() > 0 {
			// Completions of sends without a copy are no room. Nobody else may be
			// reading, and while they lie there nothing new wakes the poller.
			s.zc.tryReap(fd)
			n, err = unix.Poll(p[:], 0)
		}
		return err != nil && err != unix.EINTR || n > 0
	}
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
		// An error means that the socket is closed: those who wait learn that
		// from their next Send.
		_ = w.sock.rc.Write(w.ready)
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
