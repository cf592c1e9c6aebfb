package quic

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// distant makes the established Conn believe in a round-trip time of d.
func (tc *testConn) distant(d time.Duration) {
	tc.Helper()
	tc.conn.lock()
	tc.conn.path.rtt.Init(d)
	for range 50 {
		tc.conn.path.rtt.Update(d, 0, 0, true)
	}
	tc.conn.unlock()
}

func (tc *testConn) currentPTO() time.Duration {
	tc.conn.lock()
	defer tc.conn.unlock()
	return tc.conn.pto()
}

// streamBytes puts the STREAM frames read so far together.
func streamBytes(frames []frame, id uint64) (s cryptoStream, n int) {
	s.limit = 1 << 20
	for _, f := range frames {
		if f.typ == wire.FrameStream && f.id == id {
			s.receive(f.off, f.data)
			n += len(f.data)
		}
	}
	return s, n
}

func TestPTOAndBackoff(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.distant(100 * time.Millisecond)
		s := tc.openStream()
		start := time.Now()
		tc.write(s, []byte("lost"))
		tc.frames()
		pto := tc.currentPTO()
		at := pto
		for i := range 4 {
			tc.wait(time.Until(start.Add(at)) - time.Millisecond)
			tc.wantIdle()
			tc.wait(time.Millisecond)
			// RFC 9002, Section 6.2.4: "When a PTO timer expires, a
			// sender MUST send at least one ack-eliciting packet in
			// the packet number space as a probe."
			ps := tc.packets()
			if len(ps) == 0 || len(ps) > 2 {
				t.Fatalf("probe %d: %d packets", i, len(ps))
			}
			var all []frame
			for _, p := range ps {
				all = append(all, p.frames...)
			}
			if got, _ := streamBytes(all, s.ID()); string(got.ready()) != "lost" {
				t.Errorf("probe %d carries %v", i, all)
			}
			// Section 6.2.1: "the PTO backoff MUST be increased, resulting in the PTO period
			// being set to twice its current value", from the last ack-eliciting packet on
			start, at = time.Now(), pto<<(i+1)
		}
		tc.ack(wire.Packet1RTT)
		tc.conn.lock()
		n := tc.conn.loss.PTOCount()
		tc.conn.unlock()
		if n != 0 {
			t.Errorf("PTO count %d after an acknowledgment", n)
		}
		tc.wait(5 * time.Second)
		for _, f := range tc.frames() {
			if f.typ == wire.FrameStream {
				t.Errorf("%v was sent again after its acknowledgment", f)
			}
		}
	})
}

func TestLossByPacketThreshold(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.distant(100 * time.Millisecond)
		s := tc.openStream()
		var pns []uint64
		for i := range 6 {
			tc.write(s, pattern(uint64(100*i), 100))
			for _, p := range tc.packets() {
				pns = append(pns, p.pn)
			}
		}
		_ = s.CloseWrite()
		for _, p := range tc.packets() {
			pns = append(pns, p.pn)
		}
		// RFC 9002, Section 6.1.1: packets are lost when one three later is acknowledged
		tc.send(wire.Packet1RTT, ackOf(pns[1], pns[2]))
		tc.wantIdle()
		tc.send(wire.Packet1RTT, ackOf(pns[1], pns[2], pns[4]))
		fs := tc.frames()
		got, n := streamBytes(fs, s.ID())
		// only the lost range comes again
		if n != 100 || !bytes.Equal(got.in[:0], nil) || len(got.have) != 1 || got.have[0] != (span{0, 100}) {
			t.Errorf("sent again: %v", fs)
		}
		if lost := tc.conn.Stats().PacketsLost; lost != 1 {
			t.Errorf("%d packets were lost", lost)
		}
		// the FIN's packet is lost
		tc.wait(time.Second)
		tc.ack(wire.Packet1RTT)
		tc.settle()
		if s.snd.buf.start != 600 || !s.snd.finAcked {
			t.Errorf("acknowledged up to %d, FIN %v", s.snd.buf.start, s.snd.finAcked)
		}
	})
}

func TestLossByTimeThreshold(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.distant(80 * time.Millisecond)
		s := tc.openStream()
		tc.write(s, pattern(0, 100))
		tc.write(s, pattern(100, 100))
		ps := tc.packets()
		if len(ps) != 2 {
			t.Fatalf("%d packets", len(ps))
		}
		tc.wait(80 * time.Millisecond)
		tc.send(wire.Packet1RTT, ackOf(ps[1].pn))
		tc.wantIdle()
		// RFC 9002, Section 6.1.2: 9/8 of the round-trip time after it was sent
		tc.wait(9 * time.Millisecond)
		tc.wantIdle()
		tc.wait(2 * time.Millisecond)
		fs := tc.frames()
		if _, n := streamBytes(fs, s.ID()); n != 100 {
			t.Errorf("sent again: %v", fs)
		}
	})
}

