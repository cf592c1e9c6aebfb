package quic

import (
	"testing"
	"testing/synctest"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestNoBuffersStopsSending: when the kernel has no room for a batch, the next
// one would be lost as well, and a congestion window with it.
func TestNoBuffersStopsSending(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.wire.mu.Lock()
		tc.wire.segments = 2
		tc.wire.mu.Unlock()
		calls := 0
		tc.wire.setRefuse(func(*udp.SendMsg) error { calls++; return udp.ErrNoBuffers })
		s := tc.openStream()
		tc.write(s, pattern(0, 9000))
		if calls != 1 {
			t.Errorf("%d batches went into a full queue at once", calls)
		}
		tc.wire.setRefuse(nil)
		tc.wait(2 * timerGranularity)
		if len(tc.wire.take()) == 0 {
			t.Error("nothing more is sent")
		}
	})
}

// TestBlockedBatchDoesNotFollowAMove: what waits for the socket was sealed for
// an address that was validated; another one gets no more than three times
// what it sent.
func TestBlockedBatchDoesNotFollowAMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.wire.setRefuse(wouldBlock)
		u, err := tc.conn.OpenUniStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tc.write(u, pattern(0, 9000))
		tc.remote = addrPort("192.0.2.7:99")
		b := tc.build(wire.Packet1RTT, ping())
		tc.sendRaw(b)
		tc.wire.setRefuse(nil)
		tc.wire.wake()
		synctest.Wait()
		n := 0
		for _, d := range tc.wire.take() {
			if d.remote == tc.remote {
				n += len(d.data)
			}
		}
		if n > 3*len(b) {
			t.Errorf("%d bytes went to an address that %d came from", n, len(b))
		}
	})
}
