package main

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// in calls f in a place's namespace.
func (s *place) in(f func()) {
	done := make(chan struct{})
	s.calls <- func() { defer close(done); f() }
	<-done
}

// TestApart sends TCP over a distance on which packets get lost: it takes as
// long as the way does, and all arrives.
func TestApart(t *testing.T) {
	d := over(40*time.Millisecond, 0.02, 100*mbit)
	a, err := setApart(d)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	var l *net.TCPListener
	var c *net.TCPConn
	var errs [2]error
	a.far.in(func() {
		l, errs[0] = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(farAddr, 0)))
	})
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	defer l.Close()
	go func() {
		if s, err := l.AcceptTCP(); err == nil {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		}
	}()
	began := time.Now()
	a.near.in(func() { c, errs[1] = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr)) })
	if errs[1] != nil {
		t.Fatal(errs[1])
	}
	defer c.Close()
	if took := time.Since(began); took < d.rtt {
		t.Errorf("there and back in %v", took)
	}
	sent := bytes.Repeat([]byte("distance"), 32<<10)
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
}

func TestUseCongestion(t *testing.T) {
	l := net.ListenConfig{Control: useCongestion("reno")}
	s, err := l.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	raw, err := s.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if name, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION); name != "reno" {
			t.Errorf("%q, %v", name, err)
		}
	})
	l.Control = useCongestion("no such thing")
	if _, err := l.Listen(t.Context(), "tcp", "127.0.0.1:0"); err == nil {
		t.Error("an unknown one was taken")
	}
}
