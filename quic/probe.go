package quic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A client's moves: to another address of its own, when the application says so
// (Conn.Migrate), or to the preferred address of the server. In order:
//
//  1. The new path gets a connection ID of the peer's that was never used, and a
//     PATH_CHALLENGE.
//  2. Nothing else goes there until the answer has come; if none comes, the
//     connection stays where it is.
//  3. Then all goes there, starting with a PING, so that the server follows. The
//     old path's connection ID is retired.

// A probe is a path that a client is about to move to.
type probe struct {
	path path
	done chan error // gets the outcome
}

// A probedPath is the address of a peer's that was answered last, but not moved
// to, and the connection ID that it was answered with.
type probedPath struct {
	remote netip.AddrPort
	local  netip.Addr // ours
	seq    uint64
	valid  bool

	// A challenge that came before the connection ID to answer it with, as packets
	// of different paths overtake each other: the newest one.
	early *earlyChallenge
}

// earlyChallenge waits for a connection ID, which has to come soon.
type earlyChallenge struct {
	src   packetSource
	data  [8]byte
	until time.Time
}

// challengePatience is how long a challenge waits for a connection ID.
const challengePatience = time.Second

// answerEarly answers the challenge that has waited for a connection ID.
func (c *Conn) answerEarly() {
	e := c.probed.early
	if c.probed.early = nil; e != nil && c.now().Before(e.until) {
		c.answerProbe(&e.src, e.data)
	}
}

// Errors of Conn.Migrate.
var (
	ErrMigrating       = errors.New("quic: migrate: a migration is under way (wait for it)")
	ErrPathFailed      = errors.New("quic: migrate: the server does not answer on the new path (the connection stays where it was)")
	errMigrateServer   = errors.New("quic: migrate: only clients move (give clients a PreferredAddress)")
	errMigrateEarly    = errors.New("quic: migrate: the handshake is not confirmed yet (try again)")
	errMigrateDisabled = errors.New("quic: migrate: the server does not allow it (disable_active_migration)")
	errMigrateNoID     = errors.New("quic: migrate: the server has given no connection ID that is not in use (try again later)")
)

// Migrate moves a client's connection to another local address of its socket,
// which must not be bound to one address alone. It returns when the server was
// found to answer there and the connection has moved, or why it has not: then it
// goes on where it was. To change the port, see MigrateTo.
func (c *Conn) Migrate(ctx context.Context, local netip.Addr) error {
	c.lock()
	m, err := c.startMigration(local)
	c.unlock()
	if err != nil {
		return err
	}
	return c.awaitProbe(ctx, m)
}

func (c *Conn) awaitProbe(ctx context.Context, m *probe) error {
	select {
	case err := <-m.done:
		return err
	case <-c.Done():
		return c.Err()
	case <-ctx.Done():
	}
	c.lock()
	defer c.unlock()
	if c.probe == m {
		c.endProbe(context.Cause(ctx))
	}
	return <-m.done
}

func (c *Conn) startMigration(local netip.Addr) (*probe, error) {
	if err := c.mayMigrate(); err != nil {
		return nil, err
	}
	local = local.Unmap()
	if !local.IsValid() || local.IsUnspecified() || local.Is4() != c.path.remote.Addr().Is4() {
		return nil, fmt.Errorf("quic: migrate: from %v nothing can go to %v", local, c.path.remote)
	}
	return c.startProbe(c.path.remote, local, nil)
}

// mayMigrate tells why a connection cannot move now.
func (c *Conn) mayMigrate() error {
	if err := c.closeErr(); err != nil {
		return err
	}
	switch {
	case c.server:
		return errMigrateServer
	case !c.confirmed:
		// RFC 9000, Section 9: "An endpoint MUST NOT initiate connection migration before
		// the handshake is confirmed".
		return errMigrateEarly
	case c.peerParams.DisableActiveMigration && !c.atPreferred():
		// RFC 9000, Section 18.2: "An endpoint that receives this transport
		// parameter MUST NOT use a new local address when sending to the
		// address that the peer used during the handshake."
		//
		// RFC 9000, Section 9: "If the peer sent the disable_active_migration
		// transport parameter, an endpoint also MUST NOT send packets
		// (including probing packets; see Section 9.1) from a different local
		// address to the address the peer used during the handshake"
		//
		// RFC 9000, Section 18.2: "This transport parameter does not prohibit
		// connection migration after a client has acted on a preferred_address
		// transport parameter."
		return errMigrateDisabled
	case c.probe != nil:
		return ErrMigrating
	}
	return nil
}

