package tlshd

import (
	"cmp"
	"crypto/x509"
	"log/slog"
	"slices"
	"time"
)

// ExpirySoon is how long before its end a certificate or a revocation list is
// worth a warning, if it was not made for a shorter time: see Expiry.Soon.
const ExpirySoon = 14 * 24 * time.Hour

// warnAgain is how often the same warning is given.
const warnAgain = 24 * time.Hour

// maxExpiries bounds the list of Expiry; the soonest are kept.
const maxExpiries = 128

// Expiry is when something in a file of the configuration ends.
type Expiry struct {
	Kind    string    `json:"kind"` // certificate, ca or crl
	File    string    `json:"file"`
	Subject string    `json:"subject"` // of a list: its issuer
	At      time.Time `json:"at"`

	life time.Duration // of a certificate, or a list, from its beginning to At; 0: not known
}

// Soon reports whether less is left than ExpirySoon, and than a third of the
// whole life: certificates of a week are renewed when two days are left, say, and
// no news before.
func (e *Expiry) Soon(now time.Time) bool {
	left := e.At.Sub(now)
	return left < ExpirySoon && (e.life <= 0 || left < e.life/3)
}

// expires notes when a certificate ends.
func (f *fileSet) expires(kind, path string, certs ...*x509.Certificate) {
	for _, c := range certs {
		f.expiries = append(f.expiries, Expiry{Kind: kind, File: path, Subject: printable(c.Subject.String()), At: c.NotAfter, life: c.NotAfter.Sub(c.NotBefore)})
	}
}

// soonest is what ends first, in that order.
func soonest(all []Expiry) []Expiry {
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b Expiry) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.File, b.File), cmp.Compare(a.Subject, b.Subject))
	})
	return out[:min(len(out), maxExpiries)]
}

// expiryWarnings remembers what was warned of.
type expiryWarnings struct {
	warned time.Time
	state  uint64
}

// warn writes a line for each that has ended or ends soon: when they were read,
// and then once a day.
func (w *expiryWarnings) warn(log *slog.Logger, st *state, now time.Time) {
	if st.number == w.state && now.Sub(w.warned) < warnAgain {
		return
	}
	w.state, w.warned = st.number, now
	for _, e := range st.files.expiries {
		args := []any{"kind", e.Kind, "file", e.File, "subject", e.Subject, "at", e.At.UTC().Format(time.RFC3339)}
		switch left := e.At.Sub(now); {
		case left <= 0:
			log.Error("expired", args...)
		case e.Soon(now):
			log.Warn("expires soon", append(args, "days_left", int(left/(24*time.Hour)))...)
		}
	}
}
