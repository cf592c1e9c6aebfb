package tlshd

import (
	"fmt"
	"strings"
)

// maxName is the longest DNS name in text form, without the final dot.
const maxName = 253

// normalizeName returns a server name in the one form that names are compared
// in: ASCII lower case, without a trailing dot. ok is false for what is no
// host name: empty labels, bytes outside of letters, digits, '-' and '_'.
func normalizeName(name string) (string, bool) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxName {
		return "", false
	}
	b := make([]byte, len(name))
	label := 0
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.':
			if label == 0 {
				return "", false
			}
			label = -1
		default:
			return "", false
		}
		if label++; label > 63 {
			return "", false
		}
		b[i] = c
	}
	return string(b), label > 0
}

// checkNamePattern accepts a name, "*.suffix" and "*".
func checkNamePattern(p string) error {
	if p == "*" {
		return nil
	}
	if _, ok := normalizeName(strings.TrimPrefix(p, "*.")); !ok {
		return fmt.Errorf("names: %q is no server name (want a host name, *.suffix or *)", p)
	}
	return nil
}
