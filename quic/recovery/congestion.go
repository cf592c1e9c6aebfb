package recovery

import (
	"fmt"
	"time"
)

// Algorithm names a congestion controller. The zero value is the default.
type Algorithm uint8

// The controllers.
const (
	CUBIC   Algorithm = iota // RFC 9438 with HyStart++ (RFC 9406)
	NewReno                  // RFC 9002, Section 7
	BBR                      // version 3, draft-ietf-ccwg-bbr
)

var algorithmNames = [...]string{CUBIC: "cubic", NewReno: "newreno", BBR: "bbr"}

// String is the name that configurations use.
func (a Algorithm) String() string {
	if int(a) < len(algorithmNames) {
		return algorithmNames[a]
	}
	return "invalid"
}

// ParseAlgorithm is the inverse of String.
func ParseAlgorithm(name string) (Algorithm, error) {
	for i, n := range algorithmNames {
		if n == name {
			return Algorithm(i), nil
		}
	}
	return 0, fmt.Errorf("congestion control %q: unknown (one of newreno, cubic, bbr)", name)
}

// NewController returns a controller for a path of which nothing is known.
// maxDatagram is the size of a full datagram in bytes, at least 1200.
//
// RFC 9002, Section 7: "If a sender uses a different controller than that
// specified in this document, the chosen controller MUST conform to the
// congestion control guidelines specified in Section 3.1 of [RFC8085]."
func NewController(a Algorithm, maxDatagram int) Controller {
	switch a {
	case NewReno:
		return NewNewReno(maxDatagram)
	case BBR:
		return NewBBR(maxDatagram)
	}
	return NewCUBIC(maxDatagram)
}

// Controller decides how many bytes may be in flight on one path. Sizes are
// bytes of QUIC packets. Loss calls the On methods except OnSent, which the
// transport calls before Loss.Sent for every packet in flight on the path.
//
// For one ACK frame the calls come in this order: OnSpurious for each packet
// that had been declared lost and was not, OnCE, OnPacketLost for each packet
// lost, OnLost, OnPersistent, OnAcked for each packet, OnAckEnd.
type Controller interface {
	// Window is the congestion window.
	Window() int
	// CanSend reports whether one more full datagram may be added to inFlight
	// bytes. Probes (Loss.OnTimeout) and packets that are not in flight do
	// not ask.
	CanSend(inFlight int) bool
	// PacingRate is the rate for Pacer in bytes per second, at least 1.
	PacingRate(smoothed time.Duration) int64
	// OnSent reports a packet of bytes about to be sent while inFlight bytes
	// are. What it returns belongs into SentPacket.SendState.
	OnSent(now time.Time, bytes, inFlight int) SendState
	// OnAcked reports a newly acknowledged packet. inFlight is what was in
	// flight before the ACK frame arrived; appLimited is the transport's word
	// that it had nothing more to send (Loss.SetAppLimited).
	OnAcked(now time.Time, p *SentPacket, inFlight int, appLimited bool)
	// OnAckEnd ends an ACK frame that newly acknowledged a packet of the path.
	OnAckEnd(now time.Time, e *AckEvent)
	// OnPacketLost reports a packet that was lost. Lost PMTU probes are not
	// reported.
	OnPacketLost(now time.Time, p *SentPacket)
	// OnLost ends the packets lost at one time, the newest of them sent at
	// largestLostSent.
	OnLost(now time.Time, largestLostSent time.Time, packets int)
	// OnSpurious reports that a packet declared lost at that time has arrived
	// after all.
	OnSpurious(now, declared time.Time)
	// OnPersistent reports persistent congestion (RFC 9002, Section 7.6).
	OnPersistent(now time.Time)
	// OnCE reports that the peer's count of ECN-CE marks rose by marks; sent is
	// when the largest packet acknowledged with it was sent.
	OnCE(now, sent time.Time, marks uint64)
	// SetMaxDatagram tells the size of a full datagram, at least 1200.
	SetMaxDatagram(n int)
	// Report fills in what statistics show.
	Report(r *Report)
	// String names the algorithm and its state for logs.
	String() string
}

// AckEvent sums up one ACK frame for Controller.OnAckEnd.
type AckEvent struct {
	RTT        *RTT
	RTTSampled bool // the frame gave an RTT sample, RTT.Latest
	// NewestSent is when the last sent of the newly acknowledged packets was sent.
	NewestSent time.Time
	Acked      int // bytes newly acknowledged
	InFlight   int // bytes, after the frame
	AppLimited bool
}

// Report is a controller's state in figures.
type Report struct {
	Name               string
	State              string // for example "slow start"
	Window             int    // bytes
	SlowStartThreshold int    // bytes; 0: none yet, or none at all (BBR)
	Undone             uint64 // reductions taken back because the losses were spurious
	DeliveryRate       int64  // bytes per second; 0: the controller does not estimate it
}

// initialWindow is RFC 9002, Section 7.2: "Endpoints SHOULD use an initial
// congestion window of ten times the maximum datagram size
// (max_datagram_size), while limiting the window to the larger of 14,720 bytes
// or twice the maximum datagram size."
func initialWindow(maxDatagram int) int {
	return min(10*maxDatagram, max(14720, 2*maxDatagram))
}

// maxWindow keeps window arithmetic far from overflow, also where int has 32
// bits.
const maxWindow = 1 << 30

// paceRate is num/den windows each smoothed round-trip time, in bytes per
// second, saturating. RFC 9002, Section 7.7: "rate = N * congestion_window /
// smoothed_rtt"
func paceRate(window int, smoothed time.Duration, num, den int64) int64 {
	const most = 1 << 50
	rate := float64(window) * float64(num) / float64(den) / max(smoothed, time.Nanosecond).Seconds()
	return int64(min(max(rate, 1), most))
}
