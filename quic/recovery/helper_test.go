package recovery

import (
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

// rig drives a Loss with a clock of its own. Times are offsets from start.
type rig struct {
	t     testing.TB
	start time.Time
	now   time.Time
	loss  Loss
	rtt   RTT
	cc    Controller
	state State
	acked []uint64
	lost  []uint64
}

// newRig is a client or server after the handshake that skips no packet
// numbers and whose peer has a max_ack_delay of 25 ms.
func newRig(t testing.TB) *rig {
	start := time.Unix(1_000_000, 0)
	r := &rig{t: t, start: start, now: start, cc: NewNewReno(1200)}
	r.state = State{Confirmed: true, HasHandshakeKeys: true, PeerValidated: true}
	r.rtt.Init(0)
	r.loss.Init(25 * ms)
	r.loss.SetRandom(func(n uint64) uint64 { return n - 1 })
	r.loss.skip.at = 1 << 60
	return r
}

func (r *rig) at(d time.Duration) { r.now = r.start.Add(d) }

// send sends one ack-eliciting packet of 1200 bytes and returns its number.
func (r *rig) send(space Space) uint64 {
	return r.sendPacket(space, SentPacket{Size: 1200, AckEliciting: true})
}

func (r *rig) sendPacket(space Space, p SentPacket) uint64 {
	p.PN = r.loss.NextPN(space)
	r.loss.Sent(r.now, space, &p)
	return p.PN
}

func (r *rig) sendN(space Space, n int) {
	for range n {
		r.send(space)
	}
}

// ack processes an ACK frame for ranges and returns what it brought.
func (r *rig) ack(space Space, ranges ...AckRange) AckResult {
	r.t.Helper()
	return r.ackDelayed(space, 0, nil, ranges...)
}

func (r *rig) ackDelayed(space Space, delay time.Duration, ecn *[3]uint64, ranges ...AckRange) AckResult {
	r.t.Helper()
	res, err := r.tryAck(space, delay, ecn, ranges...)
	if err != nil {
		r.t.Fatalf("Ack(%v) = %v", ranges, err)
	}
	return res
}

func (r *rig) tryAck(space Space, delay time.Duration, ecn *[3]uint64, ranges ...AckRange) (AckResult, error) {
	r.acked, r.lost = nil, nil
	return r.loss.Ack(r.now, space, ranges, ecn, delay, r.state, &r.rtt, r.cc,
		func(p *SentPacket) { r.acked = append(r.acked, p.PN) },
		func(p *SentPacket) { r.lost = append(r.lost, p.PN) })
}

func (r *rig) timeout() (Space, int) {
	r.acked, r.lost = nil, nil
	return r.loss.OnTimeout(r.now, &r.rtt, r.state, r.cc, func(p *SentPacket) { r.lost = append(r.lost, p.PN) })
}

// wantDeadline checks the timer; want < 0 means that none is set.
func (r *rig) wantDeadline(want time.Duration, pto bool) {
	r.t.Helper()
	got, isPTO := r.loss.Deadline(r.now, &r.rtt, r.state)
	switch {
	case want < 0 && !got.IsZero():
		r.t.Fatalf("deadline at %v, want none", got.Sub(r.start))
	case want >= 0 && got.IsZero():
		r.t.Fatalf("no deadline, want one at %v", want)
	case want >= 0 && (got.Sub(r.start) != want || isPTO != pto):
		r.t.Fatalf("deadline at %v (PTO %v), want %v (PTO %v)", got.Sub(r.start), isPTO, want, pto)
	}
}

func (r *rig) wantLost(want ...uint64) {
	r.t.Helper()
	if !slices.Equal(r.lost, want) {
		r.t.Fatalf("lost %v, want %v", r.lost, want)
	}
}

func (r *rig) wantAcked(want ...uint64) {
	r.t.Helper()
	if !slices.Equal(r.acked, want) {
		r.t.Fatalf("acked %v, want %v", r.acked, want)
	}
}

func (r *rig) wantInFlight(want int) {
	r.t.Helper()
	if got := r.loss.InFlight(); got != want {
		r.t.Fatalf("in flight %d bytes, want %d", got, want)
	}
}

func (r *rig) wantWindow(want int) {
	r.t.Helper()
	if got := r.cc.Window(); got != want {
		r.t.Fatalf("window %d, want %d", got, want)
	}
}
