package quic

import (
	"crypto/hmac"
	"crypto/sha256"
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

	remote  []remoteID // not retired, ascending; the first is in use
	highest uint64     // highest retire_prior_to seen
	retire  []uint64   // RETIRE_CONNECTION_ID due
	initial wire.ConnID
}

// resetToken derives the stateless reset token of a connection ID (RFC 9000, Section 10.3.2).
func resetToken(key *[32]byte, id wire.ConnID) (t [16]byte) {
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte("stateless reset"))
	m.Write(id.Append(nil))
	copy(t[:], m.Sum(nil))
	return t
}

// issueIDs makes connection IDs until the peer holds as many as it takes, at most localConnIDLimit.
func (c *Conn) issueIDs() {
	want := min(int(c.ids.peerLimit), localConnIDLimit)
	for len(c.ids.local) < want {
		id, ok := c.ep.newConnID(c.shard, c)
		if !ok {
			return
		}
		c.ids.local = append(c.ids.local, localID{seq: c.ids.nextLocal, id: id, need: true})
		c.ids.nextLocal++
		c.dirty = true
	}
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
	if l.id == arrivedOn {
		return c.fail(ProtocolViolation, wire.FrameRetireConnectionID, "retired the connection ID it was sent to")
	}
	// A peer that retires as fast as IDs are issued must not go on for ever.
	if c.ids.nextLocal >= maxConnIDsIssued {
		return c.fail(ProtocolViolation, wire.FrameRetireConnectionID, "too many connection IDs retired")
	}
	c.ep.unregister(l.id, c)
	c.ids.local = slices.DeleteFunc(c.ids.local, func(x localID) bool { return x.seq == seq })
	c.issueIDs()
	return nil
}

// maxConnIDsIssued is how many connection IDs a connection gives out in its life.
const maxConnIDsIssued = 1 << 16

// addRemote handles NEW_CONNECTION_ID.
func (c *Conn) addRemote(seq, retirePriorTo uint64, id wire.ConnID, token [16]byte) error {
	ids := &c.ids
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
		if r.seq == seq {
			return nil
		}
	}
	if seq < ids.highest || len(ids.remote) > 0 && seq < ids.remote[0].seq {
		// IDs are used in their order: this one was retired before, and the frame
		// is a repetition, or it is late and not worth a step back.
		ids.retire = append(ids.retire, seq)
	} else {
		i := len(ids.remote)
		for i > 0 && ids.remote[i-1].seq > seq {
			i--
		}
		ids.remote = slices.Insert(ids.remote, i, remoteID{seq: seq, id: id, token: token, hasToken: true})
	}
	if retirePriorTo > ids.highest {
		ids.highest = retirePriorTo
		c.retireRemoteBelow(retirePriorTo)
	}
	// RFC 9000, Section 5.1.1: "if an endpoint provides more connection IDs than
	// the peer's limit", CONNECTION_ID_LIMIT_ERROR.
	if len(ids.remote) > localConnIDLimit {
		return c.fail(ConnectionIDLimitError, wire.FrameNewConnectionID, "more connection IDs than allowed")
	}
	// Section 5.1.2 lets an endpoint bound the retirements it has not seen acknowledged.
	if len(ids.retire) > 4*localConnIDLimit {
		return c.fail(ConnectionIDLimitError, wire.FrameNewConnectionID, "too many connection IDs retired at once")
	}
	c.dirty = true
	return nil
}

func (c *Conn) retireRemoteBelow(below uint64) {
	ids := &c.ids
	keep := ids.remote[:0]
	for _, r := range ids.remote {
		if r.seq >= below {
			keep = append(keep, r)
			continue
		}
		ids.retire = append(ids.retire, r.seq)
		if r.hasToken {
			c.ep.unregisterReset(r.token, c)
		}
	}
	ids.remote = keep
	c.watchReset()
}

// watchReset has the endpoint look for the reset token of the ID in use.
func (c *Conn) watchReset() {
	if ids := &c.ids; len(ids.remote) > 0 && ids.remote[0].hasToken {
		c.ep.registerReset(ids.remote[0].token, c)
	}
}

// nextRemote switches to an unused connection ID of the peer, if there is
// one, and retires the one in use (RFC 9000, Section 9.5).
func (c *Conn) nextRemote() bool {
	ids := &c.ids
	if len(ids.remote) < 2 {
		return false
	}
	old := ids.remote[0]
	ids.remote = slices.Delete(ids.remote, 0, 1)
	ids.retire = append(ids.retire, old.seq)
	if old.hasToken {
		c.ep.unregisterReset(old.token, c)
	}
	c.watchReset()
	c.dirty = true
	return true
}

// dst returns the connection ID to send to.
func (c *Conn) dst() wire.ConnID {
	if len(c.ids.remote) == 0 {
		return c.ids.initial
	}
	return c.ids.remote[0].id
}
