package recovery

import "time"

const (
	// RFC 9002, Section 6.2.2: "When no previous RTT is available, the
	// initial RTT SHOULD be set to 333 milliseconds."
	initialRTT = 333 * time.Millisecond

	// RFC 9002, Section 6.1.2: "The RECOMMENDED value of the timer
	// granularity (kGranularity) is 1 millisecond."
	granularity = time.Millisecond
)

// RTT estimates the round-trip time of one path (RFC 9002, Section 5). Call
// Init before use, and again when the path changes.
type RTT struct {
	latest, min, smoothed, variation time.Duration
	sampled                          bool
}

// Init forgets all samples. Until the first one the estimate is initial;
// zero or less means the recommended 333 ms.
func (r *RTT) Init(initial time.Duration) {
	if initial <= 0 {
		initial = initialRTT
	}
	*r = RTT{smoothed: initial, variation: initial / 2}
}

// Update takes a sample: latest is the time from sending the largest newly
// acknowledged packet to its acknowledgment, ackDelay what the peer says it
// held the acknowledgment back. maxAckDelay is the peer's transport parameter,
// which counts once the handshake is confirmed.
func (r *RTT) Update(latest, ackDelay, maxAckDelay time.Duration, confirmed bool) {
	// A clock too coarse to see a loopback round trip still saw one.
	r.latest = max(latest, time.Nanosecond)
	ackDelay = max(ackDelay, 0)
	if !r.sampled {
		// RFC 9002, Section 5.2: "min_rtt MUST be set to the latest_rtt on
		// the first RTT sample."
		r.sampled = true
		r.min, r.smoothed, r.variation = r.latest, r.latest, r.latest/2
		return
	}
	r.min = min(r.min, r.latest)
	// RFC 9002, Section 5.3: "MUST use the lesser of the acknowledgment delay
	// and the peer's max_ack_delay after the handshake is confirmed"
	if confirmed {
		ackDelay = min(ackDelay, maxAckDelay)
	}
	// RFC 9002, Section 5.3: "MUST NOT subtract the acknowledgment delay from
	// the RTT sample if the resulting value is smaller than the min_rtt."
	adjusted := r.latest
	if r.latest-r.min >= ackDelay {
		adjusted -= ackDelay
	}
	// The variation is taken against the old average, as in Appendix A.7.
	r.variation += (abs(r.smoothed-adjusted) - r.variation) / 4
	r.smoothed += (adjusted - r.smoothed) / 8
}

// Smoothed is the moving average of the samples, the initial value before any.
func (r *RTT) Smoothed() time.Duration { return r.smoothed }

// Var is the mean deviation of the samples.
func (r *RTT) Var() time.Duration { return r.variation }

// Min is the smallest sample, zero before any.
func (r *RTT) Min() time.Duration { return r.min }

// Latest is the newest sample, zero before any.
func (r *RTT) Latest() time.Duration { return r.latest }

// HasSample reports whether there was a sample since Init.
func (r *RTT) HasSample() bool { return r.sampled }

// ResetMin sets the minimum to the newest sample.
func (r *RTT) ResetMin() { r.min = r.latest }

// PTO is the probe timeout before any backoff. maxAckDelay is the peer's, and
// zero for the Initial and Handshake spaces.
//
// RFC 9002, Section 6.2.1: "PTO = smoothed_rtt + max(4*rttvar, kGranularity) +
// max_ack_delay"
//
// RFC 9002, Section 6.2.1: "The PTO period MUST be at least kGranularity to
// avoid the timer expiring immediately."
func (r *RTT) PTO(maxAckDelay time.Duration) time.Duration {
	return r.smoothed + max(4*r.variation, granularity) + maxAckDelay
}

// lossDelay is the time threshold of RFC 9002, Section 6.1.2:
// "max(kTimeThreshold * max(smoothed_rtt, latest_rtt), kGranularity)", with
// kTimeThreshold in eighths; the recommended value is 9/8.
//
// RFC 9002, Section 6.1.2: "To avoid declaring packets as lost too early, this
// time threshold MUST be set to at least the local timer granularity, as
// indicated by the kGranularity constant."
func (r *RTT) lossDelay(eighths int64) time.Duration {
	rtt := max(r.smoothed, r.latest)
	return max(rtt*time.Duration(eighths)/8, granularity)
}

func abs(d time.Duration) time.Duration {
	if d < 0 {
		return -d
	}
	return d
}
