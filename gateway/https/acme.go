package https

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
)

// ACME says which certificates are fetched (RFC 8555).
type ACME struct {
	Names       []string
	Directory   string // URL
	CA          string // PEM file of CAs to trust the directory by; "": the system's
	Email       string
	Dir         string        // account and certificates; the process writes nothing else
	RenewBefore time.Duration // 0: a third of a certificate's life
}

// File is where the certificate for a name is published, chain and key in one,
// so that it is exchanged whole.
func (a *ACME) File(name string) string { return filepath.Join(a.Dir, name+".pem") }

// placeholderLife is that of the certificate that stands where none was issued
// yet, so that the helper can start. No client trusts it.
const placeholderLife = 90 * 24 * time.Hour

// Modes of the files: the helper's group reads what is published.
const (
	privateMode   = 0o600
	publishedMode = 0o640
)

type issuer struct {
	conf *ACME
	log  *slog.Logger
	http http.RoundTripper

	// challenges answers what the authority asks, with what the orders under way
	// have put into the cache. It asks for nothing itself.
	challenges *autocert.Manager

	mu    sync.Mutex
	pairs map[string]*keyPair // that were shown, by name
}

// newIssuer makes sure that there is a file for every name.
func newIssuer(a *ACME, log *slog.Logger) (*issuer, error) {
	i := &issuer{conf: a, log: log}
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.CA != "" {
		b, err := os.ReadFile(a.CA)
		if err != nil {
			return nil, fmt.Errorf("https: acme: ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("https: acme: ca: %s holds no certificate", a.CA)
		}
		trust.RootCAs = pool
	}
	i.http = &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust}
	i.challenges = &autocert.Manager{Cache: i, HostPolicy: autocert.HostWhitelist()}
	for _, d := range []string{a.Dir, i.private("")} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return nil, fmt.Errorf("https: acme: %w", err)
		}
	}
	for _, name := range a.Names {
		if err := i.publish(name); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// publish makes sure that there is a file for a name: what was issued before,
// or a placeholder.
func (i *issuer) publish(name string) error {
	if b, err := os.ReadFile(i.private(name)); err == nil && hasCertificate(b) {
		if have, err := os.ReadFile(i.conf.File(name)); err == nil && bytes.Equal(have, b) {
			return nil
		}
		return replace(i.conf.File(name), publishedMode, b)
	}
	switch _, err := os.Stat(i.conf.File(name)); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("https: acme: %w", err)
	}
	now := time.Now()
	ca, _, err := pki.NewCA(now, "quic-fsgw: no certificate was issued yet", placeholderLife)
	if err != nil {
		return err
	}
	p, err := ca.Issue(now, pki.Request{Name: name, Server: true, DNS: []string{name}, Life: placeholderLife})
	if err != nil {
		return err
	}
	return replace(i.conf.File(name), publishedMode, append(p.Key, p.Cert...))
}

// published is the certificate that the helper shows too, for the KDC proxy.
func (i *issuer) published(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if !slices.Contains(i.conf.Names, name) {
		return nil, errNoService
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.pairs[name]
	if p == nil {
		var err error
		if p, err = newKeyPair(i.private(name), i.private(name), i.log); err != nil {
			return nil, errNoService // none was issued yet
		}
		if i.pairs == nil {
			i.pairs = make(map[string]*keyPair)
		}
		i.pairs[name] = p
	}
	return p.get(), nil
}

// The issuer is the cache of its autocert.Managers: what is kept is private, and
// the certificates are published too.

func (i *issuer) private(key string) string { return filepath.Join(i.conf.Dir, "account", key) }

func validKey(key string) error {
	if key == "" || len(key) > 255 || key[0] == '.' || strings.ContainsAny(key, "/\\\x00") {
		return fmt.Errorf("https: acme: %q is no key of a cache", key)
	}
	return nil
}

// Get implements autocert.Cache.
func (i *issuer) Get(_ context.Context, key string) ([]byte, error) {
	if err := validKey(key); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(i.private(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, autocert.ErrCacheMiss
	}
	return b, err
}

// Put implements autocert.Cache.
func (i *issuer) Put(_ context.Context, key string, data []byte) error {
	if err := validKey(key); err != nil {
		return err
	}
	if err := replace(i.private(key), privateMode, data); err != nil {
		return err
	}
	for _, name := range i.conf.Names {
		if key == name && hasCertificate(data) {
			return replace(i.conf.File(name), publishedMode, data)
		}
	}
	return nil
}

// Delete implements autocert.Cache.
func (i *issuer) Delete(_ context.Context, key string) error {
	if err := validKey(key); err != nil {
		return err
	}
	if err := os.Remove(i.private(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func hasCertificate(data []byte) bool {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return true
		}
	}
	return false
}

// replace writes a file whole or not at all.
func replace(name string, mode fs.FileMode, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return fmt.Errorf("https: acme: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("https: acme: %w", err)
	}
	return nil
}
