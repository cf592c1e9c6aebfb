package protect

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

var sealerID = FlowID{Remote: netip.MustParseAddrPort("192.0.2.1:443"), Dst: mustID("destinat")}

func mustID(s string) wire.ConnID {
	id, ok := wire.MakeConnID([]byte(s))
	if !ok {
		panic("connection ID too long")
	}
	return id
}

const testSegment = 300

// testBatch is n packets of which every second has its payload elsewhere, in one
// piece of memory, as the chunks of a stream are. The last one is shorter.
func testBatch(n int, phase bool) (*Batch, []byte) {
	b := &Batch{Remote: sealerID.Remote, Phase: phase, Stride: testSegment - TagLen}
	buf, chunk := make([]byte, n*testSegment), payload(MaxFront+n*testSegment)
	at := MaxFront
	for i := range n {
		size := testSegment
		if i == n-1 {
			size -= 50
		}
		pn := uint64(1000 + i)
		out := buf[i*testSegment : i*testSegment+size]
		header := len(wire.AppendShort(out[:0], sealerID.Dst, pn, 2, phase, false))
		p := Packet{PN: pn, Out: out, Header: uint8(header), PNLen: 2}
		plain := size - TagLen - header
		if i%2 == 0 {
			copy(out[header:], payload(plain))
		} else {
			p.Front = 7
			copy(out[header:], "frames!")
			p.Plain = chunk[at-7 : at-7+plain]
			at += plain - 7
		}
		b.Packets = append(b.Packets, p)
	}
	return b, chunk
}

// TestSealerEqualsSingle: what comes out is what Seal and ProtectHeader make of
// each packet, and the payload's memory is as it was.
func TestSealerEqualsSingle(t *testing.T) {
	every(t, func(name string, v wire.Version, suite uint16, secret []byte) {
		k := mustKey(t, v, suite, secret)
		var s Sealer
		f := s.Add(sealerID, k, true)
		b, chunk := testBatch(9, true)
		before := bytes.Clone(chunk)
		var want [][]byte
		for _, p := range b.Packets {
			header := bytes.Clone(p.Out[:p.Header])
			plain := bytes.Clone(p.Out[p.Header : len(p.Out)-TagLen])
			if p.Plain != nil {
				copy(plain[p.Front:], p.Plain[p.Front:])
			}
			out := k.Seal(header, plain, header, p.PN)
			k.ProtectHeader(out, int(p.Header)-2, 2)
			want = append(want, out)
		}
		if err := s.Seal(f, b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, p := range b.Packets {
			if !bytes.Equal(p.Out, want[i]) {
				t.Errorf("%s: packet %d is not what is made of it alone", name, i)
			}
		}
		if !bytes.Equal(chunk, before) {
			t.Errorf("%s: the payload's memory has changed", name)
		}
		if st := s.Stats(); st != (SealerStats{CurrTxSw: 1, TxSw: 1}) {
			t.Errorf("%s: %+v", name, st)
		}
	})
}

// TestSealerRefuses: a batch that is not exactly one of the flow's is dropped and
// counted, and its memory holds no plaintext afterwards.
func TestSealerRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		want error
		do   func(s *Sealer, f **Flow, b *Batch)
	}{
		{"unknown flow", ErrNoFlow, func(_ *Sealer, f **Flow, _ *Batch) { *f = nil }},
		{"never registered", ErrNoFlow, func(_ *Sealer, f **Flow, _ *Batch) { *f = new(Flow) }},
		{"another sealer's", ErrNoFlow, func(_ *Sealer, f **Flow, _ *Batch) { *f = new(Sealer).Add(sealerID, (*f).key, false) }},
		{"removed", ErrNoFlow, func(_ *Sealer, f **Flow, _ *Batch) { (*f).Remove() }},
		{"another address", ErrNoFlow, func(_ *Sealer, _ **Flow, b *Batch) { b.Remote = netip.MustParseAddrPort("192.0.2.1:444") }},
		{"another connection ID", ErrNoFlow, func(_ *Sealer, _ **Flow, b *Batch) { b.Packets[2].Out[3] ^= 1 }},
		{"the batch is of another phase", ErrPhase, func(_ *Sealer, _ **Flow, b *Batch) { b.Phase = true }},
		{"the flow has gone on", ErrPhase, func(_ *Sealer, f **Flow, _ *Batch) { (*f).Update((*f).key, true) }},
		{"a packet of another phase", ErrPhase, func(_ *Sealer, _ **Flow, b *Batch) { b.Packets[3].Out[0] ^= 4 }},
		{"a long header", ErrBatch, func(_ *Sealer, _ **Flow, b *Batch) { b.Packets[0].Out[0] |= 0x80 }},
		{"longer than the stride", ErrBatch, func(_ *Sealer, _ **Flow, b *Batch) { b.Stride-- }},
		{"shorter than the stride, and not the last", ErrBatch, func(_ *Sealer, _ **Flow, b *Batch) { b.Stride++ }},
		{"nothing to sample", ErrBatch, func(_ *Sealer, _ **Flow, b *Batch) {
			p := &b.Packets[4]
			p.Out = p.Out[:int(p.Header)+1+TagLen]
		}},
		{"payload and packet differ", ErrBatch, func(_ *Sealer, _ **Flow, b *Batch) { p := &b.Packets[1]; p.Plain = p.Plain[1:] }},
		{"too much in front", ErrBatch, func(_ *Sealer, _ **Flow, b *Batch) { b.Packets[1].Front = MaxFront + 1 }},
		{"no packet number", ErrBatch, func(_ *Sealer, _ **Flow, b *Batch) { p := &b.Packets[1]; p.PNLen, p.Header = 0, p.Header-2 }},
	} {
		k := mustKey(t, wire.Version1, suiteAES128GCM, make([]byte, 32))
		s := new(Sealer)
		f := s.Add(sealerID, k, false)
		b, chunk := testBatch(5, false)
		before := bytes.Clone(chunk)
		c.do(s, &f, b)
		if err := s.Seal(f, b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if n := s.Stats().TxSwError; n != 1 {
			t.Errorf("%s: %d errors counted", c.name, n)
		}
		for i, p := range b.Packets {
			if !bytes.Equal(p.Out, make([]byte, len(p.Out))) {
				t.Errorf("%s: packet %d can still be taken for a packet", c.name, i)
			}
		}
		if !bytes.Equal(chunk, before) {
			t.Errorf("%s: the payload's memory has changed", c.name)
		}
	}
}

