package smb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/backend"
	"github.com/quic-fsgw/quic-fsgw/internal/tcpio"
)

// Policy is how a backend is chosen among several: see package backend.
type Policy = backend.Policy

// The policies.
const (
	Failover = backend.Failover
	Sticky   = backend.Sticky
)

// BackendState is what is known of a backend.
type BackendState = backend.State

// BackendsConfig says where SMB servers are.
type BackendsConfig struct {
	Addrs       []string           // host:port, at least one, in order of preference
	Policy      Policy             // default Failover
	DialTimeout time.Duration      // for each backend: default 5 s
	Cooldown    time.Duration      // how long a failed backend is tried last: see backend.Config
	MaxConns    int                // sessions on one backend at a time; 0: no bound
	Proxy       bool               // probes begin with a PROXY protocol header, as the backends expect it
	Changed     func(BackendState) // called when a backend fails or works again; nil: nobody
}

// Backends is a set of SMB servers reached over TCP. Nothing is dialed in
// advance. Safe for use by many goroutines.
type Backends struct {
	*backend.Set
	cfg    BackendsConfig
	dialer tcpio.Dialer
}

// NewBackends checks cfg and fills in its defaults.
func NewBackends(cfg BackendsConfig) (*Backends, error) {
	set, err := backend.NewSet(backend.Config{Addrs: cfg.Addrs, Policy: cfg.Policy, Cooldown: cfg.Cooldown, MaxConns: cfg.MaxConns, Changed: cfg.Changed})
	if err != nil {
		return nil, fmt.Errorf("smb: %w", err)
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 5 * time.Second
	}
	b := &Backends{Set: set, cfg: cfg}
	// A backend that vanishes without a word is noticed in about a minute.
	b.dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}
	return b, nil
}

// Dial connects to a backend for the client named key, trying one after the
// other, those that failed lately last. It returns after at most DialTimeout for
// each backend, or when ctx ends.
func (b *Backends) Dial(ctx context.Context, key string) (net.Conn, string, error) {
	var conn net.Conn
	addr, err := b.Each(ctx, key, func(ctx context.Context, addr string) (err error) {
		conn, err = b.dial(ctx, addr, nil)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("smb: %w", err)
	}
	return conn, addr, nil
}

// dial connects to one backend and sends it header, if there is one, before
// anything else.
func (b *Backends) dial(ctx context.Context, addr string, header []byte) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.DialTimeout)
	defer cancel()
	start := time.Now()
	conn, err := b.dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	b.Dialed(addr, time.Since(start))
	if len(header) == 0 {
		return conn, nil
	}
	err = withDeadline(ctx, conn, b.cfg.DialTimeout, func() error {
		_, err := conn.Write(header)
		return err
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("PROXY header: %w", err)
	}
	return conn, nil
}

// blame finds out whose fault it is that a backend did not answer a client's
// NEGOTIATE: one that answers the gateway's own is not at fault. Otherwise a client
// could have a server marked as failed, and send all others elsewhere.
func (b *Backends) blame(ctx context.Context, addr string, err error) error {
	_, perr := probeNegotiate(ctx, func(ctx context.Context) (net.Conn, error) { return b.dial(ctx, addr, b.localHeader()) }, ProbeConfig{Timeout: b.cfg.DialTimeout})
	if perr != nil {
		return err
	}
	return fmt.Errorf("%w, and not this NEGOTIATE: %w", backend.ErrHealthy, err)
}

// localHeader is the PROXY header of the gateway's own connections, where backends expect one.
func (b *Backends) localHeader() []byte {
	if !b.cfg.Proxy {
		return nil
	}
	return backend.AppendProxyLocal(nil)
}

// Check probes the backend at addr and marks it by the outcome. It also makes
// the offer that no server may accept on TCP.
func (b *Backends) Check(ctx context.Context, addr string, cfg ProbeConfig) (ProbeResult, error) {
	start := time.Now()
	res, err := b.CheckBackend(ctx, addr, cfg)
	if !errors.Is(ctx.Err(), context.Canceled) { // a check that took too long has failed
		b.Probed(addr, time.Since(start), err, time.Now())
	}
	return res, err
}
