package wire

// ConsumeMaxData reads the MAX_DATA frame at the start of b (RFC 9000,
// Section 19.9): the total of bytes the sender of the frame takes on all
// streams.
func ConsumeMaxData(b []byte) (max uint64, n int) { return consume1(b, FrameMaxData) }

// SizeMaxData returns how many bytes AppendMaxData adds.
func SizeMaxData(max uint64) int { return 1 + VarintLen(max) }

// AppendMaxData appends a MAX_DATA frame.
func AppendMaxData(b []byte, max uint64) []byte {
	return AppendVarint(append(b, FrameMaxData), max)
}

// ConsumeMaxStreamData reads the MAX_STREAM_DATA frame at the start of b
// (RFC 9000, Section 19.10): the offset up to which stream id may be sent.
func ConsumeMaxStreamData(b []byte) (id, max uint64, n int) {
	return consume2(b, FrameMaxStreamData)
}

// SizeMaxStreamData returns how many bytes AppendMaxStreamData adds.
func SizeMaxStreamData(id, max uint64) int { return 1 + VarintLen(id) + VarintLen(max) }

// AppendMaxStreamData appends a MAX_STREAM_DATA frame.
func AppendMaxStreamData(b []byte, id, max uint64) []byte {
	return AppendVarint(AppendVarint(append(b, FrameMaxStreamData), id), max)
}

// ConsumeMaxStreams reads the MAX_STREAMS frame at the start of b (RFC 9000,
// Section 19.11): how many streams of the type may be opened in all, 0 to
// MaxStreamCount.
//
// RFC 9000, Section 19.11: "This value cannot exceed 2^60, as it is not
// possible to encode stream IDs larger than 2^62-1. Receipt of a frame that
// permits opening of a stream larger than this limit MUST be treated as a
// connection error of type FRAME_ENCODING_ERROR."
func ConsumeMaxStreams(b []byte) (uni bool, max uint64, n int) {
	return consumeStreamCount(b, FrameMaxStreamsBidi)
}

// SizeMaxStreams returns how many bytes AppendMaxStreams adds.
func SizeMaxStreams(max uint64) int { return 1 + VarintLen(max) }

// AppendMaxStreams appends a MAX_STREAMS frame.
func AppendMaxStreams(b []byte, uni bool, max uint64) []byte {
	return appendStreamCount(b, FrameMaxStreamsBidi, uni, max)
}

// ConsumeDataBlocked reads the DATA_BLOCKED frame at the start of b (RFC
// 9000, Section 19.12): the connection limit at which its sender stopped.
func ConsumeDataBlocked(b []byte) (max uint64, n int) { return consume1(b, FrameDataBlocked) }

// SizeDataBlocked returns how many bytes AppendDataBlocked adds.
func SizeDataBlocked(max uint64) int { return 1 + VarintLen(max) }

// AppendDataBlocked appends a DATA_BLOCKED frame.
func AppendDataBlocked(b []byte, max uint64) []byte {
	return AppendVarint(append(b, FrameDataBlocked), max)
}

// ConsumeStreamDataBlocked reads the STREAM_DATA_BLOCKED frame at the start
// of b (RFC 9000, Section 19.13): the limit at which stream id stopped.
func ConsumeStreamDataBlocked(b []byte) (id, max uint64, n int) {
	return consume2(b, FrameStreamDataBlocked)
}

// SizeStreamDataBlocked returns how many bytes AppendStreamDataBlocked adds.
func SizeStreamDataBlocked(id, max uint64) int { return 1 + VarintLen(id) + VarintLen(max) }

// AppendStreamDataBlocked appends a STREAM_DATA_BLOCKED frame.
func AppendStreamDataBlocked(b []byte, id, max uint64) []byte {
	return AppendVarint(AppendVarint(append(b, FrameStreamDataBlocked), id), max)
}

// ConsumeStreamsBlocked reads the STREAMS_BLOCKED frame at the start of b
// (RFC 9000, Section 19.14): the count of streams at which its sender
// stopped, 0 to MaxStreamCount.
//
// RFC 9000, Section 19.14: "Receipt of a frame that encodes a larger stream ID
// MUST be treated as a connection error of type STREAM_LIMIT_ERROR or
// FRAME_ENCODING_ERROR."
func ConsumeStreamsBlocked(b []byte) (uni bool, max uint64, n int) {
	return consumeStreamCount(b, FrameStreamsBlockedBidi)
}

// SizeStreamsBlocked returns how many bytes AppendStreamsBlocked adds.
func SizeStreamsBlocked(max uint64) int { return 1 + VarintLen(max) }

// AppendStreamsBlocked appends a STREAMS_BLOCKED frame.
func AppendStreamsBlocked(b []byte, uni bool, max uint64) []byte {
	return appendStreamCount(b, FrameStreamsBlockedBidi, uni, max)
}

// consumeStreamCount reads a frame of a number of streams, whose type is bidi
// or, one higher, that for unidirectional streams.
func consumeStreamCount(b []byte, bidi byte) (uni bool, max uint64, n int) {
	if len(b) == 0 || b[0]&^1 != bidi {
		return false, 0, -1
	}
	max, n = ConsumeVarint(b[1:])
	if n < 0 || max > MaxStreamCount {
		return false, 0, -1
	}
	return b[0]&1 != 0, max, 1 + n
}

func appendStreamCount(b []byte, bidi byte, uni bool, max uint64) []byte {
	if uni {
		bidi |= 1
	}
	return AppendVarint(append(b, bidi), max)
}
