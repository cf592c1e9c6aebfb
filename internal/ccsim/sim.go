// Package ccsim runs congestion controllers over a simulated bottleneck, as
// plain computation: no goroutines, no clock and no sockets, so that a run is
// the same to the byte each time, and minutes of traffic take a moment. What
// sends and acknowledges is quic/recovery as connections use it: Loss, RTT,
// Pacer, Received.
//
// The flow of a packet:
//
//  1. flow.pump sends while window and pacer allow.
//  2. sim.carry drops it by chance, or because the queue is full, or marks it,
//     and says when it arrives.
//  3. flow.arrive records it and acknowledges as a receiver does.
//  4. flow.acked hears of it after the way back.
package ccsim

import (
	"math/rand/v2"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
)

const (
	datagram    = 1400
	maxAckDelay = 25 * time.Millisecond
)

// Link is the bottleneck that all flows share, and the way back.
type Link struct {
	Rate    int64         // bytes per second
	Delay   time.Duration // one way
	Queue   int           // bytes that may wait
	Loss    float64       // share of packets lost at random; acknowledgments are lost as often
	MarkAt  int           // ECN: packets that find more bytes waiting are marked; 0: none
	Reorder float64       // share of packets that take ReorderBy longer than those behind them
	By      time.Duration
}

// Flow is one sender.
type Flow struct {
	Algorithm recovery.Algorithm
	Start     time.Duration
	Bytes     int           // to send; 0: without end
	Pause     time.Duration // after each Burst bytes nothing is sent for so long
	Burst     int
}

// Sample is a flow at one time.
type Sample struct {
	At       time.Duration
	Window   int           // bytes
	InFlight int           // bytes
	Smoothed time.Duration // round trip
	Queue    int           // bytes that wait at the bottleneck, of all flows
	State    string
}

// Result is what became of a flow.
type Result struct {
	Samples   []Sample
	Delivered int           // bytes, each once
	Finished  time.Duration // when the last byte was acknowledged; 0: it was not
	Lost      uint64        // bytes
	Spurious  uint64        // packets
	Undone    uint64
	MaxQueue  int // bytes that waited in its time
	MeanQueue int
}

// Run is a simulation. Equal runs give equal results.
type Run struct {
	Seed     uint64
	Link     Link
	Flows    []Flow
	Duration time.Duration
	Every    time.Duration // between samples; 0: none
}

// sim is a run under way.
type sim struct {
	run    *Run
	now    time.Time
	start  time.Time
	free   time.Time // when the bottleneck has sent what it has
	events events
	seq    uint64
	random *rand.Rand
	flows  []*flow
}

type kind uint8

const (
	wake kind = iota // the sender's or the receiver's timer
	arrival
	ackArrival
	sampling
)

type event struct {
	at   time.Time
	seq  uint64
	kind kind
	flow *flow
	pn   uint64
	ce   bool
	ack  *ackFrame
}

type ackFrame struct {
	ranges []recovery.AckRange
	ecn    *[3]uint64
	delay  time.Duration
}

type events []event

// less orders events by time, those of one time as they were made.
func (q events) less(i, j int) bool {
	if c := q[i].at.Compare(q[j].at); c != 0 {
		return c < 0
	}
	return q[i].seq < q[j].seq
}

// push and pop make q a heap; container/heap would allocate for each event.
func (q *events) push(ev event) {
	*q = append(*q, ev)
	h := *q
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.less(i, up) {
			return
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (q *events) pop() event {
	h := *q
	ev, last := h[0], len(h)-1
	h[0], h[last] = h[last], event{}
	h = h[:last]
	*q = h
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return ev
		}
		if child+1 < last && h.less(child+1, child) {
			child++
		}
		if !h.less(child, i) {
			return ev
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}

// Do carries out the run and returns one result for each flow.
func (r *Run) Do() []Result {
	start := time.Unix(1_000_000_000, 0)
	s := &sim{run: r, now: start, start: start, free: start, random: rand.New(rand.NewPCG(r.Seed, 0x5eed))}
	for i := range r.Flows {
		f := newFlow(s, &r.Flows[i], r.Seed+uint64(i))
		s.flows = append(s.flows, f)
		s.push(event{at: start.Add(r.Flows[i].Start), kind: wake, flow: f})
	}
	if r.Every > 0 {
		s.push(event{at: start, kind: sampling})
	}
	end := start.Add(r.Duration)
	for len(s.events) > 0 {
		ev := s.events.pop()
		if ev.at.After(end) {
			break
		}
		s.now = ev.at
		s.handle(&ev)
	}
	out := make([]Result, len(s.flows))
	for i, f := range s.flows {
		out[i] = f.finish()
	}
	return out
}

func (s *sim) push(ev event) {
	s.seq++
	ev.seq = s.seq
	s.events.push(ev)
}

func (s *sim) handle(ev *event) {
	switch ev.kind {
	case sampling:
		for _, f := range s.flows {
			f.sample()
		}
		s.push(event{at: s.now.Add(s.run.Every), kind: sampling})
	case wake:
		ev.flow.timer()
	case arrival:
		ev.flow.arrive(ev.pn, ev.ce)
	case ackArrival:
		ev.flow.onAck(ev.ack)
	}
}

// waiting is the bytes in the bottleneck's queue.
func (s *sim) waiting() int {
	return int(max(s.free.Sub(s.now), 0).Seconds() * float64(s.run.Link.Rate))
}

// carry takes a packet of f over the bottleneck.
func (s *sim) carry(f *flow, pn uint64, size int, ect bool) {
	l := &s.run.Link
	lost := s.random.Float64() < l.Loss
	late := s.random.Float64() < l.Reorder
	queue := s.waiting()
	if lost || queue+size > l.Queue {
		return
	}
	s.free = s.free.Add(max(s.now.Sub(s.free), 0)).Add(time.Duration(float64(size) / float64(l.Rate) * 1e9))
	ev := event{at: s.free.Add(l.Delay), kind: arrival, flow: f, pn: pn, ce: ect && l.MarkAt > 0 && queue > l.MarkAt}
	if late {
		ev.at = ev.at.Add(l.By)
	}
	s.push(ev)
}
