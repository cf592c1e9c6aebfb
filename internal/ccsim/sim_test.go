package ccsim

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
)

const (
	ms   = time.Millisecond
	mbit = 1_000_000 / 8 // bytes per second
)

type least map[recovery.Algorithm]float64

// TestLinks is one flow on links of many kinds: it uses what the link has.
func TestLinks(t *testing.T) {
	for _, tt := range []struct {
		name  string
		link  Link
		least least // share of the link that is used
		took  time.Duration
	}{
		{"50 ms, 1 % loss", Link{Rate: 100 * mbit, Delay: 25 * ms, Queue: 625_000, Loss: 0.01}, least{recovery.BBR: 0.8, recovery.CUBIC: 0.02, recovery.NewReno: 0.02}, 10 * time.Second},
		{"20 ms, 0.1 % loss", Link{Rate: 100 * mbit, Delay: 10 * ms, Queue: 250_000, Loss: 0.001}, least{recovery.BBR: 0.9, recovery.CUBIC: 0.17, recovery.NewReno: 0.15}, 10 * time.Second},
		{"100 ms, no loss", Link{Rate: 100 * mbit, Delay: 50 * ms, Queue: 1_250_000}, least{recovery.BBR: 0.85, recovery.CUBIC: 0.9, recovery.NewReno: 0.9}, 10 * time.Second},
		{"shallow queue", Link{Rate: 100 * mbit, Delay: 10 * ms, Queue: 25_000}, least{recovery.BBR: 0.85, recovery.CUBIC: 0.85, recovery.NewReno: 0.7}, 10 * time.Second},
		{"deep queue", Link{Rate: 20 * mbit, Delay: 20 * ms, Queue: 4_000_000}, least{recovery.BBR: 0.9, recovery.CUBIC: 0.95, recovery.NewReno: 0.95}, 10 * time.Second},
		{"1 Gbit/s, 1 ms", Link{Rate: 1000 * mbit, Delay: ms / 2, Queue: 500_000}, least{recovery.BBR: 0.9, recovery.CUBIC: 0.97, recovery.NewReno: 0.97}, 2 * time.Second},
		{"10 Gbit/s, 0.2 ms", Link{Rate: 10_000 * mbit, Delay: ms / 10, Queue: 4_000_000}, least{recovery.BBR: 0.9, recovery.CUBIC: 0.95, recovery.NewReno: 0.95}, time.Second / 4},
	} {
		for _, a := range []recovery.Algorithm{recovery.CUBIC, recovery.NewReno, recovery.BBR} {
			t.Run(fmt.Sprintf("%s/%v", tt.name, a), func(t *testing.T) {
				run := Run{Seed: 7, Link: tt.link, Flows: []Flow{{Algorithm: a}}, Duration: tt.took, Every: 10 * ms}
				r := run.Do()[0]
				used := float64(r.Delivered) / (float64(tt.link.Rate) * tt.took.Seconds())
				t.Logf("%.1f %% used, %d bytes lost, %d spurious, queue %d mean, %d most", 100*used, r.Lost, r.Spurious, r.MeanQueue, r.MaxQueue)
				if used < tt.least[a] {
					t.Errorf("%.1f %% of the link used, want %.0f %% at least", 100*used, 100*tt.least[a])
				}
			})
		}
	}
}

// A run repeats itself, or no picture could be drawn from it.
func TestDeterministic(t *testing.T) {
	for _, a := range []recovery.Algorithm{recovery.CUBIC, recovery.NewReno, recovery.BBR} {
		run := Run{Seed: 3, Link: Link{Rate: 50 * mbit, Delay: 10 * ms, Queue: 100_000, Loss: 0.002}, Flows: []Flow{{Algorithm: a}, {Algorithm: a, Start: time.Second}},
			Duration: 5 * time.Second, Every: 10 * ms}
		if x, y := run.Do(), run.Do(); !reflect.DeepEqual(x, y) {
			t.Errorf("%v: two runs differ", a)
		}
	}
}

