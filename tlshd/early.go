package tlshd

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"slices"
	"time"
)

// 0-RTT in the helper. crypto/tls makes the keys and checks suite and protocol; all
// else is here:
//
//   - Only where START asks for it, and never on "smb" and "sunrpc" (RPC over QUIC
//     forbids it, and a write that is repeated is another write).
//   - A ticket is good for it at the helper that issued it, so that neither a
//     restart nor a second gateway with the same ticket_keys can be made to take
//     it again.
//   - Freshness (RFC 8446, Section 8.3): the age that the client gives the ticket
//     has to be the one it has here, within earlyWindow.
//   - Single use (Section 8.1) within the time in which a first flight is fresh
//     (spent.go).
//   - What the server has promised then holds now (RFC 9000, Section 7.4.1).

// earlyWindow is how far the client's idea of its ticket's age may be off. Clients
// count from when they got it, some in whole seconds.
const earlyWindow = 10 * time.Second

// sessionMark begins what a client keeps with a session.
const sessionMark = "quic-fsgw session 1\x00"

// earlyForbidden: protocols of file servers, whatever START says.
func earlyForbidden(alpn string) bool { return alpn == alpnSMB || alpn == alpnRPC }

// earlyHandshake is what a handshake knows of 0-RTT.
type earlyHandshake struct {
	wanted  bool
	limits  []uint64 // server
	hello   []byte   // server: the ClientHello, as far as it has come
	verdict string   // server: what became of an offer, for the audit line
	given   earlyStamp

	offered []byte // client: what was kept with the session that is offered
	session []byte // client: what is to be kept
}

func (e *earlyHandshake) init(h *serverHandshake, as attributes) *Error {
	limits := as.bytes(attrEarlyLimits)
	if len(limits)%8 != 0 {
		return badRequest("limits of %d bytes, want 8 each", len(limits))
	}
	e.wanted = as.u8(attrEarlyData) == 1 && !slices.ContainsFunc(h.protos, earlyForbidden)
	e.limits = decodeLimits(limits)
	return nil
}

