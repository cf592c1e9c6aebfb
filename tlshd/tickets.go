package tlshd

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	ticketLifetime  = 24 * time.Hour
	ticketRotate    = 12 * time.Hour
	maxTicketKeys   = 16
	ticketKeyLen    = 32
	ticketIDLen     = 8
	ticketExtraMark = "quic-fsgw ticket 2\x00"
)

// ticketKeys seal session tickets. A ticket is
//
//	key id (8) | nonce (12) | AES-256-GCM(session state)
type ticketKeys struct {
	mu       sync.Mutex
	keys     []ticketKey // the first seals
	inMemory bool
}

type ticketKey struct {
	id   [ticketIDLen]byte
	aead cipher.AEAD
	made time.Time
}

func newTicketKey(raw []byte, now time.Time) (ticketKey, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return ticketKey{}, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return ticketKey{}, err
	}
	k := ticketKey{aead: aead, made: now}
	sum := sha256.Sum256(append([]byte("quic-fsgw ticket key id\x00"), raw...))
	copy(k.id[:], sum[:])
	return k, nil
}

// newTicketKeys makes keys that live in memory only.
func newTicketKeys(now time.Time) *ticketKeys {
	t := &ticketKeys{inMemory: true}
	t.rotate(now)
	return t
}

// loadTicketKeys reads the keys that several gateways share.
func loadTicketKeys(f *fileSet, path string) (*ticketKeys, error) {
	b, err := f.read(path, 64<<10)
	if err != nil {
		return nil, fmt.Errorf("tlshd: ticket_keys: %w", err)
	}
	defer clear(b)
	t := &ticketKeys{}
	var raw [ticketKeyLen]byte
	defer clear(raw[:])
	for i, line := range bytes.Split(b, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(line) != hex.EncodedLen(ticketKeyLen) {
			return nil, fmt.Errorf("tlshd: ticket_keys: %s:%d: %d characters, want %d hexadecimal digits (openssl rand -hex 32)", path, i+1, len(line), hex.EncodedLen(ticketKeyLen))
		}
		if _, err := hex.Decode(raw[:], line); err != nil {
			return nil, fmt.Errorf("tlshd: ticket_keys: %s:%d: not hexadecimal (openssl rand -hex 32)", path, i+1)
		}
		k, err := newTicketKey(raw[:], time.Time{})
		if err != nil {
			return nil, err
		}
		if t.keys = append(t.keys, k); len(t.keys) > maxTicketKeys {
			return nil, fmt.Errorf("tlshd: ticket_keys: %s: more than %d keys", path, maxTicketKeys)
		}
	}
	if len(t.keys) == 0 {
		return nil, fmt.Errorf("tlshd: ticket_keys: %s: no key in it (openssl rand -hex 32)", path)
	}
	return t, nil
}

// rotate puts a fresh key in front when the first one is old, and forgets those
// whose tickets have all expired.
func (t *ticketKeys) rotate(now time.Time) {
	if len(t.keys) > 0 && now.Sub(t.keys[0].made) < ticketRotate {
		return
	}
	var raw [ticketKeyLen]byte
	rand.Read(raw[:]) // never fails
	k, err := newTicketKey(raw[:], now)
	clear(raw[:])
	if err != nil {
		return // cannot be: the key has the right length
	}
	kept := []ticketKey{k}
	for _, old := range t.keys {
		if now.Sub(old.made) < ticketRotate+ticketLifetime && len(kept) < maxTicketKeys {
			kept = append(kept, old)
		}
	}
	t.keys = kept
}

func (t *ticketKeys) sealing(now time.Time) ticketKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inMemory {
		t.rotate(now)
	}
	return t.keys[0]
}

func (t *ticketKeys) find(id []byte) (ticketKey, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.keys {
		if bytes.Equal(k.id[:], id) {
			return k, true
		}
	}
	return ticketKey{}, false
}

// ticketBinding is what a ticket is good for. Tickets of crypto/tls are bound to
// nothing: without this one from a public route would open a private one.
type ticketBinding struct {
	route, name, alpn, policy [sha256.Size]byte
	version                   uint32     // of QUIC
	early                     earlyStamp // without limits: not for 0-RTT
}

