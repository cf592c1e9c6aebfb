package recovery

import (
	"math"
	"strings"
	"testing"
	"time"
)

// A cubicRig feeds a controller one acknowledgment at a time.
type cubicRig struct {
	*testing.T
	c   *cubic
	now time.Time
	rtt RTT
}

func newCubicRig(t *testing.T, rtt time.Duration) *cubicRig {
	r := &cubicRig{T: t, c: NewCUBIC(1200).(*cubic), now: time.Unix(1000, 0)}
	r.rtt.Init(0)
	r.rtt.Update(rtt, 0, 0, true)
	return r
}

// ack acknowledges n bytes, sent just now, from a full window.
func (r *cubicRig) ack(n int) {
	for left := n; left > 0; left -= 1200 {
		r.c.OnAcked(r.now, &SentPacket{Sent: r.now, Size: uint16(min(left, 1200))}, r.c.window, false)
	}
	r.c.OnAckEnd(r.now, &AckEvent{RTT: &r.rtt, NewestSent: r.now, Acked: n})
}

// avoid acknowledges windows for d, tick by tick.
func (r *cubicRig) avoid(d, tick time.Duration) {
	for end := r.now.Add(d); r.now.Before(end); {
		r.now = r.now.Add(tick)
		r.ack(int(float64(r.c.window) * float64(tick) / float64(r.rtt.Smoothed())))
	}
}

func (r *cubicRig) lose(packets int) {
	r.c.OnLost(r.now, r.now.Add(-time.Nanosecond), packets)
	r.now = r.now.Add(time.Millisecond)
}

// TestCubicFunction compares the window with RFC 9438, Figure 1: "W_cubic(t) =
// C * (t - K)^3 + W_max", on a path so long that the Reno-friendly window stays
// below it.
func TestCubicFunction(t *testing.T) {
	r := newCubicRig(t, 200*ms)
	r.c.window, r.c.grown = 1200*1000, true
	r.lose(1)
	// RFC 9438, Section 4.6: "cwnd = max(ssthresh, 2)" with beta_cubic 0.7.
	if r.c.window != 700*1200 || r.c.threshold != 700*1200 {
		t.Fatalf("window %d, threshold %d after a loss at 1000 datagrams", r.c.window, r.c.threshold)
	}
	k := math.Cbrt(300 / 0.4) // seconds: 9.09
	at := time.Duration(0)
	for _, next := range []time.Duration{2 * time.Second, 6 * time.Second, 9 * time.Second, 12 * time.Second, 18 * time.Second} {
		r.avoid(next-at, 20*ms)
		at = next
		x := next.Seconds() - k
		want := 0.4*x*x*x + 1000
		got := float64(r.c.window) / 1200
		if math.Abs(got-want) > 0.02*want {
			t.Errorf("after %v: %.1f datagrams, want %.1f", next, got, want)
		}
	}
}

// RFC 9438, Section 4.3: where Reno would be faster, its window is taken: at
// first alpha_cubic datagrams a round trip, from the old window on one.
func TestCubicRenoFriendly(t *testing.T) {
	r := newCubicRig(t, 10*ms)
	r.c.window, r.c.grown = 1200*40, true
	r.lose(1)
	before := float64(r.c.window)
	r.avoid(100*ms, ms)
	got := (float64(r.c.window) - before) / 1200
	if want := 10 * cubicAlpha; math.Abs(got-want) > 0.15*want {
		t.Errorf("%.2f datagrams in ten round trips, want %.2f", got, want)
	}
	for r.c.wEst < r.c.prior {
		r.avoid(10*ms, ms)
	}
	before = float64(r.c.window)
	r.avoid(100*ms, ms)
	if got := (float64(r.c.window) - before) / 1200; math.Abs(got-10) > 1.5 {
		t.Errorf("%.2f datagrams in ten round trips above the old window, want 10", got)
	}
}

// RFC 9438, Section 4.7: "if cwnd < W_max", W_max becomes "cwnd * (1 +
// beta_cubic) / 2".
func TestCubicFastConvergence(t *testing.T) {
	r := newCubicRig(t, 100*ms)
	r.c.window, r.c.grown = 1200*1000, true
	r.lose(1)
	r.lose(1)
	if want := 1200 * 700 * 1.7 / 2; math.Abs(r.c.wMax-want) > 1 {
		t.Errorf("W_max %.0f, want %.0f", r.c.wMax, want)
	}
	if want := 1200 * 490; r.c.window != want {
		t.Errorf("window %d, want %d", r.c.window, want)
	}
}

