package quic

import (
	"slices"
	"sync"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
)

// Send chunks. Bytes enter a chunk once (from a Write, or straight from a
// descriptor by ReadFrom) and leave it through the AEAD; nothing else copies
// them. The headroom in front lets packet building put frame headers before
// the bytes of a range for the moment of sealing.
const (
	chunkHeadroom  = protect.MaxFront
	bigChunkSize   = 64 << 10
	smallChunkSize = 4<<10 - chunkHeadroom
	keptChunks     = 16 // capacity of a list of chunks that is kept when it is empty
)

// A chunk holds the stream bytes [off, off+n).
type chunk struct {
	b       []byte // chunkHeadroom, then the payload's whole capacity; nil: thinned out
	off     uint64
	n       int
	filling bool // ReadFrom is reading into the free end, outside the lock; off is right only if there are bytes before it
	sealing bool // a batch that was given to a sealer is sealed from it
}

var (
	bigChunks   = sync.Pool{New: func() any { return &chunk{b: make([]byte, chunkHeadroom+bigChunkSize)} }}
	smallChunks = sync.Pool{New: func() any { return &chunk{b: make([]byte, chunkHeadroom+smallChunkSize)} }}
)

func newChunk(big bool) *chunk {
	pool := &smallChunks
	if big {
		pool = &bigChunks
	}
	c := pool.Get().(*chunk)
	c.off, c.n, c.filling = 0, 0, false
	return c
}

func (c *chunk) free() {
	switch len(c.b) {
	case chunkHeadroom + bigChunkSize:
		bigChunks.Put(c)
	case chunkHeadroom + smallChunkSize:
		smallChunks.Put(c)
	}
}

func (c *chunk) end() uint64 { return c.off + uint64(c.n) }

func (c *chunk) room() []byte {
	if c.b == nil {
		return nil
	}
	return c.b[chunkHeadroom+c.n:]
}

// A sendBuf holds the bytes of a stream from the first unacknowledged one to
// the last one written, and knows which of them have to be sent (again).
//
// RFC 9000, Section 2.2: "The data at a given offset MUST NOT change if it is
// sent multiple times; an endpoint MAY treat receipt of different data at the
// same offset within a stream as a connection error of type
// PROTOCOL_VIOLATION."
type sendBuf struct {
	chunks []*chunk // contiguous
	start  uint64   // everything below is acknowledged
	next   uint64   // everything from here on was never sent
	end    uint64   // everything written
	acked  rangeset // acknowledged, above start
	lost   rangeset // to be sent again
	mem    *sendMemory
}

// write copies p behind what is there.
func (b *sendBuf) write(p []byte) {
	for len(p) > 0 {
		c := b.tail(len(p))
		n := copy(c.room(), p)
		p = p[n:]
		b.grow(c, n)
	}
}

// tail returns the chunk to fill next, with room for at least one byte.
func (b *sendBuf) tail(want int) *chunk {
	if n := len(b.chunks); n > 0 && len(b.chunks[n-1].room()) > 0 {
		return b.chunks[n-1]
	}
	c := newChunk(want > smallChunkSize)
	b.add(c)
	return c
}

// roomy returns a chunk with room for a large read that nobody reads into yet.
func (b *sendBuf) roomy() *chunk {
	if n := len(b.chunks); n > 0 {
		if c := b.chunks[n-1]; !c.filling && len(c.room()) >= bigChunkSize/4 {
			return c
		}
	}
	c := newChunk(true)
	b.add(c)
	return c
}

// dropEmptyTails gives back chunks that nothing was put into.
func (b *sendBuf) dropEmptyTails() {
	for n := len(b.chunks); n > 0 && b.chunks[n-1].n == 0; n-- {
		b.charge(-len(b.chunks[n-1].b))
		b.chunks[n-1].free()
		b.chunks = b.chunks[:n-1]
	}
}

func (b *sendBuf) add(c *chunk) {
	c.off = b.end
	b.charge(len(c.b))
	b.chunks = append(b.chunks, c)
}

