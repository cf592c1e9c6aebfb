package nfs

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Authentication flavors (RFC 5531, Section 8.2, RFC 9289).
const (
	AuthNone  uint32 = 0
	AuthSys   uint32 = 1
	AuthShort uint32 = 2
	AuthDH    uint32 = 3
	AuthGSS   uint32 = 6
	AuthTLS   uint32 = 7
)

const (
	msgCall  = 0
	msgReply = 1

	rpcVersion = 2

	// RFC 5531, Section 8.2: "opaque body<400>"
	maxAuthBody = 400
	// maxCallHeader is XID, direction, RPC version, program, version and
	// procedure, then credential and verifier at their largest.
	maxCallHeader = 24 + 2*(8+maxAuthBody)
)

// OpaqueAuth is a credential or verifier. Body aliases the parsed bytes, without padding.
type OpaqueAuth struct {
	Flavor uint32
	Body   []byte
}

// Call is the header of an RPC call (RFC 5531, Section 9).
type Call struct {
	XID       uint32
	Program   uint32
	Version   uint32
	Procedure uint32
	Cred      OpaqueAuth
	Verf      OpaqueAuth
	Len       int // bytes of the header; the procedure's arguments follow
}

// Errors of ParseCall. After all of them but ErrMessageType the XID is valid.
var (
	// ErrWrongDirection: the message is a reply.
	ErrWrongDirection = errors.New("rpc message is a reply")
	// ErrMessageType: the message is neither call nor reply.
	ErrMessageType = errors.New("rpc message is neither call nor reply")
	// ErrRPCVersion: the RPC version is not 2.
	ErrRPCVersion = errors.New("rpc version is not 2")
	// ErrBadCredential: the credential is over 400 bytes or its padding is not zero.
	ErrBadCredential = errors.New("rpc credential malformed")
	// ErrBadVerifier: the verifier is over 400 bytes or its padding is not zero.
	ErrBadVerifier = errors.New("rpc verifier malformed")
)

// ParseCall parses an RPC call header at the start of b. If b is too short it returns
// the number of bytes (more than len(b), at most 840) that the next step needs,
// with a nil error. An error is one of the Err values above, wrapped.
func ParseCall(b []byte) (c Call, need int, err error) {
	if len(b) < 8 {
		return c, 8, nil
	}
	c.XID = binary.BigEndian.Uint32(b)
	switch t := binary.BigEndian.Uint32(b[4:]); t {
	case msgCall:
	case msgReply:
		return c, 0, ErrWrongDirection
	default:
		return c, 0, fmt.Errorf("%w: type %#x", ErrMessageType, t)
	}
	if len(b) < 12 {
		return c, 12, nil
	}
	// What follows has this layout only in version 2, so nothing more is waited for.
	if v := binary.BigEndian.Uint32(b[8:]); v != rpcVersion {
		return c, 0, fmt.Errorf("%w but %d", ErrRPCVersion, v)
	}
	if len(b) < 32 {
		return c, 32, nil
	}
	c.Program = binary.BigEndian.Uint32(b[12:])
	c.Version = binary.BigEndian.Uint32(b[16:])
	c.Procedure = binary.BigEndian.Uint32(b[20:])
	off := 24
	var ok bool
	if c.Cred, off, need, ok = parseAuth(b, off); !ok {
		return c, 0, ErrBadCredential
	} else if need > 0 {
		return c, need, nil
	}
	if c.Verf, off, need, ok = parseAuth(b, off); !ok {
		return c, 0, ErrBadVerifier
	} else if need > 0 {
		return c, need, nil
	}
	c.Len = off
	return c, 0, nil
}

// parseAuth parses an opaque_auth at off. need is set if b is too short for it.
func parseAuth(b []byte, off int) (a OpaqueAuth, end, need int, ok bool) {
	if len(b) < off+8 {
		return a, off, off + 8, true
	}
	a.Flavor = binary.BigEndian.Uint32(b[off:])
	n := binary.BigEndian.Uint32(b[off+4:])
	if n > maxAuthBody {
		return a, off, 0, false
	}
	off += 8
	end = off + pad4(int(n))
	if len(b) < end {
		return a, off, end, true
	}
	a.Body = b[off : off+int(n) : off+int(n)]
	return a, end, 0, allZero(b[off+int(n) : end])
}

func pad4(n int) int { return (n + 3) &^ 3 }

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// AuthSysCred is the body of an AUTH_SYS credential (RFC 5531, Appendix A).
type AuthSysCred struct {
	Stamp   uint32
	Machine string // at most 255 bytes, as sent
	UID     uint32
	GID     uint32
	Groups  []uint32 // at most 16
}

const (
	maxMachine = 255
	maxGroups  = 16
)

// ParseAuthSys parses the body of an AUTH_SYS credential. Lengths must add up to the body exactly and
// padding must be zero; anything else is an error, nothing is truncated.
func ParseAuthSys(body []byte) (AuthSysCred, error) {
	var a AuthSysCred
	d := decoder{b: body}
	a.Stamp = d.uint32()
	a.Machine = string(d.opaque(maxMachine))
	a.UID = d.uint32()
	a.GID = d.uint32()
	n := d.uint32()
	if n > maxGroups {
		return AuthSysCred{}, fmt.Errorf("AUTH_SYS credential has %d groups, 16 are allowed", n)
	}
	for range n {
		a.Groups = append(a.Groups, d.uint32())
	}
	if d.bad || len(d.b) != 0 {
		return AuthSysCred{}, errors.New("AUTH_SYS credential does not match its length")
	}
	return a, nil
}

// append writes the body of the credential.
func (a *AuthSysCred) append(b []byte) []byte {
	b = be32(b, a.Stamp)
	b = appendOpaque(b, a.Machine)
	b = be32(b, a.UID)
	b = be32(b, a.GID)
	b = be32(b, uint32(len(a.Groups)))
	for _, g := range a.Groups {
		b = be32(b, g)
	}
	return b
}
