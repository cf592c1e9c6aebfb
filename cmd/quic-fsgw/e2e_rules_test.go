//go:build linux

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// The truth table of access rules, with real certificates through the program's
// processes: what the helper verifies and what the rules say, together.

// issuer is a CA of these tests, a root or one below.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	path [][]byte // itself and those above it, without the root
}

var ruleSerial atomic.Int64

// issueRules makes a certificate of template, by parent or by itself.
func issueRules(t *testing.T, template *x509.Certificate, parent *issuer) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(ruleSerial.Add(1))
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	by, signer := template, key
	if parent != nil {
		by, signer = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	if i.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if parent != nil {
		i.path = append([][]byte{der}, parent.path...)
	}
	return i
}

func newIssuer(t *testing.T, name string, parent *issuer) *issuer {
	return issueRules(t, &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: []string{"Example"}}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, parent)
}

// device issues a client certificate; edit may change its template.
func (i *issuer) device(t *testing.T, name string, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if edit != nil {
		edit(template)
	}
	leaf := issueRules(t, template, i)
	return tls.Certificate{Certificate: leaf.path, PrivateKey: leaf.key, Leaf: leaf.cert}
}

// list revokes certificates of the CA in a file.
func (i *issuer) list(t *testing.T, file string, revoked ...*x509.Certificate) {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(ruleSerial.Add(1)), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, i.cert, i.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, der, 0o644); err != nil {
		t.Fatal(err)
	}
}

func writeCAs(t *testing.T, file string, cas ...*issuer) {
	t.Helper()
	var text []byte
	for _, ca := range cas {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})...)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// unknownAlgorithm is the certificate with a key of a kind that nobody knows.
func unknownAlgorithm(t *testing.T, c tls.Certificate) tls.Certificate {
	t.Helper()
	known, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1})
	if err != nil {
		t.Fatal(err)
	}
	unknown := bytes.Clone(known)
	unknown[len(unknown)-1] = 0x7f
	der := bytes.Replace(c.Certificate[0], known, unknown, 1)
	if bytes.Equal(der, c.Certificate[0]) {
		t.Fatal("no elliptic curve key in it")
	}
	c.Certificate, c.Leaf = append([][]byte{der}, c.Certificate[1:]...), nil
	return c
}

// showing is p with a certificate that is in no file.
func (p peer) showing(c tls.Certificate) peer {
	p.TLS = func(conf *tls.Config) {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	}
	return p
}

// ruleSite is a gateway with a route for each rule, NAME.rules.test.
type ruleSite struct {
	*gatewayProcess
	root, devices, lab *issuer // lab and devices are below root
	old                *issuer // a root of its own
	cas                string  // file
	crl                string
}

func startRules(t *testing.T, backend string, rules map[string]string, s *ruleSite) {
	var access, routes string
	for name, rule := range rules {
		access += fmt.Sprintf("  %s: {client_certificate: required, %s}\n", name, rule)
		routes += fmt.Sprintf("  - {name: %s, match: {alpn: smb, server_name: %[1]s.rules.test}, access: %[1]s, smb: {backends: [%q], min_dialect: \"2.1\", probe: {interval: 0s}}}\n", name, backend)
	}
	s.gatewayProcess = startGateway(t, gatewaySetup{
		Names: []string{`"*.rules.test"`}, CertNames: []string{"*.rules.test"},
		Tlshd: fmt.Sprintf("  client_ca: [%s]\n  crl: [%s]\n  crl_expired: warn\n", s.cas, s.crl),
		Rest:  "limits: {failure_delay: 0s}\naccess:\n" + access + "routes:\n" + routes,
	})
}

// verdict dials a route with a certificate and tells what became of it:
// "admitted", or the code and reason of the refusal.
func (s *ruleSite) verdict(t *testing.T, p peer) (code uint64, why string, resumed bool) {
	t.Helper()
	mark := s.Log.mark()
	conn, err := p.dial(t, s.Addr)
	if err == nil {
		resumed = conn.TLS().Resumed
		// Who is let in gets HANDSHAKE_DONE and may open a stream that is answered.
		defer conn.CloseWithError(0, "")
		st := stream(t, conn)
		_, err = st.Write(negotiate())
		if err == nil {
			var head [4]byte
			if _, err = st.Read(head[:]); err == nil {
				return 0, "admitted", resumed
			}
		}
		err = ended(t, conn)
	}
	code, _, _ = remoteCode(err)
	l := s.Log.wait(t, mark, "the refusal", func(l logLine) bool { return l.Msg == "handshake failed" || l.Msg == "connection refused" })
	return code, l.str("reason"), resumed
}

