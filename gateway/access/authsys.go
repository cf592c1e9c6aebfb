package access

import (
	"encoding/asn1"
	"errors"
	"fmt"
)

// An otherName is an alternative name of a kind that its object identifier
// tells (RFC 5280, Section 4.2.1.6), the client's own choice of octets.
type otherName struct {
	id    asn1.ObjectIdentifier
	value []byte // DER of what is in the explicit tag
}

// maxOtherNames bounds what a certificate can make the gateway keep.
const maxOtherNames = 16

// rpcAuthSys is draft-cel-nfsv4-rpc-tls-othername's RPCAuthSys.
type rpcAuthSys struct {
	UID  int64
	GIDs []int64
}

// maxAuthSysGroups is RFC 5531, Appendix A: "unsigned int gids<16>;", and the
// effective group before them.
const maxAuthSysGroups = 1 + 16

// ParseOID reads an object identifier in dotted notation.
func ParseOID(s string) (asn1.ObjectIdentifier, error) {
	var id asn1.ObjectIdentifier
	var n, digits int
	for i := 0; i <= len(s); i++ {
		switch {
		case i < len(s) && s[i] >= '0' && s[i] <= '9' && n < 1<<27 && (digits == 0 || n > 0):
			n, digits = n*10+int(s[i]-'0'), digits+1
		case digits > 0 && len(id) < 32 && (i == len(s) || s[i] == '.'):
			id, n, digits = append(id, n), 0, 0
		default:
			return nil, fmt.Errorf("%q is not an object identifier (such as 1.3.6.1.4.1.311.20.2.3)", s)
		}
	}
	if len(id) < 2 || id[0] > 2 || id[0] < 2 && id[1] > 39 {
		return nil, fmt.Errorf("%q is not an object identifier: it has to begin with 0.0 to 2.n", s)
	}
	return id, nil
}

// AuthSys returns the identity that the client's own certificate carries under
// id, and whether it carries one. The first group is the effective one; a
// certificate without groups gets noGroup.
//
// draft-cel-nfsv4-rpc-tls-othername-04: "If multiple identity squashing otherName
// fields are present in the same SubjectAltName extension, the server MUST
// reject the certificate to avoid ambiguity."
func (c *Chain) AuthSys(id asn1.ObjectIdentifier, noGroup uint32) (u Unix, ok bool, err error) {
	if c == nil {
		return u, false, nil
	}
	for _, n := range c.others {
		if !n.id.Equal(id) {
			continue
		}
		if ok {
			return Unix{}, false, fmt.Errorf("the certificate has several names of kind %s", id)
		}
		if u, err = parseAuthSys(n.value, noGroup); err != nil {
			return Unix{}, false, fmt.Errorf("the certificate's name of kind %s: %w", id, err)
		}
		ok = true
	}
	return u, ok, nil
}

func parseAuthSys(der []byte, noGroup uint32) (Unix, error) {
	var v rpcAuthSys
	rest, err := asn1.Unmarshal(der, &v)
	if err != nil || len(rest) > 0 {
		return Unix{}, errors.New("not a uid and a list of gids")
	}
	if len(v.GIDs) > maxAuthSysGroups {
		return Unix{}, fmt.Errorf("%d gids; AUTH_SYS carries %d and none may be left out", len(v.GIDs), maxAuthSysGroups)
	}
	// 4294967295 is "leave unchanged" to a file server, and 0 is root.
	valid := func(n int64) bool { return n > 0 && n < 1<<32-1 }
	if !valid(v.UID) {
		return Unix{}, fmt.Errorf("uid %d", v.UID)
	}
	u := Unix{UID: uint32(v.UID), GID: noGroup}
	for i, g := range v.GIDs {
		switch {
		case !valid(g):
			return Unix{}, fmt.Errorf("gid %d", g)
		case i == 0:
			u.GID = uint32(g)
		default:
			u.Groups = append(u.Groups, uint32(g))
		}
	}
	return u, nil
}

// MarshalAuthSys writes what AuthSys reads: an otherName, a member of the
// subject alternative names.
func MarshalAuthSys(id asn1.ObjectIdentifier, u Unix) ([]byte, error) {
	v := struct {
		ID    asn1.ObjectIdentifier
		Value rpcAuthSys `asn1:"explicit,tag:0"`
	}{id, rpcAuthSys{int64(u.UID), []int64{int64(u.GID)}}}
	for _, g := range u.Groups {
		v.Value.GIDs = append(v.Value.GIDs, int64(g))
	}
	return asn1.MarshalWithParams(v, "tag:0")
}
