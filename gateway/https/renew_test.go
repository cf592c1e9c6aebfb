package https

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/acme/autocert"
)

// A certificate is renewed in time, however long it lives, and never so early
// that the next one would be due as soon as it is there.
func TestRenewAt(t *testing.T) {
	const day = 24 * time.Hour
	born := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		life, configured, want time.Duration // want: after birth
	}{
		{90 * day, 0, 60 * day},
		{398 * day, 0, 368 * day}, // 30 days before
		{6 * day, 0, 4 * day},
		{90 * day, 10 * day, 80 * day},
		{90 * day, 60 * day, 45 * day}, // not in the first half
		{6 * day, 30 * day, 3 * day},
	} {
		a := &ACME{RenewBefore: tt.configured}
		c := &x509.Certificate{NotBefore: born, NotAfter: born.Add(tt.life)}
		if got := a.renewAt(c, 0).Sub(born); got != tt.want {
			t.Errorf("life %s, configured %s: after %s, want %s", tt.life, tt.configured, got, tt.want)
		}
		if got, most := a.renewAt(c, 0.999).Sub(born), tt.want+(tt.life-tt.want)/10; got < tt.want || got > most {
			t.Errorf("life %s, configured %s: at random after %s, want %s to %s", tt.life, tt.configured, got, tt.want, most)
		}
	}
}

// An authority that refuses is asked less and less often.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, err := newIssuer(&ACME{Names: []string{"a.test"}, Directory: "https://authority.test/dir", Dir: filepath.Join(t.TempDir(), "acme")}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		var asked []time.Duration
		began := time.Now()
		i.http = roundTripper(func(*http.Request) (*http.Response, error) {
			asked = append(asked, time.Since(began).Round(time.Second))
			return nil, errors.New("no answer")
		})
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		i.run(ctx)
		// Package acme tries nothing again that failed for the network.
		if len(asked) < 8 || len(asked) > 13 || asked[1]-asked[0] < firstRetry || asked[2]-asked[1] < 2*firstRetry {
			t.Errorf("asked after %v", asked)
		}
		for n := range len(asked) - 1 {
			if gap := asked[n+1] - asked[n]; gap > mostRetry+time.Minute {
				t.Errorf("not asked for %s", gap)
			}
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A manager whose order is over asks nobody and writes nothing: its own renewals
// lead nowhere.
func TestOrderIsOver(t *testing.T) {
	i, err := newIssuer(&ACME{Names: []string{"a.test"}, Dir: filepath.Join(t.TempDir(), "acme")}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, first := issue(t, "a.test")
	_, _, _, second := issue(t, "a.test")
	ctx := context.Background()
	if err := i.Put(ctx, "a.test", first); err != nil {
		t.Fatal(err)
	}
	o := &order{issuer: i, name: "a.test", next: http.DefaultTransport}
	if _, err := o.Get(ctx, "a.test"); !errors.Is(err, autocert.ErrCacheMiss) {
		t.Errorf("an order finds the certificate that it is to replace: %v", err)
	}
	if err := o.Put(ctx, "a.test", second); err != nil {
		t.Fatal(err)
	}
	if got, err := o.Get(ctx, "a.test"); err != nil || string(got) != string(second) {
		t.Errorf("its own is not found: %v", err)
	}
	o.over.Store(true)
	if err := o.Put(ctx, "a.test", first); !errors.Is(err, errOver) {
		t.Errorf("it writes: %v", err)
	}
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	if resp, err := (&http.Client{Transport: o}).Get(s.URL); !errors.Is(err, errOver) {
		if err == nil {
			resp.Body.Close()
		}
		t.Errorf("it asks: %v", err)
	}
}
