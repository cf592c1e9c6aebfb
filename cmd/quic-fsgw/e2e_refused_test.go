//go:build linux

package main

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// Who is refused, how it is told, what the log says, and that no backend hears
// of it (hostile inputs, row 62).

// refusals is a gateway with a route that wants certificates of one CA.
type refusals struct {
	*gatewayProcess
	backend *countingBackend
	clients *authority // of client certificates
	old     *authority // the same, made two days ago
	audit   string     // file
}

const secureName = "secure.test"

func startRefusals(t *testing.T, rest string) *refusals {
	r := &refusals{backend: startCounting(t), clients: newAuthority(t), old: &authority{t: t, dir: t.TempDir()}, audit: filepath.Join(t.TempDir(), "audit")}
	revoked, _ := r.clients.client("revoked.corp.test")
	crl := makeCRL(t, r.clients, revoked)
	denied, _ := r.clients.client("denied.corp.test")
	r.clients.client("laptop.corp.test")
	r.clients.client("stranger.test")
	makeExpired(t, r.old)
	cas := filepath.Join(t.TempDir(), "clients.pem")
	concat(t, cas, r.clients.CA, r.old.CA)
	r.gatewayProcess = startGateway(t, gatewaySetup{
		Names: []string{secureName, sambatest.Host}, Log: fmt.Sprintf(", audit: %q", r.audit),
		Tlshd: fmt.Sprintf("  client_ca: [%s]\n  crl: [%s]\n  crl_expired: warn\n", cas, crl),
		Rest: fmt.Sprintf(`access:
  staff:
    client_certificate: required
    allow: [{san: "dns:*.corp.test"}]
    deny: [{sha256: %q}]
routes:
  - name: secure
    match: {alpn: smb, server_name: [%s, %s]}
    access: staff
    smb: {backends: [%q], min_dialect: "2.1", probe: {interval: 0s}}
%s`, fingerprint(t, denied), secureName, sambatest.Host, r.backend.Addr, rest),
	})
	return r
}

func concat(t *testing.T, to string, from ...string) {
	t.Helper()
	var all []byte
	for _, f := range from {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	if err := os.WriteFile(to, all, 0o644); err != nil {
		t.Fatal(err)
	}
}

func parseCert(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fingerprint is how access rules name a certificate.
func fingerprint(t *testing.T, file string) string {
	return fmt.Sprintf("%x", sha256.Sum256(parseCert(t, file).Raw))
}

// makeCRL revokes a certificate.
func makeCRL(t *testing.T, a *authority, cert string) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.CA, filepath.Join(a.dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: parseCert(t, cert).SerialNumber, RevocationTime: now}},
	}, parseCert(t, a.CA), pair.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(a.dir, "clients.crl")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// makeExpired makes a CA and a client certificate that ended yesterday.
