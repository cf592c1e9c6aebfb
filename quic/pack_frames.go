package quic

import (
	"slices"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// What a sent packet carried, as recovery.Record.Kind. Lost packets are never
// sent again: what they carried is, if it still matters (RFC 9000, Section 13.3).
const (
	recAck            = iota + 1 // Off: largest acknowledged
	recCrypto                    // ID: space, Off, Len
	recStream                    // ID, Off, Len, Fin
	recMaxData                   // Off: value
	recMaxStreamData             // ID, Off: value
	recMaxStreams                // ID: kind
	recReset                     // ID
	recStop                      // ID
	recNewConnID                 // ID: sequence number
	recRetireConnID              // ID: sequence number
	recHandshakeDone             //
	recDataBlocked               // Off
	recStreamBlocked             // ID, Off
	recStreamsBlocked            // ID: kind
	recNewToken                  //
	recAckFrequency              // ID: sequence number
)

// maxFrameLen is room enough for any control frame here.
const maxFrameLen = 64

// wantsApp tells whether 1-RTT packets other than ACKs are due.
func (c *Conn) wantsApp() bool {
	t := &c.streams
	return len(t.sendQueue) > 0 || len(t.ctrlQueue) > 0 || c.flow.needMax || c.hsDone || c.tokenDue && c.path.validated || c.ping || c.freq.due || len(c.ids.retire) > 0 ||
		t.needMax[0] || t.needMax[1] || c.wantsDatagrams() || c.crypto.wants()
}

// appDue tells whether buildShort would find anything to send but an
// acknowledgement.
func (c *Conn) appDue() bool {
	t := &c.streams
	if c.wantsApp() || c.probes[recovery.AppData] > 0 || c.flow.blocked || t.blocked[0] || t.blocked[1] {
		return true
	}
	for i := range c.ids.local {
		if c.ids.local[i].need && c.admitted {
			return true
		}
	}
	return false
}

// appendControl appends the control frames that are due, as far as they fit.
func (c *Conn) appendControl(b []byte, room int, pkt *recovery.SentPacket) []byte {
	add := func(r recovery.Record) {
		pkt.Add(r)
		pkt.AckEliciting = true
	}
	fits := func() bool { return room-len(b) >= maxFrameLen }
	if c.hsDone && fits() {
		b = wire.AppendHandshakeDone(b)
		c.hsDone = false
		add(recovery.Record{Kind: recHandshakeDone})
	}
	if c.tokenDue && c.path.validated && room-len(b) >= 2*maxFrameLen {
		b = wire.AppendNewToken(b, c.ep.tokens.next(c.version, c.path.remote.Addr(), c.now()))
		c.tokenDue = false
		add(recovery.Record{Kind: recNewToken})
	}
	if c.ping && fits() {
		if c.freq.immediate {
			b = c.appendElicit(b)
		} else {
			b = wire.AppendPing(b)
		}
		c.ping, c.freq.immediate = false, false
		pkt.AckEliciting = true
	}
	if c.freq.due && fits() {
		add(recovery.Record{Kind: recAckFrequency, ID: c.freq.seq})
		b = c.appendAckFrequency(b)
	}
	if c.flow.needMax && fits() {
		b = wire.AppendMaxData(b, c.flow.max)
		c.flow.needMax = false
		add(recovery.Record{Kind: recMaxData, Off: c.flow.max})
	}
	if c.flow.blocked && fits() {
		b = wire.AppendDataBlocked(b, c.flow.sendMax)
		c.flow.blocked = false
		add(recovery.Record{Kind: recDataBlocked, Off: c.flow.sendMax})
	}
	for kind := range 2 {
		if c.streams.needMax[kind] && fits() {
			b = wire.AppendMaxStreams(b, kind == 1, c.streams.peerMax[kind])
			c.streams.needMax[kind] = false
			add(recovery.Record{Kind: recMaxStreams, ID: uint64(kind)})
		}
		if c.streams.blocked[kind] && fits() {
			b = wire.AppendStreamsBlocked(b, kind == 1, c.streams.max[kind])
			c.streams.blocked[kind] = false
			add(recovery.Record{Kind: recStreamsBlocked, ID: uint64(kind)})
		}
	}
	b = c.appendConnIDs(b, room, add)
	return c.appendStreamControl(b, room, add)
}

func (c *Conn) appendConnIDs(b []byte, room int, add func(recovery.Record)) []byte {
	for len(c.ids.retire) > 0 && room-len(b) >= maxFrameLen {
		seq := c.ids.retire[0]
		c.ids.retire = slices.Delete(c.ids.retire, 0, 1)
		b = wire.AppendRetireConnectionID(b, seq)
		add(recovery.Record{Kind: recRetireConnID, ID: seq})
	}
	if !c.admitted {
		return b
	}
	for i := range c.ids.local {
		l := &c.ids.local[i]
		if l.need && room-len(b) >= maxFrameLen {
			// RFC 9000, Section 19.15: "The value in the Retire Prior To field
			// MUST be less than or equal to the value in the Sequence Number
			// field."
			b = wire.AppendNewConnectionID(b, l.seq, min(c.ids.prior, l.seq), l.id, resetToken(c.ep.resetKey, l.id))
			l.need = false
			add(recovery.Record{Kind: recNewConnID, ID: l.seq})
		}
	}
	return b
}

// appendStreamControl appends control frames of streams.
func (c *Conn) appendStreamControl(b []byte, room int, add func(recovery.Record)) []byte {
	q := c.streams.ctrlQueue
	for len(q) > 0 && room-len(b) >= 3*maxFrameLen {
		s := q[0]
		q = withoutFirst(q)
		s.ctrl = false
		if c.holds(s) {
			continue
		}
		r, w := &s.rcv, &s.snd
		if w.needReset {
			b = wire.AppendResetStream(b, s.id, w.resetCode, w.buf.end)
			w.needReset = false
			add(recovery.Record{Kind: recReset, ID: s.id})
		}
		if s.gone {
			continue
		}
		if r.needStop {
			b = wire.AppendStopSending(b, s.id, r.stopCode)
			r.needStop = false
			add(recovery.Record{Kind: recStop, ID: s.id})
		}
		if r.needMax && !r.stopped {
			b = wire.AppendMaxStreamData(b, s.id, r.max)
			add(recovery.Record{Kind: recMaxStreamData, ID: s.id, Off: r.max})
		}
		r.needMax = false
		if w.blocked {
			b = wire.AppendStreamDataBlocked(b, s.id, w.max)
			w.blocked = false
			add(recovery.Record{Kind: recStreamBlocked, ID: s.id, Off: w.max})
		}
	}
	c.streams.ctrlQueue = q
	return b
}

// A streamPiece is the STREAM frame that ends a packet.
type streamPiece struct {
	stream *Stream
	off    uint64
	n      int
	fin    bool
	chunk  *chunk // holds all n bytes; nil if n is 0
}

// appendStreams appends STREAM frames. All but the last are copied to b; the
// last, which fills the packet, is returned to be sealed from where it lies.
func (c *Conn) appendStreams(b []byte, room int, pkt *recovery.SentPacket) ([]byte, streamPiece) {
	t := &c.streams
	for len(t.sendQueue) > 0 {
		s := t.sendQueue[0]
		sp, again, ok := c.nextSpan(s)
		if !ok {
			c.popStream()
			continue
		}
		avail := room - len(b) - wire.StreamHeaderLen(s.id, sp.start, -1)
		if avail < 16 {
			return b, streamPiece{}
		}
		k := (*chunk)(nil)
		n := 0
		if sp.start < sp.end {
			if k = s.snd.buf.find(sp.start); k.sealing {
				c.awaitSealed() // its bytes are not all in place
			}
			n = int(min(sp.end, k.end()) - sp.start)
			n = min(n, avail)
		}
		fills := n == avail
		straddles := !fills && sp.start+uint64(n) < sp.end // more follows in the next chunk
		if straddles && c.batchNearlyFull {
			fills, straddles = true, false // better a short last datagram than a copy
		}
		if !fills && !straddles {
			// A short frame needs its length, unless nothing comes behind it.
			if len(t.sendQueue) > 1 || wantsMore(s, sp, n) {
				n = min(n, avail-wire.VarintLen(uint64(n)))
			} else {
				fills = true
			}
		}
		if fills {
			p := streamPiece{stream: s, off: sp.start, n: n, chunk: k}
			p.fin = c.markSent(s, sp.start, n, again, pkt)
			return b, p
		}
		if straddles {
			n = min(n, avail-wire.VarintLen(uint64(n)))
		}
		fin := c.markSent(s, sp.start, n, again, pkt)
		b = wire.AppendStreamHeader(b, s.id, sp.start, n, fin)
		if n > 0 {
			at := chunkHeadroom + int(sp.start-k.off)
			b = append(b, k.b[at:at+n]...)
			c.acct.copied += int64(n)
		}
	}
	return b, streamPiece{}
}

// wantsMore tells whether a stream has anything behind the first n bytes of sp.
func wantsMore(s *Stream, sp span, n int) bool {
	return sp.start+uint64(n) < s.snd.buf.end && sp.start+uint64(n) < s.snd.max
}

// nextSpan returns what a stream may send next. ok is false when it has
// nothing to send now: then it leaves the queue.
//
// RFC 9000, Section 2.2: "An endpoint MUST NOT send data on any stream without
// ensuring that it is within the flow control limits set by its peer."
func (c *Conn) nextSpan(s *Stream) (sp span, again, ok bool) {
	w := &s.snd
	if s.gone || w.reset || c.holds(s) {
		return span{}, false, false
	}
	sp, again = w.buf.pending()
	if again {
		return sp, true, true
	}
	// RFC 9000, Section 4.1: "Senders MUST NOT send data in excess of either
	// limit."
	//
	// RFC 9000, Section 19.9: "The sum of the final sizes on all streams --
	// including streams in terminal states -- MUST NOT exceed the value
	// advertised by a receiver."
	//
	// RFC 9000, Section 19.10: "The data sent on a stream MUST NOT exceed the
	// largest maximum stream data value advertised by the receiver."
	limit := min(w.max, sp.start+(c.flow.sendMax-c.flow.sent))
	if sp.start < sp.end && sp.start >= limit {
		c.noteBlocked(s)
		return span{}, false, false
	}
	sp.end = min(sp.end, limit)
	if sp.start < sp.end {
		return sp, false, true
	}
	// nothing but, perhaps, the FIN
	return sp, false, w.fin && (!w.finSent || w.finLost)
}

// noteBlocked reports to the peer, once per limit, that it holds us up. A
// stream blocked by the connection's limit waits apart until that moves.
func (c *Conn) noteBlocked(s *Stream) {
	w := &s.snd
	if w.buf.next >= w.max {
		if w.blockedAt != w.max || w.max == 0 && !w.blocked {
			w.blocked, w.blockedAt = true, w.max
			c.queueCtrl(s)
		}
		return
	}
	if !s.waits {
		s.waits = true
		c.streams.waiting = append(c.streams.waiting, s)
	}
	if c.flow.blockedAt != c.flow.sendMax {
		c.flow.blocked, c.flow.blockedAt = true, c.flow.sendMax
	}
}

// markSent records that [off, off+n) of s goes into pkt, and tells whether FIN
// goes with it.
func (c *Conn) markSent(s *Stream, off uint64, n int, again bool, pkt *recovery.SentPacket) (fin bool) {
	w := &s.snd
	end := off + uint64(n)
	if again {
		c.stats.BytesRetransmitted += uint64(n)
	} else {
		c.flow.sent += uint64(n)
		c.answered()
	}
	w.buf.sent(off, end)
	if off == 0 && !again {
		c.emitStream(s, SendSend)
	}
	fin = w.fin && end == w.buf.end
	if fin {
		if !w.finSent {
			c.emitStream(s, SendSent)
		}
		w.finSent, w.finLost = true, false
	}
	pkt.Add(recovery.Record{Kind: recStream, ID: s.id, Off: off, Len: uint32(n), Fin: fin})
	pkt.AckEliciting = true
	c.wakeRoom(s)
	return fin
}

// wakeRoom wakes a writer when there is room for half of what may be unsent.
func (c *Conn) wakeRoom(s *Stream) {
	if w := &s.snd; w.waiter && !w.inLine && !w.fin && s.room() >= maxUnsent/2 {
		w.waiter = false
		c.wakeWriter(s)
	}
}

// size is what the frame takes.
func (p *streamPiece) size() int {
	if p.stream == nil {
		return 0
	}
	return wire.StreamHeaderLen(p.stream.id, p.off, -1) + p.n
}

// placeStream puts the frame that ends a packet behind front, but for its bytes
// if they can be sealed from where they lie.
func (c *Conn) placeStream(front []byte, p *streamPiece, out *protect.Packet) []byte {
	front = wire.AppendStreamHeader(front, p.stream.id, p.off, -1, p.fin)
	if p.n == 0 {
		return front
	}
	at := chunkHeadroom + int(p.off-p.chunk.off)
	if need := len(front); need <= min(at, protect.MaxFront) {
		out.Plain, out.Front = p.chunk.b[at-need:at+p.n], uint8(need)
		return front
	}
	c.acct.copied += int64(p.n)
	return append(front, p.chunk.b[at:at+p.n]...)
}

// batchPayload is how many stream bytes fill one batch of datagrams, so that
// a read of that size becomes one send.
func (c *Conn) batchPayload(id, off uint64) int {
	segments := min(maxDatagramSize/c.path.mtu, c.shard().conn().Caps().MaxSegments)
	per := c.path.mtu - 1 - c.dst().Len() - 3 - protect.TagLen - wire.StreamHeaderLen(id, max(off, 1)+bigChunkSize, -1)
	if segments <= 1 {
		// An ACK frame in front must not push the last bytes of every chunk into a
		// datagram of their own.
		return per - 2*nearlyFull
	}
	return segments * per
}

// keptStreams is the capacity of a queue of streams that is kept when it is empty.
const keptStreams = 16

// withoutFirst takes the first stream out of a queue. A short queue keeps its
// memory, so that a stream that comes and goes allocates nothing.
func withoutFirst(q []*Stream) []*Stream {
	if cap(q) <= keptStreams {
		n := copy(q, q[1:])
		q[n] = nil
		return q[:n]
	}
	q[0] = nil
	if q = q[1:]; len(q) == 0 {
		return nil
	}
	return q
}
