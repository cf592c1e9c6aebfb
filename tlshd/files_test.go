package tlshd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The files in testdata are of OpenSSL 3: one key and certificate, PKCS #12 with
// AES-256 and SHA-256, triple DES and SHA-1, RC2, no encryption.
func TestPFX(t *testing.T) {
	want, err := (&fileSet{}).readCertificates("testdata/ec.crt")
	if err != nil {
		t.Fatal(err)
	}
	password := func(s string) string {
		return replaceFile(t, filepath.Join(t.TempDir(), "password"), []byte(s+"\r\nsecond line\n"))
	}
	for _, tc := range []struct {
		file, password string
		chain          int
	}{{"aes256", "Pa55wörd", 2}, {"empty", "", 2}, {"rc2", "secret", 2}, {"3des", "secret", 2}, {"plain", "secret", 1}} {
		c := Certificate{PFX: "testdata/" + tc.file + ".pfx"}
		if tc.password != "" {
			c.PFXPassword = password(tc.password)
		}
		cert, err := loadCertificate(&fileSet{}, &c)
		if err != nil {
			t.Errorf("%s: %v", tc.file, err)
			continue
		}
		if len(cert.Certificate) != tc.chain || !bytes.Equal(cert.Leaf.Raw, want[0].Raw) {
			t.Errorf("%s: a chain of %d, leaf %v", tc.file, len(cert.Certificate), cert.Leaf.Subject)
		}
		if tc.file == "plain" {
			continue
		}
		c.PFXPassword = password("wrong")
		if _, err := loadCertificate(&fileSet{}, &c); err == nil || !strings.Contains(err.Error(), "password") {
			t.Errorf("%s with a wrong password: %v", tc.file, err)
		}
	}
}

func FuzzPFX(f *testing.F) {
	defer func(was int) { maxPFXIterations = was }(maxPFXIterations)
	maxPFXIterations = 8
	for _, name := range []string{"fuzz-aes", "fuzz-3des", "rc2", "plain"} {
		b, err := os.ReadFile("testdata/" + name + ".pfx")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "secret")
	}
	f.Fuzz(func(t *testing.T, b []byte, password string) {
		chain, key, err := decodePFX(b, password)
		if err == nil && key != nil {
			_, _ = orderChain(chain, key)
		}
	})
}

func FuzzRevocationList(f *testing.F) {
	root := newRoot(f, "r")
	f.Add(root.crl(f, time.Now().Add(time.Hour), root.cert))
	f.Add(pemOf("X509 CRL", root.crl(f, time.Now().Add(time.Hour))))
	f.Fuzz(func(t *testing.T, b []byte) {
		lists, err := parseRevocationLists(b)
		if (err == nil) != (len(lists) > 0) {
			t.Errorf("%d lists, %v", len(lists), err)
		}
	})
}

