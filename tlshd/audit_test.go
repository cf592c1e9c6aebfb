package tlshd

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"maps"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// One line a handshake, with who it was and why it ended so; a counter for each
// named outcome, at both ends of the socket.
func TestAudit(t *testing.T) {
	s := newSite(t)
	good, revoked := s.clientCA.leaf(t, ecKey(t), forClient), s.clientCA.leaf(t, ecKey(t), forClient)
	stranger := newRoot(t, "evil\nroot").leaf(t, ecKey(t), forClient)
	s.cfg.CRL = []string{replaceFile(t, filepath.Join(s.dir, "x.crl"), s.clientCA.crl(t, time.Now().Add(time.Hour), revoked.Leaf))}
	leakCheck(t)
	var log logBuffer
	l, err := NewLocal(s.cfg, slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	sum := func(c *tls.Certificate) string {
		h := sha256.Sum256(c.Leaf.Raw)
		return hex.EncodeToString(h[:])
	}
	for _, tt := range []struct {
		cert   *tls.Certificate
		mode   ClientCertMode
		reason Reason
	}{
		{&good, ClientCertRequired, ReasonOK},
		{&revoked, ClientCertRequired, ReasonClientCertRevoked},
		{&stranger, ClientCertRequired, ReasonClientCertCA},
		{nil, ClientCertRequired, ReasonNoClientCert},
		{nil, ClientCertOptional, ReasonOK},
	} {
		edit := func(*tls.Config) {}
		if tt.cert != nil {
			edit = withCert(*tt.cert)
		}
		before := strings.Count(log.String(), `"msg":"handshake"`)
		shake(t, viaHelper(l.Client, serverRequest(func(r *Request) {
			r.ID, r.Options.Route, r.Options.ClientCert = "conn-7", "office", tt.mode
		})), s.raw(edit))
		await(t, "the line", func() bool { return strings.Count(log.String(), `"msg":"handshake"`) > before })
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if n := strings.Count(log.String(), `"msg":"handshake"`); n != before+1 {
			t.Fatalf("%d lines for one handshake", n-before)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{"id": "conn-7", "route": "office", "role": "server", "reason": string(tt.reason), "server_name": "files.example.com"}
		if tt.cert != nil {
			want["peer_sha256"], want["peer_serial"], want["peer_verified"] = sum(tt.cert), tt.cert.Leaf.SerialNumber.Text(16), tt.reason == ReasonOK
		}
		if tt.cert == &good {
			want["chain"] = 3.0
			anchor := sha256.Sum256(s.clientRoot.cert.Raw)
			want["anchor_sha256"] = hex.EncodeToString(anchor[:])
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: %s is %v, want %v", tt.reason, k, got[k], v)
			}
		}
		if _, ok := got["own_sha256"]; !ok {
			t.Errorf("%s: our certificate is not named: %v", tt.reason, got)
		}
		if strings.Contains(lines[len(lines)-1], `evil\n`) {
			t.Errorf("a peer's bytes as they are: %s", lines[len(lines)-1])
		}
	}
	longNamed(t, s, l)
	wantServer := map[string]uint64{"server ok": 2, "server client_cert_revoked": 1, "server client_cert_unknown_ca": 2, "server client_cert_missing": 1}
	if got := l.Server.Stats().Outcomes; !maps.Equal(got, wantServer) {
		t.Errorf("outcomes %v, want %v", got, wantServer)
	}
	wantClient := map[Reason]uint64{ReasonOK: 2, ReasonClientCertRevoked: 1, ReasonClientCertCA: 2, ReasonNoClientCert: 1}
	if got := l.Client.Stats().Outcomes; !maps.Equal(got, wantClient) {
		t.Errorf("the packet process counts %v, want %v", got, wantClient)
	}
}

// longNamed: a name that is long, and longer when it is escaped, is cut and costs
// nobody the helper.
func longNamed(t *testing.T, s *site, l *Local) {
	t.Helper()
	name := strings.Repeat("\n\u00e9", 4000)
	long := newRoot(t, name).leaf(t, ecKey(t), func(c *x509.Certificate) {
		forClient(c)
		c.Subject.CommonName, c.SerialNumber = name, new(big.Int).Lsh(big.NewInt(1), 158)
	})
	p := shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.Options.ClientCert = ClientCertRequired })), s.raw(withCert(long)))
	p.refused(StatusEKEYREJECTED, alertUnknownCA, ReasonClientCertCA)
	if e := p.server.err; len(e.PeerSubject) > maxDetail || len(e.PeerSubject) < 256 || strings.ContainsAny(e.PeerSubject+e.PeerIssuer, "\n\u00e9") {
		t.Errorf("subject %q, issuer %q", e.PeerSubject, e.PeerIssuer)
	}
}