// RFC 9438, Section 5.8: time without data to send does not make the window jump.
func TestCubicAppLimited(t *testing.T) {
	r := newCubicRig(t, 100*ms)
	r.c.window, r.c.grown = 1200*1000, true
	r.lose(1)
	r.avoid(time.Second, 10*ms)
	before := r.c.window
	for range 100 {
		r.now = r.now.Add(200 * ms)
		r.c.OnAcked(r.now, &SentPacket{Sent: r.now, Size: 1200}, 1200, true)
		r.c.OnAckEnd(r.now, &AckEvent{RTT: &r.rtt, NewestSent: r.now, Acked: 1200, AppLimited: true})
	}
	if r.c.window != before {
		t.Errorf("window %d after 20 s without use, was %d", r.c.window, before)
	}
	r.avoid(100*ms, 10*ms)
	if got := r.c.window - before; got > 1200*40 {
		t.Errorf("the window jumped by %d bytes", got)
	}
}

func TestCubicIdle(t *testing.T) {
	r := newCubicRig(t, 100*ms)
	r.c.window, r.c.grown = 1200*1000, true
	r.c.OnSent(r.now, 1200, 0)
	r.c.OnSent(r.now.Add(4*time.Minute), 1200, 0)
	if r.c.window != 1200*1000 {
		t.Errorf("window %d after four minutes", r.c.window)
	}
	// RFC 7661, Section 4.4.3.
	r.c.OnSent(r.now.Add(10*time.Minute), 1200, 0)
	if r.c.window != 1200*500 {
		t.Errorf("window %d after six more minutes", r.c.window)
	}
	r.c.OnSent(r.now.Add(20*time.Hour), 1200, 0)
	if r.c.window != 12000 {
		t.Errorf("window %d the next day", r.c.window)
	}
}

func TestUndo(t *testing.T) {
	for _, a := range []Algorithm{CUBIC, NewReno} {
		c := NewController(a, 1200)
		now := time.Unix(1000, 0)
		at := func(n int) time.Time { return now.Add(time.Duration(n) * ms) }
		c.OnLost(at(10), at(0), 2)
		c.OnLost(at(12), at(5), 1) // the same recovery period
		reduced := c.Window()
		c.OnSpurious(at(13), at(10))
		c.OnSpurious(at(13), at(10))
		if c.Window() != reduced || reduced >= 12000 {
			t.Errorf("%v: window %d, %d after two of three losses came back", a, reduced, c.Window())
		}
		c.OnSpurious(at(14), at(12))
		if c.Window() != 12000 || !strings.Contains(c.String(), "slow start") {
			t.Errorf("%v: not undone: %v", a, c)
		}
		var r Report
		if c.Report(&r); r.Undone != 1 {
			t.Errorf("%v: report %+v", a, r)
		}
		// Nothing of an older period undoes a newer one.
		c.OnLost(at(40), at(30), 1)
		reduced = c.Window()
		c.OnSpurious(at(41), at(12))
		if c.Window() != reduced {
			t.Errorf("%v: undone by an older loss", a)
		}
		// Marks are no losses that could come back.
		c.OnLost(at(60), at(50), 1)
		c.OnCE(at(80), at(70), 1)
		reduced = c.Window()
		c.OnSpurious(at(81), at(60))
		if c.Window() != reduced {
			t.Errorf("%v: a reduction by a mark was undone", a)
		}
	}
}

// An acknowledgment of packets that were declared lost raises the thresholds
// and takes the reduction back.
func TestSpuriousLoss(t *testing.T) {
	r := newRig(t)
	r.sendN(AppData, 10)
	r.at(50 * ms)
	r.ack(AppData, AckRange{5, 5})
	r.wantLost(0, 1, 2)
	r.wantWindow(6000)
	r.at(55 * ms)
	r.ack(AppData, AckRange{5, 5}, AckRange{0, 2})
	r.wantAcked()
	r.wantWindow(12000)
	if n := r.loss.Counts(); n.Spurious != 3 || n.BytesLost != 3600 {
		t.Errorf("counted %+v", n)
	}
	if got := r.loss.reorder.packets; got != 6 {
		t.Errorf("packet threshold %d, want 6", got)
	}
	// Acknowledged again, they are old news.
	r.ack(AppData, AckRange{5, 5}, AckRange{0, 2})
	if n := r.loss.Counts(); n.Spurious != 3 {
		t.Errorf("counted %+v", n)
	}
	// The larger threshold holds.
	r.sendN(AppData, 10) // 10 to 19
	r.at(60 * ms)
	r.ack(AppData, AckRange{15, 15}, AckRange{3, 9})
	r.wantLost()
	r.ack(AppData, AckRange{16, 16})
	r.wantLost(10)
	r.loss.OnPathChange(1)
	if r.loss.reorder.packets != packetThreshold {
		t.Error("the threshold outlived its path")
	}
}

