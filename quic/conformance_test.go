package quic

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Requirements of the RFCs that no other test shows (docs/conformance.md).

// RFC 9000, Section 3.3: "A sender MUST NOT send a STREAM or STREAM_DATA_BLOCKED
// frame for a stream in the "Reset Sent" state or any terminal state".
func TestNothingAfterReset(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.params.InitialMaxStreamDataBidiRemote = 4
		tc.params.InitialMaxStreamDataBidiLocal = 4
		tc.establish()
		s := tc.openStream()
		s.conn.lock()
		s.snd.buf.write([]byte("more than allowed"))
		s.conn.noteBlocked(s) // as building a packet does
		s.snd.blocked = true
		s.resetSend(7)
		s.conn.unlock()
		tc.want(wire.FrameResetStream)
		tc.wantNone(wire.FrameStreamDataBlocked)
		// A copy that is due again is not sent any more once one was acknowledged.
		s.conn.lock()
		s.snd.needReset = true
		s.conn.ackRecord(recovery.Record{Kind: recReset, ID: s.id})
		s.conn.queueCtrl(s)
		s.conn.unlock()
		tc.wantNone(wire.FrameResetStream)
	})
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		s := tc.openStream()
		tc.write(s, []byte("all"))
		_ = s.CloseWrite()
		tc.packets()
		s.conn.lock()
		s.snd.finLost = true // a probe timeout made it due again
		s.conn.ackStream(s, span{0, 3}, true)
		s.conn.queueSend(s)
		s.conn.unlock()
		tc.wantNone(wire.FrameStream)
	})
}

// RFC 9000, Section 8.2.1: "The endpoint MUST use unpredictable data in every
// PATH_CHALLENGE frame so that it can associate the peer's response with the
// corresponding PATH_CHALLENGE."
func TestChallengesAreFresh(t *testing.T) {
	for answer := range 2 {
		bubble(t, func(t *testing.T) {
			tc := establishedServer(t, nil)
			tc.remote = addrPort("10.0.0.2:5000")
			tc.send(wire.Packet1RTT, ping(), wire.AppendPadding(nil, 1100)) // what may be sent back is enough for several
			first, ok := find(to(tc.packets(), tc.remote), wire.FramePathChallenge)
			if !ok {
				t.Fatal("no PATH_CHALLENGE")
			}
			began := time.Now()
			var second frame
			for range 1000 {
				tc.wait(5 * time.Millisecond)
				if second, ok = find(to(tc.packets(), tc.remote), wire.FramePathChallenge); ok {
					break
				}
			}
			// RFC 9000, Section 9.4: "This timer SHOULD be set as described in Section 6.2.1
			// of [QUIC-RECOVERY] and MUST NOT be more aggressive."
			if d := time.Since(began); d < tc.conn.path.rtt.PTO(0)-6*time.Millisecond {
				t.Errorf("repeated after %v", d)
			}
			if !ok || first.path == second.path {
				t.Fatal("no challenge again, or the same data")
			}
			tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, [][8]byte{first.path, second.path}[answer]))
			if !tc.conn.path.validated {
				t.Errorf("the answer to challenge %d (%x, %x) does not count: %x", answer, first.path, second.path, tc.conn.path.challenges)
			}
		})
	}
}

// RFC 9000, Section 8.2.2: "A PATH_RESPONSE frame MUST be sent on the network
// path where the PATH_CHALLENGE frame was received." For a client, too, that has
// moved meanwhile.
func TestChallengeOnTheOldPath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedClient(t, nil)
		tc.giveIDs(3)
		old, away := clientAddr.Addr(), netip.MustParseAddr("10.0.0.22")
		moved := make(chan error, 1)
		go func() { moved <- tc.conn.Migrate(tc.conn.Context(), away) }()
		ch := tc.want(wire.FramePathChallenge)
		tc.local = away
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, ch.path))
		if err := <-moved; err != nil {
			t.Fatal(err)
		}
		tc.packets()
		for _, at := range []netip.Addr{old, away} {
			tc.local = at
			tc.wire.take()
			tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{1, 2, 3}))
			n := 0
			for _, d := range tc.wire.take() {
				if len(d.data) >= minDatagram || at == old {
					n++
					if d.local != at {
						t.Errorf("a challenge to %v is answered from %v", at, d.local)
					}
				}
			}
			if n == 0 {
				t.Errorf("a challenge to %v is not answered", at)
			}
		}
	})
}

