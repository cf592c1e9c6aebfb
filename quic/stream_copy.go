package quic

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// The copy-free paths that io.Copy finds. Their order of work:
//
//	ReadFrom: wait until the source is readable, take a chunk, read into it,
//	          commit it under the lock; packets are sealed straight from it.
//	          Sources that know how borrow several: stream_copy_lent.go.
//	WriteTo:  take views of the receive buffers under the lock, write them out
//	          without it, and only then give the peer credit for them.

// maxViews is how many pieces one writev takes.
const maxViews = 256

// maxViewBytes bounds what one writev takes, so that credit flows back early.
const maxViewBytes = 512 << 10

// ReadFrom sends what it reads from r until io.EOF, which it does not report.
// It holds no buffer while r, if it is a network connection, has nothing to read.
// An r with ReadLent (see lentReader) is read into several buffers at once.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) { return s.readFrom(r, false) }

// SendAll is ReadFrom and CloseWrite. If r returns io.EOF together with its
// last bytes, FIN goes out in the same packet.
func (s *Stream) SendAll(r io.Reader) (int64, error) {
	n, err := s.readFrom(r, true)
	if err != nil {
		return n, err
	}
	return n, s.CloseWrite()
}

// SendFile sends n bytes of f from off on and leaves f's own offset alone. Every
// byte is read once, into the chunk that it is sealed from, also when it has to
// be sent again: f may change meanwhile, what was sent at an offset does not. A
// file that ends before is reported as io.ErrUnexpectedEOF.
func (s *Stream) SendFile(f *os.File, off, n int64) (int64, error) {
	if off < 0 || n < 0 {
		return 0, fmt.Errorf("quic: send %d bytes of %s from %d: negative", n, f.Name(), off)
	}
	sent, err := s.readFrom(io.NewSectionReader(f, off, n), false)
	if err == nil && sent < n {
		err = fmt.Errorf("quic: send %s: it ends at %d, %d bytes short: %w", f.Name(), off+sent, n-sent, io.ErrUnexpectedEOF)
	}
	return sent, err
}

