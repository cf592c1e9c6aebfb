package quic

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// Stream identifiers (RFC 9000, Section 2.1): "The least significant bit
// (0x01) of the stream ID identifies the initiator of the stream." The second
// least significant bit (0x02) tells bidirectional from unidirectional ones.
const (
	streamServerBit = 0x1
	streamUniBit    = 0x2
)

// A Stream is one QUIC stream. It is a net.Conn, an io.ReaderFrom and an
// io.WriterTo. One reader and one writer may use it at the same time.
type Stream struct {
	conn *Conn
	id   uint64

	readMu, writeMu sync.Mutex // one reader, one writer at a time
	rgate, wgate    gate
	rdeadline       deadline
	wdeadline       deadline

	// Guarded by conn.mu from here on.
	rcv recvHalf
	snd sendHalf

	queued bool // in conn.sendQueue
	ctrl   bool // in conn.ctrlQueue
	waits  bool // in conn.waiting
	// in conn.toWake, for the reader, the writer or both
	wakeRead, wakeWrite bool
	gone                bool // no longer in conn.streams

	urgency int8 // less DefaultUrgency
	whole   bool // not incremental
}

// A recvHalf is the receiving part of a stream (RFC 9000, Section 3.2).
type recvHalf struct {
	buf       recvBuf
	exists    bool // the peer can send here
	max       uint64
	window    uint64 // size of the window that max advertises
	rate      windowRate
	needMax   bool // MAX_STREAM_DATA is due
	needStop  bool // STOP_SENDING is due
	stopped   bool // CancelRead was called
	stopCode  uint64
	reset     bool // RESET_STREAM arrived
	resetCode uint64
	done      bool // everything was read, or will never be
}

// A sendHalf is the sending part of a stream (RFC 9000, Section 3.1).
type sendHalf struct {
	buf         sendBuf
	exists      bool
	max         uint64 // the peer's MAX_STREAM_DATA
	fin         bool   // nothing more will be written
	finSent     bool
	finLost     bool
	finAckSeen  bool // the FIN was acknowledged, data before it maybe not yet
	finAcked    bool // everything was acknowledged
	resetCode   uint64
	reset       bool // RESET_STREAM was asked for
	needReset   bool
	resetAcked  bool
	stoppedCode uint64 // of the peer's STOP_SENDING
	stopped     bool
	blocked     bool // STREAM_DATA_BLOCKED is due
	blockedAt   uint64
	waiter      bool // a writer (for half of maxUnsent) or Flush waits at wgate
	inLine      bool // in conn.streams.line
	called      bool // was the first there, and may fill the buffer
}

func (s *Stream) bidi() bool  { return s.id&streamUniBit == 0 }
func (s *Stream) local() bool { return (s.id&streamServerBit != 0) == s.conn.server }

// ID returns the stream's identifier (RFC 9000, Section 2.1).
func (s *Stream) ID() uint64 { return s.id }

// Conn returns the connection that the stream belongs to.
func (s *Stream) Conn() *Conn { return s.conn }

// LocalAddr returns the connection's local address.
func (s *Stream) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr returns the connection's remote address.
func (s *Stream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	_ = s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline sets the time after which Read and WriteTo fail with os.ErrDeadlineExceeded.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.rdeadline.set(t)
	s.rgate.open()
	return nil
}

// SetWriteDeadline sets the time after which Write and ReadFrom fail with os.ErrDeadlineExceeded.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.wdeadline.set(t)
	s.wgate.open()
	return nil
}

// Read reads what has arrived in order. It returns io.EOF after the peer's
// FIN, and a *StreamError after a reset.
func (s *Stream) Read(p []byte) (int, error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	for {
		if s.rdeadline.passed() {
			return 0, errDeadline
		}
		c := s.conn
		c.lock()
		n, err := 0, s.readErr()
		if err == nil && len(p) > 0 && s.rcv.buf.unread() > 0 {
			n = s.rcv.buf.copyOut(&c.acct, p)
			s.credit(n)
		}
		c.unlockQuiet()
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		s.waitRead()
	}
}

