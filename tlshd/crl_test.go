package tlshd

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Revocation lists that are out of date, or signed by somebody else.
func TestRevocationLists(t *testing.T) {
	s := newSite(t)
	crl := filepath.Join(s.dir, "x.crl")
	revoked, good := s.clientCA.leaf(t, ecKey(t), forClient), s.clientCA.leaf(t, ecKey(t), forClient)
	replaceFile(t, crl, s.clientCA.crl(t, time.Now().Add(-time.Minute), revoked.Leaf))
	s.cfg.CRL = []string{crl}
	l := startLocal(t, s.cfg)
	try := func(c tls.Certificate) *pair {
		return shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.Options.ClientCert = ClientCertRequired })), s.raw(withCert(c)))
	}
	try(good).refused(StatusEKEYREJECTED, alertCertificateUnknown, ReasonCRLExpired)
	try(revoked).refused(StatusEKEYREJECTED, alertCertificateRevoked, ReasonClientCertRevoked)
	s.cfg.CRLExpired = CRLWarn
	reload(t, l, s.cfg)
	try(good).ok()
	try(revoked).refused(StatusEKEYREJECTED, alertCertificateRevoked, ReasonClientCertRevoked)
	// Of the same name, signed by another key.
	impostor := &authority{cert: s.clientCA.cert, key: ecKey(t)}
	cert := *impostor.cert
	cert.PublicKey = impostor.key.Public()
	impostor.cert = &cert
	replaceFile(t, crl, impostor.crl(t, time.Now().Add(time.Hour)))
	reload(t, l, s.cfg)
	try(good).refused(StatusEKEYREJECTED, alertCertificateUnknown, ReasonCRLInvalid)
	// A revoked intermediate.
	replaceFile(t, crl, s.clientRoot.crl(t, time.Now().Add(time.Hour), s.clientCA.cert))
	reload(t, l, s.cfg)
	try(good).refused(StatusEKEYREJECTED, alertCertificateRevoked, ReasonClientCertRevoked)
}

// Lists of one issuer: which of them are about a certificate, and whose they are.
func TestRevocationListsOfOneIssuer(t *testing.T) {
	s := newSite(t)
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	revoked, good := s.clientCA.leaf(t, ecKey(t), forClient), s.clientCA.leaf(t, ecKey(t), forClient)
	list := func(next time.Time, edit func(*x509.RevocationList), revoked ...*x509.Certificate) string {
		t.Helper()
		l := &x509.RevocationList{Number: big.NewInt(serial.Add(1)), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: next}
		for _, c := range revoked {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: past})
		}
		issuer := *s.clientCA.cert
		if edit != nil {
			edit(l)
		}
		if id := l.ExtraExtensions; len(id) > 0 && id[0].Id == nil { // another key identifier
			issuer.SubjectKeyId, l.ExtraExtensions = id[0].Value, nil
		}
		der, err := x509.CreateRevocationList(rand.Reader, l, &issuer, s.clientCA.key)
		if err != nil {
			t.Fatal(err)
		}
		return replaceFile(t, filepath.Join(t.TempDir(), "x.crl"), der)
	}
	scope := func(der ...byte) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: oidIssuingDistPoint, Critical: true, Value: append([]byte{0x30, byte(len(der))}, der...)}}
		}
	}
	users, cas := scope(0x81, 1, 0xff), scope(0x82, 1, 0xff)
	part := func(name byte) func(*x509.RevocationList) {
		return scope(0xa0, 7, 0xa0, 5, 0x86, 3, 'u', ':', name)
	}
	otherID := func(l *x509.RevocationList) { l.ExtraExtensions = []pkix.Extension{{Value: []byte{1, 2, 3}}} }
	for _, tc := range []struct {
		name                string
		lists               []string
		ofRevoked, ofOthers Reason
	}{
		{"under another key identifier", []string{list(soon, otherID, revoked.Leaf)}, ReasonClientCertRevoked, ReasonOK},
		{"of users", []string{list(soon, users, revoked.Leaf)}, ReasonClientCertRevoked, ReasonOK},
		{"of users, outdated, and of CAs", []string{list(past, users), list(soon, cas)}, ReasonCRLExpired, ReasonCRLExpired},
		{"of CAs, outdated, and of users", []string{list(past, cas), list(soon, users, revoked.Leaf)}, ReasonClientCertRevoked, ReasonOK},
		{"of two parts, one outdated", []string{list(past, part('a')), list(soon, part('b'), revoked.Leaf)}, ReasonClientCertRevoked, ReasonCRLExpired},
		{"of one part, the old one too", []string{list(past, part('a')), list(soon, part('a'), revoked.Leaf)}, ReasonClientCertRevoked, ReasonOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := s.cfg
			cfg.CRL = tc.lists
			l := startLocal(t, cfg)
			for _, c := range []struct {
				cert tls.Certificate
				want Reason
			}{{revoked, tc.ofRevoked}, {good, tc.ofOthers}} {
				p := shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.Options.ClientCert = ClientCertRequired })), s.raw(withCert(c.cert)))
				switch c.want {
				case ReasonOK:
					p.ok()
				case ReasonCRLExpired:
					p.refused(StatusEKEYREJECTED, alertCertificateUnknown, c.want)
				default:
					p.refused(StatusEKEYREJECTED, alertCertificateRevoked, c.want)
				}
			}
		})
	}

	// A list that spells its issuer in other types of strings is its issuer's.
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: past, NextUpdate: soon,
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked.Leaf.SerialNumber, RevocationTime: past}}}, respelled(t, s.clientCA.cert), s.clientCA.key)
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.CRL = []string{replaceFile(t, filepath.Join(s.dir, "respelled.crl"), der)}
	l := startLocal(t, s.cfg)
	shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.Options.ClientCert = ClientCertRequired })), s.raw(withCert(revoked))).
		refused(StatusEKEYREJECTED, alertCertificateRevoked, ReasonClientCertRevoked)
}

