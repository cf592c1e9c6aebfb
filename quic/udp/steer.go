package udp

import (
	"encoding/binary"
	"fmt"
	"io"
)

// This file is the only one that knows where a connection ID says which shard
// it belongs to: in Go (Layout) and in the kernel (program). Both are the same
// function of a packet:
//
//  1. A destination connection ID of our layout names its shard.
//  2. Any other long header packet has a connection ID chosen by the client;
//     its bytes pick the shard. A handshake whose address changes, or whose
//     ClientHello spans several Initials, therefore stays on one shard, and so
//     does a retransmission after a shard was replaced.
//  3. Anything else (runts, short headers of nobody) belongs to any shard.
//
// The function never looks at a socket's position in its reuseport group: the
// program maps shards to positions as its last step.

// Connection-ID layout:
//
//	octet 0   config rotation (3 bits), length of what follows (5 bits)
//	octet 1   shard
//	octet 2   generation
//	octet 3-  random, at least 5 octets
//
// The first octet is that of the QUIC-LB draft; rotation 7 is its mark for an
// ID that cannot be routed.
const (
	DefaultConnIDLen = 10
	MinConnIDLen     = 8
	MaxConnIDLen     = 20
	MaxShards        = 255

	rotationNone = 7
	lengthMask   = 0x1f
	minClientID  = 8
)

// Layout is the shape of the connection IDs an endpoint hands out. The zero
// value is the default: 10 octets, rotation 0. Values out of range are
// replaced by the nearest one in range.
type Layout struct {
	Len      int   // octets of a connection ID, 8 to 20; 0 is 10
	Rotation uint8 // 0 to 6, told apart by load balancers; not looked at here
}

// Size is the length of the connection IDs of this layout, 8 to 20.
//
// RFC 9000, Section 5.1: "An endpoint MUST NOT use the same IP address and port
// for multiple concurrent connections with zero-length connection IDs, unless
// it is certain that those protocol features are not in use."
func (l Layout) Size() int {
	switch {
	case l.Len == 0:
		return DefaultConnIDLen
	case l.Len < MinConnIDLen:
		return MinConnIDLen
	case l.Len > MaxConnIDLen:
		return MaxConnIDLen
	}
	return l.Len
}

// Append appends a new connection ID of Size octets. random fills all but the
// first three octets; it is crypto/rand.Reader outside tests, which cannot
// fail. An error of another reader is returned with b unchanged.
//
// RFC 9000, Section 5.1: "Connection IDs MUST NOT contain any information that
// can be used by an external observer (that is, one that does not cooperate
// with the issuer) to correlate them with other connection IDs for the same
// connection."
func (l Layout) Append(b []byte, shard, generation uint8, random io.Reader) ([]byte, error) {
	var id [MaxConnIDLen]byte
	n := l.Size()
	id[0] = min(l.Rotation, rotationNone-1)<<5 | uint8(n-1)
	id[1], id[2] = shard, generation
	if _, err := io.ReadFull(random, id[3:n]); err != nil {
		return b, fmt.Errorf("udp: random bytes for a connection ID: %w", err)
	}
	return append(b, id[:n]...), nil
}

// Shard reads a connection ID. ok is false if it is not of this layout, as
// most IDs chosen by clients are not.
func (l Layout) Shard(id []byte) (shard, generation uint8, ok bool) {
	if len(id) != l.Size() || !l.own(id[0]) {
		return 0, 0, false
	}
	return id[1], id[2], true
}

// own says whether first starts a connection ID of this layout.
func (l Layout) own(first byte) bool {
	return first>>5 != rotationNone && int(first&lengthMask) == l.Size()-1
}

