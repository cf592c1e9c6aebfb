package quic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

func TestEstablish(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.wantOpen()
		if !tc.conn.confirmed {
			t.Error("handshake is not confirmed")
		}
		s := tc.openStream()
		tc.write(s, []byte("hello"))
		f := tc.want(wire.FrameStream)
		if string(f.data) != "hello" || f.id != tc.ownStream(0, false) {
			t.Errorf("got %v", f)
		}
	})
}

func TestClientInitialIsPadded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		// RFC 9000, Section 14.1: "A client MUST expand the payload of all UDP
		// datagrams carrying Initial packets to at least the smallest allowed
		// maximum datagram size of 1200 bytes".
		for _, p := range tc.packets() {
			if p.typ != wire.PacketInitial || p.size < 1200 {
				t.Errorf("datagram of %d bytes, packet type %v", p.size, p.typ)
			}
			// RFC 9000, Section 7.2: "This Destination Connection ID MUST be at
			// least 8 bytes in length."
			if p.dst.Len() < 8 {
				t.Errorf("destination connection id of %d bytes", p.dst.Len())
			}
		}
		// the close of a client is padded too
		tc.conn.CloseTransport(NoError, "")
		for _, p := range tc.packets() {
			if p.size < 1200 {
				t.Errorf("closing datagram of %d bytes", p.size)
			}
		}
	})
}

func TestCoalescedHandshake(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.startTLS()
		tc.feedTLS()
		// RFC 9000, Section 12.2: "Receivers MUST be able to process coalesced packets."
		b := tc.build(wire.PacketInitial, tc.ackFrame(recovery.Initial), tc.takeCrypto(recovery.Initial, 1500))
		for n := 0; len(tc.spaces[recovery.Handshake].out) > 0; n++ {
			b = append(b, tc.build(wire.PacketHandshake, tc.takeCrypto(recovery.Handshake, 700))...)
		}
		// RFC 9001, Section 5.7: 1-RTT packets may come before the handshake is complete.
		b = append(b, tc.build(wire.Packet1RTT, ping())...)
		tc.sendRaw(b)
		tc.feedTLS()
		if !tc.tlsDone {
			t.Fatalf("handshake did not end: %v", tc.connErr())
		}
		// RFC 9001, Section 4.9.1: "a client MUST discard Initial keys when it first sends a Handshake packet".
		if !tc.conn.keys[recovery.Initial].dropped {
			t.Error("Initial keys are still there")
		}
		// the early packet was kept and is acknowledged
		tc.wait(30 * time.Millisecond)
		acked := false
		for _, f := range tc.frames() {
			acked = acked || f.typ == wire.FrameAck && f.space == recovery.AppData
		}
		if !acked {
			t.Error("the packet that came before its keys was not acknowledged")
		}
	})
}

func TestClientHelloInPieces(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 0, 1, 3, 2, 2}, {2, 0, 3, 1}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var hello *ClientHelloInfo
				cfg := serverConfig()
				cfg.GetConfigForClient = func(h *ClientHelloInfo) (*Config, error) { hello = h; return serverConfig(), nil }
				tc := newTestServer(t, cfg)
				tc.startTLS()
				ch := tc.spaces[recovery.Initial].out
				tc.spaces[recovery.Initial].out, tc.spaces[recovery.Initial].outOff = nil, uint64(len(ch))
				step := len(ch)/4 + 1
				for _, i := range order {
					// RFC 9000, Section 7: CRYPTO frames may come in any
					// order, overlap and repeat.
					start := max(0, i*step-7)
					tc.send(wire.PacketInitial, cryptoFrame(uint64(start), ch[start:min(len(ch), (i+1)*step)]))
				}
				tc.handshakeRest()
				if hello == nil || hello.ServerName != "localhost" || len(hello.ALPN) != 1 || hello.ALPN[0] != "test" {
					t.Errorf("routing saw %+v", hello)
				}
			})
		})
	}
}

