package recovery

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// maxTracked bounds the packets remembered in a space, about 11 MB.
	maxTracked = 1 << 16

	// maxQuiet bounds those of them that are not in flight: a peer may never
	// acknowledge packets that only hold ACK frames.
	maxQuiet = 256
)

// Errors of Loss.Ack. Each is a PROTOCOL_VIOLATION.
var (
	ErrAckUnsent  = errors.New("acknowledged a packet number that was never sent")
	ErrAckSkipped = errors.New("acknowledged a packet number that was skipped")
	ErrAckRanges  = errors.New("acknowledged ranges are not descending")
)

// State is what loss detection must know of the handshake. The transport fills
// it for every call.
type State struct {
	Confirmed        bool // RFC 9001, Section 4.1.2
	HasHandshakeKeys bool // a Handshake packet can be sent
	// PeerValidated: the peer has finished validating this endpoint's address.
	// Always true at a server. At a client true once a Handshake packet was
	// acknowledged or the handshake is confirmed.
	PeerValidated bool
	// AmplificationLimited: a server may not send more until it hears from the
	// client. Always false at a client.
	AmplificationLimited bool
}

// AckResult tells what an ACK frame brought.
type AckResult struct {
	NewlyAcked        int  // packets
	LargestNewlyAcked bool // the largest acknowledged packet was among them
	RTTUpdated        bool
	Lost              int  // packets declared lost
	Congested         bool // a validated rise of the CE count
	Persistent        bool // persistent congestion was declared
}

// Loss tracks the packets sent in the three packet number spaces and finds
// those acknowledged and those lost (RFC 9002, Section 6 and Appendix A). Call
// Init before use.
type Loss struct {
	early       *[AppData]sentSpace // Initial and Handshake; nil: forgotten, see space
	app         sentSpace
	maxAckDelay time.Duration
	inFlight    int
	ptoCount    int
	path        uint8
	appLimited  bool
	firstSample time.Time // of the current path
	lastEvent   time.Time // when something was last sent or acknowledged
	shared      *ECN      // the current path's, see UseECN
	own         *ECN      // where the owner keeps none
	skip        skipper
	reorder     reordering
	delivery    deliveryRate
	event       AckEvent // of the ACK frame being processed
	bytesLost   uint64
}

// sentSpace is the packets of one packet number space.
type sentSpace struct {
	ring          ring
	next          uint64
	largestAcked  int64
	lossTime      time.Time
	lastEliciting time.Time
	eliciting     int // outstanding, ack-eliciting
	quiet         int // outstanding, not in flight
	marked        uint64
	ecn           [3]uint64 // the peer's counts, as validated last
	run           lossRun
	dropped       bool
}

// Init empties the state. maxAckDelay is the peer's transport parameter; see
// SetMaxAckDelay. No packet carries an ECN mark until EnableECN.
func (l *Loss) Init(maxAckDelay time.Duration) {
	*l = Loss{maxAckDelay: maxAckDelay, early: new([AppData]sentSpace)}
	for i := range NumSpaces {
		l.space(i).largestAcked = -1
	}
	l.skip.init(rand.Uint64N)
	l.reorder.init()
}

// space is the packets of a space. Those of a handshake that is over are forgotten
// (Rest), and dropped where somebody asks all the same.
func (l *Loss) space(i Space) *sentSpace {
	if i == AppData {
		return &l.app
	}
	if l.early == nil {
		l.early = &[AppData]sentSpace{{largestAcked: -1, dropped: true}, {largestAcked: -1, dropped: true}}
	}
	return &l.early[i]
}

// each calls f for every space that is not forgotten, in order, until it returns false.
func (l *Loss) each(f func(Space, *sentSpace) bool) {
	if l.early != nil {
		for i := range AppData {
			if !f(i, &l.early[i]) {
				return
			}
		}
	}
	f(AppData, &l.app)
}

// Counts are what Loss counts over the life of a connection.
type Counts struct {
	BytesLost uint64 // of packets declared lost, PMTU probes left out
	Spurious  uint64 // packets declared lost that arrived after all
	// DeliveryRate is how fast acknowledgments came lately, in bytes per
	// second, over a round trip of the current path; 0: not yet known.
	DeliveryRate int64
}

// Counts returns the counters.
func (l *Loss) Counts() Counts {
	return Counts{BytesLost: l.bytesLost, Spurious: l.reorder.count, DeliveryRate: l.delivery.rate}
}

// SetRandom replaces the source that chooses which packet numbers to skip, for
// tests that replay a history. f(n) returns a number less than n.
func (l *Loss) SetRandom(f func(n uint64) uint64) { l.skip.init(f) }

// SetMaxAckDelay sets the peer's max_ack_delay when its transport parameters
// have arrived.
func (l *Loss) SetMaxAckDelay(d time.Duration) { l.maxAckDelay = d }

