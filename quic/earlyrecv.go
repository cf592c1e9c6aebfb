package quic

import (
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// 0-RTT at a server.
//
//   - Packets that come before the key, or before the connection, wait in bounded
//     lists.
//   - Whether the key comes is the Handshaker's decision: it knows what the ticket
//     was made for, and whether it was seen before.
//   - The application gets the connection as soon as this end can answer, which is
//     before the client has proved anything but that it has the ticket. Where
//     Config.ManualAdmit is set it does not: the data waits for Admit.

// Bounds of what waits for its key or its connection.
const (
	maxKept0RTT      = 32              // packets of a connection
	maxKept0RTTBytes = 48 << 10        // and their bytes
	maxWaiting       = 64              // datagrams in front of their Initial
	maxWaitingOfOne  = 16              // to one connection ID
	waitForInitial   = 1 * time.Second // how long for
)

// process0RTT handles a 0-RTT packet.
func (c *Conn) process0RTT(b []byte, h *wire.LongHeader, src *packetSource) bool {
	e := &c.early
	if !e.until.IsZero() && !c.now().Before(e.until) {
		c.forgetEarly()
	}
	// RFC 9001, Section 4.6.2: "When rejecting 0-RTT, a server MUST NOT process any
	// 0-RTT packets, even if it could." Section 5.6: "A client MUST NOT attempt to
	// decrypt 0-RTT packets it receives and instead MUST discard them."
	if !c.server || e.refused || !c.cfg.EarlyData || h.Version != c.ver.original || src.remote != c.path.remote {
		c.ep.stats.Drop0RTT.Add(1)
		return false
	}
	if e.rx == nil {
		c.keep0RTT(b, src)
		return false
	}
	pnLen, truncated, ok := e.rx.UnprotectHeader(b, h.PNOffset)
	if !ok {
		c.ep.stats.DropHeader.Add(1)
		return false
	}
	pn := wire.DecodePacketNumber(c.largest(recovery.AppData), truncated, pnLen)
	hdr := h.PNOffset + pnLen
	payload, err := e.rx.Open(b[hdr:hdr], b[hdr:], b[:hdr], pn)
	if err != nil {
		c.app.failed++
		c.onDecryptFailure(e.rx.IntegrityLimit())
		return false
	}
	if c.recv.Duplicate(pn) {
		c.ep.stats.DropDuplicate.Add(1)
		return true
	}
	if wire.ReservedBits(b[0]) {
		c.ep.stats.DropHeader.Add(1)
		_ = c.fail(ProtocolViolation, 0, "reserved header bits are set")
		return true
	}
	if e.oneRTT && pn > e.first {
		// RFC 9001, Section 5.6: "Once a client has installed 1-RTT keys, it MUST NOT
		// send any more 0-RTT packets."
		_ = c.fail(ProtocolViolation, 0, "0-RTT packet behind a 1-RTT packet")
		return true
	}
	if len(c.ids.remote) == 0 || c.ids.remote[0].seq == 0 && c.ids.remote[0].id != h.Src {
		return false
	}
	// RFC 9001, Section 8.3: "A server MUST treat receipt of a CRYPTO frame in a 0-RTT
	// packet as a connection error of type PROTOCOL_VIOLATION." wire.FrameAllowed knows.
	c.finishPacket(recovery.AppData, wire.Packet0RTT, &h.Dst, pn, payload, src)
	return true
}

// keep0RTT keeps a packet that came before its key, within bounds.
func (c *Conn) keep0RTT(b []byte, src *packetSource) {
	held := len(b)
	for i := range c.early.kept {
		held += len(c.early.kept[i].data)
	}
	if len(c.early.kept) >= maxKept0RTT || held > maxKept0RTTBytes {
		c.ep.stats.Drop0RTT.Add(1)
		c.trace.Dropped(c.now(), len(b), "no-keys")
		return
	}
	c.ep.stats.OpenedLater.Add(1)
	c.early.kept = append(c.early.kept, earlyPacket{clone(b), src.remote, src.local, src.ifIndex, src.ecn})
}

// onReadEarly takes a server's key and opens what waited for it.
func (c *Conn) onReadEarly(key *protect.Key) {
	if !c.server || !c.cfg.EarlyData || c.early.refused || c.early.rx != nil {
		key.Zero()
		return
	}
	c.early.rx = key
	wait := c.early.kept
	c.early.kept = nil
	for i := range wait {
		if c.state >= stateClosing {
			return
		}
		e := &wait[i]
		src := packetSource{remote: e.remote, local: e.local, ifIndex: e.ifIndex, ecn: e.ecn, size: len(e.data)}
		if h, err := wire.ParseLong(e.data); err == nil {
			c.process0RTT(e.data[:h.Len:h.Len], &h, &src)
		}
	}
}

// refuseEarly notes that TLS has gone on without a key for 0-RTT.
func (c *Conn) refuseEarly() {
	if c.early.rx != nil || c.early.refused {
		return
	}
	c.early.refused = true
	c.ep.stats.Drop0RTT.Add(int64(len(c.early.kept)))
	c.early.kept = nil
}

// openEarly lets the application have a connection whose client sends 0-RTT, once
// there are keys to answer with.
func (c *Conn) openEarly() {
	if !c.server || c.early.rx == nil || c.early.open || c.cfg.ManualAdmit || !c.haveParams || c.state != stateHandshake {
		return
	}
	c.early.open = true
	c.takeStreams()
	c.ep.offer(c)
}

// maySendApp tells whether 1-RTT packets may be sent: what acknowledges 0-RTT, too.
//
// RFC 9000, Section 13.2.6: "Packets that a client sends with 0-RTT packet protection
// MUST be acknowledged by the server in packets protected by 1-RTT keys."
//
// RFC 9001, Section 5.6: "A server MUST NOT use 0-RTT keys to protect packets; it
// uses 1-RTT keys to protect acknowledgments of 0-RTT packets."
func (c *Conn) maySendApp() bool {
	return c.app.tx != nil && (c.state == stateOpen || c.state == stateHandshake && c.early.open)
}

// heard1RTT notes a 1-RTT packet. RFC 9001, Section 4.9.3: "After receiving a 1-RTT
// packet, servers MUST discard 0-RTT keys within a short time; the RECOMMENDED time
// period is three times the Probe Timeout (PTO, see [QUIC-RECOVERY])."
func (c *Conn) heard1RTT(pn uint64) {
	e := &c.early
	if e.rx == nil {
		return
	}
	if !e.oneRTT {
		e.oneRTT, e.first = true, pn
		e.until = c.now().Add(3 * c.pto())
	}
	e.first = min(e.first, pn)
}

// forgetEarly discards a server's 0-RTT key.
func (c *Conn) forgetEarly() {
	c.early.dropKeys()
	c.early.refused, c.early.until = true, zeroTime
}

// waitingPackets are datagrams with 0-RTT packets for connections that are not
// there yet. RFC 9000, Section 5.2.2: "If the packet is a 0-RTT packet, the server
// MAY buffer a limited number of these packets in anticipation of a late-arriving
// Initial packet."
type waitingPackets struct {
	mu   sync.Mutex
	list []waitingPacket // oldest first
}

type waitingPacket struct {
	earlyPacket
	dst wire.ConnID
	at  time.Time
}

// put keeps a copy of a datagram, and reports whether there was room.
func (w *waitingPackets) put(b []byte, dst wire.ConnID, r *rxBatch, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expire(now)
	of := 0
	for i := range w.list {
		if w.list[i].dst == dst {
			of++
		}
	}
	if len(w.list) >= maxWaiting || of >= maxWaitingOfOne || len(b) > 2*minDatagram {
		return false
	}
	w.list = append(w.list, waitingPacket{earlyPacket{clone(b), r.remote, r.local, r.ifIndex, r.ecn}, dst, now})
	return true
}

func (w *waitingPackets) expire(now time.Time) {
	k := 0
	for k < len(w.list) && now.Sub(w.list[k].at) > waitForInitial {
		w.list[k] = waitingPacket{}
		k++
	}
	if w.list = w.list[k:]; len(w.list) == 0 {
		w.list = nil
	}
}

// take returns what has come for a connection from its client's address.
func (w *waitingPackets) take(dst wire.ConnID, r *rxBatch, now time.Time) (out []earlyPacket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) == 0 {
		return nil
	}
	w.expire(now)
	kept := w.list[:0]
	for _, p := range w.list {
		if p.dst == dst && p.remote == r.remote {
			out = append(out, p.earlyPacket)
		} else {
			kept = append(kept, p)
		}
	}
	clear(w.list[len(kept):])
	w.list = kept
	return out
}

// receiveWaiting handles what came before the first Initial.
func (c *Conn) receiveWaiting(wait []earlyPacket) {
	for i := range wait {
		e := &wait[i]
		src := packetSource{remote: e.remote, local: e.local, ifIndex: e.ifIndex, ecn: e.ecn, size: len(e.data)}
		c.processDatagram(e.data, &src)
	}
}
