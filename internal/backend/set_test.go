package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A key keeps its backend, all get some, and one that goes moves only its own.
func TestSetSticky(t *testing.T) {
	addrs := []string{"10.0.0.1:445", "10.0.0.2:445", "10.0.0.3:445"}
	b, err := NewSet(Config{Addrs: addrs, Policy: Sticky})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	count := map[string]int{}
	before := map[string]string{}
	for i := range 3000 {
		key := fmt.Sprintf("client-%d", i)
		before[key] = b.Order(key, now)[0]
		count[before[key]]++
	}
	for _, a := range addrs {
		if count[a] < 800 || count[a] > 1200 {
			t.Errorf("%s has %d of 3000", a, count[a])
		}
	}
	b.Mark(addrs[1], fmt.Errorf("gone"), now)
	for key, was := range before {
		if got := b.Order(key, now)[0]; got == addrs[1] || was != addrs[1] && got != was {
			t.Fatalf("%s moved from %s to %s", key, was, got)
		}
	}
}

func TestSetCooldown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := NewSet(Config{Addrs: []string{"a:1", "b:1"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []time.Duration{10, 20, 40, 80, 80} {
			b.Mark("a:1", fmt.Errorf("refused"), time.Now())
			if got := b.Order("", time.Now()); !slices.Equal(got, []string{"b:1", "a:1"}) {
				t.Errorf("order %q", got)
			}
			time.Sleep(want * time.Second)
			if got := b.Order("", time.Now()); got[0] != "a:1" {
				t.Errorf("after %d s: order %q", want, got)
			}
		}
		b.Mark("a:1", nil, time.Now())
		if s := b.State()[0]; !s.Up || s.Failures != 0 || s.LastError != "" || s.Dials != 6 || s.Failed != 5 {
			t.Errorf("%+v", s)
		}
	})
}

func TestSetConfig(t *testing.T) {
	for _, addrs := range [][]string{nil, {"host"}, {":445"}, {"host:"}, {"a:1", "a:1"}} {
		if _, err := NewSet(Config{Addrs: addrs}); err == nil {
			t.Errorf("%q was accepted", addrs)
		}
	}
}

// A client that comes back goes to the backend that has its open files, even
// where the policy would send it to another, but not for ever, and not to one that is down.
func TestSetAffinity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewSet(Config{Addrs: []string{"a:1", "b:1"}})
		if err != nil {
			t.Fatal(err)
		}
		s.Mark("a:1", errors.New("refused"), time.Now())
		addr, err := s.Each(t.Context(), "c", func(context.Context, string) error { return nil })
		if err != nil || addr != "b:1" {
			t.Fatalf("%s %v", addr, err)
		}
		s.Mark("a:1", nil, time.Now())
		if got := s.Order("c", time.Now())[0]; got != "b:1" {
			t.Errorf("back to %s at once", got)
		}
		if got := s.Order("other", time.Now())[0]; got != "a:1" {
			t.Errorf("another client goes to %s", got)
		}
		next, err := NewSet(Config{Addrs: []string{"b:1", "a:1"}, Policy: Sticky})
		if err != nil {
			t.Fatal(err)
		}
		next.Adopt(s)
		if got := next.Order("c", time.Now())[0]; got != "b:1" {
			t.Errorf("after a reload to %s", got)
		}
		s.Mark("b:1", errors.New("reset"), time.Now())
		if got := s.Order("c", time.Now())[0]; got != "a:1" {
			t.Errorf("to %s, which is down", got)
		}
		s.Mark("b:1", nil, time.Now())
		time.Sleep(5 * time.Minute)
		if got := s.Order("c", time.Now())[0]; got != "a:1" {
			t.Errorf("after 5 min still to %s", got)
		}
	})
}

func TestSetAffinityBound(t *testing.T) {
	s, err := NewSet(Config{Addrs: []string{"a:1", "b:1"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxAffinities {
		s.Touch(fmt.Sprint(i), "b:1", time.Now())
	}
	if len(s.affinity) != maxAffinities || len(s.oldest) != maxAffinities {
		t.Errorf("%d clients remembered, %d in order", len(s.affinity), len(s.oldest))
	}
	if got := s.Order(fmt.Sprint(2*maxAffinities-1), time.Now())[0]; got != "b:1" {
		t.Errorf("the last client goes to %s", got)
	}
}

// A backend that has failed is tried by one session at a time; those that wait
// share its failure, and go on once it works.
func TestSetCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewSet(Config{Addrs: []string{"a:1"}})
		if err != nil {
			t.Fatal(err)
		}
		s.Mark("a:1", errors.New("refused"), time.Now())
		var tries, at, most atomic.Int64
		outcome := errors.New("hangs")
		try := func(context.Context, string) error {
			tries.Add(1)
			most.Store(max(most.Load(), at.Add(1)))
			defer at.Add(-1)
			time.Sleep(5 * time.Second)
			return outcome
		}
		all := func(want bool) {
			t.Helper()
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					if _, err := s.Each(t.Context(), "", try); (err == nil) != want {
						t.Errorf("%v", err)
					}
				})
			}
			wg.Wait()
		}
		start := time.Now()
		all(false)
		if took := time.Since(start); tries.Load() != 1 || took != 5*time.Second {
			t.Errorf("%d attempts in %s", tries.Load(), took)
		}
		outcome = nil
		all(true)
		if tries.Load() != 51 || most.Load() != 49 {
			t.Errorf("%d attempts, %d at once", tries.Load(), most.Load())
		}
		if st := s.State()[0]; !st.Up || st.Failures != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// Who is given up while trying says nothing: the next in line tries.
func TestSetCircuitCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewSet(Config{Addrs: []string{"a:1"}})
		if err != nil {
			t.Fatal(err)
		}
		s.Mark("a:1", errors.New("refused"), time.Now())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Each(ctx, "", func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }); err == nil {
				t.Error("cancelled, and yet connected")
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := s.Each(t.Context(), "", func(context.Context, string) error { return nil }); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
	})
}

// Probes: one lost is forgiven, two are not, a good one ends a cooldown; each
// change is told once.
func TestSetProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []bool
		s, err := NewSet(Config{Addrs: []string{"a:1", "b:1"}, Changed: func(st State) { told = append(told, st.Up) }})
		if err != nil {
			t.Fatal(err)
		}
		bad := errors.New("no answer")
		for i, want := range []bool{true, false, false} {
			s.Probed("a:1", 0, bad, time.Now())
			if got := s.State()[0].Up; got != want {
				t.Errorf("after %d bad probes up is %v", i+1, got)
			}
		}
		if got := s.Order("", time.Now()); got[0] != "b:1" {
			t.Errorf("order %q", got)
		}
		time.Sleep(time.Hour) // its cooldown is over, but nobody has seen it work
		if s.State()[0].Up {
			t.Error("up without a good probe")
		}
		s.Probed("a:1", time.Millisecond, nil, time.Now())
		st := s.State()[0]
		if !st.Up || st.Failures != 0 || st.Probes != 4 || st.BadProbes != 3 || st.ProbeTime != time.Millisecond || st.LastError != "" {
			t.Errorf("%+v", st)
		}
		s.Mark("a:1", bad, time.Now()) // a session's failure counts at once
		s.Probed("a:1", 0, nil, time.Now())
		if want := []bool{false, true, false, true}; !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
	})
}
