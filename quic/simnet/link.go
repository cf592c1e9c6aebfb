package simnet

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// ECNPolicy is what a path does to ECN codepoints.
type ECNPolicy uint8

// The ECN policies met in the wild.
const (
	ECNKeep    ECNPolicy = iota
	ECNBleach            // any mark becomes Not-ECT
	ECNToECT1            // ECT(0) becomes ECT(1)
	ECNAllCE             // every marked datagram becomes CE
	ECNDropAll           // marked datagrams are dropped
)

// defaultQueue is the queue of a link with a rate, in bytes.
const defaultQueue = 256 << 10

// Params are the properties of one direction of a link. The zero value delivers
// everything at once. Probabilities are 0 to 1.
type Params struct {
	Delay  time.Duration // one way
	Jitter time.Duration // added, evenly from 0; keeps the order

	Rate  int64 // bytes of UDP payload per second; 0: no limit
	Burst int   // bytes that pass at once after a pause, with Rate
	Queue int   // bytes that may wait, with Rate; 0: 256 KiB

	Loss    float64
	LossRun int // datagrams lost in a row each time; 0: 1

	Reorder   float64       // held back, while others pass
	ReorderBy time.Duration // for so long

	Duplicate float64
	Corrupt   float64 // one bit is flipped

	ECN     ECNPolicy
	MarkCE  float64 // ECT becomes CE at random
	MarkAt  int     // ECT becomes CE when more bytes wait; 0: never
	MTU     int     // bytes of UDP payload; larger ones are dropped, if they must not be fragmented; 0: any
	Down    bool    // everything is dropped
	DropNow bool    // with Down: what is under way is dropped too
}

// Packet is a datagram as a script sees it. A script may change any field but
// the first two; a change of To stays on this link.
type Packet struct {
	Index    int           // in this direction, from 0
	Time     time.Duration // since New
	From, To netip.AddrPort
	Data     []byte // may be replaced or changed in place
	ECN      uint8
	Drop     bool
	Delay    time.Duration // in addition to the link's; does not hold up others
	Copies   int           // more than the one
}

// linkKey names a direction by its hosts.
type linkKey struct{ from, to netip.Addr }

func (k linkKey) compare(o linkKey) int {
	if c := k.from.Compare(o.from); c != 0 {
		return c
	}
	return k.to.Compare(o.to)
}

// dice are the generators of a direction, one for each impairment.
type dice struct {
	loss, jitter, reorder, duplicate, corrupt, mark *rand.Rand
}

// Link is one direction between two hosts.
type Link struct {
	net     *Net
	key     linkKey
	p       Params
	dice    dice
	index   int // datagrams seen
	seq     uint64
	lossRun int       // datagrams still to lose
	free    time.Time // when the sender of the rate limit would be idle
	waiting int       // bytes in the queue
	last    time.Time // arrival of the last datagram that keeps the order
	drops   map[int]bool
	script  func(*Packet)
	count   Counters
}

// Counters count datagrams of a direction. Sent is the sum of what was offered,
// the others what became of them; a datagram may count in several.
type Counters struct {
	Sent, Delivered, Lost, QueueDrops, Reordered, Duplicated, Corrupted, Marked int
}

func newLink(n *Net, key linkKey) *Link {
	h := fnv.New64a()
	for _, a := range []netip.Addr{key.from, key.to} {
		b := a.As16()
		h.Write(b[:])
	}
	stream := h.Sum64()
	die := func(name string) *rand.Rand {
		h := fnv.New64a()
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], stream)
		h.Write(b[:])
		h.Write([]byte(name))
		return rand.New(rand.NewPCG(n.seed, h.Sum64()))
	}
	return &Link{net: n, key: key, p: n.defaults, drops: map[int]bool{}, dice: dice{
		loss: die("loss"), jitter: die("jitter"), reorder: die("reorder"),
		duplicate: die("duplicate"), corrupt: die("corrupt"), mark: die("mark"),
	}}
}

// Set replaces the parameters for datagrams sent from now on.
func (l *Link) Set(p Params) { l.Update(func(q *Params) { *q = p }) }

// Update changes the parameters for datagrams sent from now on.
func (l *Link) Update(f func(*Params)) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	f(&l.p)
	if l.p.Down && l.p.DropNow {
		l.dropUnderWay()
	}
}

// Drop loses the datagrams with these indices, counted from 0 in this
// direction.
func (l *Link) Drop(indices ...int) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	for _, i := range indices {
		l.drops[i] = true
	}
}

// Script has f decide about every datagram before chance does. It runs under
// the network's lock and must not call it. Nil ends it.
func (l *Link) Script(f func(*Packet)) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.script = f
}

// Counters returns what happened so far.
func (l *Link) Counters() Counters {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	return l.count
}

func (l *Link) dropUnderWay() {
	n := l.net
	n.events = slices.DeleteFunc(n.events, func(ev event) bool {
		if ev.d.link != l || ev.leaves {
			return false
		}
		n.inFlight -= len(ev.d.data)
		l.drop(ev.d, "link went down")
		return true
	})
	// What is left of a heap is put in order again: few are.
	slices.SortFunc(n.events, func(a, b event) int {
		q := eventQueue{a, b}
		switch {
		case q.Less(0, 1):
			return -1
		case q.Less(1, 0):
			return 1
		}
		return 0
	})
}

