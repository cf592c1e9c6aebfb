package quic

import (
	"testing"
	"testing/synctest"
	"time"

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
