package recovery

type ecnState uint8

const (
	ecnOff     ecnState = iota // not asked for, or the socket cannot mark
	ecnTesting                 // marking the first packets of a path
	ecnUnknown                 // enough marked, waiting for the verdict
	ecnCapable
	ecnFailed
)

const (
	// RFC 9000, Section 13.4.2: "the endpoint could set an ECT codepoint
	// for only the first ten outgoing packets on a path"
	ecnTestPackets = 10

	// So many acknowledged packets in a row over so many round trips, all of
	// them marked CE, are taken for a broken or lying peer or path rather than
	// for congestion: a queue that marks above a threshold marks whole windows
	// when slow start ends, but not for long once the window is reduced.
	ecnAllCE       = 64
	ecnAllCERounds = 10
)

// ECN is what is known of ECN on one path (RFC 9000, Section 13.4.2 and
// Appendix A.4). It belongs to the path; the zero value marks nothing. The
// peer's counts are per packet number space and live there.
type ECN struct {
	state              ecnState
	sent, acked, lost  uint64 // marked packets of this path
	ceRun              uint64 // acknowledged in a row with nothing but CE
	testedWithoutFault bool
	ceRounds           int    // round trips of ceRun
	ceEnd              uint64 // packet number that ends the current one
	rise               uint64 // of the CE count, in the frame validated last
}

// String names the state as RFC 9000, Appendix A.4 does.
func (e *ECN) String() string {
	return [...]string{"off", "testing", "unknown", "capable", "failed"}[e.state]
}

// reset begins testing a path, unless ECN is off altogether.
func (e *ECN) reset() {
	if e.state != ecnOff {
		*e = ECN{state: ecnTesting}
	}
}

// mark reports whether the next packet should carry ECT(0). A probe for a
// handshake that got no answer is not marked: the mark may be why.
func (e *ECN) mark(ptoCount int) bool {
	return e.state == ecnCapable || e.state == ecnTesting && ptoCount == 0
}

// round notes that largest was acknowledged, next being the number to be sent,
// to count the round trips of a run of CE marks.
func (e *ECN) round(largest, next uint64) {
	if e.ceRun > 0 && largest >= e.ceEnd {
		e.ceRounds++
		e.ceEnd = next
	}
}

func (e *ECN) onSent() {
	e.sent++
	if e.state == ecnTesting && e.sent >= ecnTestPackets {
		e.state = ecnUnknown
	}
}

// onLost follows RFC 9000, Section 13.4.2: "If all packets marked with non-zero
// ECN codepoints are subsequently lost, it can disable marking on the
// assumption that the marking caused the loss."
func (e *ECN) onLost() {
	e.lost++
	e.checkAllLost()
}

// onForgotten: what becomes of a marked packet will never be known, because
// its keys are gone.
func (e *ECN) onForgotten() {
	if e.sent > 0 { // a path that was returned to has begun anew
		e.sent--
	}
	if e.lost > 0 {
		e.checkAllLost()
	}
}

func (e *ECN) checkAllLost() {
	if e.state == ecnUnknown && e.acked == 0 && e.lost >= e.sent {
		e.state = ecnFailed
	}
}

// ecnCounts is the order of the ECN counts of an ACK frame.
const (
	ect0 = iota
	ect1
	ectCE
)

// validate checks the counts of an ACK frame that raises the largest
// acknowledged packet number. base is the counts seen last, sent the number of
// packets ever marked in the space, newly how many of those marked on this
// path the frame newly acknowledges. It reports whether the CE count rose and
// may be acted on.
//
// RFC 9000, Section 13.4.2.2: "If validation fails, then the endpoint MUST
// disable ECN."
//
// RFC 9000, Section 13.4.2.2: "Network routing and path elements can change
// mid-connection; an endpoint MUST disable ECN if validation later fails."
func (e *ECN) validate(counts *[3]uint64, base *[3]uint64, sent, newly uint64) (congested bool) {
	if e.state == ecnOff || e.state == ecnFailed {
		return false
	}
	e.acked += newly
	if counts == nil {
		// RFC 9000, Section 13.4.2.1: "If an ACK frame newly acknowledges a
		// packet that the endpoint sent with either the ECT(0) or ECT(1)
		// codepoint set, ECN validation fails if the corresponding ECN counts
		// are not present in the ACK frame."
		if newly > 0 {
			e.state = ecnFailed
		}
		return false
	}
	if counts[ect0] < base[ect0] || counts[ectCE] < base[ectCE] {
		e.state = ecnFailed // counts never fall
		return false
	}
	rise0, riseCE := counts[ect0]-base[ect0], counts[ectCE]-base[ectCE]
	*base = *counts
	switch {
	case counts[ect1] != 0, counts[ect0] > sent, counts[ectCE] > sent-counts[ect0]:
		// RFC 9000, Section 13.4.2.1: "ECN validation can fail if the received
		// total count for either ECT(0) or ECT(1) exceeds the total number of
		// packets sent with each corresponding ECT codepoint. In particular,
		// validation will fail when an endpoint receives a non-zero ECN count
		// corresponding to an ECT codepoint that it never applied."
		e.state = ecnFailed
		return false
	case rise0+riseCE < newly:
		// RFC 9000, Section 13.4.2.1: "ECN validation also fails if the sum of
		// the increase in ECT(0) and ECN-CE counts is less than the number of
		// newly acknowledged packets that were originally sent with an ECT(0)
		// marking."
		e.state = ecnFailed
		return false
	}
	return e.judge(rise0, riseCE, newly)
}

// judge acts on counts that add up. RFC 9000, Appendix A.4: "An endpoint can
// also mark the ECN state for a path as "failed" if marked packets are all
// declared lost or if they are all ECN-CE marked."
func (e *ECN) judge(rise0, riseCE, newly uint64) (congested bool) {
	if rise0 > 0 {
		e.ceRun, e.ceRounds, e.ceEnd = 0, 0, 0
		e.testedWithoutFault = true
	} else {
		e.ceRun += riseCE
	}
	// All that were sent to find out have come back, and all of them with CE.
	allCE := e.state == ecnUnknown && !e.testedWithoutFault && e.acked+e.lost >= e.sent && e.ceRun > 0
	allCE = allCE || !e.testedWithoutFault && e.ceRun >= ecnTestPackets
	if allCE || e.ceRun >= ecnAllCE && e.ceRounds >= ecnAllCERounds {
		e.state = ecnFailed
		return false
	}
	// RFC 9000, Appendix A.4: "From the "unknown" state, successful validation
	// of the ECN counts in an ACK frame (see Section 13.4.2.1) causes the ECN
	// state for the path to become "capable", unless no marked packet has been
	// acknowledged."
	if newly > 0 && e.testedWithoutFault && e.state == ecnUnknown {
		e.state = ecnCapable
	}
	e.rise = riseCE
	return riseCE > 0
}
