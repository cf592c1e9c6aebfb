package smb

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/tcpio"
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

// BackendsConfig says where SMB servers are.
type BackendsConfig struct {
	Addrs       []string      // host:port, at least one, in order of preference
	Policy      Policy        // default Failover
	DialTimeout time.Duration // for each backend: default 5 s
	Cooldown    time.Duration // how long a failed backend is tried last: default 10 s, doubled by each further failure up to 8 times that
}

// Backends is a set of SMB servers reached over TCP. Nothing is dialed in
// advance and nothing is probed: a backend is marked by what happens to the
// sessions it gets. Safe for use by many goroutines.
type Backends struct {
	cfg    BackendsConfig
	dialer tcpio.Dialer

	mu    sync.Mutex
	state []BackendState
}

// BackendState is what is known of a backend.
type BackendState struct {
	Addr      string
	Up        bool          // false: its cooldown has not passed
	Until     time.Time     // end of the cooldown
	Failures  int           // in a row
	LastError string        // of the last failure, "" after a success
	DialTime  time.Duration // of the last successful dial
	Dials     int64
	Failed    int64
}

// NewBackends checks cfg and fills in its defaults.
func NewBackends(cfg BackendsConfig) (*Backends, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("smb: no backends (give host:port of at least one SMB server)")
	}
	if cfg.Policy > Sticky {
		return nil, fmt.Errorf("smb: backend policy %d is unknown", cfg.Policy)
	}
	for i, addr := range cfg.Addrs {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("smb: backend %q is not host:port", addr)
		}
		if slices.Contains(cfg.Addrs[:i], addr) {
			return nil, fmt.Errorf("smb: backend %q is listed twice", addr)
		}
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 5 * time.Second
	}
	if cfg.Cooldown <= 0 {
		cfg.Cooldown = 10 * time.Second
	}
	cfg.Addrs = slices.Clone(cfg.Addrs)
	b := &Backends{cfg: cfg, state: make([]BackendState, len(cfg.Addrs))}
	for i, addr := range cfg.Addrs {
		b.state[i].Addr = addr
	}
	// A backend that vanishes without a word is noticed in about a minute.
	b.dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}
	return b, nil
}

// State returns a copy of what is known, in the order of the list.
func (b *Backends) State() []BackendState {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Clone(b.state)
	for i := range out {
		out[i].Up = !out[i].Until.After(now)
	}
	return out
}

// Dial connects to a backend for the client named key (only Sticky looks at
// it), trying one after the other, those that failed lately last. It returns
// after at most DialTimeout for each backend, or when ctx ends.
func (b *Backends) Dial(ctx context.Context, key string) (net.Conn, string, error) {
	var conn net.Conn
	addr, err := b.each(ctx, key, func(ctx context.Context, addr string) (err error) {
		conn, err = b.dial(ctx, addr)
		return err
	})
	return conn, addr, err
}

// dial connects to one backend.
func (b *Backends) dial(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.DialTimeout)
	defer cancel()
	start := time.Now()
	conn, err := b.dialer.DialContext(ctx, "tcp", addr)
	if err == nil {
		b.mu.Lock()
		b.state[b.index(addr)].DialTime = time.Since(start)
		b.mu.Unlock()
	}
	return conn, err
}

// each calls try with one backend after the other until it succeeds, and marks
// them by the outcome.
func (b *Backends) each(ctx context.Context, key string, try func(ctx context.Context, addr string) error) (string, error) {
	var errs []error
	for _, addr := range b.order(key, time.Now()) {
		err := try(ctx, addr)
		if err == nil {
			b.mark(addr, nil, time.Now())
			return addr, nil
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("smb: dial: %w", context.Cause(ctx)) // says nothing about the backend
		}
		b.mark(addr, err, time.Now())
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return "", fmt.Errorf("smb: no backend answers: %w", errors.Join(errs...))
}

// order lists the backends to try: by policy, those in their cooldown last.
func (b *Backends) order(key string, now time.Time) []string {
	addrs := slices.Clone(b.cfg.Addrs)
	if b.cfg.Policy == Sticky {
		// Rendezvous hashing: a backend that comes or goes moves only its own clients.
		weight := func(addr string) uint64 {
			h := fnv.New64a()
			h.Write([]byte(key))
			h.Write([]byte{0})
			h.Write([]byte(addr))
			return mix(h.Sum64())
		}
		slices.SortFunc(addrs, func(x, y string) int {
			if weight(x) > weight(y) {
				return -1
			}
			return 1
		})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	down := func(addr string) int {
		if b.state[b.index(addr)].Until.After(now) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(addrs, func(x, y string) int { return down(x) - down(y) })
	return addrs
}

// mix spreads the bits of an FNV sum, whose last octets hardly reach the top.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

func (b *Backends) index(addr string) int { return slices.Index(b.cfg.Addrs, addr) }

// mark notes the outcome of an attempt.
func (b *Backends) mark(addr string, err error, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &b.state[b.index(addr)]
	s.Dials++
	if err == nil {
		s.Failures, s.LastError, s.Until = 0, "", time.Time{}
		return
	}
	s.Failed++
	s.Failures++
	s.LastError = err.Error()
	s.Until = now.Add(b.cfg.Cooldown << min(s.Failures-1, 3))
}