func TestKeyFormats(t *testing.T) {
	dir := t.TempDir()
	root := newRoot(t, "root")
	ec, rs := root.leaf(t, ecKey(t), forServer("a.example.com")), root.leaf(t, rsaKey(t), forServer("a.example.com"))
	sec1, err := x509.MarshalECPrivateKey(ec.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ec.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PrivateKey(rs.PrivateKey.(*rsa.PrivateKey))
	write := func(name string, b []byte) string { return replaceFile(t, filepath.Join(dir, name), b) }
	ecCert, rsCert := write("ec.der", ec.Certificate[0]), write("rs.pem", pemOf("CERTIFICATE", rs.Certificate...))
	both := append(pemOf("EC PRIVATE KEY", sec1), pemOf("CERTIFICATE", ec.Certificate...)...)
	for name, c := range map[string]Certificate{
		"SEC 1 PEM":       {Cert: ecCert, Key: write("1", pemOf("EC PRIVATE KEY", sec1))},
		"SEC 1 DER":       {Cert: ecCert, Key: write("2", sec1)},
		"PKCS #8 PEM":     {Cert: ecCert, Key: write("3", pemOf("PRIVATE KEY", pkcs8))},
		"PKCS #8 DER":     {Cert: ecCert, Key: write("4", pkcs8)},
		"PKCS #1 PEM":     {Cert: rsCert, Key: write("5", pemOf("RSA PRIVATE KEY", pkcs1))},
		"PKCS #1 DER":     {Cert: rsCert, Key: write("6", pkcs1)},
		"one file":        {Cert: write("7", both)},
		"with parameters": {Cert: ecCert, Key: write("8", append(pemOf("EC PARAMETERS", []byte{6, 1, 1}), pemOf("EC PRIVATE KEY", sec1)...))},
	} {
		if _, err := loadCertificate(&fileSet{}, &c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: sec1})
	for name, tc := range map[string]struct {
		c    Certificate
		want string
	}{
		"other key":       {Certificate{Cert: rsCert, Key: write("1", pemOf("EC PRIVATE KEY", sec1))}, "does not belong"},
		"encrypted":       {Certificate{Cert: ecCert, Key: write("9", encrypted)}, "encrypted"},
		"encrypted PKCS8": {Certificate{Cert: ecCert, Key: write("10", pemOf("ENCRYPTED PRIVATE KEY", pkcs8))}, "encrypted"},
		"no key":          {Certificate{Cert: ecCert, Key: rsCert}, "no private key"},
		"no certificate":  {Certificate{Cert: write("11", pemOf("PRIVATE KEY", pkcs8))}, "no certificate"},
		"nonsense":        {Certificate{Cert: write("12", []byte("hello"))}, "neither PEM nor"},
		"ML-DSA-44":       {Certificate{Cert: "testdata/ml-dsa-44.crt", Key: "testdata/ml-dsa-44.key"}, "such as ML-DSA: give one for"},
		"a folder":        {Certificate{Cert: dir}, "regular file"},
		"too large":       {Certificate{Cert: write("13", make([]byte, maxCertFile+1))}, "at most"},
		"missing":         {Certificate{Cert: filepath.Join(dir, "none")}, "no such file"},
	} {
		if _, err := loadCertificate(&fileSet{}, &tc.c); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	for name, c := range map[string]Config{
		"nothing":       {Certificates: []Certificate{{}}},
		"pfx and cert":  {Certificates: []Certificate{{PFX: "a", Cert: "b"}}},
		"password only": {Certificates: []Certificate{{Cert: "a", PFXPassword: "b"}}},
		"name":          {Certificates: []Certificate{{Cert: "a", Names: []string{"a b"}}}},
		"inner star":    {Certificates: []Certificate{{Cert: "a", Names: []string{"a.*.b"}}}},
		"crl":           {CRLExpired: "maybe"},
		"unnamed set":   {ClientCASets: map[string][]string{"": nil}},
		"handshakes":    {MaxHandshakes: -1},
		"group":         {Groups: []string{"X25519", "x448"}},
		"lists":         {ClientCRLSets: map[string][]string{"a": nil}},
		"timeout":       {MaxTimeout: -1},
		"client":        {Client: &ClientConfig{Certificate: &Certificate{}}},
	} {
		if c.Validate() == nil {
			t.Errorf("taken: %s", name)
		}
	}
	if err := (&Config{}).Validate(); err != nil {
		t.Error(err)
	}
}

// leafShown returns the serial number of the certificate that a client gets.
func leafShown(t *testing.T, s *site, l *Local) string {
	t.Helper()
	var shown string
	shake(t, viaHelper(l.Client, serverRequest(nil)), s.raw(func(c *tls.Config) {
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			shown = cs.PeerCertificates[0].SerialNumber.String()
			return nil
		}
	})).ok()
	return shown
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(testWait)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after %v", what, testWait)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// Certificates are renewed by exchanging a symbolic link, or file by file.
func TestFilesAreReread(t *testing.T) {
	s := newSite(t)
	issue := func(dir string) (string, tls.Certificate) {
		full := filepath.Join(s.dir, dir)
		if err := os.MkdirAll(full, 0o755); err != nil {
			t.Fatal(err)
		}
		c := s.serverCA.leaf(t, ecKey(t), forServer("files.example.com"))
		save(t, full, "tls", c)
		return full, c
	}
	link := filepath.Join(s.dir, "live")
	first, one := issue("one")
	if err := os.Symlink(first, link); err != nil {
		t.Fatal(err)
	}
	s.cfg.Certificates = []Certificate{{Cert: filepath.Join(link, "tls.crt"), Key: filepath.Join(link, "tls.key")}}
	s.cfg.WatchInterval = 5 * time.Millisecond
	l := startLocal(t, s.cfg)
	if got := leafShown(t, s, l); got != one.Leaf.SerialNumber.String() {
		t.Fatalf("certificate %s", got)
	}
	second, two := issue("two")
	if err := os.Symlink(second, link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the second certificate", func() bool { return leafShown(t, s, l) == two.Leaf.SerialNumber.String() })

	// The certificate first: it does not fit its key, and the old pair stays.
	three := s.serverCA.leaf(t, ecKey(t), forServer("files.example.com"))
	fresh := save(t, s.dir, "three", three)
	crt, err := os.ReadFile(fresh.Cert)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(fresh.Key)
	if err != nil {
		t.Fatal(err)
	}
	failures := l.Server.Stats().ReloadErrors
	replaceFile(t, s.cfg.Certificates[0].Cert, crt)
	waitFor(t, "a pair that does not fit", func() bool { return l.Server.Stats().ReloadErrors > failures })
	if got := leafShown(t, s, l); got != two.Leaf.SerialNumber.String() {
		t.Errorf("certificate %s while half of the pair is new", got)
	}
	replaceFile(t, s.cfg.Certificates[0].Key, key)
	waitFor(t, "the third certificate", func() bool { return leafShown(t, s, l) == three.Leaf.SerialNumber.String() })
}

// What AD CS exports may begin with the root, and have it at all; the certificate
// itself is found by its key, and shown first with its issuers behind it.
func TestChainOrder(t *testing.T) {
	s := newSite(t)
	leaf := s.serverCA.leaf(t, ecKey(t), forServer("files.example.com"))
	good := save(t, s.dir, "ordered", leaf)
	stranger := s.serverCA.leaf(t, ecKey(t), forServer("other.example.com")).Leaf
	for name, order := range map[string][]*x509.Certificate{
		"root first": {s.serverRoot.cert, s.serverCA.cert, leaf.Leaf},
		"CA first":   {s.serverCA.cert, leaf.Leaf},
		"a stranger": {stranger, s.serverCA.cert, leaf.Leaf},
	} {
		var file []byte
		for _, c := range order {
			file = append(file, pemOf("CERTIFICATE", c.Raw)...)
		}
		c := Certificate{Cert: replaceFile(t, filepath.Join(s.dir, "order.crt"), file), Key: good.Key}
		got, err := loadCertificate(&fileSet{}, &c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(got.Certificate[0], leaf.Leaf.Raw) || !bytes.Equal(got.Certificate[1], s.serverCA.cert.Raw) || got.Leaf != nil && !got.Leaf.Equal(leaf.Leaf) {
			t.Errorf("%s: a chain of %d that begins with %v", name, len(got.Certificate), got.Leaf.Subject)
		}
	}
	c := Certificate{Cert: replaceFile(t, filepath.Join(s.dir, "none.crt"), append(pemOf("CERTIFICATE", s.serverCA.cert.Raw), pemOf("CERTIFICATE", stranger.Raw)...)), Key: good.Key}
	if _, err := loadCertificate(&fileSet{}, &c); !errors.Is(err, errKeyMismatch) {
		t.Errorf("no certificate of the key: %v", err)
	}
}

// A reload is whole or not at all.
func TestReloadKeepsTheOldOne(t *testing.T) {
	s := newSite(t)
	l := startLocal(t, s.cfg)
	bad := s.cfg
	bad.Certificates = nil
	bad.CRL = []string{filepath.Join(s.dir, "none.crl")}
	if err := l.Server.Reload(bad); err == nil {
		t.Fatal("taken")
	}
	leafShown(t, s, l)
	if st := l.Server.Stats(); st.ReloadErrors != 1 || st.Reloads != 0 {
		t.Errorf("%+v", st)
	}
}

// A client that knows one kind of signature gets the certificate of its kind.
func TestCertificateOfTheClientsKind(t *testing.T) {
	s := newSite(t)
	rs := save(t, s.dir, "rsa", s.serverCA.leaf(t, rsaKey(t), forServer("files.example.com")))
	s.cfg.Certificates = append(s.cfg.Certificates, rs)
	certs, err := loadServerCertificates(&fileSet{}, s.cfg.Certificates)
	if err != nil {
		t.Fatal(err)
	}
	for scheme, kind := range map[tls.SignatureScheme]x509.PublicKeyAlgorithm{tls.ECDSAWithP256AndSHA256: x509.ECDSA, tls.PSSWithSHA256: x509.RSA} {
		cert, bad := certs.choose(&tls.ClientHelloInfo{ServerName: "files.example.com", SupportedVersions: []uint16{tls.VersionTLS13},
			SignatureSchemes: []tls.SignatureScheme{scheme}, SupportedCurves: []tls.CurveID{tls.X25519}, CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256}})
		if bad != nil || cert.Leaf.PublicKeyAlgorithm != kind {
			t.Errorf("%v: %v %v", scheme, cert.Leaf.PublicKeyAlgorithm, bad)
		}
	}
}
