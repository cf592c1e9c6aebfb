package recovery

import (
	"testing"
	"time"
)

// run sends size bytes through a pacer as fast as it allows, with timers that
// are late by sloppy, and returns how long that took and the largest burst.
func run(rate int64, size, datagram int, sloppy time.Duration) (took time.Duration, burst int) {
	var p Pacer
	p.Init(datagram)
	start := time.Unix(1000, 0)
	now := start
	for sent := 0; sent < size; {
		b := 0
		for p.Budget(now, rate) >= datagram && sent < size {
			p.Sent(now, datagram)
			sent += datagram
			b += datagram
		}
		burst = max(burst, b)
		now = p.Next(now, max(p.Quantum(), datagram)).Add(sloppy)
	}
	return now.Sub(start), burst
}

func TestPacerRate(t *testing.T) {
	tests := []struct {
		name     string
		rate     int64
		sloppy   time.Duration
		maxBurst int
	}{
		{"1 MB/s", 1e6, 0, 12000},
		{"1 MB/s, late timers", 1e6, ms, 12000},
		{"50 MB/s", 50e6, 0, 100_000 + 12000},
		{"50 MB/s, late timers", 50e6, ms, 100_000 + 12000},
		{"10 Gbit/s, late timers", 1250e6, ms, 2_500_000 + 12000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			size := int(tt.rate) // a second's worth
			took, burst := run(tt.rate, size, 1200, tt.sloppy)
			// The first burst is free, and nothing else is.
			if took < 980*ms-time.Duration(tt.maxBurst)*time.Second/time.Duration(tt.rate) || took > 1005*ms {
				t.Errorf("took %v for a second's worth", took)
			}
			// RFC 9002, Section 7.7: "Senders SHOULD limit bursts to the initial
			// congestion window"
			if burst > tt.maxBurst {
				t.Errorf("burst of %d bytes, want at most %d", burst, tt.maxBurst)
			}
		})
	}
}

// A path shorter than a timer's accuracy is limited by its window alone.
func TestPacerLoopback(t *testing.T) {
	var p Pacer
	p.Init(1452)
	now := time.Unix(1000, 0)
	for _, window := range []int{14520, 64 << 10, 1 << 20, 16 << 20} {
		rate := paceRate(window, 100*time.Microsecond, 5, 4)
		p.Budget(now, rate)
		now = now.Add(100 * time.Microsecond)
		p.Budget(now, rate)
		now = now.Add(2 * ms)
		if b := p.Budget(now, rate); b < window {
			t.Errorf("budget %d for a window of %d", b, window)
		}
		if q := p.Quantum(); q > maxBatch || window >= 64<<10 && q != maxBatch {
			t.Errorf("window %d: quantum %d", window, q)
		}
	}
}

func TestPacerBudget(t *testing.T) {
	var p Pacer
	p.Init(1200)
	now := time.Unix(1000, 0)
	if p.Next(now, 5000) != now {
		t.Error("a fresh pacer makes wait")
	}
	if b := p.Budget(now, 1e6); b != 12000 {
		t.Errorf("first budget %d, want the initial window", b)
	}
	p.Sent(now, 12000)
	if b := p.Budget(now, 1e6); b != 0 {
		t.Errorf("budget %d after a burst", b)
	}
	// 1200 bytes at 1 MB/s are 1.2 ms.
	next := p.Next(now, 1200)
	if d := next.Sub(now); d < 1200*time.Microsecond || d > 1201*time.Microsecond {
		t.Errorf("next in %v, want 1.2ms", d)
	}
	if b := p.Budget(next, 1e6); b < 1200 {
		t.Errorf("budget %d at the promised time", b)
	}
	// A probe that does not ask puts the account below zero.
	p.Sent(next, 5*1200)
	if b := p.Budget(next, 1e6); b != 0 {
		t.Errorf("budget %d, want none", b)
	}
	// More than a burst is not waited for.
	if d := p.Next(next, 1<<30).Sub(next); d > 17*ms {
		t.Errorf("waits %v for more than a burst", d)
	}
	// Time that goes backwards is no credit.
	if b := p.Budget(now, 1e6); b != 0 {
		t.Errorf("budget %d", b)
	}
	// However slow the path, the wait is finite.
	p.Budget(now, 0)
	if d := p.Next(now, 1200).Sub(now); d > time.Minute {
		t.Errorf("waits %v", d)
	}
	p.SetMaxDatagram(1452)
	if q := p.Quantum(); q != 1452 {
		t.Errorf("quantum %d, want one datagram", q)
	}
}

func TestPacerSentFirst(t *testing.T) {
	var p Pacer
	p.Init(1200)
	now := time.Unix(1000, 0)
	p.Sent(now, 1200)
	if b := p.Budget(now, 1e6); b != 10800 {
		t.Errorf("budget %d, want 10800", b)
	}
}

func BenchmarkPacer(b *testing.B) {
	var p Pacer
	p.Init(1200)
	now := time.Unix(1000, 0)
	for range b.N {
		now = now.Add(time.Microsecond)
		if p.Budget(now, 1e9) >= 1200 {
			p.Sent(now, 1200)
		}
	}
}
