//go:build !purego

package gcm

import (
	"crypto/cipher"
	"crypto/fips140"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"

	"golang.org/x/sys/cpu"
)

const (
	blockSize = 16
	nonceSize = 12
	tagSize   = 16
)

var errOpen = errors.New("quic/protect/gcm: message authentication failed")

var usable = cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasBMI2 && cpu.X86.HasAVX2 &&
	cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL &&
	cpu.X86.HasAVX512VAES && cpu.X86.HasAVX512VPCLMULQDQ && !fips140.Enabled()

// keys is what the assembly knows by its offsets.
type keys struct {
	// The round keys in order; the last one is always at the end.
	round  [15][blockSize]byte
	rounds uint64
	_      uint64
	// H to the powers of 16 to 1, each times x and with its bytes in the order of
	// the processor, and zeros for blocks that there are not.
	powers [32][blockSize]byte
}

// crypt encrypts n bytes from src to dst, or decrypts them if open is 1, and
// stores the tag. dst is src, or does not overlap it.
//
//go:noescape
func crypt(k *keys, dst, src *byte, n int, aad *byte, aadLen int, nonce, tag *byte, open int)

// subWord is SubWord of FIPS 197 without a table that a cache could tell of.
//
//go:noescape
func subWord(w uint32) uint32

// encrypt encrypts a block.
//
//go:noescape
func encrypt(k *keys, dst, src *byte)

// mul multiplies a and b, one of which was multiplied by x before.
//
//go:noescape
func mul(dst, a, b *[blockSize]byte)

func newAEAD(key []byte) (cipher.AEAD, bool) {
	if !usable || len(key) != 16 && len(key) != 32 {
		return nil, false
	}
	a := new(aead)
	a.keys.expand(key)
	a.keys.hash()
	return a, true
}

// expand is KeyExpansion of FIPS 197, Section 5.2.
func (k *keys) expand(key []byte) {
	nk := len(key) / 4
	k.rounds = uint64(nk + 6)
	var w [60]uint32
	n := 4 * (nk + 7)
	rcon := uint32(1)
	for i := range w[:n] {
		if i < nk {
			w[i] = binary.LittleEndian.Uint32(key[4*i:])
			continue
		}
		t := w[i-1]
		switch {
		case i%nk == 0:
			t = subWord(bits.RotateLeft32(t, -8)) ^ rcon
			rcon = rcon<<1 ^ rcon>>7*0x11b
		case nk > 6 && i%nk == 4:
			t = subWord(t)
		}
		w[i] = w[i-nk] ^ t
	}
	for i, x := range w[:n] {
		r := i / 4
		if r == int(k.rounds) {
			r = len(k.round) - 1
		}
		binary.LittleEndian.PutUint32(k.round[r][4*(i%4):], x)
	}
	clear(w[:])
}

// hash makes the powers of H.
func (k *keys) hash() {
	var h [blockSize]byte
	encrypt(k, &h[0], &h[0])
	hi, lo := binary.BigEndian.Uint64(h[:]), binary.BigEndian.Uint64(h[8:])
	carry := -(hi >> 63) // all ones, or none
	hi, lo = hi<<1|lo>>63, lo<<1
	hi ^= carry & (0xc2 << 56)
	lo ^= carry & 1
	const one = 15
	binary.LittleEndian.PutUint64(k.powers[one][:], lo)
	binary.LittleEndian.PutUint64(k.powers[one][8:], hi)
	for i := one - 1; i >= 0; i-- {
		mul(&k.powers[i], &k.powers[i+1], &k.powers[one])
	}
	clear(h[:])
}

type aead struct{ keys keys }

func (a *aead) NonceSize() int { return nonceSize }
func (a *aead) Overhead() int  { return tagSize }

func (a *aead) Seal(dst, nonce, plaintext, additional []byte) []byte {
	check(nonce, plaintext)
	out, room := extend(dst, len(plaintext)+tagSize)
	tag := room[len(plaintext):]
	crypt(&a.keys, first(room), first(plaintext), len(plaintext), first(additional), len(additional), &nonce[0], &tag[0], 0)
	return out
}

func (a *aead) Open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	check(nonce, ciphertext)
	n := len(ciphertext) - tagSize
	if n < 0 {
		return nil, errOpen
	}
	out, room := extend(dst, n)
	var tag, want [tagSize]byte
	copy(want[:], ciphertext[n:])
	crypt(&a.keys, first(room), first(ciphertext), n, first(additional), len(additional), &nonce[0], &tag[0], 1)
	if subtle.ConstantTimeCompare(tag[:], want[:]) == 0 {
		clear(room)
		return nil, errOpen
	}
	return out, nil
}

// maxText is the most that one counter encrypts (SP 800-38D, Section 5.2.1.1), in
// bytes.
const maxText = (1<<32 - 2) * blockSize

func check(nonce, text []byte) {
	if len(nonce) != nonceSize {
		panic("quic/protect/gcm: a nonce has 12 bytes")
	}
	if uint64(len(text)) > maxText {
		panic("quic/protect/gcm: message too large")
	}
}

// extend appends n bytes to b, and returns all and those.
func extend(b []byte, n int) (all, room []byte) {
	all = slices.Grow(b, n)[:len(b)+n]
	return all, all[len(b):]
}

// first is a pointer to the first byte, nil if there is none.
func first(b []byte) *byte {
	if len(b) == 0 {
		return nil
	}
	return &b[0]
}
