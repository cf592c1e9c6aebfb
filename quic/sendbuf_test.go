package quic

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestSendBufRandom runs a sendBuf beside plain sets of offsets: what is sent,
// lost and acknowledged in any order must arrive whole and be freed.
func TestSendBufRandom(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var mem sendMemory
		b := sendBuf{mem: &mem}
		var flight []span
		acked := map[uint64]bool{}
		check := func(sp span) {
			for off := sp.start; off < sp.end; {
				k := b.find(off)
				n := min(sp.end, k.end()) - off
				at := chunkHeadroom + int(off-k.off)
				if !bytes.Equal(k.b[at:at+int(n)], pattern(off, int(n))) {
					t.Fatalf("seed %d: wrong bytes at %d", seed, off)
				}
				off += n
			}
		}
		const size = 200 << 10
		for b.start < size {
			switch rnd.IntN(5) {
			case 0:
				if b.end < size {
					n := min(1+rnd.IntN(20000), size-int(b.end))
					if rnd.IntN(3) == 0 {
						k := b.roomy()
						n = min(n, len(k.room()))
						copy(k.room(), pattern(b.end, n))
						b.grow(k, n)
					} else {
						b.write(pattern(b.end, n))
					}
				}
			case 1, 2:
				sp, again := b.pending()
				if sp.start == sp.end {
					continue
				}
				sp.end = min(sp.end, sp.start+1+uint64(rnd.IntN(1400)))
				for off := sp.start; off < sp.end; off++ {
					if acked[off] {
						t.Fatalf("seed %d: acknowledged byte %d is sent again", seed, off)
					}
				}
				if again && sp.end > b.next {
					t.Fatalf("seed %d: lost span %v beyond next %d", seed, sp, b.next)
				}
				check(sp)
				b.sent(sp.start, sp.end)
				flight = append(flight, sp)
			default:
				if len(flight) == 0 {
					continue
				}
				i := rnd.IntN(len(flight))
				sp := flight[i]
				if rnd.IntN(3) == 0 {
					b.markLost(sp.start, sp.end) // perhaps wrongly: it may still be acknowledged
					if rnd.IntN(2) == 0 {
						continue
					}
				} else {
					b.ack(sp.start, sp.end)
					for off := sp.start; off < sp.end; off++ {
						acked[off] = true
					}
				}
				flight = append(flight[:i], flight[i+1:]...)
			}
			if b.start > b.next || b.next > b.end {
				t.Fatalf("seed %d: start %d next %d end %d", seed, b.start, b.next, b.end)
			}
			checkChunks(t, &b)
		}
		if len(b.chunks) > 1 || len(b.acked) != 0 || len(b.lost) != 0 {
			t.Fatalf("seed %d: %d chunks, acked %v, lost %v at the end", seed, len(b.chunks), b.acked, b.lost)
		}
		b.discard()
		if b.chunks != nil || mem.held != 0 {
			t.Fatalf("%d chunks, %d bytes after discard", len(b.chunks), mem.held)
		}
	}
}

// checkChunks: chunks are contiguous, what they take is counted, and none is kept of
// which every byte is acknowledged.
func checkChunks(t *testing.T, b *sendBuf) {
	t.Helper()
	held := 0
	for i, c := range b.chunks {
		held += len(c.b)
		if i > 0 && b.chunks[i-1].end() != c.off {
			t.Fatalf("chunk %d begins at %d, the one before ends at %d", i, c.off, b.chunks[i-1].end())
		}
		if i > 0 && c.b == nil && b.chunks[i-1].b == nil {
			t.Fatalf("chunks %d and %d are empty, and two", i-1, i)
		}
		whole := c.n > 0 && b.acked.covers(c.off, c.end())
		// The last two may not have been looked at since the last one was begun.
		if last := i >= len(b.chunks)-2; whole && !last && c.b != nil || !whole && c.b == nil && c.end() > b.start {
			t.Fatalf("chunk %d from %d to %d: acknowledged %t, kept %t", i, c.off, c.end(), whole, c.b != nil)
		}
	}
	if held != b.mem.held {
		t.Fatalf("chunks of %d bytes, %d counted", held, b.mem.held)
	}
}

func TestSendBufDiscardWhileFilling(t *testing.T) {
	var b sendBuf
	k := b.roomy()
	k.filling = true
	b.discard()
	copy(k.room(), "late") // the reader still owns the chunk
	b.dropEmptyTails()
	if len(b.chunks) != 0 {
		t.Error("chunks are left")
	}
}

func TestRangesetRandom(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		var s rangeset
		var model [256]bool
		for range 300 {
			start := uint64(rnd.IntN(len(model)))
			end := min(start+uint64(rnd.IntN(40)), uint64(len(model)))
			add := rnd.IntN(2) == 0
			if add {
				s.add(start, end)
			} else {
				s.sub(start, end)
			}
			for i := start; i < end; i++ {
				model[i] = add
			}
			for i, x := range s {
				if x.start >= x.end || i > 0 && s[i-1].end >= x.start {
					t.Fatalf("seed %d: %v is not sorted and apart", seed, s)
				}
			}
			for i, want := range model {
				if got := s.covers(uint64(i), uint64(i)+1); got != want {
					t.Fatalf("seed %d: %d is %v in %v, want %v", seed, i, got, s, want)
				}
			}
			a := uint64(rnd.IntN(len(model)))
			z := min(a+uint64(rnd.IntN(20)), uint64(len(model)))
			want := true
			for i := a; i < z; i++ {
				want = want && model[i]
			}
			if s.covers(a, z) != want {
				t.Fatalf("seed %d: covers(%d, %d) in %v", seed, a, z, s)
			}
		}
	}
}

func TestCryptoStreamRandom(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		const size = 5000
		want := pattern(0, size)
		s := cryptoStream{limit: 4096}
		var got []byte
		for len(got) < size {
			off := max(0, len(got)-50+rnd.IntN(1000))
			n := min(1+rnd.IntN(300), size-min(off, size))
			if n <= 0 {
				off, n = len(got), size-len(got)
				n = min(n, 300)
			}
			if !s.receive(uint64(off), want[off:off+n]) {
				t.Fatalf("seed %d: %d bytes at %d refused with %d taken", seed, n, off, len(got))
			}
			b := s.ready()
			n = rnd.IntN(len(b) + 1)
			got = append(got, b[:n]...)
			s.take(n)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("seed %d: bytes differ", seed)
		}
	}
	s := cryptoStream{limit: 100}
	if s.receive(50, make([]byte, 51)) {
		t.Error("101 bytes ahead were taken")
	}
	if s.receive(1<<62-1, []byte{1}) {
		t.Error("a byte at the end of all offsets was taken")
	}
	if !s.receive(50, make([]byte, 50)) {
		t.Error("100 bytes ahead were refused")
	}
}

func TestCryptoStreamSend(t *testing.T) {
	var s cryptoStream
	s.write(make([]byte, 1000))
	s.sent(0, 400)
	s.sent(400, 1000)
	s.ack(100, 200)
	s.markLost(0, 400)
	want := rangeset{{0, 100}, {200, 400}}
	if len(s.lost) != 2 || s.lost[0] != want[0] || s.lost[1] != want[1] || !s.wants() {
		t.Errorf("lost %v, want %v", s.lost, want)
	}
	s.ack(0, 1000)
	s.rewind()
	if s.wants() {
		t.Errorf("%v is due after everything was acknowledged", s.pending())
	}
}
