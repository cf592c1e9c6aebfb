package quic

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d deadline
		if d.passed() || d.wait() != nil {
			t.Error("a deadline that was never set has passed")
		}
		d.set(time.Now().Add(time.Second))
		if d.passed() {
			t.Error("passed at once")
		}
		<-d.wait()
		if !d.passed() {
			t.Error("not passed after its time")
		}
		d.set(time.Time{})
		if d.passed() {
			t.Error("still passed after it was removed")
		}
		d.set(time.Now().Add(-time.Second))
		if !d.passed() {
			t.Error("one in the past has not passed")
		}
		d.set(time.Now().Add(time.Second))
		d.set(time.Now().Add(2 * time.Second)) // moved before it fired
		time.Sleep(1500 * time.Millisecond)
		if d.passed() {
			t.Error("fired at the old time")
		}
		time.Sleep(time.Second)
		if !d.passed() {
			t.Error("did not fire at the new time")
		}
		d.set(time.Now().Add(time.Hour))
		d.set(time.Time{})
		time.Sleep(2 * time.Hour)
		if d.passed() {
			t.Error("a removed deadline fired")
		}
	})
}

func TestGate(t *testing.T) {
	var g gate
	g.open()
	g.open()
	if !g.take() {
		t.Error("no wake-up was kept")
	}
	if g.take() {
		t.Error("two wake-ups were kept")
	}
	g.open()
	select {
	case <-g.wait():
	default:
		t.Error("a wake-up from before the first wait is lost")
	}
	g.open()
	if !g.take() {
		t.Error("no wake-up was kept once somebody had waited")
	}
}
