package gateway

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// idleRelease is how long the gateway is without a session before it gives the
// memory of the last rush back to the system. The runtime would, too, but so
// slowly that a crowd in the morning shows in the figures all day.
const idleRelease = 2 * time.Second

// memory gives memory back when the gateway has nothing to do.
type memory struct {
	mu    sync.Mutex
	timer *time.Timer
}

// releaseMemory gives back what a wave of connections has left behind: garbage,
// and the stacks of goroutines that wait now. Each collection halves a stack.
func releaseMemory() {
	runtime.GC()
	runtime.GC()
	debug.FreeOSMemory()
}

// busy says that there is a session.
func (m *memory) busy() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer != nil {
		m.timer.Stop()
		m.timer = nil
	}
}

// idle says that the last session has ended.
func (m *memory) idle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer == nil {
		m.timer = time.AfterFunc(idleRelease, debug.FreeOSMemory)
		return
	}
	m.timer.Reset(idleRelease)
}
