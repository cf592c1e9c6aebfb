package quic

import (
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// endless is a source that always has more, and counts what was taken.
type endless struct{ n atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.n.Add(int64(len(p)))
	return len(p), nil
}

// Of many streams with endless sources a few are filled ahead, and when some of those
// are gone, others. None is forgotten.
func TestLineOfSources(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		const n = 4*maxFilled + 3
		type source struct {
			s *Stream
			endless
		}
		waiting := make(map[*source]bool)
		for range n {
			x := &source{s: tc.openStream()}
			tc.send(wire.Packet1RTT, wire.AppendMaxStreamData(nil, x.s.ID(), 1<<30))
			waiting[x] = true
			go func() { _, _ = x.s.ReadFrom(&x.endless) }()
		}
		for round := 0; len(waiting) > 0; round++ {
			synctest.Wait()
			filled := 0
			for x := range waiting {
				k := x.n.Load()
				if k == 0 {
					continue
				}
				filled++
				if k > maxUnsent+bigChunkSize {
					t.Errorf("a source was read %d bytes ahead", k)
				}
				delete(waiting, x)
				x.s.CancelWrite(7)
			}
			if filled == 0 || filled > 2*maxFilled { // several may ask before the first of them has filled its chunk
				t.Fatalf("round %d: %d streams were filled, %d wait", round, filled, len(waiting))
			}
		}
	})
}

// All get their turns, whoever was first.
func TestLineIsFair(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		const n = 3 * maxFilled
		sources := make([]endless, n)
		for i := range sources {
			s := tc.openStream()
			go func() { _, _ = s.ReadFrom(&sources[i]) }()
		}
		for range 400 { // the peer acknowledges and gives credit
			tc.packets()
			tc.send(wire.Packet1RTT, tc.ackFrame(2), wire.AppendMaxData(nil, 1<<30))
			for i := range uint64(n) {
				tc.send(wire.Packet1RTT, wire.AppendMaxStreamData(nil, tc.ownStream(i, false), 1<<30))
			}
			tc.wait(1)
		}
		least, most := sources[0].n.Load(), sources[0].n.Load()
		for i := range sources {
			least, most = min(least, sources[i].n.Load()), max(most, sources[i].n.Load())
		}
		if least < most/2 {
			t.Errorf("sources gave between %d and %d bytes", least, most)
		}
	})
}

// A source that has nothing to give keeps nobody from sending.
func TestLineWithSilentSources(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		for range 3 * maxFilled {
			s := tc.openStream()
			r, w := io.Pipe()
			go func() { _, _ = s.ReadFrom(r) }()
			defer w.Close()
		}
		s := tc.openStream()
		tc.send(wire.Packet1RTT, wire.AppendMaxStreamData(nil, s.ID(), 1<<30))
		go func() { _, _ = s.ReadFrom(new(endless)) }()
		synctest.Wait()
		if f := tc.want(wire.FrameStream); f.id != s.ID() {
			t.Errorf("stream %d, want %d", f.id, s.ID())
		}
	})
}

// Who is more urgent than those that are filled does not wait for them.
func TestLineIsByUrgency(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		for range 2 * maxFilled {
			s := tc.openStream()
			tc.send(wire.Packet1RTT, wire.AppendMaxStreamData(nil, s.ID(), 1<<30))
			go func() { _, _ = s.ReadFrom(new(endless)) }()
		}
		synctest.Wait()
		s := tc.openStream()
		s.SetPriority(0, true)
		var x endless
		go func() { _, _ = s.ReadFrom(&x) }()
		synctest.Wait()
		if x.n.Load() == 0 {
			t.Error("the most urgent source stands in line")
		}
	})
}
