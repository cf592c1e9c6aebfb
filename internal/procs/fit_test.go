package procs

import (
	"context"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

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
		Fit(ctx, Source{})
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
	Fit(t.Context(), Source{}) // returns at once
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors, %d before", n, before)
	}
}
