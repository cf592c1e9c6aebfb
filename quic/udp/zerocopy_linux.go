package udp

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MSG_ZEROCOPY: the kernel sends from the caller's memory, and says later, on
// the socket's error queue, that it is done with it. In order:
//
//  1. A large send whose SendMsg.Buf is set goes out with MSG_ZEROCOPY; the
//     buffer is retained in the slot of the send's number. The kernel counts
//     such sends of a socket from 0, modulo 2^32; calibrate asks it where it is.
//  2. The reader finds the error queue whenever it finds nothing to receive
//     (completions wake the poller), senders look there when slots run out.
//  3. A completion is a range of numbers; their buffers are released.
//
// When all slots are taken, or the kernel has no room to remember, the send is
// made without: nobody waits for a completion but close.

const (
	// zerocopyMin is the least number of bytes: pinning the pages of less and
	// hearing of their completion costs more than copying. See docs/tuning.md.
	zerocopyMin = 32 << 10
	// maxPinned is the number of sends that may wait for completion, 4 MiB.
	maxPinned = 64
	// copiedLimit: so many completions in a row that tell of a copy switch
	// zero-copy off. Loopback and packet taps copy whatever is sent.
	copiedLimit = 8
	// originZerocopy is SO_EE_ORIGIN_ZEROCOPY.
	originZerocopy = 5
	// Closing waits for completions: a group's socket so long at once, because
	// its place in the group is taken until it is closed, any other later on.
	pinnedWaitGroup = 2 * time.Second
	pinnedWait      = 60 * time.Second
)

// zerocopy is a socket's sends that wait for completion.
type zerocopy struct {
	on   atomic.Bool  // still worth trying
	held atomic.Int32 // slots in use

	mu     sync.Mutex
	sock   *Socket
	reaper func(fd uintptr) // tryReap, made once
	least  int              // bytes worth it: zerocopyMin, or less in a benchmark
	ready  bool             // next is known
	closed bool
	base   uint32 // number of the oldest send that may wait
	next   uint32 // number of the next one
	slots  [maxPinned]*Buffer
	copied int // completions in a row that told of a copy
	hdr    unix.Msghdr
	ctl    [16]uint64
}

// abandoned are buffers that the kernel never gave back before its socket was
// closed for good: their memory must not be used for anything else.
var abandoned struct {
	mu   sync.Mutex
	bufs []*Buffer
}

// configure asks the kernel for zero-copy. Auto does without: up to the 64 KiB
// of a batch it gains nothing (docs/tuning.md).
func (z *zerocopy) configure(s *Socket, fd int, mode Mode) error {
	z.sock, z.least, z.reaper = s, zerocopyMin, z.tryReap
	if mode != On {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
		return fmt.Errorf("zerocopy is on, but SO_ZEROCOPY: %w (%w; Linux 5.0 has it for UDP, or use zerocopy: auto)", ErrNotSupported, err)
	}
	z.on.Store(true)
	return nil
}

// send makes one send, from the buffer if that is possible now.
func (z *zerocopy) send(w *sender, fd uintptr) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.claim(w, fd) {
		w.n, w.errno = z.sock.sendmsg(fd, &w.hdr, unix.MSG_ZEROCOPY)
		switch w.errno {
		case 0:
			w.pin.Retain()
			z.slots[z.next%maxPinned] = w.pin
			z.next++
			z.held.Add(1)
			z.sock.stats.ZerocopySends.Add(1)
			return
		case unix.ENOBUFS, unix.ENOMEM:
			// No memory for the completion (optmem_max), or too much of it is locked.
			z.resync(fd)
		default:
			z.resync(fd)
			return
		}
	}
	w.n, w.errno = z.sock.sendmsg(fd, &w.hdr, 0)
}

// claim makes sure that the next send has a slot.
func (z *zerocopy) claim(w *sender, fd uintptr) bool {
	if z.closed || !z.on.Load() {
		return false
	}
	if !z.ready && !z.calibrate(w, fd) {
		return false
	}
	if z.next-z.base >= maxPinned {
		z.reap(fd)
	}
	return z.on.Load() && z.next-z.base < maxPinned
}

// calibrate learns the number of the next send. The socket may be inherited,
// and then it has counted for another process. A batch of more datagrams than
// any kernel takes is refused after it got its number, and its completion is in
// the queue before the call returns.
func (z *zerocopy) calibrate(w *sender, fd uintptr) bool {
	var junk [4096]byte
	hdr, iov := w.hdr, unix.Iovec{Base: &junk[0]}
	iov.SetLen(len(junk))
	hdr.Iov = &iov
	ctl, used := w.ctl, w.used // without the segment size of the send under way
	w.putSegment(1)
	hdr.Control = (*byte)(unsafe.Pointer(&w.ctl))
	hdr.SetControllen(w.used)
	z.drainQueue(fd, nil)
	_, errno := z.sock.sendmsg(fd, &hdr, unix.MSG_ZEROCOPY)
	w.ctl, w.used = ctl, used
	found := false
	z.drainQueue(fd, func(_, hi uint32, _ bool) {
		if !found || int32(hi-z.next) >= 0 {
			z.next, found = hi+1, true
		}
	})
	if errno == 0 || !found {
		z.on.Store(false) // this kernel works otherwise than we know
		return false
	}
	z.base, z.ready = z.next, true
	return true
}

