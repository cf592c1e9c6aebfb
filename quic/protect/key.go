// Package protect removes and applies QUIC packet protection: the AEAD over a
// packet's payload and the mask over parts of its header (RFC 9001, Section
// 5), key updates (Section 6), the keys of Initial packets (Section 5.2) and
// the integrity tag of Retry packets (Section 5.8), for QUIC versions 1 and 2
// (RFC 9369, Section 3.3).
//
// A packet is sent with Key.Seal and then Key.ProtectHeader, and received
// with Key.UnprotectHeader, wire.DecodePacketNumber and then Key.Open. None of
// the four allocates.
package protect

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

const (
	// TagLen is how many bytes Seal adds to a payload; the same for all suites.
	TagLen = 16

	// SampleLen is how many bytes of ciphertext header protection samples.
	SampleLen = 16

	nonceLen = 12
)

// The cipher suites of TLS 1.3 that QUIC can use and this package has (RFC
// 8446, Appendix B.4). The numbers are those of crypto/tls, which would be a
// lot to import for three constants.
const (
	suiteAES128GCM        uint16 = 0x1301
	suiteAES256GCM        uint16 = 0x1302
	suiteChaCha20Poly1305 uint16 = 0x1303
)

// Errors of Key.Open.
var (
	// ErrOpen means that a packet is not authentic. It counts against
	// IntegrityLimit.
	ErrOpen = errors.New("quic/protect: packet is not authentic")

	// ErrZeroed means that the key was used after Zero.
	ErrZeroed = errors.New("quic/protect: key is gone")
)

// Key protects packets of one encryption level and key phase in one
// direction. One goroutine at a time may use it: nonce and mask are made in
// place. Keys that come from each other by Next are independent of each other.
type Key struct {
	aead   cipher.AEAD
	header headerKey

	iv    [nonceLen]byte
	nonce [nonceLen]byte // scratch: a local one would escape through aead

	version wire.Version
	suite   uint16
	secret  []byte
	key     []byte // of aead, which is made of it again after Rest; behind secret
}

// NewKey derives the key, IV and header protection key of a TLS traffic
// secret, whose bytes are copied: clear secret when done with it. suite is
// TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384 or
// TLS_CHACHA20_POLY1305_SHA256; secret has the length of the suite's hash.
//
// RFC 9001, Section 5.1: "The current encryption level secret and the label
// "quic key" are input to the KDF to produce the AEAD key; the label "quic iv"
// is used to derive the Initialization Vector (IV)"
func NewKey(v wire.Version, suite uint16, secret []byte) (*Key, error) {
	p, err := paramsOf(v)
	if err != nil {
		return nil, err
	}
	s, err := suiteOf(suite)
	if err != nil {
		return nil, err
	}
	if len(secret) != s.hashLen {
		return nil, fmt.Errorf("quic/protect: secret of %d bytes for cipher suite 0x%04x, want %d", len(secret), suite, s.hashLen)
	}
	k, err := newPayloadKey(v, suite, secret)
	if err != nil {
		return nil, err
	}
	hp, err := s.expand(secret, p.hpLabel, s.keyLen)
	if err != nil {
		return nil, err
	}
	defer clear(hp)
	if err := k.header.init(suite, hp); err != nil {
		return nil, err
	}
	return k, nil
}

// newPayloadKey makes a Key without header protection. secret is copied.
func newPayloadKey(v wire.Version, suite uint16, secret []byte) (*Key, error) {
	p, err := paramsOf(v)
	if err != nil {
		return nil, err
	}
	s, err := suiteOf(suite)
	if err != nil {
		return nil, err
	}
	key, err := s.expand(secret, p.keyLabel, s.keyLen)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	iv, err := s.expand(secret, p.ivLabel, nonceLen)
	if err != nil {
		return nil, err
	}
	defer clear(iv)
	kept := append(append(make([]byte, 0, len(secret)+len(key)), secret...), key...)
	k := &Key{version: v, suite: suite, secret: kept[:len(secret)], key: kept[len(secret):]}
	copy(k.iv[:], iv)
	if k.aead, err = newAEAD(suite, key); err != nil {
		clear(kept)
		return nil, fmt.Errorf("quic/protect: cipher suite 0x%04x: %w", suite, err)
	}
	return k, nil
}

