package quic

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestFloodDoesNotDelayAnswers: what a connection has to send does not wait for
// the end of a flood that is not for it.
func TestFloodDoesNotDelayAnswers(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		const flood = 4000
		waiting := -1
		tc.wire.setRefuse(func(*udp.SendMsg) error {
			if waiting < 0 {
				waiting = len(tc.wire.in)
			}
			return nil
		})
		legit := [][]byte{tc.build(wire.Packet1RTT, ping()), tc.build(wire.Packet1RTT, ping())} // acknowledged at once
		junk := datagram{data: []byte{0x40, 1, 2, 3}, remote: tc.remote}
		// The reader waits in Recv already: one datagram takes it to where it is held.
		release := tc.wire.hold()
		tc.wire.in <- junk
		synctest.Wait()
		for i := range flood {
			if i < len(legit) {
				tc.wire.in <- datagram{data: bytes.Clone(legit[i]), remote: tc.remote}
			}
			tc.wire.in <- junk
		}
		release()
		synctest.Wait()
		if waiting < flood/2 {
			t.Errorf("the acknowledgement went out with %d of %d datagrams still to be received", waiting, flood)
		}
	})
}

// The reader gives way each time while others are quick, and less and less often
// while they are not.
func TestYielder(t *testing.T) {
	var y yielder
	gaves := func(n int, took time.Duration) (times int) {
		for range n {
			if y.left > 0 {
				y.left--
				continue
			}
			times++
			y.took(took)
		}
		return times
	}
	if n := gaves(100, yieldPatience); n != 100 {
		t.Errorf("quick: %d of 100 times", n)
	}
	if n := gaves(100_000, 2*yieldPatience); n < 100 || n > 110 { // 10, and every 1024th
		t.Errorf("slow: %d of 100000 times", n)
	}
	gaves(2*maxYieldSkips+10, 0)
	if n := gaves(100, 0); n != 100 {
		t.Errorf("quick again: %d of 100 times", n)
	}
	y = yielder{skips: 7, left: 2}
	if y.once(); y != (yielder{skips: 7, left: 1}) {
		t.Errorf("it was not due, and is %+v", y)
	}
}
