package quic

import (
	"slices"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Building packets. A packet is put together speculatively and abandoned when
// it turns out empty. The packets of a batch are sealed together (seal.go),
// straight from the stream's chunk: the frame headers are written for that moment
// into the bytes in front of the range, which are saved and put back (see
// protect.Packet).

// What a 1-RTT packet may carry.
const (
	packAcks  = iota // only what congestion control does not count
	packAll          // everything
	packProbe        // everything, and PING rather than nothing (RFC 9002, Section 6.2.4)
)

const ackDelayExponent = 3

// ackDue tells whether a space's ACK must go out now.
func (c *Conn) ackDue(space recovery.Space) bool {
	r := c.recvOf(space)
	if r.NeedAckNow() {
		return true
	}
	d := r.AckDeadline()
	return !d.IsZero() && !c.now().Before(d)
}

func (c *Conn) ackPending(space recovery.Space) bool {
	return c.recvOf(space).NeedAckNow() || !c.recvOf(space).AckDeadline().IsZero()
}

// appendAck appends an ACK frame if one is pending.
//
// RFC 9000, Section 13.2.6: "ACK frames MUST only be carried in a packet that
// has the same packet number space as the packet being acknowledged; see
// Section 12.1."
//
// RFC 9000, Section 13.2.6: "For instance, packets that are protected with
// 1-RTT keys MUST be acknowledged in packets that are also protected with 1-RTT
// keys."
//
// RFC 9000, Section 17.2.3: "An acknowledgment for a 1-RTT packet MUST be
// carried in a 1-RTT packet."
func (c *Conn) appendAck(b []byte, space recovery.Space, room int, pkt *recovery.SentPacket) []byte {
	r := c.recvOf(space)
	if !c.ackPending(space) {
		return b
	}
	ranges := r.Ranges()
	delay := uint64(0)
	if space == recovery.AppData {
		delay = uint64(r.Delay(c.now())/time.Microsecond) >> ackDelayExponent
	}
	c.needAckWork()
	c.wireRanges = c.wireRanges[:0]
	for _, x := range ranges {
		c.wireRanges = append(c.wireRanges, wire.AckRange(x))
	}
	out := wire.AppendAck(b, c.wireRanges, delay, r.ECNCounts(), room)
	if len(out) > len(b) {
		pkt.Add(recovery.Record{Kind: recAck, Off: ranges[0].Largest})
	}
	return out
}

// wantsSpace tells whether the Initial or Handshake space has something to send.
func (c *Conn) wantsSpace(space recovery.Space) bool {
	return c.keys[space].tx != nil && (c.cryptoOf(space).wants() || c.ackPending(space) || c.probes[space] > 0)
}

// buildCoalesced builds one datagram of Initial and Handshake packets in b[:cap].
//
// RFC 9000, Section 8.1: "Clients MUST ensure that UDP datagrams containing
// Initial packets have UDP payloads of at least 1200 bytes, adding PADDING
// frames as necessary."
//
// RFC 9000, Section 12.2: "Senders MUST NOT coalesce QUIC packets with
// different connection IDs into a single UDP datagram."
//
// RFC 9000, Section 14: "QUIC MUST NOT be used if the network path cannot
// support a maximum datagram size of at least 1200 bytes."
//
// RFC 9001, Section 9.3: "First, the packet containing a ClientHello MUST be
// padded to a minimum size."
func (c *Conn) buildCoalesced(b []byte) int {
	initial := c.wantsSpace(recovery.Initial)
	handshake := c.wantsSpace(recovery.Handshake)
	if initial {
		// RFC 9000, Section 14.1: "A client MUST expand the payload of all UDP
		// datagrams carrying Initial packets to at least the smallest allowed
		// maximum datagram size"; servers do for ack-eliciting ones. The last packet
		// of the datagram takes the padding.
		sp := c.cryptoOf(recovery.Initial).pending()
		last := !handshake || sp.end-sp.start > minDatagram/2
		b = c.buildLong(b, recovery.Initial, last)
		if last {
			return len(b)
		}
	}
	if handshake {
		b = c.buildLong(b, recovery.Handshake, initial)
		if !c.server && len(b) > 0 {
			// RFC 9001, Section 4.9.1: "a client MUST discard Initial keys when it first
			// sends a Handshake packet".
			c.dropSpace(recovery.Initial)
		}
	}
	return len(b)
}

// buildLong appends an Initial or Handshake packet to b, within cap(b).
//
// RFC 9000, Section 12.5: "All other frame types MUST only be sent in the
// application data packet number space."
func (c *Conn) buildLong(b []byte, space recovery.Space, pad bool) []byte {
	typ := wire.PacketInitial
	var token []byte
	if space == recovery.Handshake {
		typ = wire.PacketHandshake
	} else {
		// RFC 9000, Section 8.1.2: "This token MUST be repeated by the client
		// in all Initial packets it sends for that connection after it receives
		// the Retry packet."
		//
		// RFC 9000, Section 8.1.3: "The client MUST include the token in all
		// Initial packets it sends, unless a Retry replaces the token with a
		// newer one."
		token = c.token
	}
	k := &c.keys[space]
	pn := c.loss.NextPN(space)
	pnLen := wire.PacketNumberLen(pn, c.loss.LargestAcked(space))
	start := len(b)
	b, lengthAt := wire.AppendLong(b, typ, c.version, c.dst(), c.ids.local[0].id, token, pn, pnLen)
	c.greaseBit(&b[start])
	hdr := len(b)
	room := cap(b) - hdr - protect.TagLen
	if room < 8 {
		return b[:start]
	}
	pkt := recovery.SentPacket{PN: pn, Path: c.path.id}
	b = c.appendAck(b, space, room, &pkt)
	b = c.appendCrypto(b, space, cap(b)-protect.TagLen, &pkt)
	if c.probes[space] > 0 && !pkt.AckEliciting {
		b = wire.AppendPing(b)
		pkt.AckEliciting = true
	}
	if len(b) == hdr {
		return b[:start]
	}
	c.probes[space] = max(0, c.probes[space]-1)
	// RFC 9000, Section 14.1: "Similarly, a server MUST expand the payload of
	// all UDP datagrams carrying ack-eliciting Initial packets to at least the
	// smallest allowed maximum datagram size of 1200 bytes."
	if pad && (!c.server || pkt.AckEliciting) {
		b = wire.AppendPadding(b, cap(b)-protect.TagLen-len(b))
		pkt.InFlight = true
	}
	if short := 4 - pnLen - (len(b) - hdr); short > 0 {
		b = wire.AppendPadding(b, short)
	}
	wire.SetLength(b[start:], lengthAt-start, pnLen+len(b)-hdr+protect.TagLen)
	if c.trace != nil {
		c.traceSent(typ, pn, hdr-start, b[hdr:])
	}
	out := k.tx.Seal(b[:hdr], b[hdr:], b[start:hdr], pn)
	k.tx.ProtectHeader(out[start:], hdr-pnLen-start, pnLen)
	c.recordSent(space, &pkt, len(out)-start)
	return out
}

// appendCrypto appends CRYPTO frames up to the limit on len(b).
//
// RFC 9001, Section 4.9: "If packets from a lower encryption level contain
// CRYPTO frames, frames that retransmit that data MUST be sent at the same
// encryption level."
func (c *Conn) appendCrypto(b []byte, space recovery.Space, limit int, pkt *recovery.SentPacket) []byte {
	s := c.cryptoOf(space)
	for s.wants() {
		sp := s.pending()
		room := limit - len(b)
		n := min(int(sp.end-sp.start), room-wire.CryptoHeaderLen(sp.start, room))
		if n <= 0 {
			return b
		}
		b = wire.AppendCryptoHeader(b, sp.start, n)
		b = append(b, s.out[sp.start:sp.start+uint64(n)]...)
		s.sent(sp.start, sp.start+uint64(n))
		pkt.Add(recovery.Record{Kind: recCrypto, ID: uint64(space), Off: sp.start, Len: uint32(n)})
		pkt.AckEliciting = true
	}
	return b
}

// recordSent tells loss recovery and congestion control of a sealed packet.
//
// RFC 9002, Section 7.5: "A sender MUST however count these packets as being
// additionally in flight, since these packets add network load without
// establishing packet loss."
func (c *Conn) recordSent(space recovery.Space, pkt *recovery.SentPacket, size int) {
	pkt.Size = uint16(min(size, 65535))
	pkt.Sent = c.now()
	pkt.InFlight = pkt.InFlight || pkt.AckEliciting
	pkt.PMTUProbe = c.probing
	pkt.ECN = c.marking
	pkt.Batched = c.batched
	if pkt.KeyPhase = c.app.generation; c.app.tx == nil {
		pkt.KeyPhase = earlyPhase // 0-RTT, or another space, where it does not matter
	}
	if pkt.NumRecords > 0 && pkt.At(0).Kind == recAck {
		c.recvOf(space).OnAckSent(c.now())
		if space == recovery.AppData && c.app.rxSeen && pkt.At(0).Off >= c.app.rxLowest {
			c.app.answered = true
		}
		if pkt.AckEliciting {
			c.recvOf(space).ElicitSent()
		}
	}
	if pkt.InFlight && pkt.Path == c.path.id {
		pkt.SendState = c.path.cc.OnSent(c.now(), size, c.loss.InFlight())
		c.path.pacer.Sent(c.now(), size) // ACKs alone are not paced (RFC 9002, Section 7.7)
	}
	c.loss.Sent(c.now(), space, pkt)
	if pkt.AckEliciting && c.lastSent.IsZero() {
		c.lastSent = c.now()
	}
	c.stats.PacketsSent++
}

// canSeal tells whether packets of a level can be sent.
//
// RFC 9001, Section 4.9: "Though an endpoint might retain older keys, new data
// MUST be sent at the highest currently available encryption level."
func (c *Conn) canSeal(level Level) bool {
	if level == LevelApp {
		return c.app.tx != nil && c.tls != nil
	}
	return c.keys[spaceOf(level)].tx != nil
}

// sealSmall appends a packet of its own with the given frames to b: for
// CONNECTION_CLOSE and MTU probes, off the hot path.
func (c *Conn) sealSmall(b []byte, level Level, frames []byte) []byte {
	return c.sealOn(&c.path, b, level, frames, c.probing)
}

// sealOn does that for a path.
func (c *Conn) sealOn(p *path, b []byte, level Level, frames []byte, eliciting bool) []byte {
	c.marking, c.batched = false, false
	space := spaceOf(level)
	pn := c.loss.NextPN(space)
	dst, _ := c.dstOf(p)
	const pnLen = 4
	start := len(b)
	lengthAt := 0
	key := c.app.tx
	switch level {
	case LevelApp:
		b = wire.AppendShort(b, dst, pn, pnLen, c.app.phase, false)
	case LevelHandshake:
		key = c.keys[space].tx
		b, lengthAt = wire.AppendLong(b, wire.PacketHandshake, c.version, dst, c.ids.local[0].id, nil, pn, pnLen)
	default:
		key = c.keys[space].tx
		b, lengthAt = wire.AppendLong(b, wire.PacketInitial, c.version, dst, c.ids.local[0].id, c.token, pn, pnLen)
		frames = slices.Clip(frames)
	}
	c.greaseBit(&b[start])
	hdr := len(b)
	b = append(b, frames...)
	if level == LevelInitial && !c.server {
		// RFC 9000, Section 14.1: what is not ack-eliciting must be expanded by clients only.
		b = wire.AppendPadding(b, max(0, start+minDatagram-protect.TagLen-len(b)))
	}
	if level != LevelApp {
		wire.SetLength(b[start:], lengthAt-start, pnLen+len(b)-hdr+protect.TagLen)
	}
	if c.trace != nil {
		c.traceSent(packetTypeOf(level), pn, hdr-start, b[hdr:])
	}
	out := key.Seal(b[:hdr], b[hdr:], b[start:hdr], pn)
	key.ProtectHeader(out[start:], hdr-pnLen-start, pnLen)
	if level == LevelApp {
		c.app.sealed++ // countSealed acts on it
	}
	pkt := recovery.SentPacket{PN: pn, Path: p.id, AckEliciting: eliciting, InFlight: true}
	c.recordSent(space, &pkt, len(out)-start)
	return out
}

// buildShort builds a 1-RTT packet in slot, to be sealed with the batch, and
// returns its size, 0 for none.
func (c *Conn) buildShort(b *outBatch, slot []byte, mode int) int {
	pn := c.loss.NextPN(recovery.AppData)
	pnLen := wire.PacketNumberLen(pn, c.loss.LargestAcked(recovery.AppData))
	hdr := wire.AppendShort(slot, b.flow.Dst, pn, pnLen, c.app.phase, false)
	c.greaseBit(&hdr[0])
	room := cap(slot) - len(hdr) - protect.TagLen
	pkt := recovery.SentPacket{PN: pn, Path: c.path.id}

	front := hdr[len(hdr) : len(hdr) : len(hdr)+room]
	bulk := b.bulk && mode == packAll
	b.bulk = false
	if mode != packAcks && !bulk {
		// RFC 9221, Section 5: "Like STREAM frames, DATAGRAM frames contain
		// application data and MUST be protected with either 0-RTT or 1-RTT
		// keys."
		//
		// RFC 9221, Section 5.4: "The sender MUST either delay sending the
		// frame until the controller allows it or drop the frame without
		// sending it (at which point it MAY notify the application)."
		//
		// RFC 9221, Section 6: "All application data transmitted with the
		// DATAGRAM frame, like the STREAM frame, MUST be protected either by
		// 0-RTT or 1-RTT keys."
		front = c.appendDatagrams(front, room, &pkt) // first, as they fit whole or not at all
	}
	data := len(front)
	if !bulk {
		front = c.appendAck(front, recovery.AppData, room-data, &pkt)
	}
	ackOnly := len(front) > data
	if ackOnly && c.recv.ShouldElicit() && c.ackDue(recovery.AppData) {
		c.ping = true
	}
	var last streamPiece
	if mode != packAcks {
		if mode == packProbe && c.takesImmediateAck() && len(front) < room {
			front = c.appendElicit(front)
			pkt.AckEliciting = true
		}
		if !bulk {
			front = c.appendControl(front, room, &pkt)
			front = c.appendCrypto(front, recovery.AppData, room, &pkt)
		}
		front, last = c.appendStreams(front, room, &pkt)
		if last.stream == nil {
			front = c.appendControl(front, room, &pkt) // that streams are blocked is known only now
		}
		// RFC 9002, Section 6.2.4: "All probe packets sent on a PTO MUST be
		// ack-eliciting."
		if mode == packProbe && !pkt.AckEliciting && len(front) < room {
			front = wire.AppendPing(front)
			pkt.AckEliciting = true
		}
	}
	// RFC 9000, Section 12.4: "The payload of a packet that contains frames
	// MUST contain at least one frame, and MAY contain multiple frames and
	// multiple frame types."
	if !pkt.AckEliciting && (!ackOnly || !c.ackDue(recovery.AppData)) {
		return 0
	}
	p := protect.Packet{PN: pn, Header: uint8(len(hdr)), PNLen: uint8(pnLen)}
	if short := min(c.leastPayload(len(hdr), pnLen), room) - len(front) - last.size(); short > 0 {
		front = wire.AppendPadding(front, short) // a stream's frame runs to the packet's end, so it precedes that
	}
	frames := front
	if last.stream != nil {
		b.bulk = mode == packAll && len(front) == 0 && !c.wantsDatagrams()
		front = c.placeStream(front, &last, &p)
		b.uses(last.chunk)
	}
	size := len(hdr) + len(front) + len(p.Plain) - int(p.Front) + protect.TagLen
	b.bulk = b.bulk && size == cap(slot)
	p.Out = slot[:size]
	b.plain.Packets = append(b.plain.Packets, p)
	if c.trace != nil {
		c.traceShort(pn, size, len(hdr), frames, &last)
	}
	c.recordSent(recovery.AppData, &pkt, size)
	return size
}

// leastPayload is how long the payload of a 1-RTT packet must be.
//
// RFC 9001, Section 9.5: "For the sending of packets, construction and
// protection of packet payloads and packet numbers MUST be free from side
// channels that would reveal the packet number or its encoded size."
func (c *Conn) leastPayload(hdr, pnLen int) int {
	// RFC 9001, Section 5.4.2: the sample of header protection begins four bytes
	// behind the packet number's start.
	sample := 4 - pnLen
	// RFC 9000, Section 10.3: "the endpoint SHOULD ensure that all packets it sends
	// are at least 22 bytes longer than the minimum connection ID length that it
	// requests the peer to include in its packets, adding PADDING frames as
	// necessary."
	return max(sample, 22+c.ep.layout.Size()-hdr-protect.TagLen)
}

// countSealed notes that n packets were sealed, and starts a key update well
// before the AEAD's limit.
// RFC 9001, Section 6.6: "Endpoints MUST initiate a key update before sending
// more protected packets than the confidentiality limit for the selected AEAD
// permits."
//
// RFC 9000, Section 12.3: "If the packet number for sending reaches 2^62-1, the
// sender MUST close the connection without sending a CONNECTION_CLOSE frame or
// any further packets"
//
// RFC 9001, Section 5.3: "An endpoint MUST initiate a key update (Section 6)
// prior to exceeding any limit set for the AEAD that is in use."
//
// RFC 9001, Section 6.6: "Endpoints MUST count the number of encrypted packets
// for each set of keys."
//
// RFC 9001, Section 6.6: "If the total number of encrypted packets with the
// same key exceeds the confidentiality limit for the selected AEAD, the
// endpoint MUST stop using those keys."
//
// RFC 9001, Section 6.6: "If a key update is not possible or integrity limits
// are reached, the endpoint MUST stop using the connection and only send
// stateless resets in response to receiving packets."
func (c *Conn) countSealed(n int) {
	c.app.sealed += uint64(n)
	limit := c.app.maxSealed
	if c.loss.Exhausted(recovery.AppData) {
		c.abandon(&TransportError{Code: InternalError, Reason: "all packet numbers are used"})
		return
	}
	if c.app.sealed < limit-limit/8 {
		return
	}
	if c.confirmed && c.app.mayUpdate() {
		_ = c.updateKeys()
	} else if c.app.sealed >= limit-limit/16 { // a batch and CONNECTION_CLOSE are still to be sealed
		_ = c.fail(AEADLimitReached, 0, "confidentiality limit reached before keys could be updated")
	}
}
