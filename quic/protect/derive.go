package protect

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// versionParams is what differs between QUIC versions 1 and 2 (RFC 9001,
// Sections 5.1, 5.2, 5.8 and 6.1; RFC 9369, Section 3.3).
type versionParams struct {
	initialSalt                         [20]byte
	keyLabel, ivLabel, hpLabel, kuLabel string
	retryKey                            [16]byte
	retryNonce                          [nonceLen]byte
}

// RFC 9001, Section 5.2: "initial_salt =
// 0x38762cf7f55934b34d179ae6a4c80cadccbb7f0a"
//
// RFC 9001, Section 5.8: "The secret key, K, is 128 bits equal to
// 0xbe0c690b9f66575a1d766b54e368c84e." "The nonce, N, is 96 bits equal to
// 0x461599d35d632bf2239825bb."
var params1 = versionParams{
	initialSalt: [20]byte{0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17,
		0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a},
	keyLabel: "quic key", ivLabel: "quic iv", hpLabel: "quic hp", kuLabel: "quic ku",
	retryKey:   [16]byte{0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e},
	retryNonce: [nonceLen]byte{0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb},
}

// RFC 9369, Section 3.3.1: "initial_salt =
// 0x0dede3def700a6db819381be6e269dcbf9bd2ed9"; Section 3.3.3: "key =
// 0x8fb4b01b56ac48e260fbcbcead7ccc92", "nonce = 0xd86969bc2d7c6d9990efb04a".
var params2 = versionParams{
	initialSalt: [20]byte{0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93,
		0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9},
	keyLabel: "quicv2 key", ivLabel: "quicv2 iv", hpLabel: "quicv2 hp", kuLabel: "quicv2 ku",
	retryKey:   [16]byte{0x8f, 0xb4, 0xb0, 0x1b, 0x56, 0xac, 0x48, 0xe2, 0x60, 0xfb, 0xcb, 0xce, 0xad, 0x7c, 0xcc, 0x92},
	retryNonce: [nonceLen]byte{0xd8, 0x69, 0x69, 0xbc, 0x2d, 0x7c, 0x6d, 0x99, 0x90, 0xef, 0xb0, 0x4a},
}

func paramsOf(v wire.Version) (*versionParams, error) {
	switch v {
	case wire.Version1:
		return &params1, nil
	case wire.Version2:
		return &params2, nil
	}
	return nil, fmt.Errorf("quic/protect: no keys for QUIC version %v", v)
}

// suiteParams says what a TLS cipher suite needs.
type suiteParams struct {
	keyLen, hashLen int
	sha384          bool
}

var (
	suite128    = suiteParams{keyLen: 16, hashLen: sha256.Size}
	suite256    = suiteParams{keyLen: 32, hashLen: sha512.Size384, sha384: true}
	suiteChaCha = suiteParams{keyLen: 32, hashLen: sha256.Size}
)

// suiteOf refuses TLS_AES_128_CCM_8_SHA256 with everything unknown.
//
// RFC 9001, Section 5.3: "QUIC can use any of the cipher suites defined in
// [TLS13] with the exception of TLS_AES_128_CCM_8_SHA256."
//
// RFC 9001, Section 5.3: "A cipher suite MUST NOT be negotiated unless a header
// protection scheme is defined for the cipher suite."
func suiteOf(suite uint16) (*suiteParams, error) {
	switch suite {
	case suiteAES128GCM:
		return &suite128, nil
	case suiteAES256GCM:
		return &suite256, nil
	case suiteChaCha20Poly1305:
		return &suiteChaCha, nil
	}
	return nil, fmt.Errorf("quic/protect: unknown cipher suite 0x%04x", suite)
}

// expand is HKDF-Expand-Label of RFC 8446, Section 7.1, with no context.
//
// RFC 9001, Section 5.1: "All uses of HKDF-Expand-Label in QUIC use a
// zero-length Context."
func (s *suiteParams) expand(secret []byte, label string, length int) ([]byte, error) {
	const prefix = "tls13 "
	info := make([]byte, 0, 4+len(prefix)+len(label))
	info = append(info, byte(length>>8), byte(length), byte(len(prefix)+len(label)))
	info = append(append(info, prefix...), label...)
	info = append(info, 0)
	var out []byte
	var err error
	if s.sha384 {
		out, err = hkdf.Expand(sha512.New384, secret, string(info), length)
	} else {
		out, err = hkdf.Expand(sha256.New, secret, string(info), length)
	}
	if err != nil {
		return nil, fmt.Errorf("quic/protect: deriving %q: %w", label, err)
	}
	return out, nil
}
