package quic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Hostile inputs, by the numbers of the list in docs/threat-model.md. Rows
// with tests of their own elsewhere: 4 (path_test.go), 9 (keyupdate_test.go),
// 66 and 68 (hostile_memory_test.go).

// Row 1: an ACK right behind the CRYPTO bytes that complete the handshake, in
// a space that goes away at that moment.
func TestHostile01AckAtDrop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		tc.flushCrypto()
		tc.feedTLS()
		fin := tc.takeCrypto(recovery.Handshake, 5000)
		b := tc.build(wire.PacketInitial, tc.ackFrame(recovery.Initial))
		b = append(b, tc.build(wire.PacketHandshake, fin, tc.ackFrame(recovery.Handshake))...)
		b = append(b, tc.build(wire.PacketHandshake, tc.ackFrame(recovery.Handshake))...)
		b = append(b, tc.build(wire.PacketInitial, tc.ackFrame(recovery.Initial))...)
		tc.sendRaw(b)
		tc.want(wire.FrameHandshakeDone)
		tc.wantOpen()
	})
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.handshake()
		// HANDSHAKE_DONE, and behind it an ACK in the space that goes away with it
		b := tc.build(wire.Packet1RTT, wire.AppendHandshakeDone(nil))
		tc.sendRaw(append(tc.build(wire.PacketHandshake, tc.ackFrame(recovery.Handshake)), b...))
		tc.send(wire.PacketHandshake, tc.ackFrame(recovery.Handshake))
		tc.wantOpen()
	})
}

// Row 2: a flood of PATH_CHALLENGE while no ACK comes back.
func TestHostile02PathChallengeFlood(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		sent := 0
		for i := range 2000 {
			var frames []byte
			for j := range 100 {
				frames = wire.AppendPathChallenge(frames, [8]byte{byte(i), byte(i >> 8), byte(j)})
			}
			tc.send(wire.Packet1RTT, frames)
			sent += len(tc.packets())
		}
		if sent > 4*2000 {
			t.Errorf("%d packets answer 2000 of them", sent)
		}
		tc.conn.lock()
		if n := tc.conn.loss.Tracked(recovery.AppData); n > 4096 {
			t.Errorf("%d packets are remembered", n)
		}
		tc.conn.unlock()
	})
}

// Row 3: NEW_CONNECTION_ID with ever higher retire_prior_to, while the
// RETIRE_CONNECTION_ID frames cannot go out.
func TestHostile03RetireChurn(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.wire.setRefuse(wouldBlock)
		for i := uint64(1); i < 1000; i++ {
			id := connID(fmt.Sprintf("%0*d", tc.peerID.Len(), i))
			tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, i, i, id, [16]byte{byte(i), byte(i >> 8)}))
			if tc.conn.Err() != nil {
				break
			}
			tc.conn.lock()
			if n := len(tc.conn.ids.retire); n > 4*localConnIDLimit {
				t.Errorf("%d retirements wait", n)
			}
			tc.conn.unlock()
		}
		var te *TransportError
		if err := tc.conn.Err(); !errors.As(err, &te) || te.Code != ConnectionIDLimitError {
			t.Errorf("Err() = %v", err)
		}
	})
	// and the other way: a peer that retires what it gets, for ever
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.ManualAdmit = true
		tc := newTestServer(t, cfg)
		tc.odcid = connID("original10") // as long as the server's own: it serves as an ID that is never retired
		tc.dst = tc.odcid
		tc.initialKeys()
		tc.handshake()
		tc.dst = tc.odcid
		for seq := uint64(0); seq < 1<<17 && tc.conn.Err() == nil; {
			var frames []byte
			for range 200 {
				frames = wire.AppendRetireConnectionID(frames, seq)
				seq++
			}
			tc.send(wire.Packet1RTT, frames)
			tc.wire.take()
		}
		if tc.conn.Err() == nil {
			t.Error("a hundred thousand retirements were followed")
		}
	})
}

