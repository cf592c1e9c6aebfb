package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// alpn is the application protocol of all connections here.
const alpn = "fsgw-interop"

type keyPairs struct {
	root           *x509.Certificate
	roots          *x509.CertPool
	server, client tls.Certificate
}

// pki makes a CA, a server certificate for "localhost" and a client
// certificate, once.
var pki = sync.OnceValue(func() *keyPairs {
	caKey, ca := issue(nil, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "interop CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	k := &keyPairs{root: ca, roots: x509.NewCertPool()}
	k.roots.AddCert(ca)
	leaf := func(name string, usage x509.ExtKeyUsage) tls.Certificate {
		key, cert := issue(ca, caKey, &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		})
		return tls.Certificate{Certificate: [][]byte{cert.Raw, ca.Raw}, PrivateKey: key, Leaf: cert}
	}
	k.server = leaf("localhost", x509.ExtKeyUsageServerAuth)
	k.client = leaf("client", x509.ExtKeyUsageClientAuth)
	return k
})

// longChain makes a server certificate nine certificates below its root, more
// than 7500 bytes in all.
var longChain = sync.OnceValue(func() *keyPairs {
	pad := []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 1}, Value: payload(600, 99)}} // RFC 5612: for examples
	key, ca := issue(nil, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "long chain root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	k := &keyPairs{root: ca, roots: x509.NewCertPool()}
	k.roots.AddCert(ca)
	var chain [][]byte
	for i := range 8 {
		key, ca = issue(ca, key, &x509.Certificate{
			Subject: pkix.Name{CommonName: fmt.Sprint("intermediate ", i)}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, ExtraExtensions: pad,
		})
		chain = append([][]byte{ca.Raw}, chain...)
	}
	key, leaf := issue(ca, key, &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, ExtraExtensions: pad,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	k.server = tls.Certificate{Certificate: append([][]byte{leaf.Raw}, chain...), PrivateKey: key, Leaf: leaf}
	return k
})

var serials atomic.Int64

func issue(parent *x509.Certificate, parentKey *ecdsa.PrivateKey, tmpl *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl.SerialNumber = big.NewInt(serials.Add(1))
	tmpl.NotBefore, tmpl.NotAfter = time.Unix(0, 0), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	if parent == nil {
		parent, parentKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), parentKey)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return key, cert
}

// serverTLS is a server's TLS configuration; client certificates are asked
// for and verified where clientCert is set.
func serverTLS(clientCert bool) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, Certificates: []tls.Certificate{pki().server}}
	if clientCert {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pki().roots
	}
	return c
}

// clientTLS is a client's TLS configuration.
func clientTLS(clientCert bool) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, RootCAs: pki().roots, ServerName: "localhost"}
	if clientCert {
		c.Certificates = []tls.Certificate{pki().client}
	}
	return c
}

func mustNot(t testing.TB, err error, what string) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
