package tlshd

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// state is a configuration with everything its files contain. It is immutable;
// a reload makes a new one, whole or not at all.
type state struct {
	cfg     Config
	number  uint64 // counts states, from 1
	files   *fileSet
	certs   *certificates
	caSets  map[string]*caSet
	crls    *revocations
	tickets *ticketKeys // nil: none
	client  *clientState
}

// caSet is a set of CAs that client certificates may come from.
type caSet struct {
	pool *x509.CertPool
	crls *revocations
	hash [sha256.Size]byte
	size int
}

type clientState struct {
	roots    *x509.CertPool // nil: the system's
	crls     *revocations
	cert     *tls.Certificate
	insecure bool
	sessions *sessionCache // nil: none
	hash     [sha256.Size]byte
}

// loadState reads everything a configuration names. old lends keys that live in
// memory only.
func loadState(cfg Config, old *state, now time.Time) (*state, error) {
	st := &state{cfg: cfg, files: &fileSet{}, number: 1}
	if old != nil {
		st.number = old.number + 1
	}
	// The files seen so far are wanted of a failed attempt as well: they say
	// when another one makes sense.
	if err := cfg.Validate(); err != nil {
		return st, err
	}
	var err error
	if st.certs, err = loadServerCertificates(st.files, cfg.Certificates); err != nil {
		return st, err
	}
	if err := st.loadTrust(); err != nil {
		return st, err
	}
	if st.tickets, err = st.loadTickets(old, now); err != nil {
		return st, err
	}
	if cfg.Client != nil {
		if st.client, err = st.loadClient(old); err != nil {
			return st, err
		}
	}
	return st, nil
}

// loadTrust reads the CAs of clients and the revocation lists.
func (st *state) loadTrust() (err error) {
	cfg := &st.cfg
	if st.crls, err = loadRevocations(st.files, cfg.CRL, cfg.CRLExpired); err != nil {
		return err
	}
	st.caSets = map[string]*caSet{}
	if st.caSets[""], err = loadCASet(st.files, cfg.ClientCA); err != nil {
		return fmt.Errorf("tlshd: client_ca: %w", err)
	}
	st.caSets[""].crls = st.crls
	for name, paths := range cfg.ClientCASets {
		set, err := loadCASet(st.files, paths)
		if err != nil {
			return fmt.Errorf("tlshd: client_ca of %q: %w", name, err)
		}
		set.crls = st.crls
		if own := cfg.ClientCRLSets[name]; len(own) > 0 {
			if set.crls, err = loadRevocations(st.files, own, cfg.CRLExpired); err != nil {
				return fmt.Errorf("%w (of %q)", err, name)
			}
		}
		st.caSets[name] = set
	}
	return nil
}

func (st *state) loadTickets(old *state, now time.Time) (*ticketKeys, error) {
	switch {
	case st.cfg.NoTickets:
		return nil, nil
	case st.cfg.TicketKeys != "":
		return loadTicketKeys(st.files, st.cfg.TicketKeys)
	case old != nil && old.tickets != nil && old.tickets.inMemory:
		return old.tickets, nil
	}
	return newTicketKeys(now), nil
}

func loadCASet(f *fileSet, paths []string) (*caSet, error) {
	set := &caSet{pool: x509.NewCertPool()}
	sum := sha256.New()
	for _, path := range paths {
		certs, err := f.readCertificates(path)
		if err != nil {
			return nil, err
		}
		f.expires("ca", path, certs...)
		for _, c := range certs {
			set.pool.AddCert(c)
			sum.Write(c.Raw)
			set.size++
		}
	}
	sum.Sum(set.hash[:0])
	return set, nil
}

func (st *state) loadClient(old *state) (*clientState, error) {
	f, c := st.files, st.cfg.Client
	cs := &clientState{insecure: c.InsecureSkipVerify, crls: st.crls}
	if len(c.CRL) > 0 {
		var err error
		if cs.crls, err = loadRevocations(f, c.CRL, st.cfg.CRLExpired); err != nil {
			return nil, fmt.Errorf("%w (of the client)", err)
		}
	}
	sum := sha256.New()
	if len(c.CA) > 0 {
		set, err := loadCASet(f, c.CA)
		if err != nil {
			return nil, fmt.Errorf("tlshd: client ca: %w", err)
		}
		cs.roots = set.pool
		sum.Write(set.hash[:])
	}
	if c.Certificate != nil {
		cert, err := loadCertificate(f, c.Certificate)
		if err != nil {
			return nil, fmt.Errorf("tlshd: client certificate: %w", err)
		}
		cs.cert = cert
		sum.Write(cert.Leaf.Raw)
	}
	sum.Write([]byte{boolByte(c.InsecureSkipVerify)})
	sum.Sum(cs.hash[:0])
	if c.Sessions >= 0 {
		n := c.Sessions
		if n == 0 {
			n = defaultSessions
		}
		cs.sessions = &sessionCache{lru: tls.NewLRUClientSessionCache(n)}
		// A session lives on only under the same trust and identity.
		if old != nil && old.client != nil && old.client.hash == cs.hash && old.client.sessions != nil {
			cs.sessions = old.client.sessions
		}
	}
	return cs, nil
}

// policy is the generation that tickets are bound to: the owner's word and
// everything here that decides about a client.
func (st *state) policy(set *caSet, o *Options) [sha256.Size]byte {
	sum := sha256.New()
	sum.Write([]byte("quic-fsgw policy 1\x00"))
	sum.Write(set.hash[:])
	sum.Write(set.crls.hash[:])
	sum.Write([]byte{boolByte(set.crls.warnOnly), byte(o.ClientCert)})
	sum.Write(binary.BigEndian.AppendUint32(nil, uint32(len(o.Policy))))
	sum.Write([]byte(o.Policy))
	return [sha256.Size]byte(sum.Sum(nil))
}

// sessionCache is the sessions of the client role.
type sessionCache struct {
	mu  sync.Mutex // around Get and Put of one session, which tickets are for single use
	lru tls.ClientSessionCache
}

// scoped returns the part of the cache for the application protocols, route and
// QUIC version of a handshake: a session is never offered under others. RFC 9369,
// Section 5: "Clients MUST NOT use a session ticket or token from a QUIC version 1
// connection to initiate a QUIC version 2 connection, and vice versa."
func (c *sessionCache) scoped(h *serverHandshake) tls.ClientSessionCache {
	return &scopedCache{c, h}
}

type scopedCache struct {
	c *sessionCache
	h *serverHandshake
}

func (s *scopedCache) key(name string) string {
	return fmt.Sprintf("%q|%q|%08x|%s", s.h.protos, s.h.opts.Route, s.h.version, name)
}

func (s *scopedCache) Get(name string) (*tls.ClientSessionState, bool) {
	key := s.key(name)
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	// RFC 8446, Appendix C.4: "Clients SHOULD NOT reuse a ticket for multiple
	// connections."
	cs, ok := s.c.lru.Get(key)
	if ok {
		s.c.lru.Put(key, nil)
	}
	return cs, ok
}

func (s *scopedCache) Put(name string, cs *tls.ClientSessionState) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.lru.Put(s.key(name), cs)
}
