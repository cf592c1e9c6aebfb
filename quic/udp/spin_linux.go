package udp

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

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
	// spinLooks is how many looks pass between two looks at the clock.
	spinLooks = 4
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

// spin looks for a datagram for a moment, and reports whether it found one. With
// share it lets other goroutines run meanwhile.
func (s *Socket) spin(share bool) (found bool, err error) {
	r, d := &s.recv, &s.direct
	if !d.spin.worth() {
		return false, nil
	}
	d.share = share
	if err := s.rc.Control(d.look); err != nil {
		return false, err
	}
	if r.errno != 0 && r.errno != unix.EAGAIN && !transient(r.errno) {
		return false, r.errno
	}
	found = r.errno == 0 && r.n > 0
	if found || !d.pending.Load() {
		d.spin.ended(found)
	}
	return found, nil
}

// looks receives until there is something, for spinTime at most.
func (s *Socket) looks(fd uintptr) {
	r, d := &s.recv, &s.direct
	r.errno = unix.EAGAIN
	now := time.Now()
	end := now.Add(spinTime)
	for i := 1; !d.pending.Load(); i++ {
		if d.share && i%spinLooks == 1 {
			d.bell.giveWay(now)
		}
		// Who is to answer may be waiting for this very processor.
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		r.receive(fd)
		if r.errno == 0 && r.n > 0 || r.errno != 0 && r.errno != unix.EAGAIN && !transient(r.errno) {
			return
		}
		if i%spinLooks == 0 {
			if now = time.Now(); !now.Before(end) {
				return
			}
		}
	}
}

// A bell has the runtime ask its poller. It does so where a goroutine waits and no
// other can run; one that goes on looking would leave it to the monitor, which
// asks every 10 milliseconds. So the one who looks waits now and then for
// something that has happened.
type bell struct {
	mu     sync.Mutex // guards file against close
	file   *os.File   // an eventfd, for the poller; opened when first used
	closed bool

	rc   syscall.RawConn // the rest is only touched by the one who looks
	rung time.Time
	hit  bool
	ring func(fd uintptr) bool // made once
}

func (b *bell) open() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rc != nil || b.closed {
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("%w (is the limit of open files reached?)", os.NewSyscallError("eventfd", err))
	}
	file := os.NewFile(uintptr(fd), "eventfd")
	rc, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return err
	}
	one := binary.NativeEndian.AppendUint64(nil, 1)
	b.file, b.rc = file, rc
	b.ring = func(fd uintptr) bool {
		if b.hit {
			return true
		}
		// Each write is an event, and it takes 2^64-1 to fill it.
		_, err := unix.Write(int(fd), one)
		b.hit = err == nil
		return err != nil
	}
	return nil
}

// giveWay lets other goroutines run, at least every spinTime those, too, that the
// poller knows of.
func (b *bell) giveWay(now time.Time) {
	if now.Sub(b.rung) < spinTime {
		runtime.Gosched()
		return
	}
	b.rung, b.hit = now, false
	_ = b.rc.Read(b.ring) // an error: it is closed
}

func (b *bell) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.file != nil {
		_ = b.file.Close()
	}
}
