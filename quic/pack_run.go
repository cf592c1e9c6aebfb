package quic

import (
	"slices"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// buildRun builds packets that hold nothing but the bytes of the first stream in
// turn and fill their datagrams, as many as the batch, the chunk, the peer and
// budget let it: nearly all there are of a bulk transfer. What is the same for all
// of them is done once. The packet before was one of them (outBatch.bulk), so there
// is nothing else to send. It returns how many there are, maybe none; what is left
// of the chunk, and a FIN, is buildShort's.
func (c *Conn) buildRun(b *outBatch, budget, maxSegments int) int {
	if c.trace != nil || len(c.streams.sendQueue) == 0 {
		return 0
	}
	s := c.streams.sendQueue[0]
	w := &s.snd
	sp, again, ok := c.nextSpan(s)
	if !ok || sp.start == 0 || sp.start >= sp.end {
		return 0
	}
	k := w.buf.find(sp.start)
	if k.sealing {
		c.awaitSealed()
	}
	end := min(sp.end, k.end())
	if w.fin && end == w.buf.end {
		end-- // FIN goes with the last byte
	}
	frame := wire.StreamHeaderLen(s.id, sp.start, -1)
	pnLen := wire.PacketNumberLen(c.loss.NextPN(recovery.AppData)+2*uint64(maxSegments), c.loss.LargestAcked(recovery.AppData))
	hdr := 1 + b.flow.Dst.Len() + pnLen
	per := b.segment - hdr - frame - protect.TagLen
	slots := min(maxSegments-b.count, (udp.MaxPayload-b.n)/b.segment, budget/b.segment, c.loss.Room(recovery.AppData))
	if per <= 0 || slots <= 0 || end <= sp.start || wire.StreamHeaderLen(s.id, end, -1) != frame {
		return 0
	}
	n := min(slots, int(end-sp.start)/per)
	c.layRun(b, k, streamPiece{stream: s, off: sp.start, n: per}, n, protect.Packet{Header: uint8(hdr), PNLen: uint8(pnLen), Front: uint8(frame)})
	if n > 0 {
		b.uses(k)
		c.markRun(s, sp.start, sp.start+uint64(n*per), again)
	}
	return n
}

// layRun lays out n packets of a run, the first of which holds p, in a chunk. What it
// writes field by field it does not read as a whole right after: a processor waits for
// that, longer than it took to write.
func (c *Conn) layRun(b *outBatch, k *chunk, p streamPiece, n int, like protect.Packet) {
	if n <= 0 {
		return
	}
	now := c.now()
	pkt := recovery.SentPacket{Path: c.path.id, Size: uint16(b.segment), AckEliciting: true, InFlight: true, ECN: c.marking, Batched: true, KeyPhase: c.app.generation}
	pkt.Add(recovery.Record{Kind: recStream, ID: p.stream.id, Off: p.off, Len: uint32(p.n)})
	pkt.SendState = c.path.cc.OnSent(now, b.segment, c.loss.InFlight())
	at := chunkHeadroom + int(p.off-k.off)
	slots := b.buf.Bytes()[b.n:]
	grease := c.greaseBits()
	first := len(b.plain.Packets)
	b.plain.Packets = slices.Grow(b.plain.Packets, n)[:first+n]
	for i := range n {
		pn := c.loss.NextPN(recovery.AppData)
		slot := slots[i*b.segment : (i+1)*b.segment : (i+1)*b.segment]
		head := wire.AppendShort(slot[:0], b.flow.Dst, pn, int(like.PNLen), c.app.phase, false)
		if grease>>i&1 != 0 {
			wire.ClearFixedBit(&head[0])
		}
		wire.AppendStreamHeader(head, p.stream.id, p.off, -1, false)
		out := &b.plain.Packets[first+i]
		out.PN, out.Out, out.Plain = pn, slot, k.b[at-int(like.Front):at+p.n]
		out.Header, out.PNLen, out.Front = like.Header, like.PNLen, like.Front
		if i == 0 {
			pkt.PN = pn
			c.loss.Sent(now, recovery.AppData, &pkt)
		} else {
			c.loss.SentLike(recovery.AppData, &pkt, pn, p.off)
		}
		p.off += uint64(p.n)
		at += p.n
	}
	c.path.pacer.Sent(now, n*b.segment)
	if c.lastSent.IsZero() {
		c.lastSent = now
	}
	c.stats.PacketsSent += uint64(n)
	b.n += n * b.segment
	b.count += n
}

// markRun does for the bytes of a run what markSent does for those of a packet.
func (c *Conn) markRun(s *Stream, off, end uint64, again bool) {
	w := &s.snd
	if again {
		c.stats.BytesRetransmitted += end - off
	} else {
		c.flow.sent += end - off
		c.answered()
	}
	w.buf.sent(off, end)
	c.wakeRoom(s)
}
