package quic

import (
	"net/netip"
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
	g := newGate()
	g.open()
	g.open()
	if !g.take() {
		t.Error("no wake-up was kept")
	}
	if g.take() {
		t.Error("two wake-ups were kept")
	}
}

func TestRetryToken(t *testing.T) {
	m := newTokenMaker(nil)
	addr := netip.MustParseAddr("192.0.2.7")
	now := time.Unix(1e9, 0)
	tok := m.seal(connID("original"), addr, now)
	got, ok := m.open(tok, addr, now.Add(time.Second))
	if !ok || got.originalDst != connID("original") {
		t.Fatalf("open: %v, %v", got, ok)
	}
	mapped := netip.AddrFrom16(addr.As16())
	if _, ok := m.open(tok, mapped, now); !ok {
		t.Error("the same address in its mapped form is refused")
	}
	refused := func(name string, b []byte, a netip.Addr, at time.Time) {
		if _, ok := m.open(b, a, at); ok {
			t.Errorf("%s: accepted", name)
		}
	}
	refused("late", tok, addr, now.Add(retryTokenLife+time.Second))
	refused("from the future", tok, addr, now.Add(-2*time.Second))
	refused("from elsewhere", tok, netip.MustParseAddr("192.0.2.8"), now)
	for n := range len(tok) {
		refused("cut", tok[:n], addr, now) // hostile row 31: short token
		b := append([]byte(nil), tok...)
		b[n] ^= 0x10
		refused("changed", b, addr, now)
	}
	if _, ok := newTokenMaker(nil).open(tok, addr, now); ok {
		t.Error("another key accepts it")
	}
	if string(m.seal(connID("original"), addr, now)) == string(tok) {
		t.Error("two tokens are equal")
	}
}