// startProbe begins to validate a path, through a socket of its own or, with nil,
// the connection's.
//
// RFC 9000, Section 21.5.3: "A client MUST NOT send non-probing frames to a
// preferred address prior to validating that address; see Section 8."
func (c *Conn) startProbe(remote netip.AddrPort, local netip.Addr, via *shard) (*probe, error) {
	seq, ok := c.unusedRemote()
	if !ok {
		return nil, errMigrateNoID
	}
	c.paths++
	m := &probe{done: make(chan error, 1)}
	m.path.init(c.paths, remote, local, 0, c.cfg)
	m.path.via = via
	m.path.validated = true // the limit is the server's (RFC 9000, Section 8.1)
	c.probe = m
	c.useRemote(&m.path, seq)
	c.startChallenge(&m.path)
	return m, nil
}

// endProbe moves to the path that was probed or, with an error, gives it up.
//
// RFC 9000, Section 9.6.1: "If path validation fails, the client MUST continue
// sending all future packets to the server's original IP address."
//
// RFC 9000, Section 9.6.3: "If path validation of the server's preferred
// address succeeds, the client MUST abandon validation of the original address
// and migrate to using the server's preferred address."
func (c *Conn) endProbe(err error) {
	m := c.probe
	c.probe = nil
	m.path.challenging, m.path.needChallenge = false, false
	defer func() { m.done <- err }()
	if err != nil {
		c.retireRemote(m.path.peerSeq)
		if m.path.via != nil {
			c.ep.closeMoved(m.path.via)
		}
		return
	}
	old, oldSock := c.path, c.localAddr()
	c.moveIn(&m.path)
	c.path, c.prev = m.path, nil
	if old.remote != c.path.remote {
		c.prev = &old // what is on its way from there still counts
	}
	c.retireRemote(old.peerSeq)
	c.loss.OnPathChange(c.path.id)
	c.testECN()
	c.stats.PathChanges++
	c.ping, c.freq.immediate, c.dirty = true, true, true
	c.raiseMTU()
	c.log().Info("moved", "from", oldSock, "to", c.localAddr(), "server", c.path.remote)
	c.ep.onPathValidated(c)
	if c.eventMask&EventMigration != 0 {
		c.emit(Event{Kind: EventMigration, Local: true})
	}
}

// goToPreferred follows the server's wish, if it does not lead astray.
//
// RFC 9000, Section 9.6.2: "A client that migrates to a preferred address MUST
// validate the address it chooses before migrating; see Section 21.5.3."
func (c *Conn) goToPreferred() {
	a := c.peerParams.PreferredAddress
	if a == nil || c.cfg.StayAtAddress {
		return
	}
	to := a.IPv6
	if c.path.remote.Addr().Is4() {
		to = a.IPv4
	}
	if !to.IsValid() || to == c.path.remote {
		return
	}
	if !mayLead(c.path.remote.Addr(), to) {
		c.log().Warn("the server's preferred address is not gone to", "address", to)
		return
	}
	if _, err := c.startProbe(to, c.path.local, nil); err != nil {
		c.log().Debug("the server's preferred address is not gone to", "address", to, "error", err)
	}
}

// mayLead tells whether a server at one address may send clients to another:
// never from outside to inside. RFC 9000, Section 21.5.3 tells how a server
// could make clients send to a victim; Section 21.5.6 has servers' private
// addresses avoided.
func mayLead(from netip.Addr, to netip.AddrPort) bool {
	a := to.Addr()
	if to.Port() == 0 || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.Zone() != "" || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	return reach(a) >= reach(from)
}

