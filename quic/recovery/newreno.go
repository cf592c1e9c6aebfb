package recovery

import (
	"fmt"
	"time"
)

// newReno is the controller of RFC 9002, Section 7 and Appendix B.
type newReno struct {
	lossBased
	credit int // bytes acknowledged in congestion avoidance, less than a window
	before struct{ window, threshold int }
}

// NewNewReno returns the congestion controller that RFC 9002 describes, in
// slow start. maxDatagram is the size of a full datagram, at least 1200.
func NewNewReno(maxDatagram int) Controller {
	c := new(newReno)
	c.init(maxDatagram)
	return c
}

func (c *newReno) OnAcked(_ time.Time, p *SentPacket, inFlight int, appLimited bool) {
	if c.inRecovery(p.Sent) || appLimited && c.underutilized(inFlight) {
		return
	}
	size := int(p.Size)
	if c.slowStart() {
		// RFC 9002, Section 7.3.1: "While a sender is in slow start, the
		// congestion window increases by the number of bytes acknowledged
		// when each acknowledgment is processed."
		c.grow(size)
		return
	}
	// RFC 9002, Section 7.3.3: "A sender in congestion avoidance uses an
	// Additive Increase Multiplicative Decrease (AIMD) approach that MUST
	// limit the increase to the congestion window to at most one maximum
	// datagram size for each congestion window that is acknowledged."
	c.credit += size
	if c.credit >= c.window {
		c.credit -= c.window
		c.grow(c.maxDatagram)
	}
}

func (c *newReno) OnAckEnd(time.Time, *AckEvent) {}

// OnLost enters a recovery period. RFC 9002, Section 7.3.2: "A sender that is
// already in a recovery period stays in it and does not reenter it."
func (c *newReno) OnLost(now, largestLostSent time.Time, packets int) {
	if c.inRecovery(largestLostSent) {
		c.undo.lost += packets
		return
	}
	c.before.window, c.before.threshold = c.window, c.threshold
	c.halve(now)
	c.watch(now, packets)
}

func (c *newReno) OnCE(now, sent time.Time, _ uint64) {
	if !c.inRecovery(sent) {
		c.halve(now)
		c.undo = undoCount{}
	}
}

// halve follows RFC 9002, Section 7.3.2: "On entering a recovery period, a
// sender MUST set the slow start threshold to half the value of the congestion
// window when loss is detected."
func (c *newReno) halve(now time.Time) {
	c.reduce(now, c.window/2)
	c.credit = 0
}

func (c *newReno) OnSpurious(_, declared time.Time) {
	if c.spurious(declared) {
		c.window, c.threshold = max(c.window, c.before.window), c.before.threshold
		c.recovery = time.Time{}
	}
}

func (c *newReno) OnPersistent(time.Time) {
	c.persistent()
	c.credit = 0
}

func (c *newReno) state() string {
	if c.slowStart() {
		return "slow start"
	}
	return "congestion avoidance"
}

func (c *newReno) Report(r *Report) { *r = c.report("newreno", c.state()) }

func (c *newReno) String() string {
	return fmt.Sprintf("newreno %s window %d", c.state(), c.window)
}
