package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is a QUIC version number.
type Version uint32

// The versions this package can read and write. Version 0 marks a Version
// Negotiation packet.
const (
	Version1 Version = 1          // RFC 9000
	Version2 Version = 0x6b3343cf // RFC 9369
)

// String returns "v1", "v2", or the number in hexadecimal.
func (v Version) String() string {
	switch v {
	case Version1:
		return "v1"
	case Version2:
		return "v2"
	}
	return fmt.Sprintf("%#08x", uint32(v))
}

// Known reports whether v is a version this package reads and writes.
//
// RFC 9369, Section 3: "Except for a few differences, QUIC version 2 endpoints
// MUST implement the QUIC version 1 specification as described in [QUIC],
// [QUIC-TLS], and [QUIC-RECOVERY]."
func (v Version) Known() bool { return v == Version1 || v == Version2 }

// Reserved reports whether v is one of the versions set aside to exercise
// version negotiation.
//
// RFC 9000, Section 15: "Versions that follow the pattern 0x?a?a?a?a are
// reserved for use in forcing version negotiation to be exercised"
func (v Version) Reserved() bool { return v&0x0f0f0f0f == 0x0a0a0a0a }

// ReservedVersion makes a reserved version out of 32 random bits.
func ReservedVersion(random uint32) Version {
	return Version(random&0xf0f0f0f0 | 0x0a0a0a0a)
}

// PacketType is the kind of a packet, independent of how a version numbers
// it on the wire.
type PacketType uint8

// The packet types of QUIC versions 1 and 2.
const (
	PacketInitial PacketType = iota
	Packet0RTT
	PacketHandshake
	PacketRetry
	PacketVersionNegotiation
	Packet1RTT
)

var packetTypeNames = [...]string{"initial", "0rtt", "handshake", "retry", "version_negotiation", "1rtt"}

// String returns the name qlog uses.
func (t PacketType) String() string {
	if int(t) < len(packetTypeNames) {
		return packetTypeNames[t]
	}
	return "unknown"
}

// Errors of ParseLong. A datagram that causes one is dropped, not answered,
// except that a server answers ErrVersion with Version Negotiation.
var (
	ErrTruncated = errors.New("quic/wire: packet is shorter than its header says")
	ErrVersion   = errors.New("quic/wire: unknown QUIC version")
	ErrConnIDLen = errors.New("quic/wire: connection ID is longer than 20 bytes")
	ErrHeader    = errors.New("quic/wire: malformed packet header")
)

const (
	longBit  = 0x80
	fixedBit = 0x40
)

// IsLong reports whether first, the first byte of a packet, begins a long
// header (RFC 8999, Section 5.1).
func IsLong(first byte) bool { return first&longBit != 0 }

// HasFixedBit reports whether the QUIC bit is set.
//
// RFC 9000, Section 17.2: "Packets containing a zero value for this bit are
// not valid packets in this version and MUST be discarded."
//
// RFC 9287, Section 3: "An endpoint that advertises the grease_quic_bit
// transport parameter MUST accept packets with the QUIC Bit set to a value of
// 0." So the parsers here let either value pass and leave the decision to the
// connection.
func HasFixedBit(first byte) bool { return first&fixedBit != 0 }

// ClearFixedBit sets the QUIC bit to 0 in the first byte of a packet that is not
// protected yet.
func ClearFixedBit(first *byte) { *first &^= fixedBit }

// ParseInvariant reads the part of a long header that is the same in every
// version (RFC 8999, Section 5.1). The connection IDs alias b and can have 0
// to 255 bytes; rest is the offset of the version-specific part. ok is false
// for a short header and for a truncated long one.
func ParseInvariant(b []byte) (v Version, dst, src []byte, rest int, ok bool) {
	if len(b) < 7 || !IsLong(b[0]) {
		return 0, nil, nil, 0, false
	}
	v = Version(binary.BigEndian.Uint32(b[1:]))
	at := 6
	end := at + int(b[5])
	if end >= len(b) {
		return 0, nil, nil, 0, false
	}
	dst = b[at:end:end]
	at = end + 1
	end = at + int(b[at-1])
	if end > len(b) {
		return 0, nil, nil, 0, false
	}
	return v, dst, b[at:end:end], end, true
}

