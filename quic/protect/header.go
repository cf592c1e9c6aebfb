package protect

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// headerKey makes header protection masks. It stays the same over key
// updates.
type headerKey struct {
	block  cipher.Block // AES suites, else nil; nil while it rests
	key    []byte       // AES suites: what block is made of
	chacha *[chacha20.KeySize]byte
	out    [aes.BlockSize]byte // scratch: a local one would escape through block
}

func (h *headerKey) init(suite uint16, key []byte) (err error) {
	if suite == suiteChaCha20Poly1305 {
		h.chacha = new([chacha20.KeySize]byte)
		copy(h.chacha[:], key)
		return nil
	}
	h.key = append([]byte(nil), key...)
	if h.block, err = aes.NewCipher(key); err != nil {
		return fmt.Errorf("quic/protect: header protection: %w", err)
	}
	return nil
}

// clone copies the key, so that zeroing one copy leaves the other alone.
func (h *headerKey) clone() headerKey {
	c := headerKey{block: h.block, key: append([]byte(nil), h.key...)}
	if h.chacha != nil {
		c.chacha = new([chacha20.KeySize]byte)
		*c.chacha = *h.chacha
	}
	return c
}

func (h *headerKey) zero() {
	h.block = nil
	clear(h.key)
	h.key = nil
	if h.chacha != nil {
		clear(h.chacha[:])
		h.chacha = nil
	}
	clear(h.out[:])
}

func (h *headerKey) gone() bool { return h.key == nil && h.chacha == nil }

// wake makes the cipher again that was let go.
func (h *headerKey) wake() {
	if h.block != nil || h.key == nil {
		return
	}
	var err error
	if h.block, err = aes.NewCipher(h.key); err != nil {
		panic("quic/protect: header protection: " + err.Error()) // it was made of this key before
	}
}

// mask sets h.out[:5] to the mask of sample, which has SampleLen bytes.
func (h *headerKey) mask(sample []byte) { h.maskTo(&h.out, sample) }

// maskTo sets out[:5].
func (h *headerKey) maskTo(out *[aes.BlockSize]byte, sample []byte) {
	h.wake()
	if h.block != nil {
		// RFC 9001, Section 5.4.3: "mask = AES-ECB(hp_key, sample)"
		h.block.Encrypt(out[:], sample)
		return
	}
	// RFC 9001, Section 5.4.4: "The first 4 bytes of the sampled ciphertext are
	// the block counter. A ChaCha20 implementation could take a 32-bit integer
	// in place of a byte sequence, in which case, the byte sequence is
	// interpreted as a little-endian value." "The remaining 12 bytes are used
	// as the nonce."
	c, err := chacha20.NewUnauthenticatedCipher(h.chacha[:], sample[4:SampleLen])
	if err != nil {
		panic("quic/protect: chacha20 refused key or nonce of fixed length: " + err.Error())
	}
	c.SetCounter(binary.LittleEndian.Uint32(sample))
	clear(out[:])
	c.XORKeyStream(out[:5], out[:5])
}

// Bits of the first byte that are protected.
//
// RFC 9001, Section 5.4: "The four least significant bits of the first byte are
// protected for packets with long headers; the five least significant bits of
// the first byte are protected for packets with short headers."
const (
	longMask  = 0x0f
	shortMask = 0x1f
)

func firstByteMask(first byte) byte {
	if wire.IsLong(first) {
		return longMask
	}
	return shortMask
}

// samplePastPN is where the sample begins after the start of the packet
// number.
//
// RFC 9001, Section 5.4.2: "in sampling packet ciphertext for header
// protection, the Packet Number field is assumed to be 4 bytes long (its
// maximum possible encoded length)"
const samplePastPN = 4

// MinPayload returns how many bytes of frames a packet needs at least so that
// the receiver has enough to sample: PADDING has to make up for less.
//
// RFC 9001, Section 5.4.2: "To ensure that sufficient data is available for
// sampling, packets are padded so that the combined lengths of the encoded
// packet number and protected payload is at least 4 bytes longer than the
// sample required for header protection."
func MinPayload(pnLen int) int { return samplePastPN + SampleLen - TagLen - pnLen }

// ProtectHeader applies header protection to pkt, a whole sealed packet whose
// packet number of pnLen (1 to 4) bytes begins at pnOffset. pkt must have
// SampleLen bytes from pnOffset+4 on (see MinPayload).
func (k *Key) ProtectHeader(pkt []byte, pnOffset, pnLen int) {
	k.header.protect(pkt, pnOffset, pnLen, &k.header.out)
}

// protect is ProtectHeader with memory for the mask.
func (h *headerKey) protect(pkt []byte, pnOffset, pnLen int, mask *[aes.BlockSize]byte) {
	at := pnOffset + samplePastPN
	h.maskTo(mask, pkt[at:at+SampleLen])
	pkt[0] ^= mask[0] & firstByteMask(pkt[0])
	for i := range pnLen {
		pkt[pnOffset+i] ^= mask[1+i]
	}
}

// UnprotectHeader removes header protection from pkt, one packet without what
// is coalesced behind it, whose packet number begins at pnOffset. It returns
// the length of the packet number and its truncated value. ok is false, and
// pkt as it was, if pkt is too short to sample or the key was zeroed. The
// header is not authenticated before Open succeeds: nothing may be concluded
// from its reserved bits or its key phase until then.
func (k *Key) UnprotectHeader(pkt []byte, pnOffset int) (pnLen int, truncated uint64, ok bool) {
	at := pnOffset + samplePastPN
	if pnOffset < 1 || len(pkt) < at+SampleLen || k.header.gone() {
		return 0, 0, false
	}
	k.header.mask(pkt[at : at+SampleLen])
	pkt[0] ^= k.header.out[0] & firstByteMask(pkt[0])
	pnLen = int(pkt[0]&3) + 1
	for i := range pnLen {
		pkt[pnOffset+i] ^= k.header.out[1+i]
		truncated = truncated<<8 | uint64(pkt[pnOffset+i])
	}
	return pnLen, truncated, true
}
