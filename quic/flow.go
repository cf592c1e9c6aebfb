package quic

import (
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// connFlow is connection flow control (RFC 9000, Section 4.1).
type connFlow struct {
	// Receiving.
	max      uint64 // advertised MAX_DATA
	window   uint64
	received uint64 // sum of the highest offsets of all streams
	consumed uint64 // taken by the application, or discarded
	rate     windowRate
	needMax  bool

	// Sending.
	sendMax   uint64 // the peer's MAX_DATA
	sent      uint64 // new stream bytes sent
	blocked   bool   // DATA_BLOCKED is due
	blockedAt uint64
}

// onData accounts for a stream's new highest offset. The connection is closed
// when the peer exceeds what it was allowed.
func (c *Conn) onData(s *Stream, end uint64) error {
	r := &s.rcv
	if end <= r.buf.highest {
		return nil
	}
	// RFC 9000, Section 4.1: "A receiver MUST close the connection with an error
	// of type FLOW_CONTROL_ERROR if the sender violates the advertised
	// connection or stream data limits."
	//
	// RFC 9000, Section 19.10: "An endpoint MUST terminate a connection with an
	// error of type FLOW_CONTROL_ERROR if it receives more data than the
	// largest maximum stream data that it has sent for the affected stream."
	if end > r.max {
		return c.fail(FlowControlError, wire.FrameStream, "stream flow control limit exceeded")
	}
	more := end - r.buf.highest
	// RFC 9000, Section 19.9: "An endpoint MUST terminate a connection with an
	// error of type FLOW_CONTROL_ERROR if it receives more data than the
	// maximum data value that it has sent."
	if c.flow.received+more > c.flow.max {
		return c.fail(FlowControlError, wire.FrameStream, "connection flow control limit exceeded")
	}
	c.flow.received += more
	r.buf.highest = end
	return nil
}

// windowRate measures how fast an application takes what arrives, to find the
// window that does not hold the peer up: four of the smallest round trips at
// that rate, and some time for both ends to be scheduled. The smallest one,
// because a round trip that grows with the window only says that the data
// waits in a queue; on loopback in that of our own socket, until it overflows.
//
// While the rate rises it is eight round trips: a sender in slow start doubles
// its rate in each, and what it may send has to be there a round trip before.
// Held up in slow start it would take the window for the end of the path.
type windowRate struct {
	since  time.Time
	taken  uint64  // bytes since then
	before float64 // rate of the period before
}

const (
	ratePeriod = 4 * time.Millisecond // shortest time to measure over
	rateSlack  = 2 * time.Millisecond
)

// grow notes that n bytes were taken and returns, at most once a period, a
// larger window where the present one is less than it should be. It is not more
// than that either: what waits in a queue for nothing only grows cold. A rate that
// rises is going to rise on: its window is made for twice as much.
func (m *windowRate) grow(now time.Time, rtt time.Duration, n, window, most uint64) uint64 {
	if m.since.IsZero() {
		m.since = now
	}
	m.taken += n
	d := now.Sub(m.since)
	if d < max(rtt, ratePeriod) {
		return window
	}
	rate := float64(m.taken) / float64(d)
	trips, limit := 4*rtt, 2*float64(window)
	if m.before > 0 && rate > m.before+m.before/4 {
		trips, limit = 8*rtt, 4*float64(window)
	}
	m.since, m.taken, m.before = now, 0, rate
	want := rate * float64(trips+rateSlack)
	if want <= float64(window) {
		return window
	}
	return max(window, uint64(min(want, limit, float64(most))))
}

// creditConn gives the peer room for n more bytes on the connection.
//
// RFC 9000, Section 4.2: "Therefore, a receiver MUST NOT wait for a
// STREAM_DATA_BLOCKED or DATA_BLOCKED frame before sending a MAX_STREAM_DATA or
// MAX_DATA frame; doing so could result in the sender being blocked for the
// rest of the connection."
func (c *Conn) creditConn(n uint64) {
	f := &c.flow
	f.consumed += n
	if w := f.rate.grow(c.now(), c.path.rtt.Min(), n, f.window, uint64(c.cfg.maxConnWindow())); c.mayGrow() {
		f.window = w
	}
	if f.max-f.consumed > f.window/2 {
		return
	}
	f.max = f.consumed + f.window
	f.needMax = true
	c.dirty = true
}

// mayGrow tells whether windows may still grow: not once half of the
// endpoint's memory for received data is in use.
func (c *Conn) mayGrow() bool { return c.ep.held.Load() < c.ep.memory/2 }

// chargeMemory tells the endpoint what this connection holds.
func (c *Conn) chargeMemory() {
	if c.state == stateDone {
		return // the endpoint has forgotten it
	}
	if d := int64(c.acct.held) - c.acct.charged; d != 0 {
		if c.acct.batchBuf == nil && c.acct.held > minRecvBlock && c.memoryShort() {
			// The application has read a part: what is left must not pin the whole.
			c.compactPinned(0)
			d = int64(c.acct.held) - c.acct.charged
		}
		c.ep.held.Add(d)
		c.acct.charged += d
	}
	if d := c.acct.copied - c.acct.copiedSeen; d != 0 {
		c.ep.stats.CopiedBytes.Add(d)
		c.acct.copiedSeen += d
	}
	c.chargeSent()
}
