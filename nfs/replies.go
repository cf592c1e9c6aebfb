package nfs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// replyBuffer is what a backend connection buffers of replies: small ones are
// moved in batches, of large ones only the first bytes go through it.
const replyBuffer = 4096

// backendReader counts what is read from a backend, and keeps its error apart
// from those of the stream that io.Copy writes to.
type backendReader struct {
	b   *backendConn
	err error
}

func (r *backendReader) Read(p []byte) (int, error) {
	n, err := r.b.conn.Read(p)
	if n > 0 {
		r.b.s.down.Add(uint64(n))
		r.b.s.touch()
		if paced := r.b.pace(n, 0); paced != nil {
			r.err = paced
			return 0, paced
		}
	}
	if err != nil {
		r.err = err
	}
	return n, err
}

// replyPump moves replies from one backend connection to the stream.
type replyPump struct {
	b     *backendConn
	src   *backendReader
	in    *bufio.Reader
	frame framer
	out   []byte // whole records, or the beginning of one, to be written
	held  bool   // the stream's write lock is held
	ready int64  // replies complete in out, or written and not yet counted

	markBuf [markLen]byte // what mark and head read into
	headBuf [8]byte
	body    io.LimitedReader
}

// pump runs until the backend's connection ends.
//
// draft-cel-nfsv4-rpc-over-quicv1, Section 3.4: "Responders MUST send RPC Replies on the same
// stream on which they received the matching RPC Call."
func (b *backendConn) pump() {
	s := b.s
	defer s.pumps.Done()
	src := &backendReader{b: b}
	p := &replyPump{b: b, src: src, in: bufio.NewReaderSize(src, replyBuffer)}
	p.frame.limits = s.r.svc.cfg.Limits
	var err error
	for err == nil {
		err = p.message()
	}
	if p.held {
		s.writeMu.Unlock()
	}
	p.ended(err)
	b.gone.Store(true)
	if b.due.Load() > 0 { // a call that was queued since; queueHead may have looked too early
		s.fail(CodeUnspecifiedError, fmt.Errorf("%w: %s service hung up", ErrBackendLost, b.svc))
	}
	s.r.svc.hangUp(b.to, b.conn, &s.r.client)
	b.calls.close()
}

// ended decides what the end of a backend connection means for the stream.
func (p *replyPump) ended(err error) {
	b := p.b
	var coded *streamError
	switch {
	case errors.As(err, &coded):
		b.s.fail(coded.code, err)
	case err == io.EOF && b.due.Load() == 0 && b.svc == serviceNFS:
		// The server closed an idle connection. For NFSv4.1 the connection is the stream, so the
		// client must get to know; it opens another.
		b.s.fail(CodeNoError, errIdle)
	case err == io.EOF && b.due.Load() == 0:
		// Side services are dialled again when needed.
	case p.src.err == nil:
		b.s.fail(CodeNoError, fmt.Errorf("%w: %w", ErrClientGone, err))
	default:
		b.s.fail(CodeUnspecifiedError, fmt.Errorf("%w: %s service with %d replies due: %w", ErrBackendLost, b.svc, b.due.Load(), err))
	}
}

// message moves one reply. io.EOF is the backend's orderly end.
func (p *replyPump) message() error {
	head, err := p.head()
	if err != nil {
		return err
	}
	if t := binary.BigEndian.Uint32(head[4:]); t != msgReply {
		if t != msgCall {
			return &streamError{CodeUnspecifiedError, fmt.Errorf("%w: message type %#x", ErrBackendProtocol, t)}
		}
		if err := p.release(); err != nil { // a callback may take its time, and others want to write
			return err
		}
		return p.callback(head)
	}
	if p.b.due.Load() <= p.ready {
		return &streamError{CodeUnspecifiedError, fmt.Errorf("%w: more replies than calls", ErrBackendProtocol)}
	}
	if !p.held {
		p.b.s.writeMu.Lock()
		p.held = true
	}
	p.appendMark(len(head))
	p.out = append(p.out, head...)
	for {
		if err := p.fragment(); err != nil {
			return err
		}
		if p.frame.last {
			break
		}
		if err := p.mark(); err != nil {
			return noEOF(err)
		}
		p.appendMark(0)
	}
	p.frame.open = false
	p.ready++
	return p.settle()
}

// settle runs between messages. It writes what is queued and lets others write, unless the next
// message is here whole and can go out in the same write: nobody waits for the
// lock while the backend thinks.
func (p *replyPump) settle() error {
	if !p.held || p.nextIsBuffered() && len(p.out) <= replyBuffer {
		return nil
	}
	return p.release()
}