// RFC 9000, Section 9.5: "Similarly, an endpoint MUST NOT reuse a connection ID
// when sending to more than one destination address." A peer that moves on
// purpose and leaves none to use is not followed.
func TestNoMoveWithoutID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.handshake()
		var spare wire.ConnID
		for _, f := range tc.frames() {
			if f.typ == wire.FrameNewConnectionID {
				spare = f.cid
			}
		}
		tc.send(wire.Packet1RTT, ping())
		home, first, away := tc.remote, tc.dst, addrPort("10.0.0.3:4000")
		tc.remote, tc.dst = away, spare
		tc.send(wire.Packet1RTT, ping())
		if len(to(tc.packets(), tc.remote)) > 0 || tc.conn.RemoteAddrPort() != home {
			t.Error("moved with a connection ID that is known from the old path")
		}
		tc.remote, tc.dst = home, first
		tc.giveIDs(2)
		tc.send(wire.Packet1RTT, ping())
		tc.packets()
		tc.remote, tc.dst = away, spare
		tc.send(wire.Packet1RTT, ping())
		ps := to(tc.packets(), away)
		if _, ok := find(ps, wire.FramePathChallenge); !ok {
			t.Fatalf("no challenge: %v", ps)
		}
		for _, p := range ps {
			if p.dst == tc.peerID {
				t.Error("the old connection ID was used")
			}
		}
	})
}

// RFC 9000, Section 9.6.2: "The server MUST send non-probing packets from its
// original address until it receives a non-probing packet from the client at its
// preferred address and until the server has validated the new path."
func TestServerProbesItsPreferredAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.PreferredAddress.IPv4 = addrPort("10.0.0.11:443")
		tc := establishedServer(t, cfg)
		tc.giveIDs(3)
		s := tc.openStream()
		home, preferred := serverAddr.Addr(), cfg.PreferredAddress.IPv4.Addr()
		tc.local = preferred
		tc.send(wire.Packet1RTT, ping())
		// RFC 9000, Section 9.6.2: "The server MUST probe on the path toward the client
		// from its preferred address."
		probes := 0
		for _, d := range tc.wire.out {
			if d.local == preferred {
				probes++
			}
		}
		if probes != 1 {
			t.Fatalf("%d probes from the preferred address", probes)
		}
		ch := tc.want(wire.FramePathChallenge)
		tc.wire.take()
		tc.write(s, []byte("before"))
		for _, d := range tc.wire.take() {
			if d.local == preferred {
				t.Error("data from the preferred address before it was validated")
			}
		}
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, ch.path))
		tc.wire.take()
		tc.write(s, []byte("after"))
		out := tc.wire.take()
		if len(out) == 0 || slices.ContainsFunc(out, func(d datagram) bool { return d.local == home }) {
			t.Errorf("after validation: %d datagrams, from %v", len(out), out)
		}
	})
}

// RFC 9000, Section 9.3.2: "If an endpoint has no state about the last validated
// peer address, it MUST close the connection silently by discarding all
// connection state."
func TestNoAddressLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.remote = addrPort("10.0.0.2:5000")
		tc.send(wire.Packet1RTT, ping())
		tc.conn.lock()
		tc.conn.prev = nil
		tc.conn.unlock()
		tc.packets()
		tc.wait(10 * time.Second)
		var te *TransportError
		if err := tc.conn.Err(); !errors.As(err, &te) || te.Code != NoViablePath {
			t.Errorf("Err() = %v", err)
		}
		for _, f := range tc.frames() {
			if f.typ == wire.FrameConnectionClose {
				t.Error("not silently")
			}
		}
	})
}