// What late arrivals can cost is bounded.
func TestSpuriousLossBounds(t *testing.T) {
	r := newRig(t)
	for range 4 * maxGone {
		first := r.send(AppData)
		r.sendN(AppData, 3)
		r.now = r.now.Add(ms)
		r.ack(AppData, AckRange{first + 1, first + 3})
	}
	if n := len(r.loss.reorder.list); n > maxGone || n == 0 {
		t.Errorf("%d lost packets remembered", n)
	}
	r.now = r.now.Add(time.Minute)
	first := r.send(AppData)
	r.ack(AppData, AckRange{first, first})
	if len(r.loss.reorder.list) != 0 {
		t.Errorf("%d lost packets remembered after a minute", len(r.loss.reorder.list))
	}
	l := &r.loss
	l.reorder.lost(r.now, &SentPacket{PN: 7, Sent: r.now.Add(-time.Hour)})
	l.arrived(r.now, []AckRange{{7, 7}}, 1<<40, &r.rtt, r.cc)
	if l.reorder.packets != maxPacketThreshold || l.reorder.eighths != maxTimeThreshold {
		t.Errorf("thresholds %d packets, %d/8", l.reorder.packets, l.reorder.eighths)
	}
}

func TestHyStart(t *testing.T) {
	var h hystart
	var rtt RTT
	now := time.Unix(1000, 0)
	rtt.Init(0)
	round := func(latest time.Duration) bool {
		sent := now
		done := false
		for i := range 10 {
			now = now.Add(ms)
			rtt.Update(latest, 0, 0, true)
			e := AckEvent{RTT: &rtt, RTTSampled: true, NewestSent: sent.Add(-ms)}
			if i == 0 {
				e.NewestSent = sent // the first packet of the round
			}
			done = h.onAck(now, &e) || done
		}
		return done
	}
	for range 5 {
		if round(50*ms) || h.css {
			t.Fatal("slow start ended on an even path")
		}
	}
	// RFC 9406, Section 4.2: an eighth of the round trip more begins Conservative
	// Slow Start.
	if round(56*ms) || h.css {
		t.Fatal("too early: the threshold is 6.25 ms")
	}
	round(63 * ms)
	if !h.css || h.growth(4000) != 1000 {
		t.Fatalf("no conservative slow start: %+v", h)
	}
	// A round trip below the baseline says that it was spurious.
	round(50 * ms)
	round(50 * ms)
	if h.css {
		t.Fatal("still in conservative slow start")
	}
	round(58 * ms)
	if !h.css {
		t.Fatal("not in conservative slow start again")
	}
	n := 1
	for !round(60 * ms) {
		if n++; n > 10 {
			t.Fatal("slow start does not end")
		}
	}
	// CSS_ROUNDS
	if n != hystartRounds {
		t.Errorf("ended after %d rounds, want %d", n, hystartRounds)
	}
	// Where delay goes on growing there is no need to wait so long.
	h = hystart{}
	round(50 * ms)
	round(50 * ms)
	round(60 * ms)
	if round(68 * ms) {
		t.Error("ended at once")
	}
	if !round(76*ms) || h.rounds != 2 {
		t.Errorf("not ended after two rounds: %+v", h)
	}
}

func TestParseAlgorithm(t *testing.T) {
	for _, a := range []Algorithm{CUBIC, NewReno, BBR} {
		got, err := ParseAlgorithm(a.String())
		if err != nil || got != a {
			t.Errorf("%v: %v, %v", a, got, err)
		}
		var r Report
		c := NewController(a, 1200)
		if c.Report(&r); r.Name != a.String() || r.State == "" || r.Window != c.Window() || !strings.HasPrefix(c.String(), a.String()) {
			t.Errorf("%v: report %+v, %q", a, r, c)
		}
	}
	if _, err := ParseAlgorithm("vegas"); err == nil {
		t.Error("vegas is known")
	}
}
