package access

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Tag names the certificates that pass all of its filters. Rules can match by
// it, and the audit log lists the tags of a client. Only the client's own
// certificate is looked at.
type Tag struct {
	name    string
	filters []Filter
}

// NewTag makes a tag. Without a filter it would be everybody's, which is
// refused.
func NewTag(name string, filters []Filter) (*Tag, error) {
	if len(filters) == 0 {
		return nil, errors.New("a tag without a filter would be everybody's")
	}
	return &Tag{name, filters}, nil
}

// Name is the tag's name.
func (t *Tag) Name() string { return t.name }

// Of reports whether a client has the tag.
func (t *Tag) Of(c *Chain) bool {
	for i := range t.filters {
		if !t.filters[i].passes(c) {
			return false
		}
	}
	return true
}

// Tagged matches clients that have a tag.
func Tagged(t *Tag) Matcher { return Matcher{kind: matchTag, tag: t, text: "tag " + t.name} }

// Filter is a condition on one field of a certificate.
type Filter struct {
	field   string
	oid     string // of subject.X and issuer.X
	pattern string
	not     bool
	name    dn        // subject and issuer: the whole name
	at      time.Time // not_before and not_after: the bound
	order   byte      // '<' or '>' of at; 0: the pattern is compared
}

// The fields that a Filter can name beside subject.TYPE and issuer.TYPE, where
// TYPE is CN, O, OU, DC and so on.
const (
	fieldSubject   = "subject"
	fieldIssuer    = "issuer"
	fieldSerial    = "serial"
	fieldVersion   = "version"
	fieldNotBefore = "not_before"
	fieldNotAfter  = "not_after"
	fieldSignature = "signature_algorithm"
	fieldKey       = "public_key"
	fieldKeyUsage  = "key_usage"
	fieldEKU       = "extended_key_usage"
	fieldSAN       = "san"
	fieldSHA256    = "sha256"
	fieldSelf      = "self_signed"
)

// Fields lists them for messages and documents.
func Fields() []string {
	return []string{fieldSubject, fieldSubject + ".TYPE", fieldIssuer, fieldIssuer + ".TYPE", fieldSerial, fieldVersion, fieldNotBefore, fieldNotAfter,
		fieldSignature, fieldKey, fieldKeyUsage, fieldEKU, fieldSAN, fieldSHA256, fieldSelf}
}

// NewFilter makes a filter: some value of the field matches, or if not, none
// does. Patterns compare without regard to case, * stands for any run of
// characters. subject and issuer take a whole name (RFC 4514); not_before and
// not_after also a date after < or >.
func NewFilter(field, match string, not bool) (Filter, error) {
	f := Filter{field: strings.ToLower(field), pattern: strings.ToLower(strings.TrimSpace(match)), not: not}
	if f.pattern == "" {
		return f, errors.New("has nothing to match")
	}
	if base, typ, ok := strings.Cut(f.field, "."); ok && (base == fieldSubject || base == fieldIssuer) {
		f.field = base
		switch oid, known := attributeTypes[strings.ToUpper(typ)]; {
		case known:
			f.oid = oid
		case isOID(typ):
			f.oid = typ
		default:
			return f, fmt.Errorf("%q is no type of a name's part: CN, O, OU, DC and the like, or an object identifier", typ)
		}
		f.pattern = fold(match)
		return f, nil
	}
	var err error
	switch f.field {
	case fieldSubject, fieldIssuer:
		if f.name, err = parseDN(match); err != nil {
			return f, fmt.Errorf("not a distinguished name: %w (%s.O and the like compare a part of it)", err, f.field)
		}
	case fieldSerial, fieldSHA256:
		f.pattern = strings.TrimLeft(strings.ReplaceAll(f.pattern, ":", ""), "0")
	case fieldNotBefore, fieldNotAfter:
		if order := f.pattern[0]; order == '<' || order == '>' {
			f.order = order
			f.at, err = parseDate(strings.TrimSpace(match)[1:])
		}
	case fieldSelf:
		if f.pattern != "true" && f.pattern != "false" {
			err = errors.New("is true or false")
		}
	case fieldVersion, fieldSignature, fieldKey, fieldKeyUsage, fieldEKU, fieldSAN:
	default:
		err = fmt.Errorf("there is no field %q: %s", field, strings.Join(Fields(), ", "))
	}
	return f, err
}

