package tlshd

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// admit says that the client is admitted, passes the ticket on and returns how
// many bytes it had. It waits until the helper has forgotten the handshake.
func (p *pair) admit(c *Client) int {
	p.t.Helper()
	h := p.server.shaker.(*Handshake)
	h.Ticket()
	n := 0
	deadline := time.Now().Add(testWait)
	for {
		c.mu.Lock()
		released := h.phase == phaseReleased && len(h.events) == 0 && !h.delivering
		c.mu.Unlock()
		select {
		case ev := <-p.events:
			if ev.server && ev.e.Kind == EventCrypto && ev.e.Level == LevelApp {
				n += len(ev.e.Data)
				p.client.shaker.Crypto(LevelApp, ev.e.Data)
			}
			continue
		default:
		}
		if released {
			return n
		}
		if time.Now().After(deadline) {
			p.t.Fatal("the helper does not forget the handshake")
		}
		time.Sleep(time.Millisecond)
	}
}

// visitor is a client that remembers one session.
type visitor struct {
	s     *site
	cache tls.ClientSessionCache
	cert  *tls.Certificate
}

// stash keeps a session under any name, so that it can be offered elsewhere.
type stash struct{ cs *tls.ClientSessionState }

func (s *stash) Get(string) (*tls.ClientSessionState, bool) { return s.cs, s.cs != nil }
func (s *stash) Put(_ string, cs *tls.ClientSessionState)   { s.cs = cs }

func (v *visitor) visit(t *testing.T, c *Client, name, alpn string, edit func(*Request)) *pair {
	t.Helper()
	return shake(t, viaHelper(c, serverRequest(func(r *Request) {
		r.NextProtos = []string{alpn}
		if edit != nil {
			edit(r)
		}
	})), v.s.raw(func(conf *tls.Config) {
		conf.ServerName, conf.NextProtos, conf.ClientSessionCache = name, []string{alpn}, v.cache
		if v.cert != nil {
			withCert(*v.cert)(conf)
		}
	}))
}

// HOSTILE 65: a ticket is good where it was issued and nowhere else.
func TestTicketsAreBound(t *testing.T) {
	s := newSite(t)
	s.cfg.Certificates[0].Names = []string{"files.example.com", "two.example.com"}
	cert := s.clientCA.leaf(t, ecKey(t), forClient)
	l := startLocal(t, s.cfg)
	required := func(r *Request) { r.Options.ClientCert = ClientCertRequired }
	for _, tc := range []struct {
		what       string
		name, alpn string
		edit       func(*Request)
		resumed    bool
	}{
		{"the same", "files.example.com", "smb", required, true},
		{"the same in capitals", "FILES.example.com", "smb", required, true},
		{"another name", "two.example.com", "smb", required, false},
		{"another protocol", "files.example.com", "sunrpc", required, false},
		{"another route", "files.example.com", "smb", func(r *Request) { required(r); r.Options.Route = "home" }, false},
		{"another policy", "files.example.com", "smb", func(r *Request) { required(r); r.Options.Policy = "2" }, false},
		{"another mode", "files.example.com", "smb", func(r *Request) { r.Options.ClientCert = ClientCertOptional }, false},
	} {
		t.Run(tc.what, func(t *testing.T) {
			v := &visitor{s: s, cache: &stash{}, cert: &cert}
			first := v.visit(t, l.Client, "files.example.com", "smb", required).ok()
			if first.admit(l.Client) == 0 {
				t.Fatal("no ticket")
			}
			p := v.visit(t, l.Client, tc.name, tc.alpn, tc.edit).ok()
			if p.server.state.Resumed != tc.resumed {
				t.Errorf("resumed: %v", p.server.state.Resumed)
			}
			if len(p.server.state.Chain) != 3 {
				t.Errorf("%d certificates in the chain", len(p.server.state.Chain))
			}
			if bytes.Equal(first.server.state.Exporter, p.server.state.Exporter) {
				t.Error("the same exporter value twice")
			}
		})
	}
}

