package recovery

import (
	"fmt"
	"time"
)

const (
	// RFC 9002, Section 6.1.1: "The RECOMMENDED initial value for the packet
	// reordering threshold (kPacketThreshold) is 3"
	packetThreshold = 3

	// RFC 9002, Section 7.6.1: "The RECOMMENDED value for
	// kPersistentCongestionThreshold is 3"
	persistentThreshold = 3
)

// ackPass is one ACK frame on its way through Loss.Ack.
type ackPass struct {
	result   AckResult
	inFlight int // before the frame
	end      int // ring position after the largest newly acknowledged packet
	largest  struct {
		sent   time.Time
		onPath bool
	}
	eliciting bool   // a newly acknowledged packet was ack-eliciting
	marked    uint64 // newly acknowledged, marked ECT(0) on this path
}

// Ack processes an ACK frame received in space. ranges are what it
// acknowledges, descending and apart, ecn its ECT(0), ECT(1) and CE counts or
// nil, ackDelay the decoded ACK Delay field.
//
// Each packet it newly acknowledges goes to acked, then each packet that is
// lost now goes to lost, both in packet number order. The callbacks must not
// call l and must not keep the packet. The work is proportional to the ranges
// plus the packets reported, whatever else is in flight.
//
// An error means that the frame acknowledges what it cannot, and nothing has
// changed: the connection ends with PROTOCOL_VIOLATION.
func (l *Loss) Ack(now time.Time, space Space, ranges []AckRange, ecn *[3]uint64, ackDelay time.Duration,
	st State, rtt *RTT, cc Controller, acked, lost func(*SentPacket)) (AckResult, error) {
	s := l.space(space)
	if s.dropped {
		return AckResult{}, nil
	}
	if err := l.checkAck(space, ranges); err != nil {
		return AckResult{}, err
	}
	pass := ackPass{inFlight: l.inFlight}
	largest := ranges[0].Largest
	if space == AppData && len(l.reorder.list) > 0 {
		l.arrived(now, ranges, s.largestAcked, rtt, cc)
	}
	raised := int64(largest) > s.largestAcked
	s.largestAcked = max(s.largestAcked, int64(largest))
	l.markAcked(s, ranges, acked, &pass)
	if pass.result.NewlyAcked == 0 {
		return pass.result, nil
	}
	l.lastEvent = now
	l.sampleRTT(now, space, ackDelay, st, rtt, &pass)
	// RFC 9000, Section 13.4.2.1: "An endpoint MUST NOT fail ECN validation as
	// a result of processing an ACK frame that does not increase the largest
	// acknowledged packet number."
	l.ecn().round(largest, s.next)
	if raised && l.ecn().validate(ecn, &s.ecn, s.marked, pass.marked) {
		pass.result.Congested = true
		if pass.result.LargestNewlyAcked && pass.largest.onPath {
			cc.OnCE(now, pass.largest.sent, l.ecn().rise)
		}
	}
	l.detectLost(now, space, rtt, cc, lost, &pass.result)
	l.creditAcked(now, s, rtt, cc, &pass)
	// RFC 9002, Section 6.2.1: "The PTO backoff factor is reset when an
	// acknowledgment is received, except in the following case." "That is, a
	// client does not reset the PTO backoff factor on receiving
	// acknowledgments in Initial packets."
	if st.PeerValidated {
		l.ptoCount = 0
	}
	return pass.result, nil
}

// checkAck refuses what no honest peer sends. RFC 9000, Section 13.1: "An
// endpoint SHOULD treat receipt of an acknowledgment for a packet it did not
// send as a connection error of type PROTOCOL_VIOLATION, if it is able to
// detect the condition."
func (l *Loss) checkAck(space Space, ranges []AckRange) error {
	if len(ranges) == 0 {
		return fmt.Errorf("%v: %w", space, ErrAckRanges)
	}
	for i, r := range ranges {
		// Adjacent ranges are two apart on the wire at least, so that their
		// numbers cannot wrap.
		if r.Smallest > r.Largest || i > 0 && (ranges[i-1].Smallest < 2 || r.Largest > ranges[i-1].Smallest-2) {
			return fmt.Errorf("%v: range %d [%d, %d]: %w", space, i, r.Smallest, r.Largest, ErrAckRanges)
		}
	}
	if next := l.space(space).next; ranges[0].Largest >= next {
		return fmt.Errorf("%v: %d acknowledged, next to send is %d: %w", space, ranges[0].Largest, next, ErrAckUnsent)
	}
	if space == AppData && l.skip.hit(ranges) {
		return fmt.Errorf("%v: largest %d: %w", space, ranges[0].Largest, ErrAckSkipped)
	}
	return nil
}

