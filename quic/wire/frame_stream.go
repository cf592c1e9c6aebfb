package wire

// StreamFrame is a STREAM frame (RFC 9000, Section 19.8). Data aliases the
// packet; Off+len(Data) is at most MaxVarint.
type StreamFrame struct {
	ID, Off uint64
	Data    []byte
	Fin     bool
}

// ConsumeStream reads the STREAM frame at the start of b into f and returns its
// length, -1 if it is malformed: then f is of no use. A frame without a Length field
// takes all of b.
func ConsumeStream(b []byte, f *StreamFrame) int {
	if len(b) == 0 || b[0]&^7 != FrameStream {
		return -1
	}
	typ := b[0]
	f.Fin = typ&StreamFin != 0
	var m int
	n := 1
	if f.ID, m = ConsumeVarint(b[n:]); m < 0 {
		return -1
	}
	n += m
	f.Off = 0
	if typ&StreamOff != 0 {
		if f.Off, m = ConsumeVarint(b[n:]); m < 0 {
			return -1
		}
		n += m
	}
	if typ&StreamLen != 0 {
		if f.Data, m = consumeVarintBytes(b[n:]); m < 0 {
			return -1
		}
		n += m
	} else {
		f.Data = b[n:len(b):len(b)]
		n = len(b)
	}
	// RFC 9000, Section 19.8: "The largest offset delivered on a stream -- the
	// sum of the offset and data length -- cannot exceed 2^62-1, as it is not
	// possible to provide flow control credit for that data. Receipt of a
	// frame that exceeds this limit MUST be treated as a connection error of
	// type FRAME_ENCODING_ERROR or FLOW_CONTROL_ERROR."
	if f.Off+uint64(len(f.Data)) > MaxVarint {
		return -1
	}
	return n
}

// StreamHeaderLen returns how many bytes AppendStreamHeader adds.
func StreamHeaderLen(id, off uint64, dataLen int) int {
	n := 1 + VarintLen(id)
	if off != 0 {
		n += VarintLen(off)
	}
	if dataLen >= 0 {
		n += VarintLen(uint64(dataLen))
	}
	return n
}

// AppendStreamHeader appends a STREAM frame up to its data. With dataLen < 0
// the frame has no Length field and has to run to the end of its packet.
func AppendStreamHeader(b []byte, id, off uint64, dataLen int, fin bool) []byte {
	typ := byte(FrameStream)
	if off != 0 {
		typ |= StreamOff
	}
	if dataLen >= 0 {
		typ |= StreamLen
	}
	if fin {
		typ |= StreamFin
	}
	b = AppendVarint(append(b, typ), id)
	if off != 0 {
		b = AppendVarint(b, off)
	}
	if dataLen >= 0 {
		b = AppendVarint(b, uint64(dataLen))
	}
	return b
}

// ConsumeCrypto reads the CRYPTO frame at the start of b (RFC 9000, Section
// 19.6). data aliases b.
func ConsumeCrypto(b []byte) (off uint64, data []byte, n int) {
	off, n = consume1(b, FrameCrypto)
	if n < 0 {
		return 0, nil, -1
	}
	data, m := consumeVarintBytes(b[n:])
	if m < 0 {
		return 0, nil, -1
	}
	// RFC 9000, Section 19.6: "The largest offset delivered on a stream -- the
	// sum of the offset and data length -- cannot exceed 2^62-1. Receipt of a
	// frame that exceeds this limit MUST be treated as a connection error of
	// type FRAME_ENCODING_ERROR or CRYPTO_BUFFER_EXCEEDED."
	if off+uint64(len(data)) > MaxVarint {
		return 0, nil, -1
	}
	return off, data, n + m
}

// CryptoHeaderLen returns how many bytes AppendCryptoHeader adds.
func CryptoHeaderLen(off uint64, n int) int {
	return 1 + VarintLen(off) + VarintLen(uint64(n))
}

// AppendCryptoHeader appends a CRYPTO frame up to its n bytes of data.
func AppendCryptoHeader(b []byte, off uint64, n int) []byte {
	b = AppendVarint(append(b, FrameCrypto), off)
	return AppendVarint(b, uint64(n))
}

// ConsumeDatagram reads the DATAGRAM frame at the start of b (RFC 9221,
// Section 4). data aliases b. A frame without a Length field takes all of b.
func ConsumeDatagram(b []byte) (data []byte, n int) {
	switch {
	case is(b, FrameDatagram):
		return b[1:len(b):len(b)], len(b)
	case is(b, FrameDatagramLen):
		data, n = consumeVarintBytes(b[1:])
		if n < 0 {
			return nil, -1
		}
		return data, 1 + n
	}
	return nil, -1
}

// DatagramHeaderLen returns how many bytes AppendDatagramHeader adds.
func DatagramHeaderLen(dataLen int) int {
	if dataLen < 0 {
		return 1
	}
	return 1 + VarintLen(uint64(dataLen))
}

// AppendDatagramHeader appends a DATAGRAM frame up to its data. With dataLen
// < 0 the frame has no Length field and has to run to the end of its packet.
func AppendDatagramHeader(b []byte, dataLen int) []byte {
	if dataLen < 0 {
		return append(b, FrameDatagram)
	}
	return AppendVarint(append(b, FrameDatagramLen), uint64(dataLen))
}

// ConsumeResetStream reads the RESET_STREAM frame at the start of b (RFC
// 9000, Section 19.4): stream, application error code, final size in bytes.
func ConsumeResetStream(b []byte) (id, code, finalSize uint64, n int) {
	id, code, n = consume2(b, FrameResetStream)
	if n < 0 {
		return 0, 0, 0, -1
	}
	finalSize, m := ConsumeVarint(b[n:])
	if m < 0 {
		return 0, 0, 0, -1
	}
	return id, code, finalSize, n + m
}

// SizeResetStream returns how many bytes AppendResetStream adds.
func SizeResetStream(id, code, finalSize uint64) int {
	return 1 + VarintLen(id) + VarintLen(code) + VarintLen(finalSize)
}

// AppendResetStream appends a RESET_STREAM frame.
func AppendResetStream(b []byte, id, code, finalSize uint64) []byte {
	b = AppendVarint(append(b, FrameResetStream), id)
	return AppendVarint(AppendVarint(b, code), finalSize)
}

// ConsumeStopSending reads the STOP_SENDING frame at the start of b (RFC
// 9000, Section 19.5): stream and application error code.
func ConsumeStopSending(b []byte) (id, code uint64, n int) {
	return consume2(b, FrameStopSending)
}

// SizeStopSending returns how many bytes AppendStopSending adds.
func SizeStopSending(id, code uint64) int { return 1 + VarintLen(id) + VarintLen(code) }

// AppendStopSending appends a STOP_SENDING frame.
func AppendStopSending(b []byte, id, code uint64) []byte {
	return AppendVarint(AppendVarint(append(b, FrameStopSending), id), code)
}
