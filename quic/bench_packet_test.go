package quic

import (
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// BenchmarkPackets packs batches of a stream's bytes at one end and dispatches
// them at the other, with neither socket between them. It reports both halves
// and, per packet, what they take with sealing and opening.
func BenchmarkPackets(b *testing.B) {
	scfg, ccfg := serverConfig(), clientConfig()
	scfg.MaxUDPPayload, ccfg.MaxUDPPayload = 1400, 1400
	client, server := connect(b, scfg, ccfg)
	ctx := testContext(b)
	move(b, ctx, client, server, 64<<20) // the congestion window grows
	s, err := client.OpenStream(ctx)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Write([]byte("open")); err != nil {
		b.Fatal(err)
	}
	in, err := server.AcceptStream(ctx)
	if err != nil {
		b.Fatal(err)
	}
	var pack, dispatch time.Duration
	packets := 0
	var reader socketReader
	reader.init()
	defer func() { reader.buf.Release() }()
	for b.Loop() {
		batch := newBatch()
		client.lock()
		c, w := client, &s.snd
		w.max, c.flow.sendMax = w.buf.end+1<<20, c.flow.sent+1<<20 // the other end takes it away below
		w.buf.grow(w.buf.roomy(), c.batchPayload(s.id, w.buf.end))
		c.queueSend(s)
		c.dirty = false
		c.path.pacer.Init(c.path.mtu)
		t0 := time.Now()
		c.fillBatch(batch, udp.MaxSegments)
		if !c.sealBatch(batch) {
			b.Fatal("not sealed")
		}
		pack += time.Since(t0)
		c.loss.Clear(recovery.AppData, nil)
		w.buf.ack(0, w.buf.next)
		client.mu.Unlock() // nothing is to be sent
		if batch.count == 0 {
			b.Fatal("an empty batch")
		}
		packets += batch.count

		buf := udp.NewBuffer()
		reader.buf.Release()
		reader.buf = buf
		reader.msg.Buf, reader.msg.N = buf.Bytes(), copy(buf.Bytes(), batch.buf.Bytes()[:batch.n])
		reader.msg.SegmentSize, reader.msg.Remote = batch.segment, server.path.remote
		batch.release()
		t0 = time.Now()
		server.ep.dispatch(server.shard(), &reader)
		dispatch += time.Since(t0)
		server.lock()
		r := &in.rcv
		r.buf.consume(&server.acct, r.buf.unread())
		r.max, server.flow.max = r.buf.end+1<<20, server.flow.received+1<<20
		server.recv.OnAckSent(server.now())
		server.dirty = false
		server.unlock()
		reader.late.conns = reader.late.conns[:0]
	}
	b.ReportMetric(float64(pack.Nanoseconds())/float64(packets), "pack-ns/packet")
	b.ReportMetric(float64(packets)/float64(b.N), "packets/batch")
	b.ReportMetric(float64(dispatch.Nanoseconds())/float64(packets), "dispatch-ns/packet")
}
