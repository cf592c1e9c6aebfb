package procs

// How the load is judged. Times are in periods.
const (
	// Above grow of the processors in use, more are wanted; one is given back when
	// the load would be below shrink of the rest for calm.
	grow   = 0.80
	shrink = 0.60
	calm   = 5
	// enough idle processors of the machine, on average, for one more of them to be
	// taken without asking.
	enough = 0.5
	// Otherwise trials tell. One begins after patience of wanting; the first period
	// with another number of processors does not count, the rate of the next ones,
	// as many as were looked at before, does.
	patience = 10
	looked   = 2
	// More processors must bring this much, fewer may cost that much.
	gain = 1.10
	cost = 0.95
	// A trial that was for nothing is repeated after leastPause, which doubles up to
	// mostPause.
	leastPause = 25
	mostPause  = 300
)

// A load is what happened in a period.
type load struct {
	busy float64 // processors that this process kept busy, on average
	idle float64 // processors of the machine that nobody kept busy
	rate float64 // of work; 0: none, or nobody knows
}

// A fitter is the decision, without a clock or a process.
type fitter struct {
	limit int // processors there are
	n     int // in use

	quiet int             // periods of little load, in a row
	eager int             // periods in which another number was wanted, in a row
	pause int             // until the next trial
	wait  int             // what the next pause will be
	rates [looked]float64 // of the last periods

	trial trial
}

// A trial compares another number of processors with the one before.
type trial struct {
	left int     // periods to go; 0: there is no trial
	was  int     // processors before
	rate float64 // of work, before
	need float64 // of that, for what is tried to stay
}

// next returns how many processors to use after such a period.
func (f *fitter) next(l load) int {
	copy(f.rates[:], f.rates[1:])
	f.rates[looked-1] = l.rate
	f.pause = max(f.pause-1, 0)
	if f.trial.left > 0 {
		f.judge()
		return f.n
	}
	switch scarce := l.idle < enough; {
	case f.n < f.limit && l.busy > grow*float64(f.n) && !scarce:
		f.set(min(2*f.n, f.limit, f.n+int(l.idle+enough)))
	case f.n < f.limit && l.busy > grow*float64(f.n):
		f.quiet = 0
		f.try(min(2*f.n, f.limit), gain)
	case f.n > 1 && l.busy < shrink*float64(f.n-1):
		f.eager = 0
		if f.quiet++; f.quiet >= calm {
			f.set(f.n - 1)
		}
	case f.n > 1 && scarce && l.busy <= grow*float64(f.n) && f.rate() > 0: // others want them, too
		f.quiet = 0
		f.try(f.n-1, cost)
	default:
		f.quiet, f.eager = 0, 0
	}
	return f.n
}

func (f *fitter) set(n int) { f.n, f.quiet, f.eager = n, 0, 0 }

// rate is that of the last periods.
func (f *fitter) rate() (sum float64) {
	for _, r := range f.rates {
		sum += r
	}
	return sum / looked
}

// try begins a trial of n processors, once that has been wanted for long enough.
func (f *fitter) try(n int, need float64) {
	if f.eager++; f.eager < patience || f.pause > 0 {
		return
	}
	if f.rate() > 0 {
		f.trial = trial{left: 1 + looked, was: f.n, rate: f.rate(), need: need}
	}
	f.set(n)
}

// judge ends a trial when it has been seen for long enough.
func (f *fitter) judge() {
	if f.trial.left--; f.trial.left > 0 {
		return
	}
	if f.rate() >= f.trial.need*f.trial.rate {
		f.wait = 0
		return
	}
	f.set(f.trial.was)
	f.wait = min(max(2*f.wait, leastPause), mostPause)
	f.pause = f.wait
}
