package wire

import (
	"bytes"
	"testing"
)

// RFC 9000, Appendix A.1: the four examples, and the two-byte form of 37.
func TestVarintExamples(t *testing.T) {
	for _, c := range []struct {
		b []byte
		v uint64
	}{
		{[]byte{0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c}, 151288809941952652},
		{[]byte{0x9d, 0x7f, 0x3e, 0x7d}, 494878333},
		{[]byte{0x7b, 0xbd}, 15293},
		{[]byte{0x25}, 37},
	} {
		if v, n := ConsumeVarint(c.b); v != c.v || n != len(c.b) {
			t.Errorf("ConsumeVarint(%x) = %d, %d; want %d, %d", c.b, v, n, c.v, len(c.b))
		}
		if got := AppendVarint(nil, c.v); !bytes.Equal(got, c.b) {
			t.Errorf("AppendVarint(%d) = %x, want %x", c.v, got, c.b)
		}
	}
	if v, n := ConsumeVarint([]byte{0x40, 0x25}); v != 37 || n != 2 {
		t.Errorf("long form of 37 = %d, %d", v, n)
	}
}

func TestVarintBounds(t *testing.T) {
	for _, v := range []uint64{0, 1, 63, 64, 16383, 16384, 1<<30 - 1, 1 << 30, 1<<32 - 1, MaxVarint - 1, MaxVarint} {
		b := AppendVarint([]byte{0xee}, v)
		if len(b)-1 != VarintLen(v) {
			t.Errorf("VarintLen(%d) = %d, encoding has %d bytes", v, VarintLen(v), len(b)-1)
		}
		if got, n := ConsumeVarint(b[1:]); got != v || n != len(b)-1 {
			t.Errorf("%d came back as %d of %d bytes", v, got, n)
		}
		for i := 1; i < len(b); i++ {
			if _, n := ConsumeVarint(b[1:i]); n >= 0 {
				t.Errorf("%d of %d bytes of %d are enough", i-1, len(b)-1, v)
			}
		}
		if got, n := ConsumeVarint(append(b[1:], 0xff)); got != v || n != len(b)-1 {
			t.Errorf("with bytes behind it %d came back as %d of %d bytes", v, got, n)
		}
	}
}

func TestConnID(t *testing.T) {
	seen := map[ConnID]int{}
	for n := 0; n <= MaxConnIDLen; n++ {
		b := bytes.Repeat([]byte{0}, n) // only the length tells these apart
		c, ok := MakeConnID(b)
		if !ok || c.Len() != n || !c.Equal(b) || !bytes.Equal(c.Append(nil), b) || len(c.String()) != 2*n {
			t.Errorf("connection ID of %d bytes: %v, %v", n, c, ok)
		}
		if c.Equal(append(b, 0)) || n > 0 && c.Equal(b[1:]) {
			t.Errorf("connection ID of %d bytes equals one of another length", n)
		}
		seen[c] = n
	}
	if len(seen) != MaxConnIDLen+1 {
		t.Errorf("%d different keys, want %d", len(seen), MaxConnIDLen+1)
	}
	if _, ok := MakeConnID(make([]byte, MaxConnIDLen+1)); ok {
		t.Error("21 bytes are taken")
	}
	c, _ := MakeConnID([]byte{0x0a, 0xff})
	if c.String() != "0aff" || c.At(1) != 0xff {
		t.Errorf("String %q, At(1) %x", c.String(), c.At(1))
	}
}

// RFC 9000, Appendix A.2.
func TestPacketNumberLen(t *testing.T) {
	for _, c := range []struct {
		pn    uint64
		acked int64
		want  int
	}{
		{0xac5c02, 0xabe8b3, 2},
		{0xace8fe, 0xabe8b3, 3},
		{0, -1, 1},
		{126, -1, 1},
		{127, -1, 2},
		{1<<15 - 2, -1, 2},
		{1<<15 - 1, -1, 3},
		{1<<23 - 2, -1, 3},
		{1<<23 - 1, -1, 4},
		{MaxPacketNumber, MaxPacketNumber - 1, 1},
	} {
		if got := PacketNumberLen(c.pn, c.acked); got != c.want {
			t.Errorf("PacketNumberLen(%#x, %#x) = %d, want %d", c.pn, c.acked, got, c.want)
		}
	}
}

