package quic

import (
	"errors"
	"math/bits"
	"slices"
	"sync"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// Received stream data. Data that arrives in order in a large batch stays in
// the receive buffer it was decrypted in, and the reader gets views of it.
// Everything else is copied into blocks of its own size, so that a lone datagram,
// or one byte behind a gap, cannot pin 64 KiB: the copy costs a hundredth of the
// system call that brought it. A block is at most twice as large as what it is
// begun for, or than all that waits in front of it.
const (
	recvBlockSize = 2 << 10 // the largest
	minRecvBlock  = 64
	viewThreshold = 32 << 10 // a receive call of at least so many bytes is worth keeping by reference
	minView       = 256      // bytes worth a view; fewer cost less to copy than to describe
	pieceOverhead = 128      // charged for each out-of-order piece beside its bytes
	maxPieces     = 4 << 10  // out-of-order pieces of one stream: each new one moves all behind it
)

// errOverBudget makes the connection drop a packet before it is acknowledged.
var errOverBudget = errors.New("quic: receive budget exceeded")

// A recvBlock is memory for a small piece.
type recvBlock struct{ b []byte }

// recvBlocks holds free blocks by size: 64, 128, and so on to recvBlockSize.
var recvBlocks [6]sync.Pool

func newRecvBlock(n int) *recvBlock {
	class := 0
	for size := minRecvBlock; size < n && size < recvBlockSize; size *= 2 {
		class++
	}
	if blk, ok := recvBlocks[class].Get().(*recvBlock); ok {
		return blk
	}
	return &recvBlock{make([]byte, minRecvBlock<<class)}
}

func (blk *recvBlock) free() {
	recvBlocks[bits.Len(uint(len(blk.b)/minRecvBlock))-1].Put(blk)
}

// An rxRef is a connection's hold on one receive buffer, charged whole.
type rxRef struct {
	buf  *udp.Buffer
	refs int
}

var rxRefs = sync.Pool{New: func() any { return new(rxRef) }}

// A piece is a run of stream bytes in memory of one kind.
type piece struct {
	data  []byte
	ref   *rxRef     // bytes of a receive buffer
	block *recvBlock // bytes of a block; both nil: plain heap
	off   uint64     // out-of-order pieces only
	cost  int        // plain heap: bytes charged
}

// RFC 9000, Section 2.2: "Endpoints MUST be able to deliver stream data to an
// application as an ordered byte stream."
//
// A recvBuf puts a stream's bytes in order.
type recvBuf struct {
	store   *pieceStore // lends queue its memory while there is something unread
	queue   []piece     // in order, unread
	head    int         // first unread piece in queue
	late    []piece     // out of order: sorted, disjoint
	read    uint64      // bytes the application has taken
	end     uint64      // bytes in order: read + unread
	final   uint64      // final size, valid if hasFinal
	highest uint64      // highest offset seen
	hasFin  bool
	viewing bool // a reader looks at queue outside the lock
	dropped bool // discard as soon as no reader looks
	lost    bool // unread bytes were discarded
}

// A pieceStore is memory for a queue. Stores go round, so that busy streams
// allocate nothing and idle ones hold nothing.
type pieceStore struct{ pieces []piece }

var pieceStores = sync.Pool{New: func() any { return new(pieceStore) }}

// maxStoredPieces bounds the capacity that a store keeps.
const maxStoredPieces = 8 << 10

// push puts a piece at the end of the queue.
func (b *recvBuf) push(p piece) {
	if b.store == nil {
		b.store = pieceStores.Get().(*pieceStore)
		b.queue, b.head = b.store.pieces[:0], 0
	}
	b.queue = append(b.queue, p)
}

// emptied gives the queue's memory back; all its pieces were dropped.
func (b *recvBuf) emptied() {
	if b.store != nil {
		b.store.pieces = nil
		if cap(b.queue) <= maxStoredPieces {
			b.store.pieces = b.queue[:0]
		}
		pieceStores.Put(b.store)
	}
	b.store, b.queue, b.head = nil, nil, 0
}

func (b *recvBuf) unread() int { return int(b.end - b.read) }

// accounts is what a recvBuf needs of its connection to hold memory.
type accounts struct {
	held       int   // bytes held by this connection, by capacity
	late       int   // of which out of order
	lateMax    int   // cap for late
	heldMax    int   // cap for held
	copied     int64 // payload bytes copied in user space, both directions
	charged    int64 // of held, told to the endpoint
	copiedSeen int64 // of copied, told to the endpoint
	batch      *rxRef
	batchBuf   *udp.Buffer
	batchBig   bool
}

// keep returns the connection's hold on the batch being processed.
func (a *accounts) keep() *rxRef {
	if a.batch == nil {
		a.batch = rxRefs.Get().(*rxRef)
		a.batch.buf = a.batchBuf
		a.batchBuf.Retain()
		a.held += udp.BufferSize
	}
	a.batch.refs++
	return a.batch
}

func (a *accounts) drop(p *piece) {
	switch {
	case p.ref != nil:
		if p.ref.refs--; p.ref.refs == 0 {
			if a.batch == p.ref {
				a.batch = nil
			}
			p.ref.buf.Release()
			p.ref.buf = nil
			rxRefs.Put(p.ref)
			a.held -= udp.BufferSize
		}
	case p.block != nil:
		a.held -= len(p.block.b)
		p.block.free()
	default:
		a.held -= p.cost
	}
	*p = piece{}
}

// insert takes the bytes at off. It returns errOverBudget, having changed
// nothing, when memory does not allow it.
func (b *recvBuf) insert(a *accounts, off uint64, data []byte) error {
	end := off + uint64(len(data))
	if end <= b.end {
		return nil
	}
	if off > b.end {
		return b.insertLate(a, off, data)
	}
	data = data[b.end-off:]
	if a.heldMax > 0 && a.held+len(data) > a.heldMax {
		return errOverBudget
	}
	b.appendData(a, data)
	b.promote(a)
	return nil
}

// appendData puts data, which continues the stream, at the end of the queue.
func (b *recvBuf) appendData(a *accounts, data []byte) {
	waiting := b.unread()
	b.end += uint64(len(data))
	if a.batchBig && len(data) >= minView {
		b.push(piece{data: data, ref: a.keep()})
		return
	}
	a.copied += int64(len(data))
	for len(data) > 0 {
		n := len(b.queue)
		if n > b.head && b.queue[n-1].block != nil {
			last := &b.queue[n-1]
			// the block's free end: data always starts in the block and never wraps
			if room := last.data[len(last.data):cap(last.data)]; len(room) > 0 {
				k := copy(room, data)
				last.data = last.data[:len(last.data)+k]
				data = data[k:]
				continue
			}
		}
		blk := newRecvBlock(max(len(data), (waiting+1)/2))
		a.held += len(blk.b)
		k := copy(blk.b, data)
		b.push(piece{data: blk.b[:k], block: blk})
		data = data[k:]
	}
}

// insertLate keeps data that lies beyond a gap, in memory of its own size.
func (b *recvBuf) insertLate(a *accounts, off uint64, data []byte) error {
	end := off + uint64(len(data))
	i, _ := slices.BinarySearchFunc(b.late, off, func(p piece, v uint64) int {
		if p.off+uint64(len(p.data)) <= v {
			return -1
		}
		return 1
	})
	var few [8]span
	fresh := few[:0] // the parts of [off, end) we do not have
	for j, at := i, off; at < end; j++ {
		stop := end
		if j < len(b.late) {
			stop = min(end, b.late[j].off)
		}
		if at < stop {
			fresh = append(fresh, span{at, stop})
		}
		if j >= len(b.late) {
			break
		}
		at = max(at, b.late[j].off+uint64(len(b.late[j].data)))
	}
	cost := 0
	for _, f := range fresh {
		cost += int(f.end-f.start) + pieceOverhead
	}
	if len(fresh) > 0 && (a.late+cost > a.lateMax || len(b.late)+len(fresh) > maxPieces || (a.heldMax > 0 && a.held+cost > a.heldMax)) {
		return errOverBudget
	}
	for _, f := range fresh {
		b.addLate(a, f, data[f.start-off:f.end-off])
	}
	return nil
}

func (b *recvBuf) addLate(a *accounts, f span, data []byte) {
	own := make([]byte, len(data))
	copy(own, data)
	a.copied += int64(len(data))
	a.held += cap(own)
	a.late += cap(own) + pieceOverhead
	p := piece{data: own, off: f.start, cost: cap(own)}
	if n := len(b.late); n == 0 || b.late[n-1].off < p.off {
		b.late = append(b.late, p)
		return
	}
	i, _ := slices.BinarySearchFunc(b.late, p.off, func(x piece, v uint64) int {
		if x.off < v {
			return -1
		}
		return 1
	})
	b.late = slices.Insert(b.late, i, p)
}

// promote moves late pieces that have become contiguous to the queue.
func (b *recvBuf) promote(a *accounts) {
	k := 0
	for ; k < len(b.late); k++ {
		p := b.late[k]
		if p.off > b.end {
			break
		}
		a.late -= p.cost + pieceOverhead
		stop := p.off + uint64(len(p.data))
		if stop <= b.end {
			a.drop(&b.late[k])
			continue
		}
		p.data = p.data[b.end-p.off:]
		b.end = stop
		b.push(p)
	}
	if k > 0 {
		b.late = slices.Delete(b.late, 0, k)
	}
	if len(b.late) == 0 {
		b.late = nil
	}
}

// views returns up to max pieces of unread data, for use outside the lock
// until the next call of consume.
func (b *recvBuf) views(dst [][]byte, maxPieces, maxBytes int) [][]byte {
	for i := b.head; i < len(b.queue) && len(dst) < maxPieces && maxBytes > 0; i++ {
		d := b.queue[i].data
		d = d[:min(len(d), maxBytes)]
		dst = append(dst, d[:len(d):len(d)])
		maxBytes -= len(d)
	}
	return dst
}

// copyOut copies unread bytes to p and consumes them.
func (b *recvBuf) copyOut(a *accounts, p []byte) int {
	n := 0
	for n < len(p) && b.head < len(b.queue) {
		k := copy(p[n:], b.queue[b.head].data)
		n += k
		b.consume(a, k)
	}
	a.copied += int64(n)
	return n
}

// consume takes n unread bytes away.
func (b *recvBuf) consume(a *accounts, n int) {
	b.read += uint64(n)
	for n > 0 {
		p := &b.queue[b.head]
		if n < len(p.data) {
			p.data = p.data[n:]
			break
		}
		n -= len(p.data)
		a.drop(p)
		b.head++
	}
	if b.head == len(b.queue) {
		b.emptied()
	} else if b.head >= 64 && b.head*2 >= len(b.queue) {
		b.queue = slices.Delete(b.queue, 0, b.head)
		b.head = 0
	}
}

// compact copies unread views of receive buffers into blocks, when buffers
// hold more than twice the bytes they are kept for.
func (b *recvBuf) compact(a *accounts) {
	old := b.queue[b.head:]
	if b.viewing || !slices.ContainsFunc(old, func(p piece) bool { return p.ref != nil }) {
		return
	}
	b.queue, b.head = nil, 0 // the old queue may be far larger than what is left to describe
	b.end = b.read
	big := a.batchBig
	a.batchBig = false
	for i := range old {
		p := &old[i]
		if p.ref == nil {
			b.push(*p)
			b.end += uint64(len(p.data))
			continue
		}
		b.appendData(a, p.data)
		a.drop(p)
	}
	a.batchBig = big
}

// whole reports that everything up to the peer's FIN has arrived.
func (b *recvBuf) whole() bool { return b.hasFin && b.end == b.final }

// discard frees everything held. What was not read yet is gone.
func (b *recvBuf) discard(a *accounts) {
	b.lost = b.lost || b.unread() > 0
	b.end = b.read
	for i := range b.late {
		a.late -= b.late[i].cost + pieceOverhead
		a.drop(&b.late[i])
	}
	b.late = nil
	if b.viewing {
		b.dropped = true
		return
	}
	for i := b.head; i < len(b.queue); i++ {
		a.drop(&b.queue[i])
	}
	b.emptied()
}

// skip discards everything that was sent so far.
func (b *recvBuf) skip(a *accounts) {
	b.discard(a)
	b.read, b.end = b.highest, b.highest
}
