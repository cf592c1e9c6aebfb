package quic

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Sending, in order:
//
//  1. flush sends what is due, whenever the connection is given back.
//  2. Before the handshake is confirmed, sendHandshake builds datagrams of
//     coalesced packets, one by one.
//  3. sendApp fills batches of equal 1-RTT datagrams (pack.go) as far as
//     congestion window, pacing and amplification credit go.
//  4. A batch goes to the kernel in one call. What the socket does not take
//     waits in c.blocked, and everything else behind it.

// An outBatch is a run of sealed datagrams of equal size, the last maybe shorter.
type outBatch struct {
	buf     *udp.Buffer
	n       int // bytes used
	segment int // size of the first datagram
	count   int
	path    uint8
	ecn     uint8
	sent    int // bytes the socket has taken
	// bulk: the last packet was full of one stream's bytes. As nothing else happens
	// to the connection meanwhile, there is still nothing else to send.
	bulk  bool
	flow  protect.FlowID // 1-RTT: what its packets are for
	plain protect.Batch  // 1-RTT: the packets, to be sealed
	// WithSealers: sealed by another goroutine, see sealJob
	chunks []*chunk
	waits  bool
	done   chan error
	failed error
	msg    udp.SendMsg // here because a local one would escape through the interface
}

var batches = sync.Pool{New: func() any { return new(outBatch) }}

func newBatch() *outBatch {
	b := batches.Get().(*outBatch)
	b.buf = udp.NewBatch()
	b.n, b.segment, b.count, b.sent, b.bulk, b.failed = 0, 0, 0, 0, false, nil
	return b
}

func (b *outBatch) release() {
	b.buf.Release()
	b.buf = nil
	b.sealed()
	clear(b.chunks)
	b.chunks = b.chunks[:0]
	batches.Put(b)
}

// sealed forgets the plaintext.
func (b *outBatch) sealed() {
	clear(b.plain.Packets)
	b.plain.Packets = b.plain.Packets[:0]
}

// minSlot is room for a 1-RTT packet with an ACK frame of a few ranges.
const minSlot = 64

// room is the slot for the next datagram of at most limit bytes; nil: the batch is full.
func (b *outBatch) room(limit, maxSegments int) []byte {
	if b.count > 0 {
		limit = min(limit, b.segment)
	}
	if b.count >= maxSegments || b.n+limit > udp.MaxPayload {
		return nil
	}
	if b.count > 0 && b.n != b.count*b.segment {
		return nil // the last one was shorter: it ends the batch
	}
	return b.buf.Bytes()[b.n : b.n : b.n+limit]
}

func (b *outBatch) add(n int) {
	if b.count == 0 {
		b.segment = n
	}
	b.n += n
	b.count++
}

// flush sends what is due and sets the timer.
func (c *Conn) flush() {
	if !c.dirty {
		return
	}
	c.dirty, c.late = false, false
	if c.state >= stateClosing {
		return
	}
	if c.blocked == nil {
		if !c.confirmed {
			c.sendHandshake()
		}
		if c.maySendApp() && c.blocked == nil {
			c.sendApp()
		} else if c.maySendEarly() {
			c.sendEarly()
		}
	}
	if c.state < stateClosing {
		c.loss.SetAppLimited(c.blocked == nil && !c.wantsApp())
		if c.trace != nil {
			c.traceMetrics()
		}
		c.setTimer()
	}
}

// sendHandshake sends Initial and Handshake packets, coalesced.
func (c *Conn) sendHandshake() {
	for c.state < stateClosing && c.blocked == nil {
		probe := c.probes[recovery.Initial]+c.probes[recovery.Handshake] > 0
		// RFC 9000, Section 14.1: "The server MUST also limit the number of
		// bytes it sends before validating the address of the client; see
		// Section 8."
		credit := c.path.amplificationCredit()
		if credit < minDatagram {
			return
		}
		if !probe && !c.path.cc.CanSend(c.loss.InFlight()) && !c.handshakeAckDue() && !c.handshakeStuck() {
			return
		}
		b := newBatch()
		c.markBatch(b)
		n := c.buildCoalesced(b.buf.Bytes()[:0:minDatagram])
		if n == 0 {
			b.release()
			return
		}
		b.add(n)
		if !c.transmit(b) {
			return
		}
	}
}