// RFC 9000, Section 10.2.1: "To avoid being used for an amplification attack, such
// endpoints MUST limit the cumulative size of packets it sends to three times the
// cumulative size of the packets that are received and attributed to the
// connection."
func TestClosingIsNoAmplifier(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		_ = tc.conn.CloseWithError(1, string(make([]byte, 250)))
		tc.packets()
		tc.wire.take()
		received, sent := 0, 0
		for range 200 {
			b := append([]byte{0x40}, tc.dst.Append(nil)...)
			b = append(b, make([]byte, 12)...) // not authentic: the keys are gone
			tc.sendRaw(b)
			received += len(b)
			for _, d := range tc.wire.take() {
				sent += len(d.data)
			}
			if sent > 3*received {
				t.Fatalf("%d bytes for %d", sent, received)
			}
		}
		if sent == 0 {
			t.Error("no answer at all")
		}
	})
}

// RFC 9000, Section 10.3: "However, endpoints MUST treat any packet ending in a
// valid stateless reset token as a Stateless Reset, as other QUIC versions might
// allow the use of a long header."
func TestResetWithLongHeader(t *testing.T) {
	for _, known := range []bool{true, false} {
		for _, first := range []byte{0xc3, 0x80, 0x03} {
			bubble(t, func(t *testing.T) {
				tc := newTestClient(t, nil)
				token := [16]byte{1, 2, 3, 4, 5}
				tc.params.ResetToken, tc.params.HasResetToken = token, true
				tc.establish()
				b := reset(token, 60)
				b[0] = first
				if known && wire.IsLong(first) {
					binary.BigEndian.PutUint32(b[1:], uint32(Version1))
					b[5] = byte(tc.dst.Len())
					copy(b[6:], tc.dst.Append(nil))
				}
				tc.sendRaw(b)
				var se *StatelessResetError
				if err := tc.conn.Err(); !errors.As(err, &se) {
					t.Errorf("first byte %#x, known %v: %v", first, known, err)
				}
			})
		}
	}
}

// RFC 9000, Section 12.3: "If the packet number for sending reaches 2^62-1, the
// sender MUST close the connection without sending a CONNECTION_CLOSE frame or
// any further packets".
func TestPacketNumbersEnd(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.conn.lock()
		tc.conn.loss.Sent(tc.conn.now(), recovery.AppData, &recovery.SentPacket{PN: 1<<62 - 4, Size: 40})
		tc.conn.app.maxSealed = 1 << 62
		tc.conn.unlock()
		tc.wire.take()
		for range 10 {
			tc.conn.lock()
			tc.conn.ping, tc.conn.dirty = true, true
			tc.conn.unlock()
		}
		if n := len(tc.wire.take()); n == 0 || n > 3 {
			t.Errorf("%d packets after number 2^62-4", n)
		}
		if tc.conn.Err() == nil {
			t.Error("the connection goes on")
		}
		tc.wait(time.Second)
		if n := len(tc.wire.take()); n > 0 {
			t.Errorf("%d packets after the end", n)
		}
	})
}

// RFC 9000, Section 14.2: "If a QUIC endpoint determines that the PMTU between any
// pair of local and remote IP addresses cannot support the smallest allowed
// maximum datagram size of 1200 bytes, it MUST immediately cease sending QUIC
// packets, except for those in PMTU probes or those containing CONNECTION_CLOSE
// frames, on the affected path."
func TestPathBelow1200(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.wire.setRefuse(func(m *udp.SendMsg) error {
			size := m.SegmentSize
			if size == 0 {
				size = len(m.Data)
			}
			if size >= minDatagram {
				return udp.ErrMessageTooLong
			}
			return nil
		})
		s := tc.openStream()
		tc.write(s, make([]byte, 100<<10))
		tc.wait(3 * time.Second)
		var te *TransportError
		if err := tc.conn.Err(); !errors.As(err, &te) || te.Code != NoViablePath || te.Remote {
			t.Errorf("Err() = %v", err)
		}
	})
}

