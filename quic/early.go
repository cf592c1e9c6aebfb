package quic

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// 0-RTT at a client: data goes out with the first flight, under keys and limits of
// an earlier connection.
//
//  1. DialEarly asks for it. TLS offers it if it has a session that allows it and
//     tells what was remembered with that (EventEarlyParams), then the key.
//  2. Streams can be opened now. sendEarly seals their data in 0-RTT packets.
//  3. The server accepts: what was sent counts, and acknowledgements come with
//     1-RTT packets. Or it does not (EventEarlyRejected): no stream has happened,
//     and everything goes out again from its beginning, under the new limits.
//
// Its server's side is in earlyrecv.go.

// earlyState is what a connection knows of 0-RTT.
type earlyState struct {
	wanted   bool                  // client: DialEarly
	offered  bool                  // client: 0-RTT packets may have gone out
	rejected bool                  // client: and no longer may
	rewound  bool                  // client: streams have begun again, perhaps more than are allowed now
	params   *wire.TransportParams // client: remembered
	tx       *protect.Key          // client: seals
	sealed   uint64                // by tx
	end      uint64                // client: packet numbers below were 0-RTT and rejected
	held     []*Stream             // client: have to wait for MAX_STREAMS

	rx      *protect.Key  // server: opens
	until   time.Time     // server: rx is forgotten then
	refused bool          // server: there will be no rx
	kept    []earlyPacket // server: came before rx
	open    bool          // server: the application has the connection before the handshake is complete
	first   uint64        // server: lowest packet number of a 1-RTT packet received
	oneRTT  bool          // server: there was one
}

// earlyPhase marks 0-RTT packets among those of the key phases.
const earlyPhase = 1<<32 - 1

func (s *earlyState) dropKeys() {
	for _, k := range []*protect.Key{s.tx, s.rx} {
		if k != nil {
			k.Zero()
		}
	}
	s.tx, s.rx, s.kept = nil, nil, nil
}

// DialEarly is Dial for applications that can bear 0-RTT: if there is a session
// with the server that allows it, it returns before the server has been heard of.
// What is written then goes out at once and may be received more than once by a
// server that does not prevent it (RFC 8446, Section 8), and nothing is known yet
// of the server but what it was before. Conn.Wait waits for the handshake, and
// TLSState.EarlyData tells whether the server took it. If it did not, everything
// that was written is sent again behind the handshake.
//
// cfg needs to have exactly one protocol in NextProtos, or it is Dial.
//
// RFC 9001, Section 5.6: "A client therefore MUST NOT use 0-RTT for application data
// unless specifically requested by the application that is in use."
func (e *Endpoint) DialEarly(ctx context.Context, remote netip.AddrPort, cfg *Config) (*Conn, error) {
	c, err := e.dial(remote, cfg, len(cfg.NextProtos) == 1)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.earlyUp:
		return c, nil
	case <-c.ready:
	case <-ctx.Done():
	}
	return c.waitDialed(ctx)
}

// Wait waits until the handshake is complete or the connection is over.
func (c *Conn) Wait(ctx context.Context) error { return c.wait(ctx) }

// rememberedParams is what a client keeps of a server's transport parameters.
//
// RFC 9000, Section 7.4.1: "A client MUST NOT use remembered values for the
// following parameters: ack_delay_exponent, max_ack_delay,
// initial_source_connection_id, original_destination_connection_id,
// preferred_address, retry_source_connection_id, and stateless_reset_token." "A
// client that attempts to send 0-RTT data MUST remember all other transport
// parameters used by the server that it is able to process."
func rememberedParams(p *wire.TransportParams) []byte {
	r := *p
	r.HasInitialSrc, r.HasOriginalDst, r.HasRetrySrc, r.HasResetToken = false, false, false, false
	r.PreferredAddress, r.VersionInfo, r.MinAckDelay = nil, nil, 0
	r.AckDelayExponent, r.MaxAckDelay = wire.DefaultAckDelayExponent, wire.DefaultMaxAckDelay
	return r.Append(nil, true)
}

// onEarlyParams takes what was remembered with the session that TLS offers.
func (c *Conn) onEarlyParams(b []byte) {
	p, err := wire.ParseTransportParams(b, true)
	if c.server || err != nil || c.haveParams || !c.early.wanted {
		return // then the key is of no use either
	}
	c.early.params, c.early.offered = &p, true
	c.peerParams = &p
	c.flow.sendMax = p.InitialMaxData
	c.streams.max = [2]uint64{p.InitialMaxStreamsBidi, p.InitialMaxStreamsUni}
}

// onEarlyKey lets a client send.
func (c *Conn) onEarlyKey(key *protect.Key) {
	if c.server || !c.early.offered || c.early.rejected || c.haveParams || c.early.tx != nil {
		key.Zero()
		return
	}
	c.early.tx = key
	c.resendAll() // of an attempt before Version Negotiation
	if !isClosed(c.earlyUp) {
		close(c.earlyUp)
	}
	for i := range c.streams.opening {
		c.streams.opening[i].open()
	}
}

