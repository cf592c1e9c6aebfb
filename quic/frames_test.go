package quic

import (
	"fmt"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestFrameErrors sends one bad frame on an established connection of each
// role and looks for the exact code. hostile row 19 is among them.
func TestFrameErrors(t *testing.T) {
	huge := uint64(1 << 61)
	both := map[string]struct {
		frame func(tc *testConn) []byte
		code  TransportErrorCode
	}{
		// RFC 9000, Section 12.4: "An endpoint MUST treat the receipt of a frame of
		// unknown type as a connection error of type FRAME_ENCODING_ERROR."
		"ACK_FREQUENCY below min_ack_delay": {func(*testConn) []byte {
			return wire.AppendAckFrequency(nil, wire.AckFrequency{Threshold: 10, MaxAckDelay: localMinAckDelay - time.Microsecond, Reordering: 1})
		}, ProtocolViolation},
		"unknown type 0x2f":     {func(*testConn) []byte { return []byte{0x2f} }, FrameEncodingError},
		"unknown type 0x40 0x7": {func(*testConn) []byte { return []byte{0x40, 0x07} }, FrameEncodingError},
		"unknown long type":     {func(*testConn) []byte { return wire.AppendVarint(nil, huge) }, FrameEncodingError},
		// "An endpoint MUST treat receipt of a packet containing no frames as a
		// connection error of type PROTOCOL_VIOLATION."
		"no frames": {func(*testConn) []byte { return nil }, ProtocolViolation},
		// RFC 9221, Section 3: "An endpoint that receives a DATAGRAM frame when it has not
		// indicated support via the transport parameter MUST terminate the connection with
		// an error of type PROTOCOL_VIOLATION."
		"DATAGRAM": {func(*testConn) []byte { return []byte{0x30, 1, 2} }, ProtocolViolation},
		// Section 4.1: "A receiver MUST close the connection with an error of type
		// FLOW_CONTROL_ERROR if the sender violates the advertised connection or
		// stream data limits"
		"stream limit": {func(tc *testConn) []byte {
			return streamFrame(tc.peerStream(0, false), 512<<10, []byte("x"), false)
		}, FlowControlError},
		"stream limit by reset": {func(tc *testConn) []byte {
			return wire.AppendResetStream(nil, tc.peerStream(0, false), 1, 512<<10+1)
		}, FlowControlError},
		"connection limit": {func(tc *testConn) []byte {
			var b []byte
			for i := range uint64(3) {
				b = append(b, streamFrame(tc.peerStream(i, false), 512<<10-1, []byte("x"), false)...)
			}
			return b
		}, FlowControlError},
		// Section 4.6: "An endpoint that receives a frame with a stream ID exceeding the limit
		// it has sent MUST treat this as a connection error of type STREAM_LIMIT_ERROR"
		"101st stream": {func(tc *testConn) []byte {
			return streamFrame(tc.peerStream(100, false), 0, []byte("x"), false)
		}, StreamLimitError},
		"101st unidirectional stream": {func(tc *testConn) []byte {
			return streamFrame(tc.peerStream(100, true), 0, []byte("x"), false)
		}, StreamLimitError},
		"RESET_STREAM for the 101st":        {func(tc *testConn) []byte { return wire.AppendResetStream(nil, tc.peerStream(100, false), 0, 0) }, StreamLimitError},
		"STOP_SENDING for the 101st":        {func(tc *testConn) []byte { return wire.AppendStopSending(nil, tc.peerStream(100, false), 0) }, StreamLimitError},
		"MAX_STREAM_DATA for the 101st":     {func(tc *testConn) []byte { return wire.AppendMaxStreamData(nil, tc.peerStream(100, false), 9) }, StreamLimitError},
		"STREAM_DATA_BLOCKED for the 101st": {func(tc *testConn) []byte { return wire.AppendStreamDataBlocked(nil, tc.peerStream(100, false), 9) }, StreamLimitError},
		// Section 4.5: "If a RESET_STREAM or STREAM frame is received indicating a change in
		// the final size for the stream, an endpoint SHOULD respond with an error of type
		// FINAL_SIZE_ERROR"
		"data beyond FIN": {func(tc *testConn) []byte {
			id := tc.peerStream(0, false)
			return append(streamFrame(id, 0, []byte("abc"), true), streamFrame(id, 3, []byte("d"), false)...)
		}, FinalSizeError},
		"another FIN": {func(tc *testConn) []byte {
			id := tc.peerStream(0, false)
			return append(streamFrame(id, 0, []byte("abc"), true), streamFrame(id, 0, []byte("ab"), true)...)
		}, FinalSizeError},
		"FIN below data": {func(tc *testConn) []byte {
			id := tc.peerStream(0, false)
			return append(streamFrame(id, 10, []byte("abc"), false), streamFrame(id, 0, []byte("ab"), true)...)
		}, FinalSizeError},
		"reset with another size": {func(tc *testConn) []byte {
			id := tc.peerStream(0, false)
			return append(streamFrame(id, 0, []byte("abc"), true), wire.AppendResetStream(nil, id, 0, 4)...)
		}, FinalSizeError},
		"data beyond a reset": {func(tc *testConn) []byte {
			id := tc.peerStream(0, false)
			return append(wire.AppendResetStream(nil, id, 0, 4), streamFrame(id, 3, []byte("zz"), false)...)
		}, FinalSizeError},
		// Section 19.8: "An endpoint MUST terminate the connection with error STREAM_STATE_ERROR if it
		// receives a STREAM frame for a locally initiated stream that has not yet been created,
		// or for a send-only stream."
		"STREAM for a stream never opened":          {func(tc *testConn) []byte { return streamFrame(tc.ownStream(5, false), 0, nil, false) }, StreamStateError},
		"STREAM for our unidirectional stream":      {func(tc *testConn) []byte { return streamFrame(tc.ownStream(0, true), 0, nil, false) }, StreamStateError},
		"RESET_STREAM for ours":                     {func(tc *testConn) []byte { return wire.AppendResetStream(nil, tc.ownStream(0, true), 0, 0) }, StreamStateError},
		"STOP_SENDING for theirs":                   {func(tc *testConn) []byte { return wire.AppendStopSending(nil, tc.peerStream(0, true), 0) }, StreamStateError},
		"STOP_SENDING for a stream never opened":    {func(tc *testConn) []byte { return wire.AppendStopSending(nil, tc.ownStream(5, false), 0) }, StreamStateError},
		"MAX_STREAM_DATA for theirs":                {func(tc *testConn) []byte { return wire.AppendMaxStreamData(nil, tc.peerStream(0, true), 0) }, StreamStateError},
		"MAX_STREAM_DATA for a stream never opened": {func(tc *testConn) []byte { return wire.AppendMaxStreamData(nil, tc.ownStream(5, true), 0) }, StreamStateError},
		"STREAM_DATA_BLOCKED for ours":              {func(tc *testConn) []byte { return wire.AppendStreamDataBlocked(nil, tc.ownStream(0, true), 0) }, StreamStateError},
		// Section 19.11: "Receipt of a frame that permits opening of a stream larger than this
		// limit MUST be treated as a connection error of type FRAME_ENCODING_ERROR."
		"MAX_STREAMS 2^60+1":     {func(*testConn) []byte { return append([]byte{0x12}, wire.AppendVarint(nil, 1<<60+1)...) }, FrameEncodingError},
		"STREAMS_BLOCKED 2^60+1": {func(*testConn) []byte { return append([]byte{0x16}, wire.AppendVarint(nil, 1<<60+1)...) }, FrameEncodingError},
		// Section 19.8 and 19.6: an offset and length beyond 2^62-1
		"STREAM beyond 2^62": {func(tc *testConn) []byte {
			return streamFrame(tc.peerStream(0, false), 1<<62-1, []byte("xx"), false)
		}, FrameEncodingError},
		"CRYPTO beyond 2^62": {func(*testConn) []byte { return cryptoFrame(1<<62-1, []byte("xx")) }, FrameEncodingError},
		// Section 19.3.1: "If any computed packet number is negative, an endpoint MUST generate a
		// connection error of type FRAME_ENCODING_ERROR."
		"ACK range below 0": {func(*testConn) []byte { return []byte{0x02, 5, 0, 0, 6} }, FrameEncodingError},
		"ACK gap below 0":   {func(*testConn) []byte { return []byte{0x02, 5, 0, 1, 1, 9, 0} }, FrameEncodingError},
		"ACK truncated":     {func(*testConn) []byte { return []byte{0x02, 5, 0, 9, 0} }, FrameEncodingError},
		// Section 13.1: "An endpoint SHOULD treat receipt of an acknowledgment for a packet it
		// did not send as a connection error of type PROTOCOL_VIOLATION"
		"ACK of a packet never sent": {func(tc *testConn) []byte { return ackOf(tc.conn.loss.NextPN(recovery.AppData) + 5) }, ProtocolViolation},
		// Section 19.15
		"retire_prior_to above sequence": {func(*testConn) []byte {
			return wire.AppendNewConnectionID(nil, 3, 4, connID("abcdefgh"), [16]byte{1})
		}, FrameEncodingError},
		"connection ID of 0 bytes":  {func(*testConn) []byte { return append([]byte{0x18, 3, 0, 0}, make([]byte, 16)...) }, FrameEncodingError},
		"connection ID of 21 bytes": {func(*testConn) []byte { return append([]byte{0x18, 3, 0, 21}, make([]byte, 37)...) }, FrameEncodingError},
		"sequence number reused": {func(*testConn) []byte {
			b := wire.AppendNewConnectionID(nil, 1, 0, connID("abcdefgh"), [16]byte{1})
			return wire.AppendNewConnectionID(b, 1, 0, connID("ijklmnop"), [16]byte{2})
		}, ProtocolViolation},
		"connection ID reused": {func(*testConn) []byte {
			b := wire.AppendNewConnectionID(nil, 1, 0, connID("abcdefgh"), [16]byte{1})
			return wire.AppendNewConnectionID(b, 2, 0, connID("abcdefgh"), [16]byte{1})
		}, ProtocolViolation},
		// Section 5.1.1: "If an endpoint provides more connection IDs than the peer's
		// active_connection_id_limit [...] CONNECTION_ID_LIMIT_ERROR"
		"5 connection IDs": {func(*testConn) []byte {
			var b []byte
			for i := range uint64(4) {
				b = wire.AppendNewConnectionID(b, i+1, 0, connID(fmt.Sprintf("connid%02d", i)), [16]byte{byte(i)})
			}
			return b
		}, ConnectionIDLimitError},
		// Section 19.16
		"retired an ID never issued":   {func(*testConn) []byte { return wire.AppendRetireConnectionID(nil, 99) }, ProtocolViolation},
		"retired the ID it is sent to": {func(*testConn) []byte { return wire.AppendRetireConnectionID(nil, 0) }, ProtocolViolation},
		"CRYPTO far ahead":             {func(*testConn) []byte { return cryptoFrame(1<<40, []byte("x")) }, CryptoBufferExceeded},
	}
	servers := map[string]struct {
		frame func(tc *testConn) []byte
		code  TransportErrorCode
	}{
		// Section 19.7 and hostile row 31: "A server MUST treat receipt of a NEW_TOKEN frame as a
		// connection error of type PROTOCOL_VIOLATION."
		"NEW_TOKEN": {func(*testConn) []byte { return wire.AppendNewToken(nil, []byte("token")) }, ProtocolViolation},
		// Section 19.20: "A server MUST treat receipt of a HANDSHAKE_DONE frame as a
		// connection error of type PROTOCOL_VIOLATION."
		"HANDSHAKE_DONE": {func(*testConn) []byte { return wire.AppendHandshakeDone(nil) }, ProtocolViolation},
	}
	clients := map[string]struct {
		frame func(tc *testConn) []byte
		code  TransportErrorCode
	}{
		// Section 19.7: "A client MUST treat receipt of a NEW_TOKEN frame with an empty Token
		// field as a connection error of type FRAME_ENCODING_ERROR."
		"NEW_TOKEN without a token": {func(*testConn) []byte { return []byte{0x07, 0} }, FrameEncodingError},
	}
	run := func(name string, server bool, frame func(tc *testConn) []byte, code TransportErrorCode) {
		t.Run(fmt.Sprintf("server=%v/%s", server, name), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var tc *testConn
				if server {
					tc = establishedServer(t, nil)
				} else {
					tc = establishedClient(t, nil)
				}
				if name == "CRYPTO far ahead" && server {
					code = CryptoErrorBase + TransportErrorCode(AlertUnexpectedMessage)
				}
				if name == "retired the ID it is sent to" {
					tc.wantOpen()
				}
				tc.send(wire.Packet1RTT, frame(tc))
				tc.wantClose(code)
			})
		})
	}
	for name, c := range both {
		run(name, true, c.frame, c.code)
		run(name, false, c.frame, c.code)
	}
	for name, c := range servers {
		run(name, true, c.frame, c.code)
	}
	for name, c := range clients {
		run(name, false, c.frame, c.code)
	}
}