// UseECN makes l keep what it learns of ECN in e, which is the current path's:
// what e points to changes with the path.
func (l *Loss) UseECN(e *ECN) { l.shared = e }

func (l *Loss) ecn() *ECN {
	if l.shared != nil {
		return l.shared
	}
	if l.own == nil {
		l.own = new(ECN)
	}
	return l.own
}

// EnableECN begins to test the path for ECN.
func (l *Loss) EnableECN() {
	*l.ecn() = ECN{state: ecnTesting}
}

// ECNMark reports whether the next packet should carry ECT(0). All packets of a
// datagram set SentPacket.ECN alike.
func (l *Loss) ECNMark() bool { return l.ecn().mark(l.ptoCount) }

// ECNFailed reports that the path or the peer does not handle ECN marks.
func (l *Loss) ECNFailed() bool { return l.ecn().state == ecnFailed }

// SetAppLimited tells whether sending last stopped because there was nothing
// more to send, or flow control allowed no more, while the congestion window
// and the pacer had room.
func (l *Loss) SetAppLimited(v bool) { l.appLimited = v }

// NextPN is the number of the next packet in space. In AppData it leaves a
// number out now and then. Until Sent it returns the same number again.
//
// RFC 9000, Section 12.3: "Subsequent packets sent in the same packet number
// space MUST increase the packet number by at least one."
//
// RFC 9000, Section 17.2.3: "New packet numbers MUST be used for any new
// packets that are sent; as described in Section 17.2.5.3, reusing packet
// numbers could compromise packet protection."
func (l *Loss) NextPN(space Space) uint64 {
	s := l.space(space)
	if space == AppData && s.next >= l.skip.at {
		l.skip.skip(s.next)
		s.next++
	}
	return s.next
}

// lastPN is the largest packet number there is.
const lastPN = 1<<62 - 1

// Exhausted reports that no packet number of a space is left but the last, which
// is not used.
func (l *Loss) Exhausted(space Space) bool { return l.space(space).next >= lastPN }

// LargestAcked is the largest packet number the peer acknowledged, -1 if none.
func (l *Loss) LargestAcked(space Space) int64 { return l.space(space).largestAcked }

// InFlight is the bytes in flight on the current path over all spaces.
func (l *Loss) InFlight() int { return l.inFlight }

// HasAckElicitingInFlight reports whether space has ack-eliciting packets that
// are neither acknowledged nor lost.
func (l *Loss) HasAckElicitingInFlight(space Space) bool {
	return l.space(space).eliciting > 0
}

// Tracked is the number of packets remembered in space.
func (l *Loss) Tracked(space Space) int { return l.space(space).ring.n }

// Full reports that as many packets are outstanding in space as are worth
// remembering; nothing but probes should be sent until some are acknowledged.
// A window full of tiny packets is the only way to get there.
func (l *Loss) Full(space Space) bool { return l.Room(space) == 0 }

// Room is how many more packets are worth remembering in space.
func (l *Loss) Room(space Space) int { return max(0, maxTracked-l.space(space).ring.n) }

// Sent records that p was sent at now with the number NextPN gave, and
// completes it. p is copied, its records too. It panics if the number was used before, because then a
// nonce was.
func (l *Loss) Sent(now time.Time, space Space, p *SentPacket) {
	s := l.space(space)
	// RFC 9000, Section 12.3: "A QUIC endpoint MUST NOT reuse a packet number
	// within the same packet number space in one connection."
	if p.PN < s.next {
		panic(fmt.Sprintf("recovery: packet number %d used twice in space %v", p.PN, space))
	}
	s.next = p.PN + 1
	p.Sent = now
	l.lastEvent = now
	if p.ECN {
		s.marked++
		if p.Path == l.path {
			l.ecn().onSent()
		}
	}
	p.InFlight = p.InFlight || p.AckEliciting
	if !p.InFlight && !s.makeRoom() {
		return
	}
	if p.AckEliciting {
		s.eliciting++
		s.lastEliciting = now
	}
	if p.InFlight {
		if p.Path == l.path {
			l.inFlight += int(p.Size)
		}
	} else {
		s.quiet++
	}
	s.ring.push(p)
}

// SentLike records a packet that was sent right after p, which Sent or SentLike
// completed and which is in flight. It differs from that in its number, and in the
// offset of its only record. For a run of packets this takes a fraction of what Sent
// does, which reads what was just written.
func (l *Loss) SentLike(space Space, p *SentPacket, pn, off uint64) {
	s := l.space(space)
	if pn < s.next {
		panic(fmt.Sprintf("recovery: packet number %d used twice in space %v", pn, space))
	}
	s.next = pn + 1
	if p.ECN {
		s.marked++
		if p.Path == l.path {
			l.ecn().onSent()
		}
	}
	if p.AckEliciting {
		s.eliciting++
	}
	if p.Path == l.path {
		l.inFlight += int(p.Size)
	}
	slot := s.ring.push(p)
	slot.PN, slot.inline[0].Off = pn, off
	if slot.SendState.inFlight != 0 {
		slot.SendState.inFlight = uint32(l.inFlight)
	}
}

