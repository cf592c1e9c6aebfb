package wire

import (
	"bytes"
	"testing"
)

// frameSample is the encoding of a frame and its type.
type frameSample struct {
	name string
	b    []byte
	// toEnd: the frame runs to the end of the packet, so that a truncation
	// within its data or run is a shorter frame.
	toEnd bool
}

// numbers has an integer of each length and the largest.
var numbers = []uint64{0, 63, 64, 16383, 16384, 1<<30 - 1, 1 << 30, MaxVarint}

func frameSamples() (all []frameSample) {
	add := func(name string, b []byte) { all = append(all, frameSample{name: name, b: b}) }
	data := []byte("some data")
	for _, v := range numbers {
		add("max_data", AppendMaxData(nil, v))
		add("max_stream_data", AppendMaxStreamData(nil, v, v))
		add("data_blocked", AppendDataBlocked(nil, v))
		add("stream_data_blocked", AppendStreamDataBlocked(nil, v, v))
		for _, uni := range []bool{false, true} {
			add("max_streams", AppendMaxStreams(nil, uni, min(v, MaxStreamCount)))
			add("streams_blocked", AppendStreamsBlocked(nil, uni, min(v, MaxStreamCount)))
		}
		add("reset_stream", AppendResetStream(nil, v, 1, v))
		add("stop_sending", AppendStopSending(nil, v, v))
		add("retire_connection_id", AppendRetireConnectionID(nil, v))
		add("new_connection_id", AppendNewConnectionID(nil, v, v/2, connID(1+int(v%20), 4), [16]byte{15: 1}))
		add("connection_close", AppendConnectionClose(nil, false, v, v, data))
		add("connection_close app", AppendConnectionClose(nil, true, v, 0, data))
		off := min(v, MaxVarint-uint64(len(data)))
		add("crypto", append(AppendCryptoHeader(nil, off, len(data)), data...))
		for _, fin := range []bool{false, true} {
			add("stream", append(AppendStreamHeader(nil, v, off, len(data), fin), data...))
			all = append(all, frameSample{"stream to end", append(AppendStreamHeader(nil, v, off, -1, fin), data...), true})
		}
	}
	add("new_token", AppendNewToken(nil, data))
	add("path_challenge", AppendPathChallenge(nil, [8]byte{1, 2, 3, 4, 5, 6, 7, 8}))
	add("path_response", AppendPathResponse(nil, [8]byte{8, 7, 6, 5, 4, 3, 2, 1}))
	add("ping", AppendPing(nil))
	add("immediate_ack", AppendImmediateAck(nil))
	add("handshake_done", AppendHandshakeDone(nil))
	add("datagram", append(AppendDatagramHeader(nil, len(data)), data...))
	add("empty close", AppendConnectionClose(nil, false, 0, 0, nil))
	all = append(all, frameSample{"datagram to end", append(AppendDatagramHeader(nil, -1), data...), true},
		frameSample{"padding", AppendPadding(nil, 600), true})
	ranges := []AckRange{{90, MaxVarint}, {70, 88}, {0, 60}}
	add("ack", AppendAck(nil, ranges, 20, nil, 1000))
	add("ack ecn", AppendAck(nil, ranges, 20, &[3]uint64{1, 1 << 20, MaxVarint}, 1000))
	return all
}

