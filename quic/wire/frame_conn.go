package wire

import "bytes"

// ConsumePadding counts the PADDING frames at the start of b (RFC 9000,
// Section 19.1), -1 if there is none.
func ConsumePadding(b []byte) (n int) {
	for n < len(b) && b[n] == FramePadding {
		n++
	}
	if n == 0 {
		return -1
	}
	return n
}

// AppendPadding appends n PADDING frames of one byte; none for n <= 0.
func AppendPadding(b []byte, n int) []byte {
	for ; n >= len(zeros); n -= len(zeros) {
		b = append(b, zeros[:]...)
	}
	if n > 0 {
		b = append(b, zeros[:n]...)
	}
	return b
}

var zeros [256]byte

// ConsumePing reads the PING frame at the start of b (RFC 9000, Section 19.2).
func ConsumePing(b []byte) (n int) { return consumeEmpty(b, FramePing) }

// AppendPing appends a PING frame.
func AppendPing(b []byte) []byte { return append(b, FramePing) }

// ConsumeHandshakeDone reads the HANDSHAKE_DONE frame at the start of b (RFC
// 9000, Section 19.20).
func ConsumeHandshakeDone(b []byte) (n int) { return consumeEmpty(b, FrameHandshakeDone) }

// AppendHandshakeDone appends a HANDSHAKE_DONE frame.
func AppendHandshakeDone(b []byte) []byte { return append(b, FrameHandshakeDone) }

func consumeEmpty(b []byte, t byte) (n int) {
	if !is(b, t) {
		return -1
	}
	return 1
}

// ConsumeNewToken reads the NEW_TOKEN frame at the start of b (RFC 9000,
// Section 19.7). token aliases b.
//
// RFC 9000, Section 19.7: "A client MUST treat receipt of a NEW_TOKEN frame
// with an empty Token field as a connection error of type
// FRAME_ENCODING_ERROR."
func ConsumeNewToken(b []byte) (token []byte, n int) {
	if !is(b, FrameNewToken) {
		return nil, -1
	}
	token, n = consumeVarintBytes(b[1:])
	if n < 0 || len(token) == 0 {
		return nil, -1
	}
	return token, 1 + n
}

// SizeNewToken returns how many bytes AppendNewToken adds.
func SizeNewToken(token []byte) int { return 1 + VarintLen(uint64(len(token))) + len(token) }

// AppendNewToken appends a NEW_TOKEN frame; token must not be empty.
//
// RFC 9000, Section 19.7: "The token MUST NOT be empty."
func AppendNewToken(b, token []byte) []byte {
	return appendVarintBytes(append(b, FrameNewToken), token)
}

// ConsumeNewConnectionID reads the NEW_CONNECTION_ID frame at the start of b
// (RFC 9000, Section 19.15): sequence number, the number below which IDs are
// retired (at most seq), the ID of 1 to 20 bytes and its reset token.
func ConsumeNewConnectionID(b []byte) (seq, retirePriorTo uint64, id ConnID, token [16]byte, n int) {
	seq, retirePriorTo, n = consume2(b, FrameNewConnectionID)
	// RFC 9000, Section 19.15: "Receiving a value in the Retire Prior To field
	// that is greater than that in the Sequence Number field MUST be treated
	// as a connection error of type FRAME_ENCODING_ERROR."
	if n < 0 || retirePriorTo > seq || n >= len(b) {
		return 0, 0, ConnID{}, token, -1
	}
	// RFC 9000, Section 19.15: "Values less than 1 and greater than 20 are
	// invalid and MUST be treated as a connection error of type
	// FRAME_ENCODING_ERROR."
	size := int(b[n])
	n++
	if size < 1 || size > MaxConnIDLen || len(b)-n < size+len(token) {
		return 0, 0, ConnID{}, token, -1
	}
	id, _ = MakeConnID(b[n : n+size])
	n += size
	n += copy(token[:], b[n:])
	return seq, retirePriorTo, id, token, n
}

// SizeNewConnectionID returns how many bytes AppendNewConnectionID adds.
func SizeNewConnectionID(seq, retirePriorTo uint64, id ConnID) int {
	return 1 + VarintLen(seq) + VarintLen(retirePriorTo) + 1 + id.Len() + 16
}

// AppendNewConnectionID appends a NEW_CONNECTION_ID frame.
func AppendNewConnectionID(b []byte, seq, retirePriorTo uint64, id ConnID, token [16]byte) []byte {
	b = AppendVarint(AppendVarint(append(b, FrameNewConnectionID), seq), retirePriorTo)
	b = id.Append(append(b, id.n))
	return append(b, token[:]...)
}

