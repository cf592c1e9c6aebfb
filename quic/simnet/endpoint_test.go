package simnet

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

func TestBatches(t *testing.T) {
	opt := Options{MaxSegments: 64, GRO: true, ECN: true}
	inWorld(t, 1, Params{Delay: ms}, opt, func(w *world) {
		if c := w.a.Caps(); c.MaxSegments != 64 || !c.GRO || !c.ECN {
			t.Errorf("caps %+v", c)
		}
		data := bytes.Repeat([]byte("abcdefghij"), 325) // 2 x 1200 and 850
		m := udp.SendMsg{Data: data, SegmentSize: 1200, Remote: addrB, ECN: udp.ECT0}
		if err := w.a.Send(&m); err != nil || m.Sent != len(data) {
			t.Fatalf("Send: %v, %d bytes", err, m.Sent)
		}
		// Another codepoint is another run, and so is a larger datagram.
		w.sendECN(strings.Repeat("x", 1200), udp.ECT1)
		w.sendECN(strings.Repeat("y", 1300), udp.ECT1)
		all := w.drain(time.Second)
		if len(all) != 3 {
			t.Fatalf("%d runs", len(all))
		}
		if g := all[0]; g.data != string(data) || g.segment != 1200 || g.ecn != udp.ECT0 {
			t.Errorf("first run of %d bytes, segments of %d, ECN %d", g.n, g.segment, g.ecn)
		}
		if all[1].segment != 1200 || all[2].segment != 1300 {
			t.Errorf("segments of %d and %d", all[1].segment, all[2].segment)
		}
		if c := w.ab().Counters(); c.Sent != 5 || c.Delivered != 5 {
			t.Errorf("counters %+v", c)
		}
	})
}

// A run holds no more than one real socket would return.
func TestBatchLimits(t *testing.T) {
	inWorld(t, 1, Params{Delay: ms}, Options{MaxSegments: 64, GRO: true}, func(w *world) {
		for _, size := range []int{100, 1400} {
			for range 100 {
				w.send(strings.Repeat("x", size))
			}
		}
		total := 0
		for _, g := range w.drain(time.Second) {
			if g.n > udp.MaxPayload || g.n > udp.MaxSegments*g.segment {
				t.Errorf("a run of %d bytes in segments of %d", g.n, g.segment)
			}
			total += g.n
		}
		if total != 150_000 {
			t.Errorf("%d bytes", total)
		}
	})
}

func TestSendBuffer(t *testing.T) {
	opt := Options{MaxSegments: 64, SendBuffer: 8000}
	inWorld(t, 1, Params{Rate: 100_000}, opt, func(w *world) {
		data := make([]byte, 20_000)
		m := udp.SendMsg{Data: data, SegmentSize: 1000, Remote: addrB}
		if err := w.a.Send(&m); !errors.Is(err, udp.ErrWouldBlock) || m.Sent != 8000 {
			t.Fatalf("Send: %v after %d bytes", err, m.Sent)
		}
		again := udp.SendMsg{Data: data[:1000], Remote: addrB}
		if err := w.a.Send(&again); !errors.Is(err, udp.ErrWouldBlock) || again.Sent != 0 {
			t.Fatalf("Send: %v after %d bytes", err, again.Sent)
		}
		writable := make(chan time.Duration, 2)
		w.a.OnWritable(func() { writable <- time.Since(w.start) })
		// Half is free after four datagrams of 10 ms.
		if at := <-writable; at != 40*ms {
			t.Errorf("writable after %v, want 40ms", at)
		}
		if err := w.a.Send(&again); err != nil {
			t.Errorf("Send: %v", err)
		}
		w.drain(time.Second)
		w.a.OnWritable(func() { writable <- time.Since(w.start) })
		<-writable
		if len(writable) != 0 {
			t.Error("a callback ran twice")
		}
	})
}

func TestOnWritableAtClose(t *testing.T) {
	inWorld(t, 1, Params{Rate: 1000}, Options{SendBuffer: 100}, func(w *world) {
		w.send(strings.Repeat("x", 500))
		called := make(chan struct{})
		w.a.OnWritable(func() { close(called) })
		synctest.Wait()
		select {
		case <-called:
			t.Error("writable with a full buffer")
		default:
		}
		w.a.Close()
		<-called
	})
}

