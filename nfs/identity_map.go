package nfs

import (
	"fmt"
	"net/netip"
	"strings"
)

// IdentityRule maps one name of a client certificate to a Unix identity.
type IdentityRule struct {
	// SAN is a kind and a name: dns:, email:, upn:, uri: or ip:. Names of dns, email
	// and upn are compared without regard to case; there are no wildcards.
	SAN    string
	UID    uint32
	GID    uint32
	Groups []uint32 // at most 16
}

// Otherwise is what a connection gets whose certificate no rule names.
type Otherwise uint8

const (
	Squash Otherwise = iota // the squash identity
	Refuse                  // none: every call but NULL is refused with AUTH_TOOWEAK
)

// SquashID is the usual uid and gid of nobody.
const SquashID = 65534

// IdentityMapConfig is what NewIdentityMap takes.
type IdentityMapConfig struct {
	Rules     []IdentityRule
	Otherwise Otherwise
	SquashUID uint32 // 0: 65534
	SquashGID uint32 // 0: 65534
	Root      Root   // whether rules may name uid 0 and gid 0; squashing never does
}

// IdentityMap maps certificates to identities. It does not change; a reload makes another.
type IdentityMap struct {
	ids    map[string]*Identity
	order  map[string]int
	squash *Identity // nil: refuse
	shared []uint32
}

// NewIdentityMap checks all rules. A name in two rules is an error.
func NewIdentityMap(cfg IdentityMapConfig) (*IdentityMap, error) {
	m := &IdentityMap{ids: make(map[string]*Identity), order: make(map[string]int)}
	if cfg.Otherwise == Squash {
		uid, gid := cfg.SquashUID, cfg.SquashGID
		if uid == 0 {
			uid = SquashID
		}
		if gid == 0 {
			gid = SquashID
		}
		id, err := NewIdentity(uid, gid, nil, RootRefused)
		if err != nil {
			return nil, err
		}
		m.squash = id
	}
	users := make(map[uint32]int)
	for i, r := range cfg.Rules {
		name, ok := normalSAN(r.SAN)
		if !ok {
			return nil, fmt.Errorf("nfs: identity rule %d: %q is not a name (hint: dns:, email:, upn:, uri: or ip: and the name as in the certificate)", i+1, r.SAN)
		}
		if first, taken := m.order[name]; taken {
			return nil, fmt.Errorf("nfs: identity rules %d and %d both map %q", first+1, i+1, r.SAN)
		}
		id, err := NewIdentity(r.UID, r.GID, r.Groups, cfg.Root)
		if err != nil {
			return nil, fmt.Errorf("nfs: identity rule %d, %q: %w", i+1, r.SAN, err)
		}
		m.ids[name], m.order[name] = id, i
		if users[r.UID]++; users[r.UID] == 2 {
			m.shared = append(m.shared, r.UID)
		}
	}
	return m, nil
}

// SharedUIDs returns the uids that several rules map to. That is allowed, for the several certificates of
// one person; but two persons under one uid can take over each other's NFSv4 state, so it deserves a warning.
func (m *IdentityMap) SharedUIDs() []uint32 { return m.shared }

// Identify returns the identity of a certificate with these names, each a kind and a name as
// in IdentityRule. If several are mapped, the first rule counts. nil: none.
func (m *IdentityMap) Identify(sans []string) *Identity {
	var best *Identity
	rank := len(m.order)
	for _, s := range sans {
		name, ok := normalSAN(s)
		if !ok {
			continue
		}
		if i, found := m.order[name]; found && i < rank {
			best, rank = m.ids[name], i
		}
	}
	if best == nil {
		return m.squash
	}
	return best
}

// normalSAN brings a name into the form in which it is compared.
func normalSAN(san string) (string, bool) {
	kind, name, ok := strings.Cut(san, ":")
	kind = strings.ToLower(kind)
	if !ok || name == "" {
		return "", false
	}
	switch kind {
	case "dns":
		name = strings.TrimSuffix(strings.ToLower(name), ".")
		if name == "" || strings.Contains(name, "*") {
			return "", false
		}
	case "email", "upn":
		name = strings.ToLower(name)
	case "uri":
	case "ip":
		a, err := netip.ParseAddr(name)
		if err != nil || a.Zone() != "" {
			return "", false
		}
		name = a.Unmap().String()
	default:
		return "", false
	}
	return kind + ":" + name, true
}
