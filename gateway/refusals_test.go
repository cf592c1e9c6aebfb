package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// answers collects when refusals were answered, in seconds from the start.
type answers struct {
	r     *refusals
	start time.Time
	at    chan string
}

func newAnswers(delay time.Duration) *answers {
	a := &answers{r: &refusals{}, start: time.Now(), at: make(chan string, 8*maxRefusals)}
	a.r.configure(delay)
	return a
}

func (a *answers) refuse(name string, c refusedClient) (stop func()) {
	return a.r.answer(c, maxRefusalWait, func() { a.at <- fmt.Sprintf("%s %v", name, time.Since(a.start)) })
}

// sizes are those of the tables.
func (r *refusals) sizes() (held, clients int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held, len(r.next)
}

func (a *answers) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := <-a.at; got != w {
			t.Errorf("answered %q, want %q", got, w)
		}
	}
	synctest.Wait()
	if len(a.at) > 0 {
		t.Errorf("answered %q too", <-a.at)
	}
}

var (
	office  = netip.MustParseAddr("192.0.2.7")
	another = netip.MustParseAddr("198.51.100.9")
)

// Refusals of one client wait one after the other, those of its neighbours do
// not wait for them; addresses count only where there is no certificate.
func TestRefusalsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers(2 * time.Second)
		a.refuse("laptop", refusedClient{"aa", office})
		time.Sleep(100 * time.Millisecond)
		a.refuse("laptop again", refusedClient{"aa", another})
		time.Sleep(100 * time.Millisecond)
		a.refuse("neighbour", refusedClient{"bb", office})
		time.Sleep(100 * time.Millisecond)
		a.refuse("nobody", refusedClient{"", office})
		time.Sleep(100 * time.Millisecond)
		a.refuse("nobody mapped", refusedClient{"", netip.MustParseAddr("::ffff:192.0.2.7")})
		a.expect(t, "laptop 2s", "neighbour 2.2s", "nobody 2.3s", "laptop again 4s", "nobody mapped 4.3s")
		if held, clients := a.r.sizes(); clients != 0 || held != 0 {
			t.Errorf("left: %d clients, %d held", clients, held)
		}
	})
}

// No wait outlasts the handshake, whoever asks how often; with none configured
// there is none.
func TestRefusalsWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers(2 * time.Second)
		for range 100 {
			a.refuse("x", refusedClient{"aa", office})
		}
		a.expect(t, "x 2s", "x 4s", "x 6s", "x 8s")
		time.Sleep(maxRefusalWait - 8*time.Second)
		synctest.Wait()
		if len(a.at) != 96 {
			t.Errorf("%d answered after %v, want 96", len(a.at), maxRefusalWait)
		}
		b := newAnswers(0)
		b.refuse("at once", refusedClient{"aa", office})
		b.expect(t, "at once 0s")
	})
}

// The tables are bounded: of a flood some wait, and the rest is answered at once.
func TestRefusalsTableIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers(2 * time.Second)
		const more = 500
		for i := range maxRefusals + more {
			a.refuse("x", refusedClient{fmt.Sprint(i), office})
		}
		if held, clients := a.r.sizes(); len(a.at) != more || held != maxRefusals || clients != maxRefusals {
			t.Errorf("%d at once, %d held, %d clients in the table", len(a.at), held, clients)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if held, clients := a.r.sizes(); held != 0 || clients != 0 {
			t.Errorf("%d held, %d clients in the table", held, clients)
		}
		// Who hangs up frees its place, and not its turn.
		for i := range 4 * maxRefusals {
			a.refuse("x", refusedClient{fmt.Sprint(i), office})()
		}
		if held, clients := a.r.sizes(); held != 0 || clients != 2*maxRefusals {
			t.Errorf("%d held, %d clients in the table", held, clients)
		}
	})
}

func TestRefusalAfterHangingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers(2 * time.Second)
		a.refuse("first", refusedClient{"aa", office})()
		a.refuse("second", refusedClient{"aa", office})
		a.expect(t, "second 4s")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(a.at) != 0 {
			t.Errorf("answered %q", <-a.at)
		}
	})
}

