package tlshd

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// earlyRequest is a server's that accepts 0-RTT on "perf".
func earlyRequest(edit func(*Request)) *Request {
	return serverRequest(func(r *Request) {
		r.NextProtos, r.Version, r.EarlyData, r.EarlyLimits = []string{"perf"}, 1, true, []uint64{2, 1 << 20, 100}
		if edit != nil {
			edit(r)
		}
	})
}

// earlyVisitor is a client without a helper, with one session.
type earlyVisitor struct {
	t     *testing.T
	s     *site
	cache *stash
	alpn  string
}

func newEarlyVisitor(t *testing.T, s *site) *earlyVisitor {
	return &earlyVisitor{t: t, s: s, cache: &stash{}, alpn: "perf"}
}

func (v *earlyVisitor) client() starter {
	return v.s.raw(func(conf *tls.Config) { conf.NextProtos, conf.ClientSessionCache = []string{v.alpn}, v.cache })
}

// session fetches a ticket.
func (v *earlyVisitor) session(c *Client, edit func(*Request)) {
	v.t.Helper()
	r := earlyRequest(edit)
	p := shake(v.t, viaHelper(c, r), v.client()).ok()
	p.server.shaker.(*Handshake).Remember(r.Version, nil)
	if p.admit(c) == 0 {
		v.t.Fatal("no ticket")
	}
	_, state, err := v.cache.cs.ResumptionState()
	if err != nil {
		v.t.Fatal(err)
	}
	if want := r.EarlyData && len(r.EarlyLimits) > 0; state.EarlyData != want {
		v.t.Fatalf("the ticket allows 0-RTT: %v, want %v", state.EarlyData, want)
	}
}

// early connects and tells whether the server accepted 0-RTT; where it did both
// ends have the same key.
func (v *earlyVisitor) early(c *Client, edit func(*Request)) bool {
	v.t.Helper()
	return v.outcome(shake(v.t, viaHelper(c, earlyRequest(edit)), v.client()))
}

func (v *earlyVisitor) outcome(p *pair) bool {
	v.t.Helper()
	if p.server.err != nil || p.client.err != nil {
		v.t.Fatalf("server: %v, client: %v", p.server.err, p.client.err)
	}
	key := func(s *side) (found string) {
		for k, x := range s.secrets {
			if strings.HasPrefix(k, fmt.Sprint(LevelEarly)+" ") || strings.HasPrefix(k, fmt.Sprint(LevelEarly)+"true") || strings.HasPrefix(k, fmt.Sprint(LevelEarly)+"false") {
				found = x
			}
		}
		return found
	}
	s, c := key(&p.server), key(&p.client)
	if s != "" && s != c {
		v.t.Error("the two ends have not the same key of 0-RTT")
	}
	return s != ""
}

func TestEarlyDataOnce(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	v := newEarlyVisitor(t, s)
	v.session(l.Client, nil)
	if !v.early(l.Client, nil) {
		t.Fatal("not accepted")
	}
	if v.early(l.Client, nil) {
		t.Error("a ticket was accepted twice")
	}
}

// The same first flight, as often as one likes.
func TestEarlyDataReplayed(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	v := newEarlyVisitor(t, s)
	v.session(l.Client, nil)
	var flight []byte
	peer := v.client()(func(e Event) {
		if e.Kind == EventCrypto && e.Level == LevelInitial {
			flight = append(flight, e.Data...)
		}
	})
	defer peer.Close()
	for i := range 4 {
		events := make(chan Event, 64)
		h := l.Client.Start(earlyRequest(nil), func(e Event) { events <- e })
		h.Crypto(LevelInitial, flight)
		keys := 0
		for e := next(t, events); e.Kind != EventSecret || e.Level != LevelApp; e = next(t, events) {
			switch {
			case e.Kind == EventPeerTransportParams:
				h.TransportParams([]byte("server parameters"))
			case e.Kind == EventSecret && e.Level == LevelEarly:
				keys++
			case e.Kind == EventFailed:
				t.Fatal(e.Err)
			}
		}
		if want := i == 0; (keys == 1) != want {
			t.Errorf("time %d: %d keys for 0-RTT", i, keys)
		}
		h.Close()
	}
}

