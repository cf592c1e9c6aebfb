package tlshd

import (
	"crypto/rand"
	"sync"
	"time"
)

// spentTickets remembers which tickets 0-RTT was accepted with, for as long as the
// first flight that they came in is fresh. It is bounded: while it is full, 0-RTT is
// refused, and a helper that begins anew takes no tickets of the time before.
type spentTickets struct {
	maker [8]byte // names this helper, in its tickets
	began time.Time

	mu   sync.Mutex
	ids  map[[16]byte]struct{}
	list []spentTicket // by time
	most int
}

type spentTicket struct {
	id [16]byte
	at time.Duration // since began
}

const (
	maxSpentTickets = 1 << 16
	// A first flight is fresh for earlyWindow before and after its time.
	spentFor = 2*earlyWindow + time.Second
)

func newSpentTickets(now time.Time) *spentTickets {
	s := &spentTickets{began: now, ids: map[[16]byte]struct{}{}, most: maxSpentTickets}
	rand.Read(s.maker[:]) // never fails
	return s
}

// spend uses a ticket up, and says whether it could.
func (s *spentTickets) spend(id [16]byte, now time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := 0
	for k < len(s.list) && now-s.list[k].at > spentFor {
		delete(s.ids, s.list[k].id)
		k++
	}
	if s.list = s.list[k:]; len(s.list) == 0 {
		s.list = nil
	}
	if _, used := s.ids[id]; used {
		return earlyUsed
	}
	if len(s.list) >= s.most {
		return earlyFull
	}
	s.ids[id] = struct{}{}
	s.list = append(s.list, spentTicket{id, now})
	return earlyAccepted
}
