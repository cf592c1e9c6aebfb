package simnet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// rough is a link with everything wrong.
var rough = Params{
	Delay: 20 * ms, Jitter: 10 * ms, Rate: 200_000, Burst: 5000, Queue: 20_000,
	Loss: 0.05, LossRun: 2, Reorder: 0.05, ReorderBy: 15 * ms, Duplicate: 0.03, Corrupt: 0.02,
	MarkCE: 0.1, MarkAt: 10_000,
}

// exchange has several pairs talk at once over rough links and returns the
// trace.
func exchange(t *testing.T, seed uint64, p Params) (trace string) {
	synctest.Test(t, func(t *testing.T) {
		n := New(seed, p)
		done := make(chan struct{})
		const pairs = 4
		for i := range pairs {
			a, err := n.Listen(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1000), Options{ECN: true})
			if err != nil {
				t.Fatal(err)
			}
			b, err := n.Listen(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 443), Options{ECN: true})
			if err != nil {
				t.Fatal(err)
			}
			go echo(b)
			go echo(a)
			go func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 0))
				for j := range 200 {
					// Data that stops the echo: the first byte counts down.
					data := make([]byte, 100+rnd.IntN(900))
					data[0], data[1] = 3, byte(j)
					a.Send(&udp.SendMsg{Data: data, Remote: b.LocalAddr(), ECN: udp.ECT0})
					time.Sleep(time.Duration(1+rnd.IntN(4)) * ms)
				}
				done <- struct{}{}
			}()
		}
		for range pairs {
			<-done
		}
		time.Sleep(10 * time.Second)
		trace = n.TraceString()
		if n.InFlight() != 0 {
			t.Errorf("%d bytes in flight at the end", n.InFlight())
		}
		n.Close()
	})
	return trace
}

// echo sends back what comes, with the first byte less by one, until it is 0.
func echo(e *Endpoint) {
	m := udp.RecvMsg{Buf: make([]byte, udp.MinRecvBuffer)}
	for e.Recv(&m) == nil {
		if m.Buf[0] > 0 && m.Buf[0] < 4 {
			m.Buf[0]--
			e.Send(&udp.SendMsg{Data: m.Buf[:m.N], Remote: m.Remote, ECN: udp.ECT0})
		}
	}
}

func TestDeterminism(t *testing.T) {
	first := exchange(t, 42, rough)
	for range 5 {
		if again := exchange(t, 42, rough); again != first {
			a, b := strings.Split(first, "\n"), strings.Split(again, "\n")
			for i := range a {
				if i >= len(b) || a[i] != b[i] {
					t.Fatalf("line %d:\n%s\nbecame\n%s", i, a[i], b[min(i, len(b)-1)])
				}
			}
			t.Fatal("the trace grew")
		}
	}
	if other := exchange(t, 43, rough); other == first {
		t.Error("another seed, the same trace")
	}
	for _, what := range []string{"dropped: loss", "duplicated", "reordered", "corrupted", "marked", "delivered"} {
		if !strings.Contains(first, what) {
			t.Errorf("nothing %q in the trace", what)
		}
	}
}

// One impairment does not move the decisions of another.
func TestImpairmentsAreIndependent(t *testing.T) {
	lost := func(p Params) (indices []int) {
		inWorld(t, 7, p, Options{}, func(w *world) {
			w.sendNumbered(500, 100, ms)
			w.drain(time.Second)
			for _, e := range w.net.Trace() {
				if e.Kind == Dropped {
					indices = append(indices, e.Index)
				}
			}
		})
		return indices
	}
	plain := lost(Params{Loss: 0.1})
	if more := lost(Params{Loss: 0.1, Jitter: 5 * ms, Duplicate: 0.5, Corrupt: 0.5, Reorder: 0.5, ReorderBy: ms}); !slices.Equal(plain, more) {
		t.Errorf("lost %v, and with other impairments %v", plain, more)
	}
	if len(plain) == 0 {
		t.Error("nothing was lost")
	}
}

func TestCloseReleasesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, Params{Delay: time.Hour, Rate: 1000})
		e, err := n.Listen(addrA, Options{SendBuffer: 10})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 3)
		for range 3 { // several readers of one endpoint
			go func() {
				ended <- e.Recv(&udp.RecvMsg{Buf: make([]byte, udp.MinRecvBuffer)})
			}()
		}
		if err := e.Send(&udp.SendMsg{Data: make([]byte, 100), Remote: addrB}); err != nil {
			t.Fatal(err)
		}
		woken := make(chan struct{})
		e.OnWritable(func() { close(woken) })
		synctest.Wait()
		if n.InFlight() != 100 {
			t.Errorf("%d bytes in flight", n.InFlight())
		}
		n.Close()
		n.Close()
		for range 3 {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Recv: %v", err)
			}
		}
		<-woken
		if n.InFlight() != 0 {
			t.Errorf("%d bytes in flight after Close", n.InFlight())
		}
		if _, err := n.Listen(addrB, Options{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Listen: %v", err)
		}
		n.Inject(addrA, addrB, []byte("x"), 0)
	})
}

func TestBothAndInject(t *testing.T) {
	inWorld(t, 1, Params{}, Options{}, func(w *world) {
		w.net.Both(addrA.Addr(), addrB.Addr(), func(p *Params) { p.Delay = 30 * ms })
		w.send("x")
		if err := w.b.Send(&udp.SendMsg{Data: []byte("y"), Remote: addrA}); err != nil {
			t.Fatal(err)
		}
		// Somebody else claims to be a, over a link of the same hosts.
		data := []byte("forged")
		w.net.Inject(netip.AddrPortFrom(addrA.Addr(), 9), addrB, data, udp.NotECT)
		data[0] = 'F'
		all := w.drain(time.Second)
		if len(all) != 2 || all[0].at != 30*ms || all[1].data != "forged" || all[1].from.Port() != 9 {
			t.Errorf("received %+v", all)
		}
		if back := take(w.atA); len(back) != 1 || back[0].at != 30*ms {
			t.Errorf("received %+v", back)
		}
	})
}

func TestNobodyThere(t *testing.T) {
	inWorld(t, 1, Params{}, Options{}, func(w *world) {
		if err := w.a.Send(&udp.SendMsg{Data: []byte("x"), Remote: netip.MustParseAddrPort("203.0.113.1:5")}); err != nil {
			t.Fatal(err)
		}
		w.drain(ms)
		if s := w.net.TraceString(); !strings.Contains(s, "dropped: nobody there") {
			t.Errorf("trace:\n%s", s)
		}
	})
}

// What is under way is bounded, whatever the link promises.
func TestInFlightIsBounded(t *testing.T) {
	inWorld(t, 1, Params{Delay: time.Hour}, Options{MaxSegments: 64, MTU: udp.MaxPayload}, func(w *world) {
		data := make([]byte, 64_000)
		for range 2 * maxInFlight / len(data) {
			if err := w.a.Send(&udp.SendMsg{Data: data, SegmentSize: 32_000, Remote: addrB}); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.net.InFlight(); n > maxInFlight {
			t.Errorf("%d bytes in flight", n)
		}
	})
}

func TestTraceIsBounded(t *testing.T) {
	inWorld(t, 1, Params{}, Options{}, func(w *world) {
		for i := range traceKept {
			w.send(fmt.Sprint(i))
			if i%1000 == 0 {
				w.drain(ms)
			}
		}
		w.drain(ms)
		all := w.net.Trace()
		if len(all) != traceKept {
			t.Fatalf("%d events", len(all))
		}
		if last := all[len(all)-1]; last.Index != traceKept-1 || last.Kind != Delivered {
			t.Errorf("last event %v", last)
		}
	})
	if Kind(99).String() != "invalid" {
		t.Error("a kind without a name has one")
	}
}