func TestEarlyDataRefused(t *testing.T) {
	for _, tc := range []struct {
		what    string
		ticket  func(*Request) // edits the request that the ticket comes from
		use     func(*Request)
		between func(*Server)
		want    bool
	}{
		{what: "nothing changed", want: true},
		{what: "more than was promised", use: func(r *Request) { r.EarlyLimits = []uint64{3, 1 << 21, 100} }, want: true},
		{what: "less than was promised", use: func(r *Request) { r.EarlyLimits = []uint64{2, 1 << 20, 99} }},
		{what: "other limits", use: func(r *Request) { r.EarlyLimits = []uint64{2, 1 << 20} }},
		{what: "no limits", use: func(r *Request) { r.EarlyLimits = nil }},
		{what: "not wanted", use: func(r *Request) { r.EarlyData = false }},
		{what: "ticket without it", ticket: func(r *Request) { r.EarlyData = false }},
		{what: "ticket without limits", ticket: func(r *Request) { r.EarlyLimits = nil }},
		{what: "another route", use: func(r *Request) { r.Options.Route = "home" }},
		{what: "another policy", use: func(r *Request) { r.Options.Policy = "2" }},
		{what: "another QUIC version", use: func(r *Request) { r.Version = 0x6b3343cf }},
		{what: "a little late", between: func(s *Server) { s.spent.began = s.spent.began.Add(-earlyWindow / 2) }, want: true},
		{what: "stale", between: func(s *Server) { s.spent.began = s.spent.began.Add(-earlyWindow - 5*time.Second) }},
		{what: "from the future", between: func(s *Server) { s.spent.began = s.spent.began.Add(earlyWindow + 5*time.Second) }},
		{what: "no room to remember", between: func(s *Server) { s.spent.most = 0 }},
		{what: "restarted", between: func(s *Server) { s.spent = newSpentTickets(time.Now()) }},
	} {
		t.Run(tc.what, func(t *testing.T) {
			s := newSite(t)
			l := startLocal(t, s.cfg)
			v := newEarlyVisitor(t, s)
			v.session(l.Client, tc.ticket)
			if tc.between != nil {
				tc.between(l.Server)
			}
			p := shake(t, viaHelper(l.Client, earlyRequest(tc.use)), v.client())
			if got := v.outcome(p); got != tc.want {
				t.Errorf("accepted: %v", got)
			}
			// But for what binds it, a ticket stays good for resumption.
			bound := strings.HasPrefix(tc.what, "another")
			if p.server.state.Resumed == bound {
				t.Errorf("resumed: %v", !bound)
			}
		})
	}
}

// R7: no 0-RTT for file protocols, whatever the packet process asks for.
func TestNoEarlyDataForFiles(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	for _, alpn := range []string{"smb", "sunrpc"} {
		for _, protos := range [][]string{{alpn}, {"perf", alpn}} {
			v := newEarlyVisitor(t, s)
			v.alpn = alpn
			ask := func(r *Request) { r.NextProtos = protos }
			p := shake(t, viaHelper(l.Client, earlyRequest(ask)), v.client()).ok()
			p.server.shaker.(*Handshake).Remember(1, nil)
			if p.admit(l.Client) == 0 {
				t.Fatal("no ticket")
			}
			ticket, state, err := v.cache.cs.ResumptionState()
			if err != nil || state.EarlyData {
				t.Fatalf("%s: a ticket for 0-RTT (%v)", alpn, err)
			}
			// A client that tries nevertheless.
			state.EarlyData = true
			if v.cache.cs, err = tls.NewResumptionState(ticket, state); err != nil {
				t.Fatal(err)
			}
			if v.early(l.Client, ask) {
				t.Errorf("%s: 0-RTT was accepted", alpn)
			}
			client := clientRequest("files.example.com", alpn)
			client.EarlyData, client.Version = true, 1
			for range 2 {
				p := shake(t, viaHelper(l.Client, earlyRequest(ask)), viaHelper(l.Client, client)).ok()
				p.server.shaker.(*Handshake).Remember(1, nil)
				p.client.shaker.(*Handshake).Remember(1, []byte("remembered"))
				p.admit(l.Client)
				if p.client.early != "" {
					t.Errorf("%s: a client offers 0-RTT", alpn)
				}
			}
		}
	}
}

// Two gateways with the same keys take each other's tickets, but not for 0-RTT:
// neither knows what the other has seen. It is the same after a restart.
func TestEarlyDataAtTheOtherGateway(t *testing.T) {
	s := newSite(t)
	s.cfg.TicketKeys = replaceFile(t, filepath.Join(s.dir, "tickets"), []byte(hex.EncodeToString(bytes.Repeat([]byte{1}, 32))+"\n"))
	one, two := startLocal(t, s.cfg), startLocal(t, s.cfg)
	v := newEarlyVisitor(t, s)
	v.session(one.Client, nil)
	p := shake(t, viaHelper(two.Client, earlyRequest(nil)), v.client())
	if v.outcome(p) || !p.server.state.Resumed {
		t.Errorf("0-RTT accepted, or not resumed: %+v", p.server.state)
	}
	if !v.early(one.Client, nil) {
		t.Error("not accepted where it came from")
	}
}