func makeExpired(t *testing.T, a *authority) {
	t.Helper()
	then := time.Now().Add(-48 * time.Hour)
	ca, pair, err := pki.NewCA(then, "an old CA", 1000*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	a.CA = filepath.Join(a.dir, "ca.crt")
	if err := pair.Write(a.CA, filepath.Join(a.dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Issue(then, pki.Request{Name: "old.corp.test", DNS: []string{"old.corp.test"}, Client: true, Life: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.Write(filepath.Join(a.dir, "old.corp.test.crt"), filepath.Join(a.dir, "old.corp.test.key")); err != nil {
		t.Fatal(err)
	}
}

// files are the certificate and key of a name that was issued.
func (a *authority) files(name string) (cert, key string) {
	return filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
}

// with returns p showing the certificate of a name.
func (p peer) with(a *authority, name string) peer {
	p.Cert, p.Key = a.files(name)
	return p
}

func TestHostile62Refused(t *testing.T) {
	r := startRefusals(t, "")
	strangers := newAuthority(t)
	strangers.client("laptop.corp.test")
	ok := peer{ServerName: secureName, CA: r.Authority.CA}.with(r.clients, "laptop.corp.test")
	named := func(name string) peer { p := ok; p.ServerName, p.CA = name, ""; return p }
	noCert := ok
	noCert.Cert = ""
	unknownALPN := ok
	unknownALPN.ALPN = []string{"h3"}
	for _, tt := range []struct {
		name string
		peer peer
		want reason.Reason
	}{
		{"no client certificate", noCert, reason.NoClientCertificate},
		{"client certificate of another CA", ok.with(strangers, "laptop.corp.test"), reason.UnknownCA},
		{"expired client certificate", ok.with(r.old, "old.corp.test"), reason.ExpiredCertificate},
		{"revoked client certificate", ok.with(r.clients, "revoked.corp.test"), reason.RevokedCertificate},
		{"client certificate that no entry allows", ok.with(r.clients, "stranger.test"), reason.AccessNotAllowed},
		{"client certificate that an entry denies", ok.with(r.clients, "denied.corp.test"), reason.AccessDenied},
		{"unknown ALPN", unknownALPN, reason.NoApplicationProtocol},
		{"unknown server name", named("nobody.test"), reason.UnrecognizedName},
		{"no server name", named(""), reason.UnrecognizedName},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mark := r.Log.mark()
			conn, err := tt.peer.dial(t, r.Addr)
			if err == nil {
				err = ended(t, conn)
			}
			if code, app, remote := remoteCode(err); !remote || app || code != tt.want.Code {
				t.Errorf("the client got %v, want code 0x%x", err, tt.want.Code)
			}
			l := r.Log.wait(t, mark, "the refusal", func(l logLine) bool { return l.Msg == "handshake failed" || l.Msg == "connection refused" })
			if l.str("reason") != tt.want.Name || l.str("remote") == "" {
				t.Errorf("the log says %s, want reason %s", l.Raw, tt.want.Name)
			}
		})
	}
	t.Run("audit", func(t *testing.T) { r.audited(t, strangers) })
	t.Run("server not trusted", func(t *testing.T) { r.distrusted(t, ok, strangers) })
	t.Run("smbclient", func(t *testing.T) { r.smbclient(t) })
	t.Run("client commands", func(t *testing.T) { r.commands(t, ok, strangers) })
	t.Run("revoked server", func(t *testing.T) { r.revokedServer(t, ok) })
	if n := r.backend.count.Load(); n != 0 {
		t.Fatalf("the backend was dialed %d times", n)
	}
	// The control: the same counter counts the client that is let in, once it
	// has said something that is for the backend.
	conn := ok.mustDial(t, r.Addr)
	if _, err := stream(t, conn).Write(negotiate()); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-r.backend.conns:
		c.Close()
	case <-time.After(e2eDeadline):
		t.Fatal("the backend was not dialed for a client that is allowed")
	}
}

// Who is refused hears of it late, and nobody else does: a client with an
// allowed certificate comes in from the same address while the others wait.
func TestRefusalsAreLate(t *testing.T) {
	const delay = 10 * time.Second
	r := startRefusals(t, "limits: {failure_delay: 10s}\n")
	ok := peer{ServerName: secureName, CA: r.Authority.CA}.with(r.clients, "laptop.corp.test")
	noCert := ok
	noCert.Cert = ""
	type refusal struct {
		what string
		from peer
		want reason.Reason
		conn *quic.Conn
	}
	// The first is refused by its rule, the others by the helper, which has until
	// a second before the handshake's own end.
	waiting := []*refusal{
		{what: "denied", from: ok.with(r.clients, "denied.corp.test"), want: reason.AccessDenied},
		{what: "revoked", from: ok.with(r.clients, "revoked.corp.test"), want: reason.RevokedCertificate},
		{what: "no certificate", from: noCert, want: reason.NoClientCertificate},
	}
	began := time.Now()
	for _, w := range waiting {
		w.conn = w.from.mustDial(t, r.Addr)
	}
	conn := ok.mustDial(t, r.Addr)
	if _, err := stream(t, conn).Write(negotiate()); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-r.backend.conns:
		c.Close()
	case <-waiting[0].conn.Done():
		t.Errorf("the client that is denied heard of it before the one that is allowed was let in: %v", waiting[0].conn.Err())
	case <-time.After(e2eDeadline):
		t.Fatal("the backend was not dialed for a client that is allowed")
	}
	for _, w := range waiting {
		err := ended(t, w.conn)
		if code, app, remote := remoteCode(err); !remote || app || code != w.want.Code {
			t.Errorf("%s: the client got %v, want code 0x%x", w.what, err, w.want.Code)
		}
		if took := time.Since(began); took < delay-2*time.Second {
			t.Errorf("%s: heard of it after %s", w.what, took)
		}
	}
}

// distrusted: the client refuses the server, for its CA or its name.
func (r *refusals) distrusted(t *testing.T, ok peer, strangers *authority) {
	wrongCA := ok
	wrongCA.CA = strangers.CA
	wrongName := ok
	// The route takes the name, the certificate verified against has another.
	wrongName.TLS = func(c *tls.Config) {
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(cs tls.ConnectionState) error { return cs.PeerCertificates[0].VerifyHostname("other.test") }
	}
	for name, p := range map[string]peer{"wrong CA": wrongCA, "wrong name": wrongName} {
		mark := r.Log.mark()
		if _, err := p.dial(t, r.Addr); err == nil {
			t.Errorf("%s: connected", name)
		}
		l := r.Log.wait(t, mark, "the client's alert", func(l logLine) bool { return l.Msg == "handshake failed" })
		if l.str("reason") != reason.ClientAlert.Name || !strings.Contains(l.str("error"), "CRYPTO_ERROR 0x12a: bad certificate") {
			t.Errorf("%s: %s", name, l.Raw)
		}
	}
}

// smbclient has no client certificate to show.
func (r *refusals) smbclient(t *testing.T) {
	mark := r.Log.mark()
	g := sambatest.QUIC(r.Port, r.Authority.CA)
	g.Limit = e2eDeadline
	if out := sambatest.SMBClient(t, g, "ls"); out.Code == 0 || !strings.Contains(out.Text, "NT_STATUS_") {
		t.Errorf("exit status %d\n%s", out.Code, out.Text)
	}
	l := r.Log.wait(t, mark, "the refusal", func(l logLine) bool { return l.Msg == "handshake failed" })
	if l.str("reason") != reason.NoClientCertificate.Name {
		t.Errorf("the log says %s", l.Raw)
	}
}

// commands: what the client commands, with the helper's TLS, say to their user.
func (r *refusals) commands(t *testing.T, ok peer, strangers *authority) {
	url := fmt.Sprintf("smb://user@127.0.0.1:%d/share", r.Port)
	for _, tt := range []struct {
		name, ca, serverName, cert, key string
		want                            string // in the error message
		reason                          reason.Reason
	}{
		{"wrong CA", strangers.CA, secureName, ok.Cert, ok.Key, "CA", reason.ClientAlert},
		{"wrong name", r.Authority.CA, "wrong.test", ok.Cert, ok.Key, "--server-name", reason.UnrecognizedName},
		{"no certificate", r.Authority.CA, secureName, "", "", "--cert and --key", reason.NoClientCertificate},
		{"no server", r.Authority.CA, secureName, "/nonexistent.crt", "/nonexistent.key", "nonexistent", reason.Reason{}},
	} {
		mark := r.Log.mark()
		args := []string{"ls", "--ca", tt.ca, "--server-name", tt.serverName, url}
		if tt.cert != "" {
			args = append(args, "--cert", tt.cert, "--key", tt.key)
		}
		res := cli(t, e2eDeadline, nil, args...)
		t.Logf("%s: exit status %d: %s", tt.name, res.Code, strings.TrimSpace(res.Err))
		if strings.Contains(res.Err, "level=WARN") {
			t.Errorf("%s: a warning for a command that ends", tt.name)
		}
		if want := 3; tt.reason.Name != "" && (res.Code != want || !strings.Contains(res.Err, tt.want)) {
			t.Errorf("%s: exit status %d, want %d, and an error with %q", tt.name, res.Code, want, tt.want)
		}
		if tt.reason.Name == "" {
			if res.Code == 0 || !strings.Contains(res.Err, tt.want) {
				t.Errorf("%s: exit status %d, and no error with %q", tt.name, res.Code, tt.want)
			}
			continue
		}
		l := r.Log.wait(t, mark, tt.name, func(l logLine) bool { return l.Msg == "handshake failed" || l.Msg == "connection refused" })
		if l.str("reason") != tt.reason.Name {
			t.Errorf("%s: the log says %s, want reason %s", tt.name, l.Raw, tt.reason.Name)
		}
	}
}

// audited: the audit log has one line for each who was refused, which says who, by
// which rule and why, whether TLS has failed or the rule has refused.
func (r *refusals) audited(t *testing.T, strangers *authority) {
	b, err := os.ReadFile(r.audit)
	if err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for text := range strings.Lines(string(b)) {
		var l map[string]any
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		lines = append(lines, l)
	}
	for _, tt := range []struct {
		of     *authority
		name   string
		reason string
	}{
		{strangers, "laptop.corp.test", reason.UnknownCA.Name}, {r.old, "old.corp.test", reason.ExpiredCertificate.Name},
		{r.clients, "revoked.corp.test", reason.RevokedCertificate.Name}, {r.clients, "stranger.test", "not_allowed"}, {r.clients, "denied.corp.test", "denied"},
	} {
		file, _ := tt.of.files(tt.name)
		c, n := parseCert(t, file), 0
		for _, l := range lines {
			if l["client_sha256"] != fingerprint(t, file) {
				continue
			}
			n++
			for key, want := range map[string]any{"reason": tt.reason, "rule": "staff", "route": "secure", "serial": c.SerialNumber.Text(16)} {
				if l[key] != want {
					t.Errorf("%s: %s is %v, want %v", tt.name, key, l[key], want)
				}
			}
			if id, _ := l["conn"].(string); id == "" {
				t.Errorf("%s: no connection ID: %v", tt.name, l)
			}
			if !strings.Contains(fmt.Sprint(l["client"]), c.Subject.CommonName) || !strings.Contains(fmt.Sprint(l["issuer"]), c.Issuer.CommonName) {
				t.Errorf("%s: client %v of %v", tt.name, l["client"], l["issuer"])
			}
		}
		if n != 1 {
			t.Errorf("%s: %d lines", tt.name, n)
		}
	}
	if len(lines) != 9 {
		t.Errorf("%d lines, want one for each who was refused", len(lines))
	}
}

// revokedServer: a client command refuses a server whose certificate is revoked.
func (r *refusals) revokedServer(t *testing.T, ok peer) {
	server, _ := r.Authority.files(secureName)
	res := cli(t, e2eDeadline, nil, "ls", "--ca", r.Authority.CA, "--crl", makeCRL(t, r.Authority, server), "--server-name", secureName, "--cert", ok.Cert, "--key", ok.Key,
		fmt.Sprintf("smb://user@127.0.0.1:%d/share", r.Port))
	if res.Code != exitRemote || !strings.Contains(res.Err, "revoked") {
		t.Errorf("exit status %d: %s", res.Code, res.Err)
	}
}

// smbclient looks at the server's certificate when the handshake is over: for
// the gateway, a client that distrusts it leaves before it has begun.
func TestRefusedBySMBClient(t *testing.T) {
	ours := newAuthority(t)
	for _, tt := range []struct {
		name        string
		route, cert string
		ca          string
		want        string
	}{
		{"wrong CA", sambatest.Host, sambatest.Host, newAuthority(t).CA, reason.ClientClosed.Name},
		{"wrong name", sambatest.Host, "other.test", ours.CA, reason.ClientClosed.Name},
		{"unknown name", "other.test", "other.test", ours.CA, reason.UnrecognizedName.Name},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := startCounting(t)
			a := *ours
			a.t = t
			g := startGateway(t, gatewaySetup{Authority: &a, Names: []string{tt.route}, CertNames: []string{tt.cert},
				Rest: strings.ReplaceAll(quietSMB(backend.Addr), sambatest.Host, tt.route)})
			target := sambatest.QUIC(g.Port, tt.ca)
			target.Limit = e2eDeadline
			mark := g.Log.mark()
			if out := sambatest.SMBClient(t, target, "ls"); out.Code == 0 || !strings.Contains(out.Text, "NT_STATUS_") {
				t.Errorf("exit status %d\n%s", out.Code, out.Text)
			}
			l := g.Log.wait(t, mark, "the end", func(l logLine) bool { return l.Msg == "handshake failed" || l.Msg == "connection ended" })
			if l.str("reason") != tt.want {
				t.Errorf("%s, want reason %s", l.Raw, tt.want)
			}
			if n := backend.count.Load(); n != 0 {
				t.Errorf("the backend was dialed %d times", n)
			}
		})
	}
}
