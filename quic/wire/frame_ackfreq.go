package wire

import "time"

// Frames of draft-ietf-quic-ack-frequency. FrameAckFrequency takes two bytes on
// the wire, unlike all of RFC 9000's.
const (
	FrameImmediateAck = 0x1f
	FrameAckFrequency = 0xaf
)

// MaxRequestedAckDelay bounds what an ACK_FREQUENCY frame may ask for here, as
// max_ack_delay is bounded (RFC 9000, Section 18.2).
const MaxRequestedAckDelay = (maxAckDelayLimit - 1) * time.Millisecond

// AckFrequency is an ACK_FREQUENCY frame: how its sender would like its packets
// to be acknowledged.
type AckFrequency struct {
	Seq         uint64        // of the frames of this type; an older one is ignored
	Threshold   uint64        // ack-eliciting packets that may wait for an acknowledgment
	MaxAckDelay time.Duration // for so long, a multiple of 1 us; larger values than MaxRequestedAckDelay are read as that
	Reordering  uint64        // packets overtaken before one is missed at once; 0: none is
}

// FrameType returns the type of the frame at the start of b, which is not empty.
//
// RFC 9000, Section 12.4: "a frame type MUST use the shortest possible
// encoding", so that types below 64 are one byte.
func FrameType(b []byte) uint64 {
	if b[0] == 0x40 && len(b) > 1 && b[1] == FrameAckFrequency {
		return FrameAckFrequency
	}
	return uint64(b[0])
}

// ConsumeAckFrequency reads the ACK_FREQUENCY frame at the start of b.
func ConsumeAckFrequency(b []byte) (f AckFrequency, n int) {
	if len(b) < 2 || FrameType(b) != FrameAckFrequency {
		return f, -1
	}
	n = 2
	var delay uint64
	for _, v := range []*uint64{&f.Seq, &f.Threshold, &delay, &f.Reordering} {
		x, k := ConsumeVarint(b[n:])
		if k < 0 {
			return f, -1
		}
		*v, n = x, n+k
	}
	f.MaxAckDelay = time.Duration(min(delay, uint64(MaxRequestedAckDelay/time.Microsecond))) * time.Microsecond
	return f, n
}

// AppendAckFrequency appends an ACK_FREQUENCY frame.
func AppendAckFrequency(b []byte, f AckFrequency) []byte {
	b = append(b, 0x40, FrameAckFrequency)
	b = AppendVarint(b, f.Seq)
	b = AppendVarint(b, f.Threshold)
	b = AppendVarint(b, uint64(f.MaxAckDelay/time.Microsecond))
	return AppendVarint(b, f.Reordering)
}

// ConsumeImmediateAck reads the IMMEDIATE_ACK frame at the start of b.
func ConsumeImmediateAck(b []byte) (n int) { return consumeEmpty(b, FrameImmediateAck) }

// AppendImmediateAck appends an IMMEDIATE_ACK frame.
func AppendImmediateAck(b []byte) []byte { return append(b, FrameImmediateAck) }
