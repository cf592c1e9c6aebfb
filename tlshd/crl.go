package tlshd

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// revocations are the lists of a configuration by issuer. Immutable.
type revocations struct {
	byIssuer map[string][]*revocationList // by nameKey of the issuer
	warnOnly bool                         // about a list past its next update
	hash     [32]byte
}

type revocationList struct {
	list    *x509.RevocationList
	serials map[string]struct{}
	path    string

	// An issuer may divide its lists: scope tells them apart, which a newer list of
	// another scope does not make up for.
	scope            string
	onlyUser, onlyCA bool

	// A signature costs as much as a handshake's own: once per issuer is enough.
	mu       sync.Mutex
	verified map[[32]byte]bool // by the issuer's certificate
}

// signedBy reports whether the issuer has signed the list.
func (l *revocationList) signedBy(issuer *x509.Certificate) bool {
	key := sha256.Sum256(issuer.Raw)
	l.mu.Lock()
	defer l.mu.Unlock()
	ok, known := l.verified[key]
	if !known {
		ok = l.list.CheckSignatureFrom(issuer) == nil
		if l.verified == nil || len(l.verified) >= 64 {
			l.verified = map[[32]byte]bool{}
		}
		l.verified[key] = ok
	}
	return ok
}

var (
	oidDeltaCRL          = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingDistPoint  = asn1.ObjectIdentifier{2, 5, 29, 28}
	errNoRevocationLists = errors.New("no revocation list in it")
)

// nameKey is a name without regard to case and to the types of its strings, in
// which a list and a certificate may differ. Whose list it is its signature says.
func nameKey(n *pkix.Name) string { return strings.ToLower(n.String()) }

func loadRevocations(f *fileSet, paths []string, expired string) (*revocations, error) {
	rs := &revocations{byIssuer: map[string][]*revocationList{}, warnOnly: expired == CRLWarn}
	sum := sha256.New()
	for _, path := range paths {
		b, err := f.read(path, maxCRLFile)
		if err != nil {
			return nil, fmt.Errorf("tlshd: crl: %w", err)
		}
		lists, err := parseRevocationLists(b)
		if err != nil {
			return nil, fmt.Errorf("tlshd: crl: %s: %w", path, err)
		}
		for _, l := range lists {
			l.path = path
			if !l.list.NextUpdate.IsZero() {
				f.expiries = append(f.expiries, Expiry{Kind: "crl", File: path, Subject: printable(l.list.Issuer.String()), At: l.list.NextUpdate, life: l.list.NextUpdate.Sub(l.list.ThisUpdate)})
			}
			sum.Write(l.list.Raw)
			key := nameKey(&l.list.Issuer)
			rs.byIssuer[key] = append(rs.byIssuer[key], l)
		}
	}
	sum.Sum(rs.hash[:0])
	return rs, nil
}

func parseRevocationLists(b []byte) (out []*revocationList, err error) {
	ders := [][]byte{b}
	if looksPEM(b) {
		ders = nil
		for rest := b; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type == "X509 CRL" {
				ders = append(ders, block.Bytes)
			}
		}
	}
	for _, der := range ders {
		l, err := parseRevocationList(der)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, errNoRevocationLists
	}
	return out, nil
}

func parseRevocationList(der []byte) (*revocationList, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	l := &revocationList{list: list, serials: make(map[string]struct{}, len(list.RevokedCertificateEntries))}
	for _, ext := range list.Extensions {
		switch {
		case ext.Id.Equal(oidDeltaCRL):
			return nil, errors.New("a delta list (give the full one)")
		case ext.Id.Equal(oidIssuingDistPoint):
			if err := l.setScope(ext.Value); err != nil {
				return nil, err
			}
		case ext.Critical:
			return nil, fmt.Errorf("critical extension %v is not known", ext.Id)
		}
	}
	for i := range list.RevokedCertificateEntries {
		e := &list.RevokedCertificateEntries[i]
		if e.ReasonCode == 8 { // removeFromCRL, only in delta lists
			continue
		}
		l.serials[string(e.SerialNumber.Bytes())] = struct{}{}
	}
	return l, nil
}

// setScope reads which of its issuer's certificates a list is about (RFC 5280,
// Section 5.2.5), and refuses those that we would read wrongly.
func (l *revocationList) setScope(der []byte) error {
	var idp struct {
		Point      asn1.RawValue  `asn1:"optional,tag:0"`
		OnlyUser   bool           `asn1:"optional,tag:1"`
		OnlyCA     bool           `asn1:"optional,tag:2"`
		Reasons    asn1.BitString `asn1:"optional,tag:3"`
		Indirect   bool           `asn1:"optional,tag:4"`
		Attributes bool           `asn1:"optional,tag:5"`
	}
	if err := unmarshal(der, &idp); err != nil {
		return fmt.Errorf("issuing distribution point: %w", err)
	}
	if idp.Indirect || idp.Attributes || idp.Reasons.BitLength > 0 {
		return errors.New("the list is indirect or covers only some reasons")
	}
	l.scope, l.onlyUser, l.onlyCA = string(der), idp.OnlyUser, idp.OnlyCA
	return nil
}

// covers reports whether a certificate of the issuer would be in the list.
func (l *revocationList) covers(c *x509.Certificate) bool {
	return !(l.onlyUser && c.IsCA) && !(l.onlyCA && !c.IsCA)
}

func (l *revocationList) outdated(now time.Time) bool {
	return !l.list.NextUpdate.IsZero() && now.After(l.list.NextUpdate)
}

// check looks for a revoked certificate in a verified chain, the root excepted,
// which is trusted by being configured. warn is called for an outdated list
// that does not lead to a refusal.
func (rs *revocations) check(chain []*x509.Certificate, now time.Time, warn func(path string)) (revoked *x509.Certificate, reason crlReason) {
	for i := 0; i+1 < len(chain); i++ {
		if reason := rs.checkOne(chain[i], chain[i+1], now, warn); reason != crlGood {
			return chain[i], reason
		}
	}
	return nil, crlGood
}

type crlReason uint8

const (
	crlGood crlReason = iota
	crlRevoked
	crlOutdated
	crlBad
)

func (rs *revocations) checkOne(cert, issuer *x509.Certificate, now time.Time, warn func(string)) crlReason {
	bad := false
	var fresh []string           // scopes of lists that are
	var outdated *revocationList // the first of a scope that has no fresh one
	lists := rs.byIssuer[nameKey(&cert.Issuer)]
	for _, l := range lists {
		if !l.covers(cert) {
			continue
		}
		if !l.signedBy(issuer) {
			// An issuer of this name may have another key, and that its own lists.
			sameKey := len(l.list.AuthorityKeyId) == 0 || len(issuer.SubjectKeyId) == 0 || bytes.Equal(l.list.AuthorityKeyId, issuer.SubjectKeyId)
			bad = bad || sameKey && bytes.Equal(l.list.RawIssuer, cert.RawIssuer)
			continue
		}
		if _, ok := l.serials[string(cert.SerialNumber.Bytes())]; ok {
			return crlRevoked // an outdated list still knows what was revoked
		}
		if !l.outdated(now) {
			fresh = append(fresh, l.scope)
		}
	}
	for _, l := range lists {
		if outdated == nil && l.covers(cert) && l.outdated(now) && l.signedBy(issuer) && !slices.Contains(fresh, l.scope) {
			outdated = l
		}
	}
	switch {
	case bad && len(fresh) == 0:
		return crlBad
	case outdated != nil && !rs.warnOnly:
		return crlOutdated
	case outdated != nil:
		warn(outdated.path)
	}
	return crlGood
}
