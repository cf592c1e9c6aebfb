package tlshd

import "testing"

func TestCalmWatch(t *testing.T) {
	var w calmWatch
	for i, step := range []struct {
		started uint64
		want    bool
	}{
		{0, false}, {10, false}, {10, false}, // a few
		{200, false}, {crowdSize, false}, {crowdSize + 1, false}, {crowdSize + 1, true}, // a crowd, until it is through
		{crowdSize + 1, false}, {crowdSize + 5, false}, {crowdSize + 5, false}, // once, and not for stragglers
		{3 * crowdSize, false}, {3 * crowdSize, true},
	} {
		if got := w.look(step.started); got != step.want {
			t.Errorf("step %d, %d handshakes: %v, want %v", i, step.started, got, step.want)
		}
	}
}
