package smb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// tlv makes an element of DER.
func tlv(tag byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	switch n := len(body); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, body...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, body...)
	default:
		return append(binary.BigEndian.AppendUint16([]byte{tag, 0x82}, uint16(n)), body...)
	}
}

func krb5Token(size int) []byte {
	return tlv(gssInitial, tlv(derOID, oidKrb5), make([]byte, size))
}

// negTokenInit is a first token of SPNEGO that offers mechs and carries token.
func negTokenInit(token []byte, mechs ...[]byte) []byte {
	var list []byte
	for _, m := range mechs {
		list = append(list, tlv(derOID, m)...)
	}
	fields := tlv(spnegoInit, tlv(derSequence, list))
	if token != nil {
		fields = append(fields, tlv(spnegoToken, tlv(derOctetString, token))...)
	}
	return tlv(gssInitial, tlv(derOID, oidSPNEGO), tlv(spnegoInit, tlv(derSequence, fields)))
}

func negTokenResp(fields ...[]byte) []byte { return tlv(spnegoResp, tlv(derSequence, fields...)) }

// HOSTILE 50: tokens that are Kerberos', and whatever else there is.
func TestKerberosToken(t *testing.T) {
	ntlm := append(bytes.Clone(ntlmMagic), 1, 0, 0, 0)
	oidNTLM := []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a}
	state := tlv(0xa0, []byte{0x0a, 1, 1})
	mic := tlv(0xa3, tlv(derOctetString, make([]byte, 16)))
	later := tlv(spnegoToken, tlv(derOctetString, krb5Token(90)))
	mechs := tlv(spnegoInit, tlv(derSequence, tlv(derOID, oidKrb5)))
	inSPNEGO := func(parts ...[]byte) []byte {
		return tlv(gssInitial, tlv(derOID, oidSPNEGO), tlv(spnegoInit, parts...))
	}
	filler := make([][]byte, 200)
	for i := range filler {
		filler[i] = oidKrb5
	}
	for _, c := range []struct {
		name  string
		token []byte
		want  error
	}{
		{"Kerberos bare", krb5Token(1500), nil},
		{"Kerberos in SPNEGO", negTokenInit(krb5Token(1500), oidKrb5MS, oidKrb5, oidNTLM), nil},
		{"Microsoft's number of Kerberos", negTokenInit(tlv(gssInitial, tlv(derOID, oidKrb5MS), make([]byte, 300)), oidKrb5MS), nil},
		{"a later token of Kerberos", negTokenResp(state, later), nil},
		{"a checksum alone", negTokenResp(state, mic), nil},
		{"a state alone", negTokenResp(state), nil},
		{"NTLM bare", ntlm, errNTLM},
		{"NTLM in SPNEGO", negTokenInit(ntlm, oidNTLM), errNTLM},
		{"NTLM under the name of Kerberos", negTokenInit(ntlm, oidKrb5), errNTLM},
		{"NTLM as a later token", negTokenResp(tlv(spnegoToken, tlv(derOctetString, ntlm))), errNTLM},
		{"NTLM in the framing of GSS", tlv(gssInitial, tlv(derOID, oidNTLM), ntlm), errNoToken},
		{"NTLM behind mechanisms that fill the look", negTokenInit(ntlm, filler...), errNoToken},
		{"SPNEGO within SPNEGO", negTokenInit(negTokenInit(ntlm, oidNTLM), oidSPNEGO), errNoToken},
		{"an offer without a token", negTokenInit(nil, oidKrb5), errNoToken},
		{"NTLM behind a checksum", negTokenResp(mic, tlv(spnegoToken, tlv(derOctetString, ntlm))), errNoToken},
		{"NTLM behind a token of Kerberos", negTokenResp(later, tlv(spnegoToken, tlv(derOctetString, ntlm))), errNoToken},
		{"NTLM as a second first token", inSPNEGO(tlv(derSequence, mechs, later, tlv(spnegoToken, tlv(derOctetString, ntlm)))), errNoToken},
		{"NTLM out of sight behind Kerberos", inSPNEGO(tlv(derSequence, mechs, tlv(spnegoToken, tlv(derOctetString, krb5Token(1500))), tlv(spnegoToken, tlv(derOctetString, ntlm)))), errNoToken},
		{"NTLM in a second octet string", inSPNEGO(tlv(derSequence, mechs, tlv(spnegoToken, tlv(derOctetString, krb5Token(1500)), tlv(derOctetString, ntlm)))), errNoToken},
		{"NTLM in a second sequence", inSPNEGO(tlv(derSequence, mechs, later), tlv(derSequence, tlv(spnegoToken, tlv(derOctetString, ntlm)))), errNoToken},
		{"a second token of SPNEGO", append(negTokenResp(state), negTokenResp(tlv(spnegoToken, tlv(derOctetString, ntlm)))...), errNoToken},
		{"a checksum in a first token", inSPNEGO(tlv(derSequence, mechs, later, mic)), errNoToken},
		{"a token and a checksum", negTokenResp(state, later, mic), nil},
		{"an element longer than what holds it", tlv(spnegoResp, []byte{derSequence, 4, 0xa0, 3, 10, 1}), errNoToken},
		{"nothing", nil, errNoToken},
		{"a length in too many octets", append([]byte{gssInitial, 0x82, 0, 13}, krb5Token(0)[2:]...), errNoToken},
		{"a length that never ends", []byte{gssInitial, 0x80, derOID}, errNoToken},
		{"another identifier that begins alike", tlv(gssInitial, tlv(derOID, oidKrb5, []byte{1})), errNoToken},
		{"an identifier cut off", tlv(gssInitial, []byte{derOID, 9, 0x2a, 0x86}), errNoToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := kerberosToken(c.token[:min(len(c.token), maxToken)], len(c.token)); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// sessionSetup is a SESSION_SETUP request.
func sessionSetup(off int, token []byte) []byte {
	b := make([]byte, 24)
	binary.LittleEndian.PutUint16(b, 25)
	binary.LittleEndian.PutUint16(b[12:], uint16(off))
	binary.LittleEndian.PutUint16(b[14:], uint16(len(token)))
	if gap := off - headerLen - len(b); gap > 0 && gap < 64 {
		b = append(b, make([]byte, gap)...)
	}
	return element(header{command: cmdSessionSetup, messageID: 1}, append(b, token...)...)
}

// Every SESSION_SETUP of a session is looked at, wherever its buffer is said to be.
func TestPolicyKerberosOnly(t *testing.T) {
	ntlm := append(bytes.Clone(ntlmMagic), 1, 0, 0, 0)
	const at = headerLen + 24
	for _, c := range []struct {
		name string
		msgs [][]byte
		want Reason
	}{
		{"Kerberos", [][]byte{plain(sessionSetup(at, krb5Token(3000)))}, ReasonNone},
		{"Kerberos behind a gap", [][]byte{plain(sessionSetup(at+8, krb5Token(3000)))}, ReasonNone},
		{"NTLM", [][]byte{plain(sessionSetup(at, ntlm))}, ReasonNTLM},
		{"NTLM after Kerberos", [][]byte{plain(sessionSetup(at, krb5Token(3000))), plain(sessionSetup(at, ntlm))}, ReasonNTLM},
		{"NTLM second in a compound", [][]byte{plain(element(header{command: 13}, 4, 0, 0, 0), sessionSetup(at, ntlm))}, ReasonNTLM},
		{"a buffer inside the header", [][]byte{plain(sessionSetup(8, krb5Token(100)))}, ReasonNTLM},
		{"a buffer beyond the message", [][]byte{plain(sessionSetup(0xfff0, krb5Token(100)))}, ReasonNTLM},
		{"a request without a body", [][]byte{plain(element(header{command: cmdSessionSetup}, 25, 0))}, ReasonNTLM},
	} {
		t.Run(c.name, func(t *testing.T) {
			var steps []step
			for _, m := range c.msgs {
				steps = append(steps, step{'>', m})
			}
			if got := reasonOf(play(Options{KerberosOnly: true, AllowNamedPipes: true}, steps), ReasonNone); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if err := play(Options{AllowNamedPipes: true}, steps); err != nil {
				t.Errorf("refused where NTLM is allowed: %v", err)
			}
		})
	}
}

func FuzzKerberosToken(f *testing.F) {
	f.Add(krb5Token(100))
	f.Add(negTokenInit(krb5Token(100), oidKrb5, oidKrb5MS))
	f.Add(negTokenResp(tlv(0xa3, tlv(derOctetString, make([]byte, 16)))))
	f.Add(append(bytes.Clone(ntlmMagic), 1, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := kerberosToken(b, len(b))
		if err != nil {
			return
		}
		// What passes either has Kerberos' name in it or is a last word without a token.
		named := bytes.Contains(b, oidKrb5) || bytes.Contains(b, oidKrb5MS)
		if !named && (len(b) == 0 || b[0] == gssInitial && bytes.Contains(b, ntlmMagic)) {
			t.Errorf("%x passes", b)
		}
	})
}
