// Package procs keeps a process on as few processors as its load needs.
//
// A relay hands small pieces of work from socket to socket. With more
// processors than work, the Go scheduler wakes a thread for each piece, to look
// for more on another core, and puts it to sleep again. On a machine whose
// cores are also wanted by the programs at both ends, that costs more than the
// work: with two cores and one SMB session, a fifth of the CPU time and of the
// rate of small operations. So GOMAXPROCS follows the load.
package procs

import (
	"context"
	"os"
	"runtime"
	"time"
)

// How the load is looked at.
const (
	period = 200 * time.Millisecond
	// Above grow of the processors in use, their number doubles at once; it falls
	// by one when the load would be below shrink of the rest for calm periods.
	grow   = 0.80
	shrink = 0.60
	calm   = 5
)

// A fitter is the decision, without a clock or a process.
type fitter struct {
	limit int // processors there are
	n     int // in use
	quiet int // periods of little load, in a row
}

// next returns how many processors to use after a period in which so many were
// busy, on average.
func (f *fitter) next(busy float64) int {
	switch {
	case busy > grow*float64(f.n):
		f.n, f.quiet = min(2*f.n, f.limit), 0
	case f.n > 1 && busy < shrink*float64(f.n-1):
		if f.quiet++; f.quiet >= calm {
			f.n, f.quiet = f.n-1, 0
		}
	default:
		f.quiet = 0
	}
	return f.n
}

// Fit adapts GOMAXPROCS until ctx ends and then sets it back. It leaves it
// alone where the environment sets it, and where the system does not tell
// what a process uses.
func Fit(ctx context.Context) {
	f := fitter{limit: runtime.GOMAXPROCS(0), n: 1}
	last, ok := used()
	if f.limit == 1 || !ok || os.Getenv("GOMAXPROCS") != "" {
		return
	}
	defer runtime.GOMAXPROCS(f.limit)
	runtime.GOMAXPROCS(f.n)
	tick := time.NewTicker(period)
	defer tick.Stop()
	for at := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		cpu, _ := used()
		if before := f.n; f.next((cpu-last).Seconds()/now.Sub(at).Seconds()) != before {
			runtime.GOMAXPROCS(f.n)
		}
		at, last = now, cpu
	}
}