// HOSTILE 10: resumption after the CA is gone, or the certificate revoked.
func TestResumptionAfterReload(t *testing.T) {
	s := newSite(t)
	cert := s.clientCA.leaf(t, ecKey(t), forClient)
	l := startLocal(t, s.cfg)
	required := func(r *Request) { r.Options.ClientCert = ClientCertRequired }
	first := func() *visitor {
		v := &visitor{s: s, cache: &stash{}, cert: &cert}
		v.visit(t, l.Client, "files.example.com", "smb", required).ok().admit(l.Client)
		return v
	}
	v := first()
	with := s.cfg
	s.cfg.CRL = []string{replaceFile(t, filepath.Join(s.dir, "a.crl"), s.clientCA.crl(t, time.Now().Add(time.Hour), cert.Leaf))}
	reload(t, l, s.cfg)
	v.visit(t, l.Client, "files.example.com", "smb", required).refused(StatusEKEYREJECTED, alertCertificateRevoked, ReasonClientCertRevoked)

	reload(t, l, with)
	v = first()
	with.ClientCA = []string{replaceFile(t, filepath.Join(s.dir, "others.pem"), pemOf("CERTIFICATE", s.serverRoot.cert.Raw))}
	reload(t, l, with)
	v.visit(t, l.Client, "files.example.com", "smb", required).refused(StatusEKEYREJECTED, alertUnknownCA, ReasonClientCertCA)
	// Nor does it help to be asked for nothing.
	p := v.visit(t, l.Client, "files.example.com", "smb", nil).ok()
	if p.server.state.Resumed || p.server.state.Auth != AuthUnauth {
		t.Errorf("resumed where no certificate is asked for: %+v", p.server.state)
	}
}

// Even with a ticket that is good, today's CAs decide.
func TestResumedSessionIsVerified(t *testing.T) {
	s := newSite(t)
	cert := s.clientCA.leaf(t, ecKey(t), forClient)
	l := startLocal(t, s.cfg)
	required := func(r *Request) { r.Options.ClientCert = ClientCertRequired }
	v := &visitor{s: s, cache: &stash{}, cert: &cert}
	v.visit(t, l.Client, "files.example.com", "smb", required).ok().admit(l.Client)
	// The policy stays, so that the ticket is taken; the CAs are exchanged.
	st := *l.Server.state.Load()
	set := *st.caSets[""]
	other, err := loadCASet(&fileSet{}, s.cfg.Client.CA)
	if err != nil {
		t.Fatal(err)
	}
	set.pool = other.pool
	st.caSets = map[string]*caSet{"": &set}
	l.Server.state.Store(&st)
	p := v.visit(t, l.Client, "files.example.com", "smb", required)
	p.refused(StatusEKEYREJECTED, alertUnknownCA, ReasonClientCertCA)
}

// A certificate for RPC alone: its sessions are good for RPC, under this name,
// while its CA is trusted, and nowhere else.
func TestResumptionOfRPCClients(t *testing.T) {
	s := newSite(t)
	s.cfg.Certificates[0].Names = []string{"files.example.com", "two.example.com"}
	cert := s.clientCA.leaf(t, ecKey(t), withEKU(oidRPCClient))
	required := func(r *Request) { r.Options.ClientCert = ClientCertRequired }
	l := startLocal(t, s.cfg)
	first := func() *visitor {
		v := &visitor{s: s, cache: &stash{}, cert: &cert}
		if v.visit(t, l.Client, "files.example.com", "sunrpc", required).ok().admit(l.Client) == 0 {
			t.Fatal("no ticket")
		}
		return v
	}
	if p := first().visit(t, l.Client, "files.example.com", "sunrpc", required).ok(); !p.server.state.Resumed || len(p.server.state.Chain) != 3 {
		t.Errorf("the same again: %+v", p.server.state)
	}
	if p := first().visit(t, l.Client, "two.example.com", "sunrpc", required).ok(); p.server.state.Resumed || len(p.server.state.Chain) != 3 {
		t.Errorf("another name: %+v", p.server.state)
	}
	first().visit(t, l.Client, "files.example.com", "smb", required).refused(StatusEKEYREJECTED, alertUnsupportedCert, ReasonClientCertEKU)
	first().visit(t, l.Client, "two.example.com", "smb", required).refused(StatusEKEYREJECTED, alertUnsupportedCert, ReasonClientCertEKU)
	v := first()
	without := s.cfg
	without.ClientCA = []string{replaceFile(t, filepath.Join(s.dir, "others.pem"), pemOf("CERTIFICATE", s.serverRoot.cert.Raw))}
	reload(t, l, without)
	v.visit(t, l.Client, "files.example.com", "sunrpc", required).refused(StatusEKEYREJECTED, alertUnknownCA, ReasonClientCertCA)
}