// makeRoom lets one more packet that is not in flight be tracked. Forgetting
// the oldest ones is harmless: no data depends on them. If something in flight
// is older still, the new one is not tracked.
func (s *sentSpace) makeRoom() bool {
	for s.quiet >= maxQuiet {
		p := s.ring.at(0)
		if p.state == outstanding && p.InFlight {
			return false
		}
		if p.state == outstanding {
			s.quiet--
		}
		s.ring.pop()
	}
	return true
}

// remove takes p, which is outstanding, out of the counts.
func (l *Loss) remove(s *sentSpace, p *SentPacket) {
	if p.AckEliciting {
		s.eliciting--
	}
	if !p.InFlight {
		s.quiet--
	} else if p.Path == l.path {
		l.inFlight -= int(p.Size)
	}
}

// Clear forgets all packets of space and calls discard for each that was
// outstanding, in order. It is for 0-RTT that was rejected; packet numbers go
// on.
func (l *Loss) Clear(space Space, discard func(*SentPacket)) {
	s := l.space(space)
	for s.ring.n > 0 {
		if p := s.ring.at(0); p.state == outstanding {
			l.remove(s, p)
			if p.ECN && p.Path == l.path {
				l.ecn().onForgotten()
			}
			if discard != nil {
				discard(p)
			}
		}
		s.ring.pop()
	}
	s.lossTime, s.lastEliciting, s.run = time.Time{}, time.Time{}, lossRun{}
}

// Rest gives back the memory of a space in which nothing is in flight, and of
// spaces that were dropped. What
// only held ACK frames is forgotten, which is harmless: no data depends on it.
func (l *Loss) Rest(space Space) {
	s := l.space(space)
	if s.eliciting > 0 {
		return
	}
	for i := range s.ring.n {
		if p := s.ring.at(i); p.state == outstanding && p.InFlight {
			return
		}
	}
	s.ring, s.quiet = ring{}, 0
	if l.early != nil && l.early[Initial].dropped && l.early[Handshake].dropped {
		l.early = nil
	}
}

// Drop forgets space for good, because its keys are discarded.
//
// RFC 9002, Section 6.4: "The sender MUST discard all recovery state associated
// with those packets and MUST remove them from the count of bytes in flight."
//
// RFC 9002, Section 6.2.2: "When Initial or Handshake keys are discarded, the
// PTO and loss detection timers MUST be reset"
func (l *Loss) Drop(space Space, discard func(*SentPacket)) {
	l.Clear(space, discard)
	l.space(space).ring = ring{}
	l.space(space).dropped = true
	l.ptoCount = 0
}

// OnRetry forgets the Initial and 0-RTT packets a client sent before a Retry.
// Packet numbers go on; RTT and congestion control are the caller's to reset.
//
// RFC 9002, Section 6.3: "Clients that receive a Retry packet reset congestion
// control and loss recovery state, including resetting any pending timers."
//
// RFC 9000, Section 17.2.5.3: "A client MUST NOT reset the packet number for
// any packet number space after processing a Retry packet."
func (l *Loss) OnRetry(discard func(*SentPacket)) {
	l.Clear(Initial, discard)
	l.Clear(AppData, discard)
	l.ptoCount = 0
}

// OnPathChange makes path the current one: what is in flight elsewhere no
// longer counts, and its acknowledgment or loss moves neither RTT nor
// congestion control. RTT, Controller and Pacer are the caller's to reset.
//
// RFC 9002, Section 7: "The congestion controller is per path, so packets sent
// on other paths do not alter the current path's congestion controller, as
// described in Section 9.4 of [QUIC-TRANSPORT]."
//
// RFC 9000, Section 9.4: "Packets sent on the old path MUST NOT contribute to
// congestion control or RTT estimation for the new path."
func (l *Loss) OnPathChange(path uint8) {
	l.path = path
	l.inFlight = 0
	l.ptoCount = 0
	l.firstSample = time.Time{}
	l.reorder.init()
	l.delivery = deliveryRate{}
	if l.own != nil {
		l.own.reset()
	}
	for _, s := range l.each {
		s.run = lossRun{}
		for j := range s.ring.n {
			if p := s.ring.at(j); p.Path == path && p.InFlight && p.state == outstanding {
				l.inFlight += int(p.Size)
			}
		}
	}
}
