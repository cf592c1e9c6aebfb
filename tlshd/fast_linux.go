package tlshd

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fast is a SOCK_SEQPACKET connection whose calls keep the processor. Before a
// call that may block the Go runtime prepares for another thread to take over and
// has its monitor look every 20 microseconds whether it has come to that. With a
// handshake at a time, that monitor took a fifth of both processes' CPU time.
// These calls do not block.
type fast struct {
	raw syscall.RawConn

	rmu, wmu     sync.Mutex
	rcall, wcall fastCall
}

// fastCall is the call under way in one direction. Its function is made once: a
// closure for each call would be garbage.
type fastCall struct {
	try   func(fd uintptr) bool
	b     []byte
	n     int
	errno syscall.Errno
}

// ordered gives what both ends of a connection do in one process, as in Local,
// the order that it has: package syscall does so for its own calls, and neither
// the memory model nor the race detector knows of these.
var ordered atomic.Uint64

// newFast returns nil for a connection that does not carry datagrams.
func newFast(c *net.UnixConn) *fast {
	raw, err := c.SyscallConn()
	if err != nil || c.LocalAddr().Network() != socketNetwork {
		return nil
	}
	f := &fast{raw: raw}
	f.rcall.try = func(fd uintptr) bool { return f.rcall.do(unix.SYS_READ, fd) != unix.EAGAIN }
	f.wcall.try = func(fd uintptr) bool { f.wcall.do(unix.SYS_WRITE, fd); return true }
	return f
}

func (c *fastCall) do(trap, fd uintptr) syscall.Errno {
	for {
		n, _, errno := unix.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&c.b[0])), uintptr(len(c.b)))
		if errno != unix.EINTR {
			c.n, c.errno = int(n), errno
			return errno
		}
	}
}

// read reads a datagram of at most len(b) bytes, which is not 0, and waits for one.
// Descriptors that a confused peer sends along the kernel drops.
func (f *fast) read(b []byte) (int, error) {
	f.rmu.Lock()
	defer f.rmu.Unlock()
	c := &f.rcall
	c.b = b
	err := f.raw.Read(c.try)
	c.b = nil
	ordered.Load()
	switch {
	case err != nil:
		return 0, err
	case c.errno != 0:
		return 0, os.NewSyscallError("read", c.errno)
	case c.n == 0:
		return 0, io.EOF
	}
	return c.n, nil
}

// tryWrite writes a datagram, which is not empty; ok is false if there is no room
// for it now.
func (f *fast) tryWrite(b []byte) (n int, ok bool, err error) {
	f.wmu.Lock()
	defer f.wmu.Unlock()
	c := &f.wcall
	c.b = b
	ordered.Add(1)
	err = f.raw.Write(c.try)
	c.b = nil
	switch {
	case err != nil:
		return 0, true, err
	case c.errno == unix.EAGAIN:
		return 0, false, nil
	case c.errno != 0:
		return 0, true, os.NewSyscallError("write", c.errno)
	}
	return c.n, true, nil
}
