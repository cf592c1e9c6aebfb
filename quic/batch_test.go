package quic

import (
	"bytes"
	"net"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Datagrams of a receive call that are for one connection go to it together, by one
// look at the table: a run ends where the connection ID changes, and not before.
func TestRunsOfBatch(t *testing.T) {
	ep := newLoopback(t, serverConfig())
	const segment = 100
	size := ep.layout.Size()
	id := func(k byte) wire.ConnID {
		c, ok := wire.MakeConnID(bytes.Repeat([]byte{k}, size))
		if !ok {
			t.Fatal("no connection ID")
		}
		return c
	}
	short := func(k byte) []byte { return append(id(k).Append([]byte{0x40}), make([]byte, segment-1-size)...) }
	long := func(k byte) []byte {
		b := id(k).Append([]byte{0xc0, 0, 0, 0, 1, byte(size)})
		return append(b, make([]byte, segment-len(b))...)
	}
	join := func(all ...[]byte) []byte { return bytes.Join(all, nil) }
	for name, c := range map[string]struct {
		data []byte
		runs []int // datagrams of each
	}{
		"one connection":              {join(short(1), short(1), short(1)), []int{3}},
		"the last is shorter":         {join(short(1), short(1), short(1)[:40]), []int{3}},
		"the last is too short":       {join(short(1), short(1)[:size]), []int{1, 1}},
		"two, one after the other":    {join(short(1), short(1), short(2)), []int{2, 1}},
		"two in turn":                 {join(short(1), short(2), short(1)), []int{1, 1, 1}},
		"long and short headers":      {join(long(1), long(1), short(1)), []int{3}},
		"long headers of two":         {join(long(1), long(2), long(2)[:60]), []int{1, 2}},
		"a long header between":       {join(short(1), long(1), short(1)), []int{1, 2}},
		"nothing that is ours":        {join([]byte{0x40, 1}), []int{1}},
		"the last bytes of an ID":     {join(short(1), append(short(1)[:size:size], short(2)[size:]...)), []int{1, 1}},
		"a datagram that is no QUIC":  {join(short(1), make([]byte, segment), short(1)), []int{1, 1, 1}},
		"as many as a batch may have": {bytes.Repeat(short(7), 128), []int{128}},
	} {
		var got []int
		for data := c.data; len(data) > 0; {
			dst, ok := ep.dstOf(data[:min(segment, len(data))])
			n := ep.runOf(data, segment, dst, ok)
			if n <= 0 || n > len(data) {
				t.Fatalf("%s: a run of %d bytes", name, n)
			}
			got = append(got, (n+segment-1)/segment)
			data = data[n:]
		}
		if len(got) != len(c.runs) {
			t.Errorf("%s: runs of %v datagrams, want %v", name, got, c.runs)
			continue
		}
		for i := range got {
			if got[i] != c.runs[i] {
				t.Errorf("%s: runs of %v datagrams, want %v", name, got, c.runs)
			}
		}
	}
}

// A vectorSink takes lists of buffers, as a TCP connection does by writev.
type vectorSink struct {
	calls, pieces int
	got           []byte
}

func (v *vectorSink) Write([]byte) (int, error) { panic("one piece at a time") }

func (v *vectorSink) WriteBuffers(b *net.Buffers) (n int64, err error) {
	v.calls++
	v.pieces += len(*b)
	for _, p := range *b {
		v.got = append(v.got, p...)
		n += int64(len(p))
	}
	return n, nil
}

// WriteTo hands the pieces of a batch to a writer that takes several in one call: of
// forty datagrams' bytes none is copied on the way.
func TestWriteToByVectors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(0, false), 0, pattern(0, 1<<10), false))
		s := tc.acceptStream()
		next := uint64(1 << 10)
		r := bigBatch(tc, &next)
		before := tc.conn.Stats().StreamBytesCopied
		tc.conn.receive(&r)
		tc.conn.flushLate()
		r.buf.Release()
		tc.send(wire.Packet1RTT, streamFrame(s.ID(), next, nil, true))
		var v vectorSink
		if n, err := s.WriteTo(&v); n != int64(next) || err != nil {
			t.Fatalf("WriteTo = %d, %v", n, err)
		}
		if !bytes.Equal(v.got, pattern(0, int(next))) {
			t.Error("other bytes")
		}
		if v.calls != 1 || v.pieces < 40 {
			t.Errorf("%d pieces in %d calls", v.pieces, v.calls)
		}
		if n := tc.conn.Stats().StreamBytesCopied - before; n != 0 {
			t.Errorf("%d bytes were copied", n)
		}
	})
}
