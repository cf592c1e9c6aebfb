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
//
// Who has its turn gets a quantum, and comes back when that is used up. If it got
// no more than the piece at hand, one stream that moves its pieces one after the
// other would never be back in time for its next turn, and lose half of its share
// to somebody with many.
type shaper struct {
	mu      sync.Mutex
	rate    float64 // units a second; 0: no limit
	tokens  float64 // what may pass now; below 0: the debt of what passed last
	updated time.Time
	virtual float64 // start tag of the request served last
	clients map[string]*account
	queue   takers
	timer   *time.Timer
	seq     uint64
}

// account is what a shaper knows of a client that it has served lately.
type account struct {
	finish  float64 // tag at which all that it has asked for is served
	prepaid float64 // of its last quantum
	waiting int     // in the queue
}

// creditTime is how far behind its share a client may fall, and still catch up: who
// missed a turn, since the machine was busy with others, is served first next time.
const creditTime = 100 * time.Millisecond

// A quantum is what passes in quantumTime, up to maxQuantum, or one piece.
const (
	quantumTime = 20 * time.Millisecond
	maxQuantum  = 1 << 20
)

// shaperBurst is how long a shaper that nobody used saves up.
const shaperBurst = 50 * time.Millisecond

// taker is one that waits for its turn.
type taker struct {
	start float64
	seq   uint64 // among equals, first come, first served
	units float64
	spare float64 // of units, what is its client's for later
	of    *account
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

// take notes units of a client and waits until it may go on, or ctx ends; what it
// has moved is paid for all the same. With no units it waits until all that the
// client has moved so far is paid for: who begins a new stream for every piece is
// no better off.
func (s *shaper) take(ctx context.Context, client string, units int) error {
	s.mu.Lock()
	a := s.clients[client]
	if s.rate == 0 || units <= 0 && (a == nil || a.waiting == 0) {
		s.mu.Unlock()
		return nil
	}
	if a != nil && units > 0 && a.prepaid >= float64(units) {
		a.prepaid -= float64(units)
		s.mu.Unlock()
		return nil
	}
	now := time.Now()
	s.refill(now)
	t := s.enqueue(client, float64(max(units, 0)))
	s.serve(now)
	s.mu.Unlock()
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		s.abandon(t)
		return context.Cause(ctx)
	}
}

// enqueue asks for units more than the client has got in advance.
func (s *shaper) enqueue(client string, units float64) *taker {
	a := s.account(client)
	t := &taker{start: max(s.virtual-s.rate*creditTime.Seconds(), a.finish), seq: s.seq, of: a, ready: make(chan struct{})}
	if units > 0 {
		due := units - a.prepaid
		t.units = due
		if a.waiting == 0 { // otherwise it is in time for its next turn anyway
			t.units = max(due, min(s.rate*quantumTime.Seconds(), maxQuantum))
		}
		t.spare = t.units - due
		a.prepaid = 0
	}
	a.finish = t.start + t.units
	a.waiting++
	s.seq++
	heap.Push(&s.queue, t)
	return t
}

// abandon takes a taker that nobody waits for any more out of the queue, unless it
// has something to pay.
func (s *shaper) abandon(t *taker) {
	if t.index >= 0 && t.units == 0 {
		heap.Remove(&s.queue, t.index)
		t.of.waiting--
	}
}

// settled reports whether nobody waits and nothing is owed.
func (s *shaper) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) == 0
}

func (s *shaper) account(client string) *account {
	if s.clients == nil {
		s.clients = make(map[string]*account)
	}
	a := s.clients[client]
	if a == nil {
		a = &account{finish: s.virtual}
		s.clients[client] = a
	}
	return a
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
		t.of.prepaid += t.spare
		t.of.waiting--
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
	for c, a := range s.clients {
		if a.finish <= s.virtual && a.waiting == 0 {
			delete(s.clients, c)
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
