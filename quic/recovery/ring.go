package recovery

// minRing is the smallest ring in packets; a power of two, as every size is.
const minRing = 4

// ring is a queue of sent packets in ascending packet number order. Numbers
// may have gaps (skipped numbers, packets not worth tracking), so a position
// is searched, with a guess that is right when there are none.
type ring struct {
	buf  []SentPacket // len is 0 or a power of two
	head int
	n    int
	peak int // largest n since the ring was last looked at, see drained
	dry  int // times the ring was empty since then
}

// at returns the packet at position i, counted from the oldest.
func (r *ring) at(i int) *SentPacket {
	return &r.buf[(r.head+i)&(len(r.buf)-1)]
}

// push copies p to the end and returns the copy. The slot's record memory is used
// again, p's stays with the caller.
func (r *ring) push(p *SentPacket) *SentPacket {
	if r.n == len(r.buf) {
		r.resize(max(minRing, 2*len(r.buf)))
	}
	slot := r.at(r.n)
	more := append(slot.more[:0], p.more...)
	*slot = *p
	slot.more = more
	slot.state = outstanding
	r.n++
	r.peak = max(r.peak, r.n)
	return slot
}

// pop forgets the oldest packet.
func (r *ring) pop() {
	slot := r.at(0)
	if cap(slot.more) > keepRecords {
		slot.more = nil
	}
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	if r.n == 0 {
		r.drained()
	}
}

// dryRuns is how often a ring has to run empty before it may shrink: a busy
// sender's does so now and then, and would only have to grow again.
const dryRuns = 16

// drained halves a ring that was far from full for a while: a connection that
// was once busy gives its memory back while it idles, and one that stays busy
// does not allocate.
func (r *ring) drained() {
	r.head = 0
	if r.dry++; r.dry < dryRuns {
		return
	}
	if len(r.buf) > minRing && r.peak*4 <= len(r.buf) {
		r.buf = make([]SentPacket, len(r.buf)/2)
	}
	r.peak, r.dry = 0, 0
}

func (r *ring) resize(size int) {
	buf := make([]SentPacket, size)
	for i := range r.n {
		buf[i] = *r.at(i)
	}
	r.buf, r.head = buf, 0
}

// search returns the position of the oldest packet whose number is at least
// pn, r.n if there is none.
func (r *ring) search(pn uint64) int {
	if r.n == 0 || pn <= r.at(0).PN {
		return 0
	}
	// Numbers ascend by at least one a position, so the position is at most
	// the distance from the oldest number.
	lo, hi := 0, r.n
	if d := pn - r.at(0).PN; d < uint64(r.n) {
		if r.at(int(d)).PN == pn {
			return int(d)
		}
		hi = int(d)
	}
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if r.at(mid).PN < pn {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}
