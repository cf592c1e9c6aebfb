package headroom

import (
	"context"
	"os"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

const mib = 1 << 20

func TestWanted(t *testing.T) {
	for _, tt := range []struct {
		rate, live float64
		want       int
	}{
		{0, 100 * mib, least},
		{7 * mib, 100 * mib, least}, // all of it would be collected in time
		{10 * mib, 100 * mib, 25},
		{100 * mib, 100 * mib, mostBig},
		{100 * mib, 20 * mib, most},
		{1 * mib, 1 * mib, most}, // a small heap needs room for little
		{0, 0, most},             // not yet known
	} {
		if got := wanted(tt.rate, tt.live); got != tt.want {
			t.Errorf("wanted(%v, %v) = %d, want %d", tt.rate, tt.live, got, tt.want)
		}
	}
}

// More room at once, less when it was not needed for a while; and what was needed
// meanwhile is kept.
func TestFitter(t *testing.T) {
	f := fitter{percent: most}
	if n := f.next(10*mib, 10*mib); n != most {
		t.Fatalf("GOGC %d in a small heap, want %d", n, most)
	}
	if n := f.next(100*mib, 100*mib); n != mostBig {
		t.Fatalf("GOGC %d in a big heap, want %d", n, mostBig)
	}
	for i := range calm - 1 {
		if n := f.next(10*mib, 100*mib); n != mostBig {
			t.Fatalf("GOGC %d after %d periods, want %d", n, i+1, mostBig)
		}
	}
	if n := f.next(0, 100*mib); n != 25 {
		t.Fatalf("GOGC %d when it is calm, want what the busiest of the periods needs, 25", n)
	}
	if n := f.next(50*mib, 100*mib); n != mostBig {
		t.Fatalf("GOGC %d under load, want %d", n, mostBig)
	}
	for range calm {
		f.next(0, 100*mib)
	}
	if f.percent != least {
		t.Errorf("GOGC %d at rest, want %d", f.percent, least)
	}
}

// gcPercent is GOGC as it is in force.
func gcPercent() int {
	n := debug.SetGCPercent(most)
	debug.SetGCPercent(n)
	return n
}

// TestFit runs it on this process, which keeps something and allocates nothing.
func TestFit(t *testing.T) {
	if v, set := os.LookupEnv("GOGC"); set {
		os.Unsetenv("GOGC")
		t.Cleanup(func() { os.Setenv("GOGC", v) })
	}
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	kept := make([]byte, 64*mib)
	debug.FreeOSMemory()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			Fit(ctx)
		}()
		time.Sleep(2 * calm * period)
		if n := gcPercent(); n != least {
			t.Errorf("GOGC is %d in a process at rest, want %d", n, least)
		}
		cancel()
		<-done
	})
	if n := gcPercent(); n != 77 {
		t.Errorf("GOGC is %d at the end, 77 at the beginning", n)
	}
	kept[0] = 1
}

// What the environment says stands.
func TestEnvironment(t *testing.T) {
	t.Setenv("GOGC", "50")
	before := gcPercent()
	Fit(t.Context()) // returns at once
	if n := gcPercent(); n != before {
		t.Errorf("GOGC is %d, %d before", n, before)
	}
}
