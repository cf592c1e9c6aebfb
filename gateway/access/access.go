// Package access decides whether a client certificate may use a route, by the
// rules Windows uses for SMB over QUIC: any deny in the chain wins, and after
// that at least one allow is needed.
//
// It works on the chain the handshake helper verified (DER, leaf first) and
// trusts nothing else: a chain that does not parse is refused, it never
// panics, and names are compared in one normalised form. It imports only the
// standard library.
package access

// Mode says whether a client certificate is asked for.
type Mode uint8

const (
	None     Mode = iota // never asked for; everybody is anonymous
	Optional             // none given: anonymous; one given must pass
	Required             // none given: refused
)

// Reason names the outcome of a rule, for logs, metrics and close codes.
type Reason string

const (
	ReasonPublic         Reason = "public"          // allowed: the rule asks for no certificate
	ReasonAnonymous      Reason = "anonymous"       // allowed: optional, and none was given
	ReasonAllowed        Reason = "allowed"         // allowed: an allow entry matched
	ReasonNoCertificate  Reason = "no_certificate"  // refused: required, and none was given
	ReasonBadCertificate Reason = "bad_certificate" // refused: the chain can't be understood
	ReasonDenied         Reason = "denied"          // refused: a deny entry matched
	ReasonNotAllowed     Reason = "not_allowed"     // refused: no allow entry matched
)

// Reasons lists every Reason; metrics use it to bound their labels.
func Reasons() []Reason {
	return []Reason{ReasonPublic, ReasonAnonymous, ReasonAllowed, ReasonNoCertificate,
		ReasonBadCertificate, ReasonDenied, ReasonNotAllowed}
}

// Rule is one named rule. It is immutable after it is built and safe for use
// by many goroutines. The zero Mode admits everybody: a Rule comes from
// configuration that named it, never from a default.
type Rule struct {
	Name  string
	Mode  Mode
	Allow []Matcher
	Deny  []Matcher
}

// Public is the built-in rule of that name.
func Public() *Rule { return &Rule{Name: "public", Mode: None} }

// Verdict is what a rule says about a chain.
type Verdict struct {
	Allowed bool
	Reason  Reason
	Rule    string // name of the rule
	Entry   string // the allow or deny entry that decided, as in the file; empty: none did
	// Position is the index in the chain at which Entry matched; 0 is the leaf.
	Position int
	Chain    *Chain // nil: anonymous or not understood
	Err      error  // why the chain was not understood
}

// Evaluate judges chain, DER, leaf first, as the helper verified it. Empty
// means that the client has shown no certificate.
func (r *Rule) Evaluate(chain [][]byte) Verdict {
	v := Verdict{Rule: r.Name}
	if r.Mode == None {
		v.Allowed, v.Reason = true, ReasonPublic
		return v
	}
	if len(chain) == 0 {
		v.Allowed, v.Reason = r.Mode == Optional, ReasonNoCertificate
		if v.Allowed {
			v.Reason = ReasonAnonymous
		}
		return v
	}
	c, err := ParseChain(chain)
	if err != nil {
		v.Reason, v.Err = ReasonBadCertificate, err
		return v
	}
	v.Chain = c
	for _, m := range r.Deny {
		if at, ok := m.matchDeny(c); ok {
			v.Reason, v.Entry, v.Position = ReasonDenied, m.String(), at
			return v
		}
	}
	for _, m := range r.Allow {
		if at, ok := m.matchAllow(c); ok {
			v.Allowed, v.Reason, v.Entry, v.Position = true, ReasonAllowed, m.String(), at
			return v
		}
	}
	v.Reason = ReasonNotAllowed
	return v
}

// Unix is an AUTH_SYS identity.
type Unix struct {
	UID, GID uint32
	Groups   []uint32
}

// MapEntry gives one client an identity.
type MapEntry struct {
	Match Matcher
	Unix  Unix
}

// IdentityMap is an ordered list; the first entry that matches decides.
type IdentityMap []MapEntry

// Lookup finds the identity of the client behind c; c may be nil (anonymous).
// Only the client's own certificate counts, never an issuer's.
func (m IdentityMap) Lookup(c *Chain) (Unix, bool) {
	if c == nil {
		return Unix{}, false
	}
	for _, e := range m {
		if at, ok := e.Match.matchAllow(c); ok && at == 0 {
			return e.Unix, true
		}
	}
	return Unix{}, false
}
