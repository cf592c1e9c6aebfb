package recovery

import (
	"fmt"
	"math"
	"time"
)

const (
	// RFC 9438, Section 4.1: "beta_cubic SHOULD be set to 0.7", Section 5: "it
	// is RECOMMENDED to set C to 0.4".
	cubicBeta = 0.7
	cubicC    = 0.4

	// RFC 9438, Section 4.3: "alpha_cubic = 3 * (1 - beta_cubic) / (1 +
	// beta_cubic)", so that an AIMD flow with that beta is as fast as Reno.
	cubicAlpha = 3 * (1 - cubicBeta) / (1 + cubicBeta)
)

// cubicEpoch is a congestion avoidance stage. Windows are in bytes here, and in
// datagrams where the cubic function wants them.
type cubicEpoch struct {
	start   time.Time // zero: begins with the next acknowledgment
	wMax    float64   // window before the last reduction
	k       float64   // seconds from start to wMax
	origin  float64   // plateau of the function
	wEst    float64   // the Reno-friendly window
	prior   float64   // window at the last reduction, without fast convergence
	limited time.Time // since when the application has limited sending; zero: it does not
}

// cubic is the controller of RFC 9438, with HyStart++ in the first slow start.
type cubic struct {
	lossBased
	cubicEpoch
	hystart hystart
	started bool    // the first slow start is over
	acked   int     // bytes of this ACK frame that may grow the window
	part    float64 // fraction of a byte of growth
	before  *cubicBefore
}

// cubicBefore is what a reduction has changed; nil while there was none.
type cubicBefore struct {
	window, threshold int
	epoch             cubicEpoch
	started           bool
}

// NewCUBIC returns the controller of RFC 9438, in slow start. maxDatagram is the
// size of a full datagram, at least 1200.
func NewCUBIC(maxDatagram int) Controller {
	c := new(cubic)
	c.init(maxDatagram)
	return c
}

func (c *cubic) OnAcked(now time.Time, p *SentPacket, inFlight int, appLimited bool) {
	if c.inRecovery(p.Sent) {
		return
	}
	if appLimited && c.underutilized(inFlight) {
		if c.limited.IsZero() {
			c.limited = now
		}
		return
	}
	if c.slowStart() {
		// RFC 9002, Section 7.3.1, as RFC 9438, Section 4.10 allows.
		n := int(p.Size)
		if !c.started {
			n = c.hystart.growth(n)
		}
		c.grow(n)
		return
	}
	c.acked += int(p.Size)
}

// PacingRate is that of the others, but without the haste of slow start when
// that is about to end.
func (c *cubic) PacingRate(smoothed time.Duration) int64 {
	if c.hystart.css && !c.started {
		return paceRate(c.window, smoothed, 5, 4)
	}
	return c.lossBased.PacingRate(smoothed)
}

func (c *cubic) OnAckEnd(now time.Time, e *AckEvent) {
	if c.slowStart() && !c.started && c.hystart.onAck(now, e) {
		c.threshold, c.started = c.window, true
	}
	if c.acked == 0 {
		return
	}
	if !c.limited.IsZero() {
		// RFC 9438, Section 5.8: "CUBIC does not increase its congestion window if a
		// flow is currently application limited", and time spent so must not count:
		// the window would jump.
		if !c.start.IsZero() {
			c.start = c.start.Add(now.Sub(c.limited))
		}
		c.limited = time.Time{}
	}
	if c.start.IsZero() {
		c.begin(now)
	}
	c.avoid(now, e.RTT.Smoothed(), c.acked)
	c.acked = 0
}

// begin starts an epoch. RFC 9438, Section 4.2: "K is the time period that the
// above function takes to increase the congestion window size at the beginning
// of the current congestion avoidance stage to W_max", "cubic_root((W_max -
// cwnd_epoch) / C)".
func (c *cubic) begin(now time.Time) {
	w, d := float64(c.window), float64(c.maxDatagram)
	c.start = now
	c.wEst = w
	if c.wMax > w {
		c.origin = c.wMax
		c.k = math.Cbrt((c.wMax - w) / d / cubicC)
	} else {
		// RFC 9438, Section 4.10: after slow start without a loss, "W_max" is the
		// window, and K is 0.
		c.origin, c.k, c.wMax = w, 0, w
		c.prior = max(c.prior, w)
	}
}

