package gateway

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// A shaper lets units (bytes, requests) pass at a rate, and shares the rate
// fairly among those who want more than there is: start-time fair queueing
// (Goyal, Vin, Cheng, 1996) over a token bucket. A client's share does not
// depend on how many connections and streams it asks with.
//
// Units are paid for after they have moved: take notes them, and returns when
// the caller may move more. So nothing is held back that a peer has sent
// already, and the bytes wait where flow control holds them, at their source.
type shaper struct {
	mu      sync.Mutex
	rate    float64 // units a second; 0: no limit
	tokens  float64 // what may pass now; below 0: the debt of what passed last
	updated time.Time
	virtual float64 // start tag of the request served last
	finish  map[string]float64
	queue   takers
	timer   *time.Timer
	seq     uint64
}

// shaperBurst is how long a shaper that nobody used saves up.
const shaperBurst = 50 * time.Millisecond

// taker is one that waits for its turn.
type taker struct {
	start float64
	seq   uint64 // among equals, first come, first served
	units float64
	ready chan struct{}
	index int // in the queue; -1: served
}

// setRate changes the rate; 0 lets everything pass.
func (s *shaper) setRate(rate float64, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refill(now)
	s.rate = rate
	s.serve(now)
}

// take notes units of a client and waits until it may go on, or ctx ends.
func (s *shaper) take(ctx context.Context, client string, units int) error {
	if units <= 0 {
		return nil
	}
	s.mu.Lock()
	if s.rate == 0 {
		s.mu.Unlock()
		return nil
	}
	now := time.Now()
	s.refill(now)
	if s.finish == nil {
		s.finish = make(map[string]float64)
	}
	start := max(s.virtual, s.finish[client])
	s.finish[client] = start + float64(units)
	s.seq++
	t := &taker{start: start, seq: s.seq, units: float64(units), ready: make(chan struct{})}
	heap.Push(&s.queue, t)
	s.serve(now)
	s.mu.Unlock()
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if t.index >= 0 {
			heap.Remove(&s.queue, t.index)
		}
		return context.Cause(ctx)
	}
}

func (s *shaper) refill(now time.Time) {
	if s.updated.IsZero() {
		s.tokens = s.rate * shaperBurst.Seconds()
	} else {
		s.tokens = min(s.tokens+s.rate*now.Sub(s.updated).Seconds(), max(s.rate*shaperBurst.Seconds(), 1))
	}
	s.updated = now
}

// serve lets pass what there are tokens for, in the order of the start tags,
// and sets the timer for the next.
func (s *shaper) serve(now time.Time) {
	for len(s.queue) > 0 && (s.tokens > 0 || s.rate == 0) {
		t := heap.Pop(&s.queue).(*taker)
		s.virtual = max(s.virtual, t.start)
		s.tokens -= t.units
		close(t.ready)
	}
	if len(s.queue) == 0 {
		s.forget()
		return
	}
	wait := time.Duration((-s.tokens + 1) / s.rate * float64(time.Second))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.wake)
		return
	}
	s.timer.Reset(wait)
}

func (s *shaper) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.refill(now)
	s.serve(now)
}

// forget drops the tags of clients that are not ahead of the others: they say
// nothing any more, and the table does not grow with everybody who ever came.
func (s *shaper) forget() {
	for c, f := range s.finish {
		if f <= s.virtual {
			delete(s.finish, c)
		}
	}
}

// takers is a heap by start tag.
type takers []*taker

func (q takers) Len() int { return len(q) }
func (q takers) Less(i, j int) bool {
	if q[i].start != q[j].start {
		return q[i].start < q[j].start
	}
	return q[i].seq < q[j].seq
}
func (q takers) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *takers) Push(x any) {
	t := x.(*taker)
	t.index = len(*q)
	*q = append(*q, t)
}
func (q *takers) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q, t.index = old[:len(old)-1], -1
	return t
}
