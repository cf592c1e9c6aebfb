package quic

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Retry tokens (RFC 9000, Section 8.1.4): sealed, so that a client can neither
// read nor make one; bound to the client's IP address and to a short time.

const (
	retryTokenLife = 10 * time.Second
	tokenMark      = 0x52 // first byte of a Retry token of ours
	tokenNonce     = 12
)

type tokenMaker struct{ aead cipher.AEAD }

type retryToken struct{ originalDst wire.ConnID }

func newTokenMaker(cfg *Config) *tokenMaker {
	var key [32]byte
	if cfg != nil && cfg.TokenKey != nil {
		key = *cfg.TokenKey
	} else {
		_, _ = rand.Read(key[:]) // never fails
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("quic: AES with a 32-byte key: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("quic: GCM: " + err.Error())
	}
	return &tokenMaker{aead}
}

// seal makes a token: mark, nonce, sealed (time, original connection ID).
func (t *tokenMaker) seal(dst wire.ConnID, addr netip.Addr, now time.Time) []byte {
	b := make([]byte, 1+tokenNonce, 1+tokenNonce+8+wire.MaxConnIDLen+16)
	b[0] = tokenMark
	_, _ = rand.Read(b[1:])
	plain := binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano()))
	plain = dst.Append(plain)
	return t.aead.Seal(b, b[1:1+tokenNonce], plain, tokenAddr(addr))
}

// open checks a token that a client returned.
func (t *tokenMaker) open(b []byte, addr netip.Addr, now time.Time) (retryToken, bool) {
	if !tokenLooksOurs(b) {
		return retryToken{}, false
	}
	plain, err := t.aead.Open(nil, b[1:1+tokenNonce], b[1+tokenNonce:], tokenAddr(addr))
	if err != nil || len(plain) < 8 {
		return retryToken{}, false
	}
	age := now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(plain))))
	dst, ok := wire.MakeConnID(plain[8:])
	if !ok || age < -time.Second || age > retryTokenLife {
		return retryToken{}, false
	}
	return retryToken{dst}, true
}

func tokenLooksOurs(b []byte) bool {
	return len(b) >= 1+tokenNonce+8+16 && b[0] == tokenMark
}

func tokenAddr(a netip.Addr) []byte {
	b, _ := a.Unmap().MarshalBinary() // never fails
	return b
}