// TestFairness is two flows at one bottleneck, the second beginning later. What
// is compared is what they move when both have been there for a while.
func TestFairness(t *testing.T) {
	link := Link{Rate: 20 * mbit, Delay: 15 * ms, Queue: 75_000} // a queue of one product of bandwidth and delay
	for _, tt := range []struct {
		a, b      recovery.Algorithm
		low, high float64 // share of the first
	}{
		{recovery.CUBIC, recovery.CUBIC, 0.4, 0.6},
		{recovery.NewReno, recovery.NewReno, 0.4, 0.6},
		{recovery.CUBIC, recovery.NewReno, 0.4, 0.8},
		{recovery.BBR, recovery.BBR, 0.35, 0.65},
		{recovery.CUBIC, recovery.BBR, 0.2, 0.8},
	} {
		t.Run(fmt.Sprintf("%v, %v", tt.a, tt.b), func(t *testing.T) {
			run := Run{Seed: 11, Link: link, Flows: []Flow{{Algorithm: tt.a}, {Algorithm: tt.b, Start: 2 * time.Second}}, Duration: 20 * time.Second}
			before := run.Do()
			run.Duration = 100 * time.Second
			after := run.Do()
			a, b := float64(after[0].Delivered-before[0].Delivered), float64(after[1].Delivered-before[1].Delivered)
			used := (a + b) / (float64(link.Rate) * 80)
			t.Logf("share of the first %.3f, %.1f %% of the link used", a/(a+b), 100*used)
			if got := a / (a + b); got < tt.low || got > tt.high {
				t.Errorf("share of the first %.3f, want %.2f to %.2f", got, tt.low, tt.high)
			}
			if used < 0.9 {
				t.Errorf("%.1f %% of the link used", 100*used)
			}
		})
	}
}

// HyStart++ leaves slow start before a deep queue is full: nothing is lost,
// where NewReno loses a window.
func TestSlowStartOvershoot(t *testing.T) {
	link := Link{Rate: 100 * mbit, Delay: 20 * ms, Queue: 1_000_000} // two products of bandwidth and delay
	lost := map[recovery.Algorithm]uint64{}
	for _, a := range []recovery.Algorithm{recovery.CUBIC, recovery.NewReno, recovery.BBR} {
		run := Run{Seed: 5, Link: link, Flows: []Flow{{Algorithm: a}}, Duration: 2 * time.Second, Every: 10 * ms}
		r := run.Do()[0]
		lost[a] = r.Lost
		t.Logf("%v: %d bytes lost, queue up to %d, %.1f %% used", a, r.Lost, r.MaxQueue, 50*float64(r.Delivered)/float64(link.Rate))
	}
	if lost[recovery.CUBIC] != 0 {
		t.Errorf("cubic lost %d bytes", lost[recovery.CUBIC])
	}
	if lost[recovery.NewReno] == 0 {
		t.Error("newreno lost nothing: the link does not show what it is meant to")
	}
}

// BBR keeps a deep queue short. CUBIC fills it.
func TestDeepQueue(t *testing.T) {
	link := Link{Rate: 20 * mbit, Delay: 20 * ms, Queue: 2_000_000} // 20 products of bandwidth and delay
	mean := map[recovery.Algorithm]int{}
	for _, a := range []recovery.Algorithm{recovery.CUBIC, recovery.BBR} {
		run := Run{Seed: 5, Link: link, Flows: []Flow{{Algorithm: a}}, Duration: 30 * time.Second, Every: 10 * ms}
		mean[a] = run.Do()[0].MeanQueue
		t.Logf("%v: queue %d bytes on average", a, mean[a])
	}
	// Half a product of bandwidth and delay.
	if mean[recovery.BBR] > 50_000 {
		t.Errorf("bbr keeps %d bytes in the queue", mean[recovery.BBR])
	}
	if mean[recovery.CUBIC] < 4*mean[recovery.BBR] {
		t.Error("cubic keeps the queue as short: the link does not show what it is meant to")
	}
}

// A megabyte arrives through 30 % loss both ways.
func TestHeavyLoss(t *testing.T) {
	for _, a := range []recovery.Algorithm{recovery.CUBIC, recovery.NewReno, recovery.BBR} {
		for seed := range uint64(5) {
			run := Run{Seed: seed, Link: Link{Rate: 100 * mbit, Delay: 10 * ms, Queue: 250_000, Loss: 0.3}, Flows: []Flow{{Algorithm: a, Bytes: 1 << 20}}, Duration: 10 * time.Minute}
			if r := run.Do()[0]; r.Finished == 0 {
				t.Errorf("%v, seed %d: %d bytes after ten minutes", a, seed, r.Delivered)
			} else {
				t.Logf("%v, seed %d: %v", a, seed, r.Finished.Round(ms))
			}
		}
	}
}

