package tcpio

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// A lending is what ReadLent was lent and gave back.
type lending struct {
	bufs        [][]byte
	lent, backs int
	waits       chan struct{} // gets a value when the buffers come back
}

func (l *lending) lend() [][]byte {
	l.lent++
	return l.bufs
}

func (l *lending) back() {
	l.backs++
	l.waits <- struct{}{}
}

func newLending(sizes ...int) *lending {
	l := &lending{waits: make(chan struct{}, 16)}
	for _, n := range sizes {
		l.bufs = append(l.bufs, make([]byte, n))
	}
	return l
}

// lentPair is a wrapped connection and its plain peer.
func lentPair(t *testing.T) (*Conn, *net.TCPConn) {
	c, peer := pair(t)
	return c.(*Conn), peer
}

func TestReadLent(t *testing.T) {
	c, peer := lentPair(t)
	l := newLending(3, 4, 100)
	go func() {
		<-l.waits // nothing is held while it waits
		peer.Write([]byte("abcdefghij"))
		peer.CloseWrite()
	}()
	n, err := c.ReadLent(l.lend, l.back)
	got := bytes.Join(l.bufs, nil)
	if err != nil || n != 10 || string(got[:n]) != "abcdefghij" {
		t.Errorf("%d, %v: %q", n, err, got[:n])
	}
	if l.lent != 2 || l.backs != 1 {
		t.Errorf("lent %d times, given back %d times", l.lent, l.backs)
	}
	if n, err := c.ReadLent(l.lend, l.back); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	if l.backs != l.lent-2 { // the buffers of the two reads stayed with them
		t.Errorf("lent %d times, given back %d times", l.lent, l.backs)
	}
}

func TestReadLentNothing(t *testing.T) {
	c, _ := lentPair(t)
	l := newLending()
	if n, err := c.ReadLent(l.lend, l.back); n != 0 || err != nil || l.backs != 0 {
		t.Errorf("%d, %v, given back %d times", n, err, l.backs)
	}
}

func TestReadLentDeadline(t *testing.T) {
	c, _ := lentPair(t)
	l := newLending(10)
	go func() {
		<-l.waits
		c.SetReadDeadline(time.Unix(1, 0))
	}()
	if n, err := c.ReadLent(l.lend, l.back); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d, %v", n, err)
	}
	if l.lent != l.backs {
		t.Errorf("lent %d times, given back %d times", l.lent, l.backs)
	}
	c.Close()
	if n, err := c.ReadLent(l.lend, l.back); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %d, %v", n, err)
	}
}