// Both ends through a helper: what a client is told to keep comes back, and both
// have the key.
func TestEarlyDataBothRoles(t *testing.T) {
	s := newSite(t)
	p0, c, log := startHelper(t, s.cfg)
	_ = p0
	request := clientRequest("files.example.com", "perf")
	request.EarlyData, request.Version = true, 1
	connect := func(version uint32, edit func(*Request)) *pair {
		r := *request
		r.Version = version
		p := shake(t, viaHelper(c, earlyRequest(func(q *Request) {
			q.Version = version
			if edit != nil {
				edit(q)
			}
		})), viaHelper(c, &r))
		p.server.shaker.(*Handshake).Remember(version, nil)
		p.client.shaker.(*Handshake).Remember(version, []byte("remembered"))
		p.admit(c)
		return p
	}
	v := &earlyVisitor{t: t}
	if p := connect(1, nil); p.client.early != "" || v.outcome(p) {
		t.Fatal("0-RTT at first sight")
	}
	deadline := time.Now().Add(testWait)
	for { // the ticket is stored by another goroutine
		p := connect(1, nil)
		if accepted := v.outcome(p); accepted {
			if p.client.early != "remembered" || p.client.refused {
				t.Errorf("the client got %q back, refused: %v", p.client.early, p.client.refused)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("never accepted")
		}
	}
	if p := connect(0x6b3343cf, nil); p.client.early != "" || p.client.state.Resumed {
		t.Error("a session of another QUIC version was offered")
	}
	for { // and refused
		p := connect(1, func(r *Request) { r.EarlyLimits = []uint64{1, 1, 1} })
		if p.client.early != "" {
			if v.outcome(p) || !p.client.refused {
				t.Errorf("accepted under other limits, or the client does not know (%v)", p.client.refused)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("never offered")
		}
	}
	for _, want := range []string{`"early_data":"accepted"`, `"early_data":"limits"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the audit lines lack %s", want)
		}
	}
}

func TestSpentTickets(t *testing.T) {
	s := newSpentTickets(time.Now())
	s.most = 3
	id := func(n byte) [16]byte { return [16]byte{n} }
	for _, step := range []struct {
		id   byte
		at   time.Duration
		want string
	}{
		{1, 0, earlyAccepted}, {1, 0, earlyUsed}, {2, time.Second, earlyAccepted}, {3, 2 * time.Second, earlyAccepted},
		{4, 3 * time.Second, earlyFull}, {1, spentFor, earlyUsed}, {4, spentFor + time.Millisecond, earlyAccepted},
		{2, spentFor + time.Millisecond, earlyUsed}, {2, spentFor + 2*time.Second, earlyAccepted},
	} {
		if got := s.spend(id(step.id), step.at); got != step.want {
			t.Errorf("ticket %d after %v: %s, want %s", step.id, step.at, got, step.want)
		}
	}
	if len(s.ids) != len(s.list) || len(s.list) > s.most {
		t.Errorf("%d and %d are kept", len(s.ids), len(s.list))
	}
}

// realHello is the ClientHello of a client that offers 0-RTT.
func realHello(t *testing.T) []byte {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	v := newEarlyVisitor(t, s)
	v.session(l.Client, nil)
	var flight []byte
	v.client()(func(e Event) {
		if e.Kind == EventCrypto {
			flight = append(flight, e.Data...)
		}
	}).Close()
	return flight
}

func TestParseEarlyOffer(t *testing.T) {
	b := realHello(t)
	offer, ok := parseEarlyOffer(b)
	if !ok || !offer.earlyData || len(offer.ticket) < 100 {
		t.Fatalf("%+v, %v", offer, ok)
	}
	for n := range b {
		if _, ok := parseEarlyOffer(b[:n]); ok {
			t.Fatalf("taken when cut to %d of %d bytes", n, len(b))
		}
	}
	b[0] = 2
	if _, ok := parseEarlyOffer(b); ok {
		t.Error("a ServerHello was taken")
	}
}

func FuzzEarlyOffer(f *testing.F) {
	f.Add([]byte{1, 0, 0, 42, 3, 3})
	f.Add(slices.Concat([]byte{1, 0, 0, 62, 3, 3}, make([]byte, 32), []byte{0, 0, 2, 19, 1, 1, 0, 0, 21, 0, 42, 0, 0, 0, 41, 0, 13, 0, 8, 0, 2, 'h', 'i', 0, 0, 0, 9, 0, 1, 0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if offer, ok := parseEarlyOffer(b); ok && len(offer.ticket) > len(b) {
			t.Error("a ticket longer than the hello")
		}
	})
}
