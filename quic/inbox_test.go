package quic

import (
	"bytes"
	"io"
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
	if want := int64(kept * len(datagram)); w.copied != want || b.copied != 0 {
		t.Errorf("%d bytes counted as copied, want %d", w.copied, want)
	}
	if len(w.batches) != kept || udp.Outstanding() != before || b.pinned != 0 {
		t.Errorf("%d of %d datagrams, %d buffers outstanding, %d bytes counted", len(w.batches), kept, udp.Outstanding()-before, b.pinned)
	}
}

// A connection whose inbox is full keeps its socket's reader waiting only where
// no other connection is served by it, and only once until somebody empties it.
func TestFullInboxKeepsNobodyWaiting(t *testing.T) {
	for _, others := range []int{0, 1} {
		client, server := connect(t, serverConfig(), clientConfig())
		for range others {
			if _, err := client.ep.Dial(testContext(t), client.RemoteAddrPort(), clientConfig()); err != nil {
				t.Fatal(err)
			}
		}
		server.mu.Lock() // its holder lost the processor
		buf := udp.NewBuffer()
		batch := rxBatch{buf: buf, data: buf.Bytes()[:viewThreshold], segment: 1024, total: viewThreshold}
		for server.inbox.pushBatch(batch) {
		}
		want := busyWaits
		if others > 0 {
			want = 0
		}
		before := server.ep.stats.DropBusy.Load()
		const calls = 3
		for range calls {
			if server.leave(&batch) {
				t.Fatal("it got hold of a connection that somebody has")
			}
		}
		if got := server.inbox.waits; got != want {
			t.Errorf("with %d other connections, %d waits for room, want %d", others, got, want)
		}
		if got := server.ep.stats.DropBusy.Load() - before; got != calls*viewThreshold/1024 {
			t.Errorf("with %d other connections, %d datagrams of %d batches counted as dropped", others, got, calls)
		}
		buf.Release()
		server.unlock() // what is in the inbox is no packet of the connection's
		if b := &server.inbox; b.waits != 0 || b.pinned != 0 {
			t.Errorf("an emptied inbox counts %d waits and %d bytes", b.waits, b.pinned)
		}
		echoOnce(t, client, server)
	}
}

// echoOnce has a connection carry a byte there and back.
func echoOnce(t *testing.T, client, server *Conn) {
	t.Helper()
	ctx := testContext(t)
	s, err := client.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	in, err := server.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := io.ReadFull(in, b); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, b); err != nil || b[0] != 7 {
		t.Fatalf("%v, %v", b, err)
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