// send decides the fate of a datagram in this order: size, outage, drop list,
// script, ECN policy, loss, duplication, then for each copy queue and rate,
// corruption, and the time of arrival.
func (l *Link) send(d *datagram) {
	d.link, d.index = l, l.index
	l.index++
	l.count.Sent++
	l.net.note(d, Sent, "")
	switch {
	case l.p.MTU > 0 && len(d.data) > l.p.MTU && d.df:
		l.drop(d, "larger than the MTU")
		return
	case l.p.Down:
		l.drop(d, "link is down")
		return
	case l.drops[d.index]:
		delete(l.drops, d.index)
		l.drop(d, "drop list")
		return
	}
	var pkt Packet
	if l.script != nil {
		pkt = Packet{Index: d.index, Time: time.Since(l.net.start), From: d.from, To: d.to, Data: d.data, ECN: d.ecn}
		l.script(&pkt)
		if pkt.Drop {
			l.drop(d, "script")
			return
		}
		d.from, d.to, d.data, d.ecn = pkt.From, pkt.To, bytes.Clone(pkt.Data), pkt.ECN
	}
	if !l.passECN(d) {
		return
	}
	if l.chooseLoss() {
		l.drop(d, "loss")
		return
	}
	copies := 1 + max(pkt.Copies, 0)
	if hit(l.dice.duplicate, l.p.Duplicate) {
		copies++
	}
	for i := range copies {
		c := *d
		if i > 0 {
			c.data = bytes.Clone(d.data)
			l.count.Duplicated++
			l.net.note(&c, Duplicated, "")
		}
		l.transmit(&c, pkt.Delay)
	}
}

// transmit queues one copy and schedules its arrival.
func (l *Link) transmit(d *datagram, extra time.Duration) {
	n := l.net
	if n.inFlight+len(d.data) > maxInFlight {
		l.drop(d, "too much under way")
		return
	}
	leaves, ok := l.queue(d)
	if !ok {
		return
	}
	if hit(l.dice.corrupt, l.p.Corrupt) && len(d.data) > 0 {
		bit := l.dice.corrupt.IntN(8 * len(d.data))
		d.data[bit/8] ^= 1 << (bit % 8)
		l.count.Corrupted++
		n.note(d, Corrupted, "")
	}
	at := leaves.Add(l.p.Delay)
	if l.p.Jitter > 0 {
		at = at.Add(time.Duration(l.dice.jitter.Int64N(int64(l.p.Jitter) + 1)))
	}
	late := extra
	if hit(l.dice.reorder, l.p.Reorder) {
		late += l.p.ReorderBy
		l.count.Reordered++
		n.note(d, Reordered, "")
	}
	if late > 0 {
		at = at.Add(late)
	} else {
		if at.Before(l.last) {
			at = l.last
		}
		l.last = at
	}
	l.seq++
	n.inFlight += len(d.data)
	n.push(event{at: at, seq: l.seq, d: d})
}

// queue makes d wait for its turn at the rate limit and returns when it has
// left. RFC 3168, Section 5 lets a queue mark instead of drop.
func (l *Link) queue(d *datagram) (leaves time.Time, ok bool) {
	now := time.Now()
	if l.p.Rate <= 0 {
		return now, true
	}
	limit := l.p.Queue
	if limit == 0 {
		limit = defaultQueue
	}
	if l.waiting+len(d.data) > limit {
		l.count.QueueDrops++
		l.drop(d, "queue is full")
		return now, false
	}
	if l.p.MarkAt > 0 && l.waiting > l.p.MarkAt {
		l.mark(d)
	}
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(l.transmission(len(d.data)))
	leaves = l.free.Add(-l.transmission(l.p.Burst))
	if leaves.Before(now) {
		leaves = now
	}
	if leaves.After(now) {
		l.waiting += len(d.data)
		if d.owner != nil {
			d.owner.sending += len(d.data)
		}
		l.seq++
		held := *d // its data may be corrupted, its length stays
		l.net.push(event{at: leaves, leaves: true, seq: l.seq, d: &held})
	}
	return leaves, true
}

// left accounts for a datagram that has left the queue.
func (l *Link) left(d *datagram) {
	l.waiting -= len(d.data)
	if d.owner != nil {
		d.owner.sent(len(d.data))
	}
}

func (l *Link) transmission(n int) time.Duration {
	return time.Duration(float64(n) / float64(l.p.Rate) * 1e9)
}

// passECN applies the path's treatment of ECN, false if it drops d.
func (l *Link) passECN(d *datagram) bool {
	if d.ecn == udp.NotECT {
		return true
	}
	switch l.p.ECN {
	case ECNBleach:
		d.ecn = udp.NotECT
	case ECNToECT1:
		if d.ecn == udp.ECT0 {
			d.ecn = udp.ECT1
		}
	case ECNAllCE:
		l.mark(d)
	case ECNDropAll:
		l.drop(d, "carries an ECN mark")
		return false
	}
	if hit(l.dice.mark, l.p.MarkCE) {
		l.mark(d)
	}
	return true
}

func (l *Link) mark(d *datagram) {
	if d.ecn != udp.ECT0 && d.ecn != udp.ECT1 {
		return
	}
	d.ecn = udp.CE
	l.count.Marked++
	l.net.note(d, Marked, "")
}

func (l *Link) chooseLoss() bool {
	// The die falls for every datagram, in a run or not: the decisions about
	// later ones do not depend on LossRun.
	lost := hit(l.dice.loss, l.p.Loss)
	if l.lossRun > 0 {
		l.lossRun--
		return true
	}
	if lost {
		l.lossRun = max(l.p.LossRun, 1) - 1
	}
	return lost
}

func (l *Link) drop(d *datagram, why string) {
	l.count.Lost++
	l.net.note(d, Dropped, why)
}

// hit is true with probability p. It draws also when p is 0 or 1, so that the
// parameters can change in the middle without moving later decisions.
func hit(r *rand.Rand, p float64) bool { return r.Float64() < p }
