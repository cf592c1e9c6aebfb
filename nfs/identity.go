package nfs

import (
	"errors"
	"fmt"
	"slices"
)

// Identity is the Unix identity that a TLS connection acts under. It replaces
// the credential of every AUTH_NONE and AUTH_SYS call. Make it with NewIdentity;
// it does not change afterwards and may be shared by connections.
//
// Give distinct TLS identities distinct uids: the backend tells NFSv4 clients
// apart by them, and two clients under one uid can take over each other's
// client ID and locks.
type Identity struct {
	uid, gid uint32
	groups   []uint32
	cred     []byte // credential and verifier as they go into the call header
}

// Root says whether an identity may be uid 0 or have gid 0.
type Root bool

// Whether there may be root.
const (
	RootRefused Root = false
	RootAllowed Root = true
)

// machineName is what the backend sees as the client's host name.
const machineName = "quic-fsgw"

// noID is (uid_t)-1 and (gid_t)-1, "leave unchanged" to chown.
const noID = 1<<32 - 1

// NewIdentity checks and encodes an identity. groups are the supplementary
// groups, at most 16, which is all that AUTH_SYS can carry. uid 0 and gid 0, also among
// groups, need RootAllowed; 4294967295 is never valid.
func NewIdentity(uid, gid uint32, groups []uint32, root Root) (*Identity, error) {
	switch {
	case len(groups) > maxGroups:
		return nil, fmt.Errorf("nfs: identity uid %d has %d groups, AUTH_SYS carries 16 (hint: list the ones the exports need; groups are never cut off silently)", uid, len(groups))
	case root == RootRefused && (uid == 0 || gid == 0 || slices.Contains(groups, 0)):
		return nil, fmt.Errorf("nfs: identity %d:%d is root or in group root (hint: map to another uid and gid, or allow root explicitly)", uid, gid)
	case uid == noID || gid == noID || slices.Contains(groups, noID):
		return nil, errors.New("nfs: identity has uid or gid 4294967295, which means no id")
	}
	id := &Identity{uid: uid, gid: gid, groups: slices.Clone(groups)}
	sys := AuthSysCred{Machine: machineName, UID: uid, GID: gid, Groups: id.groups}
	id.cred = appendAuth(nil, OpaqueAuth{AuthSys, sys.append(nil)})
	id.cred = appendAuth(id.cred, OpaqueAuth{})
	return id, nil
}

// UID returns the user ID.
func (id *Identity) UID() uint32 { return id.uid }

// GID returns the group ID.
func (id *Identity) GID() uint32 { return id.gid }

// Groups returns a copy of the supplementary groups.
func (id *Identity) Groups() []uint32 { return slices.Clone(id.groups) }

// Equal reports whether both stand for the same user and groups; nil equals nil.
func (id *Identity) Equal(other *Identity) bool {
	if id == nil || other == nil {
		return id == other
	}
	return id.uid == other.uid && id.gid == other.gid && slices.Equal(id.groups, other.groups)
}

// String returns uid:gid, for logs.
func (id *Identity) String() string { return fmt.Sprintf("%d:%d", id.uid, id.gid) }

func appendAuth(b []byte, a OpaqueAuth) []byte {
	return appendOpaque(be32(b, a.Flavor), a.Body)
}

// anonymous is what calls of the NULL procedure carry on a connection without identity.
var anonymous = appendAuth(appendAuth(nil, OpaqueAuth{}), OpaqueAuth{})

// authorize decides on the call's credential. It returns the credential and
// verifier to forward in place of the client's, or nil to forward the header unchanged
// (RPCSEC_GSS passed through), or a reason to refuse the call.
//
// draft-cel-nfsv4-rpc-over-quicv1, Section 3.2.1: "the STARTTLS mechanism described in
// Section 4 of [RFC9289] MUST NOT be used on RPC-over-QUIC connections."
func (r *Relay) authorize(c *Call) (cred []byte, refused AuthStat) {
	switch c.Cred.Flavor {
	case AuthNone:
	case AuthSys:
		// Its content is not used, but a peer whose credentials are malformed
		// must not find out what a backend makes of them.
		if _, err := ParseAuthSys(c.Cred.Body); err != nil {
			return nil, AuthBadCred
		}
	case AuthGSS:
		// The verifier signs the header from the XID on: it passes unchanged or not at
		// all. A wrapped MOUNT path cannot be filtered.
		if !r.svc.cfg.AllowGSS || c.Program == ProgMount || c.Program == ProgPortmap {
			return nil, AuthRejectedCred
		}
		return nil, 0
	default: // also AUTH_SHORT, AUTH_DH and AUTH_TLS
		return nil, AuthRejectedCred
	}
	if c.Verf.Flavor != AuthNone {
		return nil, AuthBadVerf
	}
	if r.client.Identity != nil {
		return r.client.Identity.cred, 0
	}
	if c.Procedure == 0 {
		return anonymous, 0
	}
	return nil, AuthTooWeak
}
