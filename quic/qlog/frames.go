package qlog

import (
	"strconv"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

func appendInt(b []byte, n int) []byte { return strconv.AppendInt(b, int64(n), 10) }

// appendFrames appends frames as elements of an array, as far as limit on
// len(b) goes. What can't be parsed ends it: the connection says so in its own events.
func appendFrames(b, frames []byte, limit int) []byte {
	for first := true; len(frames) > 0 && len(b) < limit; first = false {
		at := len(b)
		if !first {
			b = append(b, ',')
		}
		typ := wire.FrameType(frames)
		b = append(b, `{"frame_type":"`...)
		b = append(b, wire.FrameName(typ)...)
		b = append(b, '"')
		if !wire.FrameKnown(typ) {
			return append(addUint(b, "raw_frame_type", typ), '}')
		}
		var n int
		if b, n = appendFrame(b, typ, frames, limit); n <= 0 {
			return b[:at]
		}
		b = append(b, '}')
		frames = frames[n:]
	}
	return b
}

// appendFrame appends the fields of the frame at the start of f and returns its length.
func appendFrame(b []byte, typ uint64, f []byte, limit int) ([]byte, int) {
	if typ >= wire.FrameStream && typ <= wire.FrameStreamLast {
		var sf wire.StreamFrame
		n := wire.ConsumeStream(f, &sf)
		return appendStream(b, &StreamFrame{ID: sf.ID, Off: sf.Off, Len: len(sf.Data), Fin: sf.Fin}), n
	}
	switch typ {
	case wire.FramePadding:
		n := wire.ConsumePadding(f)
		return addUint(b, "length", uint64(max(n, 0))), n
	case wire.FramePing:
		return b, wire.ConsumePing(f)
	case wire.FrameImmediateAck:
		return b, wire.ConsumeImmediateAck(f)
	case wire.FrameAckFrequency:
		a, n := wire.ConsumeAckFrequency(f)
		b = addUint(addUint(b, "sequence_number", a.Seq), "ack_eliciting_threshold", a.Threshold)
		b = addUint(b, "requested_max_ack_delay", uint64(a.MaxAckDelay.Microseconds()))
		return addUint(b, "reordering_threshold", a.Reordering), n
	case wire.FrameHandshakeDone:
		return b, wire.ConsumeHandshakeDone(f)
	case wire.FrameAck, wire.FrameAckECN:
		return appendAck(b, f, limit)
	case wire.FrameCrypto:
		off, data, n := wire.ConsumeCrypto(f)
		b = addUint(b, "offset", off)
		return addUint(b, "length", uint64(len(data))), n
	case wire.FrameDatagram, wire.FrameDatagramLen:
		data, n := wire.ConsumeDatagram(f)
		return addUint(b, "length", uint64(len(data))), n
	case wire.FrameNewToken:
		token, n := wire.ConsumeNewToken(f)
		return append(addUint(append(b, `,"token":{"type":"resumption"`...), "length", uint64(len(token))), '}'), n
	case wire.FrameConnectionClose, wire.FrameConnectionCloseApp:
		return appendClose(b, f)
	case wire.FrameNewConnectionID:
		seq, prior, id, _, n := wire.ConsumeNewConnectionID(f)
		b = addUint(b, "sequence_number", seq)
		b = addUint(b, "retire_prior_to", prior)
		return addHex(b, "connection_id", id.Append(nil)), n
	case wire.FrameRetireConnectionID:
		seq, n := wire.ConsumeRetireConnectionID(f)
		return addUint(b, "sequence_number", seq), n
	case wire.FramePathChallenge:
		_, n := wire.ConsumePathChallenge(f)
		return b, n
	case wire.FramePathResponse:
		_, n := wire.ConsumePathResponse(f)
		return b, n
	}
	return appendFlow(b, typ, f)
}

func appendStream(b []byte, s *StreamFrame) []byte {
	b = addUint(b, "stream_id", s.ID)
	b = addUint(b, "offset", s.Off)
	b = addUint(b, "length", uint64(s.Len))
	if s.Fin {
		b = addBool(b, "fin", true)
	}
	return b
}

func appendClose(b, f []byte) ([]byte, int) {
	app, code, frame, reason, n := wire.ConsumeConnectionClose(f)
	if n < 0 {
		return b, n
	}
	if app {
		b = append(b, `,"error_space":"application"`...)
	} else {
		b = append(b, `,"error_space":"transport"`...)
		b = addUint(b, "trigger_frame_type", frame)
	}
	b = addUint(b, "error_code", code)
	return addString(b, "reason", string(reason[:min(len(reason), 128)])), n
}

// appendAck writes delays as they are in the frame, shifted by the default exponent.
func appendAck(b, f []byte, limit int) ([]byte, int) {
	var a wire.Ack
	n := wire.ConsumeAck(f, &a)
	if n < 0 {
		return b, n
	}
	b = strconv.AppendFloat(addKey(b, "ack_delay"), float64(a.Delay<<wire.DefaultAckDelayExponent)/1000, 'f', 3, 64)
	b = append(addKey(b, "acked_ranges"), '[')
	for i, r := range a.Ranges {
		if len(b) > limit-64 {
			break
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '[')
		b = strconv.AppendUint(b, r.Smallest, 10)
		b = append(b, ',')
		b = strconv.AppendUint(b, r.Largest, 10)
		b = append(b, ']')
	}
	b = append(b, ']')
	if a.ECN {
		b = addUint(b, "ect0", a.ECT0)
		b = addUint(b, "ect1", a.ECT1)
		b = addUint(b, "ce", a.CE)
	}
	return b, n
}

func appendFlow(b []byte, typ uint64, f []byte) ([]byte, int) {
	switch typ {
	case wire.FrameResetStream:
		id, code, size, n := wire.ConsumeResetStream(f)
		b = addUint(b, "stream_id", id)
		b = addUint(b, "error_code", code)
		return addUint(b, "final_size", size), n
	case wire.FrameStopSending:
		id, code, n := wire.ConsumeStopSending(f)
		return addUint(addUint(b, "stream_id", id), "error_code", code), n
	case wire.FrameMaxData:
		v, n := wire.ConsumeMaxData(f)
		return addUint(b, "maximum", v), n
	case wire.FrameMaxStreamData:
		id, v, n := wire.ConsumeMaxStreamData(f)
		return addUint(addUint(b, "stream_id", id), "maximum", v), n
	case wire.FrameMaxStreamsBidi, wire.FrameMaxStreamsUni:
		uni, v, n := wire.ConsumeMaxStreams(f)
		return addUint(addStreamType(b, uni), "maximum", v), n
	case wire.FrameDataBlocked:
		v, n := wire.ConsumeDataBlocked(f)
		return addUint(b, "limit", v), n
	case wire.FrameStreamDataBlocked:
		id, v, n := wire.ConsumeStreamDataBlocked(f)
		return addUint(addUint(b, "stream_id", id), "limit", v), n
	case wire.FrameStreamsBlockedBidi, wire.FrameStreamsBlockedUni:
		uni, v, n := wire.ConsumeStreamsBlocked(f)
		return addUint(addStreamType(b, uni), "limit", v), n
	}
	return b, -1
}

func addStreamType(b []byte, uni bool) []byte {
	if uni {
		return addString(b, "stream_type", "unidirectional")
	}
	return addString(b, "stream_type", "bidirectional")
}
