package quic

import (
	"slices"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// What follows a complete handshake: the application gets the connection, and the
// keys of the handshake go.

// setIdle applies the idle timeout. RFC 9000, Section 10.1: "Each endpoint
// advertises a max_idle_timeout, but the effective value at an endpoint is
// computed as the minimum of the two advertised values".
func (c *Conn) setIdle() {
	c.idle = c.cfg.idleTimeout()
	if p := c.peerParams.MaxIdleTimeout; p > 0 && p < c.idle {
		c.idle = p
	}
}

// takeStreams lets the application have what the peer sends.
func (c *Conn) takeStreams() {
	c.admitted = true
	c.acct.lateMax = c.cfg.outOfOrder(true)
	for i := range c.streams.accept {
		c.streams.openAccept(i)
	}
	if c.dg != nil {
		c.dg.arrived.open()
	}
}

// admit lets the application have the connection.
//
// RFC 9000, Section 19.20: "Servers MUST NOT send a HANDSHAKE_DONE frame before
// completing the handshake."
func (c *Conn) admit() {
	c.takeStreams()
	c.issueIDs()
	if c.server {
		// RFC 9001, Section 4.1.2: "the TLS handshake is considered confirmed at
		// the server when the handshake completes. The server MUST send a
		// HANDSHAKE_DONE frame as soon as the handshake is complete." Here that is
		// when the client was also found to be allowed.
		c.hsDone = true
		// RFC 9000, Section 19.7: "Clients MUST NOT send NEW_TOKEN frames."
		c.tokenDue = c.cfg.Retry != RetryNever
		c.confirm()
		c.hs.Ticket()
	}
	c.dirty = true
}

func (c *Conn) confirm() {
	if c.confirmed {
		return
	}
	c.confirmed = true
	c.trace.State(c.now(), "handshake_confirmed")
	c.validatePath()
	c.peerVerified = true
	// RFC 9001, Section 4.9.2: "An endpoint MUST discard its Handshake keys when
	// the TLS handshake is confirmed".
	c.dropSpace(recovery.Initial)
	c.dropSpace(recovery.Handshake)
	if !c.server {
		c.goToPreferred()
	}
}

// dropSpace forgets the keys of a packet number space and what is in flight there.
//
// RFC 9001, Section 4.9.1: "Endpoints MUST NOT send Initial packets after this
// point."
func (c *Conn) dropSpace(space recovery.Space) {
	k := &c.keys[space]
	if k.dropped {
		return
	}
	k.drop()
	if space == recovery.Initial {
		c.ver.drop()
	}
	c.loss.Drop(space, func(*recovery.SentPacket) {})
	*c.cryptoOf(space) = cryptoStream{}
	c.probes[space] = 0
	c.dirty = true
}

func (c *Conn) ownDst(id wire.ConnID) bool {
	return slices.ContainsFunc(c.ids.local, func(l localID) bool { return l.id == id })
}