func (s *Stream) waitRead() {
	passed := s.rdeadline.wait()
	if passed == nil && s.conn.waitInPlace(context.Background(), &s.rgate) {
		return
	}
	select {
	case <-s.rgate.wait():
	case <-passed:
	}
}

// readErr tells why reading is over, or nil. Called with the lock held.
func (s *Stream) readErr() error {
	r := &s.rcv
	switch {
	case !r.exists:
		return io.EOF
	case r.stopped:
		return &StreamError{StreamID: s.id, Code: r.stopCode}
	case r.reset:
		s.readDone()
		return &StreamError{StreamID: s.id, Code: r.resetCode, Remote: true}
	case r.buf.lost:
		return s.conn.closeErr()
	case r.buf.unread() > 0:
		return nil
	case r.buf.hasFin && r.buf.read == r.buf.final:
		s.readDone()
		return io.EOF
	}
	// What was not read when the connection closed went with it.
	return s.conn.closeErr()
}

// readDone says that the application knows how the stream ended.
func (s *Stream) readDone() {
	if !s.rcv.done {
		s.rcv.done = true
		switch {
		case s.rcv.reset:
			s.conn.emitStream(s, RecvResetRead)
		case !s.rcv.stopped:
			s.conn.emitStream(s, RecvRead)
		}
		s.conn.maybeForget(s)
	}
}

// credit gives the peer room for n bytes that the application has taken.
func (s *Stream) credit(n int) {
	if n == 0 {
		return
	}
	c := s.conn
	c.creditConn(uint64(n))
	r := &s.rcv
	if r.buf.hasFin || r.reset || r.stopped {
		return
	}
	if w := r.rate.grow(c.now(), c.path.rtt.Min(), uint64(n), r.window, uint64(c.cfg.maxStreamWindow())); c.mayGrow() {
		r.window = w
	}
	left := r.max - r.buf.read
	if left > r.window/2 {
		return
	}
	r.max = r.buf.read + r.window
	r.needMax = true
	c.queueCtrl(s)
}

// Write writes all of p, waiting while too much is unsent. The bytes are
// copied: p may be reused at once.
func (s *Stream) Write(p []byte) (int, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	done := 0
	for {
		if s.wdeadline.passed() {
			return done, errDeadline
		}
		c := s.conn
		c.lock()
		err := s.writeErr()
		if room := s.room(); err == nil && room > 0 && len(p) > 0 {
			n := min(room, len(p))
			s.snd.buf.write(p[:n])
			c.acct.copied += int64(n)
			done += n
			p = p[n:]
			c.queueSend(s)
		}
		s.snd.waiter = err == nil && len(p) > 0
		c.unlock()
		if err != nil || len(p) == 0 {
			return done, err
		}
		s.waitWrite()
	}
}

func (s *Stream) waitWrite() {
	select {
	case <-s.wgate.wait():
	case <-s.wdeadline.wait():
	}
}

// room returns how many bytes may be written now. Of what is not yet sent there is
// a limit for each stream; what is in flight is limited by the congestion window,
// and all of it by memory.
func (s *Stream) room() int {
	b := &s.snd.buf
	n := maxUnsent - int(b.end-b.next)
	if n <= 0 {
		return 0
	}
	return s.conn.sendRoom(s, n)
}

// writeErr tells why writing is over, or nil. Called with the lock held.
//
// RFC 9000, Section 4.5: "An endpoint MUST NOT send data on a stream at or
// beyond the final size."
func (s *Stream) writeErr() error {
	w := &s.snd
	switch {
	case !w.exists:
		return &StreamError{StreamID: s.id}
	case w.stopped:
		return &StreamError{StreamID: s.id, Code: w.stoppedCode, Remote: true}
	case w.reset:
		return &StreamError{StreamID: s.id, Code: w.resetCode}
	case w.fin:
		return net.ErrClosed
	}
	return s.conn.closeErr()
}

