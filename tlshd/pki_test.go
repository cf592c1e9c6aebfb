package tlshd

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

var serial atomic.Int64

// authority is a CA, a root or an intermediate.
type authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	chain []*x509.Certificate // itself and what is above, without the root
}

func ecKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, tmpl *x509.Certificate, pub crypto.PublicKey, parent *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if tmpl.SerialNumber == nil {
		tmpl.SerialNumber = big.NewInt(serial.Add(1))
	}
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore = time.Now().Add(-time.Hour)
	}
	if tmpl.NotAfter.IsZero() {
		tmpl.NotAfter = time.Now().Add(24 * time.Hour)
	}
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newRoot(t testing.TB, name string) *authority {
	t.Helper()
	key := ecKey(t)
	cert := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, key.Public(), nil, key)
	return &authority{cert: cert, key: key}
}

func (a *authority) intermediate(t testing.TB, name string) *authority {
	t.Helper()
	key := ecKey(t)
	cert := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, key.Public(), a.cert, a.key)
	return &authority{cert: cert, key: key, chain: append([]*x509.Certificate{cert}, a.chain...)}
}

// leaf issues a certificate; edit may change the template.
func (a *authority) leaf(t testing.TB, key crypto.Signer, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, KeyUsage: x509.KeyUsageDigitalSignature}
	if edit != nil {
		edit(tmpl)
	}
	cert := sign(t, tmpl, key.Public(), a.cert, a.key)
	out := tls.Certificate{PrivateKey: key, Leaf: cert, Certificate: [][]byte{cert.Raw}}
	for _, c := range a.chain {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

func forServer(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames = names
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
}

func forClient(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }

func withEKU(oids ...asn1.ObjectIdentifier) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.UnknownExtKeyUsage = oids }
}

// crl issues a revocation list.
func (a *authority) crl(t testing.TB, nextUpdate time.Time, revoked ...*x509.Certificate) []byte {
	t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(serial.Add(1)), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: nextUpdate}
	for _, c := range revoked {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func pemOf(typ string, ders ...[]byte) []byte {
	var out []byte
	for _, d := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: d})...)
	}
	return out
}

// replaceFile writes a file as careful programs do: whole, then renamed.
func replaceFile(t testing.TB, path string, b []byte) string {
	t.Helper()
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// save writes chain and PKCS #8 key.
func save(t testing.TB, dir, name string, c tls.Certificate) Certificate {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return Certificate{
		Cert: replaceFile(t, filepath.Join(dir, name+".crt"), pemOf("CERTIFICATE", c.Certificate...)),
		Key:  replaceFile(t, filepath.Join(dir, name+".key"), pemOf("PRIVATE KEY", der)),
	}
}

// site is what most tests need: a server's PKI, a client's PKI, a configuration.
type site struct {
	dir                    string
	serverRoot, clientRoot *authority
	serverCA, clientCA     *authority // intermediates
	cfg                    Config
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), serverRoot: newRoot(t, "server root"), clientRoot: newRoot(t, "client root")}
	s.serverCA, s.clientCA = s.serverRoot.intermediate(t, "server CA"), s.clientRoot.intermediate(t, "client CA")
	ec := save(t, s.dir, "ec", s.serverCA.leaf(t, ecKey(t), forServer("files.example.com")))
	ec.Names = []string{"files.example.com"}
	wild := save(t, s.dir, "wild", s.serverCA.leaf(t, ecKey(t), forServer("*.corp.example.com")))
	wild.Names = []string{"*.corp.example.com"}
	client := save(t, s.dir, "client", s.clientCA.leaf(t, ecKey(t), forClient))
	s.cfg = Config{
		Certificates: []Certificate{ec, wild},
		ClientCA:     []string{replaceFile(t, filepath.Join(s.dir, "clients.pem"), pemOf("CERTIFICATE", s.clientRoot.cert.Raw))},
		Client: &ClientConfig{
			CA:          []string{replaceFile(t, filepath.Join(s.dir, "servers.pem"), pemOf("CERTIFICATE", s.serverRoot.cert.Raw))},
			Certificate: &client,
		},
		WatchInterval: -1,
	}
	return s
}