// RFC 9001, Section 4.1.3: "If the packet is from a previously installed encryption
// level, it MUST NOT contain data that extends past the end of previously received
// data in that flow." "When TLS provides keys for a higher encryption level, if
// there is data from a previous encryption level that TLS has not consumed, this
// MUST be treated as a connection error of type PROTOCOL_VIOLATION."
func TestCryptoBehindItsLevel(t *testing.T) {
	t.Run("after the keys", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			tc := newTestServer(t, nil)
			tc.startTLS()
			tc.flushCrypto()
			tc.read()
			tc.wantOpen()
			end := tc.spaces[recovery.Initial].outOff
			tc.send(wire.PacketInitial, cryptoFrame(end-4, []byte("abcd"))) // again
			tc.wantOpen()
			tc.send(wire.PacketInitial, cryptoFrame(end, []byte{1, 0, 0, 0}))
			tc.wantClose(ProtocolViolation)
		})
	})
	t.Run("before the keys", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			tc := newTestServer(t, nil)
			tc.startTLS()
			hello := slices.Clone(tc.spaces[recovery.Initial].out)
			tc.send(wire.PacketInitial, cryptoFrame(uint64(len(hello))+1, []byte("behind")))
			tc.flushCrypto()
			tc.wantClose(ProtocolViolation)
		})
	})
}

// RFC 9001, Section 4.6.1: "A client MUST treat receipt of a NewSessionTicket that
// contains an early_data extension with any other value as a connection error of
// type PROTOCOL_VIOLATION."
func TestTicketEarlyData(t *testing.T) {
	for _, amount := range []uint32{0, 1 << 14, 1<<32 - 1} {
		bubble(t, func(t *testing.T) {
			tc := establishedClient(t, nil)
			body := append(make([]byte, 8), 1, 9, 0, 2, 'i', 'd', 0, 8, 0, 42, 0, 4)
			body = binary.BigEndian.AppendUint32(body, amount)
			tc.send(wire.Packet1RTT, cryptoFrame(0, append([]byte{4, 0, 0, byte(len(body))}, body...)))
			if amount == 1<<32-1 {
				var te *TransportError
				if err := tc.conn.Err(); errors.As(err, &te) && te.Code == ProtocolViolation {
					t.Errorf("refused: %v", err)
				}
				return
			}
			tc.wantClose(ProtocolViolation)
		})
	}
}

// RFC 9001, Section 6.4: "An endpoint that successfully removes protection with old
// keys when newer keys were used for packets with lower packet numbers MUST treat
// this as a connection error of type KEY_UPDATE_ERROR."
func TestOldKeysForNewerPackets(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := &tc.spaces[recovery.AppData]
		old, phase := s.tx, tc.txPhase
		tc.updateKeys()
		tc.send(wire.Packet1RTT, ping())
		tc.wantOpen()
		s.tx, tc.txPhase = old, phase
		tc.send(wire.Packet1RTT, ping())
		tc.wantClose(KeyUpdateError)
	})
}

// RFC 9001, Section 6.6: "Endpoints MUST count the number of encrypted packets for
// each set of keys." Those beside the data, too.
func TestProbesAreCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		before := tc.conn.app.sealed
		n := tc.conn.Stats().PacketsSent
		for i := range 5 {
			tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{byte(i + 1)}))
		}
		tc.packets()
		if got, want := tc.conn.app.sealed-before, tc.conn.Stats().PacketsSent-n; got != want || want < 5 {
			t.Errorf("%d packets sent, %d counted", want, got)
		}
	})
}

