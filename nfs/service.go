package nfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/backend"
)

// Ports are the TCP ports of a backend's side programs. 0 means: see the field.
type Ports struct {
	Mount   uint16 // mountd; 0: the backend's portmapper is asked
	Portmap uint16 // the backend's portmapper; 0: 111
	NLM     uint16 // lock manager; 0: PROG_UNAVAIL. GRANTED callbacks never reach a client.
	NSM     uint16 // status monitor; 0: PROG_UNAVAIL
	Rquota  uint16 // remote quotas; 0: PROG_UNAVAIL
}

// Config describes the NFS service behind one route. Durations and counts of zero mean the default.
type Config struct {
	// Backends are host:port of NFS servers. A new connection takes one by Policy and stays
	// with it. Several are of use only if each knows the file handles of the others, as the heads of a
	// cluster do.
	Backends []string
	Policy   backend.Policy // default backend.Failover
	// Proxy begins every connection to a backend with a PROXY protocol header.
	Proxy bool
	Ports Ports
	// Exports are the roots that clients may MOUNT, with all below them; none: all.
	Exports []string
	// V4Exports are the paths that the first LOOKUPs of an NFSv4 client may lead to, with all below
	// them; none: all. They are paths of the server's NFSv4 tree, which MOUNT may name otherwise.
	V4Exports []string
	// AllowGSS passes RPCSEC_GSS calls of NFS through unchanged instead of refusing them.
	AllowGSS bool
	// PrivilegedPort dials from a port below 1024, which exports with "secure" ask for.
	PrivilegedPort bool
	Limits         Limits

	DialTimeout  time.Duration // one attempt to reach one backend; default 5 s
	IdleTimeout  time.Duration // no byte either way on a stream; default 10 min
	DrainTimeout time.Duration // replies still due after the client's FIN; default 30 s

	MaxStreams  int // concurrent streams of the service; default 10000
	MaxConns    int // of them to one backend; 0: no other bound
	MaxBackends int // concurrent TCP connections to backends; default 10000

	// Dial replaces the TCP dialer. network is "tcp".
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Logger *slog.Logger // nil: slog.Default()
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.DialTimeout, 5*time.Second)
	def(&c.IdleTimeout, 10*time.Minute)
	def(&c.DrainTimeout, 30*time.Second)
	if c.MaxStreams <= 0 {
		c.MaxStreams = 10000
	}
	if c.MaxBackends <= 0 {
		c.MaxBackends = 10000
	}
	if c.Ports.Portmap == 0 {
		c.Ports.Portmap = 111
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Limits = c.Limits.withDefaults()
	return c
}

// Service is the NFS service of one route, shared by its connections. It is safe for concurrent use.
type Service struct {
	cfg      Config
	exports  Exports
	v4       Exports
	programs []program // those that are served
	set      *backend.Set
	targets  []*target
	log      *slog.Logger
	stats    *counters
}

// counters are updated by all streams; Stats reads them.
type counters struct {
	streams, conns               atomic.Int64
	streamsTotal                 atomic.Uint64
	dials, dialErrors, dialNanos atomic.Uint64
	calls, replies               atomic.Uint64
	answered, refused, discarded atomic.Uint64
	bytesUp, bytesDown           atomic.Uint64
	resets, callbacks            atomic.Uint64
	overloads, backendLosses     atomic.Uint64
}

// Stats is a reading of a Service's counters. All but Streams and Conns only grow.
type Stats struct {
	Streams      int64         // streams being served
	Conns        int64         // TCP connections to backends
	StreamsTotal uint64        // streams ever served
	Dials        uint64        // attempts to dial a backend
	DialErrors   uint64        // of them failed
	DialTime     time.Duration // time all of them took
	Calls        uint64        // calls forwarded
	Replies      uint64        // replies forwarded
	Answered     uint64        // calls answered here with success (portmapper, MOUNT)
	Refused      uint64        // calls answered here with an error
	Discarded    uint64        // messages of the wrong direction
	BytesUp      uint64        // bytes to backends
	BytesDown    uint64        // bytes from backends
	Callbacks    uint64        // calls that backends made
	Resets       uint64        // streams ended with a code other than 0
	Overloads    uint64        // of them because of a limit
	BackendLost  uint64        // of them because a backend failed
}

// Stats reads the counters.
func (s *Service) Stats() Stats {
	c := s.stats
	return Stats{
		Streams: c.streams.Load(), Conns: c.conns.Load(), StreamsTotal: c.streamsTotal.Load(),
		Dials: c.dials.Load(), DialErrors: c.dialErrors.Load(), DialTime: time.Duration(c.dialNanos.Load()),
		Calls: c.calls.Load(), Replies: c.replies.Load(), Answered: c.answered.Load(),
		Refused: c.refused.Load(), Discarded: c.discarded.Load(),
		BytesUp: c.bytesUp.Load(), BytesDown: c.bytesDown.Load(), Callbacks: c.callbacks.Load(), Resets: c.resets.Load(),
		Overloads: c.overloads.Load(), BackendLost: c.backendLosses.Load(),
	}
}

// NewService checks the configuration. It dials nothing.
func NewService(cfg Config) (*Service, error) {
	cfg = cfg.withDefaults()
	e, err := ParseExports(cfg.Exports)
	if err != nil {
		return nil, err
	}
	v4, err := ParseExports(cfg.V4Exports)
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, exports: e, v4: v4, log: cfg.Logger, stats: new(counters)}
	if len(cfg.Backends) == 0 {
		return nil, errors.New("nfs: no backend given (hint: backends: [\"host:2049\"])")
	}
	for _, address := range cfg.Backends {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("nfs: backend %q: %w (hint: host:port, NFS is 2049)", address, err)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || host == "" {
			return nil, fmt.Errorf("nfs: backend %q is not host:port with a port of 1 to 65535", address)
		}
		b := &target{addr: address, host: host}
		b.ports = [numServices]uint16{uint16(n), cfg.Ports.Mount, cfg.Ports.NLM, cfg.Ports.NSM, cfg.Ports.Rquota}
		s.targets = append(s.targets, b)
	}
	if s.set, err = backend.NewSet(backend.Config{Addrs: cfg.Backends, Policy: cfg.Policy, MaxConns: cfg.MaxConns, Changed: s.changed}); err != nil {
		return nil, fmt.Errorf("nfs: %w", err)
	}
	for _, p := range programs {
		if p.service == serviceNFS || p.service == serviceMount || s.targets[0].ports[p.service] != 0 {
			s.programs = append(s.programs, p)
		}
	}
	return s, nil
}

// program finds a served program.
func (s *Service) program(number uint32) (program, bool) {
	for _, p := range s.programs {
		if p.number == number {
			return p, true
		}
	}
	return program{}, false
}

// Programs returns the numbers of the programs that are served.
func (s *Service) Programs() []uint32 {
	var all []uint32
	for _, p := range s.programs {
		all = append(all, p.number)
	}
	return all
}

// Adopt takes over what old knows of its backends and what it has counted.
// Its streams, which go on, and those of s count together from now on.
func (s *Service) Adopt(old *Service) {
	s.set.Adopt(old.set)
	s.stats = old.stats
}

// Backends returns what is known of the backends, in the order of the list.
func (s *Service) Backends() []backend.State { return s.set.State() }

// Exports returns the roots of Config.Exports.
func (s *Service) Exports() Exports { return s.exports }

// Relay makes the relay of one client connection. It may mount what
// Config.Exports has, until SetExports says otherwise.
func (s *Service) Relay(c Client) *Relay {
	r := &Relay{svc: s, client: c}
	r.SetExports(s.exports)
	return r
}
