package smb

import "fmt"

// Protection is what a session must have.
type Protection uint8

// The protections.
const (
	ProtectAny        Protection = iota // what client and server agree on
	ProtectSigning                      // a server that requires signing, or encryption
	ProtectEncryption                   // nothing but negotiation and logon passes in the clear
)

// ParseProtection reads any, signing or encryption.
func ParseProtection(s string) (Protection, error) {
	for p, name := range [...]string{"any", "signing", "encryption"} {
		if s == name {
			return Protection(p), nil
		}
	}
	return 0, fmt.Errorf("smb: protection %q: not one of any, signing, encryption", s)
}

const capEncryption = 0x40 // SMB2_GLOBAL_CAP_ENCRYPTION, of 3.0 and 3.0.2

// encrypts reports whether sessions can be encrypted.
func (r *NegotiateResponse) encrypts() bool {
	if r.Dialect == Dialect311 {
		return r.Cipher != 0
	}
	return r.Dialect >= Dialect300 && r.Capabilities&capEncryption != 0
}

// check refuses a server whose answer falls short. Whether a client then
// encrypts, the policy sees in its messages.
func (p Protection) check(r *NegotiateResponse) error {
	switch {
	case r.Status != 0:
	case p == ProtectSigning && !r.SigningRequired:
		return &reasonError{ReasonProtection, fmt.Errorf("smb: the backend does not require signing, and protection is signing (Samba: server signing = mandatory; Windows: RequireSecuritySignature)")}
	case p == ProtectEncryption && !r.encrypts():
		return &reasonError{ReasonProtection, fmt.Errorf("smb: the backend agreed on %s without a cipher, and protection is encryption", r.Dialect)}
	}
	return nil
}