// markAcked reports the newly acknowledged packets and takes them out of the
// counts. They stay in the ring for creditAcked.
func (l *Loss) markAcked(s *sentSpace, ranges []AckRange, acked func(*SentPacket), pass *ackPass) {
	if s.ring.n == 0 {
		return
	}
	// Ranges below everything outstanding are old news.
	oldest := s.ring.at(0).PN
	n := 0
	for n < len(ranges) && ranges[n].Largest >= oldest {
		n++
	}
	for n--; n >= 0; n-- {
		r := ranges[n]
		for i := s.ring.search(r.Smallest); i < s.ring.n; i++ {
			p := s.ring.at(i)
			if p.PN > r.Largest {
				break
			}
			if p.state != outstanding {
				continue
			}
			p.state = newlyAcked
			l.remove(s, p)
			pass.count(p, i, p.Path == l.path, ranges[0].Largest)
			if acked != nil {
				acked(p)
			}
		}
	}
}

func (a *ackPass) count(p *SentPacket, i int, onPath bool, largest uint64) {
	a.result.NewlyAcked++
	a.end = i + 1
	a.eliciting = a.eliciting || p.AckEliciting
	if p.ECN && onPath {
		a.marked++
	}
	if p.PN == largest {
		a.result.LargestNewlyAcked = true
		a.largest.sent, a.largest.onPath = p.Sent, onPath
	}
}

// sampleRTT follows RFC 9002, Section 5.1: "An endpoint generates an RTT sample
// on receiving an ACK frame that meets the following two conditions: the
// largest acknowledged packet number is newly acknowledged, and at least one
// of the newly acknowledged packets was ack-eliciting."
//
// RFC 9002, Section 5.1: "An RTT sample MUST NOT be generated on receiving an
// ACK frame that does not newly acknowledge at least one ack-eliciting packet."
func (l *Loss) sampleRTT(now time.Time, space Space, ackDelay time.Duration, st State, rtt *RTT, pass *ackPass) {
	// RFC 9002, Section 5.3: "Packets sent on other paths do not contribute
	// RTT samples to the current path"
	if !pass.result.LargestNewlyAcked || !pass.eliciting || !pass.largest.onPath {
		return
	}
	// RFC 9002, Section 5.3: "MAY ignore the acknowledgment delay for Initial
	// packets, since these acknowledgments are not delayed by the peer"
	if space == Initial {
		ackDelay = 0
	}
	rtt.Update(now.Sub(pass.largest.sent), ackDelay, l.maxAckDelay, st.Confirmed)
	if l.firstSample.IsZero() {
		l.firstSample = now
	}
	pass.result.RTTUpdated = true
}

// creditAcked tells the controller of the newly acknowledged packets, after it
// has heard of the lost ones, and lets the ring go of all it can.
func (l *Loss) creditAcked(now time.Time, s *sentSpace, rtt *RTT, cc Controller, pass *ackPass) {
	e := &l.event // here because a local one would escape through the interface
	*e = AckEvent{RTT: rtt, RTTSampled: pass.result.RTTUpdated, InFlight: l.inFlight, AppLimited: l.appLimited}
	for i := range pass.end {
		p := s.ring.at(i)
		if p.state != newlyAcked {
			continue
		}
		p.state = acknowledged
		if p.InFlight && p.Path == l.path {
			cc.OnAcked(now, p, pass.inFlight, l.appLimited)
			e.Acked += int(p.Size)
			e.NewestSent = p.Sent
		}
	}
	s.trim()
	if e.Acked > 0 {
		cc.OnAckEnd(now, e)
		l.delivery.add(now, e.Acked, rtt.Smoothed())
	}
	e.RTT = nil
}

// deliveryRate measures what arrives, over a round trip at a time.
type deliveryRate struct {
	since time.Time
	bytes int
	rate  int64 // bytes per second
}

func (d *deliveryRate) add(now time.Time, n int, rtt time.Duration) {
	took := now.Sub(d.since)
	switch {
	case d.since.IsZero() || took > 8*rtt && took > time.Second:
		// After a pause nothing is known.
		d.since, d.bytes = now, 0
		return
	case took < max(rtt, granularity):
		d.bytes += n
		return
	}
	d.rate = int64(float64(d.bytes+n) / took.Seconds())
	d.since, d.bytes = now, 0
}

// trim drops the oldest packets that are neither in flight nor undecided.
func (s *sentSpace) trim() {
	for s.ring.n > 0 {
		p := s.ring.at(0)
		if p.state == outstanding {
			return
		}
		if p.state == acknowledged {
			s.run.broken(p.PN)
		}
		s.ring.pop()
	}
}

// lossRun is a run of lost packets with none acknowledged in between, as
// persistent congestion needs it. Its losses may be found by several calls.
type lossRun struct {
	open     bool
	pn       uint64 // of the first
	end      uint64 // a later one that was acknowledged, 0 if none
	from, to time.Time
}

