package protect

import (
	"crypto/cipher"
	"crypto/subtle"
	"sync"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// The AEADs of Retry tags have fixed keys and are made once.
var (
	retryAEAD1 = sync.OnceValues(func() (cipher.AEAD, error) { return newAEAD(suiteAES128GCM, params1.retryKey[:]) })
	retryAEAD2 = sync.OnceValues(func() (cipher.AEAD, error) { return newAEAD(suiteAES128GCM, params2.retryKey[:]) })
)

// RetryTag returns the integrity tag of a Retry packet of version v, 1 or 2.
// originalDst is the Destination Connection ID of the client's packet that the
// Retry answers. For another version the tag is all zero, which no client
// takes.
//
// RFC 9001, Section 5.8: "The Retry Integrity Tag is a 128-bit field that is
// computed as the output of AEAD_AES_128_GCM [...] used with the following
// inputs" "The plaintext, P, is empty." "The associated data, A, is the
// contents of the Retry Pseudo-Packet"
func RetryTag(v wire.Version, originalDst wire.ConnID, retryWithoutTag []byte) (tag [TagLen]byte) {
	p, err := paramsOf(v)
	if err != nil {
		return tag
	}
	get := retryAEAD1
	if v == wire.Version2 {
		get = retryAEAD2
	}
	aead, err := get()
	if err != nil {
		return tag
	}
	pseudo := make([]byte, 0, 1+wire.MaxConnIDLen+len(retryWithoutTag))
	pseudo = originalDst.Append(append(pseudo, byte(originalDst.Len())))
	pseudo = append(pseudo, retryWithoutTag...)
	aead.Seal(tag[:0], p.retryNonce[:], nil, pseudo)
	return tag
}

// CheckRetryTag reports whether retry, a whole Retry packet of version v, ends
// in the right tag.
//
// RFC 9000, Section 17.2.5.2: "Clients MUST discard Retry packets that have a
// Retry Integrity Tag that cannot be validated"
func CheckRetryTag(v wire.Version, originalDst wire.ConnID, retry []byte) bool {
	if len(retry) < TagLen || !v.Known() {
		return false
	}
	at := len(retry) - TagLen
	tag := RetryTag(v, originalDst, retry[:at])
	return subtle.ConstantTimeCompare(tag[:], retry[at:]) == 1
}