// answeringBackend answers a NEGOTIATE, so that who is let in sees it.
func answeringBackend(t *testing.T) *countingBackend {
	b := startCounting(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case c := <-b.conns:
				_ = c.SetDeadline(time.Now().Add(e2eDeadline))
				if _, err := c.Read(make([]byte, 4096)); err == nil {
					_, _ = c.Write(negotiateAnswer())
				}
				t.Cleanup(func() { _ = c.Close() })
			case <-t.Context().Done():
				return
			}
		}
	}()
	t.Cleanup(func() { <-done })
	return b
}

// Hostile inputs, row 49: Windows' truth table.
func TestHostile49TruthTable(t *testing.T) {
	dir := t.TempDir()
	s := &ruleSite{cas: filepath.Join(dir, "cas.pem"), crl: filepath.Join(dir, "root.crl")}
	s.root, s.old = newIssuer(t, "Example Root", nil), newIssuer(t, "Old Root", nil)
	s.devices, s.lab = newIssuer(t, "Device CA", s.root), newIssuer(t, "Lab CA", s.root)
	retired := newIssuer(t, "Retired CA", s.root)
	laptop, other := s.devices.device(t, "laptop.test", nil), s.devices.device(t, "other.test", nil)
	revoked := s.devices.device(t, "revoked.test", nil)
	s.devices.list(t, s.crl, revoked.Leaf)
	rootList := filepath.Join(dir, "all.crl")
	s.root.list(t, rootList, retired.cert)
	s.crl += ", " + rootList
	ownList := filepath.Join(dir, "own.crl")
	s.devices.list(t, ownList, other.Leaf)
	writeCAs(t, s.cas, s.root)
	sum := func(c tls.Certificate) string { return fmt.Sprintf("%x", sha256.Sum256(c.Certificate[0])) }
	deviceCA, labCA := `{issuer: "CN=Device CA,O=Example"}`, `{issuer: "CN=Lab CA,O=Example"}`
	root, thisLeaf := `{issuer: "CN=Example Root,O=Example"}`, fmt.Sprintf("{sha256: %q}", sum(laptop))
	backend := answeringBackend(t)
	startRules(t, backend.Addr, map[string]string{
		"any":        "allow: [{any: true}]",
		"ca":         "allow: [" + deviceCA + "]",
		"root":       "allow: [" + root + "]",
		"leaf":       "allow: [" + thisLeaf + "]",
		"denyleaf":   "allow: [" + deviceCA + "], deny: [" + thisLeaf + "]",
		"denyca":     "allow: [" + thisLeaf + "], deny: [" + deviceCA + "]",
		"denyroot":   "allow: [" + thisLeaf + ", " + deviceCA + "], deny: [" + root + "]",
		"denymiddle": "allow: [" + root + "], deny: [" + fmt.Sprintf("{sha256: \"%x\"}", sha256.Sum256(s.devices.cert.Raw)) + "]",
		"denyboth":   "allow: [" + thisLeaf + "], deny: [" + thisLeaf + "]",
		"labonly":    "allow: [" + labCA + "]",
		"own":        "allow: [{any: true}], crl: [" + ownList + "]",
	}, s)
	past := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	future := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	}
	use := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	in := reason.Reason{Name: "admitted"}
	for _, tt := range []struct {
		name  string
		rule  string
		shown tls.Certificate
		want  reason.Reason
	}{
		{"any of the CA", "any", laptop, in},
		{"allowed by the CA that issued it", "ca", laptop, in},
		{"allowed by the root", "root", laptop, in},
		{"allowed itself", "leaf", laptop, in},
		{"another than the one allowed", "leaf", other, reason.AccessNotAllowed},
		{"of another CA than the one allowed", "labonly", laptop, reason.AccessNotAllowed},
		{"leaf denied under a CA that is allowed", "denyleaf", laptop, reason.AccessDenied},
		{"its neighbour under that CA", "denyleaf", other, in},
		{"leaf allowed under a CA that is denied", "denyca", laptop, reason.AccessDenied},
		{"leaf and CA allowed under a root that is denied", "denyroot", laptop, reason.AccessDenied},
		{"intermediate denied by its hash", "denymiddle", laptop, reason.AccessDenied},
		{"beside that intermediate", "denymiddle", s.lab.device(t, "x.test", nil), in},
		{"allowed and denied", "denyboth", laptop, reason.AccessDenied},
		{"expired", "any", s.devices.device(t, "x.test", past), reason.ExpiredCertificate},
		{"not yet valid", "any", s.devices.device(t, "x.test", future), reason.BadClientCertificate},
		{"for servers", "any", s.devices.device(t, "x.test", use(x509.ExtKeyUsageServerAuth)), reason.UnsupportedCert},
		{"for code and mail", "any", s.devices.device(t, "x.test", use(x509.ExtKeyUsageCodeSigning, x509.ExtKeyUsageEmailProtection)), reason.UnsupportedCert},
		{"for any use", "any", s.devices.device(t, "x.test", use(x509.ExtKeyUsageAny)), in},
		{"revoked", "any", revoked, reason.RevokedCertificate},
		{"revoked CA", "any", retired.device(t, "x.test", nil), reason.RevokedCertificate},
		{"revoked in the rule's own list", "own", other, reason.RevokedCertificate},
		{"revoked in a list that is not the rule's", "own", revoked, in},
		{"revoked in the list of another rule", "any", other, in},
		{"of a key that nobody knows", "any", unknownAlgorithm(t, laptop), reason.UnsupportedCert},
		{"of a CA that is not trusted", "any", s.old.device(t, "x.test", nil), reason.UnknownCA},
		{"of a CA of the same name", "any", newIssuer(t, "Example Root", nil).device(t, "laptop.test", nil), reason.UnknownCA},
		{"issued by a leaf", "any", (&issuer{laptop.Leaf, laptop.PrivateKey.(*ecdsa.PrivateKey), laptop.Certificate}).device(t, "x.test", nil), reason.UnknownCA},
		{"none", "any", tls.Certificate{}, reason.NoClientCertificate},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := backend.count.Load()
			code, why, _ := s.verdict(t, peer{ServerName: tt.rule + ".rules.test"}.showing(tt.shown))
			if why != tt.want.Name || code != tt.want.Code {
				t.Errorf("%s, code 0x%x; want %s, code 0x%x", why, code, tt.want.Name, tt.want.Code)
			}
			if n := backend.count.Load() - before; n != 0 && tt.want != in {
				t.Errorf("the backend was dialed %d times", n)
			}
		})
	}
	t.Run("CA removed, then session resumption", func(t *testing.T) { s.resumeWithoutCA(t, laptop) })
}