// handshakeRest ends a handshake whose first flight was sent.
func (tc *testConn) handshakeRest() {
	tc.Helper()
	for range 8 {
		tc.feedTLS()
		tc.flushCrypto()
		if tc.tlsErr != nil {
			tc.Fatalf("peer's TLS: %v", tc.tlsErr)
		}
	}
	tc.read()
	if !tc.tlsDone || tc.conn.TLS() == nil {
		tc.Fatalf("the handshake did not end: %v", tc.connErr())
	}
}

func TestClientHelloByteByByte(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		ch := tc.spaces[recovery.Initial].out
		tc.spaces[recovery.Initial].out, tc.spaces[recovery.Initial].outOff = nil, uint64(len(ch))
		var frames []byte
		for i := range ch {
			frames = append(frames, cryptoFrame(uint64(i), ch[i:i+1])...)
			if len(frames) > 1050 || i == len(ch)-1 {
				tc.send(wire.PacketInitial, frames)
				frames = nil
			}
		}
		tc.handshakeRest()
	})
}

func TestTransportParameterErrors(t *testing.T) {
	big := uint64(1 << 60)
	raw := func(tc *testConn, id uint64, value []byte) []byte {
		b := wire.AppendVarint(tc.encodedParams(), id)
		b = wire.AppendVarint(b, uint64(len(value)))
		return append(b, value...)
	}
	vint := func(v uint64) []byte { return wire.AppendVarint(nil, v) }
	both := map[string]func(tc *testConn){
		// RFC 9000, Section 18.2: "Values below 1200 are invalid."
		"max_udp_payload_size 1199": func(tc *testConn) { tc.rawTP = raw(tc, 0x03, vint(1199)) },
		// "Values above 20 are invalid."
		"ack_delay_exponent 21": func(tc *testConn) { tc.rawTP = raw(tc, 0x0a, vint(21)) },
		// "Values of 2^14 or greater are invalid."
		"max_ack_delay 2^14": func(tc *testConn) { tc.rawTP = raw(tc, 0x0b, vint(1<<14)) },
		// "The value of the active_connection_id_limit parameter MUST be at least 2."
		"active_connection_id_limit 1": func(tc *testConn) {
			tc.params.ActiveConnIDLimit = 0
			tc.rawTP = raw(tc, 0x0e, vint(1))
		},
		// Section 4.6: "If a max_streams transport parameter [...] is received with a value greater than 2^60"
		"initial_max_streams_bidi 2^60+1": func(tc *testConn) {
			tc.params.InitialMaxStreamsBidi = 0
			tc.rawTP = raw(tc, 0x08, vint(big+1))
		},
		"initial_max_streams_uni 2^60+1": func(tc *testConn) {
			tc.params.InitialMaxStreamsUni = 0
			tc.rawTP = raw(tc, 0x09, vint(big+1))
		},
		// Section 7.4: "An endpoint MUST NOT send a parameter more than once"
		"duplicate":         func(tc *testConn) { tc.rawTP = raw(tc, 0x04, vint(5)) },
		"duplicate unknown": func(tc *testConn) { tc.rawTP = raw(tc, 0x7a7a, nil); tc.rawTP = raw(tc, 0x7a7a, nil) },
		"truncated":         func(tc *testConn) { tc.rawTP = append(tc.encodedParams(), 0x04, 9, 1) },
		"value with rest":   func(tc *testConn) { tc.rawTP = raw(tc, 0x0b, []byte{25, 0}) },
		// Section 7.3: the absence and the mismatch of connection IDs
		"no initial_source_connection_id":       func(tc *testConn) { tc.params.HasInitialSrc = false },
		"wrong initial_source_connection_id":    func(tc *testConn) { tc.params.InitialSrc = connID("another") },
		"disable_active_migration with a value": func(tc *testConn) { tc.rawTP = raw(tc, 0x0c, []byte{1}) },
	}
	fromClient := map[string]func(tc *testConn){
		// Section 18.2: "A client MUST NOT include any server-only transport parameter"
		"original_destination_connection_id": func(tc *testConn) { tc.rawTP = raw(tc, 0x00, []byte("original")) },
		"stateless_reset_token":              func(tc *testConn) { tc.rawTP = raw(tc, 0x02, make([]byte, 16)) },
		"preferred_address":                  func(tc *testConn) { tc.rawTP = raw(tc, 0x0d, make([]byte, 50)) },
		"retry_source_connection_id":         func(tc *testConn) { tc.rawTP = raw(tc, 0x10, []byte("original")) },
	}
	fromServer := map[string]func(tc *testConn){
		"no original_destination_connection_id":    func(tc *testConn) { tc.params.HasOriginalDst = false },
		"wrong original_destination_connection_id": func(tc *testConn) { tc.params.OriginalDst = connID("whatever") },
		"retry_source_connection_id without Retry": func(tc *testConn) { tc.rawTP = raw(tc, 0x10, []byte("retry")) },
		"stateless_reset_token of 15 bytes":        func(tc *testConn) { tc.rawTP = raw(tc, 0x02, make([]byte, 15)) },
	}
	run := func(name string, server bool, f func(tc *testConn)) {
		t.Run(fmt.Sprintf("server=%v/%s", server, name), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var tc *testConn
				if server {
					tc = newTestServer(t, nil)
				} else {
					tc = newTestClient(t, nil)
				}
				f(tc)
				tc.startTLS()
				for range 4 {
					tc.flushCrypto()
					tc.feedTLS()
				}
				tc.wantClose(TransportParameterError)
			})
		})
	}
	for name, f := range both {
		run(name, true, f)
		run(name, false, f)
	}
	for name, f := range fromClient {
		run(name, true, f)
	}
	for name, f := range fromServer {
		run(name, false, f)
	}
}

