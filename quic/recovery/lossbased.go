package recovery

import (
	"math"
	"time"
)

// validity is how long a window that was not used stays valid: RFC 7661,
// Section 4.4: "This method RECOMMENDS a maximum NVP of five minutes."
const validity = 5 * time.Minute

// lossBased is what the controllers that react to loss have in common: a
// window, a threshold, and recovery periods.
type lossBased struct {
	maxDatagram int
	window      int
	threshold   int // ssthresh; MaxInt until the first congestion event
	recovery    time.Time
	grown       bool // the window is not the initial one any more
	lastSent    time.Time
	undo        undoCount
	undone      uint64
}

// undoCount counts the losses that caused a reduction. When all of them turn
// out to be spurious, the reduction is taken back. RFC 9002 leaves that to the
// sender; RFC 9438, Section 4.9 describes it for CUBIC.
type undoCount struct {
	armed          bool
	at             time.Time // of the reduction
	lost, spurious int
}

func (b *lossBased) init(maxDatagram int) {
	*b = lossBased{maxDatagram: maxDatagram, window: initialWindow(maxDatagram), threshold: math.MaxInt}
}

// Window is the congestion window.
func (b *lossBased) Window() int { return b.window }

// CanSend applies RFC 9002, Section 7: "An endpoint MUST NOT send a packet if
// it would cause bytes_in_flight (see Appendix B.2) to be larger than the
// congestion window, unless the packet is sent on a PTO timer expiration".
func (b *lossBased) CanSend(inFlight int) bool {
	return inFlight <= b.window-b.maxDatagram
}

func (b *lossBased) slowStart() bool { return b.window < b.threshold }

// PacingRate is 2 windows a round trip in slow start, where the window doubles
// each round trip, and otherwise 1.25. RFC 9002, Section 7.7: "Using a value
// for N that is small, but at least 1 (for example, 1.25) ensures that
// variations in RTT do not result in underutilization of the congestion
// window."
func (b *lossBased) PacingRate(smoothed time.Duration) int64 {
	if b.slowStart() {
		return paceRate(b.window, smoothed, 2, 1)
	}
	return paceRate(b.window, smoothed, 5, 4)
}

// OnSent lets a window decay that was not used for long: RFC 7661, Section
// 4.4.3: the threshold becomes three quarters of the window, and the window
// half of it, but not less than the initial one.
func (b *lossBased) OnSent(now time.Time, _, inFlight int) SendState {
	if inFlight == 0 && !b.lastSent.IsZero() && now.Sub(b.lastSent) > validity {
		if b.threshold != math.MaxInt {
			b.threshold = max(b.threshold, b.window/4*3)
		}
		for idle := now.Sub(b.lastSent); idle > validity && b.window > initialWindow(b.maxDatagram); idle -= validity {
			b.window = max(b.window/2, initialWindow(b.maxDatagram))
		}
	}
	b.lastSent = now
	return SendState{}
}

func (b *lossBased) grow(n int) {
	b.window = min(b.window+n, maxWindow)
	b.grown = true
}

// underutilized is RFC 9002, Section 7.8: "When bytes in flight is smaller than
// the congestion window and sending is not pacing limited, the congestion
// window is underutilized." A sender fed in pieces is out of data for moments
// while it does fill the window, so half of it counts as use in slow start,
// where a window is twice what the last round trip needed, and seven eighths
// afterwards.
func (b *lossBased) underutilized(inFlight int) bool {
	if b.slowStart() {
		return inFlight < b.window/2
	}
	return inFlight < b.window-b.window/8
}

func (b *lossBased) inRecovery(sent time.Time) bool {
	return !b.recovery.IsZero() && !sent.After(b.recovery)
}

// minimum is RFC 9002, Section 7.2: "The RECOMMENDED value is 2 *
// max_datagram_size."
func (b *lossBased) minimum() int { return 2 * b.maxDatagram }

// reduce begins a recovery period with a window of size.
//
// RFC 9002, Section 7.3.1: "The sender MUST exit slow start and enter a
// recovery period when a packet is lost or when the ECN-CE count reported by
// its peer increases."
//
// RFC 9002, Section 7.3.2: "The congestion window MUST be set to the reduced
// value of the slow start threshold before exiting the recovery period."
func (b *lossBased) reduce(now time.Time, size int) {
	b.recovery = now
	b.threshold = size
	b.window = max(size, b.minimum())
	b.grown = true
}

// OnPacketLost does nothing: losses count when they are all known.
func (b *lossBased) OnPacketLost(time.Time, *SentPacket) {}

// watch begins to count the losses of a reduction at now.
func (b *lossBased) watch(now time.Time, packets int) {
	b.undo = undoCount{armed: true, at: now, lost: packets}
}

// spurious counts a loss that was none and reports whether that was the last
// one behind the reduction.
func (b *lossBased) spurious(declared time.Time) bool {
	u := &b.undo
	if !u.armed || declared.Before(u.at) {
		return false
	}
	if u.spurious++; u.spurious < u.lost {
		return false
	}
	u.armed = false
	b.undone++
	return true
}

// persistent follows RFC 9002, Section 7.6.2: "When persistent congestion is
// declared, the sender's congestion window MUST be reduced to the minimum
// congestion window (kMinimumWindow)".
func (b *lossBased) persistent() {
	b.window = b.minimum()
	b.recovery = time.Time{}
	b.grown = true
	b.undo = undoCount{}
}

// SetMaxDatagram follows RFC 9002, Section 7.2: "If the maximum datagram size
// changes during the connection, the initial congestion window SHOULD be
// recalculated with the new size."
func (b *lossBased) SetMaxDatagram(n int) {
	b.maxDatagram = n
	if !b.grown {
		b.window = initialWindow(n)
	}
	b.window = max(b.window, b.minimum())
}

func (b *lossBased) report(name, state string) Report {
	r := Report{Name: name, State: state, Window: b.window, Undone: b.undone}
	if b.threshold != math.MaxInt {
		r.SlowStartThreshold = b.threshold
	}
	return r
}
