package tcpio

import (
	"golang.org/x/sys/unix"
)

// lent is a ReadLent under way.
type lent struct {
	try  func(fd uintptr) bool
	lend func() [][]byte
	back func()
	none bool // lend returned nothing
}

// ReadLent reads once, into the buffers that lend returns, one behind the other.
// Before it waits for something to read it calls back, and lend again afterwards:
// so nothing is held meanwhile, and no call is needed to find out whether to wait.
// It returns how many bytes it put into the buffers lent last, and 0, nil where
// lend returned none. Both are called while other readers of c wait.
func (c *Conn) ReadLent(lend func() [][]byte, back func()) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.lent.lend, c.lent.back, c.lent.none = lend, back, false
	err := c.raw.Read(c.lent.try)
	c.lent.lend, c.lent.back = nil, nil
	if err == nil && c.lent.none {
		return 0, nil
	}
	return c.read(err)
}

func (c *Conn) tryLent(fd uintptr) bool {
	bufs := c.lent.lend()
	if c.lent.none = len(bufs) == 0; c.lent.none {
		return true
	}
	c.reading.set(bufs)
	if c.reading.call(unix.SYS_READV, fd) {
		return true
	}
	c.reading.done()
	c.lent.back()
	return false
}