// ConsumeRetireConnectionID reads the RETIRE_CONNECTION_ID frame at the start
// of b (RFC 9000, Section 19.16): a sequence number.
func ConsumeRetireConnectionID(b []byte) (seq uint64, n int) {
	return consume1(b, FrameRetireConnectionID)
}

// SizeRetireConnectionID returns how many bytes AppendRetireConnectionID adds.
func SizeRetireConnectionID(seq uint64) int { return 1 + VarintLen(seq) }

// AppendRetireConnectionID appends a RETIRE_CONNECTION_ID frame.
func AppendRetireConnectionID(b []byte, seq uint64) []byte {
	return AppendVarint(append(b, FrameRetireConnectionID), seq)
}

// SizePath is the length of a PATH_CHALLENGE or PATH_RESPONSE frame in bytes.
const SizePath = 1 + 8

// ConsumePathChallenge reads the PATH_CHALLENGE frame at the start of b (RFC
// 9000, Section 19.17).
func ConsumePathChallenge(b []byte) (data [8]byte, n int) { return consumePath(b, FramePathChallenge) }

// AppendPathChallenge appends a PATH_CHALLENGE frame.
func AppendPathChallenge(b []byte, data [8]byte) []byte {
	return append(append(b, FramePathChallenge), data[:]...)
}

// ConsumePathResponse reads the PATH_RESPONSE frame at the start of b (RFC
// 9000, Section 19.18).
func ConsumePathResponse(b []byte) (data [8]byte, n int) { return consumePath(b, FramePathResponse) }

// AppendPathResponse appends a PATH_RESPONSE frame.
func AppendPathResponse(b []byte, data [8]byte) []byte {
	return append(append(b, FramePathResponse), data[:]...)
}

func consumePath(b []byte, t byte) (data [8]byte, n int) {
	if len(b) < SizePath || b[0] != t {
		return data, -1
	}
	copy(data[:], b[1:])
	return data, SizePath
}

// ConsumeConnectionClose reads the CONNECTION_CLOSE frame at the start of b
// (RFC 9000, Section 19.19). app tells an application's code (type 0x1d) from
// a transport code (0x1c); frameType is 0 with app. reason aliases b and is
// whatever the peer wrote: escape it before it goes to a log.
func ConsumeConnectionClose(b []byte) (app bool, code, frameType uint64, reason []byte, n int) {
	switch {
	case is(b, FrameConnectionClose):
		code, frameType, n = consume2(b, FrameConnectionClose)
	case is(b, FrameConnectionCloseApp):
		app = true
		code, n = consume1(b, FrameConnectionCloseApp)
	default:
		n = -1
	}
	if n < 0 {
		return false, 0, 0, nil, -1
	}
	reason, m := consumeVarintBytes(b[n:])
	if m < 0 {
		return false, 0, 0, nil, -1
	}
	return app, code, frameType, reason, n + m
}

// SizeConnectionClose returns how many bytes AppendConnectionClose adds.
func SizeConnectionClose(app bool, code, frameType uint64, reason []byte) int {
	n := 1 + VarintLen(code) + VarintLen(uint64(len(reason))) + len(reason)
	if !app {
		n += VarintLen(frameType)
	}
	return n
}

// AppendConnectionClose appends a CONNECTION_CLOSE frame. frameType is the
// type of the frame that caused a transport error, 0 if none is to blame; it
// is not written with app.
func AppendConnectionClose(b []byte, app bool, code, frameType uint64, reason []byte) []byte {
	if app {
		b = AppendVarint(append(b, FrameConnectionCloseApp), code)
	} else {
		b = AppendVarint(append(b, FrameConnectionClose), code)
		b = AppendVarint(b, frameType)
	}
	return appendVarintBytes(b, reason)
}

// TrimReason shortens reason to at most max bytes without cutting a UTF-8
// sequence in two.
//
// RFC 9000, Section 19.19: "This SHOULD be a UTF-8 encoded string"
func TrimReason(reason []byte, max int) []byte {
	if len(reason) <= max {
		return reason
	}
	if max <= 0 {
		return nil
	}
	// Go back over continuation bytes (10xxxxxx) to the start of a character.
	for max > 0 && reason[max]&0xc0 == 0x80 {
		max--
	}
	return bytes.TrimRight(reason[:max], " ")
}
