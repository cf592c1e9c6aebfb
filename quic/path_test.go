package quic

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// to returns the packets that went to an address.
func to(ps []packet, a netip.AddrPort) (out []packet) {
	for _, p := range ps {
		if p.remote == a {
			out = append(out, p)
		}
	}
	return out
}

func find(ps []packet, typ uint64) (frame, bool) {
	for _, p := range ps {
		for _, f := range p.frames {
			if f.typ == typ {
				f.packet = &p
				return f, true
			}
		}
	}
	return frame{}, false
}

func TestRebinding(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		old, rebound := tc.remote, addrPort("10.0.0.2:5000")
		tc.remote = rebound
		tc.send(wire.Packet1RTT, ping())
		ps := tc.packets()
		// RFC 9000, Section 9: "An endpoint MUST perform path
		// validation (Section 8.2) if it detects any change to a peer's
		// address"
		ch, ok := find(to(ps, rebound), wire.FramePathChallenge)
		if !ok {
			t.Fatalf("no PATH_CHALLENGE to the new address: %v", ps)
		}
		// until then the old address counts for who asks
		if got := tc.conn.RemoteAddrPort(); got != old {
			t.Errorf("RemoteAddr is %v before validation", got)
		}
		// Section 8.2.2: a response with other data does not validate
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, [8]byte{1, 2, 3}))
		if tc.conn.path.validated {
			t.Fatal("validated by any response")
		}
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, ch.path))
		if got := tc.conn.RemoteAddrPort(); got != rebound || !tc.conn.path.validated {
			t.Errorf("RemoteAddr is %v after validation", got)
		}
		tc.settle()
		s := tc.openStream()
		tc.write(s, []byte("here"))
		if f := tc.want(wire.FrameStream); f.packet.remote != rebound {
			t.Errorf("data went to %v", f.packet.remote)
		}
	})
}

// RFC 9000, Section 9.3.2: "an endpoint MUST revert to using the last validated
// peer address when validation of a new peer address fails."
func TestRebindingFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		old, victim := tc.remote, addrPort("10.6.6.6:666")
		tc.remote = victim
		tc.send(wire.Packet1RTT, ping())
		tc.wait(20 * time.Second)
		tc.read()
		tc.wantOpen()
		if tc.conn.path.remote != old || !tc.conn.path.validated {
			t.Errorf("path is %v", tc.conn.path.remote)
		}
		tc.remote = old
		tc.settle()
		s := tc.openStream()
		tc.write(s, []byte("back"))
		if f := tc.want(wire.FrameStream); f.packet.remote != old {
			t.Errorf("data went to %v", f.packet.remote)
		}
	})
}

// RFC 9000, Section 8: "after receiving packets from an address that is not yet
// validated, an endpoint MUST limit the amount of data it sends to the
// unvalidated address to three times the amount of data received from that
// address."
func TestPathAmplification(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		s := tc.openStream()
		go s.Write(pattern(0, 1<<20))
		tc.read()
		tc.settle()
		victim := addrPort("10.6.6.6:666")
		tc.remote = victim
		fed := 0
		b := tc.build(wire.Packet1RTT, ping())
		tc.sendRaw(b)
		fed += len(b)
		sent := 0
		for range 200 {
			for _, p := range tc.packets() {
				if p.remote == victim {
					sent += p.length
				}
			}
			if sent > 3*fed {
				t.Fatalf("%d bytes to an unproven address for %d", sent, fed)
			}
			tc.wait(5 * time.Millisecond)
		}
		tc.conn.CloseTransport(NoError, "")
	})
}

// RFC 9000, Section 9.3.3: "In response to an apparent migration, endpoints MUST validate the
// previously active path using a PATH_CHALLENGE frame."
func TestOldPathIsProbed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		old := tc.remote
		// An attacker forwards a packet from an address of its own.
		tc.remote = addrPort("10.6.6.6:666")
		tc.send(wire.Packet1RTT, ping())
		ch, ok := find(to(tc.packets(), old), wire.FramePathChallenge)
		if !ok {
			t.Fatal("no PATH_CHALLENGE to the old address")
		}
		// The client is where it was, and answers.
		tc.remote = old
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, ch.path), tc.ackFrame(recovery.AppData))
		if tc.conn.path.remote != old || !tc.conn.path.validated {
			t.Errorf("path is %v", tc.conn.path.remote)
		}
	})
}

// RFC 9000, Section 9.3: "An endpoint only changes the address to which it sends packets in
// response to the highest-numbered non-probing packet."
func TestNoMoveForOldOrProbing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.giveIDs(1)
		late := tc.build(wire.Packet1RTT, ping())
		tc.send(wire.Packet1RTT, ping())
		old := tc.remote
		tc.remote = addrPort("10.0.0.2:5000")
		tc.sendRaw(late)
		if tc.conn.path.remote != old {
			t.Error("moved for a packet that came late")
		}
		tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{7}), wire.AppendPadding(nil, 1200))
		if tc.conn.path.remote != old {
			t.Error("moved for a probing packet")
		}
		// Section 8.2.2: "An endpoint MUST respond to each PATH_CHALLENGE", on the path it came by
		f, ok := find(to(tc.packets(), tc.remote), wire.FramePathResponse)
		if !ok || f.path != [8]byte{7} {
			t.Errorf("no PATH_RESPONSE to the probing address")
		}
	})
}