// avoid grows the window in congestion avoidance for acked bytes.
func (c *cubic) avoid(now time.Time, rtt time.Duration, acked int) {
	w, d := float64(c.window), float64(c.maxDatagram)
	at := func(t time.Duration) float64 {
		x := t.Seconds() - c.k
		return c.origin + cubicC*x*x*x*d
	}
	t := now.Sub(c.start)
	// RFC 9438, Section 4.3: "W_est = W_est + alpha_cubic * segments_acked / cwnd",
	// and "Once W_est has grown to reach the cwnd at the time of most recently
	// setting ssthresh", "the sender SHOULD set alpha_cubic to 1".
	alpha := cubicAlpha
	if c.wEst >= c.prior {
		alpha = 1
	}
	c.wEst += alpha * d * float64(acked) / w
	if at(t) < c.wEst {
		// Reno-friendly region: "the sender SHOULD set cwnd to W_est".
		c.set(max(w, c.wEst))
		return
	}
	// RFC 9438, Section 4.2: the target is W_cubic(t + RTT), not below the window
	// and not above 1.5 times it; each acknowledged segment adds (target - cwnd) /
	// cwnd.
	target := min(max(at(t+rtt), w), 1.5*w)
	c.set(w + (target-w)*min(float64(acked)/w, 1))
}

// set makes w the window and keeps what is less than a byte.
func (c *cubic) set(w float64) {
	more := w - float64(c.window) + c.part
	n := int(more)
	c.part = more - float64(n)
	c.grow(n)
}

// OnLost enters a recovery period, as newReno's does.
func (c *cubic) OnLost(now, largestLostSent time.Time, packets int) {
	if c.inRecovery(largestLostSent) {
		c.undo.lost += packets
		return
	}
	if c.before == nil {
		c.before = new(cubicBefore)
	}
	*c.before = cubicBefore{c.window, c.threshold, c.cubicEpoch, c.started}
	c.decrease(now)
	c.watch(now, packets)
}

func (c *cubic) OnCE(now, sent time.Time, _ uint64) {
	if !c.inRecovery(sent) {
		c.decrease(now)
		c.undo = undoCount{}
	}
}

// decrease is RFC 9438, Section 4.6, with fast convergence (Section 4.7): "if
// cwnd < W_max" the flow gives room to others: "W_max = cwnd * (1 + beta_cubic)
// / 2".
func (c *cubic) decrease(now time.Time) {
	w := float64(c.window)
	c.prior = w
	if w < c.wMax {
		c.wMax = w * (1 + cubicBeta) / 2
	} else {
		c.wMax = w
	}
	c.start, c.limited = time.Time{}, time.Time{}
	c.part, c.started = 0, true
	c.reduce(now, int(w*cubicBeta))
}

// OnSpurious takes a reduction back. RFC 9438, Section 4.9.2: "the values of the
// following variables can be restored".
func (c *cubic) OnSpurious(_, declared time.Time) {
	if b := c.before; c.spurious(declared) && b != nil {
		c.window, c.threshold, c.cubicEpoch, c.started = max(c.window, b.window), b.threshold, b.epoch, b.started
		c.recovery, c.part = time.Time{}, 0
	}
}

// OnPersistent: RFC 9438, Section 4.8: after a timeout the window grows in slow
// start to the threshold, and the epoch that follows begins on its plateau.
func (c *cubic) OnPersistent(time.Time) {
	c.persistent()
	c.cubicEpoch = cubicEpoch{}
	c.started = true
}

func (c *cubic) state() string {
	switch {
	case !c.slowStart():
		return "congestion avoidance"
	case c.hystart.css && !c.started:
		return "conservative slow start"
	}
	return "slow start"
}

func (c *cubic) Report(r *Report) { *r = c.report("cubic", c.state()) }

func (c *cubic) String() string {
	return fmt.Sprintf("cubic %s window %d", c.state(), c.window)
}
