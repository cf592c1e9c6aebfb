package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// moved counts what clients get through a shaper in a time: each of streams
// moves pieces one after the other, as fast as it is let.
func moved(t *testing.T, s *shaper, d time.Duration, piece int, streams map[string]int) map[string]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	counts := map[string]*atomic.Int64{}
	var wg sync.WaitGroup
	for client, n := range streams {
		c := new(atomic.Int64)
		counts[client] = c
		for range n {
			wg.Go(func() {
				for s.take(ctx, client, piece) == nil {
					c.Add(int64(piece))
				}
			})
		}
	}
	wg.Wait()
	out := map[string]int64{}
	for client, c := range counts {
		out[client] = c.Load()
	}
	return out
}

// A greedy client costs another at most 20 % of its fair share, however many
// streams it asks with, and one that is alone gets everything.
func TestShaperFair(t *testing.T) {
	const rate, seconds = 10 << 20, 20
	for _, streams := range []map[string]int{
		{"greedy": 64, "modest": 1}, {"greedy": 500, "modest": 1, "other": 2}, {"alone": 1}, {"alone": 100},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &shaper{rate: rate}
			got := moved(t, s, seconds*time.Second, 64<<10, streams)
			var sum int64
			fair := int64(rate * seconds / len(streams))
			for client, n := range got {
				sum += n
				if n < fair*8/10 || n > fair*12/10 {
					t.Errorf("%v: %s moved %d bytes, its fair share is %d", streams, client, n, fair)
				}
			}
			if sum < rate*seconds*95/100 || sum > rate*seconds*105/100 {
				t.Errorf("%v: %d bytes in all, the rate lets through %d", streams, sum, rate*seconds)
			}
		})
	}
}

// Large pieces of one do not count less than small ones of another.
func TestShaperPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shaper{rate: 1 << 20}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		pieces := [2]int{256 << 10, 4 << 10}
		var got [2]atomic.Int64
		var wg sync.WaitGroup
		for i, piece := range pieces {
			for range 8 {
				wg.Go(func() {
					for s.take(ctx, fmt.Sprint(i), piece) == nil {
						got[i].Add(int64(piece))
					}
				})
			}
		}
		wg.Wait()
		const fair = 30 << 20
		for i, piece := range pieces {
			if n := got[i].Load(); n < fair*8/10 || n > fair*12/10 {
				t.Errorf("pieces of %d moved %d bytes, the fair share is %d", piece, n, fair)
			}
		}
	})
}

// Who waits can be given up; a limit that is lifted lets everybody go.
func TestShaperEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shaper{rate: 1}
		ctx, cancel := context.WithCancelCause(t.Context())
		errs := make(chan error, 10)
		for range 10 {
			go func() { errs <- s.take(ctx, "c", 1000) }()
		}
		synctest.Wait()
		gone := errors.New("gone")
		cancel(gone)
		passed := 0
		for range 10 {
			if err := <-errs; err == nil {
				passed++
			} else if !errors.Is(err, gone) {
				t.Error(err)
			}
		}
		if passed != 1 || len(s.queue) != 9 {
			t.Errorf("%d passed, %d are still to be paid for", passed, len(s.queue))
		}
		for range 10 {
			go func() { errs <- s.take(t.Context(), "c", 1000) }()
		}
		synctest.Wait()
		start := time.Now()
		s.setRate(0, start)
		for range 10 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %s without a limit", waited)
		}
		if len(s.clients) != 1 {
			t.Errorf("%d clients remembered", len(s.clients))
		}
	})
}

// What was moved is paid for, also when the stream that moved it is gone: a client
// that begins a new stream for each piece moves no more than its rate.
func TestShaperAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, piece, seconds = 1 << 20, 64 << 10, 20
		s := &shaper{rate: rate}
		end := time.Now().Add(seconds * time.Second)
		moved := 0
		for time.Now().Before(end) {
			if err := s.take(t.Context(), "c", 0); err != nil {
				t.Fatal(err)
			}
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			moved += piece
			_ = s.take(gone, "c", piece)
		}
		if most := rate*seconds + 4*piece; moved > most {
			t.Errorf("%d bytes moved in %d s, the rate lets through %d", moved, seconds, most)
		}
		start := time.Now()
		if err := s.take(t.Context(), "other", piece); err != nil || time.Since(start) > time.Second {
			t.Errorf("another client waited %s, %v", time.Since(start), err)
		}
	})
}
