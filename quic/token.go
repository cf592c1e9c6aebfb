package quic

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Address validation tokens (RFC 9000, Section 8.1.4): sealed, so that a client
// can neither read nor make one, and bound to its IP address, the QUIC version
// and a time. A Retry token answers one Initial and must come back at once in a
// packet to the connection ID that the Retry gave; a NEW_TOKEN token saves the
// round trip of a Retry in one later connection, from any port.
//
//	kind (1) | key id (4) | nonce (12) | AES-256-GCM(time (8), original connection ID)

const (
	retryTokenLife = 10 * time.Second
	newTokenLife   = 24 * time.Hour
	tokenKeyLife   = newTokenLife / 2 // of keys made here, until the next is made

	// RFC 9000, Section 8.1.1: "A token sent in a NEW_TOKEN frame or a Retry
	// packet MUST be constructed in a way that allows the server to identify
	// how it was provided to a client."
	retryMark    = 0x52 // first byte of a Retry token of ours
	newTokenMark = 0x4e // and of a NEW_TOKEN token

	tokenKeyID  = 4
	tokenNonce  = 12
	tokenHeader = 1 + tokenKeyID + tokenNonce
	minTokenLen = tokenHeader + 8 + 16
)

// A tokenKey seals or opens tokens.
type tokenKey struct {
	id   [tokenKeyID]byte
	aead cipher.AEAD
	made time.Time
}

func newTokenKey(secret *[32]byte, now time.Time) tokenKey {
	raw, err := hkdf.Key(sha256.New, secret[:], nil, "quic-fsgw address token", 32+tokenKeyID)
	if err != nil {
		panic("quic: HKDF with SHA-256: " + err.Error())
	}
	defer clear(raw)
	block, err := aes.NewCipher(raw[:32])
	if err != nil {
		panic("quic: AES with a 32-byte key: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("quic: GCM: " + err.Error())
	}
	return tokenKey{id: [tokenKeyID]byte(raw[32:]), aead: aead, made: now}
}

// resetKeyOf is the key of stateless resets: the one given, or one that belongs to
// the last of the address keys, which stays the same while newer ones come.
func (c *Config) resetKeyOf() *[32]byte {
	if c.ResetKey != nil || len(c.AddressKeys) == 0 {
		return c.ResetKey
	}
	last := c.AddressKeys[len(c.AddressKeys)-1]
	raw, err := hkdf.Key(sha256.New, last[:], nil, "quic-fsgw stateless reset", 32)
	if err != nil {
		panic("quic: HKDF with SHA-256: " + err.Error())
	}
	k := [32]byte(raw)
	return &k
}

// tokenMaker makes and checks the tokens of an endpoint.
type tokenMaker struct {
	mu    sync.Mutex
	keys  []tokenKey // the first seals
	own   bool       // made here, and changed from time to time
	spent spentTokens
}

// An addressToken is what a client's token has shown.
type addressToken struct {
	retry       bool
	originalDst wire.ConnID // of a Retry token
	id          [tokenNonce]byte
	issued      time.Time
}

func newTokenMaker(cfg *Config) *tokenMaker {
	t := new(tokenMaker)
	t.configure(cfg)
	return t
}

// configure takes the keys of a Config; with none there, those made before stay.
func (t *tokenMaker) configure(cfg *Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cfg != nil && len(cfg.AddressKeys) > 0 {
		t.own, t.keys = false, nil
		for i := range cfg.AddressKeys {
			t.keys = append(t.keys, newTokenKey(&cfg.AddressKeys[i], time.Time{}))
		}
		return
	}
	if !t.own {
		t.own, t.keys = true, nil
	}
}

// key is the key to seal with.
func (t *tokenMaker) key(now time.Time) tokenKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.own && (len(t.keys) == 0 || now.Sub(t.keys[0].made) >= tokenKeyLife) {
		var secret [32]byte
		_, _ = rand.Read(secret[:]) // never fails
		t.keys = slices.Insert(t.keys, 0, newTokenKey(&secret, now))
		clear(secret[:])
		for len(t.keys) > 1 && now.Sub(t.keys[len(t.keys)-1].made) > newTokenLife+tokenKeyLife {
			t.keys = t.keys[:len(t.keys)-1]
		}
	}
	return t.keys[0]
}

func (t *tokenMaker) byID(id [tokenKeyID]byte) (tokenKey, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.keys {
		if k.id == id {
			return k, true
		}
	}
	return tokenKey{}, false
}

// retry makes the token of a Retry packet from src.
func (t *tokenMaker) retry(original, src wire.ConnID, v Version, addr netip.Addr, now time.Time) []byte {
	return t.seal(retryMark, original.Append(nil), tokenData(retryMark, v, addr, src), now)
}

