package recovery

import "time"

const (
	// maxGone bounds the lost packets whose late arrival is looked for.
	maxGone = 256

	// RFC 9002, Section 6.1.1 and 6.1.2 allow thresholds that grow with the
	// reordering of a path. Beyond these bounds the time, and two round trips,
	// decide.
	maxPacketThreshold = 128
	timeThreshold      = 9 // eighths of a round trip
	maxTimeThreshold   = 16
)

// gone remembers a packet that was declared lost.
type gone struct {
	pn             uint64
	sent, declared time.Time
}

// reordering is what a path has shown of reordering (RFC 9002, Section 6.1: it
// lets an endpoint raise its thresholds after a spurious loss). It begins anew
// with every path.
type reordering struct {
	packets uint64 // packet threshold
	eighths int64  // time threshold in eighths of a round trip
	list    []gone // ascending; of AppData
	count   uint64 // spurious losses, ever
}

func (r *reordering) init() {
	r.packets, r.eighths, r.list = packetThreshold, timeThreshold, nil
}

// lost remembers p, of AppData, as lost at now.
func (r *reordering) lost(now time.Time, p *SentPacket) {
	if len(r.list) == maxGone {
		r.list = r.list[:copy(r.list, r.list[maxGone/4:])]
	}
	r.list = append(r.list, gone{p.PN, p.Sent, now})
}

// forget drops what is older than limit: an acknowledgment that took so long
// says nothing of reordering.
func (r *reordering) forget(limit time.Time) {
	n := 0
	for n < len(r.list) && r.list[n].declared.Before(limit) {
		n++
	}
	if n == len(r.list) {
		r.list = nil
	} else if n > 0 {
		r.list = r.list[:copy(r.list, r.list[n:])]
	}
}

// arrived looks for lost packets that ranges, descending, acknowledge after
// all, raises the thresholds to what would have been patient enough, and tells
// cc. largest is the largest number acknowledged before.
func (l *Loss) arrived(now time.Time, ranges []AckRange, largest int64, rtt *RTT, cc Controller) {
	r := &l.reorder
	r.forget(now.Add(-3 * rtt.PTO(l.maxAckDelay)))
	kept := r.list[:0]
	at := len(ranges) - 1
	for _, g := range r.list {
		for at >= 0 && ranges[at].Largest < g.pn {
			at--
		}
		if at < 0 || ranges[at].Smallest > g.pn {
			kept = append(kept, g)
			continue
		}
		r.count++
		if largest > int64(g.pn) {
			r.packets = min(max(r.packets, uint64(largest)-g.pn+1), maxPacketThreshold)
		}
		if d := max(rtt.Smoothed(), 1); now.Sub(g.sent) > d {
			r.eighths = min(max(r.eighths, int64((8*now.Sub(g.sent)+d-1)/d)), maxTimeThreshold)
		}
		cc.OnSpurious(now, g.declared)
	}
	r.list = kept
}
