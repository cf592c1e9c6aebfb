package udp

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// BufferSize is the size of pooled memory in bytes.
const BufferSize = 64 << 10

// Free lists are bounded so that a burst does not become a permanent cost:
// what does not fit is left to the garbage collector.
var (
	recvPool  = pool{size: BufferSize, keep: 256}
	batchPool = pool{size: BufferSize, keep: 128}
)

type pool struct {
	size, keep int
	out        atomic.Int64
	mu         sync.Mutex
	free       []*Buffer
}

// Buffer is pooled memory with a reference count. Whoever keeps a view of
// Bytes after the function it was handed to returned must hold a reference.
type Buffer struct {
	data []byte
	pool *pool
	refs atomic.Int32
}

// NewBuffer returns a 64 KiB receive buffer with one reference. Its content is
// whatever was there before.
func NewBuffer() *Buffer { return recvPool.get() }

// NewBatch returns a 64 KiB send buffer with one reference.
func NewBatch() *Buffer { return batchPool.get() }

// Outstanding is the number of buffers and batches that were taken and
// not given back. Tests assert that it returns to where it was.
func Outstanding() int64 {
	return recvPool.out.Load() + batchPool.out.Load()
}

// Bytes is the whole memory: BufferSize bytes.
func (b *Buffer) Bytes() []byte { return b.data }

// Retain adds a reference. It panics if the buffer was already given back,
// because its memory may belong to somebody else by now.
func (b *Buffer) Retain() {
	if n := b.refs.Add(1); n <= 1 {
		panic(fmt.Sprintf("udp: Retain of a released buffer (%d references)", n-1))
	}
}

// Release drops a reference; the last one gives the buffer back.
func (b *Buffer) Release() {
	switch n := b.refs.Add(-1); {
	case n == 0:
		b.pool.put(b)
	case n < 0:
		panic(fmt.Sprintf("udp: Release of a released buffer (%d references)", n+1))
	}
}

// Refs is the number of references, for a holder that may write in place only
// while nobody else looks.
func (b *Buffer) Refs() int { return int(b.refs.Load()) }

func (p *pool) get() *Buffer {
	p.out.Add(1)
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free[n-1] = nil
		p.free = p.free[:n-1]
		p.mu.Unlock()
		b.refs.Store(1)
		return b
	}
	p.mu.Unlock()
	b := &Buffer{data: make([]byte, p.size), pool: p}
	b.refs.Store(1)
	return b
}

func (p *pool) put(b *Buffer) {
	p.out.Add(-1)
	p.mu.Lock()
	if len(p.free) < p.keep {
		p.free = append(p.free, b)
	}
	p.mu.Unlock()
}