func TestSealerCounts(t *testing.T) {
	var s Sealer
	k := mustKey(t, wire.Version1, suiteAES128GCM, make([]byte, 32))
	a, b := s.Add(sealerID, k, false), s.Add(sealerID, k, false)
	a.Remove()
	a.Remove()
	if st := s.Stats(); st != (SealerStats{CurrTxSw: 1, TxSw: 2}) || a.ID() != sealerID {
		t.Errorf("%+v", st)
	}
	b.Remove()
	if st := s.Stats(); st.CurrTxSw != 0 {
		t.Errorf("%+v", st)
	}
}

func TestSealerNoAllocations(t *testing.T) {
	every(t, func(name string, v wire.Version, suite uint16, secret []byte) {
		if suite == suiteChaCha20Poly1305 {
			return // its masks are made by a cipher of their own, see TestNoAllocations
		}
		var s Sealer
		f := s.Add(sealerID, mustKey(t, v, suite, secret), false)
		b, _ := testBatch(8, false)
		fresh := make([][]byte, len(b.Packets))
		for i := range b.Packets {
			fresh[i] = bytes.Clone(b.Packets[i].Out)
		}
		if n := testing.AllocsPerRun(100, func() {
			for i := range b.Packets {
				copy(b.Packets[i].Out, fresh[i])
			}
			if err := s.Seal(f, b); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a batch", name, n)
		}
	})
}

func BenchmarkSealer(b *testing.B) {
	benchKeys(b, func(b *testing.B, k *Key) {
		var s Sealer
		f := s.Add(sealerID, k, false)
		batch, _ := testBatch(45, false)
		fresh := make([][]byte, len(batch.Packets))
		for i := range fresh {
			fresh[i] = bytes.Clone(batch.Packets[i].Out[:64])
		}
		b.SetBytes(45 * testSegment)
		for b.Loop() {
			for i := range fresh {
				copy(batch.Packets[i].Out, fresh[i])
			}
			if err := s.Seal(f, batch); err != nil {
				b.Fatal(err)
			}
		}
	})
}
