package quic

import (
	"errors"
	"net/netip"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/qlog"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// What a connection tells its qlog trace. Most connections have none: then
// c.trace is nil, and whoever is on the way of every packet asks before calling.

// startTrace begins the trace, if the connection is to have one. The path and
// the connection IDs are known.
func (c *Conn) startTrace() {
	if c.trace = c.cfg.Qlog.Start(c.server, c.id, c.now()); c.trace == nil {
		return
	}
	local := c.shard().conn().LocalAddr()
	if c.path.local.IsValid() {
		local = netip.AddrPortFrom(c.path.local, local.Port())
	}
	c.trace.Started(c.now(), uint32(c.version), local, c.path.remote, c.ids.local[0].id.String(), c.id)
	c.trace.State(c.now(), "attempted")
}

// traceShort records a 1-RTT packet of size bytes that was sealed. last is the
// STREAM frame at its end, if there is one.
func (c *Conn) traceShort(pn uint64, size, header int, front []byte, last *streamPiece) {
	p := qlog.Packet{Type: wire.Packet1RTT, PN: pn, Size: size, Payload: size - header - protect.TagLen, KeyPhase: c.app.phase}
	if last.stream == nil {
		c.trace.Sent(c.now(), &p, front, nil)
		return
	}
	c.trace.Sent(c.now(), &p, front, &qlog.StreamFrame{ID: last.stream.id, Off: last.off, Len: last.n, Fin: last.fin})
}

// traceSent records a packet that is about to be sealed.
func (c *Conn) traceSent(t wire.PacketType, pn uint64, header int, frames []byte) {
	p := qlog.Packet{Type: t, PN: pn, Size: header + len(frames) + protect.TagLen, Payload: len(frames), KeyPhase: c.app.phase}
	if t != wire.Packet1RTT {
		p.Src, p.Dst = c.ids.local[0].id, c.dst()
	}
	c.trace.Sent(c.now(), &p, frames, nil)
}

// packetTypeOf is the type of the packets of a level.
func packetTypeOf(l Level) wire.PacketType {
	switch l {
	case LevelInitial:
		return wire.PacketInitial
	case LevelHandshake:
		return wire.PacketHandshake
	}
	return wire.Packet1RTT
}

// traceReceived records a packet that was opened.
func (c *Conn) traceReceived(t wire.PacketType, pn uint64, dst wire.ConnID, frames []byte) {
	p := qlog.Packet{Type: t, PN: pn, Payload: len(frames), Dst: dst, KeyPhase: c.app.phase}
	if len(c.ids.remote) > 0 {
		p.Src = c.ids.remote[0].id
	}
	c.trace.Received(c.now(), &p, frames)
}

// traceLost records a packet that was declared lost.
func (c *Conn) traceLost(p *recovery.SentPacket) {
	level := [recovery.NumSpaces]Level{LevelInitial, LevelHandshake, LevelApp}[c.eventSpace]
	c.trace.Lost(c.now(), packetTypeOf(level), p.PN, "")
}

// traceMetrics records what congestion control and loss recovery stand at.
func (c *Conn) traceMetrics() {
	p := &c.path
	m := qlog.Metrics{
		PTOCount: c.loss.PTOCount(), CongestionWindow: p.cc.Window(), BytesInFlight: c.loss.InFlight(),
		PacingRate: uint64(p.cc.PacingRate(p.rtt.Smoothed())) * 8,
	}
	if p.rtt.HasSample() {
		m.MinRTT, m.SmoothedRTT, m.LatestRTT, m.RTTVariance = p.rtt.Min(), p.rtt.Smoothed(), p.rtt.Latest(), p.rtt.Var()
	}
	c.trace.Metrics(c.now(), m)
}

// endTrace records why the connection ended.
func (c *Conn) endTrace(err error) {
	if c.trace == nil {
		return
	}
	var te *TransportError
	var ae *ApplicationError
	code, _, reason, app := closeFields(err)
	local, trigger := true, "error"
	switch {
	case errors.As(err, &ae):
		local, trigger = !ae.Remote, "application"
	case errors.As(err, &te):
		if local = !te.Remote; te.Code == NoError {
			trigger = "clean"
		}
	case errors.As(err, new(*IdleTimeoutError)):
		trigger = "idle_timeout"
	case errors.As(err, new(*HandshakeTimeoutError)):
		trigger = "handshake_timeout"
	case errors.As(err, new(*StatelessResetError)):
		local, trigger = false, "stateless_reset"
	case errors.As(err, new(*VersionError)):
		trigger = "version_mismatch"
	}
	c.trace.Closed(c.now(), local, app, code, reason, trigger)
	c.trace.State(c.now(), "closed")
	c.trace.Close()
	c.trace = nil
}