// again reads the frame at the start of b and writes it anew. It returns the
// length it had and the new encoding; n < 0 if the frame is malformed.
func again(b []byte, a *Ack) (n int, out []byte) {
	if len(b) == 0 {
		return -1, nil
	}
	switch typ := b[0]; {
	case typ == FramePadding:
		n = ConsumePadding(b)
		return n, AppendPadding(nil, n)
	case typ == FramePing:
		return ConsumePing(b), AppendPing(nil)
	case typ == FrameImmediateAck:
		return ConsumeImmediateAck(b), AppendImmediateAck(nil)
	case typ == FrameAck, typ == FrameAckECN:
		if n = ConsumeAck(b, a); n < 0 {
			return n, nil
		}
		var ecn *[3]uint64
		if a.ECN {
			ecn = &[3]uint64{a.ECT0, a.ECT1, a.CE}
		}
		return n, AppendAck(nil, a.Ranges, a.Delay, ecn, 1<<20)
	case typ >= FrameStream && typ <= FrameStreamLast:
		var f StreamFrame
		n := ConsumeStream(b, &f)
		size := len(f.Data)
		if typ&StreamLen == 0 {
			size = -1
		}
		return n, append(AppendStreamHeader(nil, f.ID, f.Off, size, f.Fin), f.Data...)
	case typ == FrameCrypto:
		off, data, n := ConsumeCrypto(b)
		return n, append(AppendCryptoHeader(nil, off, len(data)), data...)
	case typ == FrameDatagram:
		data, n := ConsumeDatagram(b)
		return n, append(AppendDatagramHeader(nil, -1), data...)
	case typ == FrameDatagramLen:
		data, n := ConsumeDatagram(b)
		return n, append(AppendDatagramHeader(nil, len(data)), data...)
	}
	return againControl(b)
}

// againControl is again for frames without data.
func againControl(b []byte) (n int, out []byte) {
	switch b[0] {
	case FrameResetStream:
		id, code, size, n := ConsumeResetStream(b)
		return n, AppendResetStream(nil, id, code, size)
	case FrameStopSending:
		id, code, n := ConsumeStopSending(b)
		return n, AppendStopSending(nil, id, code)
	case FrameNewToken:
		token, n := ConsumeNewToken(b)
		return n, AppendNewToken(nil, token)
	case FrameMaxData:
		v, n := ConsumeMaxData(b)
		return n, AppendMaxData(nil, v)
	case FrameMaxStreamData:
		id, v, n := ConsumeMaxStreamData(b)
		return n, AppendMaxStreamData(nil, id, v)
	case FrameMaxStreamsBidi, FrameMaxStreamsUni:
		uni, v, n := ConsumeMaxStreams(b)
		return n, AppendMaxStreams(nil, uni, v)
	case FrameDataBlocked:
		v, n := ConsumeDataBlocked(b)
		return n, AppendDataBlocked(nil, v)
	case FrameStreamDataBlocked:
		id, v, n := ConsumeStreamDataBlocked(b)
		return n, AppendStreamDataBlocked(nil, id, v)
	case FrameStreamsBlockedBidi, FrameStreamsBlockedUni:
		uni, v, n := ConsumeStreamsBlocked(b)
		return n, AppendStreamsBlocked(nil, uni, v)
	case FrameNewConnectionID:
		seq, prior, id, token, n := ConsumeNewConnectionID(b)
		return n, AppendNewConnectionID(nil, seq, prior, id, token)
	case FrameRetireConnectionID:
		seq, n := ConsumeRetireConnectionID(b)
		return n, AppendRetireConnectionID(nil, seq)
	case FramePathChallenge:
		data, n := ConsumePathChallenge(b)
		return n, AppendPathChallenge(nil, data)
	case FramePathResponse:
		data, n := ConsumePathResponse(b)
		return n, AppendPathResponse(nil, data)
	case FrameConnectionClose, FrameConnectionCloseApp:
		app, code, typ, reason, n := ConsumeConnectionClose(b)
		return n, AppendConnectionClose(nil, app, code, typ, reason)
	case FrameHandshakeDone:
		return ConsumeHandshakeDone(b), AppendHandshakeDone(nil)
	}
	return -1, nil
}

func TestFrames(t *testing.T) {
	var a Ack
	seen := map[byte]bool{}
	for _, s := range frameSamples() {
		seen[s.b[0]] = true
		n, out := again(s.b, &a)
		if n != len(s.b) || !bytes.Equal(out, s.b) {
			t.Errorf("%s: %d of %d bytes, %x became %x", s.name, n, len(s.b), s.b, out)
		}
		if !FrameKnown(uint64(s.b[0])) || FrameName(uint64(s.b[0])) == "unknown" {
			t.Errorf("%s is not known", s.name)
		}
		// Bytes behind a frame are another frame's.
		if n, _ := again(append(s.b[:len(s.b):len(s.b)], 0xff), &a); !s.toEnd && n != len(s.b) {
			t.Errorf("%s: takes %d bytes of %d with one byte behind it", s.name, n, len(s.b))
		}
	}
	seen[FrameAckFrequency] = true // two bytes: TestAckFrequencyFrame
	for typ := range 256 {
		if FrameKnown(uint64(typ)) != seen[byte(typ)] {
			t.Errorf("type %#x: known %v, but in samples %v", typ, FrameKnown(uint64(typ)), seen[byte(typ)])
		}
	}
}