// RFC 9001, Section 8.1: "While [ALPN] only specifies that servers use this alert,
// QUIC clients MUST use error 0x0178 to terminate a connection when ALPN
// negotiation fails." "Similarly, a client MUST treat the selection of an
// incompatible application protocol by a server as a connection error of type
// 0x0178."
func TestNoALPN(t *testing.T) {
	for _, offered := range [][]string{nil, {"other"}} {
		bubble(t, func(t *testing.T) {
			cfg := clientConfig()
			cfg.Handshaker = otherALPN{cfg.Handshaker}
			cfg.NextProtos = offered
			tc := newTestClient(t, cfg)
			tc.startTLS()
			for range 4 {
				tc.feedTLS()
				tc.flushCrypto()
			}
			tc.read()
			var te *TransportError
			if err := <-tc.dialed; !errors.As(err, &te) || te.Code != 0x178 {
				t.Errorf("Dial: %v", err)
			}
		})
	}
}

// otherALPN is a client's TLS that offers and takes the protocol "test", whatever
// it was told.
type otherALPN struct{ Handshaker }

func (h otherALPN) Handshake(req *HandshakeRequest, sink func(HandshakeEvent)) Handshake {
	r := *req
	r.NextProtos = []string{"test"}
	return h.Handshaker.Handshake(&r, sink)
}

// RFC 9002, Section 7: "An endpoint MUST NOT send a packet if it would cause
// bytes_in_flight (see Appendix B.2) to be larger than the congestion window".
func TestPathFramesWaitForTheWindow(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		tc.write(s, make([]byte, 64<<10))
		tc.wait(200 * time.Millisecond) // paced: a full window
		tc.conn.lock()
		window := tc.conn.path.cc.Window()
		tc.conn.unlock()
		tc.packets()
		tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{1}))
		tc.conn.lock()
		inFlight := tc.conn.loss.InFlight()
		tc.conn.unlock()
		if inFlight > window && tc.conn.Stats().PTOs == 0 {
			t.Errorf("%d bytes in flight, the window has %d", inFlight, window)
		}
		tc.packets()
		tc.ack(wire.Packet1RTT)
		tc.want(wire.FramePathResponse)
	})
}

// RFC 9000, Section 17.4: "An endpoint that does not support this feature MUST
// disable it, as defined below." "When the spin bit is disabled, endpoints MAY set
// the spin bit to any value and MUST ignore any incoming value."
func TestSpinBit(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		for range 20 {
			b := tc.sealPN(wire.Packet1RTT, tc.spaces[recovery.AppData].next, append(ping(), make([]byte, 20)...), func(hdr []byte) { hdr[0] |= 0x20 })
			tc.sendRaw(b)
			tc.wait(30 * time.Millisecond)
		}
		for _, p := range tc.packets() {
			if wire.Spin(p.raw[0]) {
				t.Error("the spin bit is set")
			}
		}
		tc.wantOpen()
	})
}

// RFC 9001, Section 4.6.2: "When rejecting 0-RTT, a server MUST NOT process any 0-RTT
// packets, even if it could." A client, Section 5.6, "MUST NOT attempt to decrypt
// 0-RTT packets it receives and instead MUST discard them."
func TestZeroRTTIsDropped(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		b, at := wire.AppendLong(nil, wire.Packet0RTT, Version1, tc.dst, tc.peerID, nil, 0, 4)
		wire.SetLength(b, at, 4+60)
		tc.sendRaw(append(b, make([]byte, 60)...))
		if n := tc.ep.Stats().Drops["0rtt"]; n != 1 {
			t.Errorf("%d dropped", n)
		}
		tc.wantOpen()
	})
}

// RFC 9001, Section 4.2: "Clients MUST NOT offer TLS versions older than 1.3." "An
// endpoint MUST terminate the connection if a version of TLS older than 1.3 is
// negotiated."
func TestOldTLS(t *testing.T) {
	h := TLS(&tls.Config{MinVersion: tls.VersionTLS10}).(*localTLS)
	if v := h.clientConfig(&HandshakeRequest{}, &localHandshake{}).MinVersion; v != tls.VersionTLS13 {
		t.Errorf("a client offers %#x", v)
	}
	if v := h.serverConfig(nil).MinVersion; v != tls.VersionTLS13 {
		t.Errorf("a server takes %#x", v)
	}
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		hello, _, err := wire.ParseClientHello(tc.spaces[recovery.Initial].out)
		if err != nil || slices.ContainsFunc(hello.SupportedVersions, func(v uint16) bool { return v < tls.VersionTLS13 }) {
			t.Errorf("versions %x, %v", hello.SupportedVersions, err)
		}
	})
}

