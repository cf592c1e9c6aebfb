package procs

import (
	"context"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestFitter(t *testing.T) {
	f := fitter{limit: 6, n: 1}
	steps := []struct {
		busy  float64
		times int
		want  int
	}{
		{0, 10, 1}, {0.79, 10, 1}, {0.9, 1, 2}, {1.5, 10, 2}, // two, and not yet more
		{1.7, 1, 4}, {4, 1, 6}, {6, 10, 6}, // up at once, to the limit
		{3.5, 20, 6},                          // in between
		{2.9, 4, 6}, {3.5, 1, 6}, {2.9, 4, 6}, // not calm for long enough
		{2.9, 1, 5}, {0.1, 5, 4}, {0.1, 15, 1}, {0.1, 20, 1}, // one by one
	}
	for i, s := range steps {
		for range s.times {
			f.next(s.busy)
		}
		if f.n != s.want {
			t.Fatalf("step %d: %d processors, want %d", i, f.n, s.want)
		}
	}
}

// TestFit runs it on this process: from one processor to all under load, and
// back to what it found at the end.
func TestFit(t *testing.T) {
	if v, set := os.LookupEnv("GOMAXPROCS"); set {
		os.Unsetenv("GOMAXPROCS")
		t.Cleanup(func() { os.Setenv("GOMAXPROCS", v) })
	}
	before := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(max(before, 2))
	limit := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	done := make(chan struct{})
	go func() {
		defer close(done)
		Fit(ctx)
	}()
	await(t, 1)
	load, stop := context.WithCancel(ctx)
	for range limit {
		wg.Go(func() {
			for load.Err() == nil {
			}
		})
	}
	// On a busy machine no process gets a whole processor: then it stays at one.
	deadline := time.Now().Add(3 * time.Second)
	for runtime.GOMAXPROCS(0) == 1 && time.Now().Before(deadline) {
		time.Sleep(period)
	}
	stop()
	wg.Wait()
	await(t, 1)
	cancel()
	<-done
	if n := runtime.GOMAXPROCS(0); n != limit {
		t.Errorf("%d processors at the end, %d at the beginning", n, limit)
	}
}

// await waits until there are n processors.
func await(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); runtime.GOMAXPROCS(0) != n; time.Sleep(period / 10) {
		if time.Now().After(deadline) {
			t.Fatalf("%d processors, waiting for %d", runtime.GOMAXPROCS(0), n)
		}
	}
}

// What the environment says stands.
func TestEnvironment(t *testing.T) {
	t.Setenv("GOMAXPROCS", "2")
	before := runtime.GOMAXPROCS(0)
	Fit(t.Context()) // returns at once
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors, %d before", n, before)
	}
}
