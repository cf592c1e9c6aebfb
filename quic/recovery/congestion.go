package recovery

import "time"

// Controller decides how many bytes may be in flight on one path. Sizes are
// bytes of QUIC packets. Loss calls the On methods except OnSent, which the
// transport calls beside Loss.Sent for every packet in flight on the path.
type Controller interface {
	// Window is the congestion window.
	Window() int
	// CanSend reports whether one more full datagram may be added to inFlight
	// bytes. Probes (Loss.OnTimeout) and packets that are not in flight do
	// not ask.
	CanSend(inFlight int) bool
	// PacingRate is the rate for Pacer in bytes per second, at least 1.
	PacingRate(smoothed time.Duration) int64
	// OnSent reports a packet of bytes; inFlight includes it.
	OnSent(now time.Time, bytes, inFlight int)
	// OnAcked reports a newly acknowledged packet. inFlight is what was in
	// flight before the ACK frame arrived; appLimited is the transport's word
	// that it had nothing more to send (Loss.SetAppLimited). For one ACK
	// frame it comes after OnLost and OnCE.
	OnAcked(now time.Time, p *SentPacket, inFlight int, appLimited bool)
	// OnLost reports that packets were lost, the newest of them sent at
	// largestLostSent, bytes in all. Lost PMTU probes are not reported.
	OnLost(now time.Time, largestLostSent time.Time, bytes int)
	// OnPersistent reports persistent congestion (RFC 9002, Section 7.6).
	OnPersistent(now time.Time)
	// OnCE reports that the peer's count of ECN-CE marks rose; sent is when
	// the largest packet acknowledged with it was sent.
	OnCE(now, sent time.Time)
	// SetMaxDatagram tells the size of a full datagram, at least 1200.
	SetMaxDatagram(n int)
	// String names the algorithm and its state for logs.
	String() string
}

// initialWindow is RFC 9002, Section 7.2: "Endpoints SHOULD use an initial
// congestion window of ten times the maximum datagram size
// (max_datagram_size), while limiting the window to the larger of 14,720 bytes
// or twice the maximum datagram size."
func initialWindow(maxDatagram int) int {
	return min(10*maxDatagram, max(14720, 2*maxDatagram))
}

// paceRate is num/den windows each smoothed round-trip time, in bytes per
// second, saturating. RFC 9002, Section 7.7: "rate = N * congestion_window /
// smoothed_rtt"
func paceRate(window int, smoothed time.Duration, num, den int64) int64 {
	const most = 1 << 50
	rate := float64(window) * float64(num) / float64(den) / max(smoothed, time.Nanosecond).Seconds()
	return int64(min(max(rate, 1), most))
}