// Row 5: odd acknowledgments of path challenges and probes.
func TestHostile05OddAcksOfPaths(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.handshake()
		rnd := rand.New(rand.NewPCG(5, 5))
		home := tc.remote
		for i := range 300 {
			tc.remote = netip.AddrPortFrom(home.Addr(), uint16(4000+rnd.IntN(6)))
			tc.send(wire.Packet1RTT, ping())
			tc.read()
			for _, p := range tc.packets() {
				for _, f := range p.frames {
					if f.typ == wire.FramePathChallenge && rnd.IntN(3) == 0 {
						tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, f.path))
					}
				}
				if p.typ == wire.Packet1RTT && rnd.IntN(2) == 0 {
					tc.send(wire.Packet1RTT, ackOf(p.pn))
				}
			}
			if i%7 == 0 {
				tc.wait(time.Duration(rnd.IntN(900)) * time.Millisecond)
			}
			if tc.conn.Err() != nil {
				break
			}
		}
		if err := tc.conn.Err(); err != nil {
			var te *TransportError
			if !errors.As(err, &te) || te.Code != NoViablePath {
				t.Errorf("Err() = %v", err)
			}
		}
	})
}

// Row 6: a client gets HANDSHAKE_DONE too early, beside packets nobody can open.
func TestHostile06EarlyHandshakeDone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.startTLS()
		tc.feedTLS()
		b := tc.build(wire.PacketInitial, tc.ackFrame(recovery.Initial), tc.takeCrypto(recovery.Initial, 1500))
		tc.sendRaw(b)
		// 1-RTT keys of the server exist already; the client's do not
		tc.send(wire.Packet1RTT, wire.AppendHandshakeDone(nil))
		junk := append(wire.AppendShort(nil, tc.dst, 1, 4, false, false), make([]byte, 500)...)
		for range 100 {
			tc.sendRaw(junk)
		}
		for len(tc.spaces[recovery.Handshake].out) > 0 {
			tc.send(wire.PacketHandshake, tc.takeCrypto(recovery.Handshake, 600))
		}
		tc.wantClose(ProtocolViolation)
	})
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.startTLS()
		tc.feedTLS()
		tc.send(wire.PacketInitial, tc.ackFrame(recovery.Initial), wire.AppendHandshakeDone(nil))
		tc.wantClose(ProtocolViolation)
	})
}

// Row 8: TLS messages after the handshake, without an end.
func TestHostile08PostHandshakeCrypto(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedClient(t, nil)
		off := tc.spaces[recovery.AppData].outOff
		// a ticket of 16 MiB that never becomes whole
		tc.send(wire.Packet1RTT, cryptoFrame(off, []byte{4, 0xff, 0xff, 0xff}))
		off += 4
		sent := 0
		for tc.conn.Err() == nil && sent < 1<<20 {
			tc.send(wire.Packet1RTT, cryptoFrame(off, make([]byte, 1000)))
			off += 1000
			sent += 1000
		}
		if sent > 65<<10 {
			t.Errorf("%d bytes were taken", sent)
		}
		tc.wantClose(CryptoBufferExceeded)
	})
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.send(wire.Packet1RTT, cryptoFrame(0, []byte{4}))
		tc.wantClose(CryptoErrorBase + TransportErrorCode(AlertUnexpectedMessage))
	})
}

// Row 15: every stream the limit allows, each with one slow byte.
func TestHostile15SlowStreams(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		for i := range uint64(100) {
			tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(i, false), 0, []byte("x"), false))
		}
		tc.wait(time.Second)
		if n, held := len(tc.conn.streams.all), tc.conn.Stats().HeldBytes; n != 100 || held > 100*recvBlockSize {
			t.Errorf("%d streams hold %d bytes", n, held)
		}
		tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(100, false), 0, []byte("x"), false))
		tc.wantClose(StreamLimitError)
	})
}

// Row 17: fragments with gaps, in the order that costs most.
func TestHostile17Fragments(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		n := 0
		for i := 500<<10 - 2; i > 0 && n < 300; n++ {
			var frames []byte
			for len(frames) < 1100 && i > 0 {
				frames = append(frames, streamFrame(0, uint64(i), []byte("x"), false)...)
				i -= 2
			}
			tc.send(wire.Packet1RTT, frames)
			tc.wire.take()
		}
		tc.wantOpen()
		tc.conn.lock()
		defer tc.conn.unlock()
		for _, s := range tc.conn.streams.all {
			if len(s.rcv.buf.late) > maxPieces {
				t.Errorf("%d pieces", len(s.rcv.buf.late))
			}
		}
		if tc.conn.acct.late > 4<<20 {
			t.Errorf("%d bytes late", tc.conn.acct.late)
		}
	})
}