// RFC 9000, Section 12.4: "An endpoint MUST treat receipt of a frame in a packet
// type that is not permitted as a connection error of type PROTOCOL_VIOLATION."
func TestFramesInTheWrongPacket(t *testing.T) {
	frames := map[string][]byte{
		"STREAM": streamFrame(0, 0, []byte("x"), false), "MAX_DATA": wire.AppendMaxData(nil, 9), "RESET_STREAM": wire.AppendResetStream(nil, 0, 0, 0),
		"STOP_SENDING": wire.AppendStopSending(nil, 0, 0), "NEW_CONNECTION_ID": wire.AppendNewConnectionID(nil, 1, 0, connID("abcdefgh"), [16]byte{}),
		"RETIRE_CONNECTION_ID": wire.AppendRetireConnectionID(nil, 0), "PATH_CHALLENGE": wire.AppendPathChallenge(nil, [8]byte{}),
		"PATH_RESPONSE": wire.AppendPathResponse(nil, [8]byte{}), "HANDSHAKE_DONE": wire.AppendHandshakeDone(nil),
		"application close": wire.AppendConnectionClose(nil, true, 1, 0, nil), "MAX_STREAMS": wire.AppendMaxStreams(nil, false, 9),
		"DATA_BLOCKED": wire.AppendDataBlocked(nil, 9), "NEW_TOKEN": wire.AppendNewToken(nil, []byte("x")),
	}
	for name, f := range frames {
		for _, typ := range []wire.PacketType{wire.PacketInitial, wire.PacketHandshake} {
			t.Run(fmt.Sprintf("%s in %d", name, typ), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					tc := newTestServer(t, nil)
					tc.startTLS()
					tc.flushCrypto()
					tc.feedTLS()
					tc.send(typ, f)
					tc.wantClose(ProtocolViolation)
				})
			})
		}
	}
}

