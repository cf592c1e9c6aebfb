package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// A distance is what lies between two ends, the same in both directions: a
// bottleneck with a queue before it, the way, and packets that get lost.
type distance struct {
	rtt   time.Duration
	loss  float64 // share of packets lost at random, each way
	rate  float64 // bottleneck in bytes a second, of IP packets
	queue float64 // bytes that wait before it at most
	seed  uint64  // which packets are lost: equal for equal seeds
}

// mbit is bytes a second.
const mbit = 1e6 / 8

// over is a path of rate with a queue of as much as it holds otherwise.
func over(rtt time.Duration, loss, rate float64) distance {
	return distance{rtt: rtt, loss: loss, rate: rate, queue: max(rate*rtt.Seconds(), 64<<10)}
}

func (d *distance) String() string {
	if d.loss == 0 {
		return fmt.Sprintf("%v, no loss", d.rtt)
	}
	return fmt.Sprintf("%v, %g %%", d.rtt, 100*d.loss)
}

// A oneWay is one direction of a distance.
type oneWay struct {
	distance
	random *rand.Rand
	free   time.Time // when the bottleneck has sent what waits before it
}

func (d *distance) oneWay(direction uint64) *oneWay {
	return &oneWay{distance: *d, random: rand.New(rand.NewPCG(d.seed, direction))}
}

// take says when a packet of n bytes that came at now arrives, or that it does
// not.
func (h *oneWay) take(now time.Time, n int) (at time.Time, ok bool) {
	lost := h.random.Float64() < h.loss
	if h.free.Before(now) {
		h.free = now
	}
	if waiting := h.free.Sub(now).Seconds() * h.rate; lost || waiting+float64(n) > h.queue {
		return at, false
	}
	h.free = h.free.Add(time.Duration(float64(n) / h.rate * 1e9))
	return h.free.Add(h.rtt / 2), true
}

// lossy measures transports, and their congestion controllers, over distances.
func (r *runner) lossy(ctx context.Context, rep *report) error {
	rep.section("Over a distance", "Between two network namespaces, through a bottleneck of 100 Mbit/s with a queue of one round trip's worth "+
		"and packets that get lost at random, the same ones for all. Goodput in Mbit/s of an upload that takes slow start along. "+
		"quic-go's sender is Reno with a factor of 0.7 and an initial window of 32 packets; TCP is the kernel's.")
	t := rep.table("", "bytes", ours+", cubic", ours+", bbr", "quic-go", "x/net/quic", "TLS over TCP, cubic", "TLS over TCP, bbr")
	order := []string{ours + " cubic", ours + " bbr", "quic-go", "xnet", "tls cubic", "tls bbr"}
	for _, path := range []struct {
		distance
		size  uint64
		order []string
	}{
		{over(20*time.Millisecond, 0.001, 100*mbit), 32 * mib, order},
		{over(50*time.Millisecond, 0.01, 100*mbit), 8 * mib, order},
		{over(50*time.Millisecond, 0.01, 100*mbit), 96 * mib, []string{ours + " bbr", "tls bbr"}}, // the others would take minutes
		{over(100*time.Millisecond, 0, 100*mbit), 64 * mib, order},
	} {
		size := path.size / pick(r.quick, uint64(4), 1)
		works := make(map[string]*work)
		for _, p := range path.order {
			_, cc, _ := strings.Cut(p, " ")
			works[p] = &work{upload: size, payload: 1400, congestion: cc, away: &path.distance}
		}
		all, err := r.rounds(ctx, pick(r.quick, 1, 3), works, path.order)
		if err != nil {
			return err
		}
		cells := []string{path.String(), fmt.Sprintf("%d MiB", size/mib)}
		for _, p := range order {
			cells = append(cells, spread("%.1f", all[p], func(m measured) float64 { return 1000 * m.client.Gbps }))
		}
		t.row(cells...)
	}
	return nil
}
