package backend

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"sync"
	"time"
)

// Policy is how a backend is chosen among several.
type Policy uint8

// The policies.
const (
	// Failover takes the first backend of the list that works.
	Failover Policy = iota
	// Sticky spreads clients over the backends by their key, always the same
	// way, and takes another only while a client's own does not work.
	Sticky
)

// Config says where the servers are.
type Config struct {
	Addrs    []string      // host:port, at least one, in order of preference
	Policy   Policy        // default Failover
	Cooldown time.Duration // how long a failed backend is tried last: default 10 s, doubled by each further failure up to 8 times that
	// Affinity is how long after a client's last session its backend is still
	// tried first, whatever the policy says: files that it left open for a
	// reconnect are found there only. Default 5 min, < 0: not at all.
	Affinity time.Duration
	// MaxConns bounds what is booked with Acquire on each backend; 0: no bound.
	MaxConns int
	// Changed is called when a backend's Up changes, not under a lock; nil: nobody.
	Changed func(State)
}

// State is what is known of a backend.
type State struct {
	Addr      string
	Conns     int           // booked with Acquire
	Up        bool          // false: it failed, and has not answered again (not probed: its cooldown has not passed)
	Until     time.Time     // end of the cooldown
	Failures  int           // in a row, of sessions and probes
	LastError string        // of the last failure, "" after a success
	DialTime  time.Duration // of the last successful dial
	Dials     int64         // attempts to open a session
	Failed    int64         // of them failed
	Probes    int64         // checks made
	BadProbes int64         // of them failed
	ProbeTime time.Duration // of the last successful check
	Probed    time.Time     // when the last check ended; zero: none yet
}

// badProbes is how many checks in a row must fail before a backend that serves
// its sessions counts as down: one may be lost for reasons of its own.
const badProbes = 2

// maxAffinities bounds the clients whose backend is remembered; who came
// longest ago is forgotten first.
const maxAffinities = 8192

// Set is the servers of a route. Safe for use by many goroutines.
//
// A server is marked by what happens to the sessions it gets and by probes.
// One that failed is tried last. While it has not answered again, at most one
// session at a time tries it, and the others wait for what comes of that: a
// server that hangs costs one deadline, not one a client, and one that is just
// back is not met by everybody at once. Nobody is refused without a try.
type Set struct {
	cfg Config

	mu       sync.Mutex
	members  []member
	affinity map[string]affinity
	oldest   []string // keys of affinity, in the order in which they came
}

type member struct {
	State
	wasUp    bool   // as Changed was last told
	probeErr int    // failed checks in a row
	trial    *trial // who tries a failed server now; nil: nobody
}

// A trial is one attempt on a failed server.
type trial struct {
	done chan struct{}
	err  error // once done is closed
}

type affinity struct {
	addr string
	when time.Time
}

// ErrNotTried is wrapped by an error of an attempt that says nothing about the
// backend, because the attempt was not made.
var ErrNotTried = errors.New("not tried")

// ErrHealthy is wrapped by an error of an attempt that is the client's doing: the
// backend has answered somebody else since. No other is tried then.
var ErrHealthy = errors.New("the backend answers others")

// NewSet checks cfg and fills in its defaults.
func NewSet(cfg Config) (*Set, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("no backends (give host:port of at least one server)")
	}
	if cfg.Policy > Sticky {
		return nil, fmt.Errorf("backend policy %d is unknown", cfg.Policy)
	}
	for i, addr := range cfg.Addrs {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("backend %q is not host:port", addr)
		}
		if slices.Contains(cfg.Addrs[:i], addr) {
			return nil, fmt.Errorf("backend %q is listed twice", addr)
		}
	}
	if cfg.Cooldown <= 0 {
		cfg.Cooldown = 10 * time.Second
	}
	if cfg.Affinity == 0 {
		cfg.Affinity = 5 * time.Minute
	}
	cfg.Addrs = slices.Clone(cfg.Addrs)
	s := &Set{cfg: cfg, members: make([]member, len(cfg.Addrs)), affinity: make(map[string]affinity)}
	for i, addr := range cfg.Addrs {
		s.members[i].Addr, s.members[i].wasUp = addr, true
	}
	return s, nil
}