// next makes the token of a NEW_TOKEN frame.
//
// RFC 9000, Section 8.1.3: "A token issued with NEW_TOKEN MUST NOT include
// information that would allow values to be linked by an observer to the
// connection on which it was issued."
//
// RFC 9000, Section 8.1.3: "A server MUST ensure that every NEW_TOKEN frame it
// sends is unique across all clients, with the exception of those sent to
// repair losses of previously sent NEW_TOKEN frames."
func (t *tokenMaker) next(v Version, addr netip.Addr, now time.Time) []byte {
	return t.seal(newTokenMark, nil, tokenData(newTokenMark, v, addr, wire.ConnID{}), now)
}

// RFC 9000, Section 8.1.4: "An address validation token MUST be difficult to
// guess."
func (t *tokenMaker) seal(mark byte, contents, data []byte, now time.Time) []byte {
	k := t.key(now)
	b := make([]byte, tokenHeader, minTokenLen+len(contents))
	b[0] = mark
	copy(b[1:], k.id[:])
	nonce := b[1+tokenKeyID:]
	_, _ = rand.Read(nonce) // never fails
	plain := binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano()))
	return k.aead.Seal(b, nonce, append(plain, contents...), data)
}

// open checks the token of an Initial packet.
//
// RFC 9000, Section 8.1.4: "For this design to work, the token MUST be covered
// by integrity protection against modification or falsification by clients."
func (t *tokenMaker) open(h *wire.LongHeader, addr netip.Addr, now time.Time) (tok addressToken, ok bool) {
	b := h.Token
	if len(b) < minTokenLen || b[0] != retryMark && b[0] != newTokenMark {
		return tok, false
	}
	k, ok := t.byID([tokenKeyID]byte(b[1:]))
	if !ok {
		return tok, false
	}
	tok.retry = b[0] == retryMark
	tok.id = [tokenNonce]byte(b[1+tokenKeyID:])
	life, src := newTokenLife, wire.ConnID{}
	if tok.retry {
		life, src = retryTokenLife, h.Dst
	}
	plain, err := k.aead.Open(nil, tok.id[:], b[tokenHeader:], tokenData(b[0], h.Version, addr, src))
	if err != nil {
		return tok, false
	}
	tok.issued = time.Unix(0, int64(binary.BigEndian.Uint64(plain)))
	tok.originalDst, ok = wire.MakeConnID(plain[8:])
	age := now.Sub(tok.issued)
	return tok, ok && age >= -time.Second && age <= life
}

// tokenData is what a token is bound to. RFC 9369, Section 5: "servers MUST
// validate the originating version of any session ticket or token and not accept
// one issued from a different version."
//
// RFC 9000, Section 8.1.4: "Tokens sent in NEW_TOKEN frames MUST include
// information that allows the server to verify that the client IP address has
// not changed from when the token was issued."
func tokenData(mark byte, v Version, addr netip.Addr, src wire.ConnID) []byte {
	b := binary.BigEndian.AppendUint32([]byte{mark}, uint32(v))
	a := addr.Unmap().WithZone("").As16()
	return src.Append(append(b, a[:]...))
}

// isRetryToken tells whether a token says that it comes from a Retry of ours.
func isRetryToken(b []byte) bool { return len(b) >= minTokenLen && b[0] == retryMark }

// spentTokens remembers tokens that have opened a connection. RFC 9000, Section
// 8.1.4: "To protect against such attacks, servers MUST ensure that replay of
// tokens is prevented or limited." It is bounded: of what it forgot it knows the
// newest time of issue, and takes nothing up to that.
type spentTokens struct {
	now, before map[[tokenNonce]byte]struct{}
	newest      [2]time.Time // of those two
	forgotten   time.Time
}

// maxSpentTokens is how many are remembered in each of the two maps.
const maxSpentTokens = 1 << 15

// spent reports whether a token was used before.
func (t *tokenMaker) spentBefore(tok *addressToken) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.spent
	if _, ok := s.now[tok.id]; ok {
		return true
	}
	_, ok := s.before[tok.id]
	return ok || !tok.retry && !tok.issued.After(s.forgotten)
}

// spend marks a token as used.
func (t *tokenMaker) spend(tok *addressToken) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.spent
	if len(s.now) >= maxSpentTokens {
		if s.newest[1].After(s.forgotten) {
			s.forgotten = s.newest[1]
		}
		s.before, s.now = s.now, nil
		s.newest = [2]time.Time{{}, s.newest[0]}
	}
	if s.now == nil {
		s.now = make(map[[tokenNonce]byte]struct{})
	}
	s.now[tok.id] = struct{}{}
	if !tok.retry && tok.issued.After(s.newest[0]) {
		s.newest[0] = tok.issued
	}
}
