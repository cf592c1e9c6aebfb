package quic

import (
	"bytes"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// A peer that sends a datagram a call, faster than a busy connection looks: its
// datagrams wait in shared memory, within the bound, and all of it is given back.
func TestInboxSmallBatches(t *testing.T) {
	before := udp.Outstanding()
	var b inbox
	datagram := bytes.Repeat([]byte{0x40}, 1452)
	kept := 0
	for ; kept < 1<<16; kept++ {
		buf := udp.NewBuffer()
		n := copy(buf.Bytes(), datagram)
		buf.Bytes()[0] = byte(kept)
		ok := b.pushBatch(rxBatch{buf: buf, data: buf.Bytes()[:n], segment: n, total: n})
		buf.Release()
		if !ok {
			break
		}
	}
	if kept < 2000 || kept*len(datagram) > maxInboxBytes {
		t.Errorf("%d datagrams of %d bytes found room", kept, len(datagram))
	}
	if pinned := (udp.Outstanding() - before) * udp.BufferSize; pinned > maxInboxBytes+udp.BufferSize {
		t.Errorf("%d bytes pinned", pinned)
	}
	w := b.take()
	for i, r := range w.batches {
		if len(r.data) != len(datagram) || r.data[0] != byte(i) || !bytes.Equal(r.data[1:], datagram[1:]) {
			t.Fatalf("datagram %d is another", i)
		}
		r.buf.Release()
	}
	if len(w.batches) != kept || udp.Outstanding() != before || b.pinned != 0 {
		t.Errorf("%d of %d datagrams, %d buffers outstanding, %d bytes counted", len(w.batches), kept, udp.Outstanding()-before, b.pinned)
	}
}

// A large receive call is kept by reference, and counted by what it pins.
func TestInboxLargeBatches(t *testing.T) {
	before := udp.Outstanding()
	var b inbox
	kept := 0
	for ; kept < 1<<10; kept++ {
		buf := udp.NewBuffer()
		ok := b.pushBatch(rxBatch{buf: buf, data: buf.Bytes()[:viewThreshold], segment: 1024, total: viewThreshold})
		buf.Release()
		if !ok {
			break
		}
	}
	if kept == 0 || kept > maxInboxBytes/udp.BufferSize {
		t.Errorf("%d buffers kept", kept)
	}
	for _, r := range b.take().batches {
		r.buf.Release()
	}
	if udp.Outstanding() != before {
		t.Errorf("%d buffers outstanding", udp.Outstanding()-before)
	}
}