// ShortDst returns the destination connection ID of a short header whose
// length the receiver knows, because it chose it. It aliases b. ok is false
// for a long header and for a datagram too short to hold the ID.
func ShortDst(b []byte, connIDLen int) (dst []byte, ok bool) {
	if len(b) < 1+connIDLen || IsLong(b[0]) {
		return nil, false
	}
	return b[1 : 1+connIDLen : 1+connIDLen], true
}

// LongHeader is a parsed long header. Slices alias the datagram.
type LongHeader struct {
	Type     PacketType
	Version  Version
	Dst, Src ConnID

	// Token is the token of an Initial packet (empty: none) or of a Retry
	// packet (never empty).
	Token []byte

	// VersionList is what a Version Negotiation packet offers: at least one
	// version of four bytes; see VersionAt.
	VersionList []byte

	// RetryTag is the 16-byte integrity tag that ends a Retry packet.
	RetryTag []byte

	// PNOffset is where the protected packet number begins; 0 for Retry and
	// Version Negotiation, which have none.
	PNOffset int

	// Len is the length of the whole packet with its header. What follows in
	// the datagram is the next coalesced packet. Retry and Version
	// Negotiation take the rest of the datagram.
	Len int
}

// NumVersions returns how many versions a Version Negotiation packet lists.
func (h *LongHeader) NumVersions() int { return len(h.VersionList) / 4 }

// VersionAt returns version i, 0 <= i < NumVersions, of a Version
// Negotiation packet.
func (h *LongHeader) VersionAt(i int) Version {
	return Version(binary.BigEndian.Uint32(h.VersionList[4*i:]))
}

// longTypes maps the two type bits of the first byte to a packet type.
//
// RFC 9369, Section 3.2: "Initial: 0b01", "0-RTT: 0b10", "Handshake: 0b11",
// "Retry: 0b00"
var (
	longTypes1 = [4]PacketType{PacketInitial, Packet0RTT, PacketHandshake, PacketRetry}
	longTypes2 = [4]PacketType{PacketRetry, PacketInitial, Packet0RTT, PacketHandshake}
)

// typeBits is the opposite of longTypes: type t in the first byte of version v.
func typeBits(t PacketType, v Version) byte {
	if v == Version2 {
		t++
	}
	return byte(t&3) << 4
}

// ParseLong reads the long header at the start of b, a datagram or what
// coalesced packets have left of one. The packet number is still protected.
// Errors are ErrTruncated, ErrVersion, ErrConnIDLen and ErrHeader; with
// ErrVersion the Version, Dst and Src of the header are set where the IDs
// have at most 20 bytes.
func ParseLong(b []byte) (LongHeader, error) {
	var h LongHeader
	v, dst, src, rest, ok := ParseInvariant(b)
	if !ok {
		if len(b) > 0 && !IsLong(b[0]) {
			return h, ErrHeader
		}
		return h, ErrTruncated
	}
	var dstOK, srcOK bool
	h.Version = v
	h.Dst, dstOK = MakeConnID(dst)
	h.Src, srcOK = MakeConnID(src)
	if v != 0 && !v.Known() {
		return h, ErrVersion
	}
	// RFC 9000, Section 17.2: "Endpoints that receive a version 1 long header
	// with a value larger than 20 MUST drop the packet."
	if !dstOK || !srcOK {
		return h, ErrConnIDLen
	}
	if v == 0 {
		return h, h.parseVersionNegotiation(b, rest)
	}
	bits := b[0] >> 4 & 3
	if v == Version2 {
		h.Type = longTypes2[bits]
	} else {
		h.Type = longTypes1[bits]
	}
	if h.Type == PacketRetry {
		return h, h.parseRetry(b, rest)
	}
	return h, h.parseNumbered(b, rest)
}

