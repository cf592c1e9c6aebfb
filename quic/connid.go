package quic

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A localID is a connection ID that this end has issued.
type localID struct {
	seq  uint64
	id   wire.ConnID
	need bool // NEW_CONNECTION_ID is due
}

// A remoteID is a connection ID that the peer has issued.
type remoteID struct {
	seq      uint64
	id       wire.ConnID
	token    [16]byte
	hasToken bool
}

// connIDs are the connection IDs of both ends (RFC 9000, Section 5.1).
type connIDs struct {
	local     []localID
	nextLocal uint64
	peerLimit uint64 // active_connection_id_limit of the peer

	prior uint64 // retire_prior_to of ours

	peer    wire.ConnID // Source Connection ID of the peer's long headers
	hasPeer bool
	remote  []remoteID // not retired, ascending; the paths tell which are in use
	taken   uint64     // highest sequence number that was ever in use
	highest uint64     // highest retire_prior_to seen
	retire  []uint64   // RETIRE_CONNECTION_ID due
	initial wire.ConnID
}

// resetToken derives the stateless reset token of a connection ID (RFC 9000, Section 10.3.2).
//
// RFC 9000, Section 10.3.2: "The stateless reset token MUST be difficult to
// guess."
//
// RFC 9000, Section 10.3.2: "An endpoint that uses this design MUST either use
// the same connection ID length for all connections or encode the length of the
// connection ID such that it can be recovered without state."
//
// RFC 9000, Section 10.3.2: "This method for choosing the stateless reset token
// means that the combination of connection ID and static key MUST NOT be used
// for another connection."
//
// RFC 9000, Section 10.3.2: "A connection ID from a connection that is reset by
// revealing the stateless reset token MUST NOT be reused for new connections at
// nodes that share a static key."
//
// RFC 9000, Section 10.3.2: "The same stateless reset token MUST NOT be used
// for multiple connection IDs."
func resetToken(key *[32]byte, id wire.ConnID) (t [16]byte) {
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte("stateless reset"))
	m.Write(id.Append(nil))
	copy(t[:], m.Sum(nil))
	return t
}

// issueIDs makes connection IDs until the peer holds as many as it takes, at most localConnIDLimit.
//
// RFC 9000, Section 5.1.1: "The sequence number on each newly issued connection
// ID MUST increase by 1."
//
// RFC 9000, Section 5.1.1: "An endpoint MUST NOT provide more connection IDs
// than the peer's limit."
//
// RFC 9000, Section 19.15: "An endpoint MUST NOT send this frame if it
// currently requires that its peer send packets with a zero-length Destination
// Connection ID."
func (c *Conn) issueIDs() {
	want := min(int(c.ids.peerLimit), localConnIDLimit)
	for c.ids.current() < want {
		id, ok := c.ep.newConnID(c.shard(), c)
		if !ok {
			return
		}
		c.ids.local = append(c.ids.local, localID{seq: c.ids.nextLocal, id: id, need: true})
		c.ids.nextLocal++
		c.dirty = true
	}
}

// current counts the IDs that the peer was not told to retire.
func (ids *connIDs) current() (n int) {
	for i := range ids.local {
		if ids.local[i].seq >= ids.prior {
			n++
		}
	}
	return n
}

func (ids *connIDs) localBySeq(seq uint64) *localID {
	for i := range ids.local {
		if ids.local[i].seq == seq {
			return &ids.local[i]
		}
	}
	return nil
}

// retireLocal handles RETIRE_CONNECTION_ID.
//
// RFC 9000, Section 5.1.1: "When an endpoint issues a connection ID, it MUST
// accept packets that carry this connection ID for the duration of the
// connection or until its peer invalidates the connection ID via a
// RETIRE_CONNECTION_ID frame (Section 19.16)."
func (c *Conn) retireLocal(seq uint64, arrivedOn wire.ConnID) error {
	// RFC 9000, Section 19.16: "Receipt of a RETIRE_CONNECTION_ID frame
	// containing a sequence number greater than any previously sent to the peer
	// MUST be treated as a connection error of type PROTOCOL_VIOLATION."
	if seq >= c.ids.nextLocal {
		return c.fail(ProtocolViolation, wire.FrameRetireConnectionID, "retired a connection ID that was never issued")
	}
	l := c.ids.localBySeq(seq)
	if l == nil {
		return nil
	}
	// "The sequence number specified in a RETIRE_CONNECTION_ID frame MUST NOT
	// refer to the Destination Connection ID field of the packet in which the
	// frame is contained."
	//
	// RFC 9000, Section 19.16: "The sequence number specified in a
	// RETIRE_CONNECTION_ID frame MUST NOT refer to the Destination Connection
	// ID field of the packet in which the frame is contained."
	if l.id == arrivedOn {
		return c.fail(ProtocolViolation, wire.FrameRetireConnectionID, "retired the connection ID it was sent to")
	}
	// A peer that retires as fast as IDs are issued must not go on for ever.
	if c.ids.nextLocal >= maxConnIDsIssued {
		return c.fail(ProtocolViolation, wire.FrameRetireConnectionID, "too many connection IDs retired")
	}
	c.ep.unregister(l.id, c)
	c.ids.local = slices.DeleteFunc(c.ids.local, func(x localID) bool { return x.seq == seq })
	c.emitRetired(true, seq)
	c.issueIDs()
	return nil
}

