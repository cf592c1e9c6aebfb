package quic

import "io"

// Sources that borrow. A read into several chunks takes what several reads would,
// with one system call, and TCP acknowledges it at once. And such a source needs
// no call to find out whether there is something to read: it borrows chunks when it
// is about to try, and gives them back before it waits.

// A lentReader reads once, into the buffers that lend returns, one behind the
// other. Before it waits for something to read it calls back, and lend again
// afterwards. It returns how many bytes it put into the buffers lent last, and
// 0, nil where lend returned none.
type lentReader interface {
	ReadLent(lend func() [][]byte, back func()) (n int, err error)
}

// maxLent is how many chunks are lent at once, while nothing waits to be sent.
const maxLent = 2 * maxUnsent / bigChunkSize

// A lender is the stream's side of that.
type lender struct {
	s      *Stream
	want   int // chunks to lend: more than one only while the source fills them
	lent   int
	size   int // of what was lent, bytes
	chunks [maxLent]*chunk
	rooms  [maxLent][]byte
}

// readLent is readFrom for such a source.
func (s *Stream) readLent(r lentReader, closing bool) (int64, error) {
	l := &lender{s: s, want: 1}
	lend, back := l.lend, l.back
	var total int64
	for {
		if err := s.awaitRoom(); err != nil {
			return total, err
		}
		n, err := r.ReadLent(lend, back)
		n, err = l.fill(n, err, closing)
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// lend returns room to read into. What fits into one batch goes into each chunk.
func (l *lender) lend() [][]byte {
	s := l.s
	c := s.conn
	c.lock()
	defer c.unlockQuiet()
	l.take(0)
	if s.writeErr() != nil {
		return nil
	}
	b := &s.snd.buf
	per := c.batchPayload(s.id, b.end)
	want := max(1, min(l.want, maxLent*s.room()/maxUnsent))
	if len(c.streams.line) > 0 {
		want = 1 // others want to be read, too
	}
	for ; l.lent < want; l.lent++ {
		k := b.roomy()
		k.filling = true
		room := k.room()
		l.chunks[l.lent], l.rooms[l.lent] = k, room[:min(len(room), per)]
		l.size += len(l.rooms[l.lent])
	}
	return l.rooms[:l.lent]
}

// back takes back what was lent.
func (l *lender) back() {
	c := l.s.conn
	c.lock()
	defer c.unlockQuiet()
	l.take(0)
}

// take takes back what was lent, with n bytes in it.
func (l *lender) take(n int) {
	if l.lent == 0 {
		return
	}
	b := &l.s.snd.buf
	gone := l.s.writeErr() != nil // if the buffer let go of the chunks, they are garbage now
	for i, k := range l.chunks[:l.lent] {
		k.filling = false
		if m := min(n, len(l.rooms[i])); m > 0 && !gone {
			k.off = b.end - uint64(k.n)
			b.grow(k, m)
			n -= m
		}
		l.chunks[i], l.rooms[i] = nil, nil
	}
	l.lent, l.size = 0, 0
	b.release()
	b.dropEmptyTails()
}

// fill commits what was read. With closing, io.EOF ends the sending direction.
func (l *lender) fill(n int, err error, closing bool) (int, error) {
	s := l.s
	c := s.conn
	c.lock()
	defer c.unlock()
	switch {
	case n < 0 || n > l.size:
		n, err = 0, errImpossible
	case n == l.size:
		l.want = min(2*l.want, maxLent)
	default:
		l.want = 1
	}
	l.take(n)
	if werr := s.writeErr(); werr != nil {
		return 0, werr
	}
	if closing && err == io.EOF {
		s.snd.fin = true
	}
	if n > 0 || s.snd.fin {
		c.queueSend(s)
	}
	return n, err
}
