package quic

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestRest: a connection at rest has let go of what it does not need, and wakes
// as if nothing had been; one that only a PING woke rests again soon.
func TestRest(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		c := tc.conn
		tc.settle()
		tc.wait(2 * restAfter)
		resting := func() bool {
			c.lock()
			defer c.unlock()
			return c.app.resting && c.ackWork == nil && c.hsp == nil
		}
		if !resting() {
			t.Fatal("the connection does not rest")
		}
		tc.send(wire.Packet1RTT, ping())
		synctest.Wait()
		if resting() {
			t.Fatal("a packet does not wake it")
		}
		tc.wait(2 * restAgain)
		if !resting() {
			t.Error("woken by a PING it does not rest again")
		}
		tc.want(wire.FrameAck)
		id := tc.peerStream(0, false)
		tc.send(wire.Packet1RTT, streamFrame(id, 0, pattern(0, 100), false))
		s := tc.acceptStream()
		tc.write(s, pattern(0, 5000))
		tc.settle()
		if got := s.snd.buf.start; got != 5000 {
			t.Errorf("%d bytes acknowledged after the rest, want 5000", got)
		}
		// Nothing brings the spaces of the handshake back to life.
		c.lock()
		c.handshakeStuck()
		c.handshakeAckDue()
		forgotten := c.hsp == nil
		taken := c.cryptoOf(recovery.Handshake).receive(0, []byte{1})
		c.unlock()
		if !forgotten || taken {
			t.Errorf("spaces of the handshake: forgotten %v, take messages %v", forgotten, taken)
		}
	})
}

func TestNotifyStream(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		calls := make(chan error, 4)
		notify := func() {
			tc.conn.NotifyStream(func() { calls <- tc.conn.Err() })
			synctest.Wait()
		}
		want := func(n int, when string) {
			t.Helper()
			if synctest.Wait(); len(calls) != n {
				t.Fatalf("%d calls %s, want %d", len(calls), when, n)
			}
			for range n {
				<-calls
			}
		}
		open := func(n uint64) {
			tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(n, false), 0, pattern(0, 10), false))
		}
		notify()
		tc.wait(time.Second)
		want(0, "without a stream")
		open(0)
		want(1, "when a stream has come")
		open(1)
		want(0, "when another has come")
		notify()
		want(1, "with streams that are there")
		tc.acceptStream()
		tc.acceptStream()
		notify()
		want(0, "when all are accepted")
		_ = tc.conn.CloseWithError(7, "")
		synctest.Wait()
		if len(calls) != 1 {
			t.Fatalf("%d calls at the end of the connection, want 1", len(calls))
		}
		var ae *ApplicationError
		if err := <-calls; !errors.As(err, &ae) || ae.Code != 7 {
			t.Errorf("called with %v", err)
		}
		notify()
		want(1, "when the connection is over")
	})
}
