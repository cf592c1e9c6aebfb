//go:build linux

package supervise

import (
	"context"
	"time"
)

// backoff spaces out attempts: at once, then 50 ms, doubling up to most.
type backoff struct{ next, most time.Duration }

func (b *backoff) wait(ctx context.Context) {
	d := b.next
	b.next = min(max(2*b.next, 50*time.Millisecond), b.most)
	if d == 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (b *backoff) reset() { b.next = 0 }