// handshakeStuck: handshake data was lost and the congestion window is full of
// application data, of which nothing will be heard before the handshake is over,
// nor will a probe timeout ask for it (RFC 9002, Section 6.2.1). One packet may go.
func (c *Conn) handshakeStuck() bool {
	if !c.handshakeWants() {
		return false
	}
	for _, space := range []recovery.Space{recovery.Initial, recovery.Handshake} {
		if c.loss.HasAckElicitingInFlight(space) {
			return false
		}
	}
	return true
}

func (c *Conn) handshakeAckDue() bool {
	return c.hsp != nil && (c.ackDue(recovery.Initial) || c.ackDue(recovery.Handshake))
}

// sendApp sends 1-RTT packets.
func (c *Conn) sendApp() {
	maxSegments := c.maxSegments()
	c.sendPathFrames()
	c.sendMTUProbe()
	defer c.endLine()
	for c.state < stateClosing && c.blocked == nil {
		b := newBatch()
		more := c.fillBatch(b, maxSegments)
		if b.count == 0 {
			b.release()
			return
		}
		c.endTurn()
		if taken := c.sendBatch(b, more); !taken || !more {
			return
		}
		if c.inbox.some.Load() {
			c.dirty = true // acknowledgements wait: hear them first
			return
		}
	}
}

// fillBatch builds packets until the batch is full or nothing may be sent. It
// reports whether there may be more to send.
func (c *Conn) fillBatch(b *outBatch, maxSegments int) bool {
	budget, _ := c.budget()
	c.markBatch(b)
	c.openFlow(b)
	for {
		credit := c.path.amplificationCredit() - b.n
		if credit < minSlot {
			return false
		}
		probe := c.probes[recovery.AppData] > 0
		slot := b.room(min(c.probeSize(), credit), maxSegments)
		if slot == nil {
			return true
		}
		c.batched = b.count > 0
		mode := packAll
		if credit < c.path.mtu {
			mode, probe = packAcks, false // what little may be sent is kept for validation
		} else if probe {
			// RFC 9002, Section 7.5: "Probe packets MUST NOT be blocked by the
			// congestion controller."
			mode = packProbe
		} else if budget < cap(slot) || c.loss.Full(recovery.AppData) {
			// A peer that acknowledges nothing cannot make us remember without bound.
			mode = packAcks
		}
		if b.bulk && mode == packAll && b.segment <= c.path.mtu {
			if n := c.buildRun(b, min(budget, credit), maxSegments); n > 0 {
				budget -= n * b.segment
				continue
			}
		}
		c.batchNearlyFull = b.count*4 >= maxSegments*3 || b.n+c.path.mtu >= maxDatagramSize*3/4
		n := c.buildShort(b, slot, mode)
		if n == 0 {
			if mode == packAcks && credit >= c.path.mtu && budget < c.path.mtu && c.wantsApp() {
				_, c.pacedUntil = c.budget() // what this batch took counts, too
			}
			return false
		}
		if probe {
			c.probes[recovery.AppData]--
		}
		b.add(n)
		budget -= n
		if mode == packAcks {
			return false
		}
	}
}

// budget returns how many bytes congestion control and pacing allow now, and
// when pacing will allow more.
//
// RFC 9002, Section 7: "An endpoint MUST NOT send a packet if it would cause
// bytes_in_flight (see Appendix B.2) to be larger than the congestion window,
// unless the packet is sent on a PTO timer expiration (see Section 6.2) or when
// entering recovery (see Section 7"
func (c *Conn) budget() (int, time.Time) {
	p := &c.path
	cwnd := p.cc.Window() - c.loss.InFlight() - p.search.reserve
	if cwnd < p.mtu {
		return 0, zeroTime // an acknowledgement or a loss timer will open the window
	}
	paced := p.pacer.Budget(c.now(), p.cc.PacingRate(p.rtt.Smoothed()))
	// Waiting for a batch's worth keeps batches whole.
	next := p.pacer.Next(c.now(), p.pacer.Quantum())
	worth := c.batchWorth()
	if paced < max(p.mtu, worth) {
		return 0, next
	}
	if cwnd < min(worth, p.cc.Window()/8) {
		return 0, zeroTime // acknowledgements will open the window for a batch soon
	}
	return min(cwnd, paced), next
}