func TestLostFinIsSentAgain(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		_ = s.CloseWrite()
		if f := tc.want(wire.FrameStream); !f.fin || len(f.data) != 0 {
			t.Errorf("got %v", f)
		}
		tc.wait(time.Second)
		if f := tc.want(wire.FrameStream); !f.fin || f.id != s.ID() {
			t.Errorf("got %v", f)
		}
	})
}

// RFC 9000, Section 13.3: what is sent again for each frame is its present form.
func TestLostControlFrames(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		tc.write(s, []byte("x"))
		s.CancelWrite(5)
		s.CancelRead(6)
		first := map[uint64]bool{}
		for _, f := range tc.frames() {
			first[f.typ] = true
		}
		tc.wait(time.Second)
		again := map[uint64]bool{}
		last := uint64(0)
		for _, f := range tc.frames() {
			again[f.typ], last = true, f.packet.pn
		}
		tc.send(wire.Packet1RTT, ackOf(last)) // a probe arrives: what came before is lost
		for _, f := range tc.frames() {
			again[f.typ] = true
		}
		for _, typ := range []uint64{wire.FrameResetStream, wire.FrameStopSending} {
			if !first[typ] || !again[typ] {
				t.Errorf("frame %#x: sent %v, again %v", typ, first[typ], again[typ])
			}
		}
		if again[wire.FrameStream] {
			t.Error("data of a reset stream was sent again")
		}
	})
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.handshake()
		tc.frames() // everything of the first flight in 1-RTT gets lost
		tc.wait(2 * time.Second)
		again := map[uint64]bool{}
		for _, f := range tc.frames() {
			again[f.typ] = true
		}
		if !again[wire.FrameHandshakeDone] || !again[wire.FrameNewConnectionID] {
			t.Errorf("sent again: %v", again)
		}
	})
}

func TestPersistentCongestion(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.distant(50 * time.Millisecond)
		s := tc.openStream()
		tc.write(s, pattern(0, 200<<10))
		tc.wait(3 * time.Second) // everything is lost, and several probes
		before := tc.conn.Stats().CongestionWindow
		tc.packets()
		var ps []packet
		for len(ps) == 0 {
			tc.wait(time.Millisecond)
			ps = tc.packets()
		}
		tc.send(wire.Packet1RTT, ackOf(ps[len(ps)-1].pn))
		// RFC 9002, Section 7.6.2: "When persistent congestion is declared, the sender's congestion
		// window MUST be reduced to the minimum congestion window"
		if w := tc.conn.Stats().CongestionWindow; w > 3*1452 || w >= before {
			t.Errorf("congestion window %d, was %d", w, before)
		}
		tc.wantOpen()
		tc.conn.CloseTransport(NoError, "")
	})
}

func TestAckDelay(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.wait(time.Second)
		tc.settle()
		// RFC 9000, Section 13.2.1: "ack-eliciting packets MUST be
		// acknowledged at least once within the maximum delay an
		// endpoint communicated using the max_ack_delay transport
		// parameter"
		pn := tc.spaces[recovery.AppData].next
		tc.send(wire.Packet1RTT, ping())
		tc.wantIdle()
		tc.wait(24 * time.Millisecond)
		tc.wantIdle()
		tc.wait(time.Millisecond)
		f := tc.want(wire.FrameAck)
		if f.ack.Largest != pn || f.ack.Delay<<3 < 24000 || f.ack.Delay<<3 > 26000 {
			t.Errorf("ACK of %d with delay %d us", f.ack.Largest, f.ack.Delay<<3)
		}
		// Section 13.2.2: "A receiver SHOULD send an ACK frame after receiving at least two
		// ack-eliciting packets."
		tc.send(wire.Packet1RTT, ping())
		tc.wantIdle()
		tc.send(wire.Packet1RTT, ping())
		tc.want(wire.FrameAck)
		// Section 13.2.1: a gap is reported at once
		tc.spaces[recovery.AppData].next++
		tc.send(wire.Packet1RTT, ping())
		tc.want(wire.FrameAck)
		// "an endpoint MUST NOT send a non-ack-eliciting packet in response to a
		// non-ack-eliciting packet"
		for range 10 {
			tc.send(wire.Packet1RTT, wire.AppendPadding(nil, 10))
		}
		tc.wait(time.Second)
		tc.wantIdle()
	})
}