// A session lives through a change of the client's address, and through a restart
// of the helper where ticket_keys names a file.
func TestTicketsOutliveTheHelper(t *testing.T) {
	for _, file := range []bool{true, false} {
		s := newSite(t)
		if file {
			s.cfg.TicketKeys = replaceFile(t, filepath.Join(s.dir, "tickets"), []byte(hex.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n"))
		}
		v := &visitor{s: s, cache: &stash{}}
		from := func(addr string) func(*Request) {
			return func(r *Request) { r.Remote = netip.MustParseAddrPort(addr) }
		}
		p, c, _ := startHelper(t, s.cfg)
		if v.visit(t, c, "files.example.com", "smb", from("192.0.2.1:1000")).ok().admit(c) == 0 {
			t.Fatal("no ticket")
		}
		there := v.visit(t, c, "files.example.com", "smb", from("198.51.100.7:2000")).ok()
		if there.admit(c); !there.server.state.Resumed {
			t.Error("not resumed from another address")
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := p.Stop(testContext(t)); err != nil {
			t.Error(err)
		}
		_, c, _ = startHelper(t, s.cfg)
		again := v.visit(t, c, "files.example.com", "smb", from("[2001:db8::1]:3000")).ok()
		if again.server.state.Resumed != file {
			t.Errorf("with a file of keys: %v; resumed at the next helper: %v", file, again.server.state.Resumed)
		}
	}
}

func TestTicketNeedsItsExtensions(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	// A client without a cache offers neither extension.
	v := &visitor{s: s}
	p := v.visit(t, l.Client, "files.example.com", "smb", nil).ok()
	if n := p.admit(l.Client); n != 0 {
		t.Errorf("a ticket of %d bytes for a client that can not use one", n)
	}
	// What the Samba client sends: the modes without the old extension.
	for _, tc := range []struct {
		alpn       string
		extensions []uint16
		want       bool
	}{
		{"smb", []uint16{extPSKModes, extSessionTicket}, true},
		{"smb", []uint16{extPSKModes}, false},
		{"sunrpc", []uint16{extPSKModes}, true},
		{"sunrpc", []uint16{extSessionTicket}, false},
	} {
		st := l.Server.state.Load()
		h := &serverHandshake{st: st, protos: []string{tc.alpn}}
		if _, err := h.inspectHello(&tls.ClientHelloInfo{ServerName: "files.example.com", SupportedProtos: []string{tc.alpn}, Extensions: tc.extensions}); err != nil {
			t.Fatal(err)
		}
		if h.ticketOK != tc.want {
			t.Errorf("%s with %d: ticket %v", tc.alpn, tc.extensions, h.ticketOK)
		}
	}
	s.cfg.NoTickets = true
	reload(t, l, s.cfg)
	v.cache = &stash{}
	if n := v.visit(t, l.Client, "files.example.com", "smb", nil).ok().admit(l.Client); n != 0 {
		t.Errorf("a ticket of %d bytes although they are off", n)
	}
}

// Two helpers that share a file of keys take each other's tickets; HOSTILE 44:
// without the file they do not, nor after the key is gone.
func TestTicketKeys(t *testing.T) {
	s := newSite(t)
	a, b := hex.EncodeToString(bytes.Repeat([]byte{1}, 32)), hex.EncodeToString(bytes.Repeat([]byte{2}, 32))
	keys := replaceFile(t, filepath.Join(s.dir, "tickets"), []byte("# first seals\n"+a+"\n"))
	s.cfg.TicketKeys = keys
	one, two := startLocal(t, s.cfg), startLocal(t, s.cfg)
	visit := func(v *visitor, l *Local) bool {
		p := v.visit(t, l.Client, "files.example.com", "smb", nil).ok()
		p.admit(l.Client)
		return p.server.state.Resumed
	}
	v := &visitor{s: s, cache: &stash{}}
	if visit(v, one) || !visit(v, two) {
		t.Error("not resumed on the other gateway")
	}
	replaceFile(t, keys, []byte(b+"\n"+a+"\n"))
	reload(t, two, s.cfg)
	if !visit(v, two) { // opens with a, seals with b
		t.Error("not resumed with the second key")
	}
	if visit(v, one) {
		t.Error("resumed with a key that this one does not have")
	}
	s.cfg.TicketKeys = ""
	reload(t, two, s.cfg)
	if visit(v, two) {
		t.Error("resumed although the key is gone")
	}
	before := two.Server.state.Load().tickets
	reload(t, two, s.cfg)
	if two.Server.state.Load().tickets != before || !visit(v, two) {
		t.Error("keys in memory do not live through a reload")
	}
	for _, bad := range []string{"", "# none\n", a[1:], a[:63] + "x", strings.Repeat(a+"\n", maxTicketKeys+1)} {
		if _, err := loadTicketKeys(&fileSet{}, replaceFile(t, keys, []byte(bad))); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

func TestTicketKeyRotation(t *testing.T) {
	now := time.Unix(1e9, 0)
	keys := newTicketKeys(now)
	first := keys.sealing(now)
	if keys.sealing(now.Add(ticketRotate-time.Second)).id != first.id {
		t.Error("rotated early")
	}
	later := now.Add(ticketRotate)
	if keys.sealing(later).id == first.id {
		t.Error("not rotated")
	}
	if _, ok := keys.find(first.id[:]); !ok {
		t.Error("the old key is gone while its tickets are good")
	}
	for range 5 {
		later = later.Add(ticketRotate)
		keys.sealing(later)
	}
	if _, ok := keys.find(first.id[:]); ok || len(keys.keys) > 4 {
		t.Errorf("%d keys kept", len(keys.keys))
	}
}

func TestTicketBindingAges(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := bindTicket("r", "n", "a", [32]byte{})
	for _, tc := range []struct {
		at   time.Time
		want string
	}{{now, ""}, {now.Add(ticketLifetime), ""}, {now.Add(ticketLifetime + time.Second), "expired"}, {now.Add(-time.Hour), "expired"}} {
		if _, got := b.refusal([][]byte{{1}, b.extra(now)}, tc.at); got != tc.want {
			t.Errorf("at %v: %q, want %q", tc.at, got, tc.want)
		}
	}
	if _, got := b.refusal(nil, now); got != "unbound" {
		t.Errorf("without a binding: %q", got)
	}
}

// The helper as a client resumes too, and uses a ticket once.
func TestClientRoleResumes(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	connect := func() bool {
		p := shake(t, viaHelper(l.Client, serverRequest(nil)), viaHelper(l.Client, clientRequest("files.example.com", "smb"))).ok()
		p.admit(l.Client)
		return p.client.state.Resumed
	}
	if connect() {
		t.Fatal("resumed at first sight")
	}
	deadline := time.Now().Add(testWait)
	for !connect() { // the ticket is stored by another goroutine
		if time.Now().After(deadline) {
			t.Fatal("never resumed")
		}
	}
	// With another CA the sessions of the old one are gone.
	s.cfg.Client.CA = append(s.cfg.Client.CA, s.cfg.ClientCA...)
	reload(t, l, s.cfg)
	if connect() {
		t.Error("resumed under another trust")
	}
}

func FuzzTicket(f *testing.F) {
	now := time.Unix(1e9, 0)
	keys := newTicketKeys(now)
	b := bindTicket("r", "n", "a", [32]byte{})
	k := keys.sealing(now)
	f.Add([]byte("state that is none"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, plain []byte) {
		nonce := make([]byte, 12)
		rand.Read(nonce)
		sealed := k.aead.Seal(append(append([]byte{}, k.id[:]...), nonce...), nonce, plain, k.id[:])
		if ss, _, why := keys.unwrap(&b, sealed, now); (ss == nil) == (why == "") {
			t.Errorf("session %v, reason %q", ss, why)
		}
		if ss, _, _ := keys.unwrap(&b, plain, now); ss != nil {
			t.Error("a ticket that nobody sealed")
		}
	})
}