func TestUnknownTransportParametersAreIgnored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		// RFC 9000, Section 7.4.2: "An endpoint MUST ignore transport parameters that it does not support."
		tc.rawTP = append(tc.encodedParams(), 0x40, 0x7a, 3, 1, 2, 3)
		tc.establish()
	})
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code TransportErrorCode
	}{
		"alert":             {&AlertError{Alert: AlertUnrecognizedName, Reason: "no such name"}, CryptoErrorBase + 112},
		"transport":         {&TransportError{Code: ConnectionRefused, Reason: "draining"}, ConnectionRefused},
		"any other error":   {errors.New("no route"), CryptoErrorBase + 120},
		"nothing":           {nil, CryptoErrorBase + 120},
		"wrapped alert":     {fmt.Errorf("route: %w", &AlertError{Alert: AlertAccessDenied}), CryptoErrorBase + 49},
		"no ALPN in common": {errALPN, CryptoErrorBase + 120},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cfg := serverConfig()
				cfg.GetConfigForClient = func(*ClientHelloInfo) (*Config, error) {
					if c.err == errALPN {
						other := serverConfig()
						other.NextProtos = []string{"other"}
						return other, nil
					}
					return nil, c.err
				}
				tc := newTestServer(t, cfg)
				tc.startTLS()
				tc.flushCrypto()
				tc.wantClose(c.code)
				select {
				case f := <-tc.ep.Failures():
					if f.Hello == nil || f.Hello.ServerName != "localhost" {
						t.Errorf("failure %+v", f)
					}
				default:
					t.Error("the failed handshake was not reported")
				}
			})
		})
	}
}

var errALPN = errors.New("stands for a Config without the client's ALPN")

func TestHandshakeTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.HandshakeTimeout = 3 * time.Second
		tc := newTestServer(t, cfg)
		tc.startTLS()
		tc.send(wire.PacketInitial, tc.takeCrypto(recovery.Initial, 100))
		tc.read()
		// A peer that trickles does not gain time.
		for range 5 {
			tc.wait(500 * time.Millisecond)
			tc.send(wire.PacketInitial, tc.takeCrypto(recovery.Initial, 10))
		}
		tc.wantOpen()
		tc.wait(501 * time.Millisecond)
		var he *HandshakeTimeoutError
		if err := tc.conn.Err(); !errors.As(err, &he) || !he.Timeout() {
			t.Fatalf("Err() = %v", err)
		}
		if f := tc.want(wire.FrameConnectionClose); f.code != uint64(ConnectionRefused) {
			t.Errorf("closed with %v", f)
		}
		// RFC 9000, Section 10.2.1: "An endpoint SHOULD limit the rate at which it
		// generates packets in the closing state."
		n := 0
		for range 64 {
			tc.send(wire.PacketInitial, ping())
			n += len(tc.packets())
		}
		if n > 8 {
			t.Errorf("%d answers to 64 packets in the closing state", n)
		}
	})
	bubble(t, func(t *testing.T) {
		cfg := clientConfig()
		cfg.HandshakeTimeout = 2 * time.Second
		tc := newTestClient(t, cfg)
		start := time.Now()
		var he *HandshakeTimeoutError
		if err := <-tc.dialed; !errors.As(err, &he) {
			t.Errorf("Dial: %v", err)
		}
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("Dial failed after %v", d)
		}
	})
}

// impatient is TLS that gives up before QUIC does.
type impatient struct {
	Handshaker
	after time.Duration
}

type lateError struct{ error }

func (lateError) Timeout() bool { return true }

func (h impatient) Handshake(req *HandshakeRequest, sink func(HandshakeEvent)) Handshake {
	inner := h.Handshaker.Handshake(req, sink)
	time.AfterFunc(h.after, func() { sink(HandshakeEvent{Kind: EventFailed, Err: lateError{errors.New("late")}}) })
	return inner
}

// Where TLS waits in vain for a peer that never answers, the error is about the
// peer. Where it has answered, it is about TLS.
func TestHandshakeTimeoutOfTLS(t *testing.T) {
	for _, answers := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			cfg := clientConfig()
			cfg.Handshaker = impatient{cfg.Handshaker, 2 * time.Second}
			tc := newTestClient(t, cfg)
			if answers {
				tc.send(wire.PacketInitial, ping())
			}
			err := <-tc.dialed
			var silent *HandshakeTimeoutError
			var failed *HandshakeError
			if errors.As(err, &silent) == answers || errors.As(err, &failed) != answers {
				t.Errorf("the peer answers: %v; Dial: %v", answers, err)
			}
		})
	}
}

// A server's answer is not preceded by an acknowledgment of its own, padded to
// 1200 bytes, that would use up what it may send.
func TestServerFlightIsCompact(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		tc.send(wire.PacketInitial, tc.takeCrypto(recovery.Initial, 1000))
		for _, p := range tc.packets() {
			if p.size >= 1200 {
				t.Errorf("acknowledgment of %d bytes", p.size)
			}
		}
		tc.send(wire.PacketInitial, tc.takeCrypto(recovery.Initial, 1000))
		tc.read()
		if f, ok := find(tc.queue[:1], wire.FrameCrypto); !ok || f.space != recovery.Initial || tc.queue[0].size < 1200 {
			// RFC 9000, Section 14.1: "a server MUST expand the payload of all UDP datagrams carrying
			// ack-eliciting Initial packets"
			t.Errorf("the first packet is %v", tc.queue[0])
		}
		tc.handshakeRest()
	})
}

func TestAmplificationLimitInHandshake(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		for len(tc.spaces[recovery.Initial].out) > 0 {
			tc.send(wire.PacketInitial, tc.takeCrypto(recovery.Initial, 1000))
			tc.read()
			if tc.sent > 3*tc.fed {
				t.Fatalf("sent %d bytes for %d", tc.sent, tc.fed)
			}
		}
		// RFC 9000, Section 8.1: "prior to validating the client address, servers
		// MUST NOT send more than three times as many bytes as the number of bytes
		// they have received", whatever the timers say.
		for range 100 {
			tc.wait(100 * time.Millisecond)
			tc.read()
			if tc.sent > 3*tc.fed {
				t.Fatalf("sent %d bytes for %d", tc.sent, tc.fed)
			}
		}
		if tc.sent == 0 {
			t.Error("nothing was sent at all")
		}
	})
}

