package tlshd

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBothRolesThroughAHelper(t *testing.T) {
	s := newSite(t)
	rsaCert := save(t, s.dir, "rsa", s.serverCA.leaf(t, rsaKey(t), forServer("rsa.example.com")))
	s.cfg.Certificates = append(s.cfg.Certificates, rsaCert)
	_, c, log := startHelper(t, s.cfg)
	for _, name := range []string{"files.example.com", "rsa.example.com", "FILES.example.COM", "a.corp.example.com"} {
		p := shake(t, viaHelper(c, serverRequest(func(r *Request) { r.Options.ClientCert = ClientCertRequired; r.ServerName = name })),
			viaHelper(c, clientRequest(name, "sunrpc", "smb"))).ok()
		want := strings.ToLower(name)
		if p.server.state.ServerName != want || p.client.state.ServerName != want || p.server.state.ALPN != "smb" {
			t.Errorf("%s: server %+v", name, p.server.state)
		}
		if p.server.state.Auth != AuthX509 || len(p.server.state.Chain) != 3 || !bytes.Equal(p.server.state.Chain[2], s.clientRoot.cert.Raw) {
			t.Errorf("%s: the client's chain has %d certificates", name, len(p.server.state.Chain))
		}
		if p.client.state.Auth != AuthX509 || len(p.client.state.Chain) != 3 || !bytes.Equal(p.client.state.Chain[1], s.serverCA.cert.Raw) {
			t.Errorf("%s: the server's chain has %d certificates", name, len(p.client.state.Chain))
		}
	}
	if !strings.Contains(log.String(), `"reason":"ok"`) || strings.Contains(log.String(), "PRIVATE") {
		t.Errorf("audit: %s", log)
	}
}

func TestServerNames(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	try := func(name string) *pair {
		return shake(t, viaHelper(l.Client, serverRequest(nil)), s.raw(func(c *tls.Config) { c.ServerName = name }))
	}
	for _, name := range []string{"files.example.com", "Files.Example.Com", "files.example.com.", "x.corp.example.com", "X.Y.CORP.example.com"} {
		try(name).ok()
	}
	for _, name := range []string{"other.example.com", "corp.example.com", "xfiles.example.com", "files.example.com.evil.org", "fi les.example.com", "files..example.com", "files.example.com\x00", "x\n.corp.example.com"} {
		try(name).refused(StatusENOKEY, alertUnrecognizedName, ReasonUnrecognizedName)
	}
	try("").refused(StatusENOKEY, alertMissingExtension, ReasonNoServerName)
	try("192.0.2.1").refused(StatusENOKEY, alertMissingExtension, ReasonNoServerName)

	s.cfg.Certificates[1].Names = []string{"*"}
	if err := l.Server.Reload(s.cfg); err != nil {
		t.Fatal(err)
	}
	try("").ok()
	try("other.example.com").ok()
	// The name that the router has seen is checked again.
	p := shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.ServerName = "files.example.com" })),
		s.raw(func(c *tls.Config) { c.ServerName = "other.example.com" }))
	p.refused(StatusEACCES, alertUnrecognizedName, ReasonNameMismatch)
}

func TestALPN(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	p := shake(t, viaHelper(l.Client, serverRequest(nil)), s.raw(func(c *tls.Config) { c.NextProtos = []string{"h\x1b[31m3"} }))
	p.refused(StatusEOPNOTSUPP, alertNoApplicationProtocol, ReasonALPN)
	p = shake(t, viaHelper(l.Client, serverRequest(nil)), s.raw(func(c *tls.Config) { c.NextProtos = nil }))
	p.refused(StatusEOPNOTSUPP, alertNoApplicationProtocol, ReasonALPN)
}

// otherKey signs with another key than its certificate's.
type otherKey struct {
	pub crypto.PublicKey
	crypto.Signer
}

func (k otherKey) Public() crypto.PublicKey { return k.pub }

// unknownKey rewrites the algorithm in a certificate's key to one that nobody
// knows, as a client with a newer kind of key would show.
func unknownKey(t *testing.T, c tls.Certificate) tls.Certificate {
	t.Helper()
	known, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1})
	if err != nil {
		t.Fatal(err)
	}
	unknown := append([]byte(nil), known...)
	unknown[len(unknown)-1] = 0x7f
	der := bytes.Replace(c.Certificate[0], known, unknown, 1)
	if bytes.Equal(der, c.Certificate[0]) {
		t.Fatal("no elliptic curve key in it")
	}
	c.Certificate = append([][]byte{der}, c.Certificate[1:]...)
	c.Leaf = nil
	return c
}