func parseDate(s string) (time.Time, error) {
	s = strings.TrimSpace(s)
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is no date such as 2027-01-31 or 2027-01-31T12:00:00Z", s)
	}
	return t, nil
}

func (f *Filter) passes(c *Chain) bool { return f.matches(c) != f.not }

func (f *Filter) matches(c *Chain) bool {
	name := c.subject
	if f.field == fieldIssuer {
		name = c.issuer
	}
	switch {
	case f.name != nil:
		return name.equal(f.name)
	case f.oid != "":
		for _, rdn := range name {
			for _, a := range rdn {
				if a.oid == f.oid && glob(f.pattern, a.value) {
					return true
				}
			}
		}
		return false
	case f.order != 0:
		at := c.leaf.NotBefore
		if f.field == fieldNotAfter {
			at = c.leaf.NotAfter
		}
		return f.order == '<' && at.Before(f.at) || f.order == '>' && at.After(f.at)
	}
	for _, v := range f.values(c) {
		if glob(f.pattern, strings.ToLower(v)) {
			return true
		}
	}
	return false
}

// values are those of the fields that are compared as text.
func (f *Filter) values(c *Chain) []string {
	switch f.field {
	case fieldSerial:
		return []string{c.Serial}
	case fieldSHA256:
		return []string{strings.TrimLeft(c.SHA256, "0")}
	case fieldVersion:
		return []string{strconv.Itoa(c.leaf.Version)}
	case fieldNotBefore:
		return []string{c.leaf.NotBefore.UTC().Format(time.RFC3339)}
	case fieldNotAfter:
		return []string{c.leaf.NotAfter.UTC().Format(time.RFC3339)}
	case fieldSignature:
		return []string{c.leaf.SignatureAlgorithm.String()}
	case fieldKey:
		return []string{keyName(c.leaf)}
	case fieldKeyUsage:
		return keyUsages(c.leaf.KeyUsage)
	case fieldEKU:
		return extendedUsages(c.leaf)
	case fieldSAN:
		var out []string
		for _, n := range c.Names {
			out = append(out, n.String())
		}
		return out
	case fieldSelf:
		return []string{strconv.FormatBool(bytes.Equal(c.leaf.RawSubject, c.leaf.RawIssuer) && c.leaf.CheckSignature(c.leaf.SignatureAlgorithm, c.leaf.RawTBSCertificate, c.leaf.Signature) == nil)}
	}
	return nil
}

// keyName is the kind of a key with its size: "RSA 2048", "ECDSA P-256", "Ed25519".
func keyName(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return "RSA " + strconv.Itoa(k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}

// keyUsageNames are those of RFC 5280, Section 4.2.1.3, by bit.
var keyUsageNames = []string{"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement",
	"keyCertSign", "cRLSign", "encipherOnly", "decipherOnly"}

func keyUsages(u x509.KeyUsage) []string {
	var out []string
	for i, name := range keyUsageNames {
		if u&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// extendedUsages are names where RFC 5280 or RFC 9289 has one, and object
// identifiers.
func extendedUsages(c *x509.Certificate) []string {
	known := map[x509.ExtKeyUsage]string{x509.ExtKeyUsageAny: "anyExtendedKeyUsage", x509.ExtKeyUsageServerAuth: "serverAuth", x509.ExtKeyUsageClientAuth: "clientAuth",
		x509.ExtKeyUsageCodeSigning: "codeSigning", x509.ExtKeyUsageEmailProtection: "emailProtection", x509.ExtKeyUsageTimeStamping: "timeStamping", x509.ExtKeyUsageOCSPSigning: "OCSPSigning"}
	unknown := map[string]string{"1.3.6.1.5.5.7.3.33": "rpcTLSClient", "1.3.6.1.5.5.7.3.34": "rpcTLSServer", "1.3.6.1.4.1.311.20.2.2": "smartcardLogon"}
	var out []string
	for _, u := range c.ExtKeyUsage {
		if name, ok := known[u]; ok {
			out = append(out, name)
		}
	}
	for _, id := range c.UnknownExtKeyUsage {
		out = append(out, id.String())
		if name, ok := unknown[id.String()]; ok {
			out = append(out, name)
		}
	}
	return out
}
