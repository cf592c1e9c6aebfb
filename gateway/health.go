package gateway

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/internal/backend"
	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/smb"
)

// A check probes one backend of a route. The outcome is kept by the route's
// backend.Set, beside what sessions find out.
type check struct {
	interval, timeout time.Duration // interval 0: no checks
	run               func(ctx context.Context, addr string) error
}

// startChecks probes the backends of a table until stopChecks. It does nothing
// once the gateway is closed.
func (g *Gateway) startChecks(t *table) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(g.ctx)
	t.stopChecks = cancel
	for _, r := range t.routes {
		if r.check.interval <= 0 {
			continue
		}
		for _, b := range r.backends() {
			g.checks.Add(1)
			go func() {
				defer g.checks.Done()
				g.checkLoop(ctx, r, b.Addr)
			}()
		}
	}
}

// checkLoop probes a backend at once and then every interval, give or take a
// tenth, so that gateways started together do not probe together for ever.
func (g *Gateway) checkLoop(ctx context.Context, r *route, addr string) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		tctx, cancel := context.WithTimeout(ctx, r.check.timeout)
		if err := r.check.run(tctx, addr); err != nil && ctx.Err() == nil {
			g.log.Debug("backend check failed", "route", r.name, "backend", addr, "error", err)
		}
		cancel()
		timer.Reset(r.check.interval*9/10 + rand.N(r.check.interval/5+1))
	}
}

// backends is what is known of a route's servers.
func (r *route) backends() []backend.State {
	switch {
	case r.smb != nil:
		return r.smb.Backends.State()
	case r.nfs != nil:
		return r.nfs.Backends()
	}
	return nil
}

// backendChanged logs that a backend has failed or works again.
func (g *Gateway) backendChanged(route string) func(backend.State) {
	return func(st backend.State) {
		attrs := []slog.Attr{slog.String("route", route), slog.String("backend", st.Addr)}
		if st.Up {
			g.log.LogAttrs(context.Background(), slog.LevelInfo, "backend works again", attrs...)
			return
		}
		g.log.LogAttrs(context.Background(), slog.LevelWarn, "backend failed", append(attrs, slog.String("error", st.LastError))...)
	}
}

// checkSMB makes the check of an SMB route.
func (r *route) checkSMB(c *config.SMB) error {
	pc := smb.ProbeConfig{User: c.Probe.User, Share: c.Probe.Share, Timeout: time.Duration(c.Probe.Timeout)}
	if c.Probe.PasswordFile != "" {
		b, err := r.table.cfg.ReadFile(c.Probe.PasswordFile)
		if err != nil {
			return err
		}
		pc.Password, _, _ = strings.Cut(string(b), "\n")
		pc.Password = strings.TrimSuffix(pc.Password, "\r")
	}
	for _, n := range r.conf.Match.ServerName {
		if !strings.HasPrefix(n, "*") {
			pc.Host = n // as clients call it
			break
		}
	}
	r.check = check{time.Duration(c.Probe.Interval), time.Duration(c.Probe.Timeout), func(ctx context.Context, addr string) error {
		pc := pc
		if pc.Host == "" {
			pc.Host, _, _ = net.SplitHostPort(addr)
		}
		_, err := r.smb.Backends.Check(ctx, addr, pc)
		return err
	}}
	return nil
}

// checkNFS makes the check of an NFS route.
func (r *route) checkNFS(c *config.NFS) error {
	id, err := nfs.NewIdentity(uint32(c.Identity.SquashUID), uint32(c.Identity.SquashGID), nil, nfs.RootRefused)
	if err != nil {
		return err
	}
	r.check = check{time.Duration(c.Probe.Interval), time.Duration(c.Probe.Timeout), func(ctx context.Context, addr string) error {
		_, err := r.nfs.Check(ctx, addr, c.Probe.Export, id)
		return err
	}}
	return nil
}