func TestClientCertificates(t *testing.T) {
	s := newSite(t)
	leaf := func(edit func(*x509.Certificate)) tls.Certificate { return s.clientCA.leaf(t, ecKey(t), edit) }
	good := leaf(forClient)
	revoked := leaf(forClient)
	s.cfg.CRL = []string{
		replaceFile(t, filepath.Join(s.dir, "a.crl"), s.clientCA.crl(t, time.Now().Add(time.Hour), revoked.Leaf)),
		replaceFile(t, filepath.Join(s.dir, "b.crl"), pemOf("X509 CRL", s.clientRoot.crl(t, time.Now().Add(time.Hour)), s.serverRoot.crl(t, time.Now().Add(time.Hour)))),
	}
	l := startLocal(t, s.cfg)
	wrongProof := good
	wrongProof.PrivateKey = otherKey{good.PrivateKey.(crypto.Signer).Public(), ecKey(t)}
	mlDSA := good // of RFC 9881, Appendix C
	if certs, err := (&fileSet{}).readCertificates("testdata/ml-dsa-44.crt"); err != nil {
		t.Fatal(err)
	} else {
		mlDSA.Certificate, mlDSA.Leaf = [][]byte{certs[0].Raw}, nil
	}
	malformed := good
	malformed.Certificate = [][]byte{{0x30, 0x03, 0x02, 0x01, 0x01}}
	long := good
	for range maxChainLen {
		long.Certificate = append(append([][]byte{}, long.Certificate...), s.clientCA.cert.Raw)
	}
	notCA := &authority{cert: good.Leaf, key: good.PrivateKey.(crypto.Signer), chain: append([]*x509.Certificate{good.Leaf}, s.clientCA.chain...)}
	underLeaf := notCA.leaf(t, ecKey(t), forClient)

	for _, tc := range []struct {
		name   string
		cert   tls.Certificate
		alpn   string
		reason Reason
		alert  uint8
	}{
		{"good", good, "smb", ReasonOK, 0},
		{"rsa", s.clientCA.leaf(t, rsaKey(t), forClient), "smb", ReasonOK, 0},
		{"directly under the root", s.clientRoot.leaf(t, ecKey(t), forClient), "smb", ReasonOK, 0},
		{"any use", leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), "smb", ReasonOK, 0},
		{"no extended key usage", leaf(nil), "smb", ReasonOK, 0},
		{"rpc only on sunrpc", leaf(withEKU(oidRPCClient)), "sunrpc", ReasonOK, 0},
		{"rpc only on smb", leaf(withEKU(oidRPCClient)), "smb", ReasonClientCertEKU, alertUnsupportedCert},
		{"rpc server on sunrpc", leaf(withEKU(oidRPCServer)), "sunrpc", ReasonClientCertEKU, alertUnsupportedCert},
		{"none", tls.Certificate{}, "smb", ReasonNoClientCert, alertCertificateRequired},
		{"other CA", s.serverCA.leaf(t, ecKey(t), forClient), "smb", ReasonClientCertCA, alertUnknownCA},
		{"intermediate not sent", tls.Certificate{Certificate: good.Certificate[:1], PrivateKey: good.PrivateKey}, "smb", ReasonClientCertCA, alertUnknownCA},
		{"expired", leaf(func(c *x509.Certificate) { forClient(c); c.NotAfter = time.Now().Add(-time.Minute) }), "smb", ReasonClientCertExpired, alertCertificateExpired},
		{"not yet valid", leaf(func(c *x509.Certificate) { forClient(c); c.NotBefore = time.Now().Add(time.Hour) }), "smb", ReasonClientCertFuture, alertBadCertificate},
		{"revoked", revoked, "smb", ReasonClientCertRevoked, alertCertificateRevoked},
		{"a server's", leaf(forServer("x")), "smb", ReasonClientCertEKU, alertUnsupportedCert},
		{"may not sign", leaf(func(c *x509.Certificate) { forClient(c); c.KeyUsage = x509.KeyUsageKeyEncipherment }), "smb", ReasonClientCertKeyUsage, alertUnsupportedCert},
		{"unknown key algorithm", unknownKey(t, good), "smb", ReasonClientCertKey, alertUnsupportedCert},
		{"ML-DSA-44", mlDSA, "smb", ReasonClientCertKey, alertUnsupportedCert},
		{"malformed", malformed, "smb", ReasonClientCertParse, alertDecodeError},
		{"without the key", wrongProof, "smb", ReasonClientCertProof, alertDecryptError},
		{"too many", long, "smb", ReasonClientCertChain, alertBadCertificate},
		{"issued by a leaf", underLeaf, "smb", ReasonClientCertCA, alertUnknownCA},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, mode := range []ClientCertMode{ClientCertRequired, ClientCertOptional, ClientCertNone} {
				p := shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.Options.ClientCert = mode; r.NextProtos = []string{tc.alpn} })),
					s.raw(func(c *tls.Config) { withCert(tc.cert)(c); c.NextProtos = []string{tc.alpn} }))
				anonymous := mode == ClientCertNone || mode == ClientCertOptional && tc.reason == ReasonNoClientCert
				if !anonymous && tc.reason != ReasonOK {
					p.refused(StatusEKEYREJECTED, tc.alert, tc.reason)
					want := ""
					if len(tc.cert.Certificate) > 0 && !slices.Contains([]Reason{ReasonClientCertProof, ReasonClientCertParse, ReasonClientCertKey}, tc.reason) {
						want = fmt.Sprintf("%x", sha256.Sum256(tc.cert.Certificate[0]))
					}
					if p.server.err.Peer != want {
						t.Errorf("refused as %q, want %q", p.server.err.Peer, want)
					}
					subject, issuer, number := "", "", ""
					if want != "" {
						leaf, err := x509.ParseCertificate(tc.cert.Certificate[0])
						if err != nil {
							t.Fatal(err)
						}
						subject, issuer, number = leaf.Subject.String(), leaf.Issuer.String(), leaf.SerialNumber.Text(16)
					}
					if e := p.server.err; e.PeerSubject != subject || e.PeerIssuer != issuer || e.PeerSerial != number {
						t.Errorf("refused as %q of %q, serial %q", e.PeerSubject, e.PeerIssuer, e.PeerSerial)
					}
					continue
				}
				p.ok()
				if st := p.server.state; anonymous != (st.Auth == AuthUnauth) || anonymous != (len(st.Chain) == 0) {
					t.Errorf("mode %d: %d certificates, authentication %d", mode, len(st.Chain), st.Auth)
				}
			}
		})
	}
}

