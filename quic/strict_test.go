package quic

import (
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestRepeatedConnIDStaysRetired: a NEW_CONNECTION_ID frame that comes again
// must not bring back an ID that was given up: the peer no longer knows it.
func TestRepeatedConnIDStaysRetired(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		issue := func(seq uint64) {
			tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, seq, 0, connID("clien"+string(rune('0'+seq))), [16]byte{byte(seq)}))
		}
		issue(2) // out of order
		issue(1)
		c := tc.conn
		c.lock()
		for want := uint64(1); want <= 2; want++ {
			if !c.nextRemote() || c.ids.remote[0].seq != want {
				t.Errorf("in use: %+v, want %d", c.ids.remote[0], want)
			}
		}
		c.unlock()
		tc.settle()
		issue(1)
		if f := tc.want(wire.FrameRetireConnectionID); f.seq != 1 {
			t.Errorf("retired %d again", f.seq)
		}
		c.lock()
		if len(c.ids.remote) != 1 || c.ids.remote[0].seq != 2 {
			t.Errorf("IDs of the peer: %+v", c.ids.remote)
		}
		c.unlock()
	})
}

// RFC 9000, Section 9: "If a client receives packets from an unknown server
// address, the client MUST discard these packets."
func TestClientIgnoresOtherAddresses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedClient(t, nil)
		tc.remote = addrPort("192.0.2.7:99")
		tc.send(wire.Packet1RTT, ping())
		tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{1}))
		tc.wantIdle()
		tc.remote = serverAddr
		tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{2}))
		tc.want(wire.FramePathResponse)
	})
}

// RFC 9000, Section 17.2.2: "Initial packets sent by the server MUST set the
// Token Length field to 0".
func TestClientIgnoresInitialWithToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.token = []byte("token")
		before := tc.ep.Stats().PacketsReceived
		tc.send(wire.PacketInitial, ping())
		if got := tc.ep.Stats().PacketsReceived; got != before {
			t.Error("the packet was processed")
		}
		tc.token = nil
		tc.send(wire.PacketInitial, ping())
		if got := tc.ep.Stats().PacketsReceived; got != before+1 {
			t.Error("a packet without a token was not processed")
		}
	})
}