// mayOpen tells whether the limits on streams are known.
func (c *Conn) mayOpen() bool { return c.haveParams || c.early.tx != nil }

// maySendEarly: RFC 9000, Section 7.4.1: "When sending frames in 0-RTT packets, a
// client MUST only use remembered transport parameters; importantly, it MUST NOT
// use updated values that it learns from the server's updated transport parameters
// or from frames received in 1-RTT packets." So none goes out once there are some.
//
// RFC 9000, Section 17.2.3: "A client MUST NOT send 0-RTT packets once it starts
// processing 1-RTT packets from the server."
func (c *Conn) maySendEarly() bool {
	return c.early.tx != nil && !c.haveParams && c.state == stateHandshake && c.blocked == nil
}

// sendEarly sends 0-RTT packets, a datagram each.
func (c *Conn) sendEarly() {
	for c.maySendEarly() && c.wantsApp() && !c.loss.Full(recovery.AppData) {
		budget, next := c.budget()
		if budget < c.path.mtu {
			c.pacedUntil = next
			return
		}
		b := newBatch()
		c.markBatch(b)
		n := c.buildEarly(b.buf.Bytes()[:0:c.path.mtu])
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

// buildEarly builds a 0-RTT packet in slot and returns its size, 0 for none.
//
// RFC 9369, Section 4.1: "The client MUST NOT send 0-RTT packets using the
// negotiated version, even after processing a packet of that version from the
// server."
func (c *Conn) buildEarly(slot []byte) int {
	if c.early.sealed >= c.early.tx.ConfidentialityLimit() {
		return 0
	}
	pn := c.loss.NextPN(recovery.AppData)
	pnLen := wire.PacketNumberLen(pn, c.loss.LargestAcked(recovery.AppData))
	hdr, lengthAt := wire.AppendLong(slot, wire.Packet0RTT, c.ver.original, c.dst(), c.ids.local[0].id, nil, pn, pnLen)
	room := cap(slot) - len(hdr) - protect.TagLen
	pkt := recovery.SentPacket{PN: pn, Path: c.path.id}

	front := c.appendControl(hdr[len(hdr):len(hdr):len(hdr)+room], room, &pkt)
	front, last := c.appendStreams(front, room, &pkt)
	if last.stream == nil {
		front = c.appendControl(front, room, &pkt) // that streams are blocked is known only now
	}
	if !pkt.AckEliciting {
		return 0
	}
	// Header protection takes its sample four bytes behind the packet number's
	// start. A STREAM frame runs to the end, so the padding precedes it.
	front = wire.AppendPadding(front, max(0, 4-pnLen-len(front)-last.size()))
	if last.stream != nil {
		front = wire.AppendStreamHeader(front, last.stream.id, last.off, -1, last.fin)
		if last.n > 0 {
			at := chunkHeadroom + int(last.off-last.chunk.off)
			front = append(front, last.chunk.b[at:at+last.n]...)
			c.acct.copied += int64(last.n)
		}
	}
	plain := hdr[:len(hdr)+len(front)]
	wire.SetLength(plain, lengthAt, pnLen+len(plain)-len(hdr)+protect.TagLen)
	if c.trace != nil {
		c.traceSent(wire.Packet0RTT, pn, len(hdr), plain[len(hdr):])
	}
	out := c.early.tx.Seal(plain[:len(hdr)], plain[len(hdr):], plain[:len(hdr)], pn)
	c.early.tx.ProtectHeader(out, len(hdr)-pnLen, pnLen)
	c.early.sealed++
	c.recordSent(recovery.AppData, &pkt, len(out))
	return len(out)
}

// onEarlyRejected begins again what 0-RTT has begun.
//
// RFC 9001, Section 4.6.2: "When 0-RTT is rejected, all connection characteristics
// that the client assumed might be incorrect. This includes the choice of
// application protocol, transport parameters, and any application configuration.
// The client therefore MUST reset the state of all streams, including application
// state bound to those streams." The protocol is the same, because only one was
// offered, and the server has processed nothing: with the same bytes from the
// first one on, each stream is what it would have been.
func (c *Conn) onEarlyRejected() {
	if c.server || c.early.rejected {
		return
	}
	c.early.rejected = true
	c.beginAgain()
}

// beginAgain takes back everything that was sent in 0-RTT packets.
func (c *Conn) beginAgain() {
	if !c.early.offered {
		return
	}
	c.early.dropKeys()
	c.early.end = c.loss.NextPN(recovery.AppData)
	// RFC 9002, Section 6.4: "When 0-RTT is rejected, recovery state for all
	// in-flight 0-RTT packets is discarded."
	c.loss.Clear(recovery.AppData, nil)
	c.early.rewound = true
	c.flow.sent, c.flow.blocked, c.flow.blockedAt = 0, false, 0
	c.streams.waiting, c.streams.blocked = nil, [2]bool{}
	if !c.haveParams {
		c.peerParams = &noParams
		c.flow.sendMax, c.streams.max = 0, [2]uint64{}
	}
	for _, s := range c.streams.all {
		s.beginAgain()
	}
	c.resendAll()
	c.callNext(0)
}

// beginAgain forgets that anything of the stream was sent.
func (s *Stream) beginAgain() {
	w, r := &s.snd, &s.rcv
	s.waits = false
	w.finSent, w.finLost, w.blocked, w.blockedAt = false, false, false, 0
	if w.reset {
		w.buf = sendBuf{} // the final size is 0
		w.needReset = true
	} else {
		w.buf.next, w.buf.lost = w.buf.start, nil
	}
	r.needStop = r.stopped && !r.done
}

// resendAll makes everything due, by the limits there are.
func (c *Conn) resendAll() {
	if !c.early.rewound {
		return
	}
	for _, id := range slices.SortedFunc(maps.Keys(c.streams.all), cmp.Compare[uint64]) {
		s := c.streams.all[id]
		if s.local() && s.snd.exists {
			s.snd.max = c.initialMax(s)
		}
		c.queueSend(s)
		c.queueCtrl(s)
	}
}

// initialMax is how much may be sent on a stream before MAX_STREAM_DATA.
func (c *Conn) initialMax(s *Stream) uint64 {
	p := c.peerParams
	switch {
	case !s.bidi():
		return p.InitialMaxStreamDataUni
	case s.local():
		return p.InitialMaxStreamDataBidiRemote
	}
	return p.InitialMaxStreamDataBidiLocal
}

// holds tells whether a stream was opened by a limit that is a lower one now. It
// waits for MAX_STREAMS then.
func (c *Conn) holds(s *Stream) bool {
	if !c.early.rewound || !s.local() {
		return false
	}
	kind := typeIndex(s.id)
	if s.id>>2 < c.streams.max[kind] {
		return false
	}
	if !slices.Contains(c.early.held, s) {
		c.early.held = append(c.early.held, s)
		c.streams.blocked[kind] = c.haveParams
	}
	return true
}

// releaseHeld looks again at streams that wait, after MAX_STREAMS.
func (c *Conn) releaseHeld() {
	held := c.early.held
	c.early.held = nil
	for _, s := range held {
		c.queueSend(s)
		c.queueCtrl(s)
	}
}

// errEarlyLimits says that the server took 0-RTT and its promise back.
var errEarlyLimits = errors.New("0-RTT was accepted, under lower limits than were promised for it")

// checkEarly ends a client's 0-RTT: the handshake is complete.
//
// RFC 9221, Section 3: "If a client stores the value of the max_datagram_frame_size
// transport parameter with their 0-RTT state, they MUST validate that the new value
// of the max_datagram_frame_size transport parameter sent by the server in the
// handshake is greater than or equal to the stored value; if not, the client MUST
// terminate the connection with error PROTOCOL_VIOLATION." The other limits are
// dealt with in the same way.
func (c *Conn) checkEarly() error {
	if !c.early.offered || c.early.rejected {
		return nil
	}
	now, was := earlyLimits(c.peerParams), earlyLimits(c.early.params)
	for i := range now {
		if now[i] < was[i] {
			return errEarlyLimits
		}
	}
	return nil
}

// earlyLimits are the parameters of a server that must not become smaller while it
// accepts 0-RTT. They go into each ticket, and 0-RTT with a ticket that has a larger
// one than there is now is rejected (spentTickets.judge, and the helper).
//
// RFC 9000, Section 7.4.1: "If 0-RTT data is accepted by the server, the server
// MUST NOT reduce any limits or alter any values that might be violated by the
// client with its 0-RTT data. In particular, a server that accepts 0-RTT data MUST
// NOT set values for the following parameters (Section 18.2) that are smaller than
// the remembered values of the parameters."
//
// RFC 9221, Section 3: "When servers decide to accept 0-RTT data, they MUST send a
// max_datagram_frame_size transport parameter greater than or equal to the value
// they sent to the client in the connection where they sent them the
// NewSessionTicket message."
func earlyLimits(p *wire.TransportParams) []uint64 {
	return []uint64{
		max(p.ActiveConnIDLimit, 2), p.InitialMaxData,
		p.InitialMaxStreamDataBidiLocal, p.InitialMaxStreamDataBidiRemote, p.InitialMaxStreamDataUni,
		p.InitialMaxStreamsBidi, p.InitialMaxStreamsUni, p.MaxDatagram,
	}
}

// remembered is what Handshake.Remember is told to keep.
func (c *Conn) remembered() []byte {
	if c.server {
		return nil
	}
	return rememberedParams(c.peerParams)
}