func reload(t *testing.T, l *Local, cfg Config) {
	t.Helper()
	if err := l.Server.Reload(cfg); err != nil {
		t.Fatal(err)
	}
}

func TestClientCASets(t *testing.T) {
	s := newSite(t)
	other := newRoot(t, "other root")
	s.cfg.ClientCASets = map[string][]string{"lab": {replaceFile(t, filepath.Join(s.dir, "lab.der"), other.cert.Raw)}}
	l := startLocal(t, s.cfg)
	try := func(set string, c tls.Certificate) *pair {
		return shake(t, viaHelper(l.Client, serverRequest(func(r *Request) { r.Options.ClientCert = ClientCertRequired; r.Options.CASet = set })), s.raw(withCert(c)))
	}
	ours, theirs := s.clientCA.leaf(t, ecKey(t), forClient), other.leaf(t, ecKey(t), forClient)
	try("", ours).ok()
	try("lab", theirs).ok()
	try("", theirs).refused(StatusEKEYREJECTED, alertUnknownCA, ReasonClientCertCA)
	try("lab", ours).refused(StatusEKEYREJECTED, alertUnknownCA, ReasonClientCertCA)
	try("nowhere", ours).refused(StatusEINVAL, alertInternalError, ReasonPolicy)
}

// HOSTILE 34: a client that is shown the wrong certificate.
func TestServerCertificates(t *testing.T) {
	s := newSite(t)
	revoked := s.serverCA.leaf(t, ecKey(t), forServer("files.example.com"))
	s.cfg.CRL = []string{replaceFile(t, filepath.Join(s.dir, "a.crl"), s.serverCA.crl(t, time.Now().Add(time.Hour), revoked.Leaf))}
	l := startLocal(t, s.cfg)
	name := forServer("files.example.com")
	leaf := func(edit func(*x509.Certificate)) tls.Certificate { return s.serverCA.leaf(t, ecKey(t), edit) }
	also := func(edit func(*x509.Certificate)) func(*x509.Certificate) {
		return func(c *x509.Certificate) { name(c); edit(c) }
	}
	good := leaf(name)
	for _, tc := range []struct {
		name   string
		cert   tls.Certificate
		alpn   string
		reason Reason
		alert  uint8
	}{
		{"good", good, "smb", ReasonOK, 0},
		{"rpc on sunrpc", leaf(func(c *x509.Certificate) { c.DNSNames = []string{"files.example.com"}; withEKU(oidRPCServer)(c) }), "sunrpc", ReasonOK, 0},
		{"rpc on smb", leaf(func(c *x509.Certificate) { c.DNSNames = []string{"files.example.com"}; withEKU(oidRPCServer)(c) }), "smb", ReasonServerCertEKU, alertUnsupportedCert},
		{"wrong name", leaf(forServer("other.example.com")), "smb", ReasonServerCertName, alertBadCertificate},
		{"expired", leaf(also(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), "smb", ReasonServerCertExpired, alertCertificateExpired},
		{"not yet valid", leaf(also(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })), "smb", ReasonServerCertFuture, alertBadCertificate},
		{"unrelated CA", s.clientCA.leaf(t, ecKey(t), name), "smb", ReasonServerCertCA, alertUnknownCA},
		{"a client's", leaf(func(c *x509.Certificate) { forClient(c); c.DNSNames = []string{"files.example.com"} }), "smb", ReasonServerCertEKU, alertUnsupportedCert},
		{"may not sign", leaf(also(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })), "smb", ReasonServerCertKeyUsage, alertUnsupportedCert},
		{"revoked", revoked, "smb", ReasonServerCertRevoked, alertCertificateRevoked},
		{"unknown key algorithm", unknownKey(t, good), "smb", ReasonServerCertKey, alertUnsupportedCert},
		{"malformed", tls.Certificate{Certificate: [][]byte{{0x30, 0x03, 0x02, 0x01, 0x01}}, PrivateKey: good.PrivateKey, Leaf: good.Leaf}, "smb", ReasonServerCertParse, alertDecodeError},
		{"without the key", tls.Certificate{Certificate: good.Certificate, PrivateKey: otherKey{good.PrivateKey.(crypto.Signer).Public(), ecKey(t)}}, "smb", ReasonServerCertProof, alertDecryptError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw := func(sink func(Event)) shaker {
				return newRawServer(&tls.Config{Certificates: []tls.Certificate{tc.cert}, NextProtos: []string{tc.alpn}}, sink)
			}
			p := shake(t, raw, viaHelper(l.Client, clientRequest("files.example.com", tc.alpn)))
			if tc.reason == ReasonOK {
				p.ok()
				return
			}
			checkRefused(t, p.client.err, StatusEKEYREJECTED, tc.alert, tc.reason)
		})
	}
	s.cfg.Client.InsecureSkipVerify = true
	reload(t, l, s.cfg)
	raw := func(sink func(Event)) shaker {
		return newRawServer(&tls.Config{Certificates: []tls.Certificate{leaf(forServer("other"))}, NextProtos: []string{"smb"}}, sink)
	}
	p := shake(t, raw, viaHelper(l.Client, clientRequest("files.example.com", "smb"))).ok()
	if p.client.state.Auth != AuthUnauth || len(p.client.state.Chain) != 0 {
		t.Errorf("a certificate that was not verified counts as verified: %+v", p.client.state)
	}
	s.cfg.Client = nil
	reload(t, l, s.cfg)
	p = shake(t, raw, viaHelper(l.Client, clientRequest("files.example.com", "smb")))
	checkRefused(t, p.client.err, StatusEINVAL, alertInternalError, ReasonNoClient)
}

