package tlshd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Config is what a helper is told: file names and policies, never the bytes of
// a key. It travels to a spawned helper as JSON.
type Config struct {
	// Certificates are the server's. Which one a client gets is decided by the
	// name it asks for; a client that asks for none of them is refused.
	Certificates []Certificate `json:"certificates,omitempty"`

	// ClientCA are the files of the CAs that client certificates are verified
	// against, PEM (any number of certificates) or DER (one).
	ClientCA []string `json:"client_ca,omitempty"`
	// ClientCASets are further sets of CA files by name, for requests whose
	// Options.CASet names one instead of using ClientCA.
	ClientCASets map[string][]string `json:"client_ca_sets,omitempty"`

	// CRL are files of revocation lists, PEM (several) or DER (one).
	CRL []string `json:"crl,omitempty"`
	// ClientCRLSets are the lists of some of ClientCASets, by the same names, instead
	// of CRL.
	ClientCRLSets map[string][]string `json:"client_crl_sets,omitempty"`
	// CRLExpired says what happens when the only list of an issuer is past its
	// next update: CRLRefuse (also when empty) or CRLWarn.
	CRLExpired string `json:"crl_expired,omitempty"`

	// TicketKeys is a file of 64 hexadecimal digits a line: the first key seals
	// session tickets, all of them open. Empty: keys made at start, kept in
	// memory and replaced every 12 hours. Several gateways share tickets by
	// sharing the file.
	TicketKeys string `json:"ticket_keys,omitempty"`
	// NoTickets turns session tickets off.
	NoTickets bool `json:"no_tickets,omitempty"`

	// Groups are the key exchanges that are taken, by the names of Groups; empty: those
	// that crypto/tls prefers. Which of them is used crypto/tls decides.
	Groups []string `json:"groups,omitempty"`

	// User and Group, names or numbers, are what a helper started as root
	// becomes after it has read its files. Files that are to be reread must be
	// readable by them. Empty Group: the user's primary group.
	User  string `json:"user,omitempty"`
	Group string `json:"group,omitempty"`

	// UnsafeKeyLog is a file that the TLS secrets of all connections are appended to,
	// for taking captured packets apart. It gives the traffic away to whoever reads
	// it. Empty, and whatever SSLKEYLOGFILE says: none. It can't be changed while the
	// helper runs.
	UnsafeKeyLog string `json:"unsafe_key_log,omitempty"`

	// Client is for handshakes as a client; nil: those requests are refused.
	Client *ClientConfig `json:"client,omitempty"`

	// MaxHandshakes bounds the handshakes in progress; 0: 1024. Four times as
	// many may be finished and waiting for their ticket request.
	MaxHandshakes int `json:"max_handshakes,omitempty"`
	// MaxTimeout caps the timeout a request may ask for; 0: 30 s.
	MaxTimeout time.Duration `json:"max_timeout,omitempty"`
	// WatchInterval is how often the files are looked at for a change; 0: 2 s,
	// negative: never.
	WatchInterval time.Duration `json:"watch_interval,omitempty"`
}

// The values of Config.CRLExpired.
const (
	CRLRefuse = "refuse"
	CRLWarn   = "warn"
)

// Certificate is one certificate chain with its key, either Cert and Key or
// PFX.
type Certificate struct {
	// Names are the server names it is for: "files.example.com",
	// "*.example.com" (any one or more labels under it) or "*" (the default, also for clients
	// that send no name). Empty: the DNS names in the certificate.
	Names []string `json:"names,omitempty"`
	// Cert is a PEM file, leaf first, or one DER certificate. It may hold the
	// key as well, then Key is empty.
	Cert string `json:"cert,omitempty"`
	// Key is PKCS #8, PKCS #1 or SEC 1, PEM or DER, not encrypted; or scheme:name
	// of a scheme that RegisterSigner knows.
	Key string `json:"key,omitempty"`
	// PFX is a PKCS #12 file with key and chain, PFXPassword the file its
	// password is in (without it: the empty password).
	PFX         string `json:"pfx,omitempty"`
	PFXPassword string `json:"pfx_password_file,omitempty"`
}

