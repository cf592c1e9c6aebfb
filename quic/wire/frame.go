package wire

// Frame types (RFC 9000, Section 19; DATAGRAM: RFC 9221, Section 4). All take
// one byte on the wire.
const (
	FramePadding            = 0x00
	FramePing               = 0x01
	FrameAck                = 0x02
	FrameAckECN             = 0x03
	FrameResetStream        = 0x04
	FrameStopSending        = 0x05
	FrameCrypto             = 0x06
	FrameNewToken           = 0x07
	FrameStream             = 0x08 // to 0x0f: the low bits are StreamFin, StreamLen, StreamOff
	FrameStreamLast         = 0x0f
	FrameMaxData            = 0x10
	FrameMaxStreamData      = 0x11
	FrameMaxStreamsBidi     = 0x12
	FrameMaxStreamsUni      = 0x13
	FrameDataBlocked        = 0x14
	FrameStreamDataBlocked  = 0x15
	FrameStreamsBlockedBidi = 0x16
	FrameStreamsBlockedUni  = 0x17
	FrameNewConnectionID    = 0x18
	FrameRetireConnectionID = 0x19
	FramePathChallenge      = 0x1a
	FramePathResponse       = 0x1b
	FrameConnectionClose    = 0x1c
	FrameConnectionCloseApp = 0x1d
	FrameHandshakeDone      = 0x1e
	FrameDatagram           = 0x30
	FrameDatagramLen        = 0x31
)

// Bits of the STREAM frame's type (RFC 9000, Section 19.8).
const (
	StreamFin = 0x01
	StreamLen = 0x02
	StreamOff = 0x04
)

// MaxStreamCount is the largest number of streams of one type.
//
// RFC 9000, Section 4.6: "If a max_streams transport parameter or a
// MAX_STREAMS frame is received with a value greater than 2^60, this would
// allow a maximum stream ID that cannot be expressed as a variable-length
// integer"
const MaxStreamCount = 1 << 60

// Packet types in which a frame may be, as a bit each.
const (
	inInitial   = 1 << PacketInitial
	in0RTT      = 1 << Packet0RTT
	inHandshake = 1 << PacketHandshake
	in1RTT      = 1 << Packet1RTT

	inCrypto = inInitial | inHandshake | in1RTT
	inData   = in0RTT | in1RTT
)

// frameIn is RFC 9000, Table 3, column "Pkts", as far as a packet's type
// decides: DATAGRAM is from RFC 9221, Section 4, IMMEDIATE_ACK from
// draft-ietf-quic-ack-frequency.
var frameIn = [FrameDatagramLen + 1]uint8{
	FramePadding:            inCrypto | in0RTT,
	FramePing:               inCrypto | in0RTT,
	FrameAck:                inCrypto,
	FrameAckECN:             inCrypto,
	FrameResetStream:        inData,
	FrameStopSending:        inData,
	FrameCrypto:             inCrypto,
	FrameNewToken:           in1RTT,
	FrameStream:             inData,
	FrameStream + 1:         inData,
	FrameStream + 2:         inData,
	FrameStream + 3:         inData,
	FrameStream + 4:         inData,
	FrameStream + 5:         inData,
	FrameStream + 6:         inData,
	FrameStreamLast:         inData,
	FrameMaxData:            inData,
	FrameMaxStreamData:      inData,
	FrameMaxStreamsBidi:     inData,
	FrameMaxStreamsUni:      inData,
	FrameDataBlocked:        inData,
	FrameStreamDataBlocked:  inData,
	FrameStreamsBlockedBidi: inData,
	FrameStreamsBlockedUni:  inData,
	FrameNewConnectionID:    inData,
	FrameRetireConnectionID: in1RTT,
	FramePathChallenge:      inData,
	FramePathResponse:       in1RTT,
	FrameConnectionClose:    inCrypto | in0RTT,
	FrameConnectionCloseApp: inData,
	FrameHandshakeDone:      in1RTT,
	FrameImmediateAck:       inData,
	FrameDatagram:           inData,
	FrameDatagramLen:        inData,
}

// FrameKnown reports whether frameType is a type this package reads.
//
// RFC 9000, Section 12.4: "An endpoint MUST treat the receipt of a frame of
// unknown type as a connection error of type FRAME_ENCODING_ERROR."
func FrameKnown(frameType uint64) bool {
	return frameType == FrameAckFrequency || frameType < uint64(len(frameIn)) && frameIn[frameType] != 0
}

