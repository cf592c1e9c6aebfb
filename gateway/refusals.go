package gateway

import (
	"errors"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// Who is refused hears of it late (limits.failure_delay, Windows' 2 s), and the
// refusals of one client wait one after the other: asking again and again, on
// however many connections, gets no more answers. Refusals are counted for a
// certificate as soon as one was shown, and for an address only where none was.
// Nobody else waits: what is late is the answer, never a handshake, so that an
// office behind one address is not locked out by one of its laptops.
//
// What waits is the connection itself, with what an unfinished handshake holds,
// and a timer; no goroutine and no socket.

// Bounds of refusals that wait.
const (
	// maxRefusals may wait at a time; more are answered at once.
	maxRefusals = 1024
	// maxRefusalWait is the longest wait, how many of one client there may be.
	maxRefusalWait = 10 * time.Second
)

// refusals are those that wait.
type refusals struct {
	mu    sync.Mutex
	delay time.Duration
	next  map[string]time.Time // by client: when its last refusal is answered
	held  int

	byCertificate, byAddress, atOnce uint64
}

// refusedClient is who a refusal counts for: a certificate's SHA-256, or where
// none was shown an address.
type refusedClient struct {
	sha256 string
	addr   netip.Addr
}

func (c refusedClient) key() string {
	if c.sha256 != "" {
		return c.sha256
	}
	return sourceName(c.addr)
}

func (r *refusals) configure(delay time.Duration) {
	r.mu.Lock()
	r.delay = delay
	r.mu.Unlock()
}

// reserve books the next answer to a client, at most limit from now. If it
// is not to be given at once, release has to follow when it is.
func (r *refusals) reserve(c refusedClient, limit time.Duration, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.sha256 != "" {
		r.byCertificate++
	} else {
		r.byAddress++
	}
	at := now
	if n := r.next[c.key()]; n.After(now) {
		at = n
	}
	wait := min(at.Add(r.delay).Sub(now), limit, maxRefusalWait)
	if r.delay <= 0 || wait <= 0 || r.held >= maxRefusals || !r.room(now) {
		r.atOnce++
		return 0
	}
	if next := now.Add(wait); next.After(r.next[c.key()]) {
		r.next[c.key()] = next
	}
	r.held++
	return wait
}

// room makes room in the table, which holds more than those that wait: who
// hangs up and comes back goes on waiting where it was.
func (r *refusals) room(now time.Time) bool {
	if r.next == nil {
		r.next = make(map[string]time.Time)
	}
	if len(r.next) >= 2*maxRefusals {
		maps.DeleteFunc(r.next, func(_ string, next time.Time) bool { return !next.After(now) })
	}
	return len(r.next) < 2*maxRefusals
}

// release forgets what nobody waits for any more.
func (r *refusals) release(c refusedClient, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held--
	if !r.next[c.key()].After(now) {
		delete(r.next, c.key())
	}
}

// answer calls f when the refusal of c is to be answered, at once or from a
// goroutine of its own. stop breaks the wait off; f is not called then, unless
// it was already.
func (r *refusals) answer(c refusedClient, limit time.Duration, f func()) (stop func()) {
	wait := r.reserve(c, limit, time.Now())
	if wait == 0 {
		f()
		return func() {}
	}
	timer := time.AfterFunc(wait, func() {
		r.release(c, time.Now())
		f()
	})
	return func() {
		if timer.Stop() {
			r.release(c, time.Now())
		}
	}
}

func (r *refusals) register(reg *admin.Registry) {
	reg.PullCounter("quicfsgw_refusals_total", "Clients refused in or right after the handshake, by what they are counted by: certificate or address.", func(emit func(float64, ...string)) {
		r.mu.Lock()
		defer r.mu.Unlock()
		emit(float64(r.byCertificate), "certificate")
		emit(float64(r.byAddress), "address")
	}, "by")
	reg.PullCounter("quicfsgw_refusals_at_once_total", "Refusals that were answered at once, as none may wait or too many did.", func(emit func(float64, ...string)) {
		r.mu.Lock()
		defer r.mu.Unlock()
		emit(float64(r.atOnce))
	})
	reg.PullGauge("quicfsgw_refusals_waiting", "Refusals that wait for limits.failure_delay.", func(emit func(float64, ...string)) {
		r.mu.Lock()
		defer r.mu.Unlock()
		emit(float64(r.held))
	})
}

// lateHandshaker holds the failures back that clients are to blame for.
type lateHandshaker struct {
	quic.Handshaker
	refusals *refusals
}

// lateHandshake is one whose failure may be waiting.
type lateHandshake struct {
	quic.Handshake

	mu     sync.Mutex
	closed bool
	stop   func()
}

// Handshake implements quic.Handshaker.
func (l lateHandshaker) Handshake(req *quic.HandshakeRequest, sink func(quic.HandshakeEvent)) quic.Handshake {
	h, ends := &lateHandshake{}, time.Now().Add(req.Timeout-time.Second)
	remote := req.Remote.Addr()
	inner := l.Handshaker.Handshake(req, func(e quic.HandshakeEvent) {
		c, ok := blame(&e, remote)
		if !ok {
			sink(e)
			return
		}
		stop := l.refusals.answer(c, time.Until(ends), func() { sink(e) })
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.stop = stop; h.closed {
			stop()
		}
	})
	h.Handshake = inner
	return h
}

// Close implements quic.Handshake.
func (h *lateHandshake) Close() {
	h.mu.Lock()
	h.closed = true
	stop := h.stop
	h.mu.Unlock()
	if stop != nil {
		stop()
	}
	h.Handshake.Close()
}

// blame tells whose fault a failed handshake is, if it is the client's, and has
// cost more than a look at its first message.
func blame(e *quic.HandshakeEvent, remote netip.Addr) (refusedClient, bool) {
	var bad *tlshd.Error
	if e.Kind != quic.EventFailed || !errors.As(e.Err, &bad) || bad.Status != tlshd.StatusEKEYREJECTED && bad.Status != tlshd.StatusEACCES {
		return refusedClient{}, false
	}
	return refusedClient{sha256: bad.Peer, addr: remote}, true
}
