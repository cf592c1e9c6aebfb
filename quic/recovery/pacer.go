package recovery

import "time"

const (
	// A timer that is late by up to pacerSlack costs no throughput: what
	// would have gone out in that time may go out at once. On a path whose
	// round trip is shorter the window alone limits the sender, because a
	// whole window is less than a burst.
	pacerSlack = 2 * time.Millisecond

	// A batch is worth waiting this long for.
	pacerQuantum = time.Millisecond / 2

	// maxBatch is what one GSO send takes.
	maxBatch = 64 << 10
)

// Pacer spreads packets over the round trip (RFC 9002, Section 7.7) as a token
// bucket. Call Init before use. Packets that are not in flight (ACK only) and
// probes are not paced; a probe is still reported to Sent.
//
// RFC 9002, Section 7.7: "Senders MUST either use pacing or limit such bursts."
type Pacer struct {
	maxDatagram int
	rate        int64
	tokens      float64 // may be below zero
	last        time.Time
}

// Init empties the history; the first burst is full. maxDatagram is the size
// of a full datagram in bytes.
func (p *Pacer) Init(maxDatagram int) {
	*p = Pacer{maxDatagram: maxDatagram}
}

// SetMaxDatagram changes the size of a full datagram.
func (p *Pacer) SetMaxDatagram(n int) { p.maxDatagram = n }

// Budget is the number of bytes that may be sent at now, zero or more. rate is
// Controller.PacingRate.
func (p *Pacer) Budget(now time.Time, rate int64) int {
	p.rate = max(rate, 1)
	most := float64(p.burst())
	if p.last.IsZero() {
		p.tokens = most
	} else if dt := now.Sub(p.last); dt > 0 {
		p.tokens += float64(p.rate) * dt.Seconds()
	}
	p.last = now
	p.tokens = min(p.tokens, most)
	return int(max(p.tokens, 0))
}

// Sent takes n bytes sent at now from the budget.
func (p *Pacer) Sent(now time.Time, n int) {
	if p.last.IsZero() {
		p.last = now
		p.tokens = float64(p.burst())
	}
	p.tokens -= float64(n)
}

// Quantum is the number of bytes worth waiting for when more than that is
// pending: half a millisecond's worth, at least one datagram and at most one
// 64 KiB batch. A sender that sends whenever a single datagram fits the budget
// gives up its GSO batches.
func (p *Pacer) Quantum() int {
	n := float64(p.rate) * pacerQuantum.Seconds()
	return int(min(max(n, float64(p.maxDatagram)), maxBatch))
}

// Next is when need bytes fit the budget, now if they do already. More than a
// burst is treated as a burst. It uses the rate given to Budget last.
func (p *Pacer) Next(now time.Time, need int) time.Time {
	short := float64(min(need, p.burst())) - p.tokens
	if short <= 0 || p.last.IsZero() {
		return now
	}
	wait := time.Duration(short/float64(max(p.rate, 1))*1e9) + 1
	if t := p.last.Add(min(wait, time.Minute)); t.After(now) {
		return t
	}
	return now
}

// burst is the size of the bucket. RFC 9002, Section 7.7: "Senders SHOULD limit
// bursts to the initial congestion window". "A sender with knowledge that the
// network path to the receiver can absorb larger bursts MAY use a higher
// limit.": a path that carried this rate for a round trip has queues for two
// milliseconds of it, and from 32 MB/s that is a 64 KiB batch.
func (p *Pacer) burst() int {
	n := float64(p.rate) * pacerSlack.Seconds()
	return int(min(max(n, float64(initialWindow(p.maxDatagram))), 1<<30))
}
