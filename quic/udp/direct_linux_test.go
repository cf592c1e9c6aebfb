package udp

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

// Attempts in vain become rare, and one that finds something is followed by more.
func TestSpinBacksOff(t *testing.T) {
	var p spin
	tried := 0
	for range 20 * maxSpinPause {
		if p.worth() {
			tried++
			p.ended(false)
		}
	}
	if tried < 20 || tried > 40 {
		t.Errorf("%d attempts in %d waits", tried, 20*maxSpinPause)
	}
	for !p.worth() {
	}
	p.ended(true)
	for range 3 {
		if !p.worth() {
			t.Fatal("no attempt after one that found something")
		}
		p.ended(true)
	}
}

// What arrives is received and what interrupts is heard, whether it comes while
// the socket is looked at, or during the wait in the kernel.
func TestRecvDirect(t *testing.T) {
	open := func() *Socket {
		s, err := ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	rx, tx := open(), open()
	m := RecvMsg{Buf: make([]byte, BufferSize)}
	for i, wait := range []time.Duration{0, spinTime / 4, 20 * spinTime, 0, spinTime / 2, 20 * spinTime} {
		sent := make(chan error, 1)
		time.AfterFunc(wait, func() { sent <- tx.Send(&SendMsg{Data: []byte{byte(i), 1, 2}, Remote: rx.LocalAddr()}) })
		if err := rx.RecvDirect(&m); err != nil || m.N != 3 || m.Buf[0] != byte(i) {
			t.Fatalf("after %v: %d bytes, %v", wait, m.N, err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(wait, rx.Interrupt)
		if err := rx.RecvDirect(&m); !errors.Is(err, ErrInterrupted) {
			t.Fatalf("interrupted after %v: %v", wait, err)
		}
	}
}
