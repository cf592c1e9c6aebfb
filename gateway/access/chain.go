package access

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// maxChain bounds the work one client can cause.
const maxChain = 16

// SAN kinds, as the file spells them.
const (
	kindDNS   = "dns"
	kindEmail = "email"
	kindUPN   = "upn"
	kindURI   = "uri"
	kindIP    = "ip"
)

// Name is one subject alternative name of a certificate, normalised: lower
// case for dns, email and upn; scheme and host in lower case for uri; an
// unmapped address for ip.
type Name struct{ Kind, Value string }

func (n Name) String() string { return n.Kind + ":" + n.Value }

// Chain is a parsed certificate chain. All strings may hold what the client
// chose to put there: escape them in logs.
type Chain struct {
	Subject string    // RFC 4514
	Issuer  string    // RFC 4514
	Serial  string    // hex
	SHA256  string    // of the leaf, hex, no colons
	SHA1    string    // the same by Windows' thumbprint, which no rule goes by
	Names   []Name    // of the leaf
	Ends    time.Time // of the certificate that ends first

	others          []otherName // of the leaf, those that no rule can name
	leaf            *x509.Certificate
	subject, issuer dn // of the leaf

	sums [][32]byte // of each certificate
	dns  [][]dn     // names of issuers at each position
}

var (
	oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidUPN = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
)

// ParseChain reads a chain, DER, leaf first. Any certificate in it that can't
// be understood is an error: a rule can't say about it that no deny matches.
func ParseChain(chain [][]byte) (*Chain, error) {
	if len(chain) == 0 {
		return nil, errors.New("empty certificate chain")
	}
	if len(chain) > maxChain {
		return nil, fmt.Errorf("chain of %d certificates, at most %d are read", len(chain), maxChain)
	}
	c := &Chain{}
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i, err)
		}
		issuer, err := parseDER(cert.RawIssuer)
		if err != nil {
			return nil, fmt.Errorf("issuer of certificate %d: %w", i, err)
		}
		subject, err := parseDER(cert.RawSubject)
		if err != nil {
			return nil, fmt.Errorf("subject of certificate %d: %w", i, err)
		}
		// A name counts as an issuer's where a certificate names it as its
		// issuer, or where the certificate itself stands above the leaf.
		names := []dn{issuer}
		if i > 0 && !bytes.Equal(cert.RawSubject, cert.RawIssuer) {
			names = append(names, subject)
		}
		c.dns = append(c.dns, names)
		c.sums = append(c.sums, sha256.Sum256(der))
		if i == 0 || cert.NotAfter.Before(c.Ends) {
			c.Ends = cert.NotAfter
		}
		if i > 0 {
			continue
		}
		c.leaf, c.subject, c.issuer = cert, subject, issuer
		c.Subject, c.Issuer = subject.String(), issuer.String()
		c.Serial = cert.SerialNumber.Text(16)
		c.SHA256 = hex.EncodeToString(c.sums[0][:])
		thumbprint := sha1.Sum(der)
		c.SHA1 = hex.EncodeToString(thumbprint[:])
		if c.Names, c.others, err = alternativeNames(cert); err != nil {
			return nil, fmt.Errorf("subject alternative names: %w", err)
		}
	}
	return c, nil
}

// alternativeNames reads the extension itself: crypto/x509 skips otherName,
// which is where Windows keeps the user principal name.
func alternativeNames(cert *x509.Certificate) (names []Name, others []otherName, err error) {
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidSAN) {
			continue
		}
		var seq asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &seq); err != nil || len(rest) > 0 ||
			seq.Class != asn1.ClassUniversal || seq.Tag != asn1.TagSequence || !seq.IsCompound {
			return nil, nil, errors.New("not a sequence")
		}
		for rest := seq.Bytes; len(rest) > 0; {
			var v asn1.RawValue
			if rest, err = asn1.Unmarshal(rest, &v); err != nil {
				return nil, nil, err
			}
			n, other, err := generalName(v)
			if err != nil {
				return nil, nil, err
			}
			if n != (Name{}) && !slices.Contains(names, n) {
				names = append(names, n)
			}
			if other.id != nil {
				if others = append(others, other); len(others) > maxOtherNames {
					return nil, nil, fmt.Errorf("over %d names of other kinds", maxOtherNames)
				}
			}
		}
	}
	return names, others, nil
}

// generalName reads one GeneralName of RFC 5280, Section 4.2.1.6. Of the kinds
// that no rule can name n is empty; other is an otherName that is no UPN.
func generalName(v asn1.RawValue) (n Name, other otherName, err error) {
	if v.Class != asn1.ClassContextSpecific {
		return n, other, errors.New("a name without a context tag")
	}
	switch v.Tag {
	case 0:
		if other, err = parseOtherName(v.Bytes); err != nil || !other.id.Equal(oidUPN) {
			return n, other, err
		}
		upn, err := principalName(other.value)
		if err != nil {
			return n, otherName{}, err
		}
		n, other = Name{kindUPN, strings.ToLower(upn)}, otherName{}
	case 1:
		n = Name{kindEmail, strings.ToLower(string(v.Bytes))}
	case 2:
		n = Name{kindDNS, strings.TrimSuffix(strings.ToLower(string(v.Bytes)), ".")}
	case 6:
		n = Name{kindURI, lowerAuthority(string(v.Bytes))}
	case 7:
		ip, ok := netip.AddrFromSlice(v.Bytes)
		if !ok {
			return n, other, fmt.Errorf("an IP address of %d octets", len(v.Bytes))
		}
		n = Name{kindIP, ip.Unmap().String()}
	default:
		return n, other, nil
	}
	// "alice@evil\x00.example.com" must not end up under *.example.com.
	if strings.ContainsFunc(n.Value, func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd }) {
		return n, other, fmt.Errorf("control characters in %s name %q", n.Kind, n.Value)
	}
	return n, other, nil
}

// parseOtherName reads the inside of an otherName.
func parseOtherName(b []byte) (n otherName, err error) {
	rest, err := asn1.Unmarshal(b, &n.id)
	if err != nil {
		return otherName{}, err
	}
	var outer asn1.RawValue
	if rest, err = asn1.Unmarshal(rest, &outer); err != nil || len(rest) > 0 ||
		outer.Class != asn1.ClassContextSpecific || outer.Tag != 0 {
		return otherName{}, fmt.Errorf("malformed name of kind %s", n.id)
	}
	n.value = outer.Bytes
	return n, nil
}

// principalName reads the value of a user principal name.
func principalName(der []byte) (string, error) {
	var inner asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &inner); err != nil || len(rest) > 0 {
		return "", errors.New("malformed user principal name")
	}
	s, ok := stringValue(inner)
	if !ok {
		return "", errors.New("user principal name is not a string")
	}
	return s, nil
}

// lowerAuthority lowers the scheme and the host of a URI, which compare
// without regard to case (RFC 3986, Section 6.2.2.1), and leaves the rest.
func lowerAuthority(s string) string {
	end := len(s)
	if i := strings.Index(s, "://"); i >= 0 {
		if j := strings.IndexAny(s[i+3:], "/?#"); j >= 0 {
			end = i + 3 + j
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		end = i
	}
	return strings.ToLower(s[:end]) + s[end:]
}