// RFC 9000, Section 17.2: "An endpoint MUST treat receipt of a packet that has a
// non-zero value for these bits after removing both packet and header protection
// as a connection error of type PROTOCOL_VIOLATION."
func TestReservedBits(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.sendRaw(tc.sealPN(wire.Packet1RTT, tc.spaces[recovery.AppData].next, ping(), func(b []byte) { b[0] |= 0x18 }))
		tc.wantClose(ProtocolViolation)
	})
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		tc.flushCrypto()
		tc.feedTLS()
		tc.sendRaw(tc.sealPN(wire.PacketHandshake, 0, ping(), func(b []byte) { b[0] |= 0x04 }))
		tc.wantClose(ProtocolViolation)
	})
}

func TestAckOfSkippedPacketNumber(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		for range 300 {
			tc.write(s, []byte("x"))
			tc.read()
			tc.queue = nil
			got := tc.spaces[recovery.AppData].got
			if top := got[len(got)-1]; top != uint64(len(got)-1) {
				break // a number was left out
			}
			tc.ack(wire.Packet1RTT)
		}
		sp := &tc.spaces[recovery.AppData]
		seen := map[uint64]bool{}
		for _, pn := range sp.got {
			seen[pn] = true
		}
		for pn := range uint64(sp.largest) {
			if !seen[pn] {
				// RFC 9000, Section 21.4: an ACK of a packet that was never sent is a sign of an optimistic ACK attack
				tc.send(wire.Packet1RTT, ackOf(pn))
				tc.wantClose(ProtocolViolation)
				return
			}
		}
		t.Error("no packet number was skipped in 300 packets")
	})
}