// A server may be addressed by number.
func TestServerByAddress(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	for _, addr := range []string{"192.0.2.7", "2001:db8::7"} {
		cert := s.serverCA.leaf(t, ecKey(t), func(c *x509.Certificate) {
			c.IPAddresses = append(c.IPAddresses, []byte{192, 0, 2, 7}, append([]byte{0x20, 0x01, 0x0d, 0xb8}, make([]byte, 11)...))
			c.IPAddresses[1] = append(c.IPAddresses[1], 7)
		})
		raw := func(sink func(Event)) shaker {
			return newRawServer(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"smb"}}, sink)
		}
		shake(t, raw, viaHelper(l.Client, clientRequest(addr, "smb"))).ok()
		p := shake(t, raw, viaHelper(l.Client, clientRequest("192.0.2.8", "smb")))
		checkRefused(t, p.client.err, StatusEKEYREJECTED, alertBadCertificate, ReasonServerCertName)
	}
}

// HOSTILE 8, 9: what comes after the handshake.
func TestAfterTheHandshake(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	keyUpdate := []byte{typeKeyUpdate, 0, 0, 1, 0}
	var last Event
	next := func(p *pair) { last = p.step() }

	p := shake(t, viaHelper(l.Client, serverRequest(nil)), s.raw(nil)).ok()
	p.server.shaker.Crypto(LevelApp, keyUpdate[:1])
	next(p)
	checkRefused(t, p.server.err, StatusEACCES, alertUnexpectedMessage, ReasonUnexpected)

	p = shake(t, viaHelper(l.Client, serverRequest(nil)), viaHelper(l.Client, clientRequest("files.example.com", "smb"))).ok()
	p.client.shaker.Crypto(LevelApp, keyUpdate)
	next(p)
	checkRefused(t, p.client.err, StatusEACCES, alertUnexpectedMessage, ReasonUnexpected)

	p = shake(t, viaHelper(l.Client, serverRequest(nil)), viaHelper(l.Client, clientRequest("files.example.com", "smb"))).ok()
	p.client.shaker.Crypto(LevelApp, []byte{typeCertificateRequest, 0, 0, 0})
	next(p)
	if last.Kind != EventFailed || p.client.err.Unwrap() != ErrPostHandshakeAuth {
		t.Errorf("certificate request: %v", p.client.err)
	}

	p = shake(t, viaHelper(l.Client, serverRequest(nil)), viaHelper(l.Client, clientRequest("files.example.com", "smb"))).ok()
	p.client.shaker.Crypto(LevelApp, []byte{typeNewSessionTicket, 0xff, 0xff, 0xff})
	next(p)
	checkRefused(t, p.client.err, StatusEACCES, alertUnexpectedMessage, ReasonCryptoExceeded)

	// Endless bytes in the handshake.
	h := l.Client.Start(serverRequest(nil), p.sink(true))
	p.server.err = nil
	for range maxCryptoIn/1024 + 1 {
		h.Crypto(LevelInitial, append([]byte{1, 0xff, 0xff, 0xff}, make([]byte, 1020)...))
	}
	for p.server.err == nil {
		next(p)
	}
	if p.server.err.Status != StatusEACCES {
		t.Errorf("endless ClientHello: %v", p.server.err)
	}
}

