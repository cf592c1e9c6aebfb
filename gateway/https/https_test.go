package https

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/quic-fsgw/quic-fsgw/gateway/kdcproxy"
	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
)

var quiet = slog.New(slog.DiscardHandler)

// issue writes a certificate and its key and returns a pool that trusts it.
func issue(t *testing.T, name string) (cert, key string, pool *x509.CertPool, both []byte) {
	t.Helper()
	now := time.Now()
	ca, _, err := pki.NewCA(now, "test CA", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ca.Issue(now, pki.Request{Name: name, Server: true, DNS: []string{name}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "x.crt"), filepath.Join(dir, "x.key")
	if err := p.Write(cert, key); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(ca.Cert)
	return cert, key, pool, append(bytes.Clone(p.Key), p.Cert...)
}

// What is kept is private, what is published is whole, a placeholder stands
// where nothing was issued, and no key of the cache leads out of the directory.
func TestCache(t *testing.T) {
	a := &ACME{Names: []string{"a.test", "b.test"}, Directory: "https://127.0.0.1:1/dir", Dir: filepath.Join(t.TempDir(), "acme")}
	i, err := newIssuer(a, quiet)
	if err != nil {
		t.Fatal(err)
	}
	placeholder, err := tls.LoadX509KeyPair(a.File("a.test"), a.File("a.test"))
	if err != nil || placeholder.Leaf.VerifyHostname("a.test") != nil {
		t.Fatalf("placeholder: %v", err)
	}
	ctx := context.Background()
	if _, err := i.Get(ctx, "a.test"); !errors.Is(err, autocert.ErrCacheMiss) {
		t.Errorf("the placeholder passes for a certificate: %v", err)
	}
	_, _, _, issued := issue(t, "a.test")
	for key, data := range map[string][]byte{"a.test": issued, "acme_account+key": []byte("secret"), "a.test+token": []byte("token"), "c.test": issued} {
		if err := i.Put(ctx, key, data); err != nil {
			t.Fatal(err)
		}
		if got, err := i.Get(ctx, key); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if got, err := os.ReadFile(a.File("a.test")); err != nil || !bytes.Equal(got, issued) {
		t.Errorf("not published: %v", err)
	}
	entries, err := os.ReadDir(a.Dir)
	if err != nil || len(entries) != 3 { // account, and a file for each name
		t.Errorf("%v, %v", entries, err)
	}
	for _, key := range []string{"", "..", "../x", "a/b", ".hidden", "a\x00", `a\b`, strings.Repeat("x", 300)} {
		if i.Put(ctx, key, issued) == nil {
			t.Errorf("%q was written", key)
		}
		if _, err := i.Get(ctx, key); err == nil || errors.Is(err, autocert.ErrCacheMiss) {
			t.Errorf("%q was looked for: %v", key, err)
		}
		if i.Delete(ctx, key) == nil {
			t.Errorf("%q was deleted", key)
		}
	}
	// What was issued before is published again where the file is gone.
	if err := os.Remove(a.File("a.test")); err != nil {
		t.Fatal(err)
	}
	if _, err := newIssuer(a, quiet); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(a.File("a.test")); err != nil || !bytes.Equal(got, issued) {
		t.Errorf("a placeholder where a certificate was issued: %v", err)
	}
	for range 2 {
		if err := i.Delete(ctx, "a.test"); err != nil {
			t.Error(err)
		}
	}
}

// The KDC proxy is served to HTTPS clients, and nothing else to anybody.
func TestServeKDCProxy(t *testing.T) {
	cert, key, pool, _ := issue(t, "kdc.test")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, l, Config{KDC: &KDC{Realms: []kdcproxy.Realm{{Name: "EXAMPLE.TEST", KDCs: []string{"127.0.0.1:1"}}}, Cert: cert, Key: key}}, quiet)
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "kdc.test"}}}
	defer client.CloseIdleConnections()
	for path, want := range map[string]int{"/KdcProxy": http.StatusBadRequest, "/": http.StatusNotFound, "/kdcproxy": http.StatusNotFound} {
		resp, err := client.Post("https://"+l.Addr().String()+path, kdcproxy.ContentType, strings.NewReader("no message"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", path, resp.StatusCode, want)
		}
	}
	if c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: "kdc.test", NextProtos: []string{acme.ALPNProto}}); err == nil {
		c.Close()
		t.Error("a challenge is answered where no certificate is fetched")
	}
}

func TestConfigRefused(t *testing.T) {
	_, key, _, _ := issue(t, "x.test")
	notPEM := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(notPEM, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	realms := []kdcproxy.Realm{{Name: "X", KDCs: []string{"127.0.0.1:1"}}}
	for name, cfg := range map[string]Config{
		"no certificate":    {KDC: &KDC{Realms: realms}},
		"no realm":          {KDC: &KDC{Cert: key, Key: key}},
		"not a certificate": {KDC: &KDC{Realms: realms, Cert: key, Key: key}},
		"no such CA":        {ACME: &ACME{Names: []string{"x.test"}, CA: "/nonexistent", Dir: t.TempDir()}},
		"not a CA":          {ACME: &ACME{Names: []string{"x.test"}, CA: notPEM, Dir: t.TempDir()}},
		"no directory":      {ACME: &ACME{Names: []string{"x.test"}, Dir: filepath.Join(notPEM, "x")}},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := Serve(t.Context(), l, cfg, quiet); err == nil {
			t.Errorf("%s: served", name)
		}
		if _, err := l.Accept(); err == nil {
			t.Errorf("%s: the listener is left open", name)
		}
	}
	if hasCertificate(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}})) {
		t.Error("a key passes for a certificate")
	}
}