// grow says that n bytes were put into the last chunk.
func (b *sendBuf) grow(c *chunk, n int) {
	c.n += n
	b.end += uint64(n)
}

// find returns the chunk that holds off, which must lie in [start, end).
func (b *sendBuf) find(off uint64) *chunk {
	// What was never sent lies in the last few.
	for i := len(b.chunks) - 1; i >= max(0, len(b.chunks)-6); i-- {
		if b.chunks[i].off <= off {
			return b.chunks[i]
		}
	}
	i, _ := slices.BinarySearchFunc(b.chunks, off, func(c *chunk, off uint64) int {
		if c.end() <= off {
			return -1
		}
		return 1
	})
	return b.chunks[i]
}

// pending returns the next span to send: lost bytes first, then new ones.
func (b *sendBuf) pending() (sp span, retransmit bool) {
	if len(b.lost) > 0 {
		return b.lost[0], true
	}
	return span{b.next, b.end}, false
}

// sent says that [start, end) went out.
func (b *sendBuf) sent(start, end uint64) {
	if end > b.next {
		b.next = end
	}
	if len(b.lost) > 0 {
		b.lost.sub(start, end)
	}
}

// ack says that the peer has [start, end), and frees what can be freed.
func (b *sendBuf) ack(start, end uint64) {
	if end <= b.start {
		return
	}
	if len(b.lost) > 0 {
		b.lost.sub(start, end)
	}
	if start > b.start {
		b.acked.add(start, end)
		b.thin(start, end)
		return
	}
	b.start = end
	for len(b.acked) > 0 && b.acked[0].start <= b.start {
		b.start = max(b.start, b.acked[0].end)
		b.acked = slices.Delete(b.acked, 0, 1)
	}
	b.release()
}

// release frees the chunks below start.
func (b *sendBuf) release() {
	k := 0
	for k < len(b.chunks) {
		c := b.chunks[k]
		if c.filling || c.end() > b.start || (c.end() == b.end && c.n == 0) {
			break
		}
		b.charge(-len(c.b))
		c.free()
		k++
	}
	if k > 0 {
		b.chunks = slices.Delete(b.chunks, 0, k)
	}
	if len(b.chunks) == 0 && cap(b.chunks) > keptChunks {
		b.chunks = nil
	}
}

// thin gives back the memory of chunks in [start, end) that are acknowledged in
// whole while something before them is not: a peer that never acknowledges one
// packet would have all that follows kept. What is left of neighbours becomes one.
func (b *sendBuf) thin(start, end uint64) {
	i, _ := slices.BinarySearchFunc(b.chunks, start, func(c *chunk, off uint64) int {
		if c.end() <= off {
			return -1
		}
		return 1
	})
	// The one before may have been the last when it was acknowledged.
	for i = max(i-1, 0); i < len(b.chunks)-1 && b.chunks[i].off < end; i++ {
		c := b.chunks[i]
		if c.b == nil || c.n == 0 || c.filling || c.sealing || !b.acked.covers(c.off, c.end()) {
			continue
		}
		b.charge(-len(c.b))
		b.chunks[i] = &chunk{off: c.off, n: c.n}
		c.free()
		for _, at := range [2]int{i + 1, i} { // the one behind first, then the one before
			if at < len(b.chunks)-1 && at > 0 && b.chunks[at].b == nil && b.chunks[at-1].b == nil {
				b.chunks[at-1].n += b.chunks[at].n
				b.chunks = slices.Delete(b.chunks, at, at+1)
				i = at - 1
			}
		}
	}
}

// markLost says that [start, end) has to be sent again, but for what was acknowledged meanwhile.
func (b *sendBuf) markLost(start, end uint64) {
	start = max(start, b.start)
	if start >= end {
		return
	}
	b.lost.add(start, end)
	b.lost.subAll(b.acked, start, end)
}

// discard frees everything; used when a stream is reset or its connection is gone.
func (b *sendBuf) discard() {
	for _, c := range b.chunks {
		b.charge(-len(c.b))
		if !c.filling {
			c.free()
		}
	}
	b.chunks, b.lost, b.acked = nil, nil, nil
	b.start, b.next = b.end, b.end
}
