package ccsim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
)

// flow is a sender and its receiver.
type flow struct {
	sim *sim
	cfg *Flow

	loss   recovery.Loss
	rtt    recovery.RTT
	cc     recovery.Controller
	pacer  recovery.Pacer
	left   int // bytes not yet sent; lost ones come back
	open   time.Time
	burst  int // bytes left of the burst
	wakeAt time.Time
	probes int
	result Result

	recv    recovery.Received
	ackAt   time.Time
	queues  int // sum over samples
	samples int
}

var established = recovery.State{Confirmed: true, HasHandshakeKeys: true, PeerValidated: true}

func newFlow(s *sim, cfg *Flow, seed uint64) *flow {
	f := &flow{sim: s, cfg: cfg, left: cfg.Bytes, burst: cfg.Burst}
	f.cc = recovery.NewController(cfg.Algorithm, datagram)
	f.rtt.Init(0)
	f.loss.Init(maxAckDelay)
	random := rand.New(rand.NewPCG(seed, 1))
	f.loss.SetRandom(random.Uint64N)
	if s.run.Link.MarkAt > 0 {
		f.loss.EnableECN()
	}
	f.pacer.Init(datagram)
	f.recv.Init(recovery.AppData, maxAckDelay)
	return f
}

// hasData reports whether there is something to send now.
func (f *flow) hasData() bool {
	return (f.cfg.Bytes == 0 || f.left > 0) && !f.sim.now.Before(f.open)
}

// pump sends what it may and sets the timer.
func (f *flow) pump() {
	now := f.sim.now
	if f.cfg.Bytes > 0 && f.result.Finished == 0 && f.left <= 0 && f.loss.InFlight() == 0 {
		f.result.Finished = now.Sub(f.sim.start)
	}
	var next time.Time
	for {
		if f.probes > 0 {
			f.probes--
			f.send()
			continue
		}
		if !f.hasData() {
			f.loss.SetAppLimited(true)
			next = f.open
			break
		}
		f.loss.SetAppLimited(false)
		if !f.cc.CanSend(f.loss.InFlight()) {
			break
		}
		if f.pacer.Budget(now, f.cc.PacingRate(f.rtt.Smoothed())) < datagram {
			next = f.pacer.Next(now, f.pacer.Quantum())
			break
		}
		f.send()
	}
	if d, _ := f.loss.Deadline(now, &f.rtt, established); !d.IsZero() && (!next.After(now) || d.Before(next)) {
		next = d
	}
	f.wakeUp(next)
}

func (f *flow) wakeUp(at time.Time) {
	if at.IsZero() {
		return
	}
	if !at.After(f.sim.now) {
		at = f.sim.now.Add(time.Microsecond)
	}
	if f.wakeAt.After(f.sim.now) && !at.Before(f.wakeAt) {
		return // it will look again then
	}
	f.wakeAt = at
	f.sim.push(event{at: at, kind: wake, flow: f})
}

func (f *flow) send() {
	now := f.sim.now
	p := recovery.SentPacket{PN: f.loss.NextPN(recovery.AppData), Size: datagram, AckEliciting: true, ECN: f.loss.ECNMark()}
	p.SendState = f.cc.OnSent(now, datagram, f.loss.InFlight())
	f.loss.Sent(now, recovery.AppData, &p)
	f.pacer.Sent(now, datagram)
	f.left -= datagram
	if f.cfg.Burst > 0 {
		if f.burst -= datagram; f.burst <= 0 {
			f.burst = f.cfg.Burst
			f.open = now.Add(f.cfg.Pause)
		}
	}
	f.sim.carry(f, p.PN, datagram, p.ECN)
}

// timer is the sender's or the receiver's.
func (f *flow) timer() {
	now := f.sim.now
	if d, _ := f.loss.Deadline(now, &f.rtt, established); !d.IsZero() && !d.After(now) {
		_, n := f.loss.OnTimeout(now, &f.rtt, established, f.cc, f.onLost)
		f.probes += n
	}
	f.pump()
	f.acknowledge()
}

func (f *flow) onLost(p *recovery.SentPacket) { f.left += int(p.Size) }

// arrive is the receiver's.
func (f *flow) arrive(pn uint64, ce bool) {
	if f.recv.Duplicate(pn) {
		return
	}
	mark := recovery.NotECT
	if f.sim.run.Link.MarkAt > 0 {
		mark = recovery.ECT0
		if ce {
			mark = recovery.CE
		}
	}
	f.recv.Add(f.sim.now, pn, true, mark)
	f.acknowledge()
}

// acknowledge sends an acknowledgment if one is due.
func (f *flow) acknowledge() {
	now := f.sim.now
	d := f.recv.AckDeadline()
	if d.IsZero() {
		return
	}
	if d.After(now) {
		if !f.ackAt.Equal(d) {
			f.ackAt = d
			f.sim.push(event{at: d, kind: wake, flow: f})
		}
		return
	}
	a := &ackFrame{ranges: slices.Clone(f.recv.Ranges()), delay: f.recv.Delay(now)}
	if c := f.recv.ECNCounts(); c != nil {
		counts := *c
		a.ecn = &counts
	}
	f.recv.OnAckSent(now)
	if f.sim.random.Float64() >= f.sim.run.Link.Loss {
		f.sim.push(event{at: now.Add(f.sim.run.Link.Delay), kind: ackArrival, flow: f, ack: a})
	}
}

func (f *flow) onAck(a *ackFrame) {
	now := f.sim.now
	_, err := f.loss.Ack(now, recovery.AppData, a.ranges, a.ecn, a.delay, established, &f.rtt, f.cc, func(p *recovery.SentPacket) {
		f.result.Delivered += int(p.Size)
	}, f.onLost)
	if err != nil {
		panic(fmt.Sprintf("ccsim: %v", err)) // the receiver above acknowledges what it got
	}
	// The receiver may forget what has been acknowledged for a while.
	if n := len(a.ranges); n > 32 {
		f.recv.DropBelow(a.ranges[n/2].Smallest)
	}
	f.pump()
}

func (f *flow) sample() {
	at := f.sim.now.Sub(f.sim.start)
	if at < f.cfg.Start || f.result.Finished > 0 {
		return
	}
	var r recovery.Report
	f.cc.Report(&r)
	q := f.sim.waiting()
	f.result.Samples = append(f.result.Samples, Sample{
		At: at, Window: f.cc.Window(), InFlight: f.loss.InFlight(), Smoothed: f.rtt.Smoothed(), Queue: q, State: r.State,
	})
	f.result.MaxQueue = max(f.result.MaxQueue, q)
	f.queues += q
	f.samples++
}

func (f *flow) finish() Result {
	n := f.loss.Counts()
	var r recovery.Report
	f.cc.Report(&r)
	f.result.Lost, f.result.Spurious, f.result.Undone = n.BytesLost, n.Spurious, r.Undone
	f.result.MeanQueue = f.queues / max(f.samples, 1)
	return f.result
}
