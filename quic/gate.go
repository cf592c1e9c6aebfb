package quic

import (
	"sync"
	"sync/atomic"
	"time"
)

// A gate wakes the one goroutine that waits at it. A wake-up that nobody
// waits for is kept, so that checking a condition under the lock and then
// waiting outside it misses nothing.
type gate struct {
	ch   atomic.Pointer[chan struct{}] // nil: nobody has waited here so far
	kept atomic.Bool                   // a wake-up from before there was a channel
	seat atomic.Pointer[seat]          // where the one who waits reads the socket meanwhile
}

// wait is the channel to wait at for open.
func (g *gate) wait() <-chan struct{} {
	p := g.ch.Load()
	if p == nil {
		ch := make(chan struct{}, 1)
		if g.ch.CompareAndSwap(nil, &ch) {
			p = &ch
		} else {
			p = g.ch.Load()
		}
	}
	if g.kept.Load() && g.kept.Swap(false) {
		wakeUp(*p)
	}
	return *p
}

func wakeUp(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (g *gate) open() {
	if st := g.seat.Load(); st != nil {
		st.wake()
		if g.seat.Load() == st {
			return // it will look again after it has left
		}
	}
	p := g.ch.Load()
	if p == nil {
		g.kept.Store(true)
		p = g.ch.Load() // who made it meanwhile may have looked before
	}
	if p != nil {
		wakeUp(*p)
	}
	if st := g.seat.Load(); st != nil {
		st.wake() // it came in between
	}
}

// take takes a wake-up that was kept.
func (g *gate) take() bool {
	if g.kept.Load() && g.kept.Swap(false) {
		return true
	}
	p := g.ch.Load()
	if p == nil {
		return false
	}
	select {
	case <-*p:
		return true
	default:
		return false
	}
}

// A deadline is one of a net.Conn's deadlines: a channel that closes when it passes.
type deadline struct {
	mu    sync.Mutex // guards set
	timer *time.Timer
	ch    atomic.Pointer[chan struct{}] // closed once the deadline has passed; nil: none was ever set
}

// set moves the deadline; a zero t removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.wait() // fired: wait until its function has closed the channel
	}
	d.timer = nil
	ch := d.ch.Load()
	if passed := ch != nil && isClosed(*ch); passed || ch == nil && !t.IsZero() {
		c := make(chan struct{})
		ch = &c
		d.ch.Store(ch)
	}
	if t.IsZero() {
		return
	}
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(*ch) })
		return
	}
	close(*ch)
}

// wait returns the channel that closes when the deadline passes; nil never does.
// A deadline set while somebody waits must wake them: see Stream.SetReadDeadline.
func (d *deadline) wait() <-chan struct{} {
	if ch := d.ch.Load(); ch != nil {
		return *ch
	}
	return nil
}

func (d *deadline) passed() bool { return isClosed(d.wait()) }

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch: // a nil channel is never ready
		return true
	default:
		return false
	}
}
