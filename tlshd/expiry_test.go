package tlshd

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What ends soon is in the log when it is read and once a day, and in the
// counters with its date, soonest first.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		day := 24 * time.Hour
		s := newSite(t)
		until := func(d time.Duration) func(*x509.Certificate) {
			return func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = now.Add(-100*day), now.Add(d).Truncate(time.Second)
			}
		}
		ca := newRoot(t, "CA\nof evil")
		ca.cert.NotAfter = now.Add(300 * day)
		leaf := func(name string, d time.Duration) Certificate {
			c := save(t, s.dir, name, ca.leaf(t, ecKey(t), func(c *x509.Certificate) { forServer(name)(c); until(d)(c); c.Subject.CommonName = name }))
			c.Names = []string{name}
			return c
		}
		// Made for a week, of which five days are left: nobody has to do anything yet.
		short := save(t, s.dir, "short.test", ca.leaf(t, ecKey(t), func(c *x509.Certificate) {
			forServer("short.test")(c)
			c.NotBefore, c.NotAfter, c.Subject.CommonName = now.Add(-2*day), now.Add(5*day).Truncate(time.Second), "short.test"
		}))
		short.Names = []string{"short.test"}
		s.cfg = Config{Certificates: []Certificate{leaf("fine.test", 100*day), leaf("soon.test", 10*day+time.Hour), leaf("over.test", -day), short},
			CRL: []string{replaceFile(t, filepath.Join(s.dir, "x.crl"), ca.crl(t, now.Add(12*time.Hour).Truncate(time.Second)))}, WatchInterval: time.Hour}
		var log logBuffer
		srv, err := NewServer(s.cfg, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Close()
		synctest.Wait()
		lines := func(what string) int { return strings.Count(log.String(), what) }
		for what, want := range map[string]int{
			"level=ERROR msg=expired kind=certificate": 1, "CN=over.test": 1,
			`level=WARN msg="expires soon" kind=certificate`: 1, "CN=soon.test": 1, "days_left=10": 1,
			`kind=crl`: 0, "fine.test": 0, // the list was made for a day
		} {
			if got := lines(what); got != want {
				t.Errorf("%q stands %d times in the log, want %d\n%s", what, got, want, log.String())
			}
		}
		if strings.Contains(log.String(), "\nof evil") {
			t.Error("a name is not escaped")
		}
		st := srv.Stats()
		var order []string
		for i, e := range st.Expiries {
			order = append(order, e.Kind+" "+filepath.Base(e.File))
			if i > 0 && e.At.Before(st.Expiries[i-1].At) {
				t.Errorf("not in order: %+v", st.Expiries)
			}
		}
		if got, want := fmt.Sprint(order), "[certificate over.test.crt crl x.crl certificate short.test.crt certificate soon.test.crt certificate fine.test.crt]"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if lines("short.test") != 0 {
			t.Errorf("a certificate of a week is warned of at once\n%s", log.String())
		}
		time.Sleep(23 * time.Hour)
		if n := lines("CN=soon.test"); n != 1 {
			t.Errorf("warned %d times within a day", n)
		}
		time.Sleep(2 * time.Hour)
		if n := lines("CN=soon.test"); n != 2 {
			t.Errorf("warned %d times after a day, want 2", n)
		}
		if lines("msg=expired kind=crl") != 1 {
			t.Errorf("the list has ended, and nobody says so\n%s", log.String())
		}
		// A new certificate ends the warnings.
		s.cfg.Certificates = s.cfg.Certificates[:1]
		s.cfg.CRL = nil
		if err := srv.Reload(s.cfg); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Hour)
		if n := lines("CN=soon.test"); n != 2 || len(srv.Stats().Expiries) != 1 {
			t.Errorf("warned %d times, %+v", n, srv.Stats().Expiries)
		}
	})
}

func TestExpiriesAreBounded(t *testing.T) {
	var f fileSet
	for i := range 3 * maxExpiries {
		f.expiries = append(f.expiries, Expiry{At: time.Unix(int64(1e9-i), 0)})
	}
	if got := soonest(f.expiries); len(got) != maxExpiries || got[0].At.Unix() != 1e9-3*maxExpiries+1 {
		t.Errorf("%d, the first at %v", len(got), got[0].At)
	}
}