// Reordering is not congestion: thresholds grow, reductions are taken back, and
// the link is used.
func TestReordering(t *testing.T) {
	link := Link{Rate: 50 * mbit, Delay: 15 * ms, Queue: 250_000, Reorder: 0.02, By: 12 * ms}
	for _, a := range []recovery.Algorithm{recovery.CUBIC, recovery.NewReno, recovery.BBR} {
		run := Run{Seed: 5, Link: link, Flows: []Flow{{Algorithm: a}}, Duration: 10 * time.Second}
		r := run.Do()[0]
		used := float64(r.Delivered) / float64(link.Rate*10)
		t.Logf("%v: %.1f %% used, %d packets lost, %d of them spurious, %d reductions undone", a, 100*used, r.Lost/datagram, r.Spurious, r.Undone)
		if used < 0.85 {
			t.Errorf("%v: %.1f %% of the link used", a, 100*used)
		}
	}
}

// Marks instead of drops: the queue stays short and next to nothing is lost.
func TestMarks(t *testing.T) {
	link := Link{Rate: 50 * mbit, Delay: 15 * ms, Queue: 1_000_000, MarkAt: 50_000}
	for _, a := range []recovery.Algorithm{recovery.CUBIC, recovery.NewReno, recovery.BBR} {
		run := Run{Seed: 5, Link: link, Flows: []Flow{{Algorithm: a}}, Duration: 10 * time.Second, Every: 10 * ms}
		r := run.Do()[0]
		used := float64(r.Delivered) / float64(link.Rate*10)
		t.Logf("%v: %.1f %% used, %d bytes lost, queue %d on average, %d at most", a, 100*used, r.Lost, r.MeanQueue, r.MaxQueue)
		if r.Lost > 0 || r.MeanQueue > 2*link.MarkAt || used < 0.7 {
			t.Errorf("%v: %d bytes lost, queue %d on average, %.1f %% used", a, r.Lost, r.MeanQueue, 100*used)
		}
	}
}

// An application that pauses neither loses its window nor gains one it never used.
func TestPauses(t *testing.T) {
	for _, a := range []recovery.Algorithm{recovery.CUBIC, recovery.NewReno, recovery.BBR} {
		link := Link{Rate: 100 * mbit, Delay: 10 * ms, Queue: 250_000}
		run := Run{Seed: 5, Link: link, Flows: []Flow{{Algorithm: a, Burst: 50_000, Pause: 100 * ms}}, Duration: 20 * time.Second, Every: 10 * ms}
		r := run.Do()[0]
		last := r.Samples[len(r.Samples)-1]
		t.Logf("%v: window %d, lost %d", a, last.Window, r.Lost)
		if last.Window < 20_000 || last.Window > 600_000 || r.Lost > 0 {
			t.Errorf("%v: window %d after bursts of 50000 bytes, %d bytes lost", a, last.Window, r.Lost)
		}
	}
}

// Behind Drain BBR receives what it sent there, at half the rate. Losses of Startup
// that are found in that round do not make it the rate of the seconds to come.
func TestBehindDrain(t *testing.T) {
	for _, tt := range []struct {
		delay time.Duration // one way
		queue int
		seed  uint64
		least float64 // four per cent less where that round counts
	}{
		{10 * ms, 200_000, 0, 0.885},
		{15 * ms, 150_000, 0, 0.875},
		{15 * ms, 225_000, 0, 0.875},
		{50 * ms, 500_000, 2, 0.82},
	} {
		link := Link{Rate: 100 * mbit, Delay: tt.delay, Queue: tt.queue, Loss: 0.01}
		run := Run{Seed: tt.seed, Link: link, Flows: []Flow{{Algorithm: recovery.BBR}}, Duration: 120 * tt.delay}
		used := float64(run.Do()[0].Delivered) / (float64(link.Rate) * run.Duration.Seconds())
		t.Logf("%v, queue %d: %.1f %% used", tt.delay, tt.queue, 100*used)
		if used < tt.least {
			t.Errorf("%v, queue %d: %.1f %% of the link used in 60 round trips, want %.1f %% at least", tt.delay, tt.queue, 100*used, 100*tt.least)
		}
	}
}
