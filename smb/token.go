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
	return kerberosToken(b[off:min(off+n, len(b))])
}

// kerberosToken refuses what does not begin as a logon by Kerberos does, or the
// later messages of one. The end of b may be cut off.
func kerberosToken(b []byte) error {
	if tag, inner, ok := derInner(b); ok && tag == gssInitial {
		oid, rest, ok := derOIDValue(inner)
		switch {
		case ok && isKerberos(oid):
			return nil
		case !ok || !bytes.Equal(oid, oidSPNEGO):
			return unknownToken(b)
		}
		b = rest
	}
	tag, inner, ok := derInner(b)
	if !ok || tag != spnegoInit && tag != spnegoResp {
		return unknownToken(b)
	}
	if seq, fields, ok := derInner(inner); ok && seq == derSequence {
		return mechToken(fields, tag == spnegoInit)
	}
	return unknownToken(b)
}

// mechToken looks at the token among the fields of a NegTokenInit, where it must
// be, or of a NegTokenResp, which may end with a checksum alone.
func mechToken(fields []byte, initial bool) error {
	for len(fields) > 0 {
		tag, inner, ok := derInner(fields)
		if !ok {
			return unknownToken(fields)
		}
		switch {
		case tag == spnegoToken:
			if t, token, ok := derInner(inner); ok && t == derOctetString {
				return bareKerberos(token)
			}
			return unknownToken(fields)
		case tag > spnegoToken && !initial:
			return nil
		}
		if fields, ok = derSkip(fields); !ok {
			return fmt.Errorf("%w (what is offered before it takes over %d octets)", errNoToken, maxToken)
		}
	}
	if initial {
		return errNoToken
	}
	return nil
}

// bareKerberos accepts a token with the framing of RFC 2743, 3.1, of Kerberos.
func bareKerberos(token []byte) error {
	if tag, inner, ok := derInner(token); ok && tag == gssInitial {
		if oid, _, ok := derOIDValue(inner); ok && isKerberos(oid) {
			return nil
		}
	}
	return unknownToken(token)
}

func isKerberos(oid []byte) bool { return bytes.Equal(oid, oidKrb5) || bytes.Equal(oid, oidKrb5MS) }

// unknownToken names what is not Kerberos.
func unknownToken(b []byte) error {
	if bytes.HasPrefix(b, ntlmMagic) {
		return errNTLM
	}
	return errNoToken
}

// derHeader reads the tag and the length of a DER element; head is how long both
// are. The element may be cut off.
func derHeader(b []byte) (tag byte, head, length int, ok bool) {
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return 0, 0, 0, false
	}
	tag, head, length = b[0], 2, int(b[1])
	if length < 0x80 {
		return tag, head, length, true
	}
	// A security buffer has less than 64 KiB: up to two octets of length, in the least that do.
	n := length & 0x7f
	if n == 0 || n > 2 || len(b) < head+n {
		return 0, 0, 0, false
	}
	length = 0
	for _, c := range b[head : head+n] {
		length = length<<8 | int(c)
	}
	return tag, head + n, length, length >= 0x80 && (n == 1 || length > 0xff)
}

// derInner returns the contents of the first element of b, as far as b has them.
func derInner(b []byte) (tag byte, inner []byte, ok bool) {
	tag, head, length, ok := derHeader(b)
	if !ok {
		return 0, nil, false
	}
	return tag, b[head:min(head+length, len(b))], true
}

// derSkip returns what follows the first element of b, which must be whole.
func derSkip(b []byte) (rest []byte, ok bool) {
	_, head, length, ok := derHeader(b)
	if !ok || head+length > len(b) {
		return nil, false
	}
	return b[head+length:], true
}

// derOIDValue reads an object identifier; it returns its encoding and what follows.
func derOIDValue(b []byte) (oid, rest []byte, ok bool) {
	tag, oid, ok := derInner(b)
	if !ok || tag != derOID {
		return nil, nil, false
	}
	rest, ok = derSkip(b)
	return oid, rest, ok
}