// Addrs returns the addresses in order of preference. The caller leaves them alone.
func (s *Set) Addrs() []string { return s.cfg.Addrs }

// Has reports whether addr is one of the set.
func (s *Set) Has(addr string) bool { return s.index(addr) >= 0 }

func (s *Set) index(addr string) int { return slices.Index(s.cfg.Addrs, addr) }

// State returns a copy of what is known, in the order of the list.
func (s *Set) State() []State {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]State, len(s.members))
	for i := range s.members {
		out[i] = s.members[i].at(now)
	}
	return out
}

func (m *member) at(now time.Time) State {
	st := m.State
	// Where nothing probes, the end of the cooldown is all there is to go by.
	st.Up = st.Failures == 0 || st.Probes == 0 && !st.Until.After(now)
	return st
}

// Adopt takes over what old knows of the addresses that both have, so that a
// change of other settings forgets nothing.
func (s *Set) Adopt(old *Set) {
	old.mu.Lock()
	defer old.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.members {
		if j := old.index(s.members[i].Addr); j >= 0 {
			m := &s.members[i]
			m.State, m.wasUp, m.probeErr = old.members[j].State, old.members[j].wasUp, old.members[j].probeErr
			m.Conns = 0 // those of old are given back to it
		}
	}
	for _, key := range old.oldest {
		if a := old.affinity[key]; s.index(a.addr) >= 0 {
			s.affinity[key] = a
			s.oldest = append(s.oldest, key)
		}
	}
}

