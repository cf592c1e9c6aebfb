package wire

import "encoding/hex"

// MaxConnIDLen is the longest connection ID in bytes that QUIC versions 1
// and 2 allow.
//
// RFC 9000, Section 17.2: "In QUIC version 1, this value MUST NOT exceed 20
// bytes."
const MaxConnIDLen = 20

// ConnID is a connection ID of 0 to 20 bytes. It is a comparable value and
// can be a map key; its zero value is the zero-length connection ID. (A peer
// chooses the IDs it sends: Go's maps hash with a key of the process, so
// colliding IDs cannot be made up.)
type ConnID struct {
	// Bytes past n are always zero, so that == compares IDs.
	b [MaxConnIDLen]byte
	n uint8
}

// MakeConnID copies b into a ConnID. It reports false for more than 20 bytes.
func MakeConnID(b []byte) (ConnID, bool) {
	var c ConnID
	if len(b) > MaxConnIDLen {
		return c, false
	}
	c.n = uint8(copy(c.b[:], b))
	return c, true
}

// Len returns the length in bytes, 0 to 20.
func (c ConnID) Len() int { return int(c.n) }

// Append appends the bytes of the ID, without a length.
func (c ConnID) Append(b []byte) []byte { return append(b, c.b[:c.n]...) }

// Equal reports whether the ID consists of exactly the bytes b.
func (c ConnID) Equal(b []byte) bool { return string(c.b[:c.n]) == string(b) }

// At returns byte i of the ID; i must be below Len.
func (c ConnID) At(i int) byte { return c.b[:c.n][i] }

// String returns the ID in lower-case hexadecimal; empty for a zero-length ID.
func (c ConnID) String() string { return hex.EncodeToString(c.b[:c.n]) }