// Row 18: transport parameters, huge and random. The table of single faults is
// TestTransportParameterErrors.
func TestHostile18TransportParameters(t *testing.T) {
	rnd := rand.New(rand.NewPCG(18, 18))
	for i := range 40 {
		bubble(t, func(t *testing.T) {
			tc := newTestServer(t, nil)
			good := tc.encodedParams()
			raw := bytes.Clone(good)
			switch i % 4 {
			case 0:
				raw = make([]byte, rnd.IntN(8000))
				for j := range raw {
					raw[j] = byte(rnd.Uint32())
				}
			case 1:
				raw = good[:rnd.IntN(len(good))]
			case 2:
				raw[rnd.IntN(len(raw))] ^= byte(1 + rnd.IntN(255))
			case 3:
				for range 500 {
					raw = wire.AppendVarint(raw, 1<<20+rnd.Uint64N(1<<40))
					raw = append(raw, 0)
				}
			}
			tc.rawTP = raw
			if len(raw) == 0 {
				tc.rawTP = []byte{}
			}
			tc.startTLS()
			for range 3 {
				tc.flushCrypto()
				tc.feedTLS()
			}
			err := tc.connErr()
			var te *TransportError
			if err != nil && (!errors.As(err, &te) || te.Code != TransportParameterError) {
				t.Errorf("case %d: %v", i, err)
			}
		})
	}
}

// Rows 11 and 21: control characters in what a peer names, with a logger that writes lines.
func TestHostile21LogsAreEscaped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var b lockedBuffer
		cfg := serverConfig()
		cfg.Logger = slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
		tc := newTestServer(t, cfg)
		tc.establish()
		tc.send(wire.Packet1RTT, wire.AppendConnectionClose(nil, true, 1, 0, []byte("line\nfake level=ERROR \x1b[31m\x00")))
		tc.wait(time.Second)
		if s := b.String(); !strings.Contains(s, "connection closed") || strings.Contains(s, "\x1b") || strings.Contains(s, "\nfake") {
			t.Errorf("log: %q", s)
		}
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Row 22: lengths that say more than is there.
func TestHostile22Truncated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		whole := tc.build(wire.PacketInitial, ping())
		pad := make([]byte, 1200)
		for n := range 60 {
			b := append(bytes.Clone(whole[:n]), pad...)
			for j := n; j < len(b); j++ {
				b[j] = 0xff // every varint is as long as can be
			}
			tc.sendRaw(b)
			tc.sendRaw(whole[:n])
		}
		tc.wait(time.Second)
		if n := len(tc.ep.Conns()); n != 0 {
			t.Errorf("%d connections", n)
		}
	})
	// malformed frames, every truncation of each
	frames := [][]byte{
		wire.AppendResetStream(nil, 1<<20, 1<<20, 1<<20), wire.AppendStopSending(nil, 1<<20, 1<<20), cryptoFrame(1<<20, []byte("abc")),
		streamFrame(1<<20, 1<<20, []byte("abc"), true), wire.AppendMaxData(nil, 1<<40), wire.AppendMaxStreamData(nil, 4, 1<<40),
		wire.AppendNewConnectionID(nil, 1, 0, connID("abcdefgh"), [16]byte{}), wire.AppendPathChallenge(nil, [8]byte{}), wire.AppendPathResponse(nil, [8]byte{}),
		wire.AppendConnectionClose(nil, false, 1<<20, 1<<20, []byte("reason")), ackOf(1, 5, 9, 100),
	}
	for _, f := range frames {
		for n := 1; n < len(f); n++ {
			bubble(t, func(t *testing.T) {
				tc := establishedServer(t, nil)
				tc.send(wire.Packet1RTT, f[:n])
				tc.wantClose(FrameEncodingError)
			})
		}
	}
}

// Row 23: acknowledgments of what was never sent, or left out on purpose. See
// also TestAckOfSkippedPacketNumber.
func TestHostile23AckUnsent(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.send(wire.Packet1RTT, wire.AppendAck(nil, []wire.AckRange{{Smallest: 0, Largest: 1 << 40}}, 0, nil, 1000))
		tc.wantClose(ProtocolViolation)
	})
}