// ticketExtraLen is the length of a binding in a session's Extra, but for what
// it has to say of 0-RTT.
const ticketExtraLen = len(ticketExtraMark) + 8 + 4*sha256.Size + 4

func bindTicket(route, name, alpn string, policy [sha256.Size]byte) ticketBinding {
	return ticketBinding{route: sha256.Sum256([]byte(route)), name: sha256.Sum256([]byte(name)), alpn: sha256.Sum256([]byte(alpn)), policy: policy}
}

func (b *ticketBinding) extra(now time.Time) []byte {
	out := append([]byte(nil), ticketExtraMark...)
	out = binary.BigEndian.AppendUint64(out, uint64(now.Unix()))
	out = append(out, b.route[:]...)
	out = append(out, b.name[:]...)
	out = append(out, b.alpn[:]...)
	out = append(out, b.policy[:]...)
	out = binary.BigEndian.AppendUint32(out, b.version)
	return b.early.append(out)
}

// refusal names why a ticket is not good here; "": it is. early is what it says of
// 0-RTT.
func (b *ticketBinding) refusal(extras [][]byte, now time.Time) (early earlyStamp, why string) {
	var e []byte
	for _, x := range extras {
		if len(x) >= ticketExtraLen && bytes.HasPrefix(x, []byte(ticketExtraMark)) {
			e = x[len(ticketExtraMark):]
		}
	}
	if e == nil {
		return early, "unbound"
	}
	issued := time.Unix(int64(binary.BigEndian.Uint64(e)), 0)
	e = e[8:]
	switch {
	case now.Sub(issued) > ticketLifetime || now.Before(issued.Add(-time.Minute)):
		return early, "expired"
	case !bytes.Equal(e[:32], b.route[:]):
		return early, "other_route"
	case !bytes.Equal(e[32:64], b.name[:]):
		return early, "other_name"
	case !bytes.Equal(e[64:96], b.alpn[:]):
		return early, "other_alpn"
	case !bytes.Equal(e[96:128], b.policy[:]):
		return early, "policy_changed"
	// RFC 9369, Section 5: "Servers MUST validate the originating version of any
	// session ticket or token and not accept one issued from a different version."
	case binary.BigEndian.Uint32(e[128:]) != b.version:
		return early, "other_version"
	}
	return parseEarlyStamp(e[132:]), ""
}

// wrap makes a ticket of a session.
func (t *ticketKeys) wrap(b *ticketBinding, ss *tls.SessionState, now time.Time) ([]byte, error) {
	ss.Extra = append(ss.Extra, b.extra(now))
	plain, err := ss.Bytes()
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	k := t.sealing(now)
	out := make([]byte, ticketIDLen+k.aead.NonceSize(), ticketIDLen+k.aead.NonceSize()+len(plain)+k.aead.Overhead())
	copy(out, k.id[:])
	nonce := out[ticketIDLen:]
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	if out = k.aead.Seal(out, nonce, plain, out[:ticketIDLen]); len(out) > maxTicketLen-64 {
		return nil, errors.New("the session does not fit in a ticket")
	}
	return out, nil
}

// unwrap opens a ticket and returns the session and what it says of 0-RTT, or why
// there is none.
func (t *ticketKeys) unwrap(b *ticketBinding, ticket []byte, now time.Time) (*tls.SessionState, earlyStamp, string) {
	var none earlyStamp
	if len(ticket) < ticketIDLen+12 {
		return nil, none, "malformed"
	}
	k, ok := t.find(ticket[:ticketIDLen])
	if !ok {
		return nil, none, "unknown_key"
	}
	rest := ticket[ticketIDLen:]
	n := k.aead.NonceSize()
	plain, err := k.aead.Open(nil, rest[:n], rest[n:], ticket[:ticketIDLen])
	if err != nil {
		return nil, none, "malformed"
	}
	ss, err := tls.ParseSessionState(plain)
	if err != nil {
		clear(plain)
		return nil, none, "malformed"
	}
	// A session that is used keeps parts of plain, its secret among them.
	early, why := b.refusal(ss.Extra, now)
	if why != "" {
		clear(plain)
		return nil, none, why
	}
	return ss, early, ""
}
