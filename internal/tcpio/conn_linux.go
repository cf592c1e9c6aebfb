package tcpio

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a TCP connection whose reads and writes do not hand over the
// processor. One read and one write may be under way at the same time, and
// further ones wait, as with any net.Conn.
type Conn struct {
	*net.TCPConn
	raw syscall.RawConn

	rmu, wmu sync.Mutex
	reading  transfer
	writing  transfer
	lent     lent
}

// transfer is the call under way in one direction. Its function is made once:
// a closure for each call would be garbage.
type transfer struct {
	try   func(fd uintptr) bool
	iov   []unix.Iovec
	n     int
	errno syscall.Errno
}

func wrap(tcp *net.TCPConn) net.Conn {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return tcp // it is closed, and will say so
	}
	c := &Conn{TCPConn: tcp, raw: raw}
	c.reading.try = func(fd uintptr) bool { return c.reading.call(unix.SYS_READV, fd) }
	c.writing.try = func(fd uintptr) bool { return c.writing.call(unix.SYS_WRITEV, fd) }
	c.lent.try = c.tryLent
	return c
}

// call moves bytes once, and reports whether that is an outcome: false has the
// runtime wait until the socket is ready and call again.
func (t *transfer) call(trap, fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&t.iov[0])), uintptr(len(t.iov)))
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		t.n, t.errno = int(n), errno
		if errno != 0 {
			t.n = 0
		}
		return true
	}
}

// set points the transfer at as much of bufs as one call may move.
func (t *transfer) set(bufs [][]byte) {
	t.iov = t.iov[:0]
	left := maxCall
	for _, b := range bufs {
		if left == 0 || len(t.iov) == maxVector {
			return
		}
		if b = b[:min(len(b), left)]; len(b) > 0 {
			v := unix.Iovec{Base: &b[0]}
			v.SetLen(len(b))
			t.iov = append(t.iov, v)
			left -= len(b)
		}
	}
}

// maxVector is IOV_MAX.
const maxVector = 1024

// done forgets the buffers.
func (t *transfer) done() { clear(t.iov) }

func (c *Conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Read is net.Conn's.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return c.TCPConn.Read(b)
	}
	c.rmu.Lock()
	defer c.rmu.Unlock()
	t := &c.reading
	t.set([][]byte{b})
	return c.read(c.raw.Read(t.try))
}

// read is the outcome of a read whose waiting ended with err.
func (c *Conn) read(err error) (int, error) {
	t := &c.reading
	t.done()
	switch {
	case err != nil:
		return 0, err
	case t.errno != 0:
		return 0, c.fail("read", os.NewSyscallError("readv", t.errno))
	case t.n == 0:
		return 0, io.EOF
	}
	return t.n, nil
}

// Write is net.Conn's.
func (c *Conn) Write(b []byte) (int, error) {
	bufs := net.Buffers{b}
	n, err := c.WriteBuffers(&bufs)
	return int(n), err
}

// WriteBuffers writes all of bufs and consumes what it has written, as
// net.Buffers.WriteTo does.
func (c *Conn) WriteBuffers(bufs *net.Buffers) (int64, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	t := &c.writing
	var total int64
	for {
		skipEmpty(bufs)
		if len(*bufs) == 0 {
			return total, nil
		}
		t.set(*bufs)
		err := c.raw.Write(t.try)
		t.done()
		if err != nil {
			return total, err
		}
		if t.errno != 0 {
			return total, c.fail("write", os.NewSyscallError("writev", t.errno))
		}
		total += int64(t.n)
		consume(bufs, t.n)
	}
}

func skipEmpty(bufs *net.Buffers) {
	for len(*bufs) > 0 && len((*bufs)[0]) == 0 {
		*bufs = (*bufs)[1:]
	}
}

// consume drops the first n bytes of bufs.
func consume(bufs *net.Buffers, n int) {
	for n > 0 {
		first := (*bufs)[0]
		if n < len(first) {
			(*bufs)[0] = first[n:]
			return
		}
		n -= len(first)
		(*bufs)[0] = nil
		*bufs = (*bufs)[1:]
	}
}