// respelled is a certificate whose subject is in UTF8Strings of capitals.
func respelled(t *testing.T, c *x509.Certificate) *x509.Certificate {
	t.Helper()
	out := *c
	out.RawSubject = bytes.ToUpper(out.RawSubject)
	for i := range out.RawSubject {
		if out.RawSubject[i] == 0x13 { // PrintableString
			out.RawSubject[i] = 0x0c
		}
	}
	if bytes.Equal(out.RawSubject, c.RawSubject) {
		t.Fatal("the name is as it was")
	}
	return &out
}

// Lists of a role and of a set of CAs take the place of those for all.
func TestRevocationListsByRole(t *testing.T) {
	s := newSite(t)
	soon := time.Now().Add(time.Hour)
	client := s.clientCA.leaf(t, ecKey(t), forClient)
	server := s.serverCA.leaf(t, ecKey(t), forServer("files.example.com"))
	file := func(name string, b []byte) string { return replaceFile(t, filepath.Join(s.dir, name), b) }
	s.cfg.ClientCASets = map[string][]string{"lab": s.cfg.ClientCA, "all": s.cfg.ClientCA}
	s.cfg.ClientCRLSets = map[string][]string{"lab": {file("lab.crl", s.clientCA.crl(t, soon, client.Leaf))}}
	s.cfg.Client.CRL = []string{file("servers.crl", s.serverCA.crl(t, soon, server.Leaf))}
	l := startLocal(t, s.cfg)
	as := func(set string) *pair {
		return shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.Options.ClientCert = ClientCertRequired; r.Options.CASet = set })), s.raw(withCert(client)))
	}
	as("").ok()
	first := as("all").ok()
	as("lab").refused(StatusEKEYREJECTED, alertCertificateRevoked, ReasonClientCertRevoked)
	chain := first.server.state.Chain
	if _, _, err := l.Client.Verify(testContext(t), chain, "smb", "all"); err != nil {
		t.Error(err)
	}
	if _, _, err := l.Client.Verify(testContext(t), chain, "smb", "lab"); err == nil {
		t.Error("a live connection passes by the lists of another set")
	}
	raw := func(sink func(Event)) shaker {
		return newRawServer(&tls.Config{Certificates: []tls.Certificate{server}, NextProtos: []string{"smb"}}, sink)
	}
	p := shake(t, raw, viaHelper(l.Client, clientRequest("files.example.com", "smb")))
	checkRefused(t, p.client.err, StatusEKEYREJECTED, alertCertificateRevoked, ReasonServerCertRevoked)

	// Those for all are for the sets that have none of their own.
	s.cfg.CRL, s.cfg.ClientCRLSets["lab"] = s.cfg.ClientCRLSets["lab"], []string{file("none.crl", s.clientCA.crl(t, soon))}
	reload(t, l, s.cfg)
	as("").refused(StatusEKEYREJECTED, alertCertificateRevoked, ReasonClientCertRevoked)
	as("all").refused(StatusEKEYREJECTED, alertCertificateRevoked, ReasonClientCertRevoked)
	as("lab").ok()
	s.cfg.ClientCRLSets = map[string][]string{"nobody": nil}
	if err := l.Server.Reload(s.cfg); err == nil {
		t.Error("lists of a set that is not there")
	}
}