// RFC 9000, Appendix A.3: "if the highest successfully authenticated packet
// had a packet number of 0xa82f30ea, then a packet containing a 16-bit value of
// 0x9b32 will be decoded as 0xa82f9b32."
func TestDecodePacketNumber(t *testing.T) {
	for _, c := range []struct {
		largest   int64
		truncated uint64
		n         int
		want      uint64
	}{
		{0xa82f30ea, 0x9b32, 2, 0xa82f9b32},
		{-1, 0, 1, 0},
		{-1, 255, 1, 255},
		{-1, 0xffffffff, 4, 0xffffffff},
		{255, 0, 1, 256},
		{255, 0x80, 1, 0x180},
		{255, 0x81, 1, 0x81},
		{256, 0xff, 1, 0xff},
		{0x180, 0x00, 1, 0x200},
		{MaxPacketNumber, 0xff, 1, MaxPacketNumber},
		{MaxPacketNumber, 0, 1, MaxPacketNumber - 255},
		{MaxPacketNumber, 0, 4, MaxPacketNumber - 1<<32 + 1},
	} {
		if got := DecodePacketNumber(c.largest, c.truncated, c.n); got != c.want {
			t.Errorf("DecodePacketNumber(%#x, %#x, %d) = %#x, want %#x", c.largest, c.truncated, c.n, got, c.want)
		}
	}
}

// What PacketNumberLen chooses has to be decoded right by a receiver that has
// seen anything from the last acknowledged packet up to the one before.
func TestPacketNumberRoundTrip(t *testing.T) {
	for _, base := range []int64{-1, 0, 100, 1 << 31, 1<<62 - 1<<24} {
		for _, ahead := range []uint64{1, 2, 126, 127, 128, 1 << 14, 1<<15 - 1, 1 << 15, 1<<23 - 1, 1 << 23, 1<<24 - 1} {
			pn := uint64(base) + ahead
			n := PacketNumberLen(pn, base)
			b := appendPacketNumber(nil, pn, n)
			var truncated uint64
			for _, c := range b {
				truncated = truncated<<8 | uint64(c)
			}
			for _, largest := range []int64{base, base + int64(ahead/2), int64(pn) - 1} {
				if got := DecodePacketNumber(largest, truncated, n); got != pn {
					t.Errorf("packet %#x in %d bytes after %#x is read as %#x", pn, n, largest, got)
				}
			}
		}
	}
}

func FuzzPacketNumber(f *testing.F) {
	f.Add(int64(-1), uint64(0), 1)
	f.Add(int64(0xa82f30ea), uint64(0x9b32), 2)
	f.Add(int64(MaxPacketNumber), uint64(0), 4)
	f.Fuzz(func(t *testing.T, largest int64, truncated uint64, n int) {
		largest = int64(uint64(largest+1)%(1<<62)) - 1
		n = n&3 + 1
		truncated &= 1<<(8*n) - 1
		pn := DecodePacketNumber(largest, truncated, n)
		if pn > MaxPacketNumber || pn&(1<<(8*n)-1) != truncated {
			t.Fatalf("DecodePacketNumber(%#x, %#x, %d) = %#x", largest, truncated, n, pn)
		}
		// No candidate one window away is closer to the expected number.
		window, expected := uint64(1)<<(8*n), uint64(largest+1)
		distance := func(x uint64) uint64 { return max(x, expected) - min(x, expected) }
		if pn >= window && distance(pn-window) < distance(pn) {
			t.Fatalf("%#x is not the closest to %#x", pn, expected)
		}
		if pn+window <= MaxPacketNumber && distance(pn+window) < distance(pn) {
			t.Fatalf("%#x is not the closest to %#x", pn, expected)
		}
	})
}

func BenchmarkConsumeVarint(b *testing.B) {
	var buf []byte
	for _, v := range []uint64{1, 300, 70000, 1 << 40} {
		buf = AppendVarint(buf, v)
	}
	for b.Loop() {
		for r := buf; len(r) > 0; {
			_, n := ConsumeVarint(r)
			r = r[n:]
		}
	}
}