// parseVersionNegotiation reads RFC 9000, Section 17.2.1. At least one
// version has to be there, since an empty list tells a client nothing.
//
// RFC 9000, Section 17.2.1: "Clients MUST ignore the value of this field."
func (h *LongHeader) parseVersionNegotiation(b []byte, at int) error {
	h.Type = PacketVersionNegotiation
	list := b[at:]
	if len(list) == 0 {
		return ErrTruncated
	}
	if len(list)%4 != 0 {
		return ErrHeader
	}
	h.VersionList = list
	h.Len = len(b)
	return nil
}

// retryTagLen is the length of the Retry Integrity Tag.
const retryTagLen = 16

// RFC 9000, Section 17.2.5: "The value in the Unused field is set to an
// arbitrary value by the server; a client MUST ignore these bits."
func (h *LongHeader) parseRetry(b []byte, at int) error {
	if len(b)-at < retryTagLen {
		return ErrTruncated
	}
	// RFC 9000, Section 17.2.5.2: "A client MUST discard a Retry packet with a
	// zero-length Retry Token field."
	end := len(b) - retryTagLen
	if at == end {
		return ErrHeader
	}
	h.Token = b[at:end:end]
	h.RetryTag = b[end:]
	h.Len = len(b)
	return nil
}

// parseNumbered reads what Initial, 0-RTT and Handshake packets have after
// their connection IDs: a token (Initial only) and a length.
func (h *LongHeader) parseNumbered(b []byte, at int) error {
	if h.Type == PacketInitial {
		token, n := consumeVarintBytes(b[at:])
		if n < 0 {
			return ErrTruncated
		}
		h.Token = token
		at += n
	}
	// RFC 9000, Section 17.2: "Length: This is the length of the remainder of
	// the packet (that is, the Packet Number and Payload fields) in bytes"
	length, n := ConsumeVarint(b[at:])
	if n < 0 {
		return ErrTruncated
	}
	at += n
	if length > uint64(len(b)-at) {
		return ErrTruncated
	}
	h.PNOffset = at
	h.Len = at + int(length)
	return nil
}

// appendInvariant appends the part of a long header that all versions share.
func appendInvariant(b []byte, first byte, v Version, dst, src []byte) []byte {
	b = append(b, first)
	b = binary.BigEndian.AppendUint32(b, uint32(v))
	b = append(b, byte(len(dst)))
	b = append(b, dst...)
	b = append(b, byte(len(src)))
	return append(b, src...)
}

// LongHeaderLen returns how many bytes AppendLong adds, packet number
// included. tokenLen counts only for Initial packets.
func LongHeaderLen(t PacketType, dst, src ConnID, tokenLen, pnLen int) int {
	n := 1 + 4 + 1 + dst.Len() + 1 + src.Len() + lengthLen + pnLen
	if t == PacketInitial {
		n += VarintLen(uint64(tokenLen)) + tokenLen
	}
	return n
}

// lengthLen is the width of the Length field that AppendLong leaves room
// for: two bytes count to 16383, more than a datagram that avoids
// fragmentation holds.
const lengthLen = 2

// AppendLong appends the header of an Initial, 0-RTT or Handshake packet
// (t) of version v with the low pnLen (1 to 4) bytes of pn, all unprotected.
// token is written for Initial packets only. lengthAt is the index in out of
// the two-byte Length field, to be filled with SetLength once the payload is
// known.
func AppendLong(b []byte, t PacketType, v Version, dst, src ConnID, token []byte, pn uint64, pnLen int) (out []byte, lengthAt int) {
	// RFC 9000, Section 17.2: "The value included prior to protection MUST be
	// set to 0."
	first := longBit | fixedBit | typeBits(t, v) | byte(pnLen-1)
	b = appendInvariant(b, first, v, dst.b[:dst.n], src.b[:src.n])
	if t == PacketInitial {
		b = appendVarintBytes(b, token)
	}
	lengthAt = len(b)
	b = append(b, 0x40, 0)
	return appendPacketNumber(b, pn, pnLen), lengthAt
}

