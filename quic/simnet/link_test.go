package simnet

import (
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

func TestDelay(t *testing.T) {
	inWorld(t, 1, Params{Delay: 40 * ms}, Options{}, func(w *world) {
		w.send("one")
		time.Sleep(5 * ms)
		w.send("two")
		all := w.drain(time.Second)
		if len(all) != 2 || all[0].at != 40*ms || all[1].at != 45*ms {
			t.Fatalf("received %+v", all)
		}
		if g := all[0]; g.data != "one" || g.from != addrA || g.local != addrB.Addr() || g.segment != 3 {
			t.Errorf("received %+v", g)
		}
	})
}

func TestZeroParams(t *testing.T) {
	inWorld(t, 1, Params{}, Options{}, func(w *world) {
		w.send("now")
		synctest.Wait()
		if all := take(w.atB); len(all) != 1 || all[0].at != 0 {
			t.Fatalf("received %+v", all)
		}
	})
}

func TestJitterKeepsOrder(t *testing.T) {
	inWorld(t, 1, Params{Delay: 20 * ms, Jitter: 30 * ms}, Options{}, func(w *world) {
		w.sendNumbered(500, 100, ms)
		all := w.drain(time.Second)
		if len(all) != 500 {
			t.Fatalf("%d datagrams", len(all))
		}
		spread := map[time.Duration]bool{}
		for i, g := range all {
			late := g.at - time.Duration(i)*ms
			if g.number(t) != i || late < 20*ms || late > 50*ms {
				t.Fatalf("datagram %d is number %d, %v late", i, g.number(t), late)
			}
			spread[late] = true
		}
		if len(spread) < 100 {
			t.Errorf("only %d different delays", len(spread))
		}
	})
}

func TestRate(t *testing.T) {
	// 100 kB/s: a datagram of 1000 bytes each 10 ms, after a burst of 3000.
	inWorld(t, 1, Params{Delay: 5 * ms, Rate: 100_000, Burst: 3000}, Options{}, func(w *world) {
		w.sendNumbered(10, 1000, 0)
		all := w.drain(time.Second)
		if len(all) != 10 {
			t.Fatalf("%d datagrams", len(all))
		}
		for i, g := range all {
			if want := 5*ms + time.Duration(max(i-2, 0))*10*ms; g.at != want {
				t.Errorf("datagram %d at %v, want %v", i, g.at, want)
			}
		}
		// The bucket is full again after a pause, and no fuller.
		w.sendNumbered(4, 1000, 0)
		now := time.Since(w.start)
		all = w.drain(time.Second)
		if len(all) != 4 || all[2].at != now+5*ms || all[3].at != now+15*ms {
			t.Errorf("after a pause %+v", all)
		}
	})
}

func TestQueueLimitAndMarking(t *testing.T) {
	p := Params{Rate: 100_000, Queue: 10_000, MarkAt: 5000}
	inWorld(t, 1, p, Options{ECN: true}, func(w *world) {
		w.sendNumbered(20, 1000, 0)
		all := w.drain(time.Second)
		if len(all) != 10 {
			t.Fatalf("%d datagrams passed a queue of 10", len(all))
		}
		// The first six found at most 5000 bytes waiting.
		for i, g := range all {
			want := udp.ECT0
			if i >= 6 {
				want = udp.CE
			}
			if g.number(t) != i || g.ecn != want {
				t.Errorf("datagram %d is number %d with ECN %d, want %d", i, g.number(t), g.ecn, want)
			}
		}
		if c := w.ab().Counters(); c.Sent != 20 || c.Delivered != 10 || c.QueueDrops != 10 || c.Marked != 4 {
			t.Errorf("counters %+v", c)
		}
	})
}

// near fails unless n of total is p within four standard deviations.
func near(t *testing.T, what string, n, total int, p float64) {
	t.Helper()
	mean, dev := p*float64(total), math.Sqrt(float64(total)*p*(1-p))
	if math.Abs(float64(n)-mean) > 4*dev {
		t.Errorf("%s: %d of %d, want about %.0f", what, n, total, mean)
	}
}

func TestLoss(t *testing.T) {
	inWorld(t, 1, Params{Loss: 0.2}, Options{}, func(w *world) {
		w.sendNumbered(5000, 100, ms)
		near(t, "lost", 5000-len(w.drain(0)), 5000, 0.2)
		w.ab().Update(func(p *Params) { p.Loss = 1 })
		w.sendNumbered(10, 100, ms)
		if n := len(w.drain(0)); n != 0 {
			t.Errorf("%d datagrams survived certain loss", n)
		}
	})
}

func TestLossRun(t *testing.T) {
	inWorld(t, 3, Params{Loss: 0.02, LossRun: 8}, Options{}, func(w *world) {
		w.sendNumbered(2000, 100, ms)
		last, runs := -1, 0
		for _, g := range w.drain(0) {
			i := g.number(t)
			if gap := i - last - 1; gap > 0 {
				runs++
				if gap < 8 {
					t.Errorf("%d datagrams lost before %d, want at least 8", gap, i)
				}
			}
			last = i
		}
		if runs < 10 {
			t.Errorf("%d runs", runs)
		}
	})
}

func TestReorder(t *testing.T) {
	p := Params{Delay: 10 * ms, Reorder: 0.1, ReorderBy: 5 * ms}
	inWorld(t, 1, p, Options{}, func(w *world) {
		w.sendNumbered(2000, 100, ms)
		all := w.drain(time.Second)
		late := 0
		for _, g := range all {
			switch g.at - time.Duration(g.number(t))*ms {
			case 10 * ms:
			case 15 * ms:
				late++
			default:
				t.Fatalf("number %d at %v", g.number(t), g.at)
			}
		}
		near(t, "reordered", late, 2000, 0.1)
		if len(all) != 2000 || slices.IsSortedFunc(all, func(a, b got) int { return a.number(t) - b.number(t) }) {
			t.Errorf("%d datagrams, in order", len(all))
		}
	})
}

func TestDuplicate(t *testing.T) {
	inWorld(t, 1, Params{Duplicate: 0.3}, Options{}, func(w *world) {
		w.sendNumbered(2000, 100, ms)
		near(t, "duplicated", len(w.drain(0))-2000, 2000, 0.3)
	})
}

func TestCorrupt(t *testing.T) {
	inWorld(t, 1, Params{Corrupt: 0.25}, Options{}, func(w *world) {
		data := strings.Repeat("\x00", 50)
		for range 2000 {
			w.send(data)
			time.Sleep(ms)
		}
		bad := 0
		for _, g := range w.drain(0) {
			bits := 0
			for _, c := range []byte(g.data) {
				for ; c != 0; c &= c - 1 {
					bits++
				}
			}
			if bits > 1 || len(g.data) != 50 {
				t.Fatalf("%d bits flipped in %d bytes", bits, len(g.data))
			}
			bad += bits
		}
		near(t, "corrupted", bad, 2000, 0.25)
	})
}

func TestDown(t *testing.T) {
	inWorld(t, 1, Params{Delay: 10 * ms}, Options{}, func(w *world) {
		w.sendNumbered(4, 10, ms)
		w.ab().Update(func(p *Params) { p.Down = true })
		w.sendNumbered(4, 10, ms)
		if n := len(w.drain(time.Second)); n != 4 {
			t.Errorf("%d datagrams, want the 4 that were under way", n)
		}
		w.ab().Update(func(p *Params) { p.Down = false })
		w.sendNumbered(4, 10, ms)
		w.ab().Update(func(p *Params) { p.Down, p.DropNow = true, true })
		if n := len(w.drain(time.Second)); n != 0 || w.net.InFlight() != 0 {
			t.Errorf("%d datagrams, %d bytes in flight after an outage", n, w.net.InFlight())
		}
		// The other direction was never down.
		if err := w.b.Send(&udp.SendMsg{Data: []byte("x"), Remote: addrA}); err != nil {
			t.Fatal(err)
		}
		w.drain(time.Second)
		if n := len(take(w.atA)); n != 1 {
			t.Errorf("%d datagrams back", n)
		}
	})
}

func TestMTU(t *testing.T) {
	inWorld(t, 1, Params{MTU: 1300}, Options{}, func(w *world) {
		for _, size := range []int{1300, 1301} {
			w.send(strings.Repeat("x", size))
		}
		// Not forbidden to fragment: it arrives whole.
		if err := w.a.Send(&udp.SendMsg{Data: make([]byte, 1400), Remote: addrB}); err != nil {
			t.Fatal(err)
		}
		all := w.drain(ms)
		if len(all) != 2 || all[0].n != 1300 || all[1].n != 1400 {
			t.Errorf("received %d datagrams", len(all))
		}
	})
}

func TestECNPolicies(t *testing.T) {
	const none = 255
	tests := []struct {
		name   string
		p      Params
		in     uint8
		out    uint8
		unable bool
	}{
		{"kept", Params{}, udp.ECT0, udp.ECT0, false},
		{"not marked", Params{ECN: ECNAllCE, MarkCE: 1}, udp.NotECT, udp.NotECT, false},
		{"bleached", Params{ECN: ECNBleach}, udp.ECT0, udp.NotECT, false},
		{"remarked", Params{ECN: ECNToECT1}, udp.ECT0, udp.ECT1, false},
		{"all CE", Params{ECN: ECNAllCE}, udp.ECT0, udp.CE, false},
		{"dropped", Params{ECN: ECNDropAll}, udp.ECT0, none, false},
		{"dropped, not marked", Params{ECN: ECNDropAll}, udp.NotECT, udp.NotECT, false},
		{"congested", Params{MarkCE: 1}, udp.ECT1, udp.CE, false},
		{"socket cannot", Params{}, udp.ECT0, udp.NotECT, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, 1, tt.p, Options{ECN: !tt.unable}, func(w *world) {
				w.sendECN("x", tt.in)
				all := w.drain(ms)
				switch {
				case len(all) == 0 && tt.out == none:
				case len(all) != 1 || all[0].ecn != tt.out:
					t.Errorf("received %+v, want ECN %d", all, tt.out)
				}
			})
		})
	}
}