// maxConnIDsIssued is how many connection IDs a connection gives out in its life.
const maxConnIDsIssued = 1 << 16

// addRemote handles NEW_CONNECTION_ID.
func (c *Conn) addRemote(seq, retirePriorTo uint64, id wire.ConnID, token [16]byte) error {
	ids := &c.ids
	// RFC 9000, Section 19.15: "An endpoint that is sending packets with a
	// zero-length Destination Connection ID MUST treat receipt of a
	// NEW_CONNECTION_ID frame as a connection error of type
	// PROTOCOL_VIOLATION."
	if len(ids.remote) > 0 && ids.remote[0].id.Len() == 0 {
		// RFC 9000, Section 19.15: a peer that sends to zero-length IDs must not get new ones.
		return c.fail(ProtocolViolation, wire.FrameNewConnectionID, "new connection ID from a peer with zero-length IDs")
	}
	if retirePriorTo > seq {
		return c.fail(FrameEncodingError, wire.FrameNewConnectionID, "retire_prior_to exceeds the sequence number")
	}
	for _, r := range ids.remote {
		if (r.seq == seq) != (r.id == id) || (r.seq == seq && r.hasToken && r.token != token) {
			return c.fail(ProtocolViolation, wire.FrameNewConnectionID, "connection ID reused with other contents")
		}
		// RFC 9000, Section 19.15: "Receipt of the same frame multiple times
		// MUST NOT be treated as a connection error."
		if r.seq == seq {
			return nil
		}
	}
	// RFC 9000, Section 19.15: "than the Retire Prior To field of a previously
	// received NEW_CONNECTION_ID frame MUST send a corresponding
	// RETIRE_CONNECTION_ID frame that retires the newly received connection ID,
	// unless it has already done so for that sequence number"
	if seq < ids.highest || seq <= ids.taken {
		// IDs are taken in their order: this one was retired before, and the frame
		// is a repetition, or it is late and not worth a step back.
		ids.retire = append(ids.retire, seq)
	} else {
		i := len(ids.remote)
		for i > 0 && ids.remote[i-1].seq > seq {
			i--
		}
		ids.remote = slices.Insert(ids.remote, i, remoteID{seq: seq, id: id, token: token, hasToken: true})
	}
	// RFC 9000, Section 19.15: "A receiver MUST ignore any Retire Prior To
	// fields that do not increase the largest received Retire Prior To value."
	if retirePriorTo > ids.highest {
		ids.highest = retirePriorTo
		c.retireRemoteBelow(retirePriorTo)
	}
	// RFC 9000, Section 5.1.1: "if the number of active connection IDs
	// exceeds the value advertised in its active_connection_id_limit
	// transport parameter, an endpoint MUST close the connection with an
	// error of type CONNECTION_ID_LIMIT_ERROR."
	if len(ids.remote) > localConnIDLimit {
		return c.fail(ConnectionIDLimitError, wire.FrameNewConnectionID, "more connection IDs than allowed")
	}
	// Section 5.1.2 lets an endpoint bound the retirements it has not seen acknowledged.
	if len(ids.retire) > 4*localConnIDLimit {
		return c.fail(ConnectionIDLimitError, wire.FrameNewConnectionID, "too many connection IDs retired at once")
	}
	c.answerEarly()
	c.dirty = true
	return nil
}

// RFC 9000, Section 5.1.2: "Upon receipt of an increased Retire Prior To field,
// the peer MUST stop using the corresponding connection IDs"
func (c *Conn) retireRemoteBelow(below uint64) {
	for len(c.ids.remote) > 0 && c.ids.remote[0].seq < below {
		c.retireRemote(c.ids.remote[0].seq)
	}
	for _, p := range c.eachPath() {
		if p != nil && p.peerSeq < below {
			if seq, ok := c.unusedRemote(); ok {
				c.useRemote(p, seq)
			}
		}
	}
	if c.probed.valid && c.probed.seq < below {
		c.probed.valid = false
	}
}

