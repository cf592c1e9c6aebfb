package quic

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A sender with a large window asks for fewer acknowledgments, the receiver
// follows, and the speed stays.
func TestAckFrequency(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := simnet.Params{Delay: 20 * time.Millisecond, Rate: 12_500_000, Queue: 1_000_000}
		sp := newSimPair(t, 1, p, patient(serverConfig()))
		client, server := sp.dial(patient(clientConfig()))
		sp.upload(client, server, 20<<20)
		client.lock()
		asked, seq := client.freq.asked, client.freq.seq
		client.unlock()
		if asked < 4 || seq == 0 {
			t.Fatalf("asked for a threshold of %d in %d frames", asked, seq)
		}
		server.lock()
		heard := server.freq.heard
		server.unlock()
		if heard != seq {
			t.Errorf("heard %d of %d frames", heard, seq)
		}
		// Without asking it is one for two packets.
		if sent, got := client.Stats().PacketsSent, client.Stats().PacketsReceived; got > sent/4 {
			t.Errorf("%d packets were acknowledged by %d", sent, got)
		}
	})
}

// TestImmediateAck: what must not wait for an acknowledgment asks for it at
// once, if the peer knows how, and with a PING otherwise: MTU probes, probe
// timeouts, and the first packet on a path that the client has moved to.
func TestImmediateAck(t *testing.T) {
	for _, knows := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			asks, other := uint64(wire.FramePing), uint64(wire.FrameImmediateAck)
			tc := newTestClient(t, nil)
			if knows {
				asks, other = other, asks
				tc.params.MinAckDelay = time.Millisecond
				tc.params.MaxAckDelay = 25 * time.Millisecond
			}
			tc.establish()
			tc.giveIDs(1)
			tc.settle()
			s := tc.openStream()
			tc.write(s, []byte("not acknowledged"))
			tc.packets()
			tc.wait(tc.conn.pto() + 25*time.Millisecond + time.Millisecond)
			if _, ok := find(tc.packets(), wire.FrameImmediateAck); ok != knows {
				t.Errorf("knows %v: a probe timeout sends IMMEDIATE_ACK: %v", knows, ok)
			}
			tc.ack(wire.Packet1RTT)

			moved := make(chan error, 1)
			go func() { moved <- tc.conn.Migrate(context.Background(), netip.MustParseAddr("10.0.0.22")) }()
			ch := tc.want(wire.FramePathChallenge)
			for _, f := range ch.packet.frames {
				if f.typ == asks {
					t.Errorf("knows %v: %#x beside PATH_CHALLENGE", knows, asks)
				}
			}
			tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, ch.path))
			if err := <-moved; err != nil {
				t.Fatal(err)
			}
			// The search for a larger datagram begins with it.
			small, large := 0, 0
			for _, p := range tc.packets() {
				if _, ok := find([]packet{p}, other); ok {
					t.Errorf("knows %v: asks with %#x", knows, other)
				}
				if _, ok := find([]packet{p}, asks); ok && p.size > minDatagram {
					large++
				} else if ok {
					small++
				}
			}
			if small == 0 || large == 0 {
				t.Errorf("knows %v: %d ordinary packets ask on the new path, and %d MTU probes", knows, small, large)
			}
		})
	}
}