func TestFramesTruncated(t *testing.T) {
	var a Ack
	for _, s := range frameSamples() {
		for i := range s.b {
			n, _ := again(s.b[:i:i], &a)
			if n >= 0 && (!s.toEnd || n != i) {
				t.Errorf("%s: %d of %d bytes are a frame of %d", s.name, i, len(s.b), n)
			}
		}
	}
}

// A frame's Consume function refuses every other frame.
func TestFrameTypes(t *testing.T) {
	var a Ack
	consume := map[string]func(b []byte) int{
		"padding":              ConsumePadding,
		"ping":                 ConsumePing,
		"ack":                  func(b []byte) int { return ConsumeAck(b, &a) },
		"reset_stream":         func(b []byte) int { _, _, _, n := ConsumeResetStream(b); return n },
		"stop_sending":         func(b []byte) int { _, _, n := ConsumeStopSending(b); return n },
		"crypto":               func(b []byte) int { _, _, n := ConsumeCrypto(b); return n },
		"new_token":            func(b []byte) int { _, n := ConsumeNewToken(b); return n },
		"stream":               func(b []byte) int { return ConsumeStream(b, new(StreamFrame)) },
		"max_data":             func(b []byte) int { _, n := ConsumeMaxData(b); return n },
		"max_stream_data":      func(b []byte) int { _, _, n := ConsumeMaxStreamData(b); return n },
		"max_streams":          func(b []byte) int { _, _, n := ConsumeMaxStreams(b); return n },
		"data_blocked":         func(b []byte) int { _, n := ConsumeDataBlocked(b); return n },
		"stream_data_blocked":  func(b []byte) int { _, _, n := ConsumeStreamDataBlocked(b); return n },
		"streams_blocked":      func(b []byte) int { _, _, n := ConsumeStreamsBlocked(b); return n },
		"new_connection_id":    func(b []byte) int { _, _, _, _, n := ConsumeNewConnectionID(b); return n },
		"retire_connection_id": func(b []byte) int { _, n := ConsumeRetireConnectionID(b); return n },
		"path_challenge":       func(b []byte) int { _, n := ConsumePathChallenge(b); return n },
		"path_response":        func(b []byte) int { _, n := ConsumePathResponse(b); return n },
		"connection_close":     func(b []byte) int { _, _, _, _, n := ConsumeConnectionClose(b); return n },
		"handshake_done":       ConsumeHandshakeDone,
		"datagram":             func(b []byte) int { _, n := ConsumeDatagram(b); return n },
	}
	for _, s := range frameSamples() {
		own := FrameName(uint64(s.b[0]))
		for name, f := range consume {
			if n := f(s.b); name == own && n != len(s.b) || name != own && n >= 0 {
				t.Errorf("%s: read as %s: %d", s.name, name, n)
			}
		}
	}
}

