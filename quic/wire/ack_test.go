package wire

import (
	"bytes"
	"slices"
	"testing"
)

// manyRanges returns n ranges with one missing number between two.
func manyRanges(n int) []AckRange {
	ranges := make([]AckRange, n)
	for i := range ranges {
		at := uint64(3 * (n - i))
		ranges[i] = AckRange{at, at + 1}
	}
	return ranges
}

func TestAck(t *testing.T) {
	// RFC 9000, Section 19.3.1: an example by hand. 10-12, 7-7, 0-4: first
	// range 2, gap 10-7-2 = 1 and length 0, gap 7-4-2 = 1 and length 4.
	b := AppendAck(nil, []AckRange{{10, 12}, {7, 7}, {0, 4}}, 5, nil, 100)
	if want := []byte{FrameAck, 12, 5, 2, 2, 1, 0, 1, 4}; !bytes.Equal(b, want) {
		t.Errorf("encoded %x, want %x", b, want)
	}
	var a Ack
	if n := ConsumeAck(b, &a); n != len(b) || a.Largest != 12 || a.Delay != 5 || a.ECN {
		t.Errorf("%d, %+v", n, a)
	}
	if want := []AckRange{{10, 12}, {7, 7}, {0, 4}}; !slices.Equal(a.Ranges, want) {
		t.Errorf("ranges %v, want %v", a.Ranges, want)
	}
	b = AppendAck(nil, []AckRange{{3, 3}}, 0, &[3]uint64{1, 2, 70}, 100)
	if n := ConsumeAck(b, &a); n != len(b) || !a.ECN || a.ECT0 != 1 || a.ECT1 != 2 || a.CE != 70 || len(a.Ranges) != 1 {
		t.Errorf("%d, %+v", n, a)
	}
}

func TestAckReuse(t *testing.T) {
	var a Ack
	ConsumeAck(AppendAck(nil, manyRanges(20), 9, &[3]uint64{1, 1, 1}, 1000), &a)
	if n := ConsumeAck(AppendAck(nil, manyRanges(1), 0, nil, 1000), &a); n < 0 || len(a.Ranges) != 1 || a.ECN || a.ECT0 != 0 || a.Delay != 0 {
		t.Errorf("values of the frame before are left: %+v", a)
	}
}

func TestAckRangeCap(t *testing.T) {
	var a Ack
	ranges := manyRanges(700)
	b := AppendAck(nil, ranges, 0, nil, 1<<16)
	if n := ConsumeAck(b, &a); n != len(b) {
		t.Fatalf("%d of %d bytes", n, len(b))
	}
	if !slices.Equal(a.Ranges, ranges[:maxAckRanges]) || a.RangesIgnored != 700-maxAckRanges {
		t.Errorf("%d ranges kept, %d ignored", len(a.Ranges), a.RangesIgnored)
	}
	// The ranges that are not kept are checked all the same.
	bad := append([]byte(nil), b...)
	bad[len(bad)-1] = 63
	if ConsumeAck(bad, &a) >= 0 {
		t.Error("a negative packet number passes in a range that is not kept")
	}
}

// The frame takes at most max bytes and holds the highest ranges that fit.
func TestAppendAckMax(t *testing.T) {
	var a Ack
	ranges := manyRanges(100)
	for _, ecn := range []*[3]uint64{nil, {1, 2, 3}} {
		whole := len(AppendAck(nil, ranges, 1000, ecn, 1<<16))
		last := 0
		for limit := 0; limit <= whole; limit++ {
			b := AppendAck([]byte{9}, ranges, 1000, ecn, limit)[1:]
			if len(b) > limit {
				t.Fatalf("%d bytes, at most %d allowed", len(b), limit)
			}
			if len(b) == 0 {
				if limit > 12 {
					t.Fatalf("nothing fits in %d bytes", limit)
				}
				continue
			}
			if n := ConsumeAck(b, &a); n != len(b) || !slices.Equal(a.Ranges, ranges[:len(a.Ranges)]) {
				t.Fatalf("limit %d: %d, %+v", limit, n, a)
			}
			if len(a.Ranges) < last {
				t.Fatalf("limit %d: %d ranges, fewer than with less room", limit, len(a.Ranges))
			}
			last = len(a.Ranges)
		}
		if last != len(ranges) {
			t.Errorf("%d ranges in the end, want %d", last, len(ranges))
		}
	}
}

func TestAppendAckOdd(t *testing.T) {
	if b := AppendAck([]byte{1}, nil, 0, nil, 100); len(b) != 1 {
		t.Errorf("no ranges: %x", b)
	}
	if b := AppendAck(nil, []AckRange{{5, 4}}, 0, nil, 100); len(b) != 0 {
		t.Errorf("inverted range: %x", b)
	}
	var a Ack
	for name, ranges := range map[string][]AckRange{
		"adjacent":    {{10, 12}, {5, 9}},
		"overlapping": {{10, 12}, {5, 11}},
		"ascending":   {{10, 12}, {20, 21}},
		"inverted":    {{10, 12}, {5, 4}},
	} {
		b := AppendAck(nil, ranges, 0, nil, 100)
		if n := ConsumeAck(b, &a); n != len(b) || !slices.Equal(a.Ranges, ranges[:1]) {
			t.Errorf("%s: %d, %+v; want the first range alone", name, n, a)
		}
	}
}

// FuzzAck: whatever is taken as an ACK frame has ranges in descending order
// that do not touch, and comes back the same.
func FuzzAck(f *testing.F) {
	for _, s := range frameSamples() {
		if s.b[0] == FrameAck || s.b[0] == FrameAckECN {
			f.Add(s.b, 100)
		}
	}
	f.Add(AppendAck(nil, manyRanges(300), 7, nil, 1<<16), 50)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		var a, c Ack
		n := ConsumeAck(b, &a)
		if n < 0 {
			return
		}
		if n > len(b) || len(a.Ranges) == 0 || len(a.Ranges) > maxAckRanges || a.Ranges[0].Largest != a.Largest {
			t.Fatalf("%d of %d bytes: %+v", n, len(b), a)
		}
		for i, r := range a.Ranges {
			if r.Smallest > r.Largest || i > 0 && r.Largest+2 > a.Ranges[i-1].Smallest {
				t.Fatalf("ranges %v", a.Ranges)
			}
		}
		out := AppendAck(nil, a.Ranges, a.Delay, nil, limit)
		if len(out) > max(limit, 0) {
			t.Fatalf("%d bytes, at most %d allowed", len(out), limit)
		}
		if len(out) > 0 && (ConsumeAck(out, &c) != len(out) || !slices.Equal(c.Ranges, a.Ranges[:len(c.Ranges)])) {
			t.Fatalf("%v became %v", a.Ranges, c.Ranges)
		}
	})
}

func BenchmarkConsumeAck(b *testing.B) {
	frame := AppendAck(nil, manyRanges(10), 100, nil, 1000)
	var a Ack
	b.ReportAllocs()
	for b.Loop() {
		if ConsumeAck(frame, &a) < 0 {
			b.Fatal("malformed")
		}
	}
}

func BenchmarkAppendAck(b *testing.B) {
	ranges, buf := manyRanges(10), make([]byte, 0, 128)
	b.ReportAllocs()
	for b.Loop() {
		AppendAck(buf, ranges, 100, nil, 1000)
	}
}