// worthBatches is from how many bytes in half a millisecond on a sender waits for
// whole batches: 260 Mbit/s. Below that what a small one costs does not matter.
const worthBatches = maxDatagramSize / 4

// batchWorth is how many bytes are worth waiting for half a millisecond, 0 if there
// is less to send or something of it was lost. Acknowledgements come one every few
// packets; a sender that answers each of them gives up its batches.
func (c *Conn) batchWorth() int {
	n := c.path.pacer.Quantum()
	if n < worthBatches || len(c.streams.sendQueue) == 0 {
		return 0
	}
	if b := &c.streams.sendQueue[0].snd.buf; len(b.lost) > 0 || b.end-b.next < uint64(n) {
		return 0
	}
	return n
}

// transmit hands a batch to the socket. It reports whether the socket would
// take more.
func (c *Conn) transmit(b *outBatch) bool {
	c.path.onSent(b.n)
	c.path.search.carried += b.n
	c.stats.DatagramsSent += uint64(b.count)
	c.stats.BytesSent += uint64(b.n)
	c.stats.Batches++
	b.path = c.path.id
	return c.trySend(b)
}

// trySend sends a batch or what is left of it. It reports whether the socket
// would take more.
func (c *Conn) trySend(b *outBatch) bool {
	p := &c.path
	sock := c.sockOf(p)
	b.msg = udp.SendMsg{Data: b.buf.Bytes()[b.sent:b.n], SegmentSize: b.segment, Remote: p.remote, Local: p.local, IfIndex: p.ifIndex, ECN: b.ecn, DontFragment: true, Buf: b.buf}
	err := sock.Send(&b.msg)
	b.sent += b.msg.Sent
	b.msg.Data, b.msg.Buf = nil, nil
	if errors.Is(err, udp.ErrWouldBlock) {
		c.blocked = b
		sock.OnWritable(c.onWritable)
		return false
	}
	segment := b.segment
	b.release()
	c.blocked = nil
	switch {
	case err == nil:
	case errors.Is(err, udp.ErrMessageTooLong):
		// The interface carries less than the path was thought to: what was in the
		// batch counts as lost when nothing is heard of it.
		if segment > minDatagram && p.mtu > minDatagram {
			c.lowerMTU(segment)
		} else {
			c.tooSmall()
		}
	case errors.Is(err, udp.ErrNoBuffers):
		// More would be lost, too: the device queue needs time to drain.
		c.pacedUntil = c.now().Add(time.Millisecond)
		return false
	case errors.Is(err, net.ErrClosed):
	default:
		c.ep.stats.SendErrors.Add(1)
	}
	return true
}

// tooSmall ends the connection: what every path of QUIC carries does not leave
// this host.
//
// RFC 9000, Section 14: "QUIC MUST NOT be used if the network path cannot
// support a maximum datagram size of at least 1200 bytes."
//
// RFC 9000, Section 14.2: "it MUST immediately cease sending QUIC packets,
// except for those in PMTU probes or those containing CONNECTION_CLOSE frames,
// on the affected path."
func (c *Conn) tooSmall() {
	_ = c.fail(NoViablePath, 0, "the interface takes no datagrams of 1200 bytes")
}

// onWritable is called by the socket, from a goroutine of its own.
func (c *Conn) onWritable() {
	c.inbox.pushFlag(&c.inbox.writable)
	c.pump()
}

// sendBlocked sends what the socket did not take before.
func (c *Conn) sendBlocked() {
	if b := c.blocked; b != nil {
		c.blocked = nil
		c.dirty = true
		if b.path != c.path.id {
			b.release() // it was meant, and within the limits, for another address
		} else {
			c.trySend(b)
		}
		c.endLine()
	}
}