// RFC 9002, Section 6.2.2.1: "the client MUST set the PTO timer if the client
// has not received an acknowledgment for any of its Handshake packets and the
// handshake is not confirmed [...], even if there are no packets in flight."
func TestClientBreaksAmplificationDeadlock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.startTLS()
		tc.feedTLS()
		b := tc.build(wire.PacketInitial, tc.ackFrame(recovery.Initial), tc.takeCrypto(recovery.Initial, 1500))
		b = append(b, tc.build(wire.PacketHandshake, tc.takeCrypto(recovery.Handshake, 300))...)
		tc.sendRaw(b)
		tc.packets() // its acknowledgments get lost, and the server may not send more
		tc.wait(3 * time.Second)
		probes := 0
		for _, f := range tc.frames() {
			if f.typ == wire.FramePing && f.space == recovery.Handshake {
				probes++
			}
		}
		if probes == 0 {
			t.Error("the client does not probe: client and server wait for each other")
		}
	})
}

func TestInitialKeysDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		tc.flushCrypto()
		tc.feedTLS()
		// An Initial with PING and a Handshake packet in one datagram: the
		// acknowledgment of the Initial cannot be sent any more, and its timer must
		// not fire again and again.
		b := tc.build(wire.PacketInitial, ping())
		b = append(b, tc.build(wire.PacketHandshake, ping())...)
		tc.sendRaw(b)
		// RFC 9001, Section 4.9.1: "a server MUST discard Initial keys when it
		// first successfully processes a Handshake packet."
		if !tc.conn.keys[recovery.Initial].dropped {
			t.Error("Initial keys are still there")
		}
		tc.handshakeRest()
		tc.wantOpen()
	})
}

func TestEarlyPacketsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		tc.send(wire.PacketInitial, tc.takeCrypto(recovery.Initial, 200))
		tc.feedTLS()
		// Packets without keys are kept, but never many.
		junk := wire.AppendShort(nil, tc.dst, 1, 4, false, false)
		junk = append(junk, make([]byte, 60000)...)
		for range 100 {
			tc.sendRaw(junk)
		}
		n := 0
		for _, e := range tc.conn.ahead {
			n += len(e.data)
		}
		if len(tc.conn.ahead) > maxEarlyPackets || n > 128<<10 {
			t.Errorf("%d packets with %d bytes are kept", len(tc.conn.ahead), n)
		}
		tc.flushCrypto()
		tc.handshakeRest()
		if tc.conn.ahead != nil {
			t.Error("early packets are still there after the handshake")
		}
	})
}