// reach is how far an address can be reached from: this host, this link, this
// site, everywhere.
func reach(a netip.Addr) int {
	switch {
	case a.IsLoopback():
		return 0
	case a.IsLinkLocalUnicast():
		return 1
	case a.IsPrivate() || sharedSpace.Contains(a) || thisNetwork.Contains(a):
		return 2
	}
	return 3
}

var (
	sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")     // RFC 1122
)

// atPreferred tells whether a client has gone to the server's preferred address.
func (c *Conn) atPreferred() bool {
	a := c.peerParams.PreferredAddress
	return a != nil && (c.path.remote == a.IPv4 || c.path.remote == a.IPv6)
}

// preferredAddress is the parameter of that name. RFC 9000, Section 5.1.1: "The
// sequence number of the initial connection ID is 0. If the preferred_address
// transport parameter is sent, the sequence number of the supplied connection ID
// is 1."
func (c *Conn) preferredAddress() *wire.PreferredAddress {
	p := &c.cfg.PreferredAddress
	if !p.IPv4.IsValid() && !p.IPv6.IsValid() {
		return nil
	}
	id, ok := c.ep.newConnID(c.shard(), c)
	if !ok {
		return nil
	}
	c.ids.local = append(c.ids.local, localID{seq: c.ids.nextLocal, id: id})
	c.ids.nextLocal++
	return &wire.PreferredAddress{IPv4: p.IPv4, IPv6: p.IPv6, ID: id, ResetToken: resetToken(c.ep.resetKey, id)}
}

// ofPreferred tells whether a server has two addresses of its own to tell apart.
func (c *Conn) ofPreferred() bool {
	p := &c.cfg.PreferredAddress
	return c.server && (p.IPv4.IsValid() || p.IPv6.IsValid())
}

// cameOn tells whether a packet came by a path.
func (c *Conn) cameOn(p *path, src *packetSource) bool {
	return src.remote == p.remote && (src.local == p.local || !src.local.IsValid() || !c.ofPreferred())
}

// cameOnProbe tells whether a packet came by the path that is probed.
func (c *Conn) cameOnProbe(src *packetSource) bool {
	p := &c.probe.path
	if src.remote != p.remote {
		return false
	}
	if p.via != nil {
		return src.via == p.via
	}
	return src.local == p.local
}

// refusesMove tells whether a packet is of a migration that is not allowed. RFC
// 9000, Section 9: "If the peer violates this requirement, the endpoint MUST
// either drop the incoming packets on that path without generating a Stateless
// Reset or proceed with path validation and allow the peer to migrate." What a
// NAT does keeps address and connection ID.
func (c *Conn) refusesMove(dst *wire.ConnID, src *packetSource) bool {
	if !c.cfg.DisableActiveMigration || !c.server || src.remote == c.path.remote {
		return false
	}
	if p := &c.cfg.PreferredAddress; src.local.IsValid() && (src.local == p.IPv4.Addr() || src.local == p.IPv6.Addr()) {
		return false // it has done as it was asked to, and may move from then on
	}
	return src.remote.Addr() != c.path.remote.Addr() || c.heardOn.Len() > 0 && *dst != c.heardOn
}

// seqFor is the connection ID to answer an address with that is on no path: the
// one it was answered with before, or one that was not used yet.
func (c *Conn) seqFor(src *packetSource) (uint64, bool) {
	if c.probed.valid && c.probed.remote == src.remote && c.probed.local == src.local {
		return c.probed.seq, true
	}
	seq, ok := c.unusedRemote()
	if !ok {
		return 0, false
	}
	if c.probed.valid {
		c.retireRemote(c.probed.seq)
	}
	c.probed = probedPath{remote: src.remote, local: src.local, seq: seq, valid: true, early: c.probed.early}
	c.ids.taken = max(c.ids.taken, seq)
	return seq, true
}
