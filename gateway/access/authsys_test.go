package access

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// otherNames is a subject alternative name extension of these otherNames, after a DNS name.
func otherNames(t testing.TB, names ...[]byte) func(*x509.Certificate) {
	t.Helper()
	list := []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("laptop7.example.com")}}
	for _, n := range names {
		list = append(list, asn1.RawValue{FullBytes: n})
	}
	der, err := asn1.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return func(leaf *x509.Certificate) {
		leaf.ExtraExtensions = []pkix.Extension{{Id: oidSAN, Value: der}}
	}
}

// otherValue is an otherName with a value written by hand.
func otherValue(t testing.TB, id asn1.ObjectIdentifier, value string) []byte {
	t.Helper()
	v, err := hex.DecodeString(strings.ReplaceAll(value, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.MarshalWithParams(struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}{id, asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: v}}, "tag:0")
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// HOSTILE 57: what a certificate may say of its user, and what not. The first
// row's value is the draft's example.
func TestAuthSys(t *testing.T) {
	id, foreign := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 99}, asn1.ObjectIdentifier{1, 2, 3}
	const good = "3010 020203E8 300A 020203E8 02010A 020164"
	const noGroup = 4712
	for _, c := range []struct {
		name  string
		names [][]byte
		want  Unix
		has   bool
		err   string
	}{
		{"groups", [][]byte{otherValue(t, id, good)}, Unix{1000, 1000, []uint32{10, 100}}, true, ""},
		{"one group", [][]byte{otherValue(t, id, "300A 020203E8 3004 020203E8")}, Unix{1000, 1000, nil}, true, ""},
		{"no group", [][]byte{otherValue(t, id, "3006 020201F4 3000")}, Unix{500, noGroup, nil}, true, ""},
		{"beside a name nobody knows", [][]byte{otherValue(t, foreign, "0500"), otherValue(t, id, good)}, Unix{1000, 1000, []uint32{10, 100}}, true, ""},
		{"none", [][]byte{otherValue(t, foreign, good)}, Unix{}, false, ""},
		{"no uid: it is (uid_t)-1", [][]byte{otherValue(t, id, "3016 020500FFFFFFFF 300D 020101 02010A 020164 020203E8")}, Unix{}, false, "uid 4294967295"},
		{"33 bits", [][]byte{otherValue(t, id, "300D 02050100000000 3004 020203E8")}, Unix{}, false, "uid 4294967296"},
		{"negative", [][]byte{otherValue(t, id, "3009 0201FF 3004 020203E8")}, Unix{}, false, "uid -1"},
		{"uid 0", [][]byte{otherValue(t, id, "3009 020100 3004 020203E8")}, Unix{}, false, "uid 0"},
		{"gid 0", [][]byte{otherValue(t, id, "300D 020203E8 3007 020203E8 020100")}, Unix{}, false, "gid 0"},
		{"18 gids", [][]byte{otherValue(t, id, "303C 020203E8 3036"+strings.Repeat("020105", 18))}, Unix{}, false, "18 gids"},
		{"octets after it", [][]byte{otherValue(t, id, good+"00")}, Unix{}, false, "not a uid"},
		{"two", [][]byte{otherValue(t, id, good), otherValue(t, id, good)}, Unix{}, false, "several"},
		{"a name in its place", [][]byte{otherValue(t, id, "0C05616C696365")}, Unix{}, false, "not a uid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			chain, err := ParseChain(newPKI(t, otherNames(t, c.names...)).chain())
			if err != nil {
				t.Fatal(err)
			}
			u, has, err := chain.AuthSys(id, noGroup)
			switch {
			case c.err != "":
				if err == nil || !strings.Contains(err.Error(), c.err) || has {
					t.Errorf("%+v %v: %v, want an error with %q", u, has, err, c.err)
				}
			case err != nil || has != c.has || u.UID != c.want.UID || u.GID != c.want.GID || !slices.Equal(u.Groups, c.want.Groups):
				t.Errorf("%+v %v %v, want %+v %v", u, has, err, c.want, c.has)
			}
		})
	}
	if _, has, err := (*Chain)(nil).AuthSys(id, noGroup); has || err != nil {
		t.Error("an anonymous client has an identity")
	}
}

// What is written is read.
func TestMarshalAuthSys(t *testing.T) {
	id, err := ParseOID("1.3.6.1.5.5.7.8.99")
	if err != nil {
		t.Fatal(err)
	}
	der, err := MarshalAuthSys(id, Unix{1000, 1001, []uint32{10, 4294967294}})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ParseChain(newPKI(t, otherNames(t, der)).chain())
	if err != nil {
		t.Fatal(err)
	}
	if u, ok, err := chain.AuthSys(id, 1); !ok || err != nil || u.UID != 1000 || u.GID != 1001 || !slices.Equal(u.Groups, []uint32{10, 4294967294}) {
		t.Errorf("%+v %v %v", u, ok, err)
	}
}

// A certificate with more names than anybody needs, or with one whose form is
// wrong, is refused as a whole.
func TestOtherNamesAreBounded(t *testing.T) {
	id := asn1.ObjectIdentifier{1, 2, 3}
	var many [][]byte
	for range maxOtherNames + 1 {
		many = append(many, otherValue(t, id, "0500"))
	}
	bad := otherValue(t, id, "0500")
	bad[len(bad)-4] = 0xa1 // another explicit tag
	for name, names := range map[string][][]byte{"too many": many, "malformed": {bad}} {
		if _, err := ParseChain(newPKI(t, otherNames(t, names...)).chain()); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := ParseChain(newPKI(t, otherNames(t, many[1:]...)).chain()); err != nil {
		t.Errorf("%d names: %v", maxOtherNames, err)
	}
}

func TestParseOID(t *testing.T) {
	for s, ok := range map[string]bool{
		"1.3.6.1.5.5.7.8.99": true, "2.999": true, "0.9.2342": true, "": false, "1": false, "1.": false, ".1": false,
		"1..2": false, "3.1": false, "1.40": false, "1.2.x": false, "1.02": false, "1.2.99999999999": false, "1.2 ": false, "1.0.3": true,
	} {
		id, err := ParseOID(s)
		if (err == nil) != ok || ok && id.String() != s {
			t.Errorf("%q: %v %v", s, id, err)
		}
	}
}
