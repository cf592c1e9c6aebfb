package quic

import (
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// What becomes of the contents of packets that were acknowledged or lost.

// ackWork is memory for the work on ACK frames.
type ackWork struct {
	ack         wire.Ack            // reused by frame parsing
	ackRanges   []recovery.AckRange // the same in recovery's type
	wireRanges  []wire.AckRange     // reused by frame building
	eventSpace  recovery.Space      // of the packets given to the next three
	acked       ackedRun            // the same
	ackedFunc   func(*recovery.SentPacket)
	lostFunc    func(*recovery.SentPacket)
	requeueFunc func(*recovery.SentPacket)
}

// needAckWork makes what rest has let go of.
func (c *Conn) needAckWork() {
	if c.ackWork == nil {
		c.ackWork = &ackWork{ackedFunc: c.onAcked, lostFunc: c.onLost, requeueFunc: c.requeue}
		if c.confirmed {
			c.eventSpace = recovery.AppData
		}
	}
}

// ackSpace applies the ACK frame in c.ack to a packet number space.
func (c *Conn) ackSpace(space recovery.Space, delay time.Duration) (recovery.AckResult, error) {
	c.ackRanges = c.ackRanges[:0]
	for _, r := range c.ack.Ranges {
		c.ackRanges = append(c.ackRanges, recovery.AckRange{Smallest: r.Smallest, Largest: r.Largest})
	}
	var ecn *[3]uint64
	if c.ack.ECN {
		ecn = &[3]uint64{c.ack.ECT0, c.ack.ECT1, c.ack.CE}
	}
	c.eventSpace = space
	p := &c.path
	res, err := c.loss.Ack(c.now(), space, c.ackRanges, ecn, delay, c.lossState(), &p.rtt, p.cc, c.ackedFunc, c.lostFunc)
	c.ackRun()
	if res.Congested {
		c.stats.CEReports++
	}
	return res, err
}

func (c *Conn) onAcked(p *recovery.SentPacket) {
	if p.PMTUProbe {
		c.onMTUProbe(p, true)
	} else {
		c.watchAcked(p)
	}
	if c.eventSpace == recovery.AppData && p.KeyPhase == c.app.generation {
		c.app.acked = true
		if p.NumRecords > 0 && p.At(0).Kind == recAck && c.app.rxSeen && p.At(0).Off >= c.app.rxLowest {
			c.app.settled = true
		}
	}
	for i := range int(p.NumRecords) {
		r := p.Ref(i)
		if r.Kind == recStream && !r.Fin {
			if c.acked.id != r.ID || c.acked.end != r.Off {
				c.ackRun()
				c.acked = ackedRun{id: r.ID, span: span{r.Off, r.Off}}
			}
			c.acked.end += uint64(r.Len)
			continue
		}
		c.ackRun()
		c.ackRecord(*r)
	}
}

// An ackedRun is the bytes of a stream, sent in several packets, that an ACK frame
// acknowledges.
type ackedRun struct {
	id uint64
	span
}

// ackRun is ackRecord for the run collected so far.
func (c *Conn) ackRun() {
	run := c.acked
	if run.start == run.end {
		return
	}
	c.acked = ackedRun{}
	if s := c.streams.all[run.id]; s != nil && !s.snd.reset {
		c.ackStream(s, run.span, false)
	}
}

func (c *Conn) ackStream(s *Stream, sp span, fin bool) {
	w := &s.snd
	w.buf.ack(sp.start, sp.end)
	if fin {
		w.finAckSeen, w.finLost = true, false
	}
	if w.waiter && !w.inLine && w.buf.start == w.buf.end {
		c.wakeWriter(s)
	}
	if w.finAckSeen && w.buf.start == w.buf.end && !w.finAcked {
		w.finAcked = true
		c.emitStream(s, SendRecvd)
		c.wakeWriter(s)
		c.maybeForget(s)
	}
}

// RFC 9000, Section 3.3: "A sender MUST NOT send any of these frames from a
// terminal state ("Data Recvd" or "Reset Recvd")."
func (c *Conn) ackRecord(r recovery.Record) {
	switch r.Kind {
	case recAck:
		// RFC 9000, Section 13.2.4: a receiver of an ACK of our ACK needs to hear no
		// more of what that one reported.
		c.recvOf(c.eventSpace).DropBelow(r.Off)
	case recCrypto:
		c.cryptoOf(recovery.Space(r.ID)).ack(r.Off, r.Off+uint64(r.Len))
	case recStream:
		s := c.streams.all[r.ID]
		if s == nil || s.snd.reset {
			return
		}
		c.ackStream(s, span{r.Off, r.Off + uint64(r.Len)}, r.Fin)
	case recReset:
		if s := c.streams.all[r.ID]; s != nil {
			if !s.snd.resetAcked {
				c.emitStream(s, SendResetRecvd)
			}
			s.snd.resetAcked, s.snd.needReset = true, false
			c.maybeForget(s)
		}
	}
}

func (c *Conn) onLost(p *recovery.SentPacket) {
	c.ackRun() // what was acknowledged comes first
	c.dirty = true
	if p.PMTUProbe {
		c.onMTUProbe(p, false)
		return
	}
	c.stats.PacketsLost++
	if c.trace != nil {
		c.traceLost(p)
	}
	c.watchLost(p)
	for i := range int(p.NumRecords) {
		c.loseRecord(p.At(i))
	}
}

// loseRecord makes what was lost due again, in its present form.
// RFC 9000, Section 13.3 says for each frame what that is.
func (c *Conn) loseRecord(r recovery.Record) {
	if r.Kind != recAck {
		c.stats.FramesRetransmitted++
	}
	switch r.Kind {
	case recCrypto:
		// RFC 9001, Section 4: "If QUIC needs to retransmit that data, it MUST
		// use the same keys even if TLS has already updated to newer keys."
		c.cryptoOf(recovery.Space(r.ID)).markLost(r.Off, r.Off+uint64(r.Len))
	case recMaxData:
		c.flow.needMax = c.flow.needMax || r.Off == c.flow.max
	case recDataBlocked:
		c.flow.blocked = c.flow.blocked || r.Off == c.flow.sendMax && len(c.streams.waiting) > 0
	case recMaxStreams:
		c.streams.needMax[r.ID] = true
	case recNewConnID:
		if l := c.ids.localBySeq(r.ID); l != nil {
			l.need = true
		}
	case recRetireConnID:
		c.ids.retire = append(c.ids.retire, r.ID)
	case recHandshakeDone:
		// RFC 9000, Section 13.3: "The HANDSHAKE_DONE frame MUST be
		// retransmitted until it is acknowledged."
		c.hsDone = true
	case recAckFrequency:
		c.freq.due = c.freq.due || r.ID+1 == c.freq.seq // unless a newer one went out
	case recNewToken:
		c.tokenDue = true // another will do as well
	case recStream, recMaxStreamData, recReset, recStop, recStreamBlocked:
		if s := c.streams.all[r.ID]; s != nil {
			c.loseStreamRecord(s, r)
		}
	}
}

func (c *Conn) loseStreamRecord(s *Stream, r recovery.Record) {
	w, rc := &s.snd, &s.rcv
	switch r.Kind {
	case recStream:
		if w.reset {
			return
		}
		w.buf.markLost(r.Off, r.Off+uint64(r.Len))
		if r.Fin && !w.finAckSeen {
			w.finLost = true
		}
		c.queueSend(s)
	case recMaxStreamData:
		if r.Off == rc.max && !rc.buf.hasFin && !rc.stopped {
			rc.needMax = true
			c.queueCtrl(s)
		}
	case recReset:
		if !w.resetAcked {
			w.needReset = true
			c.queueCtrl(s)
		}
	case recStop:
		if !rc.done && !rc.reset {
			rc.needStop = true
			c.queueCtrl(s)
		}
	case recStreamBlocked:
		if w.max == r.Off && w.buf.next >= w.max && w.buf.end > w.max {
			w.blocked = true
			c.queueCtrl(s)
		}
	}
}
