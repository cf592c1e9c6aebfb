package recovery

import "time"

// HyStart++ (RFC 9406) ends slow start when round trips grow, before the queue
// at the bottleneck overflows.
//
// Where it differs from the RFC: a round's delay is not the least of all its
// samples, but the largest among the least of eight samples in a row. A sender
// that paces at twice its window a round trip is silent for half of each round,
// in which the queue drains: the least sample of a round says nothing of the
// queue that its other half saw, and slow start would end a round, twice the
// window, later. For the same reason Conservative Slow Start also ends as soon
// as delay has grown by another threshold: by then it was no accident.

const (
	// RFC 9406, Section 4.3: "It is RECOMMENDED that a HyStart++ implementation
	// use the following constants".
	hystartMinThreshold  = 4 * time.Millisecond  // MIN_RTT_THRESH
	hystartMaxThreshold  = 16 * time.Millisecond // MAX_RTT_THRESH
	hystartDivisor       = 8                     // MIN_RTT_DIVISOR
	hystartSamples       = 8                     // N_RTT_SAMPLE
	hystartGrowthDivisor = 4                     // CSS_GROWTH_DIVISOR
	hystartRounds        = 5                     // CSS_ROUNDS
)

// hystart watches the round trips of slow start. The zero value is the state at
// its beginning. Durations are zero while unknown.
type hystart struct {
	roundStart time.Time     // packets sent from here on belong to the round
	lastMin    time.Duration // least sample of the round before
	min        time.Duration // of this round
	eight      time.Duration // least of the samples since the last eight
	samples    int           // of them
	delay      time.Duration // of this round: the largest of eight
	css        bool          // Conservative Slow Start
	baseline   time.Duration // delay at which it began
	rounds     int           // of it
}

// growth is what n acknowledged bytes add to the window. The increase per ACK
// frame is not limited: RFC 9406, Section 4.3 recommends that where packets
// are paced.
func (h *hystart) growth(n int) int {
	if h.css {
		return n / hystartGrowthDivisor
	}
	return n
}

// onAck takes an ACK frame and reports whether slow start is over.
//
// A round is as RFC 9406, Section 4.2 has it, with times in place of sequence
// numbers: it ends when a packet is acknowledged that was sent after it began.
func (h *hystart) onAck(now time.Time, e *AckEvent) (done bool) {
	if h.roundStart.IsZero() {
		h.roundStart = now
	} else if !e.NewestSent.Before(h.roundStart) {
		done = h.endRound()
		h.roundStart = now
	}
	if !e.RTTSampled {
		return done
	}
	rtt := e.RTT.Latest()
	h.min, h.eight = least(h.min, rtt), least(h.eight, rtt)
	if h.samples++; h.samples == hystartSamples {
		h.delay = max(h.delay, h.eight)
		h.eight, h.samples = 0, 0
	}
	if !h.css && h.lastMin > 0 && h.delay >= h.lastMin+h.threshold() {
		h.css, h.rounds, h.baseline = true, 0, h.delay
	}
	return done
}

// endRound draws conclusions from a round.
func (h *hystart) endRound() (done bool) {
	if h.css && h.delay > 0 {
		switch h.rounds++; {
		case h.rounds >= hystartRounds, h.rounds > 1 && h.delay >= h.baseline+h.threshold():
			done = true
		case h.rounds > 1 && h.delay < h.baseline:
			// RFC 9406, Section 4.2: a round trip below the baseline says that the exit
			// was spurious, and slow start goes on.
			h.css, h.rounds, h.baseline = false, 0, 0
		}
	}
	if h.min > 0 {
		h.lastMin = h.min
	}
	h.min, h.delay, h.eight, h.samples = 0, 0, 0, 0
	return done
}

func (h *hystart) threshold() time.Duration {
	return min(max(hystartMinThreshold, h.lastMin/hystartDivisor), hystartMaxThreshold)
}

// least is the smaller of a, unless it is unknown, and b.
func least(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}
