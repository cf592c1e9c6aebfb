package quic

import (
	"net/netip"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Receiving, in order:
//
//  1. processBatch walks the datagrams of one receive call.
//  2. processDatagram walks the coalesced packets of one datagram.
//  3. openPacket removes header and packet protection in place.
//  4. processFrames acts on the frames (frames.go).
//  5. Only then is the packet number recorded, to be acknowledged. A packet
//     that memory does not allow is dropped before that, and comes again.

// packetSource is where a datagram came from.
type packetSource struct {
	remote  netip.AddrPort
	local   netip.Addr
	ifIndex int
	ecn     uint8
	via     *shard
	dst     wire.ConnID // of the last short header
	size    int         // of the datagram
	replied int         // bytes sent straight back to it
}

func (c *Conn) processBatch(r *rxBatch) {
	c.acct.batch, c.acct.batchBuf = nil, r.buf
	c.acct.batchBig = r.total >= viewThreshold
	src := packetSource{remote: r.remote, local: r.local, ifIndex: r.ifIndex, ecn: r.ecn, via: r.via}
	for data := r.data; len(data) > 0; {
		n := min(r.segment, len(data))
		src.size, src.replied = n, 0
		c.processDatagram(data[:n:n], &src)
		data = data[n:]
	}
	c.acct.batch, c.acct.batchBuf, c.acct.batchBig = nil, nil, false
	c.turns.heard()
	c.compactPinned(c.compactSlack())
	c.chargeMemory()
}

// compactSlack is what buffers may pin beyond twice their payload before it is
// copied out, while the endpoint has memory: a reader that keeps up frees them
// sooner than a copy would.
const compactSlack = 256 << 10

func (c *Conn) compactSlack() int {
	if c.memoryShort() {
		return 0
	}
	return compactSlack
}

// memoryShort: a quarter of what all connections may hold is held.
func (c *Conn) memoryShort() bool { return c.ep.held.Load() > c.ep.memory/4 }

// compactPinned copies out what is unread when buffers hold more than twice as
// much, and slack.
func (c *Conn) compactPinned(slack int) {
	if c.acct.held > slack && c.acct.held > 2*c.unreadBytes()+slack {
		c.compact()
	}
}

func (c *Conn) unreadBytes() int {
	n := c.acct.late
	if c.dg != nil {
		n += c.dg.inBytes
	}
	for _, s := range c.streams.all {
		n += s.rcv.buf.unread()
	}
	return n
}

func (c *Conn) compact() {
	for _, s := range c.streams.all {
		s.rcv.buf.compact(&c.acct)
	}
}

// RFC 9000, Section 12.2: "Receivers MUST be able to process coalesced
// packets."
//
// RFC 9000, Section 12.2: "The receiver of coalesced QUIC packets MUST
// individually process each QUIC packet and separately acknowledge them, as if
// they were received as the payload of different UDP datagrams."
func (c *Conn) processDatagram(b []byte, src *packetSource) {
	if c.state >= stateClosing {
		c.onClosedPacket(len(b))
		return
	}
	if src.remote != c.path.remote && (c.server && !c.confirmed || !c.server && !c.fromServer(src.remote)) {
		// RFC 9000, Section 9: "If a client receives packets from an unknown server
		// address, the client MUST discard these packets." A server's peer must not
		// move before the handshake is confirmed either.
		c.ep.stats.DropUnknown.Add(1)
		return
	}
	c.stats.DatagramsReceived++
	c.stats.BytesReceived += uint64(len(b))
	if src.remote == c.path.remote && !c.path.validated {
		// RFC 9002, Appendix A.6: "When a server is blocked by anti-amplification
		// limits, receiving a datagram unblocks it, even if none of the packets in the
		// datagram are successfully processed."
		c.path.onReceived(len(b))
		c.dirty = true
	}
	opened := false
	first := true
	var dst wire.ConnID
	whole := b
	for ; len(b) > 0 && c.state < stateClosing; first = false {
		// RFC 9000, Section 17.2: "Packets containing a zero value for this bit are
		// not valid packets in this version and MUST be discarded."
		//
		// RFC 9287, Section 3: "An endpoint that advertises the grease_quic_bit
		// transport parameter MUST accept packets with the QUIC Bit set to a value of
		// 0."
		//
		// RFC 9000, Section 17.3.1: "Packets containing a zero value for this
		// bit are not valid packets in this version and MUST be discarded."
		if c.cfg.NoGrease && !wire.HasFixedBit(b[0]) && !isVersionNegotiation(b) {
			c.ep.stats.DropHeader.Add(1)
			break
		}
		if !wire.IsLong(b[0]) {
			n := 1 + c.ep.layout.Size()
			if !first && (len(b) < n || !dst.Equal(b[1:n])) {
				break // as below
			}
			opened = c.processShort(b, src) || opened
			break
		}
		h, err := wire.ParseLong(b)
		if err != nil {
			c.ep.stats.DropHeader.Add(1)
			break
		}
		// RFC 9000, Section 12.2: "Senders MUST NOT coalesce QUIC packets with
		// different connection IDs into a single UDP datagram. Receivers SHOULD
		// ignore any subsequent packets with a different Destination Connection ID".
		if first {
			dst = h.Dst
		} else if h.Dst != dst {
			break
		}
		// RFC 9000, Section 12.2: "For example, if decryption fails (because
		// the keys are not available or for any other reason), the receiver MAY
		// either discard or buffer the packet for later processing and MUST
		// attempt to process the remaining packets."
		opened = c.processLong(b[:h.Len:h.Len], &h, src, len(whole)) || opened
		b = b[h.Len:]
	}
	// RFC 9000, Section 10.3.1: "However, the comparison MUST be performed when
	// the first packet in an incoming datagram either cannot be associated with
	// a connection or cannot be decrypted."
	if !opened && c.state < stateClosing {
		c.checkReset(whole, src)
	}
}

// fromServer tells whether an address that is not written as the one that was
// dialled is the same: zones have two names, and the unspecified address means
// this host.
func (c *Conn) fromServer(from netip.AddrPort) bool {
	to := c.path.remote
	if c.probe != nil && from == c.probe.path.remote || c.prev != nil && from == c.prev.remote {
		return true // a preferred address, or where the server was before
	}
	plain := func(a netip.AddrPort) netip.Addr { return a.Addr().Unmap().WithZone("") }
	return from.Port() == to.Port() && (plain(from) == plain(to) || to.Addr().IsUnspecified())
}

// isVersionNegotiation reports a long header of version 0, which has no fixed bit.
func isVersionNegotiation(b []byte) bool {
	return len(b) >= 5 && wire.IsLong(b[0]) && [4]byte(b[1:5]) == [4]byte{}
}

// checkReset looks for a stateless reset in a datagram of which nothing could be opened.
//
// RFC 9000, Section 10.3: "However, endpoints MUST treat any packet ending in a
// valid stateless reset token as a Stateless Reset, as other QUIC versions
// might allow the use of a long header."
func (c *Conn) checkReset(b []byte, src *packetSource) {
	// RFC 9000, Section 10.3.1: "An endpoint MUST NOT check for any stateless reset
	// tokens associated with connection IDs it has not used or for connection IDs
	// that have been retired." The one in use belongs to the path's address.
	if len(b) < minResetLen {
		return
	}
	for _, p := range c.eachPath() {
		if p == nil || p.remote != src.remote {
			continue
		}
		if r := c.ids.remoteBySeq(p.peerSeq); r != nil && r.hasToken && constantTimeEqual(r.token, [16]byte(b[len(b)-16:])) {
			// RFC 9000, Section 10.3.1: "If the last 16 bytes of the datagram
			// are identical in value to a stateless reset token, the endpoint
			// MUST enter the draining period and not send any further packets
			// on this connection."
			c.finish(stateDraining, &StatelessResetError{})
			return
		}
	}
}

func (c *Conn) processLong(b []byte, h *wire.LongHeader, src *packetSource, datagram int) bool {
	switch h.Type {
	case wire.PacketVersionNegotiation:
		c.onVersionNegotiation(h)
		return false
	case wire.PacketRetry:
		c.onRetry(b, h)
		return false
	case wire.Packet0RTT:
		// RFC 9001, Section 4.6.2: "When rejecting 0-RTT, a server MUST NOT
		// process any 0-RTT packets, even if it could."
		//
		// RFC 9001, Section 5.6: "A client MUST NOT attempt to decrypt 0-RTT
		// packets it receives and instead MUST discard them."
		return c.process0RTT(b, h, src)
	}
	if !c.server && len(h.Token) > 0 {
		// RFC 9000, Section 17.2.2: "Initial packets sent by the server MUST set the
		// Token Length field to 0; clients that receive an Initial packet with a
		// non-zero Token Length field MUST either discard the packet or generate a
		// connection error of type PROTOCOL_VIOLATION."
		c.ep.stats.DropHeader.Add(1)
		return false
	}
	space := recovery.Initial
	if h.Type == wire.PacketHandshake {
		space = recovery.Handshake
	} else if c.server && datagram < minDatagram {
		// RFC 9000, Section 14: "Therefore, an endpoint MUST NOT close a
		// connection when it receives a datagram that does not meet size
		// constraints; the endpoint MAY discard such datagrams."
		//
		// RFC 9000, Section 14.1: "A server MUST discard an Initial packet that is
		// carried in a UDP datagram with a payload that is smaller than the
		// smallest allowed maximum datagram size of 1200 bytes."
		c.ep.stats.DropSmallInitial.Add(1)
		return false
	}
	rx, other, ok := c.longKey(h, space)
	if !ok {
		c.ep.stats.DropVersion.Add(1)
		return false
	}
	if rx == nil {
		if !c.keys[space].dropped {
			c.keepEarly(b, src)
		}
		return false
	}
	pnLen, truncated, ok := rx.UnprotectHeader(b, h.PNOffset)
	if !ok {
		c.ep.stats.DropHeader.Add(1)
		return false
	}
	pn := wire.DecodePacketNumber(c.largest(space), truncated, pnLen)
	hdr := h.PNOffset + pnLen
	payload, err := rx.Open(b[hdr:hdr], b[hdr:], b[:hdr], pn)
	if err != nil {
		if space == recovery.Handshake {
			c.app.failed++ // Initial keys are no secret
		}
		c.onDecryptFailure(rx.IntegrityLimit())
		return false
	}
	if other {
		c.takeVersion(h.Version)
	}
	if c.recvOf(space).Duplicate(pn) {
		c.ep.stats.DropDuplicate.Add(1)
		return true
	}
	if wire.ReservedBits(b[0]) {
		c.ep.stats.DropHeader.Add(1)
		_ = c.fail(ProtocolViolation, 0, "reserved header bits are set")
		return true
	}
	if !c.onLongOpened(h, space) {
		return true
	}
	c.finishPacket(space, h.Type, &h.Dst, pn, payload, src)
	return true
}

// onLongOpened does what the first authentic packets of a handshake bring
// along: the peer's connection ID, proof of its address, dropped keys.
//
// RFC 9000, Section 7.2: "Once a client has received a valid Initial packet
// from the server, it MUST discard any subsequent packet it receives on that
// connection with a different Source Connection ID."
//
// RFC 9000, Section 7.2: "A client MUST change the Destination Connection ID it
// uses for sending packets in response to only the first received Initial or
// Retry packet."
//
// RFC 9000, Section 7.2: "A server MUST set the Destination Connection ID it
// uses for sending packets based on the first received Initial packet."
func (c *Conn) onLongOpened(h *wire.LongHeader, space recovery.Space) bool {
	if !c.ids.hasPeer {
		c.ids.peer, c.ids.hasPeer = h.Src, true
		c.ids.remote = append(c.ids.remote, remoteID{id: h.Src})
	} else if c.ids.peer != h.Src {
		// RFC 9000, Section 7.2: "Any further changes to the Destination Connection
		// ID are only permitted if the values are taken from NEW_CONNECTION_ID
		// frames; if subsequent Initial packets include a different Source
		// Connection ID, they MUST be discarded."
		return false
	}
	if space == recovery.Handshake {
		if c.server {
			// RFC 9000, Section 8.1: "receipt of a packet protected with Handshake
			// keys confirms that the peer successfully processed an Initial packet."
			c.validatePath()
			// RFC 9001, Section 4.9.1: "a server MUST discard Initial keys when it
			// first successfully processes a Handshake packet."
			c.dropSpace(recovery.Initial)
		}
	}
	return true
}

func (c *Conn) validatePath() {
	if !c.path.validated {
		c.path.validated = true
		c.dirty = true
	}
}

// RFC 9001, Section 9.5: "For authentication to be free from side channels, the
// entire process of header protection removal, packet number recovery, and
// packet protection removal MUST be applied together without timing and other
// side channels."
func (c *Conn) processShort(b []byte, src *packetSource) bool {
	idLen := c.ep.layout.Size()
	if c.app.rx == nil || !c.mayReadApp() {
		c.keepEarly(b, src)
		return false
	}
	if c.app.resting {
		c.app.wake()
	}
	// RFC 9000, Section 10.3: "Endpoints MUST discard packets that are too
	// small to be valid QUIC packets."
	if len(b) < 1+idLen+20 {
		c.ep.stats.DropHeader.Add(1)
		return false
	}
	if !src.dst.Equal(b[1 : 1+idLen]) {
		src.dst, _ = wire.MakeConnID(b[1 : 1+idLen])
	}
	pnAt := 1 + idLen
	pnLen, truncated, ok := c.app.rx.UnprotectHeader(b, pnAt)
	if !ok {
		c.ep.stats.DropHeader.Add(1)
		return false
	}
	pn := wire.DecodePacketNumber(c.largest(recovery.AppData), truncated, pnLen)
	hdr := pnAt + pnLen
	payload, updated, err := c.app.open(c.now(), c.pto(), wire.KeyPhase(b[0]), pn, b[hdr:], b[:hdr])
	if err == errOldKeys {
		_ = c.fail(KeyUpdateError, 0, err.Error())
		return true
	}
	if err != nil {
		c.onDecryptFailure(c.app.maxFailed)
		return false
	}
	// RFC 9000, Section 12.3: "Duplicate suppression MUST happen after removing
	// packet protection for the reasons described in Section 9.5 of
	// [QUIC-TLS]."
	if c.recv.Duplicate(pn) {
		c.ep.stats.DropDuplicate.Add(1)
		return true
	}
	if wire.ReservedBits(b[0]) {
		c.ep.stats.DropHeader.Add(1)
		_ = c.fail(ProtocolViolation, 0, "reserved header bits are set")
		return true
	}
	if updated && !c.onPeerKeyUpdate(pn) {
		return true
	}
	c.heard1RTT(pn)
	c.finishPacket(recovery.AppData, wire.Packet1RTT, &src.dst, pn, payload, src)
	return true
}

// largest is the largest packet number received in a space, -1 if there is none.
func (c *Conn) largest(space recovery.Space) int64 {
	if pn, ok := c.recvOf(space).Largest(); ok {
		return int64(pn)
	}
	return -1
}

// mayReadApp: RFC 9001, Section 5.7: "A server MUST NOT process incoming 1-RTT
// protected packets before the TLS handshake is complete." "Even if it has
// 1-RTT secrets, a client MUST NOT process incoming 1-RTT protected packets
// before the TLS handshake is complete."
//
// RFC 9001, Section 5.7: "Endpoints in either role MUST NOT decrypt 1-RTT
// packets from their peer prior to completing the handshake."
func (c *Conn) mayReadApp() bool { return c.tls != nil }

func (c *Conn) onDecryptFailure(limit uint64) {
	c.ep.stats.DropDecrypt.Add(1)
	c.trace.Dropped(c.now(), 0, "decrypt")
	// RFC 9001, Section 6.6: "If the total number of received packets that fail
	// authentication within the connection, across all keys, exceeds the
	// integrity limit for the selected AEAD, the endpoint MUST immediately close
	// the connection with a connection error of type AEAD_LIMIT_REACHED".
	if c.app.failed > limit {
		_ = c.fail(AEADLimitReached, 0, "too many packets failed authentication")
	}
}

// onPeerKeyUpdate follows the peer to its next key phase.
func (c *Conn) onPeerKeyUpdate(pn uint64) bool {
	// RFC 9001, Section 6.2: "If an endpoint detects a second update before
	// it has sent any packets with updated keys containing an
	// acknowledgment for the packet that initiated the key update, it
	// indicates that its peer has updated keys twice without awaiting
	// confirmation. An endpoint MAY treat such consecutive key updates as a
	// connection error of type KEY_UPDATE_ERROR."
	if c.app.generation > 0 && !c.app.answered {
		_ = c.fail(KeyUpdateError, 0, "key update before the previous one was acknowledged")
		return false
	}
	if c.now().Sub(c.app.updatesFrom) >= time.Second {
		c.app.updatesFrom, c.app.updates = c.now(), 0
	}
	if c.app.updates++; c.app.updates > maxKeyUpdates {
		_ = c.fail(KeyUpdateError, 0, "too many key updates")
		return false
	}
	// RFC 9001, Section 6.2: "The endpoint MUST update its send keys to the
	// corresponding key phase in response, as described in Section 6.1."
	//
	// RFC 9001, Section 6.2: "Sending keys MUST be updated before sending an
	// acknowledgment for the packet that was received with updated keys."
	if err := c.updateKeys(); err != nil {
		_ = c.fail(InternalError, 0, "key update")
		return false
	}
	c.app.heard(c.now(), c.pto(), pn)
	return true
}

// finishPacket handles the contents of an authentic, new packet.
func (c *Conn) finishPacket(space recovery.Space, t wire.PacketType, dst *wire.ConnID, pn uint64, payload []byte, src *packetSource) {
	if c.trace != nil {
		c.traceReceived(t, pn, *dst, payload)
	}
	f := frameInfo{space: space, packet: t, dst: dst, src: src}
	if space == recovery.AppData && c.refusesMove(dst, src) {
		c.ep.stats.DropUnknown.Add(1)
		return
	}
	// RFC 9000, Section 13.1: "A packet MUST NOT be acknowledged until packet
	// protection has been successfully removed and all frames contained in the
	// packet have been processed."
	err := c.processFrames(&f, payload)
	if err == errOverBudget {
		c.ep.stats.DropBudget.Add(1)
		c.trace.Dropped(c.now(), len(payload), "budget")
		return
	}
	if badFrames(err) {
		c.ep.stats.DropFrame.Add(1)
		return
	}
	c.stats.PacketsReceived++
	if c.state >= stateClosing {
		return
	}
	if err != nil {
		return
	}
	c.recvOf(space).Add(c.now(), pn, f.ackEliciting, src.ecn)
	if f.ackEliciting && space == recovery.AppData && c.app.rxSeen && pn >= c.app.rxLowest {
		c.app.owed = true
	}
	c.lastHeard = c.now()
	c.lastSent = zeroTime
	c.dirty = true
	if space == recovery.AppData {
		newest := int64(pn) > c.largestPN
		c.largestPN = max(c.largestPN, int64(pn))
		if t == wire.Packet0RTT {
			return // it says nothing of the path, and was sent to an ID of the client's choice
		}
		if !c.cameOn(&c.path, src) {
			c.onOtherAddress(src, dst, f.nonProbing && newest)
		}
		if newest {
			c.heardOn = *dst
		}
	}
}

// keepEarly keeps a packet that came before its keys, within bounds.
func (c *Conn) keepEarly(b []byte, src *packetSource) {
	held := len(b)
	for i := range c.ahead {
		held += len(c.ahead[i].data)
	}
	if len(c.ahead) >= maxEarlyPackets || held > maxEarlyBytes || c.tls != nil && c.app.rx != nil {
		c.ep.stats.DropNoKeys.Add(1)
		c.trace.Dropped(c.now(), len(b), "no-keys")
		return
	}
	c.ep.stats.OpenedLater.Add(1)
	c.ahead = append(c.ahead, earlyPacket{append([]byte(nil), b...), src.remote, src.local, src.ifIndex, src.ecn})
}

// retryEarly processes packets that waited for keys.
func (c *Conn) retryEarly() {
	wait := c.ahead
	c.ahead = nil
	for i := range wait {
		if c.state >= stateClosing {
			return
		}
		e := &wait[i]
		src := packetSource{remote: e.remote, local: e.local, ifIndex: e.ifIndex, ecn: e.ecn, size: len(e.data)}
		b := e.data
		if wire.IsLong(b[0]) {
			if h, err := wire.ParseLong(b); err == nil {
				c.processLong(b[:h.Len:h.Len], &h, &src, minDatagram)
			}
		} else {
			c.processShort(b, &src)
		}
	}
}