// ClientConfig is how the helper shakes hands as a client.
type ClientConfig struct {
	CA  []string `json:"ca,omitempty"`  // CA files; empty: the system's roots
	CRL []string `json:"crl,omitempty"` // files of revocation lists of servers; empty: Config.CRL
	// Certificate is shown to servers that ask for one; nil: none.
	Certificate *Certificate `json:"certificate,omitempty"`
	// InsecureSkipVerify takes any certificate a server shows.
	InsecureSkipVerify bool `json:"insecure_skip_verify,omitempty"`
	// Sessions is how many sessions are kept for resumption; 0: 64, negative:
	// none.
	Sessions int `json:"sessions,omitempty"`
}

// groups are the names that Config.Groups knows.
var groups = map[string]tls.CurveID{
	"X25519MLKEM768": tls.X25519MLKEM768, "SecP256r1MLKEM768": tls.SecP256r1MLKEM768, "SecP384r1MLKEM1024": tls.SecP384r1MLKEM1024,
	"X25519": tls.X25519, "P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521,
}

// Groups lists the names that Config.Groups knows.
func Groups() []string { return slices.Sorted(maps.Keys(groups)) }

// curves are Config.Groups as crypto/tls has them; nil: its own.
func (c *Config) curves() (out []tls.CurveID) {
	for _, name := range c.Groups {
		out = append(out, groups[name])
	}
	return out
}

// Defaults and bounds of Config.
const (
	defaultMaxHandshakes = 1024
	maxMaxHandshakes     = 1 << 20
	defaultMaxTimeout    = 30 * time.Second
	defaultWatch         = 2 * time.Second
	defaultSessions      = 64
)

// Validate checks what can be checked without reading a file.
func (c *Config) Validate() error {
	for i, cert := range c.Certificates {
		if err := cert.validate(); err != nil {
			return fmt.Errorf("tlshd: certificates[%d]: %w", i, err)
		}
	}
	switch c.CRLExpired {
	case "", CRLRefuse, CRLWarn:
	default:
		return fmt.Errorf("tlshd: crl_expired: %q is neither %q nor %q", c.CRLExpired, CRLRefuse, CRLWarn)
	}
	if _, ok := c.ClientCASets[""]; ok {
		return errors.New("tlshd: client_ca_sets: a set has no name (the unnamed set is client_ca)")
	}
	for _, name := range c.Groups {
		if _, ok := groups[name]; !ok {
			return fmt.Errorf("tlshd: groups: %q is none of %s", name, strings.Join(Groups(), ", "))
		}
	}
	for name := range c.ClientCRLSets {
		if _, ok := c.ClientCASets[name]; !ok {
			return fmt.Errorf("tlshd: client_crl_sets: there is no set of client CAs called %q", name)
		}
	}
	if c.MaxHandshakes < 0 || c.MaxHandshakes > maxMaxHandshakes {
		return fmt.Errorf("tlshd: max_handshakes: %d is not in 0..%d", c.MaxHandshakes, maxMaxHandshakes)
	}
	if c.MaxTimeout < 0 {
		return fmt.Errorf("tlshd: max_timeout: %v is negative", c.MaxTimeout)
	}
	if c.Client != nil && c.Client.Certificate != nil {
		if err := c.Client.Certificate.validate(); err != nil {
			return fmt.Errorf("tlshd: client certificate: %w", err)
		}
	}
	return nil
}

func (c *Certificate) validate() error {
	switch {
	case c.PFX != "" && (c.Cert != "" || c.Key != ""):
		return errors.New("both pfx and cert or key are given (one of them is enough)")
	case c.PFX == "" && c.Cert == "":
		return errors.New("neither cert nor pfx is given")
	case c.PFX == "" && c.PFXPassword != "":
		return errors.New("pfx_password_file without pfx")
	}
	for _, n := range c.Names {
		if err := checkNamePattern(n); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) maxHandshakes() int {
	if c.MaxHandshakes == 0 {
		return defaultMaxHandshakes
	}
	return c.MaxHandshakes
}

func (c *Config) maxTimeout() time.Duration {
	if c.MaxTimeout == 0 {
		return defaultMaxTimeout
	}
	return c.MaxTimeout
}
