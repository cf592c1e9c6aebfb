package gateway

import (
	"errors"
	"fmt"
	"slices"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
)

// Reload serves cfg from now on, or changes nothing and says why. New rules
// hold for live connections at once: those that they refuse are cut. What
// cannot change in a running gateway is an error.
func (g *Gateway) Reload(cfg *config.Config) error {
	old := g.table.Load()
	if !slices.Equal(old.cfg.Listen, cfg.Listen) {
		return errors.New("gateway: reload: listen has changed (restart to apply it)")
	}
	if old.cfg.Admin != cfg.Admin {
		return errors.New("gateway: reload: admin has changed (restart to apply it)")
	}
	t, err := g.compile(cfg, old.generation+1)
	if err != nil {
		return fmt.Errorf("gateway: reload: %w", err)
	}
	if t.forwards && g.endpoints[0].forward == nil {
		return errors.New("gateway: reload: the first forward route was added (restart to apply it)")
	}
	t.adopt(old)
	g.table.Store(t)
	old.stopChecks()
	g.startChecks(t)
	g.limits.configure(&cfg.Limits)
	g.configureDelays(cfg)
	g.meters.configure(t)
	for _, e := range g.endpoints {
		e.SetConfig(g.baseConfig(cfg, e))
	}
	cut := g.reevaluate() + g.Recheck(g.ctx)
	g.log.Info("configuration reloaded", "generation", t.generation, "cut", cut)
	return nil
}

// reevaluate judges live sessions by the rules in force and cuts those that
// are no longer allowed.
func (g *Gateway) reevaluate() int {
	g.mu.Lock()
	live := make([]*session, 0, len(g.sessions))
	for s := range g.sessions {
		live = append(live, s)
	}
	g.mu.Unlock()
	cut := 0
	for _, s := range live {
		if !g.judgeAgain(s) {
			cut++
		}
	}
	return cut
}

// judgeAgain judges a session by the rules in force and reports whether it stays.
func (g *Gateway) judgeAgain(s *session) bool {
	r, _ := g.find(s.addr.addr, []string{s.tls.ALPN}, s.tls.ServerName)
	if r == nil || r.kind != s.route.kind {
		s.cut(reason.RouteRemoved)
		return false
	}
	v := r.rule.Evaluate(*s.chain.Load())
	s.verdict.Store(&v)
	if !v.Allowed {
		g.metrics.verdicts.With(r.rule.Name, string(v.Reason)).Inc()
		g.audit(s, &v)
		s.cut(reason.AccessRevoked)
		return false
	}
	if r.policyOf(&v).narrower(s.policy) {
		s.cut(reason.PolicyChanged)
		return false
	}
	if r.nfs == nil {
		return true
	}
	// Calls under way carry the old identity, and a server remembers it with
	// open files: only a new connection makes the change complete.
	if id, err := r.identityOf(&v); err != nil || !id.Equal(s.identity) {
		s.cut(reason.IdentityChanged)
		return false
	}
	if relay := s.relay.Load(); relay != nil {
		relay.SetExports(r.exportsOf(&v))
	}
	return true
}
