package access

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
)

// Every field that a filter can name, against one certificate.
func TestFilters(t *testing.T) {
	p := newPKI(t, func(leaf *x509.Certificate) {
		leaf.Subject = pkix.Name{CommonName: "x,OU=Lab", OrganizationalUnit: []string{"Field  Work", "East"}}
		leaf.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
		leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		leaf.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 33}}
	})
	c, err := ParseChain(p.chain())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		field, match string
		want         bool
	}{
		{"subject.OU", "field work", true},
		{"subject.ou", "east", true},
		{"subject.2.5.4.11", "E*", true},
		{"subject.OU", "Lab", false}, // a comma in a value makes no other part
		{"subject.CN", "x,OU=*", true},
		{"subject.O", "*", false},
		{"issuer.CN", "Device CA", true},
		{"issuer.CN", "Example Root", false}, // not the next one up
		{"issuer", middleDN, true},
		{"issuer", rootDN, false},
		{"subject", "CN=laptop7", false},
		{"serial", "0abc", true},
		{"serial", "0A:BC", true},
		{"serial", "a", false},
		{"version", "3", true},
		{"not_after", ">2001-01-01", true},
		{"not_after", "<2001-01-01", false},
		{"not_before", "< 2199-01-01T00:00:00Z", true},
		{"not_before", "2199*", false},
		{"signature_algorithm", "ecdsa-sha256", true},
		{"signature_algorithm", "*RSA*", false},
		{"public_key", "ECDSA P-256", true},
		{"key_usage", "keyEncipherment", true},
		{"key_usage", "keyCertSign", false},
		{"extended_key_usage", "clientAuth", true},
		{"extended_key_usage", "rpcTLSClient", true},
		{"extended_key_usage", "1.3.6.1.5.5.7.3.33", true},
		{"extended_key_usage", "serverAuth", false},
		{"san", "dns:*.corp.example.com", true},
		{"san", "email:bob@*", false},
		{"sha256", c.SHA256, true},
		{"sha256", strings.Repeat("ab", 32), false},
		{"self_signed", "false", true},
		{"self_signed", "true", false},
	}
	for _, tt := range tests {
		for _, not := range []bool{false, true} {
			f, err := NewFilter(tt.field, tt.match, not)
			if err != nil {
				t.Errorf("%s %q: %v", tt.field, tt.match, err)
				continue
			}
			tag, err := NewTag("x", []Filter{f})
			if err != nil {
				t.Fatal(err)
			}
			if got := tag.Of(c); got != (tt.want != not) {
				t.Errorf("%s %q, not %v: %v", tt.field, tt.match, not, got)
			}
		}
	}
	for field, match := range map[string]string{"": "x", "shoe": "46", "subject.": "x", "subject.Q": "x", "subject": "no name", "not_after": ">tomorrow", "self_signed": "maybe", "version": " "} {
		if f, err := NewFilter(field, match, false); err == nil {
			t.Errorf("%q %q is taken as %+v", field, match, f)
		}
	}
	if _, err := NewTag("x", nil); err == nil {
		t.Error("a tag of everybody")
	}
}

// All filters of a tag have to pass, and a tag that denies wins as any deny does.
func TestTagsInRules(t *testing.T) {
	p := newPKI(t, nil)
	tag := func(pairs ...string) *Tag {
		var fs []Filter
		for i := 0; i < len(pairs); i += 2 {
			f, err := NewFilter(pairs[i], pairs[i+1], false)
			if err != nil {
				t.Fatal(err)
			}
			fs = append(fs, f)
		}
		out, err := NewTag("some", fs)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	both, half := tag("subject.CN", "laptop7", "public_key", "ECDSA*"), tag("subject.CN", "laptop7", "public_key", "RSA*")
	for _, tt := range []struct {
		allow, deny []Matcher
		want        Reason
	}{
		{[]Matcher{Tagged(both)}, nil, ReasonAllowed},
		{[]Matcher{Tagged(half)}, nil, ReasonNotAllowed},
		{[]Matcher{Any()}, []Matcher{Tagged(half)}, ReasonAllowed},
		{[]Matcher{Any(), Tagged(both)}, []Matcher{Tagged(both)}, ReasonDenied},
	} {
		r := &Rule{Name: "r", Mode: Required, Allow: tt.allow, Deny: tt.deny}
		if v := r.Evaluate(p.chain()); v.Reason != tt.want {
			t.Errorf("%v, %v: %+v", tt.allow, tt.deny, v)
		}
	}
	if !Tagged(both).HasWildcard() {
		t.Error("a tag gives one identity to many")
	}
}
