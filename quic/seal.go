package quic

import (
	"github.com/quic-fsgw/quic-fsgw/quic/protect"
)

// Sealing 1-RTT packets, a batch at a time, through a flow that is registered
// with the endpoint's sealer (protect.Sealer says what for). In order:
//
//  1. openFlow registers the flow of the path and connection ID that a batch
//     goes out with, before its first packet is built.
//  2. Packets are built in plaintext: the header and the frames in the batch's
//     slots, a stream's bytes where they lie (pack.go).
//  3. sealBatch has the batch sealed. One that the sealer refuses is dropped,
//     as if the network had lost it.
//  4. A key update gives the flow its next key, the end of the connection
//     removes it.

// openFlow makes the connection's flow that of the current path and connection ID.
func (c *Conn) openFlow(b *outBatch) {
	b.flow = protect.FlowID{Remote: c.path.remote, Dst: c.dst()}
	if f := c.app.flow; f == nil || f.ID() != b.flow {
		c.app.closeFlow()
		c.app.flow = c.ep.sealer.Add(b.flow, c.app.tx, c.app.phase)
	}
	b.plain.Remote, b.plain.Phase = b.flow.Remote, c.app.phase
}

// closeFlow removes the flow.
func (k *appKeys) closeFlow() {
	if k.flow != nil {
		k.flow.Remove()
		k.flow = nil
	}
}

// sealBatch seals a batch. A batch that cannot be sealed is released, and what
// was in it sent again when it counts as lost.
func (c *Conn) sealBatch(b *outBatch) bool {
	b.plain.Stride = b.segment - protect.TagLen
	if err := c.ep.sealer.Seal(c.app.flow, &b.plain); err != nil {
		c.log().Error("a batch was not sealed, and dropped", "err", err)
		c.ep.stats.DropEncrypt.Add(int64(b.count))
		b.release()
		return false
	}
	b.sealed()
	return true
}
