package quic

import "slices"

// Stream priorities, in the terms of RFC 9218: of the streams that have something to
// send, those of the lowest urgency go first, as far as congestion and flow control
// let them. Streams of equal urgency take turns, one batch each, if they are
// incremental; others are sent to their end in the order in which they were written
// to. Retransmissions are sent in their stream's turn. Nothing of this is told to
// the peer.

// Urgencies of streams: 0 goes first.
const (
	MaxUrgency     = 7
	DefaultUrgency = 3
)

// SetPriority sets the order in which the stream's data is sent: urgency is 0 to 7,
// larger values count as 7. A new stream has DefaultUrgency and is incremental.
func (s *Stream) SetPriority(urgency uint8, incremental bool) {
	c := s.conn
	c.lock()
	defer c.unlock()
	s.urgency, s.whole = int8(min(urgency, MaxUrgency))-DefaultUrgency, !incremental
	if s.queued {
		c.streams.sendQueue = slices.DeleteFunc(c.streams.sendQueue, func(x *Stream) bool { return x == s })
		c.streams.enqueue(s)
	}
}

// enqueue puts a stream behind all that are as urgent.
func (t *streamTable) enqueue(s *Stream) {
	q := append(t.sendQueue, s)
	for i := len(q) - 1; i > 0 && q[i-1].urgency > s.urgency; i-- {
		q[i], q[i-1] = q[i-1], q[i]
	}
	t.sendQueue = q
}

// rotate gives the next stream of the same urgency its turn.
func (t *streamTable) rotate() {
	q := t.sendQueue
	if len(q) < 2 || q[0].whole || q[1].urgency != q[0].urgency {
		return
	}
	n := len(q)
	for n > 0 && q[n-1].urgency != q[0].urgency {
		n--
	}
	s := q[0]
	copy(q[:n], q[1:n])
	q[n-1] = s
}
