package simnet

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// back sends from b to an address and returns what a received.
func (w *world) back(to netip.AddrPort) []got {
	w.t.Helper()
	if err := w.b.Send(&udp.SendMsg{Data: []byte("back"), Remote: to}); err != nil {
		w.t.Fatal(err)
	}
	w.drain(ms)
	return take(w.atA)
}

// seen sends from a to b and returns the source address b saw.
func (w *world) seen() netip.AddrPort {
	w.t.Helper()
	w.send("x")
	all := w.drain(ms)
	if len(all) != 1 {
		w.t.Fatalf("received %+v", all)
	}
	return all[0].from
}

func TestNAT(t *testing.T) {
	outside, moved := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8")
	inWorld(t, 1, Params{}, Options{}, func(w *world) {
		if from := w.seen(); from != addrA {
			t.Fatalf("without a NAT from %v", from)
		}
		nat := w.net.NAT(addrA.Addr(), outside)
		first := w.seen()
		if first.Addr() != outside || nat.Outside(addrA) != first {
			t.Fatalf("behind a NAT from %v, mapping %v", first, nat.Outside(addrA))
		}
		if again := w.seen(); again != first {
			t.Errorf("from %v and then %v", first, again)
		}
		if in := w.back(first); len(in) != 1 || in[0].from != addrB || in[0].local != addrA.Addr() {
			t.Errorf("back: %+v", in)
		}

		nat.Rebind()
		if in := w.back(first); len(in) != 0 {
			t.Error("a forgotten mapping works")
		}
		second := w.seen()
		if second.Addr() != outside || second.Port() == first.Port() {
			t.Errorf("after a rebinding from %v, before %v", second, first)
		}
		if in := w.back(second); len(in) != 1 {
			t.Errorf("back: %+v", in)
		}

		nat.Move(moved)
		if nat.Outside(addrA).IsValid() {
			t.Error("a mapping survived the move")
		}
		third := w.seen()
		if third.Addr() != moved {
			t.Errorf("after a move from %v", third)
		}
		if in := w.back(second); len(in) != 0 {
			t.Error("the old address works")
		}
		if in := w.back(third); len(in) != 1 {
			t.Errorf("back: %+v", in)
		}
		if s := w.net.TraceString(); !strings.Contains(s, "dropped: no NAT mapping") {
			t.Errorf("trace:\n%s", s)
		}
		// Links keep their names: the one from b to a is that of the hosts.
		if c := w.net.Link(addrB.Addr(), addrA.Addr()).Counters(); c.Sent != 5 || c.Delivered != 3 {
			t.Errorf("counters %+v", c)
		}
	})
}

func TestNATMappingsAreBounded(t *testing.T) {
	inWorld(t, 1, Params{}, Options{}, func(w *world) {
		nat := w.net.NAT(addrA.Addr(), netip.MustParseAddr("203.0.113.7"))
		first := w.seen()
		w.net.mu.Lock()
		for port := range uint16(3 * maxMappings) {
			nat.translate(netip.AddrPortFrom(addrA.Addr(), 2000+port))
		}
		if len(nat.out) != maxMappings || len(nat.back) != maxMappings || len(nat.order) != maxMappings {
			t.Errorf("%d, %d, %d mappings", len(nat.out), len(nat.back), len(nat.order))
		}
		w.net.mu.Unlock()
		if in := w.back(first); len(in) != 0 {
			t.Error("the oldest mapping is still there")
		}
		// Ports are used again when all have been.
		w.net.mu.Lock()
		for range 1 << 14 {
			nat.clear()
			if out := nat.translate(addrA); out.Port() < firstPort {
				t.Fatalf("port %d", out.Port())
			}
		}
		w.net.mu.Unlock()
	})
}
