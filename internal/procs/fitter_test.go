package procs

import "testing"

// With idle processors in the machine the number follows the load.
func TestFitterIdle(t *testing.T) {
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
			f.next(load{busy: s.busy, idle: 2})
		}
		if f.n != s.want {
			t.Fatalf("step %d: %d processors, want %d", i, f.n, s.want)
		}
	}
}

// No more is taken at once than the machine has idle.
func TestFitterTakesWhatIsIdle(t *testing.T) {
	f := fitter{limit: 16, n: 8}
	if f.next(load{busy: 7.5, idle: 2.4}); f.n != 10 {
		t.Errorf("%d processors of 8 and 2.4 idle ones", f.n)
	}
}

// A scene is a machine whose processors are all in use, seen by one process: what
// it gets done with so many of its own.
type scene struct {
	f    fitter
	rate func(n int) float64
	busy func(n int) float64
}

// run lets so many periods pass and returns how many of them had each number of
// processors.
func (s *scene) run(periods int) map[int]int {
	seen := make(map[int]int)
	for range periods {
		n := s.f.n
		seen[n]++
		s.f.next(load{busy: s.busy(n), rate: s.rate(n)})
	}
	return seen
}

// Where all processors are in use and more threads slow everything down, they are
// tried now and then for a moment, less and less often.
func TestFitterTrialFails(t *testing.T) {
	s := scene{f: fitter{limit: 2, n: 1},
		rate: func(n int) float64 { return 15.5 / float64(n) },
		busy: func(int) float64 { return 0.95 }}
	if seen := s.run(patience); seen[2] != 0 || s.f.n != 2 {
		t.Fatalf("no trial after %d periods: %v, then %d", patience, seen, s.f.n)
	}
	if seen := s.run(1 + looked); seen[1] != 0 || s.f.n != 1 {
		t.Fatalf("the trial did not end after %d periods: %v, then %d", 1+looked, seen, s.f.n)
	}
	if seen := s.run(leastPause - 1); seen[2] != 0 {
		t.Errorf("tried again at once: %v", seen)
	}
	if seen := s.run(10 * mostPause); seen[2] == 0 || seen[2] > (1+looked)*14 {
		t.Errorf("periods with one and with two processors: %v", seen)
	}
	if s.f.wait != mostPause {
		t.Errorf("pauses of %d periods", s.f.wait)
	}
}

// Where they help, although others want them too, they are kept.
func TestFitterTrialSucceeds(t *testing.T) {
	s := scene{f: fitter{limit: 8, n: 1},
		rate: func(n int) float64 { return float64(min(n, 4)) },
		busy: func(n int) float64 { return float64(min(n, 4)) }}
	if s.run(60); s.f.n != 4 {
		t.Errorf("%d processors, of which four help", s.f.n)
	}
}

// Who has more than he gets the use of, on a machine that is full, gives them back
// unless that costs him.
func TestFitterGivesBack(t *testing.T) {
	s := scene{f: fitter{limit: 2, n: 2},
		rate: func(n int) float64 { return 12.8 + 2.7*float64(2-n) },
		busy: func(int) float64 { return 1 }}
	if s.run(patience + 2 + looked); s.f.n != 1 {
		t.Errorf("%d processors where one does more", s.f.n)
	}
	s = scene{f: fitter{limit: 2, n: 2},
		rate: func(n int) float64 { return float64(n) },
		busy: func(n int) float64 { return 0.7 * float64(n) }}
	if seen := s.run(patience + 1 + looked); s.f.n != 2 || seen[1] != 1+looked {
		t.Errorf("%d processors where two do twice as much, %v", s.f.n, seen)
	}
}

// Who cannot tell what he gets done keeps what he takes.
func TestFitterWithoutRate(t *testing.T) {
	s := scene{f: fitter{limit: 2, n: 1}, rate: func(int) float64 { return 0 }, busy: func(n int) float64 { return 0.95 * float64(n) }}
	if s.run(100); s.f.n != 2 {
		t.Errorf("%d processors", s.f.n)
	}
}