// Steer returns the shard (0 to shards-1) that pkt, one datagram, belongs to.
// ok is false if any shard may take it.
//
// A reader compares it with its own shard for every datagram that it finds no
// connection for, and hands the datagram to the right reader. That is needed
// in two cases: the kernel joins datagrams of one address pair by GRO before
// it steers, so one shard can receive those of several; and while a shard is
// replaced its packets reach the others for some microseconds.
func (l Layout) Steer(pkt []byte, shards int) (shard int, ok bool) {
	if len(pkt) < l.minSteered() || shards < 1 {
		return 0, false
	}
	if pkt[0]&0x80 == 0 {
		if l.own(pkt[1]) && int(pkt[2]) < shards {
			return int(pkt[2]), true
		}
		return 0, false
	}
	n := int(pkt[5])
	if n == l.Size() && l.own(pkt[6]) && int(pkt[7]) < shards {
		return int(pkt[7]), true
	}
	// RFC 9000, Section 7.2: "This Destination Connection ID MUST be at least
	// 8 bytes in length."
	if n < minClientID {
		return 0, false
	}
	h := binary.BigEndian.Uint32(pkt[6:]) ^ binary.BigEndian.Uint32(pkt[10:])
	return int(h % uint32(shards)), true
}

// minSteered is the length below which a packet is not looked at: all loads of
// the program stay inside it. (A load outside ends a classic BPF program with
// the value 0, which would name a socket.)
func (l Layout) minSteered() int { return max(1+l.Size(), 6+minClientID) }

// instruction is one classic BPF instruction, in the kernel's fields.
type instruction struct {
	op     uint16
	jt, jf uint8
	k      uint32
}

// Classic BPF opcodes, as in linux/bpf_common.h.
const (
	opLoadLen  = 0x80 // A = len
	opLoadByte = 0x30 // A = byte[k]
	opLoadWord = 0x20 // A = big-endian word[k]
	opAnd      = 0x54 // A &= k
	opMod      = 0x94 // A %= k
	opXorX     = 0xac // A ^= X
	opToX      = 0x07 // X = A
	opJumpEq   = 0x15 // A == k
	opJumpGE   = 0x35 // A >= k
	opJumpSet  = 0x45 // A & k
	opRetA     = 0x16
	opRetK     = 0x06
)

// anySocket is out of range for every group: the kernel then picks a socket by
// its hash of the addresses.
const anySocket = 0xffffffff

// program is Steer for SO_ATTACH_REUSEPORT_CBPF: offset 0 is the first byte
// after the UDP header, the result is a position in the group. positions[s] is
// where shard s stands in the kernel's table of the group, < 0 if nowhere.
func (l Layout) program(positions []int) []instruction {
	const ( // places in the program below
		atLong  = 10
		atOther = 18
		atAny   = 26
		atMap   = 27
		next    = -1
	)
	var p []instruction
	add := func(op uint16, k int) { p = append(p, instruction{op: op, k: uint32(k)}) }
	jump := func(op uint16, k, yes, no int) {
		rel := func(to int) uint8 {
			if to == next {
				return 0
			}
			return uint8(to - len(p) - 1)
		}
		p = append(p, instruction{op, rel(yes), rel(no), uint32(k)})
	}
	size := l.Size()
	// ownID tests the connection ID at offset at and leaves the shard in A.
	ownID := func(at, otherwise int) {
		add(opLoadByte, at)
		jump(opJumpGE, rotationNone<<5, otherwise, next)
		add(opAnd, lengthMask)
		jump(opJumpEq, size-1, next, otherwise)
		add(opLoadByte, at+1)
		jump(opJumpGE, len(positions), otherwise, atMap)
	}
	add(opLoadLen, 0)
	jump(opJumpGE, l.minSteered(), next, atAny)
	add(opLoadByte, 0)
	jump(opJumpSet, 0x80, atLong, next)
	ownID(1, atAny)
	// atLong
	add(opLoadByte, 5)
	jump(opJumpEq, size, next, atOther)
	ownID(6, atOther)
	// atOther
	add(opLoadByte, 5)
	jump(opJumpGE, minClientID, next, atAny)
	add(opLoadWord, 6)
	add(opToX, 0)
	add(opLoadWord, 10)
	add(opXorX, 0)
	add(opMod, len(positions))
	jump(opJumpGE, 0, atMap, atMap) // always
	// atAny
	p = append(p, instruction{op: opRetK, k: anySocket})
	// atMap: most shards stand at the position of their number
	for shard, at := range positions {
		if at != shard {
			p = append(p, instruction{opJumpEq, 0, 1, uint32(shard)}, instruction{op: opRetK, k: uint32(at)})
		}
	}
	add(opRetA, 0)
	return p
}
