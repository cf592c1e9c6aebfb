package quic

import (
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
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
