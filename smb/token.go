package smb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// What a client logs on with stands in the security buffer of its SESSION_SETUP
// requests (MS-SMB2 2.2.5), which are in the clear: a GSS token of SPNEGO (RFC
// 4178) around one of Kerberos (RFC 4121) or of NTLM (MS-NLMP), or one of these
// bare. A relay that wants Kerberos must recognise Kerberos rather than NTLM:
// what it does not know may be NTLM in another coat.

var (
	oidSPNEGO  = []byte{0x2b, 0x06, 0x01, 0x05, 0x05, 0x02}                              // 1.3.6.1.5.5.2
	oidKrb5    = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}            // 1.2.840.113554.1.2.2
	oidKrb5MS  = []byte{0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 0x01, 0x02, 0x02}            // 1.2.840.48018.1.2.2
	ntlmMagic  = []byte("NTLMSSP\x00")                                                   // MS-NLMP 2.2.1
	errNTLM    = errors.New("smb: the client logs on by NTLM, and ntlm is deny")         //
	errNoToken = errors.New("smb: a logon without a Kerberos token, while ntlm is deny") //
)

// Tags of the tokens.
const (
	derOID         = 0x06
	derOctetString = 0x04
	derSequence    = 0x30
	gssInitial     = 0x60 // [APPLICATION 0], RFC 2743 3.1
	spnegoInit     = 0xa0 // NegTokenInit, RFC 4178 4.2.1
	spnegoResp     = 0xa1 // NegTokenResp, RFC 4178 4.2.2
	spnegoToken    = 0xa2 // mechToken and responseToken alike
	spnegoMIC      = 0xa3 // mechListMIC
)

// maxToken is how much of a security buffer is looked at. The mechanisms that a
// client offers stand before its token, some forty octets in practice.
const maxToken = 1 << 10

// tokenAt returns where in a SESSION_SETUP request the security buffer is and
// how long, both in octets, unchecked. b has at least headerLen+16 octets.
func tokenAt(b []byte) (off, n int) {
	le := binary.LittleEndian
	return int(le.Uint16(b[headerLen+12:])), int(le.Uint16(b[headerLen+14:]))
}

// checkKerberos refuses a SESSION_SETUP request, of which b holds the beginning,
// whose token is not Kerberos'.
func checkKerberos(b []byte) error {
	if len(b) < headerLen+24 {
		return errors.New("smb: SESSION_SETUP is too short")
	}
	off, n := tokenAt(b)
	if off < headerLen+24 || off > len(b) {
		return fmt.Errorf("smb: SESSION_SETUP has its token at %d", off)
	}
	return kerberosToken(b[off:min(off+n, len(b))], n)
}

// kerberosToken refuses what does not begin as a logon by Kerberos does, or the
// later messages of one. The end of b may be cut off: n is how long it is.
//
// It is strict: what a server may make of elements that come twice, in another
// order, or behind the last, is not what was looked at.
func kerberosToken(b []byte, n int) error {
	first := der{b, n}
	if tag, inner, behind, ok := first.next(); ok && behind.n == 0 && tag == gssInitial {
		oid, rest, ok := inner.oid()
		switch {
		case ok && isKerberos(oid):
			return nil
		case !ok || !bytes.Equal(oid, oidSPNEGO):
			return unknownToken(b)
		}
		first = rest
	}
	tag, inner, behind, ok := first.next()
	if !ok || behind.n != 0 || tag != spnegoInit && tag != spnegoResp {
		return unknownToken(b)
	}
	seq, fields, behind, ok := inner.next()
	if !ok || behind.n != 0 || seq != derSequence {
		return unknownToken(b)
	}
	return mechToken(fields, tag == spnegoInit)
}

// mechToken looks at the token among the fields of a NegTokenInit, where it must
// be the last one, or of a NegTokenResp, which may have none and may end with a
// checksum.
func mechToken(fields der, initial bool) error {
	seen, last := false, byte(0)
	for fields.n > 0 {
		tag, inner, rest, ok := fields.next()
		if !ok {
			return fmt.Errorf("%w (what is offered before it takes over %d octets)", errNoToken, maxToken)
		}
		if tag <= last || tag > spnegoToken && (initial || tag != spnegoMIC) {
			return fmt.Errorf("%w: its fields are out of order", errNoToken)
		}
		if tag == spnegoToken {
			t, token, behind, ok := inner.next()
			if !ok || behind.n != 0 || t != derOctetString {
				return unknownToken(inner.b)
			}
			if err := bareKerberos(token); err != nil {
				return err
			}
			seen = true
		}
		fields, last = rest, tag
	}
	if initial && !seen {
		return errNoToken
	}
	return nil
}

// bareKerberos accepts a token with the framing of RFC 2743, 3.1, of Kerberos.
func bareKerberos(token der) error {
	if tag, inner, behind, ok := token.next(); ok && behind.n == 0 && tag == gssInitial {
		if oid, _, ok := inner.oid(); ok && isKerberos(oid) {
			return nil
		}
	}
	return unknownToken(token.b)
}

func isKerberos(oid []byte) bool { return bytes.Equal(oid, oidKrb5) || bytes.Equal(oid, oidKrb5MS) }

// unknownToken names what is not Kerberos.
func unknownToken(b []byte) error {
	if bytes.HasPrefix(b, ntlmMagic) {
		return errNTLM
	}
	return errNoToken
}

// der is a piece of DER: n octets, of which b has as many as are looked at.
type der struct {
	b []byte
	n int
}

// cut returns the octets from to end of d.
func (d der) cut(from, end int) der {
	return der{d.b[min(from, len(d.b)):min(end, len(d.b))], end - from}
}

// next takes d apart into its first element, which has to fit, and the rest.
func (d der) next() (tag byte, inner, rest der, ok bool) {
	b := d.b
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return 0, inner, rest, false
	}
	head, length := 2, int(b[1])
	if length >= 0x80 {
		// A security buffer has less than 64 KiB: up to two octets of length, in the least that do.
		n := length & 0x7f
		if n == 0 || n > 2 || len(b) < head+n {
			return 0, inner, rest, false
		}
		length = 0
		for _, c := range b[head : head+n] {
			length = length<<8 | int(c)
		}
		if head += n; length < 0x80 || n == 2 && length <= 0xff {
			return 0, inner, rest, false
		}
	}
	if head+length > d.n {
		return 0, inner, rest, false
	}
	return b[0], d.cut(head, head+length), d.cut(head+length, d.n), true
}

// oid takes an object identifier off d; it returns its encoding and what follows.
func (d der) oid() (oid []byte, rest der, ok bool) {
	tag, inner, rest, ok := d.next()
	if !ok || tag != derOID || len(inner.b) < inner.n {
		return nil, rest, false
	}
	return inner.b, rest, true
}