// One ACK answers a whole batch of datagrams.
func TestOneAckForABatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		buf := batchOf(tc, 30)
		tc.conn.receive(&buf)
		tc.conn.flushLate() // as its reader would
		buf.buf.Release()
		acks := 0
		for _, f := range tc.frames() {
			if f.typ == wire.FrameAck {
				acks++
			}
		}
		if acks != 1 {
			t.Errorf("%d ACK frames for one batch", acks)
		}
	})
}

func TestIdleTimeout(t *testing.T) {
	for _, role := range []string{"server", "client"} {
		t.Run(role, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var tc *testConn
				if role == "server" {
					tc = newTestServer(t, nil)
				} else {
					tc = newTestClient(t, nil)
				}
				// RFC 9000, Section 10.1: "the effective value at an endpoint is computed as the
				// minimum of the two advertised values"
				tc.params.MaxIdleTimeout = 10 * time.Second
				tc.establish()
				tc.wait(5 * time.Second)
				tc.settle()
				tc.send(wire.Packet1RTT, wire.AppendPadding(nil, 10))
				tc.wait(9999 * time.Millisecond)
				tc.wantOpen()
				tc.packets()
				tc.wait(2 * time.Millisecond)
				var ie *IdleTimeoutError
				if err := tc.conn.Err(); !errors.As(err, &ie) || !ie.Timeout() {
					t.Fatalf("Err() = %v", err)
				}
				// "the connection is silently closed"
				tc.wantIdle()
				if n := len(tc.ep.Conns()); n != 0 {
					t.Errorf("%d connections are left", n)
				}
			})
		})
	}
	// "An endpoint also restarts its idle timer when sending an ack-eliciting packet if no
	// other ack-eliciting packets have been sent since last receiving and processing a packet."
	either(t, func(t *testing.T, tc *testConn) {
		tc.wait(20 * time.Second)
		tc.settle()
		tc.send(wire.Packet1RTT, wire.AppendPadding(nil, 10))
		tc.wait(20 * time.Second)
		s := tc.openStream()
		tc.write(s, []byte("one")) // restarts
		tc.wait(20 * time.Second)
		tc.write(s, []byte("two")) // does not
		tc.wantOpen()
		tc.wait(11 * time.Second)
		var ie *IdleTimeoutError
		if err := tc.conn.Err(); !errors.As(err, &ie) {
			t.Errorf("Err() = %v", err)
		}
	})
}

// RFC 9000, Section 10.1: "endpoints MUST increase the idle timeout period to be at
// least three times the current Probe Timeout (PTO)."
func TestIdleTimeoutIsThreePTOs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.params.MaxIdleTimeout = 100 * time.Millisecond
		tc.establish()
		tc.distant(400 * time.Millisecond)
		tc.send(wire.Packet1RTT, wire.AppendPadding(nil, 10))
		tc.wait(3*tc.currentPTO() - time.Millisecond)
		tc.wantOpen()
		tc.wait(2 * time.Millisecond)
		var ie *IdleTimeoutError
		if err := tc.conn.Err(); !errors.As(err, &ie) {
			t.Errorf("Err() = %v", err)
		}
	})
}

func TestKeepAlive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.KeepAlive = 7 * time.Second
		tc := establishedServer(t, cfg)
		tc.wait(time.Second)
		tc.settle()
		for range 20 {
			tc.wait(7 * time.Second)
			tc.want(wire.FramePing)
			tc.settle()
			tc.ack(wire.Packet1RTT)
		}
		tc.wantOpen()
		// a peer that is gone is noticed all the same
		tc.wait(40 * time.Second)
		if tc.conn.Err() == nil {
			t.Error("keepalive keeps a dead connection")
		}
	})
}

// Pacing spreads a window over the round trip, and the socket that would block is waited for.
func TestBlockedSocket(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.wire.setRefuse(wouldBlock)
		s := tc.openStream()
		tc.write(s, pattern(0, 5000))
		tc.send(wire.Packet1RTT, ping(), ping())
		tc.send(wire.Packet1RTT, ping()) // an ACK is due, and cannot go
		tc.wait(5 * time.Second)
		tc.wantIdle()
		tc.wire.setRefuse(nil)
		tc.wire.wake()
		var all []frame
		for range 10 {
			tc.wait(30 * time.Millisecond)
			all = append(all, tc.frames()...)
			tc.ack(wire.Packet1RTT)
		}
		if got, _ := streamBytes(all, s.ID()); !bytes.Equal(got.ready(), pattern(0, 5000)) {
			t.Errorf("%d bytes arrived", len(got.ready()))
		}
	})
}