// resumeWithoutCA: a ticket does not outlive the CA that its client was let in by.
func (s *ruleSite) resumeWithoutCA(t *testing.T, laptop tls.Certificate) {
	p := peer{ServerName: "any.rules.test"}.showing(laptop)
	show, cache := p.TLS, tls.NewLRUClientSessionCache(4)
	p.TLS = func(c *tls.Config) {
		show(c)
		c.ClientSessionCache = cache
	}
	visit := func() (string, bool) {
		t.Helper()
		_, why, resumed := s.verdict(t, p)
		return why, resumed
	}
	if why, resumed := visit(); why != "admitted" || resumed {
		t.Fatalf("first: %s, resumed %v", why, resumed)
	}
	eventually(t, "a session that is resumed", func() bool {
		why, resumed := visit()
		return why == "admitted" && resumed
	})
	mark := s.Log.mark()
	writeCAs(t, s.cas, s.old)
	s.Log.wait(t, mark, "the helper to read the new CAs", func(l logLine) bool { return l.Msg == "files changed and were reread" })
	if why, resumed := visit(); why != reason.UnknownCA.Name || resumed {
		t.Errorf("with the CA gone: %s, resumed %v", why, resumed)
	}
}

// A connection does not outlive the certificate that it was let in by, nor its
// CA's; others stay.
func TestCertificateEndsWhileConnected(t *testing.T) {
	dir := t.TempDir()
	s := &ruleSite{cas: filepath.Join(dir, "cas.pem"), crl: filepath.Join(dir, "root.crl")}
	s.root = newIssuer(t, "Example Root", nil)
	until := func(end time.Time) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), end }
	}
	s.root.list(t, s.crl)
	writeCAs(t, s.cas, s.root)
	backend := startCounting(t)
	startRules(t, backend.Addr, map[string]string{"any": "allow: [{any: true}]"}, s)
	end := time.Now().Add(15 * time.Second)
	short := issueRules(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Short CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: end}, s.root)
	connect := func(c tls.Certificate) *quic.Conn {
		t.Helper()
		conn := peer{ServerName: "any.rules.test"}.showing(c).mustDial(t, s.Addr)
		if _, err := stream(t, conn).Write(negotiate()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
		c2 := <-backend.conns // it is let in
		t.Cleanup(func() { c2.Close() })
		return conn
	}
	staying := connect(s.root.device(t, "staying.test", nil))
	for name, conn := range map[string]*quic.Conn{"its own": connect(s.root.device(t, "short.test", until(end))), "its CA's": connect(short.device(t, "under.test", nil))} {
		select {
		case <-conn.Done():
		case <-time.After(time.Until(end) + 2*e2eDeadline):
			t.Fatalf("%s certificate has ended, and the connection has not", name)
		}
		if code, _, remote := remoteCode(conn.Err()); !remote || code != reason.ExpiredCertificate.Code {
			t.Errorf("%s: %v", name, conn.Err())
		}
		if time.Now().Before(end) {
			t.Errorf("%s: cut before the end", name)
		}
	}
	if err := staying.Err(); err != nil {
		t.Errorf("the one whose certificate has not ended: %v", err)
	}
}