// scriptedHelper is the seam to the helper process, in the hands of a test.
type scriptedHelper struct {
	sink   func(quic.HandshakeEvent)
	closed int
}

func (s *scriptedHelper) Handshake(_ *quic.HandshakeRequest, sink func(quic.HandshakeEvent)) quic.Handshake {
	s.sink = sink
	return s
}
func (s *scriptedHelper) Crypto(quic.Level, []byte)     {}
func (s *scriptedHelper) TransportParams([]byte)        {}
func (s *scriptedHelper) Remember(quic.Version, []byte) {}
func (s *scriptedHelper) Ticket()                       {}
func (s *scriptedHelper) Close()                        { s.closed++ }

// Failures that the client is to blame for wait, at most as long as the
// handshake has; others do not.
func TestLateHandshaker(t *testing.T) {
	failure := func(s tlshd.Status, r tlshd.Reason, peer string) error {
		return fmt.Errorf("wrapped: %w", &tlshd.Error{Status: s, Reason: r, Peer: peer})
	}
	for _, tt := range []struct {
		name string
		err  error
		want time.Duration
		key  string
	}{
		{"certificate", failure(tlshd.StatusEKEYREJECTED, tlshd.ReasonClientCertRevoked, "aa"), 2 * time.Second, "aa"},
		{"no certificate", failure(tlshd.StatusEKEYREJECTED, tlshd.ReasonNoClientCert, ""), 2 * time.Second, "192.0.2.7"},
		{"TLS", failure(tlshd.StatusEACCES, tlshd.ReasonTLS, ""), 2 * time.Second, "192.0.2.7"},
		{"helper gone", failure(tlshd.StatusEIO, tlshd.ReasonHelperGone, ""), 0, ""},
		{"overload", failure(tlshd.StatusENOMEM, tlshd.ReasonOverload, ""), 0, ""},
		{"timeout", failure(tlshd.StatusETIMEDOUT, tlshd.ReasonTimeout, ""), 0, ""},
		{"unknown name", failure(tlshd.StatusENOKEY, tlshd.ReasonUnrecognizedName, ""), 0, ""},
		{"not the helper's", errors.New("x"), 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r refusals
				r.configure(2 * time.Second)
				var helper scriptedHelper
				got := make(chan time.Duration, 4)
				start := time.Now()
				req := &quic.HandshakeRequest{Remote: netip.AddrPortFrom(office, 5), Timeout: 10 * time.Second}
				h := lateHandshaker{&helper, &r}.Handshake(req, func(quic.HandshakeEvent) { got <- time.Since(start) })
				helper.sink(quic.HandshakeEvent{Kind: quic.EventFailed, Err: tt.err})
				r.mu.Lock()
				if _, waits := r.next[tt.key]; waits != (tt.key != "") {
					t.Errorf("waiting: %v, want %q", r.next, tt.key)
				}
				r.mu.Unlock()
				if d := <-got; d != tt.want {
					t.Errorf("answered after %v, want %v", d, tt.want)
				}
				h.Close()

				// Not longer than the handshake has, less a second.
				h = lateHandshaker{&helper, &r}.Handshake(req, func(quic.HandshakeEvent) { got <- time.Since(start) })
				start = time.Now()
				time.Sleep(8 * time.Second)
				helper.sink(quic.HandshakeEvent{Kind: quic.EventFailed, Err: tt.err})
				if d, want := <-got, 8*time.Second+tt.want/2; d != want {
					t.Errorf("a late failure was answered after %v, want %v", d, want)
				}
				h.Close()

				// A connection that is gone hears nothing, and holds no place.
				h = lateHandshaker{&helper, &r}.Handshake(req, func(quic.HandshakeEvent) { got <- 0 })
				h.Close()
				if tt.want > 0 {
					helper.sink(quic.HandshakeEvent{Kind: quic.EventFailed, Err: tt.err})
					time.Sleep(time.Minute)
					synctest.Wait()
					if len(got) != 0 {
						t.Error("a failure of a handshake that was closed")
					}
				}
				synctest.Wait()
				if held, _ := r.sizes(); held != 0 || helper.closed != 3 {
					t.Errorf("%d held, closed %d times", held, helper.closed)
				}
			})
		})
	}
}