func TestFrameSizes(t *testing.T) {
	id, token := connID(12, 1), [16]byte{}
	for _, v := range numbers {
		for _, c := range []struct {
			name string
			size int
			b    []byte
		}{
			{"max_data", SizeMaxData(v), AppendMaxData(nil, v)},
			{"max_stream_data", SizeMaxStreamData(v, v), AppendMaxStreamData(nil, v, v)},
			{"max_streams", SizeMaxStreams(v), AppendMaxStreams(nil, true, v)},
			{"data_blocked", SizeDataBlocked(v), AppendDataBlocked(nil, v)},
			{"stream_data_blocked", SizeStreamDataBlocked(v, v), AppendStreamDataBlocked(nil, v, v)},
			{"streams_blocked", SizeStreamsBlocked(v), AppendStreamsBlocked(nil, true, v)},
			{"reset_stream", SizeResetStream(v, v, v), AppendResetStream(nil, v, v, v)},
			{"stop_sending", SizeStopSending(v, v), AppendStopSending(nil, v, v)},
			{"new_connection_id", SizeNewConnectionID(v, v, id), AppendNewConnectionID(nil, v, v, id, token)},
			{"retire_connection_id", SizeRetireConnectionID(v), AppendRetireConnectionID(nil, v)},
			{"close", SizeConnectionClose(false, v, v, token[:]), AppendConnectionClose(nil, false, v, v, token[:])},
			{"close app", SizeConnectionClose(true, v, v, token[:]), AppendConnectionClose(nil, true, v, v, token[:])},
			{"new_token", SizeNewToken(token[:]), AppendNewToken(nil, token[:])},
			{"path", SizePath, AppendPathResponse(nil, [8]byte{})},
			{"stream", StreamHeaderLen(v, v, 70), AppendStreamHeader(nil, v, v, 70, true)},
			{"stream to end", StreamHeaderLen(v, v, -1), AppendStreamHeader(nil, v, v, -1, true)},
			{"crypto", CryptoHeaderLen(v, 70), AppendCryptoHeader(nil, v, 70)},
			{"datagram", DatagramHeaderLen(70), AppendDatagramHeader(nil, 70)},
			{"datagram to end", DatagramHeaderLen(-1), AppendDatagramHeader(nil, -1)},
		} {
			if c.size != len(c.b) {
				t.Errorf("%s with %d: size %d, encoding has %d bytes", c.name, v, c.size, len(c.b))
			}
		}
	}
}

// Values that a frame can carry but must not.
func TestFrameValues(t *testing.T) {
	var a Ack
	token := [16]byte{}
	for name, b := range map[string][]byte{
		"MAX_STREAMS beyond 2^60":      AppendMaxStreams(nil, true, MaxStreamCount+1),
		"STREAMS_BLOCKED beyond 2^60":  AppendStreamsBlocked(nil, false, MaxStreamCount+1),
		"NEW_TOKEN without token":      AppendNewToken(nil, nil),
		"retire prior to the future":   AppendNewConnectionID(nil, 4, 5, connID(8, 1), token),
		"connection ID without bytes":  AppendNewConnectionID(nil, 4, 4, ConnID{}, token),
		"connection ID of 21 bytes":    append([]byte{FrameNewConnectionID, 1, 0, 21}, make([]byte, 21+16)...),
		"STREAM past 2^62-1":           append(AppendStreamHeader(nil, 0, MaxVarint, 1, false), 0),
		"STREAM to end past 2^62-1":    append(AppendStreamHeader(nil, 0, MaxVarint, -1, false), 0),
		"CRYPTO past 2^62-1":           append(AppendCryptoHeader(nil, MaxVarint, 1), 0),
		"ACK first range too long":     {FrameAck, 5, 0, 0, 6},
		"ACK gap below zero":           {FrameAck, 5, 0, 1, 3, 1, 0},
		"ACK range below zero":         {FrameAck, 5, 0, 1, 1, 0, 3},
		"ACK with endless range count": AppendVarint([]byte{FrameAck, 5, 0}, MaxVarint),
		"STREAM with endless length":   AppendVarint([]byte{FrameStream | StreamLen, 0}, MaxVarint),
		"unknown type":                 {0x2f, 0, 0},
		"type in two bytes":            {0x40, FramePing},
	} {
		if n, _ := again(b, &a); n >= 0 {
			t.Errorf("%s: taken", name)
		}
	}
}

