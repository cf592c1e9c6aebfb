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
}

// pollFor is how long, in milliseconds, a socket is asked at once for room: a
// socket that is being closed is held open meanwhile.
const pollFor = 20

// maxWaiting bounds the list: one entry a connection, by contract.
const maxWaiting = 1 << 16

func (w *writable) init(s *Socket) { w.sock = s }

// wait blocks until there is room or the socket is closed.
func (w *writable) wait() {
	for ready := false; !ready; {
		err := w.sock.rc.Control(func(fd uintptr) {
			p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			n, err := unix.Poll(p[:], pollFor)
			ready = err != nil && err != unix.EINTR || n > 0
		})
		if err != nil {
			return
		}
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
		w.wait() // if the socket was closed, those who wait learn that from their next Send
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
