package recovery

import "time"

const (
	// maxRanges is how many ranges of received packet numbers are kept.
	// RFC 9000, Section 13.2.3: "A receiver limits the number of ACK Ranges
	// (Section 19.3.1) it remembers and sends in ACK frames, both to limit the
	// size of ACK frames and to avoid resource exhaustion."
	maxRanges = 64

	// ackEvery is RFC 9000, Section 13.2.2: "A receiver SHOULD send an ACK
	// frame after receiving at least two ack-eliciting packets." A peer may ask
	// for another number (SetFrequency), of which so many are honoured.
	ackEvery    = 2
	maxAckEvery = 255

	// maxPutOff is how many packets an ACK frame that was put off may leave
	// unacknowledged: less than an initial congestion window, so that a sender in
	// slow start is not held up.
	maxPutOff = 8

	// A peer that has acknowledged none of so many ACK frames, or has caused
	// so many ranges, is asked to (Received.ShouldElicit).
	elicitAcks   = 64
	elicitRanges = maxRanges / 4
)

// ECN codepoints as in the two low bits of the IP header's field.
const (
	NotECT uint8 = 0
	ECT1   uint8 = 1
	ECT0   uint8 = 2
	CE     uint8 = 3
)

// Received remembers which packet numbers of one space arrived and when an ACK
// frame for them is due (RFC 9000, Section 13.2). Call Init before use.
type Received struct {
	ranges      []AckRange // descending, at most maxRanges
	floor       uint64     // smaller numbers count as received
	immediate   bool       // Initial and Handshake: no delay
	now         bool       // an ACK frame is due at once
	urgent      bool       // and may not be put off
	any         bool
	pending     uint8  // ack-eliciting packets since the last ACK frame, saturating
	every       uint8  // so many of them ask for one
	reordering  uint64 // packets above a missing one that ask for one; 0: it does not matter
	unconfirmed uint8  // ACK frames since DropBelow, saturating
	maxAckDelay time.Duration
	putOff      time.Duration // longest delay of an ACK frame that was put off, 0: it was not
	since       time.Time     // when the first of pending arrived
	largest     uint64        // greatest number received
	largestTime time.Time
	eliciting   int64 // greatest ack-eliciting number, -1: none
	ecn         [3]uint64
	ecnSeen     bool
}

// Init empties r for a packet number space. maxAckDelay is this endpoint's
// transport parameter, used in AppData only.
func (r *Received) Init(space Space, maxAckDelay time.Duration) {
	*r = Received{
		ranges:      r.ranges[:0],
		immediate:   space != AppData,
		maxAckDelay: maxAckDelay,
		every:       ackEvery,
		reordering:  1,
		eliciting:   -1,
	}
}

// SetFrequency follows an ACK_FREQUENCY frame (draft-ietf-quic-ack-frequency):
// an ACK frame is due when more than threshold ack-eliciting packets wait, after
// maxAckDelay, or when a missing packet was overtaken by reordering others; 0:
// missing packets do not matter.
func (r *Received) SetFrequency(threshold uint64, maxAckDelay time.Duration, reordering uint64) {
	r.every = uint8(min(threshold, maxAckEvery-1) + 1)
	r.maxAckDelay, r.reordering = maxAckDelay, reordering
}

// AckNow makes an ACK frame due at once (IMMEDIATE_ACK), if there is anything to
// acknowledge.
func (r *Received) AckNow(now time.Time) {
	if r.pending == 0 {
		r.pending, r.since = 1, now
	}
	r.now, r.urgent = true, true
}

// Duplicate reports whether pn was received before or is too old to tell. Such
// a packet must be dropped without processing it.
//
// RFC 9000, Section 13.2.3: "A receiver MUST retain an ACK Range unless it can
// ensure that it will not subsequently accept packets with numbers in that
// range. Maintaining a minimum packet number that increases as ranges are
// discarded is one way to achieve this with minimal state."
//
// RFC 9000, Section 12.3: "A receiver MUST discard a newly unprotected packet
// unless it is certain that it has not processed another packet with the same
// packet number from the same packet number space."
func (r *Received) Duplicate(pn uint64) bool {
	if pn < r.floor {
		return true
	}
	for i := range r.ranges {
		if pn > r.ranges[i].Largest {
			return false
		}
		if pn >= r.ranges[i].Smallest {
			return true
		}
	}
	return false
}

