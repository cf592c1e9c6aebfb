package quic

import (
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
)

// A connection has one timer. It is armed for the earliest thing to do and
// not moved when that becomes later: firing early costs less than moving it
// with every packet.

// deadline is the earliest time at which something has to be done.
func (c *Conn) deadline() time.Time {
	if c.state >= stateClosing {
		if t := c.closing.repeatAt; !t.IsZero() && t.Before(c.closing.until) {
			return t
		}
		return c.closing.until
	}
	t := c.idleDeadline()
	earliest := func(u time.Time) {
		if !u.IsZero() && u.Before(t) {
			t = u
		}
	}
	if c.state == stateHandshake {
		earliest(c.started.Add(c.cfg.handshakeTimeout()))
	}
	if c.blocked == nil {
		earliest(c.lossDeadline())
		earliest(c.pacedUntil)
	}
	for space := range recovery.NumSpaces {
		if c.maySendAck(space) {
			earliest(c.recvOf(space).AckDeadline())
		}
	}
	if k := c.cfg.KeepAlive; k > 0 && c.confirmed {
		earliest(c.keepAliveAt(k))
	}
	if c.mayRest() {
		earliest(c.restAt())
	}
	if c.app.due() {
		earliest(c.now().Add(timerGranularity))
	}
	earliest(c.early.until)
	for _, p := range c.eachPath() {
		if p != nil && p.challenging {
			earliest(c.challengeAgain(p))
		}
	}
	return t
}

// maySendAck tells whether an ACK frame of a space could go out now. While it
// cannot, its deadline, which passes, must not be what the timer waits for.
func (c *Conn) maySendAck(space recovery.Space) bool {
	credit := c.path.amplificationCredit()
	switch {
	case c.blocked != nil:
		return false
	case space == recovery.AppData:
		return c.maySendApp() && credit >= minSlot
	}
	return c.keys[space].tx != nil && credit >= minDatagram
}

func (c *Conn) keepAliveAt(k time.Duration) time.Time {
	t := c.lastHeard
	if c.lastSent.After(t) {
		t = c.lastSent
	}
	if c.lastPing.After(t) {
		t = c.lastPing
	}
	return t.Add(k)
}

// idleDeadline: RFC 9000, Section 10.1: "An endpoint restarts its idle timer when
// a packet from its peer is received and processed successfully. An endpoint
// also restarts its idle timer when sending an ack-eliciting packet if no other
// ack-eliciting packets have been sent since last receiving and processing a
// packet." and "To avoid excessively small idle timeout periods, endpoints
// MUST increase the idle timeout period to be at least three times the current
// Probe Timeout (PTO)."
func (c *Conn) idleDeadline() time.Time {
	t := c.lastHeard
	if c.lastSent.After(t) {
		t = c.lastSent
	}
	if c.state == stateHandshake {
		return c.started.Add(c.cfg.handshakeTimeout())
	}
	return t.Add(max(c.idle, 3*c.pto()))
}

func (c *Conn) lossDeadline() time.Time {
	t, _ := c.loss.Deadline(c.now(), &c.path.rtt, c.lossState())
	return t
}

// lossState is what RFC 9002 wants to know of the handshake.
func (c *Conn) lossState() recovery.State {
	return recovery.State{
		Confirmed: c.confirmed, HasHandshakeKeys: c.keys[recovery.Handshake].tx != nil,
		PeerValidated: c.server || c.peerVerified, AmplificationLimited: c.path.amplificationCredit() < minDatagram,
	}
}

// timerGranularity is the earliest that a timer is set for a time that has
// passed already.
const timerGranularity = time.Millisecond

func (c *Conn) setTimer() {
	t := c.deadline()
	if t.IsZero() {
		return
	}
	if !t.After(c.now()) {
		// What is due was done or cannot be done now: the timer must not spin.
		t = c.now().Add(timerGranularity)
	}
	if c.timer == nil {
		c.timerAt = t
		c.timer = time.AfterFunc(t.Sub(c.now()), c.fire)
		return
	}
	if c.timerAt.IsZero() || t.Before(c.timerAt) {
		c.timerAt = t
		c.timer.Reset(t.Sub(c.now()))
	}
}