func encodeLimits(limits []uint64) []byte {
	var b []byte
	for _, n := range limits {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func decodeLimits(b []byte) []uint64 {
	var limits []uint64
	for ; len(b) >= 8; b = b[8:] {
		limits = append(limits, binary.BigEndian.Uint64(b))
	}
	return limits
}

// hear keeps the ClientHello.
func (e *earlyHandshake) hear(b []byte) {
	if e.wanted && len(e.limits) > 0 && len(e.hello)+len(b) <= maxCryptoIn {
		e.hello = append(e.hello, b...)
	}
}

// earlyTicket tells whether the ticket to come may be used for 0-RTT.
func (h *serverHandshake) earlyTicket() bool {
	return h.early.wanted && len(h.early.limits) > 0 && !earlyForbidden(h.qc.ConnectionState().NegotiatedProtocol)
}

// earlyStamp is what a ticket says of 0-RTT.
type earlyStamp struct {
	maker  [8]byte       // the helper that issued it
	id     [16]byte      // of the ticket
	issued time.Duration // since that helper began: no clock can be set back
	ageAdd uint32        // RFC 8446, Section 4.6.1
	limits []uint64      // none: the ticket is not for 0-RTT
}

// stamp makes one for a ticket.
func (e *earlyHandshake) stamp(s *spentTickets) earlyStamp {
	st := earlyStamp{maker: s.maker, issued: time.Since(s.began), limits: e.limits}
	rand.Read(st.id[:]) // never fails
	var add [4]byte
	rand.Read(add[:])
	st.ageAdd = binary.BigEndian.Uint32(add[:])
	e.given = st
	return st
}

const earlyStampLen = 8 + 16 + 8 + 4

func (st *earlyStamp) append(b []byte) []byte {
	if len(st.limits) == 0 {
		return b
	}
	b = append(b, st.maker[:]...)
	b = append(b, st.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(st.issued))
	b = binary.BigEndian.AppendUint32(b, st.ageAdd)
	return append(b, encodeLimits(st.limits)...)
}

func parseEarlyStamp(b []byte) (st earlyStamp) {
	if len(b) < earlyStampLen {
		return st
	}
	copy(st.maker[:], b)
	copy(st.id[:], b[8:])
	st.issued = time.Duration(binary.BigEndian.Uint64(b[24:]))
	st.ageAdd = binary.BigEndian.Uint32(b[32:])
	st.limits = decodeLimits(b[earlyStampLen:])
	return st
}

// setAgeAdd puts the ticket's own ticket_age_add into a NewSessionTicket message:
// crypto/tls makes one and forgets it. Nothing authenticates the message but the
// keys that it is sent with.
//
//	type u8 | length u24 | lifetime u32 | age_add u32 | ...
func (e *earlyHandshake) setAgeAdd(msg []byte) {
	if len(e.given.limits) > 0 && len(msg) >= 12 && msg[0] == typeNewSessionTicket {
		binary.BigEndian.PutUint32(msg[8:], e.given.ageAdd)
	}
}

// Why 0-RTT was refused, or that it was not; words of the audit line.
const (
	earlyAccepted    = "accepted"
	earlyOtherTicket = "not_for_it" // issued without, or not the first identity
	earlyOtherHelper = "other_helper"
	earlyLimits      = "limits"
	earlyStale       = "stale"
	earlyUsed        = "used"
	earlyFull        = "full"
)

// acceptsEarly tells whether 0-RTT may be accepted with a ticket, and uses it up.
//
// RFC 9001, Section 9.2: "Endpoints MUST implement and use the replay protections
// described in [TLS13], however it is recognized that these protections are
// imperfect."
func (h *serverHandshake) acceptsEarly(alpn string, ticket []byte, st earlyStamp) bool {
	if !h.early.wanted || len(h.early.limits) == 0 || earlyForbidden(alpn) {
		return false
	}
	offer, ok := parseEarlyOffer(h.early.hello)
	if !ok || !offer.earlyData {
		return false
	}
	h.early.verdict = h.judgeEarly(&offer, ticket, &st)
	return h.early.verdict == earlyAccepted
}

func (h *serverHandshake) judgeEarly(offer *earlyOffer, ticket []byte, st *earlyStamp) string {
	spent := h.ses.s.spent.Load()
	now := time.Since(spent.began)
	switch {
	case len(st.limits) == 0 || !bytes.Equal(offer.ticket, ticket):
		return earlyOtherTicket
	case st.maker != spent.maker:
		return earlyOtherHelper
	case !withinLimits(st.limits, h.early.limits):
		return earlyLimits
	}
	// RFC 8446, Section 4.2.11.1: "obfuscated_ticket_age" is "a 32-bit unsigned
	// integer", "the age of the ticket in milliseconds" "added modulo 2^32" to
	// ticket_age_add; 24 hours fit.
	age := time.Duration(offer.age-st.ageAdd) * time.Millisecond
	if off := now - st.issued - age; off > earlyWindow || off < -earlyWindow {
		return earlyStale
	}
	return spent.spend(st.id, now)
}

// withinLimits tells whether nothing that was promised is less now.
//
// RFC 9000, Section 7.4.1: "A server MUST reject 0-RTT data if the restored values
// for transport parameters cannot be supported."
func withinLimits(promised, now []uint64) bool {
	if len(promised) != len(now) {
		return false
	}
	for i := range now {
		if promised[i] > now[i] {
			return false
		}
	}
	return true
}

// sendEarly tells a client's packet process.
func (h *serverHandshake) sendEarly(state uint8, session []byte) {
	var b body
	b.u8(attrEarlyState, state)
	if state == earlyOffered {
		b.bytes(attrPeerTP, session)
	}
	h.send(msgEarly, false, b)
}

// resumeSession looks at the session that a client is about to offer.
func (h *serverHandshake) resumeSession(ss *tls.SessionState) {
	h.early.offered = nil
	for _, x := range ss.Extra {
		if p, ok := bytes.CutPrefix(x, []byte(sessionMark)); ok {
			h.early.offered = p
		}
	}
	// It is this handshake's alone: sessions leave the cache when they are taken.
	ss.EarlyData = ss.EarlyData && h.early.wanted && len(h.protos) == 1 && h.early.offered != nil && len(h.early.offered) <= maxTP
}

// storeSession keeps a client's session, and with it what the packet process wants
// to know of its server again.
func (h *serverHandshake) storeSession(ss *tls.SessionState) {
	if h.early.session != nil {
		ss.Extra = append(ss.Extra, append([]byte(sessionMark), h.early.session...))
	}
	_ = h.qc.StoreSession(ss) // no error at a client
}

// receiveEarly turns EARLY into an event.
func (h *Handshake) receiveEarly(as attributes) *Error {
	switch state := as.u8(attrEarlyState); {
	case h.server || !h.early:
		return helperError("0-RTT that nobody asked for")
	case state == earlyOffered && !h.offered:
		h.offered = true
		h.events = append(h.events, Event{Kind: EventEarlyParams, Data: clone(as.bytes(attrPeerTP))})
	case state == earlyRejected && h.offered && !h.rejected:
		h.rejected = true
		h.events = append(h.events, Event{Kind: EventEarlyRejected})
	default:
		return helperError("0-RTT: state %d has no place", state)
	}
	return nil
}

// earlyOffer is what a ClientHello says of its first session.
type earlyOffer struct {
	earlyData bool
	ticket    []byte
	age       uint32 // obfuscated_ticket_age
}

// Extensions of a ClientHello.
const (
	extPreSharedKey = 41
	extEarlyData    = 42
)

// parseEarlyOffer reads a ClientHello for what crypto/tls does not tell. ok is
// false if it is not whole or bears no pre_shared_key.
func parseEarlyOffer(b []byte) (offer earlyOffer, ok bool) {
	r := reader{b: b}
	if r.u8() != 1 { // client_hello
		return offer, false
	}
	r = reader{b: r.take(int(r.u8())<<16 | int(r.u16())), bad: r.bad}
	r.take(2 + 32)       // legacy_version, random
	r.take(int(r.u8()))  // legacy_session_id
	r.take(int(r.u16())) // cipher_suites
	r.take(int(r.u8()))  // legacy_compression_methods
	ext := reader{b: r.take(int(r.u16())), bad: r.bad}
	for len(ext.b) > 0 && !ext.bad {
		typ := ext.u16()
		x := reader{b: ext.take(int(ext.u16())), bad: ext.bad}
		switch typ {
		case extEarlyData:
			offer.earlyData = true
		case extPreSharedKey:
			ids := reader{b: x.take(int(x.u16())), bad: x.bad}
			offer.ticket = ids.take(int(ids.u16()))
			offer.age = uint32(ids.u16())<<16 | uint32(ids.u16())
			ok = !ids.bad && !x.bad
		}
	}
	return offer, ok && !ext.bad
}

// reader reads big-endian numbers; bad tells that something was not there.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 { return uint16(r.u8())<<8 | uint16(r.u8()) }