func TestDropList(t *testing.T) {
	inWorld(t, 1, Params{}, Options{}, func(w *world) {
		w.ab().Drop(0, 3, 4)
		w.sendNumbered(6, 10, ms)
		var have []int
		for _, g := range w.drain(0) {
			have = append(have, g.number(t))
		}
		if !slices.Equal(have, []int{1, 2, 5}) {
			t.Errorf("received %v", have)
		}
	})
}

func TestScript(t *testing.T) {
	inWorld(t, 1, Params{Delay: 10 * ms}, Options{ECN: true}, func(w *world) {
		var seen []int
		w.ab().Script(func(p *Packet) {
			seen = append(seen, p.Index)
			switch p.Index {
			case 0:
				p.Drop = true
			case 1:
				p.Copies = 2
			case 2:
				p.Delay = 7 * ms
			case 3:
				p.Data = []byte("changed")
			case 4:
				p.Data[0], p.ECN = 'X', udp.CE
			case 5:
				p.Data = nil
			}
		})
		for range 6 {
			w.sendECN("plain", udp.ECT0)
		}
		w.ab().Script(nil)
		w.send("free")
		var have []string
		for _, g := range w.drain(time.Second) {
			have = append(have, g.data)
			if (g.data == "Xlain") != (g.ecn == udp.CE) {
				t.Errorf("%q with ECN %d", g.data, g.ecn)
			}
		}
		want := []string{"plain", "plain", "plain", "changed", "Xlain", "free", "plain"}
		if !slices.Equal(have, want) {
			t.Errorf("received %q, want %q", have, want)
		}
		if !slices.Equal(seen, []int{0, 1, 2, 3, 4, 5}) {
			t.Errorf("script saw %v", seen)
		}
	})
}
