package recovery

import (
	"fmt"
	"math"
	"time"
)

// maxWindow keeps window arithmetic far from overflow, also where int has 32
// bits.
const maxWindow = 1 << 30

// newReno is the controller of RFC 9002, Section 7 and Appendix B.
type newReno struct {
	maxDatagram int
	window      int
	threshold   int // ssthresh; MaxInt until the first congestion event
	credit      int // bytes acknowledged in congestion avoidance, less than a window
	recovery    time.Time
	grown       bool // the window is not the initial one any more
}

// NewNewReno returns the congestion controller that RFC 9002 describes, in
// slow start. maxDatagram is the size of a full datagram, at least 1200.
func NewNewReno(maxDatagram int) Controller {
	return &newReno{
		maxDatagram: maxDatagram,
		window:      initialWindow(maxDatagram),
		threshold:   math.MaxInt,
	}
}

func (c *newReno) Window() int { return c.window }

// CanSend applies RFC 9002, Section 7: "An endpoint MUST NOT send a packet if
// it would cause bytes_in_flight (see Appendix B.2) to be larger than the
// congestion window, unless the packet is sent on a PTO timer expiration".
func (c *newReno) CanSend(inFlight int) bool {
	return inFlight <= c.window-c.maxDatagram
}

func (c *newReno) slowStart() bool { return c.window < c.threshold }

// PacingRate is 2 windows a round trip in slow start, where the window doubles
// each round trip, and otherwise 1.25. RFC 9002, Section 7.7: "Using a value
// for N that is small, but at least 1 (for example, 1.25) ensures that
// variations in RTT do not result in underutilization of the congestion
// window."
func (c *newReno) PacingRate(smoothed time.Duration) int64 {
	if c.slowStart() {
		return paceRate(c.window, smoothed, 2, 1)
	}
	return paceRate(c.window, smoothed, 5, 4)
}

func (c *newReno) OnSent(time.Time, int, int) {}

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

func (c *newReno) grow(n int) {
	c.window = min(c.window+n, maxWindow)
	c.grown = true
}

// underutilized is RFC 9002, Section 7.8: "When bytes in flight is smaller than
// the congestion window and sending is not pacing limited, the congestion
// window is underutilized." A sender fed in pieces is out of data for moments
// while it does fill the window, so half of it counts as use in slow start,
// where a window is twice what the last round trip needed, and seven eighths
// afterwards.
func (c *newReno) underutilized(inFlight int) bool {
	if c.slowStart() {
		return inFlight < c.window/2
	}
	return inFlight < c.window-c.window/8
}

func (c *newReno) inRecovery(sent time.Time) bool {
	return !c.recovery.IsZero() && !sent.After(c.recovery)
}

func (c *newReno) OnLost(now, largestLostSent time.Time, _ int) {
	c.congestion(now, largestLostSent)
}

func (c *newReno) OnCE(now, sent time.Time) { c.congestion(now, sent) }

// congestion enters a recovery period. RFC 9002, Section 7.3.2: "A sender that
// is already in a recovery period stays in it and does not reenter it."
func (c *newReno) congestion(now, sent time.Time) {
	if c.inRecovery(sent) {
		return
	}
	// RFC 9002, Section 7.3.2: "On entering a recovery period, a sender MUST
	// set the slow start threshold to half the value of the congestion window
	// when loss is detected."
	c.recovery = now
	c.threshold = c.window / 2
	c.window = max(c.threshold, c.minimum())
	c.credit = 0
	c.grown = true
}

// minimum is RFC 9002, Section 7.2: "The RECOMMENDED value is 2 *
// max_datagram_size."
func (c *newReno) minimum() int { return 2 * c.maxDatagram }

// OnPersistent follows RFC 9002, Section 7.6.2: "When persistent congestion is
// declared, the sender's congestion window MUST be reduced to the minimum
// congestion window (kMinimumWindow)".
func (c *newReno) OnPersistent(time.Time) {
	c.window = c.minimum()
	c.credit = 0
	c.recovery = time.Time{}
	c.grown = true
}

// SetMaxDatagram follows RFC 9002, Section 7.2: "If the maximum datagram size
// changes during the connection, the initial congestion window SHOULD be
// recalculated with the new size."
func (c *newReno) SetMaxDatagram(n int) {
	c.maxDatagram = n
	if !c.grown {
		c.window = initialWindow(n)
	}
	c.window = max(c.window, c.minimum())
}

func (c *newReno) String() string {
	state := "congestion avoidance"
	if c.slowStart() {
		state = "slow start"
	}
	return fmt.Sprintf("newreno %s window %d", state, c.window)
}