func TestSendErrors(t *testing.T) {
	inWorld(t, 1, Params{}, Options{MTU: 1400}, func(w *world) {
		if err := w.a.Send(&udp.SendMsg{Data: make([]byte, 1401), Remote: addrB}); !errors.Is(err, udp.ErrMessageTooLong) {
			t.Errorf("too large: %v", err)
		}
		if err := w.a.Send(&udp.SendMsg{Data: make([]byte, 2800), SegmentSize: 1400, Remote: addrB}); err != nil {
			t.Errorf("two that fit: %v", err)
		}
		if err := w.a.Send(&udp.SendMsg{Remote: addrB}); err == nil {
			t.Error("an empty datagram was sent")
		}
		if err := w.a.Send(&udp.SendMsg{Data: []byte("x"), Remote: addrB, Local: addrB.Addr()}); err == nil {
			t.Error("sent from an address of somebody else")
		}
		left := 2
		w.a.OnSend(func(*udp.SendMsg) error {
			if left--; left >= 0 {
				return udp.ErrNoBuffers
			}
			return nil
		})
		for i, want := range []error{udp.ErrNoBuffers, udp.ErrNoBuffers, nil} {
			if err := w.a.Send(&udp.SendMsg{Data: []byte("x"), Remote: addrB}); !errors.Is(err, want) {
				t.Errorf("send %d: %v, want %v", i, err, want)
			}
		}
		w.a.OnSend(nil)
		w.a.Close()
		if err := w.a.Send(&udp.SendMsg{Data: []byte("x"), Remote: addrB}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		w.a.RemoveAddr(addrA.Addr())
		if err := w.b.Recv(&udp.RecvMsg{Buf: make([]byte, 1500)}); !errors.Is(err, udp.ErrShortBuffer) {
			t.Errorf("short buffer: %v", err)
		}
	})
}

func TestReceiveBufferIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, Params{})
		defer n.Close()
		a, err := n.Listen(addrA, Options{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := n.Listen(addrB, Options{RecvBuffer: 10_000})
		if err != nil {
			t.Fatal(err)
		}
		for range 25 {
			if err := a.Send(&udp.SendMsg{Data: make([]byte, 1000), Remote: addrB}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if b.Overflows() != 15 {
			t.Errorf("%d datagrams dropped, want 15", b.Overflows())
		}
		m := udp.RecvMsg{Buf: make([]byte, udp.MinRecvBuffer)}
		for range 10 {
			if err := b.Recv(&m); err != nil {
				t.Fatal(err)
			}
		}
		// Room again.
		if err := a.Send(&udp.SendMsg{Data: []byte("x"), Remote: addrB}); err != nil {
			t.Fatal(err)
		}
		if err := b.Recv(&m); err != nil || m.N != 1 {
			t.Errorf("%d bytes, %v", m.N, err)
		}
	})
}

func TestAddresses(t *testing.T) {
	second := netip.MustParseAddr("203.0.113.9")
	inWorld(t, 1, Params{}, Options{}, func(w *world) {
		if err := w.a.AddAddr(second); err != nil {
			t.Fatal(err)
		}
		if err := w.a.AddAddr(second); !errors.Is(err, ErrAddrInUse) {
			t.Errorf("the same again: %v", err)
		}
		if err := w.a.Send(&udp.SendMsg{Data: []byte("x"), Remote: addrB, Local: second}); err != nil {
			t.Fatal(err)
		}
		all := w.drain(ms)
		if len(all) != 1 || all[0].from != netip.AddrPortFrom(second, addrA.Port()) {
			t.Fatalf("received %+v", all)
		}
		if err := w.b.Send(&udp.SendMsg{Data: []byte("y"), Remote: all[0].from}); err != nil {
			t.Fatal(err)
		}
		w.drain(ms)
		if back := take(w.atA); len(back) != 1 || back[0].local != second {
			t.Errorf("received %+v", back)
		}
		w.a.RemoveAddr(addrA.Addr())
		// The first address left is the default now.
		w.send("z")
		if all := w.drain(ms); len(all) != 1 || all[0].from.Addr() != second {
			t.Errorf("received %+v", all)
		}
		w.a.RemoveAddr(second)
		if err := w.a.Send(&udp.SendMsg{Data: []byte("x"), Remote: addrB}); err == nil {
			t.Error("sent without an address")
		}
	})
}

func TestListen(t *testing.T) {
	n := New(1, Params{})
	defer n.Close()
	if _, err := n.Listen(netip.MustParseAddrPort("0.0.0.0:1"), Options{}); err == nil {
		t.Error("an unspecified address was bound")
	}
	if _, err := n.Listen(netip.AddrPort{}, Options{}); err == nil {
		t.Error("no address was bound")
	}
	any := netip.MustParseAddrPort("[2001:db8::1]:0")
	a, err := n.Listen(any, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := n.Listen(any, Options{})
	if err != nil || a.LocalAddr() == b.LocalAddr() || b.LocalAddr().Port() == 0 {
		t.Fatalf("%v and %v, error %v", a.LocalAddr(), b.LocalAddr(), err)
	}
	if _, err := n.Listen(a.LocalAddr(), Options{}); !errors.Is(err, ErrAddrInUse) {
		t.Errorf("bound twice: %v", err)
	}
	a.Close()
	a.Close()
	if _, err := n.Listen(a.LocalAddr(), Options{}); err != nil {
		t.Errorf("a free address: %v", err)
	}
	if err := a.AddAddr(netip.MustParseAddr("::2")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("an address for a closed endpoint: %v", err)
	}
}

// It is no different without a bubble, in real time.
func TestRealTime(t *testing.T) {
	n := New(1, Params{Delay: 2 * ms})
	defer n.Close()
	a, err := n.Listen(addrA, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := n.Listen(addrB, Options{})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := a.Send(&udp.SendMsg{Data: []byte("x"), Remote: addrB}); err != nil {
		t.Fatal(err)
	}
	m := udp.RecvMsg{Buf: make([]byte, udp.MinRecvBuffer)}
	if err := b.Recv(&m); err != nil || time.Since(start) < 2*ms {
		t.Errorf("received after %v, error %v", time.Since(start), err)
	}
}
