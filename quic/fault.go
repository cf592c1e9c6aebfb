package quic

import (
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
)

// Two faults of a path show in what is lost, not in that something is: a path
// that swallows large datagrams, and a sender's kernel or device that ruins
// batches (GSO). In both, one kind of packet is lost again and again while
// another kind sent beside it arrives. After a probe timeout both kinds go out:
// a full-size datagram and one of 1200 bytes, each in a send of its own.

const (
	// faultRounds is how many losses in a row make a fault, each of packets that
	// were sent after the one before was noticed.
	faultRounds = 4
	// faultLosses is how many packets they have to be in all: a queue that
	// overflows drops a few small batches in a row, too.
	faultLosses = 12
)

// A faultPattern watches one kind of packet, the suspects.
type faultPattern struct {
	rounds      int
	since       time.Time // suspects sent later begin another round
	lost, acked int       // suspects, since the first loss
	others      bool      // packets of the other kind arrived meanwhile
}

func (f *faultPattern) reset() { *f = faultPattern{} }

func (f *faultPattern) onLost(now time.Time, p *recovery.SentPacket) {
	f.lost++
	if f.rounds == 0 || p.Sent.After(f.since) {
		f.rounds++
		f.since = now
	}
}

// onAcked forgets what was suspected when more than one in eight arrives.
func (f *faultPattern) onAcked() {
	if f.rounds == 0 {
		return
	}
	if f.acked++; f.acked*8 > f.lost {
		f.reset()
	}
}

func (f *faultPattern) found() bool {
	return f.rounds >= faultRounds && f.lost >= faultLosses && f.others
}

// watchAcked notes what arrived.
func (c *Conn) watchAcked(p *recovery.SentPacket) {
	q := &c.path
	if p.Path != q.id || !p.AckEliciting {
		return
	}
	full := int(p.Size) >= q.mtu-nearlyFull
	switch {
	case full:
		q.search.hole.reset() // one is enough: the path does carry them
	case int(p.Size) <= minDatagram:
		q.search.hole.others = q.search.hole.rounds > 0
	}
	switch {
	case p.Batched:
		q.gsoFault.onAcked()
	case full:
		q.gsoFault.others = q.gsoFault.rounds > 0
	}
}

// watchLost notes what was lost, and acts when that has become a pattern.
func (c *Conn) watchLost(p *recovery.SentPacket) {
	q := &c.path
	if p.Path != q.id || !p.AckEliciting {
		return
	}
	if q.mtu > minDatagram && int(p.Size) >= q.mtu-nearlyFull {
		q.search.hole.onLost(c.now(), p)
		if q.search.hole.found() {
			c.blackHole()
			return
		}
	}
	if p.Batched && !q.noGSO {
		q.gsoFault.onLost(c.now(), p)
		if q.gsoFault.found() {
			q.noGSO = true
			c.stats.GSOFallbacks++
			c.log().Warn("batches of datagrams only get lost while single ones arrive: sending them one by one on this path (a faulty kernel or network driver; quic.gso: off avoids the attempt)",
				"remote", q.remote)
		}
	}
}

// maxSegments is how many datagrams may go out in one send. During a probe
// timeout each goes alone, to tell what it is that gets lost.
func (c *Conn) maxSegments() int {
	if c.path.noGSO || c.loss.PTOCount() > 0 {
		return 1
	}
	return c.shard().conn().Caps().MaxSegments
}

// probeSize is the largest datagram for the next probe of a probe timeout: the
// last of them has the size that every path carries.
func (c *Conn) probeSize() int {
	if c.probes[recovery.AppData] == 1 {
		return minDatagram
	}
	return c.path.mtu
}