func TestRetryAtClient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		first := tc.frames()
		retry := func(src, token string, odcid wire.ConnID) []byte {
			b := wire.AppendRetry(nil, wire.Version1, tc.dst, connID(src), []byte(token), 5)
			tag := protect.RetryTag(wire.Version1, odcid, b)
			return append(b, tag[:]...)
		}
		// RFC 9000, Section 17.2.5.2: "Clients MUST discard Retry packets that have a
		// Retry Integrity Tag that cannot be validated".
		tc.sendRaw(retry("retry-id", "bad", connID("wrong-id")))
		tc.wantIdle()
		// "A client MUST discard a Retry packet with a zero-length Retry Token field."
		tc.sendRaw(retry("retry-id", "", tc.odcid))
		tc.wantIdle()
		// Section 17.2.5.1: "A client MUST discard a Retry packet that contains a Source Connection ID
		// field that is identical to the Destination Connection ID field of its Initial packet."
		b := wire.AppendRetry(nil, wire.Version1, tc.dst, tc.odcid, []byte("x"), 5)
		tag := protect.RetryTag(wire.Version1, tc.odcid, b)
		tc.sendRaw(append(b, tag[:]...))
		tc.wantIdle()

		tc.params.RetrySrc, tc.params.HasRetrySrc = connID("retry-id"), true
		tc.initialKeys()
		tc.sendRaw(retry("retry-id", "token", tc.odcid))
		again := tc.packets()
		if len(again) == 0 {
			t.Fatal("no answer to Retry")
		}
		var hello, hello2 cryptoStream
		hello.limit, hello2.limit = 1<<16, 1<<16
		for _, f := range first {
			hello.receive(f.off, f.data)
		}
		for _, p := range again {
			// Section 17.2.5.2: the client "includes the token in the Token field of subsequent Initial packets".
			if string(p.token) != "token" || p.dst != connID("retry-id") || p.size < 1200 {
				t.Errorf("Initial with token %q to %v, %d bytes", p.token, p.dst, p.size)
			}
			for _, f := range p.frames {
				// Section 17.2.5.3: "A client MUST NOT reset the packet number for any packet number space"
				if p.pn == 0 {
					t.Error("packet number 0 was used again")
				}
				if f.typ == wire.FrameCrypto {
					hello2.receive(f.off, f.data)
				}
			}
		}
		// Section 17.2.5.3: the client "MUST use the same cryptographic handshake message it included in this packet"
		if !bytes.Equal(hello.ready(), hello2.ready()) {
			t.Error("the ClientHello changed")
		}
		// "A client MUST accept and process at most one Retry packet for each connection attempt."
		tc.sendRaw(retry("other-id", "token2", connID("retry-id")))
		tc.wantIdle()
		tc.peerID = connID("final-id")
		tc.params.InitialSrc = tc.peerID
		for _, p := range again {
			for _, f := range p.frames {
				if f.typ == wire.FrameCrypto {
					tc.spaces[recovery.Initial].in.receive(f.off, f.data)
				}
			}
		}
		tc.establish()
	})
}

func TestRetryAtServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.Retry = RetryAlways
		tc := newTestServer(t, cfg)
		tc.startTLS()
		hello := tc.takeCrypto(recovery.Initial, 1000)
		tc.send(wire.PacketInitial, hello)
		ps := tc.packets()
		if len(ps) != 1 || ps[0].typ != wire.PacketRetry || tc.conn != nil {
			t.Fatalf("got %v, want a Retry and no connection", ps)
		}
		h, err := wire.ParseLong(ps[0].raw)
		if err != nil || !protect.CheckRetryTag(wire.Version1, tc.odcid, ps[0].raw) {
			t.Fatalf("Retry: %v", err)
		}
		// RFC 9000, Section 8.1.2: the server validates the token of the second Initial.
		original := tc.odcid
		tc.token, tc.dst = bytes.Clone(h.Token), h.Src
		tc.initialKeys()
		tc.send(wire.PacketInitial, hello)
		tc.feedTLS()
		tc.establish2()
		if tc.theirs.OriginalDst != original || !tc.theirs.HasRetrySrc || tc.theirs.RetrySrc != h.Src {
			t.Errorf("parameters: original %v, retry %v", tc.theirs.OriginalDst, tc.theirs.RetrySrc)
		}
	})
	// "the server SHOULD immediately close the connection with an INVALID_TOKEN error" for one that is not valid
	for name, f := range map[string]func(tc *testConn, token []byte){
		"changed": func(tc *testConn, token []byte) { token[len(token)-1] ^= 1 },
		"late":    func(tc *testConn, token []byte) { time.Sleep(retryTokenLife + time.Second) },
		"from another address": func(tc *testConn, token []byte) {
			tc.remote = addrPort("10.9.9.9:4000")
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cfg := serverConfig()
				cfg.Retry = RetryAlways
				tc := newTestServer(t, cfg)
				tc.startTLS()
				hello := tc.takeCrypto(recovery.Initial, 1000)
				tc.send(wire.PacketInitial, hello)
				h, err := wire.ParseLong(tc.packets()[0].raw)
				if err != nil {
					t.Fatal(err)
				}
				tc.token, tc.dst = bytes.Clone(h.Token), h.Src
				f(tc, tc.token)
				tc.initialKeys()
				tc.send(wire.PacketInitial, hello)
				if f := tc.want(wire.FrameConnectionClose); f.code != uint64(InvalidToken) || tc.conn != nil {
					t.Errorf("got %v", f)
				}
			})
		})
	}
}

