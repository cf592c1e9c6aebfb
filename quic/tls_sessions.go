package quic

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Sessions of the Handshaker of TLS: what crypto/tls does not bind them to.

// sessionMark begins what is kept with a session, at a client in front of the
// server's parameters, and at a server in front of
//
//	version u32 | issued, Unix seconds u64 | id | limits u64...
const sessionMark = "quic-fsgw session 1\x00"

// sessionsOf is a client's sessions of one QUIC version.
//
// RFC 9369, Section 5: "TLS session tickets and NEW_TOKEN tokens are specific to
// the QUIC version of the connection that provided them. Clients MUST NOT use a
// session ticket or token from a QUIC version 1 connection to initiate a QUIC
// version 2 connection, and vice versa."
type sessionsOf struct {
	tls.ClientSessionCache
	h *localHandshake
}

func (s *sessionsOf) key(k string) string { return strconv.Itoa(int(s.h.version)) + " " + k }

// Get returns a copy of a session, for it is changed where 0-RTT is not wanted. A
// session for 0-RTT is used once.
func (s *sessionsOf) Get(k string) (*tls.ClientSessionState, bool) {
	k = s.key(k)
	cs, ok := s.ClientSessionCache.Get(k)
	if !ok || cs == nil {
		return cs, ok
	}
	ticket, state, err := cs.ResumptionState()
	if err != nil || state == nil {
		return cs, ok
	}
	b, err := state.Bytes()
	if err != nil {
		return cs, ok
	}
	own, err := tls.ParseSessionState(b)
	if err != nil {
		return nil, false
	}
	if s.h.early && own.EarlyData {
		s.ClientSessionCache.Put(k, nil)
	}
	if cs, err = tls.NewResumptionState(ticket, own); err != nil {
		return nil, false
	}
	return cs, true
}

func (s *sessionsOf) Put(k string, cs *tls.ClientSessionState) {
	s.ClientSessionCache.Put(s.key(k), cs)
}

// resume looks at the session that crypto/tls is about to offer.
func (h *localHandshake) resume(ss *tls.SessionState) {
	h.offered = nil
	for _, x := range ss.Extra {
		if p, ok := bytes.CutPrefix(x, []byte(sessionMark)); ok {
			h.offered = p
		}
	}
	ss.EarlyData = ss.EarlyData && h.early && h.offered != nil
}

// store keeps a session and what has to be known of its server.
func (h *localHandshake) store(ss *tls.SessionState) {
	if h.params != nil {
		ss.Extra = append(ss.Extra, append([]byte(sessionMark), h.params...))
	}
	_ = h.conn.StoreSession(ss) // it is a client's
}

// boundTickets is cfg with tickets that know version and limits.
func (l *localTLS) boundTickets(base *tls.Config, h *localHandshake, limits []uint64) *tls.Config {
	cfg := base.Clone()
	cfg.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		ss.Extra = append(ss.Extra, l.seen.extra(h.version, limits, time.Now()))
		return base.EncryptTicket(cs, ss)
	}
	cfg.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := base.DecryptTicket(ticket, cs)
		if ss == nil || err != nil {
			return nil, err
		}
		resumes, early := l.seen.judge(ss.Extra, h.version, limits, time.Now())
		if !resumes {
			return nil, nil
		}
		ss.EarlyData = ss.EarlyData && early && h.early
		return ss, nil
	}
	return cfg
}

// earlyLife is how long a ticket is good for 0-RTT, and maxSpentTickets how many
// can be used in that time.
const (
	earlyLife       = 10 * time.Minute
	maxSpentTickets = 1 << 15
)

// ticketID names a ticket: who made it, and which it is.
type ticketID [24]byte

// spentTickets remembers the tickets of 0-RTT that was accepted, for as long as
// they could be used again: none is accepted twice (RFC 8446, Section 8.1).
type spentTickets struct {
	maker [8]byte

	mu          sync.Mutex
	now, before map[ticketID]struct{}
	turned      time.Time
}

func newSpentTickets() *spentTickets {
	s := new(spentTickets)
	_, _ = rand.Read(s.maker[:]) // never fails
	return s
}

// extra is what goes into a ticket.
func (s *spentTickets) extra(v Version, limits []uint64, now time.Time) []byte {
	b := []byte(sessionMark)
	b = binary.BigEndian.AppendUint32(b, uint32(v))
	b = binary.BigEndian.AppendUint64(b, uint64(now.Unix()))
	var id ticketID
	_, _ = rand.Read(id[copy(id[:], s.maker[:]):]) // never fails
	b = append(b, id[:]...)
	for _, n := range limits {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// judge tells what a ticket is good for. It can be good for 0-RTT once.
//
// RFC 9001, Section 9.2: "Endpoints MUST implement and use the replay protections
// described in [TLS13], however it is recognized that these protections are
// imperfect."
//
// RFC 9000, Section 7.4.1: "A server MUST reject 0-RTT data if the restored values
// for transport parameters cannot be supported."
func (s *spentTickets) judge(extra [][]byte, v Version, limits []uint64, now time.Time) (resumes, early bool) {
	i := slices.IndexFunc(extra, func(x []byte) bool { return bytes.HasPrefix(x, []byte(sessionMark)) })
	const fixed = 4 + 8 + len(ticketID{})
	if i < 0 || len(extra[i])-len(sessionMark) < fixed {
		return false, false
	}
	b := extra[i][len(sessionMark):]
	// RFC 9369, Section 5: "Servers MUST validate the originating version of any
	// session ticket or token and not accept one issued from a different version."
	if Version(binary.BigEndian.Uint32(b)) != v {
		return false, false
	}
	age := now.Sub(time.Unix(int64(binary.BigEndian.Uint64(b[4:])), 0))
	id := ticketID(b[12:])
	if b = b[fixed:]; len(b) != 8*len(limits) || len(limits) == 0 || [8]byte(id[:8]) != s.maker || age < -time.Second || age > earlyLife {
		return true, false
	}
	for i, n := range limits {
		if binary.BigEndian.Uint64(b[8*i:]) > n {
			return true, false
		}
	}
	return true, s.spend(id, now)
}

// spend reports whether a ticket is used for the first time. What there is no room
// to remember counts as used.
func (s *spentTickets) spend(id ticketID, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.turned) > earlyLife+2*time.Second {
		s.before, s.now, s.turned = s.now, nil, now
	}
	if _, ok := s.before[id]; ok {
		return false
	}
	if _, ok := s.now[id]; ok || len(s.now) >= maxSpentTickets {
		return false
	}
	if s.now == nil {
		s.now = make(map[ticketID]struct{})
	}
	s.now[id] = struct{}{}
	return true
}