// CloseWrite ends the sending direction: what was written is delivered, then FIN.
func (s *Stream) CloseWrite() error {
	c := s.conn
	c.lock()
	defer c.unlock()
	if !s.snd.exists || s.snd.fin || s.snd.reset {
		return nil
	}
	if err := c.closeErr(); err != nil {
		return err
	}
	s.snd.fin = true
	s.wgate.open()
	c.queueSend(s)
	return nil
}

// Close ends both directions: what was written is still delivered, and the
// peer is told to stop sending (code 0) unless it has finished.
func (s *Stream) Close() error {
	err := s.CloseWrite()
	s.CancelRead(0)
	return err
}

// CancelRead discards what arrives on the stream from now on and asks the
// peer to stop sending it (STOP_SENDING with code, RFC 9000, Section 3.5).
func (s *Stream) CancelRead(code uint64) {
	c := s.conn
	c.lock()
	defer c.unlock()
	r := &s.rcv
	if !r.exists || r.stopped || r.done {
		return
	}
	r.stopped, r.stopCode = true, code
	s.rgate.open()
	pending := r.buf.highest - r.buf.read
	whole := r.reset || r.buf.hasFin && r.buf.end == r.buf.final
	r.buf.skip(&c.acct)
	if c.closeErr() != nil {
		return
	}
	c.creditConn(pending)
	if whole {
		s.readDone()
		return
	}
	r.needStop = true
	c.queueCtrl(s)
	if r.buf.hasFin {
		s.readDone()
	}
}

// CancelWrite abandons the sending direction: unsent and unacknowledged bytes
// are dropped and the peer gets RESET_STREAM with code.
//
// RFC 9000, Section 11.2: "RESET_STREAM MUST only be instigated by the
// application protocol that uses QUIC."
func (s *Stream) CancelWrite(code uint64) {
	c := s.conn
	c.lock()
	defer c.unlock()
	if c.closeErr() == nil {
		s.resetSend(code)
	}
}

// resetSend starts a reset. RFC 9000, Section 3.1: once all data is
// acknowledged there is nothing to reset.
//
// RFC 9000, Section 3.3: "A sender MUST NOT send any of these frames from a
// terminal state ("Data Recvd" or "Reset Recvd")."
//
// RFC 9000, Section 3.3: "A sender MUST NOT send a STREAM or
// STREAM_DATA_BLOCKED frame for a stream in the "Reset Sent" state or any
// terminal state -- that is, after sending a RESET_STREAM frame."
//
// RFC 9000, Section 13.3: "The content of a RESET_STREAM frame MUST NOT change
// when it is sent again."
func (s *Stream) resetSend(code uint64) {
	w := &s.snd
	if !w.exists || w.reset || w.finAcked {
		return
	}
	w.reset, w.resetCode, w.needReset, w.blocked = true, code, true, false
	w.buf.end = w.buf.next // the final size: what was sent at least once
	w.buf.discard()
	s.conn.unqueue(s)
	s.conn.emitStream(s, SendResetSent)
	s.wgate.open()
	s.conn.queueCtrl(s)
}

// Flush waits until the peer has acknowledged everything written so far, and
// the FIN if CloseWrite was called.
func (s *Stream) Flush(ctx context.Context) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	c := s.conn
	for {
		c.lock()
		w := &s.snd
		ok := w.finAcked || (w.buf.start == w.buf.end && !w.fin)
		err := c.closeErr()
		if w.exists && w.finAcked {
			err = nil // whatever came after that
		}
		if err == nil && (w.reset || w.stopped) {
			err = s.writeErr()
		}
		w.waiter = !ok && err == nil
		c.unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-s.wgate.wait():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
