package quic

import (
	"crypto/rand"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// onOtherAddress handles an authentic 1-RTT packet from an address that is
// not the path's (RFC 9000, Section 9): a NAT that has rebound, or a client
// that has moved.
func (c *Conn) onOtherAddress(src *packetSource, dst wire.ConnID, moves bool) {
	if !c.server || !c.confirmed {
		return
	}
	// RFC 9000, Section 9.3: "An endpoint only changes the address to which it
	// sends packets in response to the highest-numbered non-probing packet."
	if !moves {
		return
	}
	if c.prev != nil && c.cameOn(c.prev, src) {
		// back where it was validated before
		c.goBack()
		return
	}
	old := c.path
	// Section 9.5: a path gets a connection ID of its own, where there is one, unless
	// the peer knows of none: "unintentional changes in path without a change in
	// connection ID are possible."
	seq := old.peerSeq
	if old.remote.Addr() != src.remote.Addr() || dst != c.heardOn || old.remote == src.remote {
		if fresh, ok := c.seqFor(src); ok {
			seq = fresh
		}
	}
	c.probed.valid = c.probed.valid && c.probed.seq != seq
	c.paths++
	var p path
	p.init(c.paths, src.remote, src.local, src.ifIndex, c.cfg)
	if old.remote.Addr() == src.remote.Addr() {
		// Section 9.4: "Because port-only changes are commonly the result of NAT
		// rebinding or other middlebox activity, the endpoint MAY instead retain its
		// congestion control state and round-trip estimate in those cases".
		p.rtt, p.cc, p.pacer, p.mtu, p.noGSO = old.rtt, old.cc, old.pacer, old.mtu, old.noGSO
	}
	p.received, p.sent = uint64(src.size), uint64(src.replied)
	p.validated = old.validated && old.remote == src.remote // it is our own address that is new
	if old.validated {
		// Section 9.3.3: "In response to an apparent migration, endpoints MUST validate
		// the previously active path using a PATH_CHALLENGE frame." If the peer is
		// still there, its answer is the newest packet and brings us back.
		_, _ = rand.Read(old.challenge[:]) // never fails
		old.challenging, old.needChallenge = false, true
		if c.prev != nil && c.prev.peerSeq != old.peerSeq && c.prev.peerSeq != seq {
			c.retireRemote(c.prev.peerSeq)
		}
		c.prev = &old
	} else if old.peerSeq != seq {
		c.retireRemote(old.peerSeq) // never heard of there
	}
	c.path = p
	c.useRemote(&c.path, seq)
	c.stats.PathChanges++
	c.loss.OnPathChange(p.id)
	c.testECN()
	c.startChallenge(&c.path)
	c.log().Debug("peer address changed", "from", old.remote, "to", src.remote)
}

// startChallenge begins to validate a path (RFC 9000, Section 8.2).
func (c *Conn) startChallenge(p *path) {
	_, _ = rand.Read(p.challenge[:]) // never fails
	now := c.now()
	p.challenging, p.needChallenge, p.challengeSmall = true, true, false
	p.challengeSent = now
	// Section 8.2.4: "a timer of three times the larger of the current PTO or the
	// PTO for the new path".
	p.challengeUntil = now.Add(3 * max(c.pto(), p.rtt.PTO(c.maxAckDelay()), 333*time.Millisecond))
	c.dirty = true
}

// onPathChallenge answers on the path the challenge came by. Only the newest
// challenge is remembered, so that a flood of them is answered once a flush.
func (c *Conn) onPathChallenge(src *packetSource, data [8]byte) {
	p := &c.path
	switch {
	case c.probe != nil && c.cameOnProbe(src):
		p = &c.probe.path
	case !c.server || c.cameOn(p, src):
	case c.prev != nil && c.cameOn(c.prev, src):
		p = c.prev
	default:
		// A probe from elsewhere (Section 9.1): answer it there, once, within three
		// times what it brought, however many challenges the datagram holds.
		if src.replied == 0 {
			c.answerProbe(src, data)
		}
		return
	}
	p.response, p.needResponse = data, true
	c.dirty = true
}

// onPathResponse ends validation. Section 8.2.3: "Path validation succeeds when
// a PATH_RESPONSE frame is received that contains the data that was sent in a
// previous PATH_CHALLENGE frame."
func (c *Conn) onPathResponse(data [8]byte) {
	if m := c.probe; m != nil && m.path.challenging && data == m.path.challenge {
		c.endProbe(nil)
		return
	}
	p := &c.path
	if !p.challenging || data != p.challenge {
		return
	}
	p.challenging, p.needChallenge = false, false
	p.validated = true
	c.dirty = true
	if p.challengeSmall {
		// Section 8.2.1: "To ensure that the path MTU is large enough, the endpoint
		// MUST perform a second path validation by sending a PATH_CHALLENGE frame in a
		// datagram of at least 1200 bytes."
		c.startChallenge(p)
		return
	}
	if c.prev != nil {
		// Not logged before: a peer can claim an address with every packet.
		c.log().Info("peer address changed", "from", c.prev.remote, "to", p.remote)
	}
	if c.prev != nil && c.prev.peerSeq != p.peerSeq {
		c.retireRemote(c.prev.peerSeq)
	}
	c.prev = nil
	// RFC 9000, Section 8.1.3: a token for the address that the client has now.
	c.tokenDue = c.server && c.cfg.Retry != RetryNever
	c.raiseMTU()
	c.ep.onPathValidated(c)
	if c.eventMask&EventMigration != 0 {
		c.emit(Event{Kind: EventMigration})
	}
}

// goBack returns to the last validated path.
func (c *Conn) goBack() {
	left := c.path.peerSeq
	c.path, c.prev = *c.prev, nil
	c.path.challenging, c.path.needChallenge = false, false
	if left != c.path.peerSeq {
		if c.ids.remoteBySeq(c.path.peerSeq) != nil {
			c.retireRemote(left)
		} else {
			c.path.peerSeq = left // the peer has taken the other away
		}
	}
	c.path.search.pending = false // what became of that probe was not noted
	c.loss.OnPathChange(c.path.id)
	c.dirty = true
}

// challengeExpired repeats a challenge that is due again, or tells that it was
// repeated for long enough.
func (c *Conn) challengeExpired(p *path) bool {
	now := c.now()
	if !now.Before(p.challengeUntil) {
		return true
	}
	if now.Sub(p.challengeSent) >= p.rtt.PTO(c.maxAckDelay()) {
		p.needChallenge = true
		p.challengeSent = now
		c.dirty = true
	}
	return false
}

// checkChallenge repeats or gives up validation. Section 9.3.2: "if validation
// of a new peer address fails [...] the endpoint MUST revert to using the last
// validated peer address".
func (c *Conn) checkChallenge() {
	if m := c.probe; m != nil && c.challengeExpired(&m.path) {
		c.endProbe(ErrPathFailed)
	}
	p := &c.path
	if !p.challenging || !c.challengeExpired(p) {
		return
	}
	p.challenging, p.needChallenge = false, false
	if c.prev != nil {
		c.log().Debug("peer address did not answer, going back", "from", p.remote, "to", c.prev.remote)
		c.goBack()
		return
	}
	c.abandon(&TransportError{Code: NoViablePath, Reason: "the peer's address did not answer a path challenge"})
}