func (s *Stream) readFrom(r io.Reader, closing bool) (int64, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if lr, ok := r.(lentReader); ok {
		return s.readLent(lr, closing)
	}
	wait := readable(r)
	var total int64
	for {
		if err := s.awaitRoom(); err != nil {
			return total, err
		}
		if err := wait(); err != nil && err != io.EOF {
			return total, err
		}
		n, err := s.fillChunk(r, closing)
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// awaitRoom waits until a chunk may be written.
func (s *Stream) awaitRoom() error {
	for {
		c := s.conn
		c.lock()
		err := s.writeErr()
		if err == nil && s.wdeadline.passed() {
			err = errDeadline
		}
		if err != nil {
			c.leaveLine(s)
		}
		ok := err == nil && s.room() > 0 && c.mayFill(s)
		s.snd.waiter = err == nil && !ok
		c.unlockQuiet()
		if err != nil || ok {
			return err
		}
		s.waitWrite()
	}
}

var errImpossible = errors.New("quic: reader returned an impossible count")

// fillChunk reads once from r into the free end of a chunk. With closing,
// io.EOF ends the sending direction.
func (s *Stream) fillChunk(r io.Reader, closing bool) (int, error) {
	c := s.conn
	c.lock()
	if err := s.writeErr(); err != nil {
		c.unlock()
		return 0, err
	}
	b := &s.snd.buf
	k := b.roomy()
	k.filling = true
	room := k.room()
	room = room[:min(len(room), c.batchPayload(s.id, b.end))]
	c.unlockQuiet()

	n, err := r.Read(room)
	if n < 0 || n > len(room) {
		n, err = 0, errImpossible
	}

	c.lock()
	defer c.unlock()
	k.filling = false
	if werr := s.writeErr(); werr != nil {
		b.dropEmptyTails() // if the buffer let go of the chunk, it is garbage now
		return 0, werr
	}
	if closing && err == io.EOF {
		s.snd.fin = true
		c.queueSend(s)
	}
	if n > 0 {
		b.grow(k, n)
		c.queueSend(s)
	} else {
		b.release()
		b.dropEmptyTails()
	}
	return n, err
}

// readable returns a function that waits until r has something to read. For
// a reader that is no network connection it returns at once.
func readable(r io.Reader) func() error {
	sc, ok := r.(syscall.Conn)
	if !ok {
		return func() error { return nil }
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return func() error { return nil }
	}
	return func() error {
		var failed error
		err := rc.Read(func(fd uintptr) bool {
			ready, err := peek(fd)
			failed = err
			return ready || err != nil
		})
		if failed != nil || errors.Is(err, syscall.EINVAL) {
			return nil // a file, or broken: the read itself will tell
		}
		return err
	}
}

// WriteTo writes what arrives on the stream to w until the peer's FIN. The
// peer gets credit for bytes only after w has taken them. A *net.TCPConn, or a
// w with WriteBuffers(*net.Buffers) (int64, error), gets them by writev.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	var total int64
	for {
		if s.rdeadline.passed() {
			return total, errDeadline
		}
		n, err := s.passOn(w)
		total += n
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		s.waitRead()
	}
}

// A viewList is memory for the views of one write. Lists go round: a stream
// that has nothing to read holds none.
type viewList struct {
	store [maxViews][]byte
	bufs  net.Buffers
}

var viewLists = sync.Pool{New: func() any { return new(viewList) }}

// passOn writes to w what there is to read, until there is no more, and gives
// the peer credit for it. It returns io.EOF at the end of the stream.
func (s *Stream) passOn(w io.Writer) (total int64, err error) {
	l := viewLists.Get().(*viewList)
	defer viewLists.Put(l)
	views, err := s.takeViews(l.store[:0])
	for err == nil && len(views) > 0 {
		var n int64
		n, err = l.write(w, views)
		total += n
		clear(views)
		l.bufs = nil
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // the writer's: not the end of the stream
		}
		if err == nil && s.rdeadline.passed() {
			err = errDeadline
		}
		if err != nil {
			s.returnViews(n)
			return total, err
		}
		views, err = s.nextViews(n, l.store[:0])
	}
	return total, err
}

type buffersWriter interface {
	WriteBuffers(*net.Buffers) (int64, error)
}

func (l *viewList) write(w io.Writer, views [][]byte) (int64, error) {
	l.bufs = views
	if bw, ok := w.(buffersWriter); ok {
		return bw.WriteBuffers(&l.bufs)
	}
	if tc, ok := w.(*net.TCPConn); ok {
		return l.bufs.WriteTo(tc)
	}
	var total int64
	for _, v := range views {
		n, err := w.Write(v)
		total += int64(n)
		if err == nil && n < len(v) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func (s *Stream) takeViews(dst [][]byte) ([][]byte, error) {
	s.conn.lock()
	defer s.conn.unlock()
	return s.views(dst)
}

// returnViews ends the use of views; n bytes of them were taken.
func (s *Stream) returnViews(n int64) {
	s.conn.lock()
	defer s.conn.unlock()
	s.viewed(n)
}

// nextViews is returnViews and takeViews at once. It returns none while the
// socket's reader is still at it: that wakes us when there is enough.
func (s *Stream) nextViews(n int64, dst [][]byte) ([][]byte, error) {
	c := s.conn
	c.lock()
	defer c.unlockQuiet()
	s.viewed(n)
	if c.late && s.wakeRead {
		return nil, nil
	}
	return s.views(dst)
}

// views starts the use of views, outside the lock.
func (s *Stream) views(dst [][]byte) ([][]byte, error) {
	if err := s.readErr(); err != nil {
		return nil, err
	}
	views := s.rcv.buf.views(dst, maxViews, maxViewBytes)
	s.rcv.buf.viewing = len(views) > 0
	return views, nil
}

// viewed ends the use of views.
func (s *Stream) viewed(n int64) {
	c := s.conn
	b := &s.rcv.buf
	b.viewing = false
	if b.dropped {
		b.discard(&c.acct)
		return
	}
	b.consume(&c.acct, int(n))
	s.credit(int(n))
}