// A list that goes, or is cut short, takes nothing back: what it has revoked stays
// so, and no helper begins without it.
func TestRevocationListThatGoes(t *testing.T) {
	s := newSite(t)
	revoked := s.clientCA.leaf(t, ecKey(t), forClient)
	list := s.clientCA.crl(t, time.Now().Add(time.Hour), revoked.Leaf)
	crl := replaceFile(t, filepath.Join(s.dir, "x.crl"), list)
	s.cfg.CRL, s.cfg.WatchInterval = []string{crl}, 5*time.Millisecond
	l := startLocal(t, s.cfg)
	refused := func() {
		t.Helper()
		shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.Options.ClientCert = ClientCertRequired })), s.raw(withCert(revoked))).
			refused(StatusEKEYREJECTED, alertCertificateRevoked, ReasonClientCertRevoked)
	}
	refused()
	for what, change := range map[string]func() error{
		"gone":      func() error { return os.Remove(crl) },
		"cut short": func() error { return os.WriteFile(crl, list[:len(list)/2], 0o600) },
		"empty":     func() error { return os.WriteFile(crl, nil, 0o600) },
	} {
		before := l.Server.Stats().ReloadErrors
		if err := change(); err != nil {
			t.Fatal(err)
		}
		await(t, "the list that is "+what+" to be noticed", func() bool { return l.Server.Stats().ReloadErrors > before })
		refused()
		if _, err := NewServer(s.cfg, nil); err == nil {
			t.Errorf("a helper begins with a list that is %s", what)
		}
		replaceFile(t, crl, list)
		reloads := l.Server.Stats().Reloads
		await(t, "the list to be read again", func() bool {
			return l.Server.Stats().Reloads > reloads || l.Server.state.Load().number > 1 && !l.Server.state.Load().files.changed()
		})
	}
}

// Without any CA nobody passes: what the system trusts is no client's CA.
func TestNoClientCA(t *testing.T) {
	s := newSite(t)
	good := s.clientCA.leaf(t, ecKey(t), forClient)
	s.cfg.ClientCA = nil
	s.cfg.ClientCASets = map[string][]string{"none": nil}
	l := startLocal(t, s.cfg)
	for _, set := range []string{"", "none"} {
		for _, mode := range []ClientCertMode{ClientCertRequired, ClientCertOptional} {
			shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.Options.ClientCert = mode; r.Options.CASet = set })), s.raw(withCert(good))).
				refused(StatusEKEYREJECTED, alertUnknownCA, ReasonClientCertCA)
		}
		if roots := l.Server.state.Load().caSets[set].pool; roots == nil {
			t.Error("no set of CAs means the system's")
		}
	}
	empty := replaceFile(t, filepath.Join(s.dir, "empty.pem"), []byte("# none yet\n"))
	s.cfg.ClientCA = []string{empty}
	if err := l.Server.Reload(s.cfg); err == nil {
		t.Error("a file without a CA is taken")
	}
}