// Row 24: retiring the ID in use from several addresses.
func TestHostile24RetireAcrossPaths(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.handshake()
		ids := []wire.ConnID{tc.dst}
		for _, f := range tc.frames() {
			if f.typ == wire.FrameNewConnectionID {
				ids = append(ids, f.cid)
			}
		}
		home := tc.remote
		for i := range uint64(3) {
			tc.remote = netip.AddrPortFrom(home.Addr(), uint16(6000+i))
			tc.dst = ids[i+1]
			tc.send(wire.Packet1RTT, wire.AppendRetireConnectionID(nil, i))
		}
		tc.wait(100 * time.Millisecond)
		tc.wantOpen()
		tc.send(wire.Packet1RTT, wire.AppendRetireConnectionID(nil, 3))
		tc.wantClose(ProtocolViolation)
	})
}

// Row 25: CRYPTO at huge offsets before anything is known of the peer.
func TestHostile25CryptoOffsets(t *testing.T) {
	for _, off := range []uint64{16<<10 + 1, 1 << 20, 1 << 40, 1<<62 - 100} {
		bubble(t, func(t *testing.T) {
			tc := newTestServer(t, nil)
			tc.startTLS()
			tc.send(wire.PacketInitial, cryptoFrame(off, []byte("x")))
			tc.wantClose(CryptoBufferExceeded)
		})
	}
}

// Row 26: coalesced packets with other connection IDs, before the handshake.
func TestHostile26CoalescedJunk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		first := tc.takeCrypto(recovery.Initial, 300)
		tc.send(wire.PacketInitial, first)
		tc.read()
		good := tc.dst
		for i := range 300 {
			tc.dst = good
			b := tc.sealPacket(wire.PacketInitial, ping())
			for j := range 10 {
				tc.dst = connID(fmt.Sprintf("junk%04d%02d", i, j))
				b = append(b, tc.sealPacket(wire.PacketInitial, wire.AppendPadding(nil, 100))...)
			}
			tc.sendRaw(b)
			tc.wire.take()
		}
		tc.dst = good
		if n, early := len(tc.ep.Conns()), len(tc.conn.ahead); n != 1 || early != 0 {
			t.Errorf("%d connections, %d packets kept", n, early)
		}
		tc.ep.mu.RLock()
		ids := len(tc.ep.conns)
		tc.ep.mu.RUnlock()
		if ids > 4 {
			t.Errorf("%d connection ids are registered", ids)
		}
		// a short header packet behind an Initial must have its ID too
		other := connID("0123456789")
		b := tc.build(wire.PacketInitial, ping())
		b = append(b, append(wire.AppendShort(nil, other, 1, 4, false, false), make([]byte, 50)...)...)
		tc.sendRaw(b)
		if n := len(tc.conn.ahead); n != 0 {
			t.Errorf("%d packets for another connection were kept", n)
		}
	})
}

// Row 29: packets that only ever hold ACKs are forgotten, for hours.
func TestHostile29AckOnly(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		for range 20000 {
			tc.send(wire.Packet1RTT, ping(), ping())
			tc.send(wire.Packet1RTT, ping())
			tc.wire.take() // nothing is acknowledged, ever
		}
		tc.conn.lock()
		if n := tc.conn.loss.Tracked(recovery.AppData); n > 5000 {
			t.Errorf("%d packets are remembered", n)
		}
		tc.conn.unlock()
		tc.wantOpen()
	})
}

// Row 30: empty datagrams.
func TestHostile30EmptyDatagrams(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		for range 1000 {
			tc.wire.in <- datagram{remote: tc.remote}
		}
		tc.wait(time.Second)
		tc.wantOpen()
	})
}

// Row 31: STOP_SENDING and STREAM frames race; NEW_TOKEN at a server is in
// TestFrameErrors, short tokens in TestRetryToken.
func TestHostile31StopSendingRaces(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		rnd := rand.New(rand.NewPCG(31, 31))
		for i := range uint64(100) {
			id := tc.peerStream(i%50, false)
			var frames []byte
			for range 6 {
				switch rnd.IntN(4) {
				case 0:
					frames = wire.AppendStopSending(frames, id, 1)
				case 1:
					frames = append(frames, streamFrame(id, 0, []byte("abc"), false)...)
				case 2:
					frames = wire.AppendMaxStreamData(frames, id, 1<<20)
				case 3:
					frames = wire.AppendResetStream(frames, id, 1, 3)
				}
			}
			tc.send(wire.Packet1RTT, frames)
			if rnd.IntN(2) == 0 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
				if s, err := tc.conn.AcceptStream(ctx); err == nil {
					_, _ = s.Write([]byte("answer"))
					_ = s.SetReadDeadline(time.Now().Add(time.Millisecond))
					_, _ = io.ReadAll(s)
					_ = s.Close()
				}
				cancel()
			}
			tc.settle()
		}
		tc.wantOpen()
	})
}