func (r *lossRun) add(p *SentPacket) {
	if !r.open || r.end != 0 && p.PN > r.end {
		*r = lossRun{open: true, pn: p.PN, from: p.Sent}
	}
	r.to = p.Sent
}

// broken notes that packet pn was acknowledged. Losses before it still belong
// to the run.
func (r *lossRun) broken(pn uint64) {
	if r.open && pn > r.pn && (r.end == 0 || pn < r.end) {
		r.end = pn
	}
}

// detectLost declares packets lost (RFC 9002, Section 6.1): those sent before
// an acknowledged one, by the packet threshold or the time threshold. It sets
// the loss timer for the rest.
//
// RFC 9000, Section 13.3: "Upon detecting losses, a sender MUST take
// appropriate congestion control action."
func (l *Loss) detectLost(now time.Time, space Space, rtt *RTT, cc Controller, lost func(*SentPacket), res *AckResult) {
	s := l.space(space)
	s.lossTime = time.Time{}
	delay := rtt.lossDelay(l.reorder.eighths)
	limit := now.Add(-delay)
	var newest time.Time
	var longest time.Duration // run of losses
	packets := 0
	for i := range s.ring.n {
		p := s.ring.at(i)
		if int64(p.PN) > s.largestAcked {
			break
		}
		switch {
		case p.state == newlyAcked || p.state == acknowledged:
			s.run.broken(p.PN)
			continue
		case p.state == declaredLost:
			continue
		case p.Sent.After(limit) && !l.overtaken(space, p.PN):
			if t := p.Sent.Add(delay); s.lossTime.IsZero() || t.Before(s.lossTime) {
				s.lossTime = t
			}
			continue
		}
		p.state = declaredLost
		l.remove(s, p)
		res.Lost++
		if l.congestive(p) {
			newest, packets = p.Sent, packets+1
			longest = max(longest, l.extendRun(s, p))
			l.bytesLost += uint64(p.Size)
			if space == AppData {
				l.reorder.lost(now, p)
			}
			cc.OnPacketLost(now, p)
		}
		if p.ECN && p.Path == l.path {
			l.ecn().onLost()
		}
		if lost != nil {
			lost(p)
		}
	}
	if packets > 0 {
		cc.OnLost(now, newest, packets)
	}
	if longest > persistentThreshold*rtt.PTO(l.maxAckDelay) {
		res.Persistent = true
		s.run = lossRun{}
		l.persistent(now, rtt, cc)
	}
}

// overtaken reports whether as many packets as the packet threshold were sent from pn to the
// largest acknowledged one; numbers that were skipped were not sent.
func (l *Loss) overtaken(space Space, pn uint64) bool {
	largest := uint64(l.space(space).largestAcked)
	distance := largest - pn
	threshold := l.reorder.packets
	if space == AppData && distance >= threshold && distance < threshold+2 {
		distance -= l.skip.between(pn, largest)
	}
	return distance >= threshold
}

// congestive reports whether the loss of p says something of the current path.
// RFC 9000, Section 14.4: "Loss of a QUIC packet that is carried in a PMTU
// probe is therefore not a reliable indication of congestion and SHOULD NOT
// trigger a congestion control reaction"
//
// RFC 9002, Section 7.4: "Endpoints MUST NOT ignore the loss of packets that
// were sent after the earliest acknowledged packet in a given packet number
// space."
func (l *Loss) congestive(p *SentPacket) bool {
	return p.InFlight && p.Path == l.path && !p.PMTUProbe
}

// extendRun returns how long the run of losses is with p. RFC 9002, Section
// 7.6.2: "These two packets MUST be ack-eliciting" and "The persistent
// congestion period SHOULD NOT start until there is at least one RTT sample."
func (l *Loss) extendRun(s *sentSpace, p *SentPacket) time.Duration {
	if !p.AckEliciting || l.firstSample.IsZero() || !p.Sent.After(l.firstSample) {
		return 0
	}
	s.run.add(p)
	return s.run.to.Sub(s.run.from)
}

// persistent declares persistent congestion, a run of losses being long enough.
// RFC 9002, Section 7.6.1: "(smoothed_rtt + max(4*rttvar, kGranularity) +
// max_ack_delay) * kPersistentCongestionThreshold" and "this duration includes
// the max_ack_delay irrespective of the packet number spaces in which losses
// are established."
//
// Packets of the space at hand alone are compared, as Section 7.6.2 allows;
// only during a handshake is there another.
func (l *Loss) persistent(now time.Time, rtt *RTT, cc Controller) {
	cc.OnPersistent(now)
	// RFC 9002, Section 5.2: "Endpoints SHOULD set the min_rtt to the newest
	// RTT sample after persistent congestion is established."
	rtt.ResetMin()
}
