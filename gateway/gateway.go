// Package gateway joins the parts: connections from the QUIC endpoint are
// routed by application protocol and server name, judged by their certificate,
// and bridged to SMB and NFS servers.
//
// The way of a connection, one file a step:
//
//  1. routes.go: the ClientHello picks a route, and with it the transport
//     settings and what the handshake asks of the client.
//  2. session.go: after TLS the route is checked again against what TLS says,
//     the access rule judges the certificate, and only then is the connection
//     admitted.
//  3. bridge.go: its streams are relayed to a backend, which is dialled now
//     and not before.
//  4. reload.go and drain.go: new rules apply to live connections at once; a
//     gateway that stops lets sessions end first.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/forward"
	"github.com/quic-fsgw/quic-fsgw/gateway/upcall"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/qlog"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// Options are what a Gateway gets from its process.
type Options struct {
	Handshaker quic.Handshaker
	Logger     *slog.Logger // nil: slog.Default()
	Access     *slog.Logger // a line for each connection that ended; nil: none
	Audit      *slog.Logger // a line for each verdict; nil: none
	Registry   *admin.Registry
	// Trust judges chains of live connections again when it changes: call
	// Recheck then. nil: they are judged in the handshake only.
	Trust *upcall.Trust
	// ResetKey makes the tokens of stateless resets. With the same key as the
	// process before it, a gateway tells the clients of that one at once that
	// their connections are gone. nil: one of its own.
	ResetKey *[32]byte
}

// A Listener is the sockets of one address of the configuration.
type Listener struct {
	Addr  config.Addr
	Group *udp.Group
}

// A Gateway serves one configuration at a time. It is safe for use by many goroutines.
type Gateway struct {
	opts      Options
	log       *slog.Logger
	metrics   *metrics
	limits    *limiter
	meters    meters
	throttles throttles
	refusals  refusals
	memory    memory
	table     atomic.Pointer[table]
	started   time.Time
	traces    *qlog.Tracer // nil: none

	endpoints []*endpoint
	draining  atomic.Bool
	stop      context.CancelCauseFunc
	ctx       context.Context
	accepts   sync.WaitGroup // accept loops
	checks    sync.WaitGroup // of backends
	work      sync.WaitGroup // sessions

	mu       sync.Mutex
	sessions map[*session]struct{}
	idle     chan struct{} // closed when draining and no session is left
}

// endpoint is a QUIC endpoint and the address it stands for.
type endpoint struct {
	*quic.Endpoint
	addr    config.Addr
	group   *udp.Group
	forward *forward.Forwarder // nil: no route needs it
}

func (e *endpoint) sockets() []*udp.Socket { return e.group.Sockets() }

var errShutdown = errors.New("gateway: shut down")

// New makes a gateway that serves cfg on the listeners, which belong to it from
// now on. It accepts connections at once.
func New(cfg *config.Config, listeners []Listener, opts Options) (*Gateway, error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Registry == nil {
		opts.Registry = admin.NewRegistry()
	}
	g := &Gateway{opts: opts, log: opts.Logger, sessions: make(map[*session]struct{}), idle: make(chan struct{}), started: time.Now()}
	g.ctx, g.stop = context.WithCancelCause(context.Background())
	g.configureDelays(cfg)
	g.refusals.register(opts.Registry)
	g.opts.Handshaker = lateHandshaker{timed(opts.Handshaker, opts.Registry), &g.refusals}
	var err error
	if g.traces, err = openTraces(&cfg.Log, g.log); err != nil {
		return nil, err
	}
	t, err := g.compile(cfg, 1)
	if err != nil {
		return nil, errors.Join(err, g.traces.Close())
	}
	g.table.Store(t)
	g.limits = newLimiter(&cfg.Limits)
	g.metrics = newMetrics(opts.Registry, g) // before a packet can come in
	g.meters.configure(t)
	for _, l := range listeners {
		e := &endpoint{addr: l.Addr, group: l.Group}
		if t.forwards {
			e.forward = forward.New(func(h *forward.Hello) netip.AddrPort { return g.forwardTo(e, h) }, cfg.Limits.Connections)
		}
		conns := make([]udp.PacketConn, 0, l.Group.Shards())
		for _, s := range l.Group.Sockets() {
			if e.forward != nil {
				conns = append(conns, e.forward.Wrap(s))
			} else {
				conns = append(conns, s)
			}
		}
		e.Endpoint = quic.NewEndpoint(conns, g.baseConfig(cfg, e), quic.WithLayout(l.Group.Layout()), quic.WithMemory(int64(cfg.Limits.Memory)/int64(len(listeners))), quic.WithRest(releaseMemory))
		if e.forward != nil {
			e.forward.SetEndpoint(e.Knows)
		}
		g.endpoints = append(g.endpoints, e)
	}
	g.startChecks(t)
	for _, e := range g.endpoints {
		g.accepts.Add(2)
		go g.acceptLoop(e)
		go g.failureLoop(e)
	}
	return g, nil
}

func (g *Gateway) acceptLoop(e *endpoint) {
	defer g.accepts.Done()
	for {
		c, err := e.Accept(g.ctx)
		if err != nil {
			return
		}
		g.work.Add(1)
		go func() {
			defer g.work.Done()
			g.serve(e, c)
		}()
	}
}

// failureLoop reports handshakes that never became connections.
func (g *Gateway) failureLoop(e *endpoint) {
	defer g.accepts.Done()
	for {
		select {
		case f := <-e.Failures():
			g.onHandshakeFailure(f)
		case <-g.ctx.Done():
			return
		}
	}
}

// Close ends every session and closes the sockets. It waits until all
// goroutines of the gateway have ended, or ctx is done.
func (g *Gateway) Close(ctx context.Context) error {
	g.refuseNew()
	g.mu.Lock()
	g.stop(errShutdown)
	g.mu.Unlock()
	for _, s := range g.live() {
		go g.unpark(s)
	}
	defer g.memory.busy() // no timer is left behind
	done := make(chan struct{})
	go func() {
		g.work.Wait()
		g.checks.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	var err error
	for _, e := range g.endpoints {
		err = errors.Join(err, e.Close(ctx))
		if e.forward != nil {
			e.forward.Close()
		}
	}
	g.accepts.Wait()
	return errors.Join(err, g.traces.Close())
}

// Healthy is nil while the gateway works.
func (g *Gateway) Healthy() error { return context.Cause(g.ctx) }

// Ready is nil while new connections are welcome.
func (g *Gateway) Ready() error {
	if g.draining.Load() {
		return errors.New("draining")
	}
	return context.Cause(g.ctx)
}
