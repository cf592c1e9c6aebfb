package https

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// Each order is one autocert.Manager's, which is left when its certificate is
// there: so each certificate has a key of its own, a renewal that fails is in the
// log, and how often an authority is asked is decided here.

// Waits between attempts for a name: authorities bound failures an hour.
const (
	firstRetry = time.Minute
	mostRetry  = 6 * time.Hour
	// settle is for the process before this one, which has the same socket, to leave
	// it: a challenge that it took and did not answer would be a failure.
	settle = 2 * time.Second
	// mostBefore is how early a renewal is at most where nothing else is said.
	mostBefore = 30 * 24 * time.Hour
)

// renewAt is when a certificate is renewed: before its end by as much as is
// configured, or by a third of its life, and never in the first half of it, as
// what is issued then would be due at once. Up to a tenth is added at random, so
// that gateways started together do not ask together.
func (a *ACME) renewAt(c *x509.Certificate, random float64) time.Time {
	life := c.NotAfter.Sub(c.NotBefore)
	before := min(life/3, mostBefore)
	if a.RenewBefore > 0 {
		before = min(a.RenewBefore, life/2)
	}
	return c.NotAfter.Add(-before + time.Duration(random*float64(before/10)))
}

// run keeps a certificate for every name until ctx ends.
func (i *issuer) run(ctx context.Context) {
	type plan struct {
		at   time.Time
		wait time.Duration // after the last failure; 0: none
	}
	plans := make([]plan, len(i.conf.Names))
	soonest := time.Now().Add(settle)
	for n, name := range i.conf.Names {
		plans[n].at = soonest
		if c := i.issued(name); c != nil {
			i.announce(name, c)
			if at := i.conf.renewAt(c, rand.Float64()); at.After(soonest) {
				plans[n].at = at
			}
		}
	}
	for {
		next := 0
		for n := range plans {
			if plans[n].at.Before(plans[next].at) {
				next = n
			}
		}
		p, name := &plans[next], i.conf.Names[next]
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(p.at)):
		}
		c, err := i.fetch(ctx, name)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			i.announce(name, c)
			*p = plan{at: i.conf.renewAt(c, rand.Float64())}
		default:
			p.wait = min(max(2*p.wait, firstRetry), mostRetry)
			p.at = time.Now().Add(p.wait)
			i.log.Error("no certificate was issued", "name", name, "directory", i.conf.Directory, "error", err.Error(), "again_in", p.wait,
				"hint", "TCP 443 of this name has to lead here")
		}
	}
}

func (i *issuer) announce(name string, c *x509.Certificate) {
	i.log.Info("certificate is there", "name", name, "until", c.NotAfter.UTC().Format(time.RFC3339), "issuer", c.Issuer.String())
}

// issued is the certificate that was issued last for a name; nil: there is none,
// or it has ended.
func (i *issuer) issued(name string) *x509.Certificate {
	b, err := os.ReadFile(i.private(name))
	if err != nil {
		return nil
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || c.VerifyHostname(name) != nil || time.Now().After(c.NotAfter) {
			return nil
		}
		return c
	}
	return nil
}

// fetch has a certificate issued, for a new key.
func (i *issuer) fetch(ctx context.Context, name string) (*x509.Certificate, error) {
	o := &order{issuer: i, name: name, next: &orderLocations{next: i.http}}
	defer o.over.Store(true)
	defer context.AfterFunc(ctx, func() { o.over.Store(true) })()
	m := &autocert.Manager{
		Prompt: autocert.AcceptTOS, // acme.accept_terms
		Cache:  o, HostPolicy: autocert.HostWhitelist(name), Email: i.conf.Email,
		Client: &acme.Client{DirectoryURL: i.conf.Directory, UserAgent: "quic-fsgw", HTTPClient: &http.Client{Timeout: time.Minute, Transport: o}},
	}
	// As a client that knows ECDSA does.
	c, err := m.GetCertificate(&tls.ClientHelloInfo{
		ServerName: name, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256},
	})
	if err != nil {
		return nil, err
	}
	if !o.have.Load() { // autocert goes on with what could not be written
		return nil, errors.New("the certificate could not be written to acme.dir")
	}
	return c.Leaf, nil
}

// order is what one autocert.Manager sees of the cache and of the network. It
// finds no certificate before it has one, and nobody to ask after that: its own
// timer for the renewal leads nowhere.
type order struct {
	*issuer
	name string
	next http.RoundTripper
	have atomic.Bool
	over atomic.Bool
}

// Get implements autocert.Cache.
func (o *order) Get(ctx context.Context, key string) ([]byte, error) {
	if key == o.name && !o.have.Load() {
		return nil, autocert.ErrCacheMiss
	}
	return o.issuer.Get(ctx, key)
}

// Put implements autocert.Cache.
func (o *order) Put(ctx context.Context, key string, data []byte) error {
	if key == o.name {
		if o.over.Load() {
			return errOver
		}
	}
	err := o.issuer.Put(ctx, key, data)
	if key == o.name && err == nil {
		o.have.Store(true)
	}
	return err
}

var errOver = errors.New("https: acme: this order is over")

// RoundTrip implements http.RoundTripper.
func (o *order) RoundTrip(r *http.Request) (*http.Response, error) {
	if o.over.Load() {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, errOver
	}
	return o.next.RoundTrip(r)
}
