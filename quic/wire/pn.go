package wire

// MaxPacketNumber is the largest packet number.
//
// RFC 9000, Section 17.1: "Packet numbers are integers in the range 0 to
// 2^62-1"
const MaxPacketNumber = MaxVarint

// PacketNumberLen returns how many bytes, 1 to 4, packet number pn takes on
// the wire when largestAcked is the largest number the peer acknowledged in
// this space, -1 if none.
//
// RFC 9000, Section 17.1: "the sender MUST use a packet number size able to
// represent more than twice as large a range as the difference between the
// largest acknowledged packet number and the packet number being sent"
//
// RFC 9000, Section 17.1: "Prior to receiving an acknowledgment for a packet
// number space, the full packet number MUST be included; it is not to be
// truncated, as described below."
func PacketNumberLen(pn uint64, largestAcked int64) int {
	unacked := pn - uint64(largestAcked) // -1 wraps to pn+1
	switch {
	case unacked < 1<<7:
		return 1
	case unacked < 1<<15:
		return 2
	case unacked < 1<<23:
		return 3
	default:
		return 4
	}
}

// DecodePacketNumber recovers a packet number from the pnLen (1 to 4) bytes
// of it that were sent. largest is the largest packet number received in the
// space whose protection could be removed, -1 if none.
//
// RFC 9000, Section 17.1: "the packet number is decoded by finding the packet
// number value that is closest to the next expected packet"; the steps are
// those of Appendix A.3, with sums in place of differences, which would wrap.
func DecodePacketNumber(largest int64, truncated uint64, pnLen int) uint64 {
	expected := uint64(largest + 1)
	window := uint64(1) << (8 * pnLen)
	half := window / 2
	candidate := expected&^(window-1) | truncated
	if candidate+half <= expected && candidate < 1<<62-window {
		return candidate + window
	}
	// The second half keeps a result in range when the space is used up.
	if candidate >= window && (candidate > expected+half || candidate > MaxPacketNumber) {
		return candidate - window
	}
	return candidate
}

// appendPacketNumber appends the low pnLen bytes of pn.
func appendPacketNumber(b []byte, pn uint64, pnLen int) []byte {
	switch pnLen {
	case 1:
		return append(b, byte(pn))
	case 2:
		return append(b, byte(pn>>8), byte(pn))
	case 3:
		return append(b, byte(pn>>16), byte(pn>>8), byte(pn))
	default:
		return append(b, byte(pn>>24), byte(pn>>16), byte(pn>>8), byte(pn))
	}
}
