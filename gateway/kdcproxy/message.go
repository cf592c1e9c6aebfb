package kdcproxy

import (
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// maxMessage bounds a Kerberos message either way. Tickets with the groups of a
// large domain have some tens of kilobytes.
const maxMessage = 256 << 10

// kind is what a Kerberos message is, as far as a proxy has to know.
type kind uint8

const (
	kindKDC      kind = iota + 1 // AS-REQ or TGS-REQ, for a KDC
	kindPassword                 // RFC 3244, for the password service
)

// Tags of RFC 4120: [APPLICATION n], constructed.
const (
	tagASReq    = 0x60 | 10
	tagASRep    = 0x60 | 11
	tagTGSReq   = 0x60 | 12
	tagTGSRep   = 0x60 | 13
	tagKrbError = 0x60 | 30
)

// request is a KDC-PROXY-MESSAGE of a client (MS-KKDCP 2.2.2).
type request struct {
	message []byte // as it goes over TCP: four octets of length, then the message
	realm   string // upper case; "" if the client has named none
	kind    kind
}

// kdcProxyMessage is MS-KKDCP 2.2.2:
//
//	KDC-PROXY-MESSAGE ::= SEQUENCE {
//	    kerb-message   [0] OCTET STRING,
//	    target-domain  [1] KERB-REALM OPTIONAL,
//	    dclocator-hint [2] INTEGER OPTIONAL
//	}
type kdcProxyMessage struct {
	Message []byte `asn1:"tag:0,explicit"`
	Realm   string `asn1:"tag:1,explicit,optional"` // GeneralString; other strings are taken as well
	Hint    int64  `asn1:"tag:2,explicit,optional"`
}

// parseRequest reads what a client has posted.
func parseRequest(b []byte) (r request, err error) {
	var m kdcProxyMessage
	if rest, err := asn1.Unmarshal(b, &m); err != nil || len(rest) > 0 {
		return r, errors.New("not a KDC-PROXY-MESSAGE")
	}
	if r.message, r.kind, err = m.Message, kindOf(m.Message), nil; r.kind == 0 {
		return r, errors.New("kerb-message is neither an AS-REQ nor a TGS-REQ nor a change of a password")
	}
	r.realm, err = realmName(m.Realm)
	return r, err
}

// realmName checks a KERB-REALM. Realms are compared in upper case, as Windows does.
func realmName(s string) (string, error) {
	if len(s) > 255 {
		return "", errors.New("target-domain is too long for a realm")
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return "", errors.New("target-domain has characters a realm can't have")
		}
	}
	return strings.ToUpper(s), nil
}

// kindOf judges a message by its first octets and its length; 0 is none.
func kindOf(m []byte) kind {
	// RFC 4120, Section 7.2.2: "Each request (KRB_KDC_REQ) and response (KRB_KDC_REP or KRB_ERROR)
	// sent over the TCP stream is preceded by the length of the request as 4 octets in network byte order."
	if len(m) < 4+8 || uint64(binary.BigEndian.Uint32(m)) != uint64(len(m)-4) {
		return 0
	}
	switch body := m[4:]; {
	case body[0] == tagASReq || body[0] == tagTGSReq:
		return kindKDC
	case isPassword(body) && (version(body) == 0xff80 || version(body) == 1):
		return kindPassword
	}
	return 0
}

// isPassword: RFC 3244, Section 2: message length, protocol version, both of two octets.
func isPassword(body []byte) bool { return int(binary.BigEndian.Uint16(body)) == len(body) }

func version(body []byte) uint16 { return binary.BigEndian.Uint16(body[2:]) }

// checkReply refuses what no KDC answers to a request of kind k. m has its four
// octets of length.
func checkReply(k kind, m []byte) error {
	if len(m) < 4+8 {
		return errors.New("an answer too short for Kerberos")
	}
	body := m[4:]
	switch {
	case body[0] == tagKrbError:
	case k == kindKDC && (body[0] == tagASRep || body[0] == tagTGSRep):
	case k == kindPassword && isPassword(body):
	default:
		return fmt.Errorf("an answer that begins with 0x%02x", body[0])
	}
	return nil
}

// marshalReply wraps a reply.
func marshalReply(message []byte) ([]byte, error) {
	return asn1.Marshal(struct {
		Message []byte `asn1:"tag:0,explicit"`
	}{message})
}
