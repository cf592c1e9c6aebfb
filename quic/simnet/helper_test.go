package simnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

const ms = time.Millisecond

var (
	addrA = netip.MustParseAddrPort("192.0.2.1:1000")
	addrB = netip.MustParseAddrPort("198.51.100.2:443")
)

// got is what an endpoint received, with the time since the network began.
type got struct {
	at      time.Duration
	data    string
	n       int
	segment int
	from    netip.AddrPort
	local   netip.Addr
	ecn     uint8
}

// world is a network with two endpoints, a and b; what comes to either is
// collected.
type world struct {
	t     *testing.T
	net   *Net
	a, b  *Endpoint
	start time.Time
	atA   chan got
	atB   chan got
}

// inWorld runs f in a bubble and closes everything; the bubble fails if a
// goroutine is left.
func inWorld(t *testing.T, seed uint64, p Params, opt Options, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: New(seed, p), start: time.Now(), atA: make(chan got, 1<<16), atB: make(chan got, 1<<16)}
		w.a = w.listen(addrA, opt)
		w.b = w.listen(addrB, opt)
		go w.collect(w.a, w.atA)
		go w.collect(w.b, w.atB)
		defer func() {
			if t.Failed() && len(w.net.Trace()) < 200 {
				t.Log("trace:\n" + w.net.TraceString())
			}
			if err := w.net.Close(); err != nil {
				t.Error(err)
			}
		}()
		f(w)
	})
}

func (w *world) listen(addr netip.AddrPort, opt Options) *Endpoint {
	w.t.Helper()
	e, err := w.net.Listen(addr, opt)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) collect(e *Endpoint, to chan<- got) {
	m := udp.RecvMsg{Buf: make([]byte, udp.MinRecvBuffer)}
	for {
		if err := e.Recv(&m); err != nil {
			if !errors.Is(err, net.ErrClosed) {
				w.t.Errorf("Recv: %v", err)
			}
			close(to)
			return
		}
		to <- got{time.Since(w.start), string(m.Buf[:m.N]), m.N, m.SegmentSize, m.Remote, m.Local, m.ECN}
	}
}

// send sends one datagram from a to b.
func (w *world) send(data string) {
	w.t.Helper()
	w.sendECN(data, udp.NotECT)
}

func (w *world) sendECN(data string, ecn uint8) {
	w.t.Helper()
	if err := w.a.Send(&udp.SendMsg{Data: []byte(data), Remote: addrB, ECN: ecn, DontFragment: true}); err != nil {
		w.t.Fatalf("Send: %v", err)
	}
}

// sendNumbered sends n datagrams of size bytes, numbered, one each gap.
func (w *world) sendNumbered(n, size int, gap time.Duration) {
	w.t.Helper()
	for i := range n {
		w.sendECN(fmt.Sprintf("%0*d", size, i), udp.ECT0)
		time.Sleep(gap)
	}
}

// drain waits for d and returns what came to b in the meantime.
func (w *world) drain(d time.Duration) []got {
	time.Sleep(d)
	synctest.Wait()
	return take(w.atB)
}

func take(c <-chan got) (all []got) {
	for {
		select {
		case g, ok := <-c:
			if !ok {
				return all
			}
			all = append(all, g)
		default:
			return all
		}
	}
}

func (w *world) ab() *Link { return w.net.Link(addrA.Addr(), addrB.Addr()) }

// number is the number in a datagram of sendNumbered.
func (g got) number(t *testing.T) int {
	t.Helper()
	var i int
	if _, err := fmt.Sscanf(g.data, "%d", &i); err != nil {
		t.Fatalf("datagram %q: %v", g.data, err)
	}
	return i
}
