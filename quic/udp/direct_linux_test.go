package udp

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
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
// the socket is looked at, or during the wait in the kernel or in the poller.
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
		for _, share := range []bool{false, true, true, false} {
			sent := make(chan error, 1)
			time.AfterFunc(wait, func() { sent <- tx.Send(&SendMsg{Data: []byte{byte(i), 1, 2}, Remote: rx.LocalAddr()}) })
			if err := rx.RecvDirect(&m, share); err != nil || m.N != 3 || m.Buf[0] != byte(i) {
				t.Fatalf("after %v, sharing %v: %d bytes, %v", wait, share, m.N, err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			interrupted := make(chan bool)
			time.AfterFunc(wait, func() { rx.Interrupt(); close(interrupted) })
			if err := rx.RecvDirect(&m, share); !errors.Is(err, ErrInterrupted) {
				t.Fatalf("interrupted after %v, sharing %v: %v", wait, share, err)
			}
			<-interrupted
		}
	}
	// What has interrupted one does not interrupt the reader.
	if err := tx.Send(&SendMsg{Data: []byte("x"), Remote: rx.LocalAddr()}); err != nil {
		t.Fatal(err)
	}
	if err := rx.Recv(&m); err != nil || m.N != 1 {
		t.Errorf("%d bytes, %v", m.N, err)
	}
}

// An interrupt that comes together with a datagram ends the next call.
func TestInterruptAndDatagram(t *testing.T) {
	tx, rx, to := families[0].pair(t, Config{})
	for _, share := range []bool{false, true} {
		m := RecvMsg{Buf: make([]byte, BufferSize)}
		time.AfterFunc(20*spinTime, func() {
			_ = tx.Send(&SendMsg{Data: []byte("x"), Remote: to})
			rx.Interrupt()
		})
		got, interrupted := false, false
		for !got || !interrupted {
			err := rx.RecvDirect(&m, share)
			switch {
			case err == nil && !got:
				got = true
			case errors.Is(err, ErrInterrupted) && !interrupted:
				interrupted = true
			default:
				t.Fatalf("sharing %v: %v", share, err)
			}
		}
	}
}

// Who looks with the only processor lets those go on that the poller knows of.
func TestBell(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var b bell
	if err := b.open(); err != nil {
		t.Fatal(err)
	}
	defer b.close()
	var heard atomic.Int32
	done := make(chan bool)
	go func() {
		defer close(done)
		var c [1]byte
		for {
			if _, err := r.Read(c[:]); err != nil {
				return
			}
			heard.Add(1)
		}
	}()
	const n = 50
	late := 0
	for i := range int32(n) {
		for range 10 {
			runtime.Gosched() // the reader is waiting
		}
		if _, err := w.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		b.rung = time.Time{}
		b.giveWay(time.Now())
		for range 3 {
			runtime.Gosched() // now and then the scheduler prefers who has just been here
		}
		if heard.Load() != i+1 {
			late++
			for heard.Load() != i+1 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	if late > 0 {
		t.Errorf("%d of %d times the reader of a pipe had to wait", late, n)
	}
	w.Close()
	<-done
}