// resync accounts for a send that failed: it may have taken a number, and then
// its completion is there already.
func (z *zerocopy) resync(fd uintptr) {
	z.drainQueue(fd, func(lo, hi uint32, copied bool) {
		if hi == z.next {
			z.next++
		}
		z.complete(lo, hi, copied)
	})
}

// reap releases what the kernel is done with.
func (z *zerocopy) reap(fd uintptr) { z.drainQueue(fd, z.complete) }

// tryReap is reap for a reader, who never waits for a sender.
func (z *zerocopy) tryReap(fd uintptr) {
	if z.held.Load() > 0 && z.mu.TryLock() {
		z.reap(fd)
		z.mu.Unlock()
	}
}

// complete releases the buffers of the sends numbered lo to hi.
func (z *zerocopy) complete(lo, hi uint32, copied bool) {
	sent := int32(z.next - z.base)
	from, to := int32(lo-z.base), int32(hi-z.base)
	if to >= sent || to < from {
		// Somebody else sends on this socket: the numbers mean nothing any more.
		// What waits is released when the socket is closed, or not at all.
		z.on.Store(false)
		z.closed = true
		return
	}
	for i := max(from, 0); i <= to; i++ {
		slot := &z.slots[(z.base+uint32(i))%maxPinned]
		if *slot != nil {
			(*slot).Release()
			*slot = nil
			z.held.Add(-1)
			z.note(copied)
		}
	}
	for z.base != z.next && z.slots[z.base%maxPinned] == nil {
		z.base++
	}
}

func (z *zerocopy) note(copied bool) {
	if !copied {
		z.copied = 0
		return
	}
	z.sock.stats.ZerocopyCopied.Add(1)
	if z.copied++; z.copied >= copiedLimit {
		z.on.Store(false)
	}
}

// drainQueue empties the error queue and calls f, if not nil, for each range of
// completed sends.
func (z *zerocopy) drainQueue(fd uintptr, f func(lo, hi uint32, copied bool)) {
	for range 2 * maxPinned {
		z.hdr = unix.Msghdr{Control: (*byte)(unsafe.Pointer(&z.ctl))}
		z.hdr.SetControllen(int(unsafe.Sizeof(z.ctl)))
		_, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&z.hdr)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return
		}
		all := (*[unsafe.Sizeof(z.ctl)]byte)(unsafe.Pointer(&z.ctl))[:]
		if lo, hi, copied, ok := completion(all[:min(uint64(z.hdr.Controllen), uint64(len(all)))]); ok && f != nil {
			f(lo, hi, copied)
		}
	}
}

// completion finds the range of a zero-copy completion in control data.
func completion(b []byte) (lo, hi uint32, copied, ok bool) {
	eachControl(b, func(level, typ int32, d []byte) {
		recverr := level == unix.IPPROTO_IP && typ == unix.IP_RECVERR || level == unix.IPPROTO_IPV6 && typ == unix.IPV6_RECVERR
		// struct sock_extended_err: errno, origin, type, code, pad, info, data.
		if recverr && len(d) >= 16 && binary.NativeEndian.Uint32(d) == 0 && d[4] == originZerocopy {
			lo, hi = binary.NativeEndian.Uint32(d[8:]), binary.NativeEndian.Uint32(d[12:])
			copied, ok = d[6]&unix.SO_EE_CODE_ZEROCOPY_COPIED != 0, true
		}
	})
	return lo, hi, copied, ok
}

// finish is called when the socket is about to be closed. No send begins to
// wait from here on. Completions can only be heard on the socket: it stays
// open, as a duplicate that nobody reads, until the last one is there.
func (z *zerocopy) finish(s *Socket) {
	z.mu.Lock()
	z.closed = true
	z.mu.Unlock()
	if z.held.Load() == 0 {
		return
	}
	_ = control(s.rc, func(fd int) error { z.await(fd, 0); return nil })
	if z.held.Load() == 0 {
		return
	}
	if s.group != nil {
		_ = control(s.rc, func(fd int) error { z.await(fd, pinnedWaitGroup); return nil })
		z.abandon()
		return
	}
	fd, err := duplicate(s.rc)
	if err != nil {
		z.abandon()
		return
	}
	go z.bury(fd)
}

// bury waits for the last completions of a socket that is closed, on a
// duplicate of it.
func (z *zerocopy) bury(fd int) {
	z.await(fd, pinnedWait)
	_ = unix.Close(fd)
	z.abandon()
}

// await reaps until nothing waits, at most for the given time.
func (z *zerocopy) await(fd int, most time.Duration) {
	for end := time.Now().Add(most); ; {
		z.mu.Lock()
		z.reap(uintptr(fd))
		z.mu.Unlock()
		left := time.Until(end)
		if z.held.Load() == 0 || left <= 0 {
			return
		}
		// The error queue makes POLLERR, which needs no asking for.
		p := [1]unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(p[:], int(min(left, 100*time.Millisecond)/time.Millisecond)); err != nil && err != unix.EINTR {
			return
		}
	}
}

// abandon keeps what was never completed out of use for good.
func (z *zerocopy) abandon() {
	z.mu.Lock()
	defer z.mu.Unlock()
	for i, b := range z.slots {
		if b != nil {
			abandoned.mu.Lock()
			abandoned.bufs = append(abandoned.bufs, b)
			abandoned.mu.Unlock()
			z.slots[i] = nil
			z.held.Add(-1)
			z.sock.stats.ZerocopyAbandoned.Add(1)
		}
	}
}