// RFC 9000, Section 9: "If a client receives packets from an unknown server address,
// the client MUST discard these packets."
func TestClientKeepsToItsServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedClient(t, nil)
		tc.wait(100 * time.Millisecond)
		tc.settle()
		tc.remote = addrPort("10.6.6.6:443")
		tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(0, false), 0, []byte("x"), false))
		tc.wait(100 * time.Millisecond)
		tc.wantIdle()
		if n := len(tc.conn.streams.all); n != 0 {
			t.Errorf("%d streams", n)
		}
	})
}

func TestPathChallengeAnswered(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{1, 2, 3, 4, 5, 6, 7, 8}))
		f := tc.want(wire.FramePathResponse)
		if f.path != [8]byte{1, 2, 3, 4, 5, 6, 7, 8} {
			t.Errorf("got %v", f.path)
		}
		// Section 8.2.2: "An endpoint MUST expand datagrams that contain a PATH_RESPONSE frame to at
		// least the smallest allowed maximum datagram size of 1200 bytes."
		if f.packet.size < 1200 {
			t.Errorf("datagram of %d bytes", f.packet.size)
		}
	})
}

func TestMTUProbe(t *testing.T) {
	for _, role := range []string{"server", "client"} {
		t.Run(role, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var tc *testConn
				if role == "server" {
					tc = newTestServer(t, nil)
				} else {
					tc = newTestClient(t, nil)
				}
				tc.handshake()
				if role == "client" {
					tc.send(wire.Packet1RTT, wire.AppendHandshakeDone(nil))
				}
				probe := func() (pn uint64) {
					t.Helper()
					for range 100 {
						for _, p := range tc.packets() {
							if p.size > 1200 && p.typ == wire.Packet1RTT {
								if p.size != defaultMaxDatagram {
									t.Errorf("probe of %d bytes", p.size)
								}
								return p.pn
							}
						}
						tc.wait(20 * time.Millisecond)
						// all but the probe arrives
						var rest []uint64
						rest = append(rest, tc.spaces[recovery.AppData].got...)
						if len(rest) > 0 {
							tc.send(wire.Packet1RTT, ackOf(rest...))
						}
					}
					t.Fatal("no probe")
					return 0
				}
				pn := probe()
				if m := tc.conn.Stats().MTU; m != 1200 {
					t.Errorf("MTU %d before the probe arrived", m)
				}
				// RFC 8899, Section 5.2: the size is used once the probe is acknowledged
				tc.send(wire.Packet1RTT, ackOf(pn))
				if m := tc.conn.Stats().MTU; m != defaultMaxDatagram {
					t.Errorf("MTU %d after the probe arrived", m)
				}
				// a black hole: larger datagrams vanish, and 1200 bytes are used again
				tc.settle()
				s := tc.openStream()
				tc.write(s, pattern(0, 10000))
				tc.packets()
				tc.wait(10 * time.Second)
				var small []frame
				for _, p := range tc.packets() {
					if p.size <= 1200 {
						small = append(small, p.frames...)
					}
				}
				if st := tc.conn.Stats(); st.MTU != 1200 || st.BlackHoles != 1 {
					t.Errorf("MTU %d, %d black holes", st.MTU, st.BlackHoles)
				}
				if _, n := streamBytes(small, s.ID()); n == 0 {
					t.Error("nothing came again in small datagrams")
				}
				tc.conn.CloseTransport(NoError, "")
			})
		})
	}
}

func TestLostMTUProbes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.handshake()
		probes := map[int]int{} // by size
		for range 200 {
			tc.wait(20 * time.Millisecond)
			var pns []uint64
			for _, p := range tc.packets() {
				if p.size > 1200 {
					probes[p.size]++
				} else if p.typ == wire.Packet1RTT {
					pns = append(pns, p.pn)
				}
			}
			if len(pns) > 0 {
				tc.send(wire.Packet1RTT, ackOf(pns...), ping())
			} else {
				tc.send(wire.Packet1RTT, ping())
			}
		}
		// RFC 8899, Section 5.1.2: MAX_PROBES
		for size, n := range probes {
			if n > maxMTUProbes {
				t.Errorf("%d probes of %d bytes", n, size)
			}
		}
		if len(probes) == 0 || len(probes) > 8 {
			t.Errorf("probes of %d sizes", len(probes))
		}
		st := tc.conn.Stats()
		// RFC 9002 and 8899: a lost probe is no sign of congestion
		if st.MTU != 1200 || st.PacketsLost != 0 || st.CongestionWindow < 12000 {
			t.Errorf("MTU %d, lost %d, window %d", st.MTU, st.PacketsLost, st.CongestionWindow)
		}
		tc.wantOpen()
	})
}

