package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// pki is a root, an intermediate and a leaf, made anew for each run.
type pki struct {
	root, middle, leaf          []byte
	rootKey, middleKey, leafKey *ecdsa.PrivateKey
}

func (p *pki) chain() [][]byte { return [][]byte{p.leaf, p.middle, p.root} }

func hash(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func issue(t testing.TB, tmpl, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) []byte {
	t.Helper()
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if tmpl.SerialNumber == nil {
		tmpl.SerialNumber = big.NewInt(7)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// upn is a subject alternative name extension with otherName, as Windows
// enrolment writes it.
func upn(t testing.TB, value string) pkix.Extension {
	t.Helper()
	type other struct {
		ID    asn1.ObjectIdentifier
		Value string `asn1:"utf8,explicit,tag:0"`
	}
	inner, err := asn1.MarshalWithParams(other{oidUPN, value}, "tag:0")
	if err != nil {
		t.Fatal(err)
	}
	seq, err := asn1.Marshal([]asn1.RawValue{{FullBytes: inner}})
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oidSAN, Value: seq}
}

func newPKI(t testing.TB, edit func(leaf *x509.Certificate)) *pki {
	t.Helper()
	p := &pki{rootKey: newKey(t), middleKey: newKey(t), leafKey: newKey(t)}
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "Example Root", Organization: []string{"Example, Inc."}, Country: []string{"DE"}},
		IsCA: true, BasicConstraintsValid: true}
	middle := &x509.Certificate{Subject: pkix.Name{CommonName: "Device CA", Organization: []string{"Example"}},
		IsCA: true, BasicConstraintsValid: true}
	uri, err := url.Parse("spiffe://Example.com/Laptop/7")
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "laptop7"}, SerialNumber: big.NewInt(0xabc),
		DNSNames: []string{"Laptop7.Corp.example.com"}, EmailAddresses: []string{"Alice@Example.com"},
		IPAddresses: []net.IP{net.ParseIP("10.1.2.3"), net.ParseIP("2001:db8::7")}, URIs: []*url.URL{uri}}
	if edit != nil {
		edit(leaf)
	}
	p.root = issue(t, root, root, p.rootKey, p.rootKey)
	p.middle = issue(t, middle, root, p.middleKey, p.rootKey)
	p.leaf = issue(t, leaf, middle, p.leafKey, p.middleKey)
	return p
}

