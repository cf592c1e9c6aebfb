package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
)

const year = 365 * 24 * time.Hour

func leaf(t *testing.T, p *Pair) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(p.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestIssue(t *testing.T) {
	now := time.Now()
	ca, caPair, err := NewCA(now, "Test CA", year)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	caCert, caKey := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	if err := caPair.Write(caCert, caKey); err != nil {
		t.Fatal(err)
	}
	again, err := LoadCA(caCert, caKey)
	if err != nil {
		t.Fatal(err)
	}
	server, err := again.Issue(now, Request{Name: "files.test", Server: true, RPC: true, DNS: []string{"files.test"}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Life: 2 * year})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	cert := leaf(t, server)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "files.test"}); err != nil {
		t.Error(err)
	}
	if err := cert.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	if len(cert.UnknownExtKeyUsage) != 1 || !cert.UnknownExtKeyUsage[0].Equal(oidRPCTLSServer) {
		t.Errorf("usages %v", cert.UnknownExtKeyUsage)
	}
	if cert.NotAfter.After(ca.Cert.NotAfter) {
		t.Error("certificate outlives its CA")
	}
	if _, err := tls.X509KeyPair(server.Cert, server.Key); err != nil {
		t.Error(err)
	}
	client, err := ca.Issue(now, Request{Name: "laptop7", Client: true, UPN: "alice@corp.test", Emails: []string{"alice@corp.test"}, URIs: []string{"spiffe://corp.test/laptop7"}, Life: year})
	if err != nil {
		t.Fatal(err)
	}
	cert = leaf(t, client)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	chain, err := access.ParseChain([][]byte{cert.Raw, ca.Cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	m, err := access.SAN("upn:alice@corp.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := (access.IdentityMap{{Match: m}}).Lookup(chain); !ok {
		t.Errorf("no user principal name in %v", chain.Names)
	}
}

func TestIssueErrors(t *testing.T) {
	now := time.Now()
	ca, _, err := NewCA(now, "Test CA", year)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Request{
		"no use":   {DNS: []string{"a"}, Life: year},
		"no name":  {Server: true, Life: year},
		"bad name": {Server: true, DNS: []string{"a b"}, Life: year},
		"bad uri":  {Client: true, URIs: []string{"x"}, Life: year},
		"no life":  {Server: true, DNS: []string{"a"}},
	} {
		if _, err := ca.Issue(now, r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := ca.Issue(now.Add(2*year), Request{Server: true, DNS: []string{"a"}, Life: year}); err == nil {
		t.Error("an expired CA signed")
	}
}

func TestWriteNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	c, k := filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")
	p := &Pair{Cert: []byte("cert"), Key: []byte("key")}
	if err := p.Write(c, k); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(k)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info, err)
	}
	if err := p.Write(c, filepath.Join(dir, "b.key")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("certificate replaced: %v", err)
	}
	if err := p.Write(filepath.Join(dir, "b.crt"), k); !errors.Is(err, fs.ErrExist) {
		t.Errorf("key replaced: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "b.*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
