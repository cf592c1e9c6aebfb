package quic

import (
	"testing"
	"testing/synctest"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestReadingGivesMemoryBack: what the application has read no longer counts
// against the endpoint's memory, also when the connection has nothing to send
// for it. Otherwise idle connections would starve the others.
func TestReadingGivesMemoryBack(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		id := tc.peerStream(0, false)
		tc.send(wire.Packet1RTT, streamFrame(id, 0, pattern(0, 1000), false))
		s := tc.acceptStream()
		tc.settle()
		if held := tc.ep.Stats().HeldBytes; held == 0 {
			t.Fatal("1000 unread bytes hold nothing")
		}
		if n, err := s.Read(make([]byte, 2000)); n != 1000 || err != nil {
			t.Fatalf("Read = %d, %v", n, err)
		}
		synctest.Wait()
		if held := tc.ep.Stats().HeldBytes; held != 0 {
			t.Errorf("%d bytes held with nothing to read", held)
		}
	})
}
