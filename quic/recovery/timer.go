package recovery

import "time"

// maxBackoff bounds a probe timeout against overflow; the idle timeout ends the
// connection long before.
const maxBackoff = time.Hour

// PTOCount is how many probe timeouts in a row went unanswered.
func (l *Loss) PTOCount() int { return l.ptoCount }

// Deadline is when OnTimeout must be called, the zero time if never. It may be
// in the past: call OnTimeout at once then. isPTO tells a probe timeout from
// the timer of the time threshold. It changes with every Sent, Ack, Drop,
// OnTimeout, and with st.
func (l *Loss) Deadline(now time.Time, rtt *RTT, st State) (t time.Time, isPTO bool) {
	// RFC 9002, Section 6.2.1: "The PTO timer MUST NOT be set if a timer is
	// set for time threshold loss detection"
	if t, _ := l.earliestLoss(); !t.IsZero() {
		return t, false
	}
	// RFC 9002, Section 6.2.2.1: "If no additional data can be sent, the
	// server's PTO timer MUST NOT be armed until datagrams have been received
	// from the client because packets sent on PTO count against the
	// anti-amplification limit."
	if st.AmplificationLimited {
		return time.Time{}, false
	}
	t, _, _ = l.probeTime(now, rtt, st)
	return t, !t.IsZero()
}

func (l *Loss) earliestLoss() (t time.Time, space Space) {
	for i, s := range l.each {
		if lt := s.lossTime; !lt.IsZero() && (t.IsZero() || lt.Before(t)) {
			t, space = lt, i
		}
	}
	return t, space
}

// probeTime is when the probe timer fires and for which space, with the number
// of probes that are worth sending. The zero time: there is nothing to probe.
//
// RFC 9002, Section 6.2.1: "When ack-eliciting packets in multiple packet
// number spaces are in flight, the timer MUST be set to the earlier value of
// the Initial and Handshake packet number spaces."
func (l *Loss) probeTime(now time.Time, rtt *RTT, st State) (t time.Time, space Space, probes int) {
	for i, s := range l.each {
		if s.eliciting == 0 {
			continue
		}
		ackDelay := time.Duration(0)
		if i == AppData {
			// RFC 9002, Section 6.2.1: "An endpoint MUST NOT set its PTO timer
			// for the Application Data packet number space until the handshake
			// is confirmed."
			if !st.Confirmed {
				continue
			}
			ackDelay = l.maxAckDelay
		}
		at := s.lastEliciting.Add(l.backoff(rtt.PTO(ackDelay)))
		if t.IsZero() || at.Before(t) {
			t, space, probes = at, i, 2
		}
	}
	if probes > 0 || st.PeerValidated {
		return t, space, probes
	}
	// RFC 9002, Section 6.2.2.1: "That is, the client MUST set the PTO timer if
	// the client has not received an acknowledgment for any of its Handshake
	// packets and the handshake is not confirmed (see Section 4.1.2 of
	// [QUIC-TLS]), even if there are no packets in flight. When the PTO fires,
	// the client MUST send a Handshake packet if it has Handshake keys,
	// otherwise it MUST send an Initial packet in a UDP datagram with a payload
	// of at least 1200 bytes."
	//
	// RFC 9000, Section 8.1: "Specifically, the client MUST send an Initial
	// packet in a UDP datagram that contains at least 1200 bytes if it does not
	// have Handshake keys, and otherwise send a Handshake packet."
	if st.HasHandshakeKeys {
		space = Handshake
	}
	from := l.lastEvent
	if from.IsZero() {
		from = now
	}
	return from.Add(l.backoff(rtt.PTO(0))), space, 1
}

// backoff doubles d for every unanswered probe timeout.
func (l *Loss) backoff(d time.Duration) time.Duration {
	for range l.ptoCount {
		if d >= maxBackoff/2 {
			return maxBackoff
		}
		d *= 2
	}
	return d
}

// OnTimeout acts on a deadline that has passed; before it, it does nothing.
// When the time threshold was reached it reports packets to lost, in packet
// number order for each space, and returns 0 probes. When a probe timeout was
// reached it returns the space and the number of ack-eliciting packets to send
// there, regardless of congestion control and pacing. A client that probes
// Initial pads the datagram to 1200 bytes. One probe, instead of two, means
// that nothing is in flight: a PING will do.
//
// RFC 9002, Section 6.2: "A PTO timer expiration event does not indicate packet
// loss and MUST NOT cause prior unacknowledged packets to be marked as lost."
func (l *Loss) OnTimeout(now time.Time, rtt *RTT, st State, cc Controller, lost func(*SentPacket)) (space Space, probes int) {
	if t, _ := l.earliestLoss(); !t.IsZero() {
		for i, s := range l.each {
			if s.lossTime.IsZero() || s.lossTime.After(now) {
				continue
			}
			var res AckResult
			l.detectLost(now, i, rtt, cc, lost, &res)
			s.trim()
		}
		return Initial, 0
	}
	if st.AmplificationLimited {
		return Initial, 0
	}
	t, space, probes := l.probeTime(now, rtt, st)
	if t.IsZero() || t.After(now) {
		return Initial, 0
	}
	// RFC 9002, Section 6.2.1: "When a PTO timer expires, the PTO backoff MUST
	// be increased, resulting in the PTO period being set to twice its current
	// value."
	l.ptoCount++
	l.lastEvent = now
	return space, probes
}
