package udp

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// eventful tells whether Go's poller would be told of an event.
func eventful(t *testing.T, w *watch) bool {
	t.Helper()
	n := 0
	err := control(w.rc, func(ep int) (err error) {
		p := [1]unix.PollFd{{Fd: int32(ep), Events: unix.POLLIN}}
		n, err = unix.Poll(p[:], 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// A reader that waits is woken by what arrives, and not by what the socket sends.
func TestWatchOneDirection(t *testing.T) {
	a, b, to := families[0].pair(t, Config{})
	w := &a.recv.watch
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := a.Send(&SendMsg{Data: []byte("out"), Remote: to}); err != nil {
			t.Fatal(err)
		}
		_, m, _ := receive(t, b, 3) // it was delivered, so its memory was given back
		if eventful(t, w) {
			t.Fatal("a datagram that left is an event")
		}
		if err := b.Send(&SendMsg{Data: []byte("in"), Remote: m.Remote}); err != nil {
			t.Fatal(err)
		}
		if !eventful(t, w) {
			t.Fatal("a datagram that arrived is no event")
		}
		if err := w.ask(false); err != nil {
			t.Fatal(err)
		}
		if eventful(t, w) {
			t.Fatal("an event nobody asked for")
		}
		if err := w.ask(true); err != nil {
			t.Fatal(err)
		}
		if !eventful(t, w) {
			t.Fatal("what was there before is no event")
		}
		receive(t, a, 2)
	}
}

// What arrives after a busy spell wakes the reader, too.
func TestWatchAfterBusySpell(t *testing.T) {
	a, b, to := families[0].pair(t, Config{GRO: Off})
	for spell := range 50 {
		for range 1 + spell%(2*busyRun) {
			if err := a.Send(&SendMsg{Data: []byte("datagram"), Remote: to}); err != nil {
				t.Fatal(err)
			}
		}
		for range 1 + spell%(2*busyRun) {
			receive(t, b, 8)
		}
	}
}

func TestWatchOfClosedSocket(t *testing.T) {
	s := socket(t, "127.0.0.1:0", Config{})
	s.Close()
	if err := s.recv.watch.open(); err != net.ErrClosed {
		t.Errorf("%v", err)
	}
}
