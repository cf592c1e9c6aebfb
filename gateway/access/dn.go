package access

import (
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
)

// attribute is one type and value of a name. value is folded for comparison,
// text is as written.
type attribute struct {
	oid   string
	value string
	text  string
	raw   bool // not a string: text is # and the DER in hex
}

// dn is a distinguished name in the order of RFC 4514, most specific first:
// the reverse of the order in a certificate. Attributes of a multi-valued part
// are sorted.
type dn [][]attribute

// attributeTypes are the short names of RFC 4514 and those that Windows and
// OpenSSL print.
var attributeTypes = map[string]string{
	"CN": "2.5.4.3", "SN": "2.5.4.4", "SURNAME": "2.5.4.4", "SERIALNUMBER": "2.5.4.5",
	"C": "2.5.4.6", "L": "2.5.4.7", "ST": "2.5.4.8", "S": "2.5.4.8", "STREET": "2.5.4.9",
	"O": "2.5.4.10", "OU": "2.5.4.11", "T": "2.5.4.12", "TITLE": "2.5.4.12",
	"G": "2.5.4.42", "GN": "2.5.4.42", "GIVENNAME": "2.5.4.42", "I": "2.5.4.43", "INITIALS": "2.5.4.43",
	"DC": "0.9.2342.19200300.100.1.25", "UID": "0.9.2342.19200300.100.1.1",
	"E": "1.2.840.113549.1.9.1", "EMAIL": "1.2.840.113549.1.9.1", "EMAILADDRESS": "1.2.840.113549.1.9.1",
}

// shortNames is what String writes; a table of its own because several short
// names share a type.
var shortNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "SERIALNUMBER", "2.5.4.6": "C", "2.5.4.7": "L",
	"2.5.4.8": "ST", "2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "T",
	"2.5.4.42": "GN", "2.5.4.43": "I", "0.9.2342.19200300.100.1.25": "DC",
	"0.9.2342.19200300.100.1.1": "UID", "1.2.840.113549.1.9.1": "E",
}

// fold prepares a value for comparison: RFC 5280, Section 7.1 asks for
// insignificant space and case to be ignored.
func fold(s string) string {
	return strings.ToLower(strings.Join(strings.FieldsFunc(s, unicode.IsSpace), " "))
}

func newAttribute(oid, text string) attribute {
	return attribute{oid: oid, text: text, value: fold(text)}
}

// sortSet gives the parts of a multi-valued RDN, a set, one order.
func sortSet(set []attribute) {
	slices.SortFunc(set, func(a, b attribute) int {
		if c := strings.Compare(a.oid, b.oid); c != 0 {
			return c
		}
		return strings.Compare(a.value, b.value)
	})
}

// parseDER reads a Name as certificates hold it.
func parseDER(der []byte) (dn, error) {
	var seq []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &seq); err != nil || len(rest) > 0 {
		return nil, errors.New("malformed distinguished name")
	}
	name := make(dn, 0, len(seq))
	for _, rdn := range seq {
		if rdn.Class != asn1.ClassUniversal || rdn.Tag != asn1.TagSet {
			return nil, errors.New("malformed distinguished name: not a set")
		}
		var set []attribute
		for rest := rdn.Bytes; len(rest) > 0; {
			var av struct {
				Type  asn1.ObjectIdentifier
				Value asn1.RawValue
			}
			var err error
			if rest, err = asn1.Unmarshal(rest, &av); err != nil {
				return nil, errors.New("malformed distinguished name: not a type and value")
			}
			s, ok := stringValue(av.Value)
			if !ok {
				// Not a string: only the same bytes, written as #hex, are equal.
				s = "#" + hex.EncodeToString(av.Value.FullBytes)
			}
			a := newAttribute(av.Type.String(), s)
			a.raw = !ok
			set = append(set, a)
		}
		if len(set) == 0 {
			return nil, errors.New("malformed distinguished name: empty part")
		}
		sortSet(set)
		name = append(name, set)
	}
	slices.Reverse(name)
	return name, nil
}

// stringValue decodes the string types a directory name may have, so that the
// same words compare equal whatever type a CA chose.
func stringValue(v asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal || v.IsCompound {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagNumericString:
		return strings.ToValidUTF8(string(v.Bytes), "\ufffd"), true
	case asn1.TagT61String: // Latin-1 in practice
		r := make([]rune, len(v.Bytes))
		for i, c := range v.Bytes {
			r[i] = rune(c)
		}
		return string(r), true
	case asn1.TagBMPString:
		if len(v.Bytes)%2 != 0 {
			return "", false
		}
		u := make([]uint16, len(v.Bytes)/2)
		for i := range u {
			u[i] = uint16(v.Bytes[2*i])<<8 | uint16(v.Bytes[2*i+1])
		}
		return string(utf16.Decode(u)), true
	}
	return "", false
}

// equal compares two names part by part.
func (d dn) equal(o dn) bool {
	return slices.EqualFunc(d, o, func(a, b []attribute) bool {
		return slices.EqualFunc(a, b, func(x, y attribute) bool { return x.oid == y.oid && x.value == y.value && x.raw == y.raw })
	})
}

// String writes the name as RFC 4514 does.
func (d dn) String() string {
	var b strings.Builder
	for i, set := range d {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, a := range set {
			if j > 0 {
				b.WriteByte('+')
			}
			t := shortNames[a.oid]
			if t == "" {
				t = a.oid
			}
			b.WriteString(t)
			b.WriteByte('=')
			if a.raw {
				b.WriteString(a.text)
			} else {
				b.WriteString(escapeValue(a.text))
			}
		}
	}
	return b.String()
}

