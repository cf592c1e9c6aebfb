package quic

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// Work for a connection that is busy is left in its inbox. Whoever holds the
// connection drains the inbox, and looks again after unlocking: so the reader
// of a socket need not wait for a connection, and no work is left behind.
//
//  1. push puts work into the inbox (or processes it at once: see Conn.receive).
//  2. pump tries the lock; if it is taken, its holder will see the work.
//  3. unlock flushes, unlocks, and pumps what came meanwhile.
//  4. A reader that left a large batch comes back to it itself, with the next one
//     or when its socket is empty (mine, Conn.flushLate).

// maxInboxBytes bounds the memory of receive batches that wait; a fuller inbox
// drops them, as a full socket buffer would. A peer without segmentation
// offload sends a datagram a call, thousands of which must find room here while
// the connection is busy: some peers do not repeat what is lost.
const maxInboxBytes = 4 << 20

// What waits for room in an inbox waits busyWait at a time, and busyWaits times in
// all until somebody empties it.
const (
	busyWait  = 100 * time.Microsecond
	busyWaits = 50
)

// rxBatchCost is what a waiting batch takes beside its datagrams, in bytes.
const rxBatchCost = 128

// maxInboxEvents bounds handshake events that wait. A handshake has about a dozen.
const maxInboxEvents = 256

// An rxBatch is one receive call's datagrams for one connection.
type rxBatch struct {
	buf     *udp.Buffer
	data    []byte // the datagrams, each segment bytes long but the last
	segment int
	total   int // bytes of the whole receive call
	remote  netip.AddrPort
	local   netip.Addr
	ifIndex int
	ecn     uint8
	via     *shard // whose socket it came from
}

// datagrams is how many there are.
func (r *rxBatch) datagrams() int64 { return int64((len(r.data) + r.segment - 1) / r.segment) }

// A batchList is memory for waiting batches. Lists go round: an idle
// connection has none.
type batchList struct{ b []rxBatch }

var batchLists = sync.Pool{New: func() any { return new(batchList) }}

type inbox struct {
	some atomic.Bool
	mine atomic.Bool // the socket's reader is going to take what there is

	mu       sync.Mutex
	list     *batchList // lends batches its memory
	batches  []rxBatch
	pinned   int         // bytes of memory that batches hold
	waits    int         // for room, since it was last emptied
	tail     *udp.Buffer // holds the datagrams of small receive calls
	tailUsed int
	copied   int64 // bytes moved there
	events   []HandshakeEvent
	overflow bool // a handshaker sent more events than any handshake has
	timer    bool
	writable bool
	late     bool // the reader has put off enough; that it is taken note of will do
}

// work tells whether there is something that nobody else sees to.
func (b *inbox) work() bool { return b.some.Load() && !b.mine.Load() }

// pushBatch leaves a batch. A large one keeps its buffer by reference; a small
// one is copied to others of its kind, or each datagram would pin a buffer.
func (b *inbox) pushBatch(r rxBatch) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	small := r.total < viewThreshold
	cost := rxBatchCost + udp.BufferSize
	if small {
		cost = rxBatchCost + len(r.data)
	}
	if b.pinned+cost > maxInboxBytes {
		return false
	}
	b.pinned += cost
	if small {
		b.toTail(&r)
	}
	r.buf.Retain()
	if b.list == nil {
		b.list = batchLists.Get().(*batchList)
		b.batches = b.list.b[:0]
	}
	b.batches = append(b.batches, r)
	b.some.Store(true)
	return true
}

// mayWait counts a wait for room, and reports whether it is one too many.
func (b *inbox) mayWait() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waits >= busyWaits {
		return false
	}
	b.waits++
	return true
}

// toTail moves a batch's datagrams, less than viewThreshold bytes, to the tail.
func (b *inbox) toTail(r *rxBatch) {
	if b.tail == nil || b.tailUsed+len(r.data) > udp.BufferSize {
		b.dropTail()
		b.tail = udp.NewBuffer()
	}
	end := b.tailUsed + copy(b.tail.Bytes()[b.tailUsed:], r.data)
	b.copied += int64(len(r.data))
	r.buf, r.data = b.tail, b.tail.Bytes()[b.tailUsed:end:end]
	b.tailUsed = end
}

func (b *inbox) dropTail() {
	if b.tail != nil {
		b.tail.Release()
		b.tail, b.tailUsed = nil, 0
	}
}

func (b *inbox) pushEvent(e HandshakeEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.events) >= maxInboxEvents {
		b.overflow = true
	} else {
		b.events = append(b.events, e)
	}
	b.some.Store(true)
}

func (b *inbox) pushFlag(flag *bool) {
	b.mu.Lock()
	*flag = true
	b.some.Store(true)
	b.mu.Unlock()
}

// inboxWork is what was taken out of an inbox at once.
type inboxWork struct {
	list            *batchList
	batches         []rxBatch
	events          []HandshakeEvent
	overflow        bool
	timer, writable bool
	copied          int64
}

func (b *inbox) take() (w inboxWork) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w = inboxWork{b.list, b.batches, b.events, b.overflow, b.timer, b.writable, b.copied}
	b.list, b.batches, b.events, b.timer, b.writable = nil, nil, nil, false, false
	b.late = false
	b.pinned, b.waits, b.copied = 0, 0, 0
	b.dropTail()
	b.some.Store(false)
	return w
}

// release gives back the memory of the batches, which were processed.
func (w *inboxWork) release() {
	if w.list != nil {
		clear(w.batches)
		w.list.b = w.batches[:0]
		batchLists.Put(w.list)
	}
	w.list, w.batches = nil, nil
}
