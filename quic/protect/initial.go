package protect

import (
	"crypto/hkdf"
	"crypto/sha256"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// InitialKeys derives the keys of Initial packets from the Destination
// Connection ID of the client's first Initial packet (after a Retry: of the
// first one that answers it). client protects what the client sends, server
// what the server sends. Both are nil if v is not version 1 or 2, or if the
// Go runtime is confined to FIPS 140-3 algorithms (GODEBUG=fips140=only).
//
// RFC 9001, Section 5.2: "Initial packets apply the packet protection process,
// but use a secret derived from the Destination Connection ID field from the
// client's first Initial packet." "The hash function for HKDF when deriving
// initial secrets and keys is SHA-256"
func InitialKeys(v wire.Version, clientDst []byte) (client, server *Key) {
	p, err := paramsOf(v)
	if err != nil {
		return nil, nil
	}
	initial, err := hkdf.Extract(sha256.New, clientDst, p.initialSalt[:])
	if err != nil {
		return nil, nil
	}
	if client, err = initialKey(v, initial, "client in"); err != nil {
		return nil, nil
	}
	if server, err = initialKey(v, initial, "server in"); err != nil {
		return nil, nil
	}
	return client, server
}

// initialKey derives the key of one direction.
//
// RFC 9001, Section 5: "Initial packets use AEAD_AES_128_GCM with keys derived
// from the Destination Connection ID field of the first Initial packet sent by
// the client"
//
// RFC 9001, Section 5.2: "The HKDF-Expand-Label function defined in TLS 1.3
// MUST be used for Initial packets even where the TLS versions offered do not
// include TLS 1.3."
func initialKey(v wire.Version, initial []byte, label string) (*Key, error) {
	secret, err := suite128.expand(initial, label, suite128.hashLen)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return NewKey(v, suiteAES128GCM, secret)
}