// Add records that packet pn was received at now and processed. ecn is the
// codepoint its datagram carried. A duplicate changes nothing.
func (r *Received) Add(now time.Time, pn uint64, ackEliciting bool, ecn uint8) {
	if r.Duplicate(pn) {
		return
	}
	r.insert(pn)
	r.countECN(ecn)
	if !r.any || pn > r.largest {
		r.largest, r.largestTime, r.any = pn, now, true
	}
	if !ackEliciting {
		return
	}
	if r.pending == 0 {
		r.since = now
	}
	if r.pending < 255 {
		r.pending++
	}
	// RFC 9000, Section 13.2.1: "An endpoint MUST acknowledge all
	// ack-eliciting Initial and Handshake packets immediately" and "packets
	// marked with the ECN Congestion Experienced (CE) codepoint in the IP
	// header SHOULD be acknowledged immediately".
	if r.immediate || ecn == CE || r.outOfOrder(pn) {
		r.urgent = true
	}
	r.now = r.now || r.urgent || r.pending >= r.every
	r.eliciting = max(r.eliciting, int64(pn))
}

// outOfOrder is RFC 9000, Section 13.2.1: "an endpoint SHOULD generate and send
// an ACK frame without delay when it receives an ack-eliciting packet either:"
// "when the received packet has a packet number less than another ack-eliciting
// packet that has been received, or" "when the packet has a packet number larger
// than the highest-numbered ack-eliciting packet that has been received and
// there are missing packets between that packet and this packet."
//
// A peer may have asked for patience: then it is told of a missing packet when
// that was overtaken by as many others, and not of what fills a gap.
func (r *Received) outOfOrder(pn uint64) bool {
	if r.reordering != 1 {
		return r.reordering > 0 && r.overtaken(pn)
	}
	if int64(pn) < r.eliciting {
		return true
	}
	// The range pn is in begins after what came before: something is missing.
	// Numbers below floor are not waited for.
	for i := range r.ranges {
		if s := r.ranges[i].Smallest; pn >= s {
			return s > r.floor && int64(s) > r.eliciting+1
		}
	}
	return false
}

// overtaken reports that with pn the newest missing packet below it has been
// overtaken by just as many packets as the peer asked for.
func (r *Received) overtaken(pn uint64) bool {
	if len(r.ranges) == 0 || pn != r.ranges[0].Largest {
		return false
	}
	s := r.ranges[0].Smallest
	return s > r.floor && pn-s+1 == r.reordering
}

// insert adds pn, which is in none of the ranges, and keeps them descending.
func (r *Received) insert(pn uint64) {
	i := 0
	for i < len(r.ranges) && pn < r.ranges[i].Smallest {
		i++
	}
	// pn is above range i and below range i-1.
	joinsBelow := i < len(r.ranges) && r.ranges[i].Largest+1 == pn
	joinsAbove := i > 0 && r.ranges[i-1].Smallest == pn+1
	switch {
	case joinsBelow && joinsAbove:
		r.ranges[i-1].Smallest = r.ranges[i].Smallest
		r.ranges = append(r.ranges[:i], r.ranges[i+1:]...)
	case joinsBelow:
		r.ranges[i].Largest = pn
	case joinsAbove:
		r.ranges[i-1].Smallest = pn
	default:
		r.insertAt(i, AckRange{pn, pn})
	}
}

func (r *Received) insertAt(i int, v AckRange) {
	if len(r.ranges) == maxRanges {
		if i == maxRanges {
			// Older than all that is kept: acknowledged by nobody, but never
			// accepted again either.
			r.floor = v.Largest + 1
			return
		}
		last := len(r.ranges) - 1
		r.floor = r.ranges[last].Largest + 1
		r.ranges = r.ranges[:last]
	}
	r.ranges = append(r.ranges, AckRange{})
	copy(r.ranges[i+1:], r.ranges[i:])
	r.ranges[i] = v
}

// countECN counts a packet once. RFC 9000, Section 13.4.1: "Coalesced QUIC
// packets (see Section 12.2) share the same IP header so the ECN counts are
// incremented once for each coalesced QUIC packet."
func (r *Received) countECN(ecn uint8) {
	switch ecn {
	case ECT0:
		r.ecn[ect0]++
	case ECT1:
		r.ecn[ect1]++
	case CE:
		r.ecn[ectCE]++
	default:
		return
	}
	r.ecnSeen = true
}

// Ranges returns what an ACK frame should acknowledge, descending, at most 64
// ranges. The slice is valid until the next call of Add or DropBelow.
func (r *Received) Ranges() []AckRange { return r.ranges }

// Largest is the greatest packet number received, ok false if there is none.
// It survives DropBelow, for decoding packet numbers.
//
// RFC 9000, Section 13.2.3: "Receivers can discard all ACK Ranges, but they
// MUST retain the largest packet number that has been successfully processed,
// as that is used to recover packet numbers from subsequent packets; see
// Section 17.1."
func (r *Received) Largest() (pn uint64, ok bool) { return r.largest, r.any }

// LargestTime is when Largest arrived.
func (r *Received) LargestTime() time.Time { return r.largestTime }

// Delay is how long the acknowledgment of Largest has been held back at now.
//
// RFC 9000, Section 13.2.5: "An endpoint MUST NOT include delays that it does
// not control when populating the ACK Delay field in an ACK frame."
func (r *Received) Delay(now time.Time) time.Duration {
	if !r.any {
		return 0
	}
	return max(now.Sub(r.largestTime), 0)
}

