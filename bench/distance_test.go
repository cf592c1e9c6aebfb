package main

import (
	"testing"
	"time"
)

// TestOneWay: a packet takes half of the round trip, those that come at once leave
// one after the other, what does not fit the queue is lost, and so is a share at
// random, the same packets each time.
func TestOneWay(t *testing.T) {
	began := time.Unix(1000, 0)
	d := distance{rtt: 20 * time.Millisecond, rate: 1e6, queue: 5000}
	h := d.oneWay(1)
	for i := range 7 {
		at, ok := h.take(began, 1000)
		if ok != (i < 5) {
			t.Fatalf("packet %d passes: %v", i, ok)
		}
		if want := began.Add(time.Duration(i+1)*time.Millisecond + 10*time.Millisecond); ok && !at.Equal(want) {
			t.Errorf("packet %d arrives after %v, want %v", i, at.Sub(began), want.Sub(began))
		}
	}
	if _, ok := h.take(began.Add(time.Second), 1000); !ok {
		t.Error("the queue does not drain")
	}
	d.loss, d.seed = 0.1, 7
	lost := func() (list []int) {
		h := d.oneWay(2)
		for i := range 1000 {
			if _, ok := h.take(began.Add(time.Duration(i)*time.Second), 1000); !ok {
				list = append(list, i)
			}
		}
		return list
	}
	a, b := lost(), lost()
	if len(a) < 50 || len(a) > 200 || len(a) != len(b) || a[0] != b[0] {
		t.Errorf("%d and %d of 1000 were lost", len(a), len(b))
	}
}
