// Package procs keeps a process on as few processors as its load needs.
//
// A relay hands small pieces of work from socket to socket. With more
// processors than work, the Go scheduler wakes a thread for each piece, to look
// for more on another core, and puts it to sleep again. On a machine whose
// cores are also wanted by the programs at both ends, that costs more than the
// work: with two cores, a tenth of the CPU time of a bulk transfer that sends and
// a fifth of one that receives, and half of the rate of small operations. So
// GOMAXPROCS follows the load:
//
//  1. While the machine has an idle processor, who is busy gets more at once.
//  2. Where all are in use, more of them for this process are tried for a moment,
//     and kept if it gets more done with them.
//  3. Likewise fewer, where there are more.
//  4. Who has become less busy gives back what he has for too much.
package procs

import (
	"context"
	"os"
	"runtime"
	"time"
)

// period is how often the load is looked at.
const period = 200 * time.Millisecond

// A Source is where Fit finds out about the load.
type Source struct {
	// Stat is /proc/stat, for a process that may not open it. Fit does not close it.
	Stat *os.File
	// Work grows with what the process gets done, in whatever unit. Without it nobody
	// knows whether more processors help, and they are taken to.
	Work func() uint64
}

// Fit adapts GOMAXPROCS until ctx ends and then sets it back. It leaves it
// alone where the environment sets it, and where the system does not tell
// what a process uses.
func Fit(ctx context.Context, src Source) {
	f := fitter{limit: runtime.GOMAXPROCS(0), n: 1}
	_, ok := used()
	if f.limit == 1 || !ok || os.Getenv("GOMAXPROCS") != "" {
		return
	}
	if src.Stat == nil {
		if stat, err := os.Open(statFile); err == nil {
			src.Stat = stat
			defer stat.Close()
		}
	}
	defer runtime.GOMAXPROCS(f.limit)
	runtime.GOMAXPROCS(f.n)
	tick := time.NewTicker(period)
	defer tick.Stop()
	for before := src.look(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := src.look()
		if n := f.n; f.next(before.until(now)) != n {
			runtime.GOMAXPROCS(f.n)
		}
		before = now
	}
}

// A reading is what is read at one time.
type reading struct {
	at   time.Time
	used time.Duration // CPU time of this process
	work uint64
	idle float64 // processor seconds that nobody of the machine wanted
	some bool    // idle is known
}

func (s *Source) look() reading {
	r := reading{at: time.Now()}
	r.used, _ = used()
	r.idle, r.some = idleTime(s.Stat, runtime.NumCPU())
	if s.Work != nil {
		r.work = s.Work()
	}
	return r
}

// until is what happened between two readings.
func (r reading) until(now reading) load {
	seconds := now.at.Sub(r.at).Seconds()
	l := load{busy: (now.used - r.used).Seconds() / seconds, idle: enough, rate: float64(now.work-r.work) / seconds}
	if r.some && now.some {
		l.idle = (now.idle - r.idle) / seconds
	}
	return l
}
