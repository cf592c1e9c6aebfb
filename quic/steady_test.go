//go:build !race

package quic

import (
	"context"
	"runtime"
	"testing"
)

// The race detector makes pools forget on purpose, so that this file leaves it out.

// TestSteadyState holds a bulk transfer to what the data path promises: no
// copies of the payload in user space and no allocations, both ends together.
// A machine that is busy with other things may lose datagrams, or receive few at
// a time, which are then copied: of each number the best of several rounds has to
// be good, as a copy or an allocation of our own spoils all of them.
func TestSteadyState(t *testing.T) {
	// Small datagrams: with large ones the few packets there are would have to
	// make up for what the runtime itself allocates.
	scfg, ccfg := serverConfig(), clientConfig()
	scfg.MaxUDPPayload, ccfg.MaxUDPPayload = defaultMaxDatagram, defaultMaxDatagram
	client, server := connect(t, scfg, ccfg)
	ctx := testContext(t)
	const size = 128 << 20
	move(t, ctx, client, server, size) // windows, pools and rings grow
	allocs, sent, received := 1.0, 1.0, 1.0
	for range 10 {
		a, s, r := steadyRound(t, ctx, client, server, size)
		allocs, sent, received = min(allocs, a), min(sent, s), min(received, r)
		if max(allocs, sent, received) <= 0.01 {
			return
		}
	}
	t.Fatalf("at best %.4f allocations a packet, %.4f copies a byte sent, %.4f received", allocs, sent, received)
}

func steadyRound(t *testing.T, ctx context.Context, client, server *Conn, size int64) (allocs, sent, received float64) {
	var before, after runtime.MemStats
	tx, rx := client.Stats(), server.Stats()
	runtime.ReadMemStats(&before)
	move(t, ctx, client, server, size)
	runtime.ReadMemStats(&after)
	tx2, rx2 := client.Stats(), server.Stats()
	packets := float64(tx2.PacketsSent - tx.PacketsSent + rx2.PacketsSent - rx.PacketsSent)
	allocs = float64(after.Mallocs-before.Mallocs) / packets
	sent = float64(tx2.StreamBytesCopied-tx.StreamBytesCopied) / float64(size)
	received = float64(rx2.StreamBytesCopied-rx.StreamBytesCopied) / float64(size)
	t.Logf("%.0f packets, %.4f allocations a packet, %.4f copies a byte sent, %.4f received, %d packets lost",
		packets, allocs, sent, received, tx2.PacketsLost-tx.PacketsLost)
	return allocs, sent, received
}