// establish2 ends a handshake whose ClientHello is partly sent.
func (tc *testConn) establish2() {
	tc.Helper()
	tc.flushCrypto()
	tc.handshakeRest()
	tc.want(wire.FrameHandshakeDone)
	tc.settle()
}

func TestVersionNegotiationAtClient(t *testing.T) {
	vn := func(tc *testConn, src wire.ConnID, versions ...wire.Version) []byte {
		return wire.AppendVersionNegotiation(nil, tc.dst.Append(nil), src.Append(nil), versions, 3)
	}
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.packets()
		// RFC 9000, Section 6.2: "A client MUST discard a Version Negotiation packet that
		// lists the QUIC version selected by the client."
		tc.sendRaw(vn(tc, tc.odcid, 0x1234, wire.Version1))
		tc.wantOpen()
		// Section 17.2.1: the Source Connection ID is the client's Destination Connection ID.
		tc.sendRaw(vn(tc, connID("nobody!!"), 0x1234))
		tc.wantOpen()
		tc.sendRaw(vn(tc, tc.odcid, 0x1234, 0x5678))
		var ve *VersionError
		if err := <-tc.dialed; !errors.As(err, &ve) || len(ve.Versions) != 2 {
			t.Errorf("Dial: %v", err)
		}
	})
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.startTLS()
		tc.feedTLS()
		tc.send(wire.PacketInitial, tc.ackFrame(recovery.Initial))
		// Section 6.2: "A client MUST discard any Version Negotiation packet if it has
		// received and successfully processed any other packet".
		tc.sendRaw(vn(tc, tc.odcid, 0x1234))
		tc.wantOpen()
		tc.handshakeRest()
	})
}

func TestVersionNegotiationAtServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		b := tc.build(wire.PacketInitial, ping())
		copy(b[1:], []byte{0x1a, 0x2a, 0x3a, 0x4a})
		tc.sendRaw(b)
		ps := tc.packets()
		if len(ps) != 1 || ps[0].typ != wire.PacketVersionNegotiation {
			t.Fatalf("got %v", ps)
		}
		// RFC 9000, Section 17.2.1: the IDs are exchanged.
		if ps[0].dst != tc.peerID || ps[0].src != tc.odcid {
			t.Errorf("connection ids %v %v", ps[0].dst, ps[0].src)
		}
		// Section 6.1: "A server MUST NOT send more than one Version Negotiation packet
		// in response to a single UDP datagram", 6: none for one that is too small.
		tc.sendRaw(b[:1199])
		tc.wantIdle()
		// Section 6.1: never in answer to Version Negotiation
		b = wire.AppendVersionNegotiation(nil, tc.dst.Append(nil), tc.peerID.Append(nil), []wire.Version{1}, 1)
		tc.sendRaw(append(b, make([]byte, 1200)...))
		tc.wantIdle()
	})
}