func newAEAD(suite uint16, key []byte) (cipher.AEAD, error) {
	if suite == suiteChaCha20Poly1305 {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// setNonce makes the nonce of packet pn.
//
// RFC 9001, Section 5.3: "The 62 bits of the reconstructed QUIC packet number
// in network byte order are left-padded with zeros to the size of the IV. The
// exclusive OR of the padded packet number and the IV forms the AEAD nonce."
func (k *Key) setNonce(pn uint64) {
	const low = nonceLen - 8
	copy(k.nonce[:low], k.iv[:])
	binary.BigEndian.PutUint64(k.nonce[low:], binary.BigEndian.Uint64(k.iv[low:])^pn)
}

// Seal appends the protected form of plaintext, which is TagLen bytes longer,
// to dst and returns the result. ad is the header of the packet, unprotected,
// from its first byte through the packet number. The bytes appended to dst
// must lie exactly over plaintext or not overlap it at all. A packet number
// must not be used twice with one key. Seal must not be called after Zero.
func (k *Key) Seal(dst, plaintext, ad []byte, pn uint64) []byte {
	if k.aead == nil {
		k.Wake()
	}
	k.setNonce(pn)
	return k.aead.Seal(dst, k.nonce[:], plaintext, ad)
}

// Open appends the payload of ciphertext (payload and tag) to dst and returns
// the result; ciphertext[:0] as dst opens it in place. ad is as for Seal. If
// it fails, with ErrOpen or ErrZeroed, the room after dst may have been
// overwritten: there is no second try with another key in place.
func (k *Key) Open(dst, ciphertext, ad []byte, pn uint64) ([]byte, error) {
	if k.aead == nil {
		if k.Wake(); k.aead == nil {
			return nil, ErrZeroed
		}
	}
	k.setNonce(pn)
	out, err := k.aead.Open(dst, k.nonce[:], ciphertext, ad)
	if err != nil {
		return nil, ErrOpen
	}
	return out, nil
}

// ConfidentialityLimit returns how many packets may be sealed with the key.
//
// RFC 9001, Section 6.6: "For AEAD_AES_128_GCM and AEAD_AES_256_GCM, the
// confidentiality limit is 2^23 encrypted packets; see Appendix B.1. For
// AEAD_CHACHA20_POLY1305, the confidentiality limit is greater than the number
// of possible packets (2^62) and so can be disregarded."
func (k *Key) ConfidentialityLimit() uint64 {
	if k.suite == suiteChaCha20Poly1305 {
		return 1 << 62
	}
	return 1 << 23
}

// IntegrityLimit returns how many packets may fail to open, over all keys of
// a connection, before it has to be closed with AEAD_LIMIT_REACHED.
//
// RFC 9001, Section 6.6: "For AEAD_AES_128_GCM and AEAD_AES_256_GCM, the
// integrity limit is 2^52 invalid packets; see Appendix B.1. For
// AEAD_CHACHA20_POLY1305, the integrity limit is 2^36 invalid packets"
func (k *Key) IntegrityLimit() uint64 {
	if k.suite == suiteChaCha20Poly1305 {
		return 1 << 36
	}
	return 1 << 52
}

// Suite returns the number of the key's TLS cipher suite.
func (k *Key) Suite() uint16 { return k.suite }

// Zero overwrites what secrets the key holds and can reach, and lets go of
// the expanded cipher keys. Afterwards Open fails, UnprotectHeader reports
// false, and the key must not be used to send.
func (k *Key) Zero() {
	clear(k.secret)
	clear(k.key)
	k.secret, k.key = nil, nil
	clear(k.iv[:])
	clear(k.nonce[:])
	k.aead = nil
	k.header.zero()
}
