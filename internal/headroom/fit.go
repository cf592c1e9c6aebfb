// Package headroom keeps a process's heap about as small as what lives in it.
//
// The Go runtime lets garbage grow to as much as lives on the heap (GOGC=100)
// before it looks for it. A server with many idle connections and next to nothing
// to do makes garbage slowly, and still comes to hold twice what they need. So
// here GOGC follows the rate of allocation: garbage may grow for a few seconds, and
// never to more than the runtime would allow.
package headroom

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	period = time.Second
	// interval is the time between two collections that is long enough: one of 100
	// MiB takes a tenth of a second of one processor.
	interval = 2 * time.Second
	// GOGC is between least and most, in steps: setting it stops the world.
	least, most = 15, 100
	step        = 10
	// A heap of big bytes gets half of that at most. What a crowd of connections
	// leaves behind when it has come lies scattered among what it keeps, and cannot
	// be given back: the less of it there ever was, the better.
	big     = 32 << 20
	mostBig = most / 2
	// calm is how many periods in a row must do with less before it gets less.
	calm = 5
)

// A fitter is the decision, without a clock or a process.
type fitter struct {
	percent int // in force
	quiet   int // periods, in a row, that would have done with less
	need    int // the most of those
}

// wanted is the GOGC with which a heap of which live bytes are in use is collected
// every interval, if rate bytes a second are allocated.
func wanted(rate, live float64) int {
	if live <= 0 {
		return most
	}
	limit := most
	if live >= big {
		limit = mostBig
	}
	n := least
	for n < limit && float64(n)/100*live < rate*interval.Seconds() {
		n += step
	}
	return min(n, limit)
}

// next returns what GOGC should be after a period: more at once, less when it is
// sure.
func (f *fitter) next(rate, live float64) int {
	n := wanted(rate, live)
	if n >= f.percent || live >= big && f.percent > mostBig {
		f.percent, f.quiet, f.need = n, 0, 0
		return n
	}
	f.quiet++
	f.need = max(f.need, n)
	if f.quiet >= calm {
		f.percent, f.quiet, f.need = f.need, 0, 0
	}
	return f.percent
}

// Fit adapts GOGC until ctx ends and then sets it back. It leaves it alone where
// the environment sets it.
func Fit(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(most))
	f := fitter{percent: most}
	tick := time.NewTicker(period)
	defer tick.Stop()
	last, _ := look()
	for at := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		allocated, live := look()
		before := f.percent
		if n := f.next(float64(allocated-last)/now.Sub(at).Seconds(), float64(live)); n != before {
			debug.SetGCPercent(n)
		}
		at, last = now, allocated
	}
}

// look returns the bytes allocated so far, and those that the last collection
// left.
func look() (allocated, live uint64) {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64(), s[1].Value.Uint64()
}