func TestMaxUDPPayloadOfPeer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.params.MaxUDPPayload = 1300
		tc.establish()
		for range 10 {
			tc.wait(50 * time.Millisecond)
			for _, p := range tc.packets() {
				// RFC 9000, Section 18.2: "UDP datagrams with
				// payloads larger than this limit are not likely to
				// be processed by the receiver."
				if p.size > 1300 {
					t.Errorf("datagram of %d bytes", p.size)
				}
			}
			tc.ack(wire.Packet1RTT)
		}
	})
}

func TestConnectionIDsOfPeer(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		id := func(i uint64) wire.ConnID { return connID(fmt.Sprintf("%0*d", tc.peerID.Len(), i)) }
		// The harness reads headers with the length of peerID.
		tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, 1, 0, id(1), [16]byte{1}), wire.AppendNewConnectionID(nil, 2, 0, id(2), [16]byte{2}))
		tc.wantNone(wire.FrameRetireConnectionID)
		// a repetition changes nothing
		tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, 1, 0, id(1), [16]byte{1}))
		tc.wantOpen()
		// RFC 9000, Section 5.1.2: "the peer MUST stop using the corresponding connection IDs and
		// retire them with RETIRE_CONNECTION_ID frames"
		tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, 3, 2, id(3), [16]byte{3}))
		retired := map[uint64]bool{}
		for _, f := range tc.frames() {
			if f.typ == wire.FrameRetireConnectionID {
				retired[f.seq] = true
			}
		}
		if len(retired) != 2 || !retired[0] || !retired[1] {
			t.Errorf("retired %v", retired)
		}
		s := tc.openStream()
		tc.write(s, []byte("x"))
		if f := tc.want(wire.FrameStream); f.packet.dst != id(2) {
			t.Errorf("sent to %v", f.packet.dst)
		}
		// Section 19.15: one below retire_prior_to is retired at once
		tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, 1, 0, id(1), [16]byte{1}))
		if f := tc.want(wire.FrameRetireConnectionID); f.seq != 1 {
			t.Errorf("retired %d", f.seq)
		}
	})
}

func TestOwnConnectionIDs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.handshake()
		ids := map[uint64]frame{}
		for _, f := range tc.frames() {
			if f.typ == wire.FrameNewConnectionID {
				ids[f.seq] = f
			}
		}
		if len(ids) != 3 {
			t.Fatalf("%d connection ids were issued", len(ids))
		}
		tc.ack(wire.Packet1RTT)
		first := tc.dst
		tc.dst = ids[2].cid
		tc.send(wire.Packet1RTT, wire.AppendRetireConnectionID(nil, 0), wire.AppendRetireConnectionID(nil, 1))
		// RFC 9000, Section 5.1.1: "An endpoint SHOULD supply a new connection ID when the peer
		// retires a connection ID."
		n := 0
		for _, f := range tc.frames() {
			if f.typ == wire.FrameNewConnectionID && f.seq > 3 {
				n++
			}
		}
		if n != 2 {
			t.Errorf("%d new connection ids", n)
		}
		// a packet to a retired ID finds nobody
		before := tc.ep.Stats().Drops["unknown"]
		tc.dst = first
		tc.send(wire.Packet1RTT, ping())
		if tc.ep.Stats().Drops["unknown"] != before+1 {
			t.Error("a retired connection id still works")
		}
	})
}

func TestMovingTakesANewID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, 1, 0, connID("newid1"), [16]byte{1}))
		tc.settle()
		// RFC 9000, Section 9.5: "An endpoint MUST NOT reuse a connection ID when sending to more than
		// one destination address."
		tc.remote = addrPort("10.0.0.9:4000")
		tc.send(wire.Packet1RTT, ping())
		for _, p := range to(tc.packets(), tc.remote) {
			if p.dst != connID("newid1") {
				t.Errorf("sent to %v at the new address", p.dst)
			}
		}
	})
}

// hostile row 4: a forged "packet too big" makes the socket refuse large
// datagrams; the size falls to 1200 and no further, and the connection lives.
func TestHostile04PacketTooBig(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.wire.setRefuse(func(m *udp.SendMsg) error {
			if m.SegmentSize > 1200 || m.SegmentSize == 0 && len(m.Data) > 1200 {
				return udp.ErrMessageTooLong
			}
			return nil
		})
		s := tc.openStream()
		tc.write(s, pattern(0, 8000))
		var all []frame
		for range 40 {
			tc.wait(50 * time.Millisecond)
			all = append(all, tc.frames()...)
			tc.ack(wire.Packet1RTT)
		}
		if m := tc.conn.Stats().MTU; m != 1200 {
			t.Errorf("MTU %d", m)
		}
		if got, _ := streamBytes(all, s.ID()); !bytes.Equal(got.ready(), pattern(0, 8000)) {
			t.Errorf("%d bytes arrived", len(got.ready()))
		}
	})
}