func TestManualAdmit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.ManualAdmit = true
		tc := newTestServer(t, cfg)
		tc.handshake()
		c, err := tc.ep.Accept(context.Background())
		if err != nil || c != tc.conn {
			t.Fatalf("Accept: %v, %v", c, err)
		}
		tc.send(wire.Packet1RTT, streamFrame(0, 0, []byte("early"), false))
		tc.wait(time.Second)
		for _, f := range tc.frames() {
			switch f.typ {
			case wire.FrameHandshakeDone, wire.FrameNewConnectionID, wire.FrameNewToken:
				t.Errorf("%v before Admit", f)
			case wire.FrameCrypto:
				if f.space == recovery.AppData {
					t.Error("session ticket before Admit")
				}
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if s, err := c.AcceptStream(ctx); err == nil {
			t.Errorf("stream %d before Admit", s.ID())
		}
		cancel()
		if c.acct.lateMax != 1<<20 {
			t.Errorf("out-of-order cap before Admit is %d", c.acct.lateMax)
		}
		c.Admit()
		done, ticket := false, false
		for _, f := range tc.frames() {
			done = done || f.typ == wire.FrameHandshakeDone
			ticket = ticket || f.typ == wire.FrameCrypto && f.space == recovery.AppData
		}
		if !done || !ticket {
			t.Errorf("after Admit: HANDSHAKE_DONE %v, ticket %v", done, ticket)
		}
		s := tc.acceptStream()
		b := make([]byte, 10)
		if n, err := s.Read(b); string(b[:n]) != "early" {
			t.Errorf("read %q, %v", b[:n], err)
		}
		if c.acct.lateMax != 4<<20 {
			t.Errorf("out-of-order cap after Admit is %d", c.acct.lateMax)
		}
	})
}

func TestAcceptBacklog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.AcceptBacklog = 1
		tc := newTestServer(t, cfg)
		tc.handshake()
		second := newTestConn(t, true)
		second.shared = true
		second.wire, second.ep, second.remote = tc.wire, tc.ep, tc.remote
		second.odcid, second.peerID = connID("original2"), connID("client2")
		second.dst = second.odcid
		second.initialKeys()
		second.params.InitialSrc, second.params.HasInitialSrc = second.peerID, true
		second.tls, tc.tls = tc.tls, nil
		_ = second.tls.Close()
		second.tls = newPeerClient()
		second.startTLS()
		first := tc.conn
		for range 4 {
			second.flushCrypto()
			if second.conn == nil {
				for _, c := range second.ep.Conns() {
					if c != first {
						second.conn = c
					}
				}
			}
			second.feedTLS()
		}
		// RFC 9000, Section 5.2.2: a server that accepts no more answers CONNECTION_REFUSED.
		second.want(wire.FrameConnectionClose)
		var te *TransportError
		if err := second.conn.Err(); !errors.As(err, &te) || te.Code != ConnectionRefused {
			t.Errorf("second connection: %v", err)
		}
		tc.wantOpen()
	})
}

func TestServerIgnoresSmallInitials(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		// RFC 9000, Section 14.1: "A server MUST discard an Initial packet that is
		// carried in a UDP datagram with a payload that is smaller than the smallest
		// allowed maximum datagram size of 1200 bytes."
		tc.sendRaw(tc.sealPacket(wire.PacketInitial, ping()))
		tc.sendRaw(tc.sealPacket(wire.PacketInitial, wire.AppendPadding(nil, 1100)))
		tc.wantIdle()
		if n := len(tc.ep.Conns()); n != 0 {
			t.Errorf("%d connections", n)
		}
		// Section 7.2: the first Destination Connection ID has at least 8 bytes.
		tc.dst = connID("short")
		tc.initialKeys()
		tc.send(wire.PacketInitial, ping())
		if n := len(tc.ep.Conns()); n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestPeerChangesSourceID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.startTLS()
		tc.feedTLS()
		tc.send(wire.PacketInitial, tc.ackFrame(recovery.Initial))
		tc.packets()
		// RFC 9000, Section 7.2: "if subsequent Initial packets include a different
		// Source Connection ID, they MUST be discarded."
		id := tc.peerID
		tc.peerID = connID("other-id")
		tc.send(wire.PacketInitial, ping())
		tc.peerID = id
		tc.wantNone(wire.FrameAck)
		tc.handshakeRest()
	})
}

func TestDialCancelled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newScriptWire(clientAddr)
		ep := NewEndpoint(packetConns(w), nil)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			_, err := ep.Dial(ctx, serverAddr, clientConfig())
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Dial: %v", err)
		}
		_ = ep.Close(context.Background())
		if n := len(ep.Conns()); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}