// Row 32: connection IDs beyond 20 bytes (wrong reset tokens: TestStatelessResetReceived).
func TestHostile32LongConnectionIDs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		for n := 21; n < 256; n += 13 {
			b := append([]byte{0xc3, 0, 0, 0, 1, byte(n)}, make([]byte, n)...)
			b = append(append(b, byte(n)), make([]byte, 1300)...)
			tc.sendRaw(b)
		}
		tc.wantIdle()
		if n := len(tc.ep.Conns()); n != 0 {
			t.Errorf("%d connections", n)
		}
		// RFC 8999 allows them in other versions: Version Negotiation echoes them
		b := append([]byte{0xc3, 0x5a, 0x6a, 0x7a, 0x8a, 100}, make([]byte, 100)...)
		b = append(append(b, 200), make([]byte, 1300)...)
		tc.sendRaw(b)
		if ps := tc.wire.take(); len(ps) != 1 || ps[0].data[5] != 200 {
			t.Errorf("%d answers", len(ps))
		}
	})
}

// Row 33: a storm of moves between many addresses.
func TestHostile33PathStorm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		s := tc.openStream()
		go s.Write(pattern(0, 1<<20))
		home := tc.remote
		for i := range 2000 {
			tc.remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 99)
			tc.send(wire.Packet1RTT, ping())
			tc.wire.take()
		}
		tc.remote = home
		tc.send(wire.Packet1RTT, ping())
		tc.wantOpen()
		if tc.conn.RemoteAddrPort() != home {
			t.Errorf("address is %v", tc.conn.RemoteAddrPort())
		}
		tc.conn.CloseTransport(NoError, "")
	})
}

// Row 35: no more than three times what came, from an address that never answers. Also
// TestAmplificationLimitInHandshake, which runs with the timers.
func TestHostile35Amplification(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		// 1200 bytes that hold half a ClientHello, then junk at the same connection
		tc.send(wire.PacketInitial, tc.takeCrypto(recovery.Initial, 1000))
		for range 50 {
			tc.sendRaw(append([]byte{0xc0, 0, 0, 0, 1, 8}, make([]byte, 30)...))
			tc.wait(200 * time.Millisecond)
			tc.read()
			if tc.sent > 3*tc.fed {
				t.Fatalf("%d bytes for %d", tc.sent, tc.fed)
			}
		}
	})
}

// Row 36: a server's preferred address is not gone to, so that nobody can be
// made to send to a victim.
func TestHostile36PreferredAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.params.PreferredAddress = &wire.PreferredAddress{
			IPv4: addrPort("127.0.0.1:22"), ID: connID("preferred"), ResetToken: [16]byte{1},
		}
		tc.establish()
		s := tc.openStream()
		tc.write(s, []byte("x"))
		tc.wait(time.Second)
		for _, p := range tc.packets() {
			if p.remote != serverAddr {
				t.Errorf("sent to %v", p.remote)
			}
		}
	})
}

// Row 37: a handshake that trickles. TestHandshakeTimeout has the timing.
func TestHostile37Slowloris(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		start := time.Now()
		for tc.conn == nil || tc.conn.Err() == nil {
			tc.send(wire.PacketInitial, tc.takeCrypto(recovery.Initial, 20))
			tc.read()
			tc.wait(400 * time.Millisecond)
		}
		if d := time.Since(start); d > 11*time.Second {
			t.Errorf("ended after %v", d)
		}
		if n := tc.ep.Stats().Handshaking; n != 0 {
			t.Errorf("%d handshakes are still counted", n)
		}
	})
}