// release writes what is queued and lets others write.
func (p *replyPump) release() error {
	if !p.held {
		return nil
	}
	if err := p.flush(); err != nil {
		return err
	}
	p.b.s.writeMu.Unlock()
	p.held = false
	p.b.replied(p.ready)
	p.ready = 0
	return nil
}

// head reads the XID and the direction, which tiny fragments may have torn apart.
func (p *replyPump) head() ([]byte, error) {
	head := p.headBuf[:]
	if err := p.mark(); err != nil {
		return nil, err
	}
	for n := 0; n < len(head); {
		if p.frame.rem == 0 {
			if p.frame.last {
				return nil, &streamError{CodeUnspecifiedError, fmt.Errorf("%w: reply of %d bytes", ErrBackendProtocol, n)}
			}
			if err := p.mark(); err != nil {
				return nil, noEOF(err)
			}
			continue
		}
		k := min(len(head)-n, int(p.frame.rem))
		if _, err := io.ReadFull(p.in, head[n:n+k]); err != nil {
			return nil, noEOF(err)
		}
		p.frame.take(k)
		n += k
	}
	return head, nil
}

// mark reads the next record mark. io.EOF is an end before its first byte.
func (p *replyPump) mark() error {
	if _, err := io.ReadFull(p.in, p.markBuf[:]); err != nil {
		return err
	}
	if err := p.frame.mark(binary.BigEndian.Uint32(p.markBuf[:])); err != nil {
		return &streamError{CodeUnspecifiedError, fmt.Errorf("%w: %w", ErrBackendProtocol, err)}
	}
	return nil
}

// appendMark queues the mark of a fragment of what is left of the current one and extra bytes before it.
func (p *replyPump) appendMark(extra int) {
	p.out = be32(p.out, p.frame.markValue(extra+int(p.frame.rem)))
}

// fragment moves the rest of the current fragment: what is buffered, and a short rest, by way of
// out, a long one from the socket to the stream's own memory.
func (p *replyPump) fragment() error {
	if err := p.copyOut(min(p.in.Buffered(), int(p.frame.rem))); err != nil {
		return err
	}
	if p.frame.rem <= replyBuffer {
		return p.copyOut(int(p.frame.rem))
	}
	if err := p.flush(); err != nil {
		return err
	}
	want := int64(p.frame.rem)
	p.body = io.LimitedReader{R: p.src, N: want}
	n, err := io.Copy(p.b.s.conn, &p.body)
	p.frame.take(int(n))
	if err == nil && n < want {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// copyOut queues the next n bytes, at most replyBuffer.
func (p *replyPump) copyOut(n int) error {
	piece, err := p.in.Peek(n)
	if err != nil {
		return noEOF(err)
	}
	p.out = append(p.out, piece...)
	p.in.Discard(n)
	p.frame.take(n)
	if len(p.out) > 2*replyBuffer {
		return p.flush()
	}
	return nil
}

// discard drops the rest of the message.
func (p *replyPump) discard() error {
	for {
		n, err := io.CopyN(io.Discard, p.in, int64(p.frame.rem))
		p.frame.take(int(n))
		if err != nil {
			return noEOF(err)
		}
		if p.frame.last {
			p.frame.open = false
			return nil
		}
		if err := p.mark(); err != nil {
			return noEOF(err)
		}
	}
}

// nextIsBuffered reports whether the next message is here whole.
func (p *replyPump) nextIsBuffered() bool {
	if p.in.Buffered() < markLen {
		return false
	}
	m, _ := p.in.Peek(markLen)
	mark := binary.BigEndian.Uint32(m)
	return mark&lastFrag != 0 && int64(mark&^lastFrag) <= int64(p.in.Buffered()-markLen)
}

func (p *replyPump) flush() error {
	if len(p.out) == 0 {
		return nil
	}
	_, err := p.b.s.conn.Write(p.out)
	p.out = p.out[:0]
	if err == nil {
		p.b.s.touch()
	}
	return err
}

// noEOF turns an end inside a message into an error.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// replied counts replies that the stream has taken.
func (b *backendConn) replied(n int64) {
	b.s.replies.Add(uint64(n))
	b.due.Add(-n)
	b.s.r.due.Add(-n)
	if b.s.due.Add(-n) == 0 {
		select {
		case b.s.drained <- struct{}{}:
		default:
		}
	}
}

// writeRecord writes a whole record made by the gateway.
func (s *stream) writeRecord(record []byte) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if _, err := s.conn.Write(record); err != nil {
		return &streamError{CodeNoError, fmt.Errorf("%w: %w", ErrClientGone, err)}
	}
	return nil
}