// SetLength fills the Length field of a packet made with AppendLong. n is the
// length of packet number, payload and AEAD tag together, 0 to 16383.
func SetLength(pkt []byte, lengthAt, n int) {
	pkt[lengthAt] = 0x40 | byte(n>>8)&0x3f
	pkt[lengthAt+1] = byte(n)
}

// Bits of the first byte of a short header (RFC 9000, Section 17.3.1).
const (
	shortSpin     = 0x20
	shortReserved = 0x18
	shortKeyPhase = 0x04
	longReserved  = 0x0c
)

// AppendShort appends the header of a 1-RTT packet with the low pnLen (1 to
// 4) bytes of pn, unprotected.
//
// RFC 9000, Section 17.4: "An endpoint that does not support this feature MUST
// disable it, as defined below."
func AppendShort(b []byte, dst ConnID, pn uint64, pnLen int, keyPhase, spin bool) []byte {
	// RFC 9000, Section 17.3.1: "The value included prior to protection MUST be
	// set to 0."
	first := byte(fixedBit) | byte(pnLen-1)
	if keyPhase {
		first |= shortKeyPhase
	}
	if spin {
		first |= shortSpin
	}
	b = append(b, first)
	b = dst.Append(b)
	return appendPacketNumber(b, pn, pnLen)
}

// KeyPhase returns the key phase bit of an unprotected short header.
func KeyPhase(first byte) bool { return first&shortKeyPhase != 0 }

// Spin returns the latency spin bit of a short header; it is not protected.
//
// RFC 9000, Section 17.4: "When the spin bit is disabled, endpoints MAY set the
// spin bit to any value and MUST ignore any incoming value."
func Spin(first byte) bool { return first&shortSpin != 0 }

// ReservedBits reports whether a reserved bit of first, the first byte of a
// packet without header protection, is set.
//
// RFC 9000, Section 17.2: "An endpoint MUST treat receipt of a packet that has
// a non-zero value for these bits after removing both packet and header
// protection as a connection error of type PROTOCOL_VIOLATION."
//
// RFC 9000, Section 17.3.1: "An endpoint MUST treat receipt of a packet that
// has a non-zero value for these bits, after removing both packet and header
// protection, as a connection error of type PROTOCOL_VIOLATION."
func ReservedBits(first byte) bool {
	if IsLong(first) {
		return first&longReserved != 0
	}
	return first&shortReserved != 0
}

// AppendVersionNegotiation appends a Version Negotiation packet. dst is the
// source connection ID of the packet it answers and src its destination ID,
// at most 255 bytes each; random fills the unused bits.
//
// RFC 9000, Section 17.2.1: "Where QUIC might be multiplexed with other
// protocols (see [RFC7983]), servers SHOULD set the most significant bit of
// this field (0x40) to 1"
//
// RFC 9000, Section 17.2.1: "The Version field of a Version Negotiation packet
// MUST be set to 0x00000000."
func AppendVersionNegotiation(b []byte, dst, src []byte, versions []Version, random byte) []byte {
	b = appendInvariant(b, longBit|fixedBit|random&0x3f, 0, dst, src)
	for _, v := range versions {
		b = binary.BigEndian.AppendUint32(b, uint32(v))
	}
	return b
}

// AppendRetry appends a Retry packet of version v without its integrity tag.
// random fills the four unused bits.
func AppendRetry(b []byte, v Version, dst, src ConnID, token []byte, random byte) []byte {
	first := longBit | fixedBit | typeBits(PacketRetry, v) | random&0x0f
	b = appendInvariant(b, first, v, dst.b[:dst.n], src.b[:src.n])
	return append(b, token...)
}
