package smb

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// NTSTATUS values of a SESSION_SETUP that mean a wrong name or password, or an
// account that may not log on: what a guesser gets to see.
func isLogonFailure(status uint32) bool {
	switch status {
	case 0xC000006D, // STATUS_LOGON_FAILURE
		0xC000006A, // STATUS_WRONG_PASSWORD
		0xC0000064, // STATUS_NO_SUCH_USER
		0xC000006E, // STATUS_ACCOUNT_RESTRICTION
		0xC000006F, // STATUS_INVALID_LOGON_HOURS
		0xC0000070, // STATUS_INVALID_WORKSTATION
		0xC0000071, // STATUS_PASSWORD_EXPIRED
		0xC0000072, // STATUS_ACCOUNT_DISABLED
		0xC000015B, // STATUS_LOGON_TYPE_NOT_GRANTED
		0xC0000193, // STATUS_ACCOUNT_EXPIRED
		0xC0000224, // STATUS_PASSWORD_MUST_CHANGE
		0xC0000234, // STATUS_ACCOUNT_LOCKED_OUT
		0xC0000022: // STATUS_ACCESS_DENIED
		return true
	}
	return false
}

// LogonThrottle slows password guessing: the answer to a refused logon is held
// back, and refusals that share a throttle wait one after the other, so that
// many sessions guess no faster than one. The gateway keeps one for each client
// identity. Safe for use by many goroutines.
type LogonThrottle struct {
	delay time.Duration
	queue time.Duration

	mu     sync.Mutex
	next   time.Time // when the last one waiting goes on
	failed int64
}

// DefaultLogonDelay is what Windows waits after a refused NTLM logon.
const DefaultLogonDelay = 2 * time.Second

// NewLogonThrottle returns a throttle that lets one refusal through every
// delay: 0 is DefaultLogonDelay, at most 10 s. Refusals that would wait for more
// than 15 delays end their session instead.
func NewLogonThrottle(delay time.Duration) *LogonThrottle {
	if delay <= 0 {
		delay = DefaultLogonDelay
	}
	delay = min(delay, 10*time.Second)
	return &LogonThrottle{delay: delay, queue: 15 * delay}
}

// Failures is the number of refused logons seen.
func (t *LogonThrottle) Failures() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// reserve books the next place in the queue.
func (t *LogonThrottle) reserve(now time.Time) (wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed++
	at := now
	if t.next.After(now) {
		at = t.next
	}
	at = at.Add(t.delay)
	if wait = at.Sub(now); wait > t.queue {
		return 0, false
	}
	t.next = at
	return wait, true
}

// hold waits for this refusal's turn, or until ctx ends.
func (t *LogonThrottle) hold(ctx context.Context, status uint32) error {
	wait, ok := t.reserve(time.Now())
	if !ok {
		return &reasonError{ReasonLogons, fmt.Errorf("smb: logon refused (status 0x%08x) while %s of refusals wait already", status, t.queue)}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return &reasonError{ReasonShutdown, fmt.Errorf("smb: ended while a refused logon waited: %w", context.Cause(ctx))}
	}
}