// Row 38: floods of tiny frames cost bounded time and memory.
func TestHostile38TinyFrames(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		var pings, maxes, blocked []byte
		for len(pings) < 1200 {
			pings = wire.AppendPing(pings)
		}
		for v := uint64(1 << 30); len(maxes) < 1190; v++ {
			maxes = wire.AppendMaxData(maxes, v)
			blocked = wire.AppendDataBlocked(blocked, v)
		}
		sent := 0
		for i := range 1000 {
			tc.send(wire.Packet1RTT, [][]byte{pings, maxes, blocked}[i%3])
			sent += len(tc.wire.take())
		}
		if sent > 1000 {
			t.Errorf("%d packets answer 1000", sent)
		}
		tc.wantOpen()
	})
}

// Row 39: open and reset, as fast as can be. Streams come back only when the
// application has seen how they ended, so the application sets the rate.
func TestHostile39RapidReset(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.MaxStreamsBidi = 10
		tc := establishedServer(t, cfg)
		opened := uint64(0)
		for ; opened < 10; opened++ {
			id := tc.peerStream(opened, false)
			tc.send(wire.Packet1RTT, streamFrame(id, 0, []byte("x"), false), wire.AppendResetStream(nil, id, 1, 1), wire.AppendStopSending(nil, id, 1))
		}
		tc.wait(time.Second)
		for _, f := range tc.frames() {
			if f.typ == wire.FrameMaxStreamsBidi {
				t.Errorf("%v while nobody has taken the streams", f)
			}
		}
		if n := len(tc.conn.streams.all); n != 10 {
			t.Errorf("%d streams", n)
		}
		tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(opened, false), 0, []byte("x"), false))
		tc.wantClose(StreamLimitError)
	})
}

// Row 40: ECN counts that make no sense: marking ends, the connection does not.
func TestHostile40ECNLies(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		for i := range uint64(50) {
			tc.write(s, []byte("x"))
			tc.read()
			tc.queue = nil
			got := tc.spaces[recovery.AppData].got
			top := got[len(got)-1]
			counts := [3]uint64{i * 7 % 5, i, 50 - i}
			tc.send(wire.Packet1RTT, wire.AppendAck(nil, []wire.AckRange{{Smallest: top, Largest: top}}, 0, &counts, 1000))
			tc.wait(10 * time.Millisecond)
		}
		tc.wantOpen()
		if st := tc.conn.Stats(); st.CongestionWindow < 2*1200 || st.ECN != "failed" {
			t.Errorf("congestion window %d, ECN %s", st.CongestionWindow, st.ECN)
		}
		tc.packets()
		tc.write(s, []byte("x"))
		for _, p := range tc.packets() {
			if p.ecn != udp.NotECT {
				t.Error("marked after a lie was found out")
			}
		}
	})
	// CE on every packet that arrives is reported, at once
	either(t, func(t *testing.T, tc *testConn) {
		tc.wire.in <- datagram{data: tc.build(wire.Packet1RTT, ping()), remote: tc.remote, ecn: 3}
		if f := tc.want(wire.FrameAckECN); f.ack.CE != 1 {
			t.Errorf("reported %d CE", f.ack.CE)
		}
	})
}

// Row 41: a reset key shared by two endpoints does not reveal live connections of the other.
func TestHostile41ResetOracle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		// packets that cannot be opened, at a live connection's ID: no answer at all
		for range 50 {
			b := tc.build(wire.Packet1RTT, wire.AppendPadding(nil, 100))
			b[len(b)-1] ^= 1
			tc.sendRaw(b)
		}
		if out := tc.wire.take(); len(out) != 0 {
			t.Errorf("%d answers", len(out))
		}
		tc.wantOpen()
	})
}

// Row 42: forged Version Negotiation, before and after the first answer; the
// rules have tests in TestVersionNegotiationAtClient. Here: in an established connection.
func TestHostile42ForgedVersionNegotiation(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		for _, id := range []wire.ConnID{tc.odcid, tc.peerID, tc.dst} {
			tc.sendRaw(wire.AppendVersionNegotiation(nil, tc.dst.Append(nil), id.Append(nil), []wire.Version{0x6a6a6a6a}, 1))
		}
		b := wire.AppendRetry(nil, wire.Version1, tc.dst, connID("elsewhere"), []byte("token"), 1)
		tc.sendRaw(append(b, make([]byte, 16)...))
		tc.wait(time.Second)
		tc.wantOpen()
	})
}
