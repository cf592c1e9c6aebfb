package access

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

type matcherKind uint8

const (
	matchIssuer matcherKind = iota + 1
	matchSHA256
	matchSAN
	matchAny
	matchTag
)

// Matcher is one entry of a rule. The zero Matcher matches nothing.
type Matcher struct {
	kind   matcherKind
	text   string
	issuer dn
	sum    [sha256.Size]byte
	name   Name // a pattern
	prefix netip.Prefix
	tag    *Tag
}

// String is the entry as the file has it.
func (m Matcher) String() string { return m.text }

// Issuer matches a chain in which a certificate was issued by name (RFC 4514).
func Issuer(name string) (Matcher, error) {
	d, err := parseDN(name)
	if err != nil {
		return Matcher{}, fmt.Errorf("not a distinguished name: %w", err)
	}
	return Matcher{kind: matchIssuer, issuer: d, text: "issuer " + name}, nil
}

// Reversed returns an issuer's name from its other end, if it looks as though it
// was written in the order of certificates, country or organization first: it would
// match nobody, and as a deny entry refuse nobody.
func (m Matcher) Reversed() (name string, ok bool) {
	if m.kind != matchIssuer || len(m.issuer) < 2 {
		return "", false
	}
	has := func(set []attribute, types ...string) bool {
		return slices.ContainsFunc(set, func(a attribute) bool {
			return slices.ContainsFunc(types, func(t string) bool { return attributeTypes[t] == a.oid })
		})
	}
	if !has(m.issuer[0], "C", "O", "DC") || !has(m.issuer[len(m.issuer)-1], "CN", "OU") {
		return "", false
	}
	other := slices.Clone(m.issuer)
	slices.Reverse(other)
	return other.String(), true
}

// SHA256 matches by the hash of a certificate: 64 hex digits, with or without
// colons. In an allow list it is the leaf's; in a deny list any certificate of
// the chain, so that an intermediate can be refused by its hash too.
func SHA256(digits string) (Matcher, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(digits), ":", ""))
	if err != nil || len(b) != sha256.Size {
		return Matcher{}, errors.New("not a SHA-256 hash: 64 hex digits, with or without colons")
	}
	m := Matcher{kind: matchSHA256, text: "sha256 " + hex.EncodeToString(b)}
	copy(m.sum[:], b)
	return m, nil
}

// Any matches every chain: whoever the CA gave a certificate.
func Any() Matcher { return Matcher{kind: matchAny, text: "any"} }

// SAN matches a subject alternative name of the leaf: kind:value with kind
// dns, email, upn, uri or ip. * stands for any run of characters; ip takes a
// prefix such as 10.0.0.0/8. dns, email and upn compare without regard to case.
func SAN(s string) (Matcher, error) {
	kind, value, ok := strings.Cut(s, ":")
	if !ok || value == "" {
		return Matcher{}, errors.New("not kind:value, such as dns:*.corp.example.com or email:alice@example.com")
	}
	m := Matcher{kind: matchSAN, text: "san " + s}
	switch kind = strings.ToLower(kind); kind {
	case kindDNS:
		value = strings.TrimSuffix(strings.ToLower(value), ".")
	case kindEmail, kindUPN:
		value = strings.ToLower(value)
		if !strings.Contains(value, "@") {
			return Matcher{}, fmt.Errorf("%q has no @", value)
		}
	case kindURI:
		value = lowerAuthority(value)
	case kindIP:
		p, err := parsePrefix(value)
		if err != nil {
			return Matcher{}, err
		}
		m.prefix = p
	default:
		return Matcher{}, fmt.Errorf("unknown kind %q: dns, email, upn, uri and ip are known", kind)
	}
	m.name = Name{kind, value}
	return m, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not an IP address or prefix", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits set after the prefix; did you mean %s", p, p.Masked())
	}
	return p, nil
}

// HasWildcard reports whether more than one name can match; such an entry
// gives many clients one identity when it stands in an identity map.
func (m Matcher) HasWildcard() bool {
	switch m.kind {
	case matchSHA256:
		return false
	case matchSAN:
		if m.name.Kind == kindIP {
			return !m.prefix.IsSingleIP()
		}
		return strings.Contains(m.name.Value, "*")
	}
	return true
}

func (m Matcher) matchAllow(c *Chain) (position int, ok bool) {
	if m.kind == matchSHA256 {
		return 0, c.sums[0] == m.sum
	}
	return m.match(c)
}

func (m Matcher) matchDeny(c *Chain) (position int, ok bool) {
	if m.kind == matchSHA256 {
		for i, sum := range c.sums {
			if sum == m.sum {
				return i, true
			}
		}
		return 0, false
	}
	return m.match(c)
}

func (m Matcher) match(c *Chain) (position int, ok bool) {
	switch m.kind {
	case matchAny:
		return 0, true
	case matchTag:
		return 0, m.tag.Of(c)
	case matchIssuer:
		for i, names := range c.dns {
			for _, d := range names {
				if d.equal(m.issuer) {
					return i, true
				}
			}
		}
	case matchSAN:
		for _, n := range c.Names {
			if n.Kind == m.name.Kind && m.matchName(n.Value) {
				return 0, true
			}
		}
	}
	return 0, false
}

func (m Matcher) matchName(value string) bool {
	if m.name.Kind != kindIP {
		return glob(m.name.Value, value)
	}
	ip, err := netip.ParseAddr(value)
	return err == nil && m.prefix.Contains(ip)
}

// glob matches * against any run of characters, in time linear in the product
// of the lengths and without recursion: the value is the client's.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