// Each calls try with one backend after the other until it succeeds, and marks
// them by the outcome. key names the client; only are the backends that it may
// have, none for all. It returns the address that worked, or, when ctx ends, its
// cause.
func (s *Set) Each(ctx context.Context, key string, try func(ctx context.Context, addr string) error, only ...string) (string, error) {
	var errs []error
	for _, addr := range s.Order(key, time.Now(), only...) {
		err := s.Try(ctx, addr, func(ctx context.Context) error { return try(ctx, addr) })
		if err == nil {
			s.Touch(key, addr, time.Now())
			return addr, nil
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("dial: %w", context.Cause(ctx)) // says nothing about the backend
		}
		if errors.Is(err, ErrHealthy) {
			return "", fmt.Errorf("%s: %w", addr, err)
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return "", fmt.Errorf("no backend answers: %w", errors.Join(errs...))
}

// Try tries one backend and marks it by the outcome. One that has failed is
// left to a single attempt at a time, whose failure is that of all who wait for it.
func (s *Set) Try(ctx context.Context, addr string, try func(ctx context.Context) error) error {
	for {
		own, other := s.begin(addr)
		if other != nil {
			select {
			case <-other.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if other.err != nil {
				return fmt.Errorf("as another session just found: %w", other.err)
			}
			continue // it works again, or nobody found out
		}
		err := try(ctx)
		told := err
		switch {
		case err != nil && (ctx.Err() != nil || errors.Is(err, ErrNotTried)):
			told = nil // says nothing about the backend
		case errors.Is(err, ErrHealthy):
			told = nil
			s.Mark(addr, nil, time.Now())
		default:
			s.Mark(addr, err, time.Now())
		}
		s.finish(addr, own, told)
		return err
	}
}

// begin books an attempt: own is set if others have to wait for it, other if
// this one has to wait.
func (s *Set) begin(addr string) (own, other *trial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.members[s.index(addr)]
	switch {
	case m.Failures == 0:
		return nil, nil
	case m.trial != nil:
		return nil, m.trial
	}
	m.trial = &trial{done: make(chan struct{})}
	return m.trial, nil
}

func (s *Set) finish(addr string, own *trial, err error) {
	if own == nil {
		return
	}
	s.mu.Lock()
	s.members[s.index(addr)].trial = nil
	s.mu.Unlock()
	own.err = err
	close(own.done)
}

// Order lists the backends as a client tries them: the one it was on lately,
// then by policy, those in their cooldown last. only are those that it may have,
// none for all.
func (s *Set) Order(key string, now time.Time, only ...string) []string {
	addrs := slices.Clone(s.cfg.Addrs)
	if len(only) > 0 {
		addrs = slices.DeleteFunc(addrs, func(addr string) bool { return !slices.Contains(only, addr) })
	}
	if s.cfg.Policy == Sticky {
		// Rendezvous hashing: a backend that comes or goes moves only its own clients.
		slices.SortFunc(addrs, func(x, y string) int {
			if weight(key, x) > weight(key, y) {
				return -1
			}
			return 1
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.affinity[key]
	rank := func(addr string) int {
		switch {
		case s.members[s.index(addr)].Until.After(now):
			return 2
		case addr == a.addr && now.Sub(a.when) < s.cfg.Affinity:
			return 0
		}
		return 1
	}
	slices.SortStableFunc(addrs, func(x, y string) int { return rank(x) - rank(y) })
	return addrs
}

// Touch notes that a client has, or has just had, a session on addr.
func (s *Set) Touch(key, addr string, now time.Time) {
	if len(s.cfg.Addrs) == 1 || s.cfg.Affinity < 0 || key == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.affinity[key]; !known {
		if len(s.oldest) >= maxAffinities {
			delete(s.affinity, s.oldest[0])
			s.oldest = append(s.oldest[:0], s.oldest[1:]...)
		}
		s.oldest = append(s.oldest, key)
	}
	s.affinity[key] = affinity{addr, now}
}

func weight(key, addr string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(key))
	h.Write([]byte{0})
	h.Write([]byte(addr))
	return mix(h.Sum64())
}

// mix spreads the bits of an FNV sum, whose last octets hardly reach the top.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

// Acquire books a connection to addr. The error, an ErrNotTried, says that
// MaxConns are booked; otherwise Release must follow.
func (s *Set) Acquire(addr string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.members[s.index(addr)]
	if s.cfg.MaxConns > 0 && m.Conns >= s.cfg.MaxConns {
		return fmt.Errorf("%d connections to %s are open, its limit (%w)", m.Conns, addr, ErrNotTried)
	}
	m.Conns++
	return nil
}

// Release gives back what Acquire booked.
func (s *Set) Release(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members[s.index(addr)].Conns--
}

// Mark notes the outcome of an attempt to open a session. How sessions end later
// says nothing here: a client can bring it about, and is not to move the others.
func (s *Set) Mark(addr string, err error, now time.Time) {
	s.update(addr, now, func(m *member) {
		m.Dials++
		if err == nil {
			m.success()
			return
		}
		m.Failed++
		m.failure(err, s.cfg.Cooldown, now)
	})
}

// Dialed notes how long a successful dial took.
func (s *Set) Dialed(addr string, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members[s.index(addr)].DialTime = took
}

// Probed notes the outcome of a check. One that succeeds ends a cooldown; the
// second in a row that fails, or the first of a backend that has failed a
// session, begins one.
func (s *Set) Probed(addr string, took time.Duration, err error, now time.Time) {
	s.update(addr, now, func(m *member) {
		m.Probes++
		m.Probed = now
		if err == nil {
			m.probeErr, m.ProbeTime = 0, took
			m.success()
			return
		}
		m.BadProbes++
		m.LastError = err.Error()
		if m.probeErr++; m.probeErr >= badProbes || m.Failures > 0 {
			m.failure(err, s.cfg.Cooldown, now)
		}
	})
}

func (m *member) success() {
	m.Failures, m.LastError, m.Until = 0, "", time.Time{}
}

func (m *member) failure(err error, cooldown time.Duration, now time.Time) {
	m.Failures++
	m.LastError = err.Error()
	m.Until = now.Add(cooldown << min(m.Failures-1, 3))
}

// update changes a member and tells of a change of its Up.
func (s *Set) update(addr string, now time.Time, change func(*member)) {
	s.mu.Lock()
	m := &s.members[s.index(addr)]
	change(m)
	st := m.at(now)
	changed := st.Up != m.wasUp
	m.wasUp = st.Up
	s.mu.Unlock()
	if changed && s.cfg.Changed != nil {
		s.cfg.Changed(st)
	}
}
