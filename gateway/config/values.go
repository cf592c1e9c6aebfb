package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time written as Go writes it: 500ms, 30s, 1h30m.
type Duration time.Duration

func (d Duration) String() string {
	s := time.Duration(d).String()
	// 1h0m0s is what the file would never say.
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// ParseDuration reads a Duration. Negative lengths are errors.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("not a duration, such as 500ms, 30s or 5m")
	}
	return Duration(d), nil
}

// Size is a number of bytes, written plainly or with a unit: 16777215, 64KiB, 1GiB, 10MB.
type Size int64

var sizeUnits = []struct {
	name string
	n    int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// String writes the largest binary unit that divides the size.
func (s Size) String() string {
	for _, u := range sizeUnits[:4] {
		if s != 0 && int64(s)%u.n == 0 {
			return strconv.FormatInt(int64(s)/u.n, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// ParseSize reads a Size. Negative sizes and those beyond an int64 are errors.
func ParseSize(s string) (Size, error) {
	num, factor := s, int64(1)
	for _, u := range sizeUnits {
		if n, ok := strings.CutSuffix(s, u.name); ok {
			num, factor = strings.TrimRight(n, " "), u.n
			break
		}
	}
	n, err := strconv.ParseUint(num, 10, 63)
	if err != nil {
		return 0, errors.New("not a size, such as 16777215, 64KiB or 1GiB")
	}
	if int64(n) > math.MaxInt64/factor {
		return 0, errors.New("too large for a size")
	}
	return Size(int64(n) * factor), nil
}

// Auto is a whole number, or 0 for the word auto.
type Auto int

func (a Auto) String() string {
	if a == 0 {
		return "auto"
	}
	return strconv.Itoa(int(a))
}

// Path is a file name. Load makes it absolute, starting from the folder of the file it stands in.
type Path string

// LogTarget is a file name or the word journal.
type LogTarget string

// Names is a list of normalised server names; the file may give one or a list.
type Names []string

// Addrs is a list of addresses; the file may give one or a list.
type Addrs []Addr

// Addr is an IP address and a port, without a host name: ":443", "192.0.2.1:443", "[::1]:443".
// Empty where the key has no value.
type Addr string

// ParseAddr reads and normalises an Addr.
func ParseAddr(s string) (Addr, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", errors.New("not an address with a port, such as :443, 127.0.0.1:443 or [::1]:443")
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", fmt.Errorf("port %q is not a number from 0 to 65535", port)
	}
	if host == "" || host == "*" {
		return Addr(":" + strconv.FormatUint(p, 10)), nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", fmt.Errorf("%q is not an IP address (host names are not looked up here)", host)
	}
	return Addr(netip.AddrPortFrom(ip.Unmap(), uint16(p)).String()), nil
}

// AddrPort is the address to bind or to dial; ":443" is [::]:443, which takes IPv4 too.
// It is the zero value for an empty Addr.
func (a Addr) AddrPort() netip.AddrPort {
	s := string(a)
	if strings.HasPrefix(s, ":") {
		s = "[::]" + s
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}
	}
	return ap
}

// parseBackend normalises host:port, with a port of its own where none is given.
func parseBackend(s, defaultPort string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), defaultPort
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
		return "", fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return net.JoinHostPort(ip.Unmap().String(), port), nil
	}
	name, err := NormalizeServerName(host)
	if err != nil {
		return "", fmt.Errorf("not host:port: %w", err)
	}
	return net.JoinHostPort(name, port), nil
}

// NormalizeServerName puts a host name into the one form that rules and
// routes compare: lower case, no trailing dot. It is an error when s is empty,
// an IP address, or not a host name of letters, digits, - and _ in labels of
// at most 63 and 253 octets in all. Both the file's names and the name in a
// ClientHello pass through here, so that no spelling reaches another route.
func NormalizeServerName(s string) (string, error) {
	name := strings.TrimSuffix(s, ".")
	if name == "" {
		return "", errors.New("empty server name")
	}
	if len(name) > 253 {
		return "", errors.New("server name is longer than 253 octets")
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return "", fmt.Errorf("%q is an IP address, and clients send no server name for those", name)
	}
	b := make([]byte, len(name))
	label := 0
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		case c == '.' && label > 0:
			label = -1
		case c >= 0x80:
			return "", fmt.Errorf("server name %q is not ASCII (write its xn-- form)", name)
		default:
			return "", fmt.Errorf("%q is not a host name", name)
		}
		if label++; label > 63 {
			return "", fmt.Errorf("a label of %q is longer than 63 octets", name)
		}
		b[i] = c
	}
	if label == 0 {
		return "", fmt.Errorf("%q is not a host name", name)
	}
	return string(b), nil
}

// normalizePattern is NormalizeServerName that lets *.suffix through.
func normalizePattern(s string) (string, error) {
	if s == "*" {
		return "", errors.New("* alone would take unknown names too; write the names, or *.suffix")
	}
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		n, err := NormalizeServerName(rest)
		if err != nil {
			return "", err
		}
		return "*." + n, nil
	}
	return NormalizeServerName(s)
}

// patternCovers reports whether every name that b matches is matched by a too.
// Both are normalised. *.example.com matches every name below example.com, at
// any depth, and not example.com.
func patternCovers(a, b string) bool {
	suffix, wild := strings.CutPrefix(a, "*")
	if !wild {
		return a == b
	}
	b = strings.TrimPrefix(b, "*")
	return strings.HasSuffix(b, suffix) && (len(b) > len(suffix) || a == "*"+b)
}