// RFC 9000, Section 8.1.3: "A client MUST NOT include a token that is not applicable
// to the server that it is connecting to". Without a name the address tells servers apart.
func TestTokensOfNamelessServers(t *testing.T) {
	store := new(TokenStore)
	one := &Conn{connGuarded: connGuarded{dialAddr: addrPort("10.0.0.1:443"), cfg: &Config{Tokens: store}}}
	other := &Conn{connGuarded: connGuarded{dialAddr: addrPort("10.0.0.9:443"), cfg: &Config{Tokens: store}}}
	store.put(one.tokenServer(), Version1, []byte("one"))
	if b := store.take(other.tokenServer(), Version1); b != nil {
		t.Errorf("a token of another server: %q", b)
	}
	if b := store.take(one.tokenServer(), Version1); string(b) != "one" {
		t.Errorf("took %q", b)
	}
}

// RFC 9000, Section 19.15: "An endpoint that is sending packets with a zero-length
// Destination Connection ID MUST treat receipt of a NEW_CONNECTION_ID frame as a
// connection error of type PROTOCOL_VIOLATION."
func TestZeroLengthIDs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.peerID = wire.ConnID{}
		tc.params.InitialSrc = tc.peerID
		tc.token = []byte("no token of ours") // makes up for the bytes that the ID lacks
		tc.establish()
		tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, 1, 0, connID("abcdefgh"), [16]byte{1}))
		tc.wantClose(ProtocolViolation)
	})
}

// RFC 9369, Section 5: "Clients MUST NOT use a session ticket or token from a QUIC
// version 1 connection to initiate a QUIC version 2 connection, and vice versa."
// "Servers MUST validate the originating version of any session ticket or token and
// not accept one issued from a different version."
func TestTicketsOfAnotherVersion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		keys := &tls.Config{Certificates: []tls.Certificate{testPKI().cert}}
		keys.SetSessionTicketKeys([][32]byte{{1}})
		scfg := serverConfig()
		scfg.Handshaker = TLS(keys)
		sp := newSimPair(t, 1, simnet.Params{Delay: 5 * time.Millisecond}, scfg)
		shared := tls.NewLRUClientSessionCache(4)
		dial := func(cache tls.ClientSessionCache, versions ...Version) bool {
			ccfg := clientConfig()
			ccfg.Versions = versions
			ccfg.Handshaker = TLS(&tls.Config{RootCAs: testPKI().roots, ClientSessionCache: cache})
			c, s := sp.dial(ccfg)
			time.Sleep(time.Second)
			resumed := c.TLS().Resumed && s.TLS().Resumed
			c.CloseTransport(NoError, "")
			time.Sleep(time.Second)
			return resumed
		}
		if dial(shared, Version1) || !dial(shared, Version1) {
			t.Error("version 1 does not resume version 1")
		}
		if dial(shared, Version2) || !dial(shared, Version2) {
			t.Error("version 2 resumes version 1, or not its own")
		}
		// a client that does not care: the server does
		careless := anyKey{tls.NewLRUClientSessionCache(4)}
		dial(careless, Version1)
		if dial(careless, Version2) {
			t.Error("the server takes a ticket of another version")
		}
	})
}

// anyKey is a session cache with one entry.
type anyKey struct{ tls.ClientSessionCache }

func (a anyKey) Get(string) (*tls.ClientSessionState, bool) { return a.ClientSessionCache.Get("") }
func (a anyKey) Put(_ string, s *tls.ClientSessionState)    { a.ClientSessionCache.Put("", s) }
