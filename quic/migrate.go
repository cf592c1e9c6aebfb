package quic

import (
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// onOtherAddress handles an authentic 1-RTT packet from an address that is
// not the path's (RFC 9000, Section 9): a NAT that has rebound, or a client
// that has moved.
//
// RFC 9000, Section 9: "An endpoint MUST perform path validation (Section 8.2)
// if it detects any change to a peer's address, unless it has previously
// validated that address."
//
// RFC 9000, Section 9.3: "If the recipient permits the migration, it MUST send
// subsequent packets to the new peer address and MUST initiate path validation
// (Section 8.2) to verify the peer's ownership of the address if validation is
// not already underway."
//
// RFC 9000, Section 9.6.3: "If packets received at the server's preferred
// address have a different source address than observed from the client during
// the handshake, the server MUST protect against potential attacks as described
// in Sections 9.3.1 and 9.3.2."
func (c *Conn) onOtherAddress(src *packetSource, dst *wire.ConnID, moves bool) {
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
	if c.path.remote == src.remote {
		c.followOwn(src)
		return
	}
	old := c.path
	// Section 9.5: a path gets a connection ID of its own, where there is one, unless
	// the peer knows of none: "unintentional changes in path without a change in
	// connection ID are possible."
	seq := old.peerSeq
	if old.remote.Addr() != src.remote.Addr() || *dst != c.heardOn {
		fresh, ok := c.seqFor(src)
		if !ok && *dst != c.heardOn {
			return // the peer moves on purpose, but has left us no connection ID for that
		}
		if ok {
			seq = fresh
		}
	}
	c.probed.valid = c.probed.valid && c.probed.seq != seq
	c.paths++
	var p path
	// RFC 9000, Section 9.4: "On confirming a peer's ownership of its new
	// address, an endpoint MUST immediately reset the congestion controller and
	// round-trip time estimator for the new path to initial values (see
	// Appendices A.3 and B.3 of [QUIC-RECOVERY])"
	p.init(c.paths, src.remote, src.local, src.ifIndex, c.cfg)
	if old.remote.Addr() == src.remote.Addr() {
		// Section 9.4: "Because port-only changes are commonly the result of NAT
		// rebinding or other middlebox activity, the endpoint MAY instead retain its
		// congestion control state and round-trip estimate in those cases".
		p.rtt, p.cc, p.pacer, p.mtu, p.noGSO = old.rtt, old.cc, old.pacer, old.mtu, old.noGSO
	}
	// RFC 9000, Section 9.3: "An endpoint MAY send data to an unvalidated peer
	// address, but it MUST protect against potential attacks as described in
	// Sections 9.3.1 and 9.3.2."
	p.received, p.sent = uint64(src.size), uint64(src.replied)
	// RFC 9000, Section 9.3.3: "In response to an apparent migration, endpoints
	// MUST validate the previously active path using a PATH_CHALLENGE frame."
	if old.validated {
		// Section 9.3.3: "In response to an apparent migration, endpoints MUST validate
		// the previously active path using a PATH_CHALLENGE frame." If the peer is
		// still there, its answer is the newest packet and brings us back.
		old.challenges = [maxChallenges][8]byte{}
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

// followOwn has a server follow a client that sends to another of our addresses:
// mostly the preferred one.
//
// RFC 9000, Section 9.6.2: "The server MUST send non-probing packets from its
// original address until it receives a non-probing packet from the client at
// its preferred address and until the server has validated the new path."
//
// RFC 9000, Section 9.6.2: "The server MUST probe on the path toward the client
// from its preferred address."
func (c *Conn) followOwn(src *packetSource) {
	if c.probe != nil {
		return
	}
	if _, err := c.startProbe(src.remote, src.local, nil); err != nil {
		c.log().Debug("not going to our other address", "address", src.local, "error", err)
	}
}

// startChallenge begins to validate a path (RFC 9000, Section 8.2).
func (c *Conn) startChallenge(p *path) {
	p.challenges, p.challengeTries = [maxChallenges][8]byte{}, 0
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
//
// RFC 9000, Section 8.2.1: "Unlike other cases where datagrams are expanded,
// endpoints MUST NOT discard datagrams that appear to be too small when they
// contain PATH_CHALLENGE or PATH_RESPONSE."
//
// RFC 9000, Section 8.2.2: "On receiving a PATH_CHALLENGE frame, an endpoint
// MUST respond by echoing the data contained in the PATH_CHALLENGE frame in a
// PATH_RESPONSE frame."
//
// RFC 9000, Section 8.2.2: "A PATH_RESPONSE frame MUST be sent on the network
// path where the PATH_CHALLENGE frame was received."
//
// RFC 9000, Section 19.17: "The recipient of this frame MUST generate a
// PATH_RESPONSE frame (Section 19.18) containing the same Data value."
func (c *Conn) onPathChallenge(src *packetSource, data [8]byte) {
	p := &c.path
	switch {
	case c.probe != nil && c.cameOnProbe(src):
		p = &c.probe.path
	case c.server && c.cameOn(p, src) || !c.server && !c.leftBehind(src):
	case c.server && c.prev != nil && c.cameOn(c.prev, src):
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

// leftBehind tells whether a packet came to a client on a path that it has left:
// where it was itself before, or where the server was.
func (c *Conn) leftBehind(src *packetSource) bool {
	return c.prev != nil && src.remote == c.prev.remote ||
		c.path.local.IsValid() && src.local.IsValid() && src.local != c.path.local
}

// onPathResponse ends validation. Section 8.2.3: "Path validation succeeds when
// a PATH_RESPONSE frame is received that contains the data that was sent in a
// previous PATH_CHALLENGE frame."
//
// RFC 9000, Section 8.2.2: "This requirement MUST NOT be enforced by the
// endpoint that initiates path validation, as that would enable an attack on
// migration; see Section 9.3.3."
func (c *Conn) onPathResponse(data [8]byte) {
	if m := c.probe; m != nil && m.path.answeredBy(data) {
		c.endProbe(nil)
		return
	}
	p := &c.path
	if !p.answeredBy(data) {
		return
	}
	p.challenging, p.needChallenge = false, false
	p.validated = true
	c.dirty = true
	// RFC 9000, Section 8.2.1: "To ensure that the path MTU is large enough,
	// the endpoint MUST perform a second path validation by sending a
	// PATH_CHALLENGE frame in a datagram of at least 1200 bytes."
	//
	// RFC 9000, Section 8.2.3: "However, the endpoint MUST initiate another
	// path validation with an expanded datagram to verify that the path
	// supports the required MTU."
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

// challengeAgain is when a challenge is repeated: ever later, as probe timeouts are.
func (c *Conn) challengeAgain(p *path) time.Time {
	return p.challengeSent.Add(p.rtt.PTO(c.maxAckDelay()) << min(p.challengeTries, maxChallenges))
}

// challengeExpired repeats a challenge that is due again, or tells that it was
// repeated for long enough.
//
// RFC 9000, Section 9.4: "This timer SHOULD be set as described in Section
// 6.2.1 of [QUIC-RECOVERY] and MUST NOT be more aggressive."
func (c *Conn) challengeExpired(p *path) bool {
	now := c.now()
	if !now.Before(p.challengeUntil) {
		return true
	}
	if !now.Before(c.challengeAgain(p)) {
		p.needChallenge = true
		p.challengeTries++
		p.challengeSent = now
		c.dirty = true
	}
	return false
}

// checkChallenge repeats or gives up validation. Section 9.3.2: "if validation
// of a new peer address fails [...] the endpoint MUST revert to using the last
// validated peer address".
//
// RFC 9000, Section 9.3.2: "To protect the connection from failing due to such
// a spurious migration, an endpoint MUST revert to using the last validated
// peer address when validation of a new peer address fails."
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
	// RFC 9000, Section 9.3.2: "If an endpoint has no state about the last
	// validated peer address, it MUST close the connection silently by
	// discarding all connection state."
	c.abandon(&TransportError{Code: NoViablePath, Reason: "the peer's address did not answer a path challenge"})
}
