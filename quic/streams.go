package quic

import (
	"context"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A streamTable holds a connection's streams and the limits on their number
// (RFC 9000, Sections 2.1 and 4.6).
type streamTable struct {
	all map[uint64]*Stream

	// Streams that the peer opens, per type (bidirectional, unidirectional).
	peerNext  [2]uint64 // count of streams opened
	peerMax   [2]uint64 // advertised limit, a count
	peerLimit [2]uint64 // how many may be open at once
	returned  [2]uint64 // streams that are over and not yet replaced in peerMax
	needMax   [2]bool
	incoming  [2][]*Stream
	accept    [2]gate
	onStream  func() // see NotifyStream

	// Streams that this end opens.
	next    [2]uint64
	max     [2]uint64 // the peer's limit, a count
	blocked [2]bool   // STREAMS_BLOCKED is due
	opening [2]gate

	sendQueue []*Stream // streams with data to send, in turn
	waiting   []*Stream // streams that the connection's limit holds up
	ctrlQueue []*Stream // streams with control frames to send
	line      []*Stream // streams whose sources wait to fill them
}

func (t *streamTable) closed() {
	for i := range 2 {
		t.openAccept(i)
		t.opening[i].open()
		t.incoming[i] = nil
	}
	t.all, t.sendQueue, t.waiting, t.ctrlQueue, t.line = nil, nil, nil, nil, nil
}

// openAccept lets go on who waits for streams of a kind.
func (t *streamTable) openAccept(kind int) {
	t.accept[kind].open()
	if f := t.onStream; f != nil && kind == 0 {
		t.onStream = nil
		go f()
	}
}

func typeIndex(id uint64) int { return int(id & streamUniBit >> 1) }

func (c *Conn) initiator(local bool) uint64 {
	if local == c.server {
		return streamServerBit
	}
	return 0
}

func (c *Conn) newStream(id uint64) *Stream {
	s := &Stream{conn: c, id: id}
	s.snd.buf.mem = &c.sendMem
	local, bidi := s.local(), s.bidi()
	s.rcv.exists = bidi || !local
	s.snd.exists = bidi || local
	s.rcv.window = uint64(c.cfg.streamWindow())
	s.rcv.max = s.rcv.window
	s.snd.max = c.initialMax(s)
	s.rcv.done = !s.rcv.exists
	s.snd.finAcked = !s.snd.exists
	if c.streams.all == nil {
		c.streams.all = make(map[uint64]*Stream)
	}
	c.streams.all[id] = s
	if s.snd.exists {
		c.emitStream(s, SendReady)
	}
	if s.rcv.exists {
		c.emitStream(s, RecvRecv)
	}
	return s
}

// OpenStream opens a bidirectional stream, waiting while the peer allows no more.
func (c *Conn) OpenStream(ctx context.Context) (*Stream, error) { return c.open(ctx, 0) }

// OpenUniStream opens a stream on which only this end sends.
func (c *Conn) OpenUniStream(ctx context.Context) (*Stream, error) { return c.open(ctx, 1) }

// RFC 9000, Section 2.1: "A QUIC endpoint MUST NOT reuse a stream ID within a
// connection."
func (c *Conn) open(ctx context.Context, kind int) (*Stream, error) {
	for {
		c.lock()
		t := &c.streams
		if err := c.closeErr(); err != nil {
			t.opening[kind].open() // for the next waiter
			c.unlock()
			return nil, err
		}
		// RFC 9000, Section 4.6: "Endpoints MUST NOT exceed the limit set by
		// their peer."
		//
		// RFC 9000, Section 19.11: "An endpoint MUST NOT open more streams than
		// permitted by the current stream limit set by its peer."
		if c.mayOpen() && t.next[kind] < t.max[kind] {
			id := t.next[kind]<<2 | c.initiator(true) | uint64(kind)<<1
			t.next[kind]++
			s := c.newStream(id)
			if t.next[kind] < t.max[kind] {
				t.opening[kind].open() // pass it on: one wake-up may admit several
			}
			c.unlockQuiet()
			return s, nil
		}
		t.blocked[kind] = c.haveParams
		c.dirty = true
		c.unlock()
		select {
		case <-t.opening[kind].wait():
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// AcceptStream waits for the next bidirectional stream that the peer opens.
func (c *Conn) AcceptStream(ctx context.Context) (*Stream, error) { return c.acceptKind(ctx, 0) }

// NotifyStream has f called once, on a goroutine of its own, when AcceptStream may
// have something to return: a stream, or why there will be none. Until then who
// waits for a stream this way needs no goroutine, which would be a good part of
// what an idle connection costs. f replaces what an earlier call has set.
func (c *Conn) NotifyStream(f func()) {
	c.lock()
	defer c.unlockQuiet()
	t := &c.streams
	if len(t.incoming[0]) > 0 && c.admitted || c.closeErr() != nil {
		go f()
		return
	}
	t.onStream = f
}

// AcceptUniStream waits for the next stream on which only the peer sends.
func (c *Conn) AcceptUniStream(ctx context.Context) (*Stream, error) { return c.acceptKind(ctx, 1) }

func (c *Conn) acceptKind(ctx context.Context, kind int) (*Stream, error) {
	for {
		c.lock()
		q := &c.streams.incoming[kind]
		if len(*q) > 0 && c.admitted {
			s := (*q)[0]
			(*q)[0] = nil
			*q = (*q)[1:]
			if len(*q) > 0 {
				c.streams.accept[kind].open()
			}
			c.unlockQuiet()
			return s, nil
		}
		err := c.closeErr()
		if err != nil {
			c.streams.accept[kind].open() // for the next waiter
		}
		g := &c.streams.accept[kind]
		c.unlockQuiet()
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if c.waitInPlace(ctx, g) {
			continue
		}
		select {
		case <-g.wait():
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// streamFor finds the stream that a frame names, opening it and all below it
// if it is the peer's to open. It returns nil for a stream that is over.
// RFC 9000, Section 19: frames for streams of the wrong kind are errors.
//
// RFC 9000, Section 19.4: "An endpoint that receives a RESET_STREAM frame for a
// send-only stream MUST terminate the connection with error
// STREAM_STATE_ERROR."
//
// RFC 9000, Section 19.5: "An endpoint that receives a STOP_SENDING frame for a
// receive-only stream MUST terminate the connection with error
// STREAM_STATE_ERROR."
//
// RFC 9000, Section 19.8: "An endpoint MUST terminate the connection with error
// STREAM_STATE_ERROR if it receives a STREAM frame for a locally initiated
// stream that has not yet been created, or for a send-only stream."
//
// RFC 9000, Section 19.10: "An endpoint that receives a MAX_STREAM_DATA frame
// for a receive-only stream MUST terminate the connection with error
// STREAM_STATE_ERROR."
//
// RFC 9000, Section 19.13: "An endpoint that receives a STREAM_DATA_BLOCKED
// frame for a send-only stream MUST terminate the connection with error
// STREAM_STATE_ERROR."
func (c *Conn) streamFor(id uint64, frame uint64, sends bool) (*Stream, error) {
	t := &c.streams
	local := (id&streamServerBit != 0) == c.server
	uni := id&streamUniBit != 0
	if uni && local == sends {
		// sends: the peer sends on this stream; it cannot on ours.
		return nil, c.fail(StreamStateError, frame, "frame for the wrong direction of a unidirectional stream")
	}
	if s := t.all[id]; s != nil {
		return s, nil
	}
	kind, n := typeIndex(id), id>>2
	if local {
		// RFC 9000, Section 19.5: "Receiving a STOP_SENDING frame for a locally
		// initiated stream that has not yet been created MUST be treated as a
		// connection error of type STREAM_STATE_ERROR."
		//
		// RFC 9000, Section 19.10: "Receiving a MAX_STREAM_DATA frame for a
		// locally initiated stream that has not yet been created MUST be
		// treated as a connection error of type STREAM_STATE_ERROR."
		if n >= t.next[kind] {
			return nil, c.fail(StreamStateError, frame, "frame for a stream that was never opened")
		}
		return nil, nil
	}
	if n < t.peerNext[kind] {
		return nil, nil
	}
	// RFC 9000, Section 4.6: "An endpoint that receives a frame with a stream ID
	// exceeding the limit it has sent MUST treat this as a connection error of
	// type STREAM_LIMIT_ERROR."
	//
	// RFC 9000, Section 19.11: "An endpoint MUST terminate a connection with an
	// error of type STREAM_LIMIT_ERROR if a peer opens more streams than was
	// permitted."
	if n >= t.peerMax[kind] {
		return nil, c.fail(StreamLimitError, frame, "stream limit exceeded")
	}
	var s *Stream
	// RFC 9000, Section 3.2: "Before a stream is created, all streams of the
	// same type with lower-numbered stream IDs MUST be created."
	for ; t.peerNext[kind] <= n; t.peerNext[kind]++ {
		s = c.newStream(t.peerNext[kind]<<2 | id&3)
		t.incoming[kind] = append(t.incoming[kind], s)
	}
	c.returnStreams(kind)
	if c.admitted {
		t.openAccept(kind)
	}
	return s, nil
}

// maybeForget drops a stream that is over in both directions, and lets the
// peer open another in its place.
//
// RFC 9000, Section 4.4: "Both endpoints MUST maintain flow control state for
// the stream in the unterminated direction until that direction enters a
// terminal state."
func (c *Conn) maybeForget(s *Stream) {
	if s.gone || !s.rcv.done || (!s.snd.finAcked && !s.snd.resetAcked) {
		return
	}
	s.gone = true
	s.rcv.buf.discard(&c.acct)
	s.snd.buf.discard()
	delete(c.streams.all, s.id)
	if s.local() {
		return
	}
	kind := typeIndex(s.id)
	c.streams.returned[kind]++
	c.returnStreams(kind)
}

// returnStreams lets the peer open streams in place of those that are over.
// Credit goes back in lots, so that a busy peer costs no frame per stream, but
// at once when the peer has none left.
//
// RFC 9000, Section 4.6: "An endpoint MUST NOT wait to receive this signal
// before advertising additional credit, since doing so will mean that the peer
// will be blocked for at least an entire round trip, and potentially
// indefinitely"
func (c *Conn) returnStreams(kind int) {
	t := &c.streams
	n := t.returned[kind]
	if n > 0 && (n >= t.peerLimit[kind]/4 || t.peerMax[kind] == t.peerNext[kind]) {
		t.peerMax[kind] += n
		t.returned[kind] = 0
		t.needMax[kind] = true
		c.dirty = true
	}
}

func (c *Conn) queueSend(s *Stream) {
	if !s.queued && !s.gone {
		s.queued = true
		c.streams.enqueue(s)
	}
	c.dirty = true
}

func (c *Conn) queueCtrl(s *Stream) {
	if !s.ctrl && !s.gone {
		s.ctrl = true
		c.streams.ctrlQueue = append(c.streams.ctrlQueue, s)
	}
	c.dirty = true
}

// onStream handles a STREAM frame.
func (c *Conn) onStream(f *wire.StreamFrame) error {
	s, err := c.streamFor(f.ID, wire.FrameStream, true)
	if err != nil || s == nil {
		return err
	}
	r := &s.rcv
	end := f.Off + uint64(len(f.Data))
	if err := c.checkFinal(r, end, f.Fin); err != nil {
		return err
	}
	if r.reset || r.done && !r.stopped {
		return nil
	}
	before, known, had := r.buf.highest, r.buf.hasFin, r.buf.end
	if len(f.Data) > 0 && !r.stopped {
		if !c.memoryAllows(len(f.Data), f.Off <= r.buf.end) {
			return errOverBudget
		}
		// Flow control is checked before, and charged after, the bytes are kept:
		// a packet over budget must leave no trace.
		if err := c.onData(s, end); err != nil {
			return err
		}
		was := r.buf.end
		if err := r.buf.insert(&c.acct, f.Off, f.Data); err != nil {
			c.flow.received -= r.buf.highest - before
			r.buf.highest = before
			return err
		}
		if r.buf.end > was {
			c.turns.fresh = true
			c.wakeReader(s)
		}
	} else if err := c.onData(s, end); err != nil {
		return err
	}
	if r.stopped {
		c.creditConn(r.buf.highest - before)
		r.buf.read, r.buf.end = r.buf.highest, r.buf.highest
	}
	if f.Fin {
		r.buf.hasFin, r.buf.final = true, end
		c.wakeReader(s)
		if r.stopped {
			s.readDone()
		}
	}
	if c.eventMask&EventStreamUpdate != 0 && r.buf.hasFin && !r.stopped {
		if !known {
			c.emitStream(s, RecvSizeKnown)
		}
		if r.buf.end == r.buf.final && (!known || had != r.buf.end) {
			c.emitStream(s, RecvRecvd)
		}
	}
	return nil
}

// checkFinal enforces RFC 9000, Section 4.5: "Once a final size for a stream is
// known, it cannot change."
func (c *Conn) checkFinal(r *recvHalf, end uint64, fin bool) error {
	if r.buf.hasFin && (end > r.buf.final || fin && end != r.buf.final) {
		return c.fail(FinalSizeError, wire.FrameStream, "data beyond the final size, or another final size")
	}
	if fin && end < r.buf.highest {
		return c.fail(FinalSizeError, wire.FrameStream, "final size below data already received")
	}
	return nil
}

// memoryAllows bounds what all connections together hold. A connection that
// holds little may always go on. So may data in order, however much waits behind
// it, when the application has little else to read: it is what drains memory.
func (c *Conn) memoryAllows(n int, inOrder bool) bool {
	held := c.acct.held
	if inOrder {
		held -= c.acct.late
	}
	return held+n <= smallHold || c.ep.held.Load()+c.ep.sending.Load()+int64(n) <= c.ep.memory
}

// smallHold is what a connection may hold when memory is short, of what it received
// and of what it sends each.
const smallHold = 64 << 10

// RFC 9000, Section 4.5: "The receiver MUST use the final size of the stream to
// account for all bytes sent on the stream in its connection-level flow
// controller."
func (c *Conn) onResetStream(id, code, final uint64) error {
	s, err := c.streamFor(id, wire.FrameResetStream, true)
	if err != nil || s == nil {
		return err
	}
	r := &s.rcv
	if err := c.checkFinal(r, final, true); err != nil {
		return err
	}
	before := r.buf.highest
	if err := c.onData(s, final); err != nil {
		return err
	}
	if r.reset || r.done {
		if r.stopped {
			c.creditConn(r.buf.highest - before)
		}
		return nil
	}
	// RFC 9000, Section 3.2: an endpoint that has all data may still deliver it.
	if r.buf.hasFin && r.buf.end == r.buf.final && !r.stopped {
		return nil
	}
	c.creditConn(r.buf.highest - r.buf.read)
	r.buf.skip(&c.acct)
	r.buf.hasFin, r.buf.final = true, final
	r.reset, r.resetCode = true, code
	c.emitStream(s, RecvResetRecvd)
	s.rgate.open()
	if r.stopped {
		s.readDone()
	}
	return nil
}

func (c *Conn) onStopSending(id, code uint64) error {
	s, err := c.streamFor(id, wire.FrameStopSending, false)
	if err != nil || s == nil {
		return err
	}
	w := &s.snd
	if w.stopped || w.reset {
		return nil
	}
	// RFC 9000, Section 3.5: "An endpoint that receives a STOP_SENDING frame MUST
	// send a RESET_STREAM frame if the stream is in the "Ready" or "Send" state."
	w.stopped, w.stoppedCode = true, code
	s.resetSend(code)
	s.wgate.open()
	return nil
}

// RFC 9000, Section 4.1: "A sender MUST ignore any MAX_STREAM_DATA or MAX_DATA
// frames that do not increase flow control limits."
func (c *Conn) onMaxStreamData(id, v uint64) error {
	s, err := c.streamFor(id, wire.FrameMaxStreamData, false)
	if err != nil || s == nil {
		return err
	}
	if v > s.snd.max {
		s.snd.max = v
		if c.eventMask&EventMaxData != 0 {
			c.emit(Event{Kind: EventMaxData, StreamID: id, Max: v})
		}
		if _, _, some := c.nextSpan(s); some {
			c.queueSend(s)
		}
	}
	return nil
}

// RFC 9000, Section 4.6: "MAX_STREAMS frames that do not increase the stream
// limit MUST be ignored."
func (c *Conn) onMaxStreams(uni bool, v uint64) error {
	// RFC 9000, Section 19.11: "Receipt of a frame that permits opening of a
	// stream larger than this limit MUST be treated as a connection error of type
	// FRAME_ENCODING_ERROR."
	if v > 1<<60 {
		return c.fail(FrameEncodingError, wire.FrameMaxStreamsBidi, "stream limit above 2^60")
	}
	kind := 0
	if uni {
		kind = 1
	}
	// RFC 9000, Section 19.11: "MAX_STREAMS frames that do not increase the
	// stream limit MUST be ignored."
	if t := &c.streams; v > t.max[kind] {
		t.max[kind] = v
		if c.eventMask&EventMaxStreams != 0 {
			c.emit(Event{Kind: EventMaxStreams, Uni: uni, Max: v})
		}
		t.opening[kind].open()
		c.releaseHeld()
	}
	return nil
}