func must(t testing.TB) func(Matcher, error) Matcher {
	return func(m Matcher, err error) Matcher {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

const (
	rootDN   = `CN=Example Root,O=Example\, Inc.,C=DE`
	middleDN = "CN=Device CA,O=Example"
)

// Row 49 of the hostile inputs: the Windows truth table. Each entry that may
// appear is allowed, denied or absent for the leaf's hash, the issuing CA and
// the root; deny wins wherever it stands, then one allow is needed.
func TestHostile49WindowsTruthTable(t *testing.T) {
	p := newPKI(t, nil)
	m := must(t)
	entries := []Matcher{m(SHA256(hash(p.leaf))), m(Issuer(middleDN)), m(Issuer(rootDN))}
	for bits := range 64 {
		r := &Rule{Name: "staff", Mode: Required}
		for i, e := range entries {
			if bits>>(2*i)&1 != 0 {
				r.Allow = append(r.Allow, e)
			}
			if bits>>(2*i)&2 != 0 {
				r.Deny = append(r.Deny, e)
			}
		}
		want := ReasonNotAllowed
		switch {
		case len(r.Deny) > 0:
			want = ReasonDenied
		case len(r.Allow) > 0:
			want = ReasonAllowed
		}
		v := r.Evaluate(p.chain())
		if v.Reason != want || v.Allowed != (want == ReasonAllowed) || v.Rule != "staff" {
			t.Errorf("allow %v deny %v: %+v, want %s", r.Allow, r.Deny, v, want)
		}
	}
}

func TestModes(t *testing.T) {
	p := newPKI(t, nil)
	stranger := newPKI(t, nil)
	allow := []Matcher{must(t)(SHA256(hash(p.leaf)))}
	tests := []struct {
		mode  Mode
		chain [][]byte
		want  Reason
		ok    bool
	}{
		{None, nil, ReasonPublic, true},
		{None, stranger.chain(), ReasonPublic, true},
		{Optional, nil, ReasonAnonymous, true},
		{Optional, p.chain(), ReasonAllowed, true},
		{Optional, stranger.chain(), ReasonNotAllowed, false},
		{Required, nil, ReasonNoCertificate, false},
		{Required, p.chain(), ReasonAllowed, true},
		{Required, stranger.chain(), ReasonNotAllowed, false},
		{Required, [][]byte{nil}, ReasonBadCertificate, false},
		{Optional, [][]byte{{}}, ReasonBadCertificate, false},
		{Required, [][]byte{p.leaf, p.middle[:len(p.middle)-1]}, ReasonBadCertificate, false},
		{Required, make([][]byte, maxChain+1), ReasonBadCertificate, false},
	}
	for i, tt := range tests {
		v := (&Rule{Mode: tt.mode, Allow: allow}).Evaluate(tt.chain)
		if v.Reason != tt.want || v.Allowed != tt.ok {
			t.Errorf("%d: %+v, want %s", i, v, tt.want)
		}
		if (v.Err != nil) != (tt.want == ReasonBadCertificate) {
			t.Errorf("%d: error %v", i, v.Err)
		}
	}
	if v := Public().Evaluate(nil); !v.Allowed || v.Rule != "public" {
		t.Errorf("public: %+v", v)
	}
}

// A hash in allow is the leaf's alone; in deny it refuses any certificate of the chain.
func TestHashPositions(t *testing.T) {
	p := newPKI(t, nil)
	m := must(t)
	middle := m(SHA256(hash(p.middle)))
	if v := (&Rule{Mode: Required, Allow: []Matcher{middle}}).Evaluate(p.chain()); v.Reason != ReasonNotAllowed {
		t.Errorf("allow by the hash of an intermediate: %+v", v)
	}
	v := (&Rule{Mode: Required, Allow: []Matcher{Any()}, Deny: []Matcher{middle}}).Evaluate(p.chain())
	if v.Reason != ReasonDenied || v.Position != 1 {
		t.Errorf("deny by the hash of an intermediate: %+v", v)
	}
	colons := strings.ToUpper(hash(p.leaf))
	var parts []string
	for i := 0; i < len(colons); i += 2 {
		parts = append(parts, colons[i:i+2])
	}
	if v := (&Rule{Mode: Required, Allow: []Matcher{m(SHA256(strings.Join(parts, ":")))}}).Evaluate(p.chain()); !v.Allowed {
		t.Errorf("hash with colons: %+v", v)
	}
}

func TestIssuerNotations(t *testing.T) {
	p := newPKI(t, nil)
	tests := []struct {
		dn string
		at int // -1: no match
	}{
		{middleDN, 0},
		{"cn=device  ca, o=EXAMPLE", 0},
		{"2.5.4.3=Device CA,OID.2.5.4.10=Example", 0},
		{`CN=\44evice CA,O=Example`, 0},
		{"CN=#1309446576696365204341,O=Example", 0},
		{"O=Example,CN=Device CA", -1},
		{"CN=Device CA", -1},
		{"CN=Device CA+O=Example", -1},
		{"CN=laptop7", -1},
		{rootDN, 1},
		{`CN=Example Root, O="Example, Inc.", C=DE`, 1},
		{`CN=Example Root,O=Example\2C Inc.,C=de`, 1},
	}
	for _, tt := range tests {
		r := &Rule{Mode: Required, Allow: []Matcher{must(t)(Issuer(tt.dn))}}
		v := r.Evaluate(p.chain())
		if v.Allowed != (tt.at >= 0) || (v.Allowed && v.Position != tt.at) {
			t.Errorf("%s: %+v, want position %d", tt.dn, v, tt.at)
		}
	}
	// The root need not be in the chain: its name is in the intermediate.
	r := &Rule{Mode: Required, Allow: []Matcher{must(t)(Issuer(rootDN))}}
	if v := r.Evaluate([][]byte{p.leaf, p.middle}); !v.Allowed {
		t.Errorf("chain without root: %+v", v)
	}
	for _, bad := range []string{"", "CN", "CN=", "XX=a", "CN=a,", `CN=a\`, `CN=a\q`, `CN="a`, `CN="a"b`, "CN=#zz", "CN=#", "CN=a<b", "=a", "1.=a", ",CN=a"} {
		if m, err := Issuer(bad); err == nil {
			t.Errorf("Issuer(%q) = %v", bad, m)
		}
	}
}

// A name from the wrong end matches nothing; it is told from one that is right.
func TestReversedIssuer(t *testing.T) {
	for name, want := range map[string]string{
		"C=US, O=Example, CN=Device CA": "CN=Device CA,O=Example,C=US",
		"DC=com,DC=example,CN=CA 1":     "CN=CA 1,DC=example,DC=com",
		"O=Example,OU=Lab":              "OU=Lab,O=Example",
		"CN=Device CA,O=Example,C=US":   "",
		"OU=Lab,O=Example":              "",
		"O=Example":                     "",
		"O=Example,C=US":                "",
		"CN=a,DC=example,DC=com":        "",
	} {
		m := must(t)(Issuer(name))
		if got, ok := m.Reversed(); got != want || ok != (want != "") {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if _, ok := Any().Reversed(); ok {
		t.Error("no name at all")
	}
}

func TestChainFields(t *testing.T) {
	p := newPKI(t, nil)
	c, err := ParseChain(p.chain())
	if err != nil {
		t.Fatal(err)
	}
	if c.Subject != "CN=laptop7" || c.Issuer != middleDN || c.Serial != "abc" || c.SHA256 != hash(p.leaf) {
		t.Errorf("%+v", c)
	}
	if got := c.dns[1][0].String(); got != rootDN {
		t.Errorf("root name %s", got)
	}
}

func TestNames(t *testing.T) {
	plain := newPKI(t, nil)
	windows := newPKI(t, func(leaf *x509.Certificate) { leaf.ExtraExtensions = []pkix.Extension{upn(t, "Bob@Corp.example.com")} })
	nameless := newPKI(t, func(leaf *x509.Certificate) {
		leaf.DNSNames, leaf.EmailAddresses, leaf.IPAddresses, leaf.URIs = nil, nil, nil, nil
	})
	tests := []struct {
		p    *pki
		san  string
		want bool
	}{
		{plain, "dns:laptop7.corp.example.com", true},
		{plain, "dns:LAPTOP7.corp.example.com.", true},
		{plain, "dns:*.corp.example.com", true},
		{plain, "dns:*.example.com", true},
		{plain, "dns:lap*.corp.*", true},
		{plain, "dns:*.corp.example", false},
		{plain, "dns:corp.example.com", false},
		{plain, "email:alice@example.com", true},
		{plain, "email:*@EXAMPLE.com", true},
		{plain, "email:alice@example.com.evil", false},
		{plain, "upn:alice@example.com", false},
		{plain, "uri:spiffe://example.com/Laptop/*", true},
		{plain, "URI:SPIFFE://EXAMPLE.com/Laptop/7", true},
		{plain, "uri:spiffe://example.com/laptop/7", false},
		{plain, "ip:10.1.2.3", true},
		{plain, "ip:10.0.0.0/8", true},
		{plain, "ip:10.1.2.4", false},
		{plain, "ip:2001:db8::/32", true},
		{plain, "ip:::ffff:10.1.2.3", true},
		{windows, "upn:bob@corp.example.com", true},
		{windows, "upn:*@corp.example.com", true},
		{windows, "email:bob@corp.example.com", false},
		{nameless, "dns:*", false},
	}
	for _, tt := range tests {
		v := (&Rule{Mode: Required, Allow: []Matcher{must(t)(SAN(tt.san))}}).Evaluate(tt.p.chain())
		if v.Allowed != tt.want {
			t.Errorf("%s: %+v, want %v", tt.san, v, tt.want)
		}
	}
	for _, bad := range []string{"", "dns", "dns:", "host:a", "email:alice", "ip:10.0.0.1/8", "ip:ten", "ip:fe80::1%eth0"} {
		if m, err := SAN(bad); err == nil {
			t.Errorf("SAN(%q) = %v", bad, m)
		}
	}
}

// A name with a NUL inside must not match the suffix behind it.
func TestControlCharactersInNames(t *testing.T) {
	for _, value := range []string{"evil\x00.corp.example.com", "a\nb@corp.example.com"} {
		p := newPKI(t, func(leaf *x509.Certificate) { leaf.ExtraExtensions = []pkix.Extension{upn(t, value)} })
		v := (&Rule{Mode: Required, Allow: []Matcher{Any()}}).Evaluate(p.chain())
		if v.Reason != ReasonBadCertificate {
			t.Errorf("%q: %+v", value, v)
		}
	}
}

// Row 11 of the hostile inputs, for certificates: names for the log hold no
// control characters, whatever the subject does.
func TestHostile11SubjectIsEscaped(t *testing.T) {
	p := newPKI(t, func(leaf *x509.Certificate) { leaf.Subject.CommonName = "a\nlevel=ERROR msg=\x1b[31m,O=x" })
	c, err := ParseChain(p.chain())
	if err != nil {
		t.Fatal(err)
	}
	if want := `CN=a\0Alevel=ERROR msg=\1B[31m\,O=x`; c.Subject != want {
		t.Errorf("subject %q, want %q", c.Subject, want)
	}
}

// The same words compare equal in any string type; other types do not pose as strings.
func TestStringTypes(t *testing.T) {
	attr := func(tag int, value []byte) []byte {
		v, err := asn1.Marshal(asn1.RawValue{Tag: tag, Bytes: value})
		if err != nil {
			t.Fatal(err)
		}
		oid, err := asn1.Marshal(asn1.ObjectIdentifier{2, 5, 4, 3})
		if err != nil {
			t.Fatal(err)
		}
		wrap := func(tag int, b []byte) []byte {
			out, err := asn1.Marshal(asn1.RawValue{Tag: tag, IsCompound: true, Bytes: b})
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		return wrap(asn1.TagSequence, wrap(asn1.TagSet, wrap(asn1.TagSequence, append(oid, v...))))
	}
	want, err := parseDN("CN=Käse")
	if err != nil {
		t.Fatal(err)
	}
	for _, der := range [][]byte{
		attr(asn1.TagUTF8String, []byte("Käse")),
		attr(asn1.TagT61String, []byte("K\xe4se")),
		attr(asn1.TagBMPString, []byte("\x00K\x00\xe4\x00s\x00e")),
	} {
		d, err := parseDER(der)
		if err != nil || !d.equal(want) {
			t.Errorf("%x: %v, %v", der, d, err)
		}
	}
	octets, err := parseDER(attr(asn1.TagOctetString, []byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	text, err := parseDN(`CN=\#040101`)
	if err != nil {
		t.Fatal(err)
	}
	hexed, err := parseDN(`CN=#040101`)
	if err != nil {
		t.Fatal(err)
	}
	if octets.equal(text) || !octets.equal(hexed) {
		t.Errorf("octets %v, text %v, hex %v", octets, text, hexed)
	}
	for _, bad := range [][]byte{nil, {0x30}, {0x31, 0}, {0x30, 2, 0x31, 0}, {0x30, 2, 0x30, 0}, attr(asn1.TagBMPString, nil)[:5]} {
		if d, err := parseDER(bad); err == nil {
			t.Errorf("parseDER(%x) = %v", bad, d)
		}
	}
}

func TestIdentityMap(t *testing.T) {
	p, q := newPKI(t, nil), newPKI(t, func(leaf *x509.Certificate) { leaf.EmailAddresses = []string{"bob@example.com"} })
	m := must(t)
	im := IdentityMap{
		{m(SHA256(hash(p.middle))), Unix{UID: 1}}, // an issuer's hash is nobody's identity
		{m(SAN("email:alice@example.com")), Unix{UID: 1001, GID: 100}},
		{m(SAN("email:*@example.com")), Unix{UID: 2000}},
	}
	for _, tt := range []struct {
		p    *pki
		want uint32
	}{{p, 1001}, {q, 2000}} {
		c, err := ParseChain(tt.p.chain())
		if err != nil {
			t.Fatal(err)
		}
		if u, ok := im.Lookup(c); !ok || u.UID != tt.want {
			t.Errorf("uid %d, %v, want %d", u.UID, ok, tt.want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		p, s string
		want bool
	}{{"", "", true}, {"", "a", false}, {"*", "", true}, {"**a*", "bab", true}, {"a*b*c", "aXbYc", true}, {"a*b*c", "aXbYcd", false},
		{"*ab", "aab", true}, {"a", "*", false}, {strings.Repeat("*a", 200), strings.Repeat("a", 200) + "b", false}} {
		if got := glob(tt.p, tt.s); got != tt.want {
			t.Errorf("glob(%q, %q) = %v", tt.p, tt.s, got)
		}
	}
}

func FuzzEvaluate(f *testing.F) {
	p := newPKI(f, nil)
	w := newPKI(f, func(leaf *x509.Certificate) { leaf.ExtraExtensions = []pkix.Extension{upn(f, "bob@example.com")} })
	f.Add(p.leaf, p.middle)
	f.Add(w.leaf, p.root)
	f.Add([]byte{}, []byte{0x30, 0x80})
	m := must(f)
	r := &Rule{Mode: Required, Allow: []Matcher{m(SAN("upn:*@example.com")), m(SAN("ip:10.0.0.0/8")), m(Issuer(middleDN))}, Deny: []Matcher{m(Issuer(rootDN))}}
	f.Fuzz(func(t *testing.T, leaf, middle []byte) {
		v := r.Evaluate([][]byte{leaf, middle})
		if v.Allowed != (v.Reason == ReasonAllowed) {
			t.Errorf("%+v", v)
		}
	})
}

func FuzzName(f *testing.F) {
	p := newPKI(f, nil)
	cert, err := x509.ParseCertificate(p.root)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert.RawSubject)
	f.Fuzz(func(t *testing.T, der []byte) {
		d, err := parseDER(der)
		if err != nil || len(d) == 0 {
			return
		}
		again, err := parseDN(d.String())
		if err == nil && again.String() != d.String() {
			t.Errorf("%s reads as %s", d, again)
		}
	})
}

func FuzzIssuer(f *testing.F) {
	for _, s := range []string{rootDN, middleDN, `CN="a",OU=\ x\ `, "CN=#0c0161", "1.2.3=a+CN=b;O=c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDN(s)
		if err != nil {
			return
		}
		again, err := parseDN(d.String())
		if err != nil || !again.equal(d) {
			t.Errorf("%q is %s, which reads as %v, %v", s, d, again, err)
		}
	})
}
