package quic

import (
	"bytes"
	"testing"
	"testing/synctest"

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