// retireRemote gives an ID of the peer's back.
//
// RFC 9000, Section 5.1.2: "An endpoint MUST NOT forget a connection ID without
// retiring it, though it MAY choose to treat having connection IDs in need of
// retirement that exceed this limit as a connection error of type
// CONNECTION_ID_LIMIT_ERROR."
func (c *Conn) retireRemote(seq uint64) {
	r := c.ids.remoteBySeq(seq)
	if r == nil || r.id.Len() == 0 {
		return
	}
	if r.hasToken {
		c.ep.unregisterReset(r.token, c)
	}
	c.ids.retire = append(c.ids.retire, seq)
	c.ids.remote = slices.DeleteFunc(c.ids.remote, func(x remoteID) bool { return x.seq == seq })
	c.emitRetired(false, seq)
	c.dirty = true
}

func (ids *connIDs) remoteBySeq(seq uint64) *remoteID {
	for i := range ids.remote {
		if ids.remote[i].seq == seq {
			return &ids.remote[i]
		}
	}
	return nil
}

// eachPath is the paths there are; some may be nil.
func (c *Conn) eachPath() [3]*path {
	paths := [3]*path{&c.path, c.prev, nil}
	if c.probe != nil {
		paths[2] = &c.probe.path
	}
	return paths
}

// unusedRemote is an ID of the peer's that was on no path yet.
// RFC 9000, Section 9.5: "An endpoint MUST NOT reuse a connection ID when sending
// from more than one local address -- for example, when initiating connection
// migration as described in Section 9.2 or when probing a new network path as
// described in Section 9.1." "Similarly, an endpoint MUST NOT reuse a connection
// ID when sending to more than one destination address."
func (c *Conn) unusedRemote() (seq uint64, ok bool) {
	for i := range c.ids.remote {
		r := &c.ids.remote[i]
		if r.seq > c.ids.taken || r.id.Len() == 0 {
			return r.seq, true
		}
	}
	return 0, false
}

// useRemote has a path send to an ID, and the endpoint look for its reset token.
func (c *Conn) useRemote(p *path, seq uint64) {
	p.peerSeq = seq
	c.ids.taken = max(c.ids.taken, seq)
	if r := c.ids.remoteBySeq(seq); r != nil && r.hasToken {
		c.ep.registerReset(r.token, c)
	}
}

// nextRemote has the path go on with an unused connection ID of the peer, if
// there is one, and retires the one before.
func (c *Conn) nextRemote() bool {
	seq, ok := c.unusedRemote()
	if !ok || seq == c.path.peerSeq {
		return false
	}
	old := c.path.peerSeq
	c.useRemote(&c.path, seq)
	c.retireRemote(old)
	return true
}

// dst returns the connection ID to send to.
func (c *Conn) dst() wire.ConnID {
	id, _ := c.dstOf(&c.path)
	return id
}

// dstOf returns the connection ID to send to on a path; false, if it has none.
//
// RFC 9000, Section 7.2: "Until a packet is received from the server, the
// client MUST use the same Destination Connection ID value on all packets in
// this connection."
func (c *Conn) dstOf(p *path) (wire.ConnID, bool) {
	if r := c.ids.remoteBySeq(p.peerSeq); r != nil {
		return r.id, true
	}
	return c.ids.initial, false
}

// errIDs says why connection IDs cannot be changed now.
var errIDs = errors.New("quic: connection IDs: the last change is not yet complete, or the peer has no others (try again later)")

// RotateConnectionIDs has both ends go on with connection IDs that were not used
// before. The peer is told to retire all of ours that it has; where it has given
// us others, the one in use is retired. Packets to retired IDs are ignored.
func (c *Conn) RotateConnectionIDs() error {
	c.lock()
	defer c.unlock()
	if err := c.closeErr(); err != nil {
		return err
	}
	if !c.confirmed || len(c.ids.local) != c.ids.current() || c.ids.nextLocal >= maxConnIDsIssued/2 {
		return errIDs
	}
	// RFC 9000, Section 5.1.1: "An endpoint MAY send connection IDs that temporarily
	// exceed a peer's limit if the NEW_CONNECTION_ID frame also requires the
	// retirement of any excess, by including a sufficiently large value in the
	// Retire Prior To field."
	c.ids.prior = c.ids.nextLocal
	c.issueIDs()
	c.nextRemote()
	c.dirty = true
	return nil
}