// sendDatagram sends a single datagram, best effort.
func (c *Conn) sendDatagram(p *path, b []byte) {
	m := udp.SendMsg{Data: b, Remote: p.remote, Local: p.local, IfIndex: p.ifIndex, DontFragment: true}
	if err := c.sockOf(p).Send(&m); err != nil {
		c.ep.stats.SendErrors.Add(1)
		return
	}
	c.stats.DatagramsSent++
	c.stats.BytesSent += uint64(len(b))
}

// sendPathFrames sends PATH_CHALLENGE and PATH_RESPONSE, in datagrams of their
// own, on the path they belong to.
//
// RFC 9000, Section 8.2.2: "An endpoint MUST NOT delay transmission of a packet
// containing a PATH_RESPONSE frame unless constrained by congestion control."
func (c *Conn) sendPathFrames() {
	for _, p := range c.eachPath() {
		if p == nil || !p.needChallenge && !p.needResponse {
			continue
		}
		if p.amplificationCredit() < minSlot {
			continue // until more comes from there
		}
		if p == &c.path && c.loss.InFlight()+minDatagram > p.cc.Window() {
			// Until acknowledgements make room, or a probe timeout: a peer that waits for
			// the response may acknowledge nothing before.
			if c.probes[recovery.AppData] == 0 {
				continue
			}
			c.probes[recovery.AppData]--
		}
		var frames []byte
		if p.needChallenge {
			frames = wire.AppendPathChallenge(frames, p.newChallenge())
			p.needChallenge = false
			p.challengeSmall = p.challengeSmall || p.amplificationCredit() < minDatagram
		}
		// RFC 9000, Section 8.2.2: "An endpoint MUST NOT send more than one
		// PATH_RESPONSE frame in response to one PATH_CHALLENGE frame; see
		// Section 13.3."
		if p.needResponse {
			frames = wire.AppendPathResponse(frames, p.response)
			p.needResponse = false
		}
		c.sendProbing(p, frames)
	}
}

// sendProbing sends frames on a path. RFC 9000, Section 8.2.1: "An endpoint MUST
// expand datagrams that contain a PATH_CHALLENGE frame to at least the
// smallest allowed maximum datagram size of 1200 bytes, unless the
// anti-amplification limit for the path does not permit sending a datagram of
// this size." The same holds for PATH_RESPONSE (Section 8.2.2).
//
// RFC 9000, Section 8.2.2: "An endpoint MUST expand datagrams that contain a
// PATH_RESPONSE frame to at least the smallest allowed maximum datagram size of
// 1200 bytes."
//
// RFC 9000, Section 8.2.2: "However, an endpoint MUST NOT expand the datagram
// containing the PATH_RESPONSE if the resulting data exceeds the
// anti-amplification limit."
func (c *Conn) sendProbing(p *path, frames []byte) {
	size := min(minDatagram, p.amplificationCredit())
	dst, ok := c.dstOf(p)
	room := size - 1 - dst.Len() - 4 - 16
	if !ok || room < len(frames) {
		return
	}
	if size >= minDatagram {
		frames = wire.AppendPadding(frames, room-len(frames))
	}
	if b := c.sealOn(p, make([]byte, 0, minDatagram), LevelApp, frames, true); b != nil {
		p.onSent(len(b))
		c.sendDatagram(p, b)
	}
}

// answerProbe answers a PATH_CHALLENGE that came from an address in no use.
func (c *Conn) answerProbe(src *packetSource, data [8]byte) {
	seq, ok := c.seqFor(src)
	if !ok {
		// RFC 9000, Section 9.5: "An endpoint that exhausts available connection IDs
		// cannot probe new paths or initiate migration, nor can it respond to probes or
		// attempts by its peer to migrate." It may have more for us on its way.
		c.probed.early = &earlyChallenge{*src, data, c.now().Add(challengePatience)}
		return
	}
	p := path{id: c.path.id + 1, peerSeq: seq, remote: src.remote, local: src.local, ifIndex: src.ifIndex, received: uint64(src.size)}
	c.sendProbing(&p, wire.AppendPathResponse(nil, data))
	src.replied = int(p.sent)
}