// fire runs on a goroutine of the timer's.
func (c *Conn) fire() {
	c.inbox.pushFlag(&c.inbox.timer)
	c.pump()
}

// onTimer does whatever is due.
func (c *Conn) onTimer() {
	c.timerAt = zeroTime
	now := c.now()
	if c.state >= stateClosing {
		if c.state != stateDone && !now.Before(c.closing.until) {
			c.state = stateDone
			c.ep.forget(c)
			return
		}
		if t := c.closing.repeatAt; c.state == stateClosing && !t.IsZero() && !now.Before(t) {
			c.closing.repeatAt = zeroTime
			c.sendClose()
		}
		if c.state != stateDone {
			c.setTimer()
		}
		return
	}
	if c.state == stateHandshake && !now.Before(c.started.Add(c.cfg.handshakeTimeout())) {
		c.handshakeTimedOut()
		return
	}
	if !now.Before(c.idleDeadline()) {
		// RFC 9000, Section 10.1: "the connection is silently closed and its state is
		// discarded when it remains idle".
		c.abandon(&IdleTimeoutError{})
		return
	}
	if t := c.lossDeadline(); c.blocked == nil && !t.IsZero() && !now.Before(t) {
		c.onLossTimeout()
	}
	if k := c.cfg.KeepAlive; k > 0 && c.confirmed && !now.Before(c.keepAliveAt(k)) {
		c.ping, c.lastPing = true, now
	}
	if !c.pacedUntil.IsZero() && !now.Before(c.pacedUntil) {
		c.pacedUntil = zeroTime
	}
	if c.mayRest() && !now.Before(c.restAt()) {
		c.rest()
	}
	if c.app.due() {
		if err := c.app.prepare(); err != nil {
			_ = c.fail(InternalError, 0, "key update")
			return
		}
	}
	if t := c.early.until; !t.IsZero() && !now.Before(t) {
		c.forgetEarly()
	}
	c.checkChallenge()
	if c.ackDue(recovery.AppData) {
		c.turns.score = 0 // the answer did not come
	}
	c.dirty = true
}

// unanswered tells whether a client's first flight was sent, and nothing came back.
func (c *Conn) unanswered() bool {
	return !c.server && c.stats.PacketsSent > 0 && len(c.ids.remote) == 0
}

// handshakeTimedOut tells the peer, if it ever answered, and gives up.
func (c *Conn) handshakeTimedOut() {
	if len(c.ids.remote) > 0 {
		c.closeWith(&TransportError{Code: ConnectionRefused, Reason: "handshake timeout"}, &HandshakeTimeoutError{})
		return
	}
	c.abandon(&HandshakeTimeoutError{})
}

// onLossTimeout handles the loss detection timer (RFC 9002, Appendix A.9).
//
// RFC 9000, Section 8.1: "To prevent this deadlock, clients MUST send a packet
// on a Probe Timeout (PTO); see Section 6.2 of [QUIC-RECOVERY]."
//
// RFC 9002, Section 6.2.4: "When a PTO timer expires, a sender MUST send at
// least one ack-eliciting packet in the packet number space as a probe."
func (c *Conn) onLossTimeout() {
	c.needAckWork()
	space, probes := c.loss.OnTimeout(c.now(), &c.path.rtt, c.lossState(), c.path.cc, c.lostFunc)
	if probes == 0 {
		return
	}
	c.stats.PTOs++
	c.probes[space] = probes
	// RFC 9002, Section 6.2.4: "An endpoint SHOULD include new data in
	// packets that are sent on PTO expiration. Previously sent data MAY be
	// sent if no new data can be sent."
	c.loss.Oldest(space, probes, c.requeueFunc)
	c.checkBlackHole()
}

// requeue makes the contents of a packet that may be lost due again.
func (c *Conn) requeue(p *recovery.SentPacket) {
	if p.PMTUProbe {
		return
	}
	for i := range int(p.NumRecords) {
		c.loseRecord(p.At(i))
	}
}
