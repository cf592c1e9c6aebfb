package wire

// AckRange is a run of acknowledged packet numbers, both ends inclusive.
type AckRange struct{ Smallest, Largest uint64 }

// maxAckRanges is how many ranges of one ACK frame ConsumeAck keeps. More
// than the peer's own memory of received packets is of no use, and a frame
// that fills a packet with two-byte ranges has some 700.
const maxAckRanges = 256

// Ack is an ACK frame (RFC 9000, Section 19.3). Ranges are in descending
// order with at least one packet number missing between two. Delay is raw, in
// units of 2^ack_delay_exponent microseconds. The counts are cumulative and
// only set if ECN is.
type Ack struct {
	Largest       uint64
	Delay         uint64
	Ranges        []AckRange
	ECN           bool
	ECT0, ECT1    uint64
	CE            uint64
	RangesIgnored int // ranges beyond the 256 that are kept
}

// ConsumeAck reads the ACK frame at the start of b into a, whose Ranges are
// reused. It keeps the 256 highest ranges; lower ones are checked and
// ignored, which is safe: their packets count as not acknowledged yet. a is
// undefined when n < 0.
//
// RFC 9000, Section 19.3: "QUIC implementations MUST properly handle both
// types, and, if they have enabled ECN for packets they send, they SHOULD use
// the information in the ECN section to manage their congestion state."
func ConsumeAck(b []byte, a *Ack) (n int) {
	if len(b) == 0 || b[0]&^1 != FrameAck {
		return -1
	}
	*a = Ack{Ranges: a.Ranges[:0], ECN: b[0] == FrameAckECN}
	n = 1
	var count, first uint64
	for _, v := range [...]*uint64{&a.Largest, &a.Delay, &count, &first} {
		m := 0
		if *v, m = ConsumeVarint(b[n:]); m < 0 {
			return -1
		}
		n += m
	}
	// RFC 9000, Section 19.3.1: "If any computed packet number is negative, an
	// endpoint MUST generate a connection error of type FRAME_ENCODING_ERROR."
	if first > a.Largest {
		return -1
	}
	smallest := a.Largest - first
	a.Ranges = append(a.Ranges, AckRange{smallest, a.Largest})
	// count may be anything up to 2^62, but each range takes two bytes, so the
	// loop ends with the packet.
	for ; count > 0; count-- {
		gap, m := ConsumeVarint(b[n:])
		if m < 0 {
			return -1
		}
		n += m
		length, m := ConsumeVarint(b[n:])
		if m < 0 {
			return -1
		}
		n += m
		// RFC 9000, Section 19.3.1: "largest = previous_smallest - gap - 2"
		if gap+2 > smallest || length > smallest-gap-2 {
			return -1
		}
		largest := smallest - gap - 2
		smallest = largest - length
		if len(a.Ranges) < maxAckRanges {
			a.Ranges = append(a.Ranges, AckRange{smallest, largest})
		} else {
			a.RangesIgnored++
		}
	}
	if !a.ECN {
		return n
	}
	return consumeECN(b, n, a)
}

// consumeECN reads the three counts that end an ACK frame of type 0x03.
func consumeECN(b []byte, n int, a *Ack) int {
	for _, v := range [...]*uint64{&a.ECT0, &a.ECT1, &a.CE} {
		m := 0
		if *v, m = ConsumeVarint(b[n:]); m < 0 {
			return -1
		}
		n += m
	}
	return n
}

// AppendAck appends an ACK frame of at most max bytes with as many of ranges
// as fit, the highest first; b is returned unchanged if there is none or not
// even one fits. ranges are in descending order with a missing packet number
// between two (a range that breaks this ends the list). delay is raw, in units
// of 2^ack_delay_exponent microseconds. With ecn the frame reports the counts
// of ECT(0), ECT(1) and CE.
func AppendAck(b []byte, ranges []AckRange, delay uint64, ecn *[3]uint64, max int) []byte {
	if len(ranges) == 0 || ranges[0].Smallest > ranges[0].Largest {
		return b
	}
	top := ranges[0]
	first := top.Largest - top.Smallest
	size := 1 + VarintLen(top.Largest) + VarintLen(delay) + VarintLen(first)
	typ := byte(FrameAck)
	if ecn != nil {
		typ = FrameAckECN
		size += VarintLen(ecn[0]) + VarintLen(ecn[1]) + VarintLen(ecn[2])
	}
	count := fitRanges(ranges, size, max)
	if count < 0 {
		return b
	}
	b = AppendVarint(append(b, typ), top.Largest)
	b = AppendVarint(b, delay)
	b = AppendVarint(b, uint64(count))
	b = AppendVarint(b, first)
	for i := 1; i <= count; i++ {
		b = AppendVarint(b, ranges[i-1].Smallest-ranges[i].Largest-2)
		b = AppendVarint(b, ranges[i].Largest-ranges[i].Smallest)
	}
	if ecn != nil {
		b = AppendVarint(AppendVarint(AppendVarint(b, ecn[0]), ecn[1]), ecn[2])
	}
	return b
}

// fitRanges returns how many ranges after the first fit when the frame
// without them and without its range count has size bytes; -1 if not even the
// first does.
func fitRanges(ranges []AckRange, size, max int) int {
	if size+1 > max {
		return -1
	}
	count := 0
	for i := 1; i < len(ranges); i++ {
		r, above := ranges[i], ranges[i-1]
		if r.Smallest > r.Largest || r.Largest+2 > above.Smallest {
			break
		}
		size += VarintLen(above.Smallest-r.Largest-2) + VarintLen(r.Largest-r.Smallest)
		if size+VarintLen(uint64(i)) > max {
			break
		}
		count = i
	}
	return count
}