// RFC 9000, Table 3, written out by packet type.
func TestFrameAllowed(t *testing.T) {
	for typ := range uint64(0x40) {
		var initial, zeroRTT, oneRTT bool
		switch {
		case typ == FramePadding, typ == FramePing, typ == FrameConnectionClose:
			initial, zeroRTT, oneRTT = true, true, true
		case typ == FrameAck, typ == FrameAckECN, typ == FrameCrypto:
			initial, oneRTT = true, true
		case typ == FrameNewToken, typ == FrameRetireConnectionID, typ == FramePathResponse, typ == FrameHandshakeDone:
			oneRTT = true
		case FrameKnown(typ):
			zeroRTT, oneRTT = true, true
		}
		for p, want := range map[PacketType]bool{PacketInitial: initial, PacketHandshake: initial, Packet0RTT: zeroRTT, Packet1RTT: oneRTT, PacketRetry: false, PacketVersionNegotiation: false} {
			if got := FrameAllowed(typ, p); got != want {
				t.Errorf("%s in %v: %v, want %v", FrameName(typ), p, got, want)
			}
		}
	}
	if FrameKnown(MaxVarint) || FrameAllowed(MaxVarint, Packet1RTT) || FrameKnown(0x32) {
		t.Error("unknown frames are taken")
	}
	if FrameAckEliciting(FramePadding) || FrameAckEliciting(FrameAckECN) || FrameAckEliciting(FrameConnectionClose) || !FrameAckEliciting(FramePing) || !FrameAckEliciting(FrameStream) {
		t.Error("wrong ack-eliciting frames")
	}
	if !FrameProbing(FramePathChallenge) || !FrameProbing(FrameNewConnectionID) || FrameProbing(FramePing) || FrameProbing(FrameAck) {
		t.Error("wrong probing frames")
	}
}

func TestTrimReason(t *testing.T) {
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{
		{"short", 10, "short"},
		{"exact", 5, "exact"},
		{"longer", 4, "long"},
		{"a b", 2, "a"},
		{"grün", 3, "gr"},
		{"grün", 4, "grü"},
		{"\x80\x80\x80", 2, ""},
		{"x", 0, ""},
		{"x", -1, ""},
	} {
		if got := string(TrimReason([]byte(c.in), c.max)); got != c.want {
			t.Errorf("TrimReason(%q, %d) = %q, want %q", c.in, c.max, got, c.want)
		}
	}
}

func TestAppendPadding(t *testing.T) {
	for _, n := range []int{-1, 0, 1, 255, 256, 257, 1200} {
		if got := AppendPadding([]byte{1}, n); len(got) != 1+max(n, 0) || ConsumePadding(got[1:]) != n && n > 0 {
			t.Errorf("AppendPadding(%d) appended %d bytes", n, len(got)-1)
		}
	}
}

// FuzzFrames reads a packet's payload frame by frame, as a connection does.
// What was read is written and read again, and has to be the same.
func FuzzFrames(f *testing.F) {
	var all []byte
	for _, s := range frameSamples() {
		f.Add(s.b)
		if !s.toEnd {
			all = append(all, s.b...)
		}
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, b []byte) {
		var a, a2 Ack
		for len(b) > 0 {
			n, out := again(b, &a)
			if n < 0 {
				return
			}
			if n == 0 || n > len(b) {
				t.Fatalf("frame of %d bytes in %d", n, len(b))
			}
			if len(out) > n {
				t.Fatalf("frame %x grew to %x", b[:n], out)
			}
			n2, out2 := again(out, &a2)
			if n2 != len(out) || !bytes.Equal(out, out2) {
				t.Fatalf("frame %x became %x, then %x", b[:n], out, out2)
			}
			b = b[n:]
		}
	})
}

func TestConsumeNoAllocations(t *testing.T) {
	samples, packets := frameSamples(), longSamples()
	a := Ack{Ranges: make([]AckRange, 0, maxAckRanges)}
	allocs := testing.AllocsPerRun(10, func() {
		for _, s := range packets {
			if _, err := ParseLong(s.b); err != nil {
				panic(err)
			}
		}
		for _, s := range samples {
			ConsumeAck(s.b, &a)
			ConsumeStream(s.b, new(StreamFrame))
			ConsumeCrypto(s.b)
			ConsumeMaxData(s.b)
			ConsumeNewConnectionID(s.b)
			ConsumeConnectionClose(s.b)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
}

func BenchmarkConsumeStream(b *testing.B) {
	pkt := append(AppendStreamHeader(nil, 4, 1<<30, -1, false), make([]byte, 1400)...)
	var f StreamFrame
	b.ReportAllocs()
	for b.Loop() {
		if n := ConsumeStream(pkt, &f); n < 0 {
			b.Fatal("malformed")
		}
	}
}

func BenchmarkAppendStreamHeader(b *testing.B) {
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		AppendStreamHeader(buf, 4, 1<<30, -1, false)
	}
}
