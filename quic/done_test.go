package quic

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestForgedInitialsLeaveNothing: a connection that an Initial starts which
// then proves not to be authentic is held by nothing, not even by a timer: who
// can make us remember each for seconds needs few packets to fill our memory.
func TestForgedInitialsLeaveNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		b := tc.sealPacket(wire.PacketInitial, make([]byte, minDatagram))
		b[len(b)-1] ^= 1
		tc.sendRaw(b)
		s := tc.ep.Stats()
		if s.Connections != 0 || s.Handshaking != 0 || s.Started != 0 || s.HandshakesFailed != 0 {
			t.Errorf("left behind: %+v", s)
		}
	})
}

// TestDoneConnectionHasNoTimer: see TestForgedInitialsLeaveNothing.
func TestDoneConnectionHasNoTimer(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.conn.lock()
		tc.conn.abandon(&IdleTimeoutError{})
		timer := tc.conn.timer
		tc.conn.unlock()
		synctest.Wait()
		if timer.Stop() {
			t.Error("the timer of a connection that is gone was still running")
		}
		time.Sleep(time.Minute)
		if n := len(tc.ep.Conns()); n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestDataBehindFinished: 1-RTT packets that come right behind the client's Finished
// wait for TLS, and none is lost when the handshake is complete.
func TestDataBehindFinished(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		tc.flushCrypto()
		tc.feedTLS()
		id := tc.peerStream(0, false)
		b := tc.build(wire.PacketHandshake, tc.ackFrame(recovery.Handshake), tc.takeCrypto(recovery.Handshake, 1000))
		b = append(b, tc.build(wire.Packet1RTT, streamFrame(id, 0, []byte("with it"), false))...)
		more := tc.build(wire.Packet1RTT, streamFrame(id, 7, []byte(", and behind"), true))
		tc.wire.in <- datagram{data: more, remote: tc.remote} // overtakes
		tc.sendRaw(b)
		s := tc.acceptStream()
		_ = s.SetReadDeadline(time.Now().Add(time.Second))
		if got, err := io.ReadAll(s); err != nil || string(got) != "with it, and behind" {
			t.Errorf("%q, %v", got, err)
		}
	})
}
