package udp

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"testing"
)

// short and long make packets around a connection ID; the rest is filler.
func short(id []byte) []byte {
	p := append([]byte{0x40}, id...)
	return append(p, make([]byte, 40)...)
}

func long(first byte, id []byte) []byte {
	p := append([]byte{first, 0, 0, 0, 1, byte(len(id))}, id...)
	return append(p, make([]byte, 1200-len(p))...)
}

func newID(t testing.TB, l Layout, shard, generation uint8) []byte {
	t.Helper()
	id, err := l.Append(nil, shard, generation, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestLayoutRoundTrip(t *testing.T) {
	for _, l := range []Layout{{}, {Len: 8}, {Len: 20, Rotation: 6}, {Len: 3}, {Len: 99}, {Rotation: 7}} {
		for shard := range 256 {
			id := newID(t, l, uint8(shard), uint8(255-shard))
			s, g, ok := l.Shard(id)
			if !ok || int(s) != shard || int(g) != 255-shard || len(id) != l.Size() {
				t.Fatalf("layout %+v: %x is shard %d generation %d ok %v", l, id, s, g, ok)
			}
			// The QUIC-LB first octet describes the length of what follows.
			if int(id[0]&0x1f) != len(id)-1 {
				t.Fatalf("layout %+v: first octet %#x for %d octets", l, id[0], len(id))
			}
			for n := range id {
				if _, _, ok := l.Shard(id[:n]); ok {
					t.Fatalf("layout %+v: %d of %d octets accepted", l, n, len(id))
				}
			}
		}
	}
	if n := (Layout{}).Size(); n != 10 {
		t.Errorf("default size %d, want 10", n)
	}
}

func TestLayoutRandomFails(t *testing.T) {
	b, err := Layout{}.Append([]byte("x"), 1, 2, bytes.NewReader([]byte{1, 2}))
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(b) != "x" {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestSteer(t *testing.T) {
	l := Layout{}
	id := newID(t, l, 5, 0)
	tests := []struct {
		name   string
		pkt    []byte
		shards int
		shard  int
		ok     bool
	}{
		{"short header", short(id), 8, 5, true},
		{"initial with our ID", long(0xc0, id), 8, 5, true},
		{"handshake", long(0xe0, id), 8, 5, true},
		{"shard out of range", short(id), 5, 0, false},
		{"unroutable rotation", short(append([]byte{id[0] | 0xe0}, id[1:]...)), 8, 0, false},
		{"other length", short(append([]byte{id[0] ^ 1}, id[1:]...)), 8, 0, false},
		{"client's ID", long(0xc0, []byte{0, 0, 0, 9, 0, 0, 0, 1}), 4, 0, true},
		{"client's ID, 20 octets", long(0xc0, append([]byte{0, 0, 0, 9, 0, 0, 0, 2}, make([]byte, 12)...)), 4, 3, true},
		{"client's ID too short", long(0xc0, []byte{0, 0, 0, 9, 0, 0, 0}), 4, 0, false},
		{"long header, our ID of another group", long(0xc0, append([]byte{9, 200}, make([]byte, 8)...)), 4, (9<<24 | 200<<16) % 4, true},
		{"runt", short(id)[:13], 8, 0, false},
		{"empty", nil, 8, 0, false},
		{"no shards", short(id), 0, 0, false},
	}
	for _, tt := range tests {
		if s, ok := l.Steer(tt.pkt, tt.shards); s != tt.shard || ok != tt.ok {
			t.Errorf("%s: shard %d %v, want %d %v", tt.name, s, ok, tt.shard, tt.ok)
		}
	}
}

// Jumps of a classic program go forward and stay inside, it ends in a return,
// and no load goes past the length that was tested: whatever the group.
func TestProgramIsWellFormed(t *testing.T) {
	for _, l := range []Layout{{}, {Len: 8}, {Len: 20}} {
		for shards := 1; shards <= MaxShards; shards++ {
			positions := make([]int, shards) // all but one elsewhere: the longest program
			p := l.program(positions)
			for at, in := range p {
				switch in.op {
				case opJumpEq, opJumpGE, opJumpSet:
					if at+1+int(max(in.jt, in.jf)) >= len(p) {
						t.Fatalf("%d shards: jump at %d leaves the program", shards, at)
					}
				case opLoadByte, opLoadWord:
					if width := map[uint16]int{opLoadByte: 1, opLoadWord: 4}[in.op]; int(in.k)+width > l.minSteered() {
						t.Fatalf("load at %d reads past %d bytes", at, l.minSteered())
					}
				}
			}
			if last := p[len(p)-1].op; last != opRetA || len(p) > 4096 {
				t.Fatalf("%d shards: %d instructions, the last %#x", shards, len(p), last)
			}
		}
	}
}

// The IDs clients choose must not all go to one shard.
func TestSteerSpreadsInitials(t *testing.T) {
	const shards, packets = 8, 8000
	var got [shards]int
	for range packets {
		id := make([]byte, 8)
		rand.Read(id)
		s, ok := Layout{}.Steer(long(0xc0, id), shards)
		if !ok {
			t.Fatalf("%x not steered", id)
		}
		got[s]++
	}
	for s, n := range got {
		// 1000 expected, standard deviation 30.
		if n < 800 || n > 1200 {
			t.Errorf("shard %d got %d of %d", s, n, packets)
		}
	}
}

func TestSteerZeroAlloc(t *testing.T) {
	p := short(newID(t, Layout{}, 3, 0))
	if n := testing.AllocsPerRun(100, func() { Layout{}.Steer(p, 4) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