func TestDuplicatePacketsAreIgnored(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		b := tc.build(wire.Packet1RTT, streamFrame(tc.peerStream(0, false), 0, []byte("once"), false))
		before := tc.ep.Stats().Drops["duplicate"]
		for range 5 {
			tc.sendRaw(b)
		}
		// RFC 9000, Section 12.3: "A receiver MUST discard a newly unprotected packet unless it
		// is certain that it has not processed another packet with the same packet number"
		if n := tc.ep.Stats().Drops["duplicate"] - before; n != 4 {
			t.Errorf("%d duplicates were counted", n)
		}
		tc.wantOpen()
	})
}

// A packet that memory does not allow is dropped before it is acknowledged.
func TestOverBudgetIsNotAcknowledged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.OutOfOrder, cfg.StreamWindow, cfg.ConnWindow = 20<<10, 1<<20, 1<<20
		tc := establishedServer(t, cfg)
		var kept, dropped []uint64
		for i := range uint64(40) {
			pn := tc.spaces[recovery.AppData].next
			drops := tc.ep.Stats().Drops["budget"]
			tc.send(wire.Packet1RTT, streamFrame(0, 1+1000*i, pattern(1+1000*i, 1000), false))
			if tc.ep.Stats().Drops["budget"] > drops {
				dropped = append(dropped, pn)
			} else {
				kept = append(kept, pn)
			}
		}
		if len(kept) < 15 || len(dropped) < 15 {
			t.Fatalf("%d kept, %d dropped", len(kept), len(dropped))
		}
		tc.wait(100 * time.Millisecond)
		acked := map[uint64]bool{}
		for _, f := range tc.frames() {
			if f.typ == wire.FrameAck {
				for _, r := range f.ack.Ranges {
					for pn := r.Smallest; pn <= r.Largest; pn++ {
						acked[pn] = true
					}
				}
			}
		}
		for _, pn := range kept {
			if !acked[pn] {
				t.Errorf("packet %d was taken and is not acknowledged", pn)
			}
		}
		for _, pn := range dropped {
			if acked[pn] {
				t.Errorf("packet %d was dropped and is acknowledged", pn)
			}
		}
		if held := tc.conn.Stats().HeldBytes; held > 20<<10 {
			t.Errorf("%d bytes are held", held)
		}
		// the hole is filled, and what was dropped comes again
		s := tc.acceptStream()
		tc.send(wire.Packet1RTT, streamFrame(0, 0, pattern(0, 1), false))
		got := make([]byte, 0, 1<<16)
		buf := make([]byte, 1<<16)
		for i := range uint64(40) {
			tc.send(wire.Packet1RTT, streamFrame(0, 1+1000*i, pattern(1+1000*i, 1000), i == 39))
		}
		for len(got) < 40001 {
			n, err := s.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:n]...)
		}
		if string(got) != string(pattern(0, 40001)) {
			t.Error("bytes differ")
		}
	})
}