func (p *pair) sink(server bool) func(Event) {
	return func(e Event) { p.events <- pairEvent{server, e} }
}

// Only the key exchanges that are configured are taken.
func TestGroups(t *testing.T) {
	s := newSite(t)
	for _, tc := range []struct {
		ours   []string
		theirs []tls.CurveID
		want   tls.CurveID // 0: refused
	}{
		{nil, nil, tls.X25519MLKEM768},
		{[]string{"X25519MLKEM768"}, nil, tls.X25519MLKEM768},
		{[]string{"X25519MLKEM768", "SecP384r1MLKEM1024"}, []tls.CurveID{tls.X25519, tls.CurveP256}, 0},
		{[]string{"P-384"}, nil, tls.CurveP384}, // by way of a HelloRetryRequest
		{[]string{"X25519"}, []tls.CurveID{tls.X25519MLKEM768, tls.X25519}, tls.X25519},
	} {
		s.cfg.Groups = tc.ours
		l := startLocal(t, s.cfg)
		p := shake(t, viaHelper(l.Client, serverRequest(nil)), s.raw(func(c *tls.Config) { c.CurvePreferences = tc.theirs }))
		if tc.want == 0 {
			p.refused(StatusEACCES, alertHandshakeFailure, ReasonTLS)
			continue
		}
		if got := tls.CurveID(p.ok().server.state.Group); got != tc.want {
			t.Errorf("%q with %v: %v, want %v", tc.ours, tc.theirs, got, tc.want)
		}
	}
}