// escapeValue follows RFC 4514, Section 2.4.
func escapeValue(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case strings.IndexByte(`"+,;<>\`, c) >= 0, i == 0 && (c == '#' || c == ' '), i == len(s)-1 && c == ' ':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < 0x20 || c == 0x7f:
			fmt.Fprintf(&b, `\%02X`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// parseDN reads RFC 4514 notation. Beyond it, space around the separators and
// quoted values are understood, as Windows shows them.
func parseDN(s string) (dn, error) {
	p := dnParser{s: s}
	var name dn
	set := []attribute{}
	for {
		a, err := p.attribute()
		if err != nil {
			return nil, err
		}
		set = append(set, a)
		sep := p.separator()
		if sep == '+' {
			continue
		}
		sortSet(set)
		name = append(name, set)
		set = nil
		switch sep {
		case 0:
			return name, nil
		case ',', ';':
		default:
			return nil, fmt.Errorf("unexpected %q after %q", p.s[p.i:], p.s[:p.i])
		}
	}
}

type dnParser struct {
	s string
	i int
}

func (p *dnParser) space() {
	for p.i < len(p.s) && p.s[p.i] == ' ' {
		p.i++
	}
}

// separator takes , ; or +; 0 at the end; anything else is left in place.
func (p *dnParser) separator() byte {
	p.space()
	if p.i == len(p.s) {
		return 0
	}
	c := p.s[p.i]
	if c == ',' || c == ';' || c == '+' {
		p.i++
	}
	return c
}

func (p *dnParser) attribute() (attribute, error) {
	p.space()
	eq := strings.IndexByte(p.s[p.i:], '=')
	if eq < 0 {
		return attribute{}, fmt.Errorf("%q has no =, such as in CN=Device CA,O=Example", p.s[p.i:])
	}
	key := strings.ToUpper(strings.TrimSpace(p.s[p.i : p.i+eq]))
	p.i += eq + 1
	oid, ok := attributeTypes[key]
	if !ok {
		oid = strings.TrimPrefix(key, "OID.")
		if !isOID(oid) {
			return attribute{}, fmt.Errorf("unknown attribute %q", key)
		}
	}
	p.space()
	value, raw, err := p.value()
	if err != nil {
		return attribute{}, fmt.Errorf("value of %s: %w", key, err)
	}
	if value == "" {
		return attribute{}, fmt.Errorf("%s is empty", key)
	}
	a := newAttribute(oid, value)
	a.raw = raw
	return a, nil
}

func isOID(s string) bool {
	parts := strings.Split(s, ".")
	for _, part := range parts {
		if _, err := strconv.ParseUint(part, 10, 31); err != nil || (len(part) > 1 && part[0] == '0') {
			return false
		}
	}
	return len(parts) >= 2
}

// value takes a value; raw: it is no string.
func (p *dnParser) value() (s string, raw bool, err error) {
	if p.i < len(p.s) && p.s[p.i] == '"' {
		s, err = p.quoted()
		return s, false, err
	}
	if p.i < len(p.s) && p.s[p.i] == '#' {
		return p.hexValue()
	}
	s, err = p.plain()
	return s, false, err
}

func (p *dnParser) plain() (string, error) {
	var b []byte
	keep := 0 // length that trailing space may not go below: escaped space stays
	for p.i < len(p.s) && strings.IndexByte(",;+", p.s[p.i]) < 0 {
		if p.s[p.i] == '"' || p.s[p.i] == '<' || p.s[p.i] == '>' {
			return "", fmt.Errorf("%q must be written \\%c", p.s[p.i], p.s[p.i])
		}
		c, escaped, err := p.char()
		if err != nil {
			return "", err
		}
		b = append(b, c)
		if escaped || c != ' ' {
			keep = len(b)
		}
	}
	return string(b[:keep]), nil
}

// char takes one octet, escaped or not.
func (p *dnParser) char() (c byte, escaped bool, err error) {
	c = p.s[p.i]
	p.i++
	if c != '\\' {
		return c, false, nil
	}
	if p.i == len(p.s) {
		return 0, false, errors.New(`ends with \`)
	}
	if p.i+2 <= len(p.s) {
		if h, err := hex.DecodeString(p.s[p.i : p.i+2]); err == nil {
			p.i += 2
			return h[0], true, nil
		}
	}
	c = p.s[p.i]
	if strings.IndexByte(`\"#+,;<=> `, c) < 0 {
		return 0, false, fmt.Errorf(`\%c is no escape`, c)
	}
	p.i++
	return c, true, nil
}

func (p *dnParser) quoted() (string, error) {
	var b []byte
	for p.i++; p.i < len(p.s); {
		if p.s[p.i] == '"' {
			p.i++
			return string(b), nil
		}
		c, _, err := p.char()
		if err != nil {
			return "", err
		}
		b = append(b, c)
	}
	return "", errors.New("missing closing quote")
}

// hexValue reads #hexstring: the DER of the value.
func (p *dnParser) hexValue() (s string, raw bool, err error) {
	end := p.i + 1
	for end < len(p.s) && strings.IndexByte(",;+ ", p.s[end]) < 0 {
		end++
	}
	der, err := hex.DecodeString(p.s[p.i+1 : end])
	if err != nil || len(der) == 0 {
		return "", false, fmt.Errorf("%q is not # and hex digits", p.s[p.i:end])
	}
	p.i = end
	var v asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) > 0 {
		return "", false, errors.New("the hex digits are not one DER value")
	}
	if s, ok := stringValue(v); ok {
		return s, false, nil
	}
	return "#" + hex.EncodeToString(der), true, nil
}