// FrameAllowed reports whether a known frame type may be in a packet of type
// t (RFC 9000, Table 3; RETIRE_CONNECTION_ID, PATH_RESPONSE, NEW_TOKEN and
// HANDSHAKE_DONE are refused in 0-RTT as Section 12.5 allows).
//
// RFC 9000, Section 12.4: "An endpoint MUST treat receipt of a frame in a
// packet type that is not permitted as a connection error of type
// PROTOCOL_VIOLATION."
func FrameAllowed(frameType uint64, t PacketType) bool {
	if frameType == FrameAckFrequency {
		return inData>>t&1 != 0
	}
	return frameType < uint64(len(frameIn)) && frameIn[frameType]>>t&1 != 0
}

// FrameAckEliciting reports whether a packet with such a frame asks for an
// acknowledgement.
//
// RFC 9000, Section 1.2: "Ack-eliciting packet: A QUIC packet that contains
// frames other than ACK, PADDING, and CONNECTION_CLOSE."
//
// RFC 9000, Section 19.21: "Extension frames MUST be congestion controlled and
// MUST cause an ACK frame to be sent."
func FrameAckEliciting(frameType uint64) bool {
	switch frameType {
	case FramePadding, FrameAck, FrameAckECN, FrameConnectionClose, FrameConnectionCloseApp:
		return false
	}
	return true
}

// FrameProbing reports whether a packet of nothing but such frames leaves
// the peer's path as it is.
//
// RFC 9000, Section 9.1: "PATH_CHALLENGE, PATH_RESPONSE, NEW_CONNECTION_ID,
// and PADDING frames are "probing frames", and all other frames are
// "non-probing frames"."
func FrameProbing(frameType uint64) bool {
	switch frameType {
	case FramePadding, FramePathChallenge, FramePathResponse, FrameNewConnectionID:
		return true
	}
	return false
}

var frameNames = map[uint64]string{
	FramePadding: "padding", FramePing: "ping", FrameAck: "ack", FrameAckECN: "ack",
	FrameResetStream: "reset_stream", FrameStopSending: "stop_sending", FrameCrypto: "crypto",
	FrameNewToken: "new_token", FrameMaxData: "max_data", FrameMaxStreamData: "max_stream_data",
	FrameMaxStreamsBidi: "max_streams", FrameMaxStreamsUni: "max_streams",
	FrameDataBlocked: "data_blocked", FrameStreamDataBlocked: "stream_data_blocked",
	FrameStreamsBlockedBidi: "streams_blocked", FrameStreamsBlockedUni: "streams_blocked",
	FrameNewConnectionID: "new_connection_id", FrameRetireConnectionID: "retire_connection_id",
	FramePathChallenge: "path_challenge", FramePathResponse: "path_response",
	FrameConnectionClose: "connection_close", FrameConnectionCloseApp: "connection_close",
	FrameImmediateAck: "immediate_ack", FrameAckFrequency: "ack_frequency",
	FrameHandshakeDone: "handshake_done", FrameDatagram: "datagram", FrameDatagramLen: "datagram",
}

// FrameName returns the name qlog uses for a frame type, "unknown" for a type
// this package does not read.
func FrameName(frameType uint64) string {
	if frameType >= FrameStream && frameType <= FrameStreamLast {
		return "stream"
	}
	if name, ok := frameNames[frameType]; ok {
		return name
	}
	return "unknown"
}

// is reports whether b begins with frame type t.
func is(b []byte, t byte) bool { return len(b) > 0 && b[0] == t }

// consume1 reads a frame of type t that consists of one integer.
func consume1(b []byte, t byte) (v uint64, n int) {
	if !is(b, t) {
		return 0, -1
	}
	v, n = ConsumeVarint(b[1:])
	if n < 0 {
		return 0, -1
	}
	return v, 1 + n
}

// consume2 reads a frame of type t that consists of two integers.
func consume2(b []byte, t byte) (v1, v2 uint64, n int) {
	v1, n = consume1(b, t)
	if n < 0 {
		return 0, 0, -1
	}
	v2, m := ConsumeVarint(b[n:])
	if m < 0 {
		return 0, 0, -1
	}
	return v1, v2, n + m
}
