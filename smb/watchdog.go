package smb

import (
	"fmt"
	"sync"
	"time"
)

// watchdog ends a session that does not move. It runs in no goroutine of its
// own: a timer fires when the earliest deadline could have passed and is set
// again, so that the copies only note the time and never touch a timer.
type watchdog struct {
	s *session

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

func newWatchdog(s *session) *watchdog {
	d := &watchdog{s: s}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = time.AfterFunc(d.period(), d.check)
	return d
}

func (d *watchdog) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	d.timer.Stop()
}

// period is the shortest of the timeouts: a wait that begins now cannot be
// overdue before.
func (d *watchdog) period() time.Duration {
	o, p := &d.s.opts, time.Hour
	for _, t := range []time.Duration{o.MessageTimeout, o.StallTimeout, o.HalfCloseTimeout, o.IdleTimeout} {
		if t > 0 {
			p = min(p, t)
		}
	}
	return p
}

// check ends the session if something is overdue, or looks again when the
// earliest wait now under way would be.
func (d *watchdog) check() {
	reason, again, err := d.s.overdue(time.Now())
	if reason != ReasonNone {
		d.s.stop(reason, err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stopped {
		d.timer.Reset(max(min(again, d.period()), time.Millisecond))
	}
}

// overdue tells what has waited too long at now, or how long from now the
// first of the present waits may still last.
func (s *session) overdue(now time.Time) (reason Reason, again time.Duration, err error) {
	again = time.Hour
	late := func(since time.Time, limit time.Duration) bool {
		if limit <= 0 {
			return false
		}
		left := limit - now.Sub(since)
		if left > 0 {
			again = min(again, left)
		}
		return left <= 0
	}
	up, upSince := s.up.waiting()
	down, downSince := s.down.waiting()
	last := upSince
	if downSince.After(last) {
		last = downSince
	}
	o := &s.opts
	switch {
	case up == waitSourceMid && late(upSince, o.MessageTimeout):
		reason = ReasonClientMessageTimeout
	case down == waitSourceMid && late(downSince, o.MessageTimeout):
		reason = ReasonBackendMessageTimeout
	case up == waitSink && late(upSince, o.StallTimeout):
		reason = ReasonBackendStalled
	case down == waitSink && late(downSince, o.StallTimeout):
		reason = ReasonClientStalled
	case up == waitDone && down != waitSink && late(last, o.HalfCloseTimeout):
		reason = ReasonClientClosed
	case up == waitSource && down == waitSource && late(last, o.IdleTimeout):
		reason = ReasonIdleTimeout
	default:
		return ReasonNone, again, nil
	}
	return reason, 0, fmt.Errorf("smb: %s (since %s)", reason.info().Cause, now.Sub(last).Round(time.Millisecond))
}

// waiting returns what the copy waits for and since when.
func (f *flow) waiting() (waitState, time.Time) {
	// since is stored before state, so a state read first is never paired with
	// a time older than its own beginning.
	w := waitState(f.state.Load())
	return w, time.Unix(0, f.since.Load())
}