// Pending reports whether an ack-eliciting packet arrived since the last ACK
// frame, so that a packet sent anyway should carry one.
//
// RFC 9000, Section 13.2.1: "An endpoint MUST NOT send a non-ack-eliciting
// packet in response to a non-ack-eliciting packet"
func (r *Received) Pending() bool { return r.pending > 0 }

// NeedAckNow reports whether an ACK frame should be sent without waiting. A
// receiver asks after a whole batch of packets, not after each.
func (r *Received) NeedAckNow() bool { return r.now }

// AckDeadline is when an ACK frame must be sent at the latest, the zero time if
// none is due. It is in the past when NeedAckNow is true.
//
// RFC 9000, Section 13.2.1: "Every packet SHOULD be acknowledged at least once,
// and ack-eliciting packets MUST be acknowledged at least once within the
// maximum delay an endpoint communicated using the max_ack_delay transport
// parameter; see Section 18.2"
func (r *Received) AckDeadline() time.Time {
	switch {
	case r.pending == 0:
		return time.Time{}
	case r.now:
		return r.since
	case r.putOff > 0:
		return r.since.Add(min(r.putOff, r.maxAckDelay))
	}
	return r.since.Add(r.maxAckDelay)
}

// PutOff lets an ACK frame that is due only for the number of packets wait up
// to d from the first of them, for a packet that is going to be sent anyway. It
// reports whether no ACK frame is due now.
//
// RFC 9000, Section 13.2.1: "An endpoint MUST acknowledge all ack-eliciting
// Initial and Handshake packets immediately and all ack-eliciting 0-RTT and
// 1-RTT packets within its advertised max_ack_delay".
func (r *Received) PutOff(d time.Duration) bool {
	if r.urgent || r.pending > maxPutOff {
		return !r.now
	}
	if r.now {
		r.now, r.putOff = false, d
	}
	return true
}

// OnAckSent records that an ACK frame with Ranges was sent.
//
// RFC 9000, Section 13.2.1: "Since packets containing only ACK frames are not
// congestion controlled, an endpoint MUST NOT send more than one such packet in
// response to receiving an ack-eliciting packet."
func (r *Received) OnAckSent(time.Time) {
	r.now, r.urgent, r.putOff = false, false, 0
	r.pending = 0
	r.since = time.Time{}
	if r.unconfirmed < 255 {
		r.unconfirmed++
	}
}

// ShouldElicit reports that a packet with nothing but an ACK frame should carry
// a PING as well, because the peer has not acknowledged an ACK frame for long
// and the ranges cannot be forgotten. It is false again after ElicitSent.
//
// RFC 9000, Section 13.2.4: "In such a case, a receiver could send a PING or
// other small ack-eliciting frame occasionally, such as once per round trip,
// to elicit an ACK from the peer."
//
// RFC 9000, Section 13.2.1: "In that case, an endpoint MUST NOT send an
// ack-eliciting frame in all packets that would otherwise be non-ack-eliciting,
// to avoid an infinite feedback loop of acknowledgments."
func (r *Received) ShouldElicit() bool {
	return r.unconfirmed >= elicitAcks ||
		len(r.ranges) >= elicitRanges && r.unconfirmed >= elicitAcks/8
}

// ElicitSent records that an ack-eliciting packet with an ACK frame was sent.
func (r *Received) ElicitSent() { r.unconfirmed = 0 }

// DropBelow forgets packet numbers less than pn: the peer has acknowledged a
// packet whose ACK frame covered them, pn being the largest acknowledged in
// it. They count as received from then on.
//
// RFC 9000, Section 13.2.4: "When a packet containing an ACK frame is
// acknowledged, the receiver can stop acknowledging packets less than or equal
// to the Largest Acknowledged field in the sent ACK frame."
func (r *Received) DropBelow(pn uint64) {
	r.unconfirmed = 0
	if pn <= r.floor {
		return
	}
	r.floor = pn
	n := len(r.ranges)
	for n > 0 && r.ranges[n-1].Largest < pn {
		n--
	}
	r.ranges = r.ranges[:n]
	if n > 0 {
		last := &r.ranges[n-1]
		last.Smallest = max(last.Smallest, pn)
	}
}

// ECNCounts is the ECT(0), ECT(1) and CE counts for an ACK frame, nil while no
// marked packet arrived. It points into r.
//
// RFC 9000, Section 13.4.1: "Even if an endpoint does not set an ECT field in
// packets it sends, the endpoint MUST provide feedback about ECN markings it
// receives, if these are accessible."
func (r *Received) ECNCounts() *[3]uint64 {
	if !r.ecnSeen {
		return nil
	}
	return &r.ecn
}
