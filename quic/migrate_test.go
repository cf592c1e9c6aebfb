package quic

import (
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestSecondChallengeIsFullSize: a path whose first challenge had to be small
// is validated again with a datagram of 1200 bytes.
func TestSecondChallengeIsFullSize(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.remote = addrPort("192.0.2.7:99")
		b := tc.build(wire.Packet1RTT, ping())
		tc.sendRaw(b)
		challenge := func() frame { // the address left behind is challenged as well
			for {
				if f := tc.want(wire.FramePathChallenge); f.packet.remote == tc.remote {
					return f
				}
			}
		}
		first := challenge()
		if first.packet.size > 3*len(b) {
			t.Errorf("%d bytes went to an address that %d came from", first.packet.size, len(b))
		}
		validated := func() bool {
			tc.conn.lock()
			defer tc.conn.unlock()
			return tc.conn.path.validated && !tc.conn.path.challenging && tc.conn.prev == nil
		}
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, first.path))
		second := challenge()
		if second.path == first.path || second.packet.size < minDatagram {
			t.Errorf("the second challenge is in a datagram of %d bytes", second.packet.size)
		}
		if validated() {
			t.Error("the path counts as validated for datagrams of 1200 bytes")
		}
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, second.path))
		if !validated() {
			t.Error("the path is not validated")
		}
	})
}

// TestChallengesFromElsewhere: what goes back to an address that was not
// validated is at most three times what came from there, however many
// challenges a datagram holds, and if it also moves the connection there.
func TestChallengesFromElsewhere(t *testing.T) {
	for _, moves := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			tc := establishedServer(t, nil)
			tc.giveIDs(1)
			tc.remote = addrPort("192.0.2.7:99")
			var frames []byte
			for i := range 40 {
				frames = wire.AppendPathChallenge(frames, [8]byte{byte(i)})
			}
			if moves {
				frames = append(frames, ping()...)
			}
			b := tc.build(wire.Packet1RTT, frames)
			tc.sendRaw(b)
			got := 0
			for _, d := range tc.wire.take() {
				if d.remote == tc.remote {
					got += len(d.data)
				}
			}
			if got == 0 || got > 3*len(b) {
				t.Errorf("moves %v: %d bytes went to an address that %d came from", moves, got, len(b))
			}
		})
	}
}
