package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/forward"
	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/gateway/upcall"
	"github.com/quic-fsgw/quic-fsgw/internal/backend"
	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/smb"
)

// ALPN names of the services.
const (
	alpnSMB = "smb"
	alpnRPC = "sunrpc"
)

// smbWindow is the initial receive window on "smb". Samba's client aborts on an
// assertion when a send blocks, and keeps up to 16 MiB outstanding.
const smbWindow = 32 << 20

// A table is one compiled configuration.
type table struct {
	cfg        *config.Config
	generation uint64
	routes     map[*config.Route]*route
	forwards   bool               // some route gives connections to another process
	stopChecks context.CancelFunc // of its backends
	keys       [][32]byte         // quic.address_keys
}

// A route is a compiled route.
type route struct {
	name  string
	kind  string
	alpn  string
	conf  *config.Route
	rule  *access.Rule
	quic  *quic.Config
	table *table

	smb      *smb.Relay
	nfs      *nfs.Service
	check    check
	shares   access.IdentityMap // SMB: the UID is an index of share_map
	identity access.IdentityMap
	rows     access.IdentityMap // NFS: the UID is an index of exports
	exports  []nfs.Exports      // of the rows of identity
	subsets  [][]string         // NFS: backends of the rows of identity
	squash   *nfs.Identity      // nil: refuse whom no row matches
}

// compile builds everything a configuration needs, or nothing.
func (g *Gateway) compile(cfg *config.Config, generation uint64) (*table, error) {
	t := &table{cfg: cfg, generation: generation, routes: make(map[*config.Route]*route), stopChecks: func() {}}
	for i := range cfg.Routes {
		rc := &cfg.Routes[i]
		r, err := g.compileRoute(t, rc)
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", rc.Name, err)
		}
		t.routes[rc] = r
		t.forwards = t.forwards || rc.Forward != nil
	}
	if name := cfg.QUIC.AddressKeys; name != "" {
		var err error
		if t.keys, err = config.LoadAddressKeys(string(name)); err != nil {
			return nil, fmt.Errorf("quic.address_keys: %w", err)
		}
	}
	return t, nil
}

func (g *Gateway) compileRoute(t *table, rc *config.Route) (*route, error) {
	r := &route{name: rc.Name, kind: rc.Kind(), conf: rc, table: t, rule: access.Public()}
	ar, named := t.cfg.Access[rc.Access]
	if named {
		r.rule = ar.Rule
	}
	var err error
	switch {
	case rc.SMB != nil:
		r.alpn = alpnSMB
		err = r.compileSMB(rc.SMB, g.backendChanged(rc.Name))
	case rc.NFS != nil:
		r.alpn = alpnRPC
		err = r.compileNFS(t.cfg, rc.NFS, g.log)
	default: // the other process's handshake, rules and settings
		r.alpn = rc.Match.ALPN
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	r.quic = transportConfig(&t.cfg.QUIC)
	r.quic.Handshaker, r.quic.NextProtos, r.quic.Tag, r.quic.ManualAdmit, r.quic.Logger = g.opts.Handshaker, []string{r.alpn}, r, true, g.log
	r.quic.MaxStreamsUni = -1
	if r.alpn == alpnRPC {
		r.quic.Versions = []quic.Version{quic.Version1} // the protocol's draft is written for version 1
	}
	if r.alpn == alpnSMB {
		r.quic.MaxStreamsBidi = 1
		r.quic.StreamWindow, r.quic.ConnWindow = smbWindow, smbWindow
	}
	policy := &upcall.Policy{Route: rc.Name, Mode: r.rule.Mode, Rules: rulesHash(t.cfg, rc)}
	if ar.OwnTrust() {
		policy.CASet = rc.Access
	}
	r.quic.HandshakeOptions = policy
	return r, nil
}

// adopt takes over what old has learnt of the backends of routes that it has, too.
func (t *table) adopt(old *table) {
	for _, was := range old.routes {
		for _, r := range t.routes {
			switch {
			case r.name != was.name:
			case r.smb != nil && was.smb != nil:
				r.smb.Backends.Adopt(was.smb.Backends.Set)
			case r.nfs != nil && was.nfs != nil:
				r.nfs.Adopt(was.nfs)
			}
		}
	}
}

// rulesHash identifies what decides who may use a route, so that a session
// ticket issued under other rules is refused.
func rulesHash(cfg *config.Config, rc *config.Route) string {
	b, err := json.Marshal([]any{rc.Name, rc.Match, rc.Access, cfg.Access[rc.Access], cfg.Tags, cfg.Tlshd.ClientCA, cfg.Tlshd.CRL})
	if err != nil {
		return rc.Name // cannot happen: plain data
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// policyOf reads the key policy.
func policyOf(name string) backend.Policy {
	if name == "sticky" {
		return backend.Sticky
	}
	return backend.Failover
}

func (r *route) compileSMB(c *config.SMB, changed func(backend.State)) error {
	b, err := smb.NewBackends(smb.BackendsConfig{Addrs: c.Backends, Policy: policyOf(c.Policy), MaxConns: c.Limits.Connections, Proxy: c.Proxy == "v2", Changed: changed})
	if err != nil {
		return err
	}
	dialect, err := smb.ParseDialect(c.MinDialect)
	if err != nil {
		return err
	}
	protection, err := smb.ParseProtection(c.Protection)
	if err != nil {
		return err
	}
	r.smb = &smb.Relay{Backends: b, Options: smb.Options{
		MaxMessage: int(c.MaxMessage), MinDialect: dialect, Protection: protection, KerberosOnly: c.NTLM == "deny", AllowNamedPipes: c.NamedPipes == "allow", Shares: c.Shares, CleanClose: cleanClose,
	}}
	for i := range c.ShareMap {
		r.shares = append(r.shares, access.MapEntry{Match: c.ShareMap[i].Matcher, Unix: access.Unix{UID: uint32(i)}})
	}
	return r.checkSMB(c)
}

func (r *route) compileNFS(cfg *config.Config, c *config.NFS, log *slog.Logger) error {
	s, err := nfs.NewService(nfs.Config{
		Backends: c.Backends, Policy: policyOf(c.Policy), Exports: c.Exports, V4Exports: c.V4Exports,
		Ports: nfs.Ports{Mount: uint16(c.Ports.Mount), Portmap: uint16(c.Ports.Portmap), NLM: uint16(c.Ports.NLM),
			NSM: uint16(c.Ports.NSM), Rquota: uint16(c.Ports.Rquota)},
		AllowGSS: c.GSS == "pass", PrivilegedPort: c.PrivilegedPort, MaxConns: c.Limits.Connections, Proxy: c.Proxy == "v2",
		Logger: log.With("route", r.name),
	})
	if err != nil {
		return err
	}
	r.nfs = s
	var rows []config.MapRow
	if c.Identity.MapFile != "" {
		if rows, err = cfg.LoadMapFile(c.Identity.MapFile); err != nil {
			return err
		}
	}
	r.identity = c.Identity.Compile(rows)
	for i, row := range slices.Concat(c.Identity.Map, rows) {
		e, err := nfs.ParseExports(row.Exports)
		if err != nil {
			return err
		}
		if err := row.CheckBackends(c); err != nil {
			return fmt.Errorf("map_file: %w", err)
		}
		r.exports = append(r.exports, e)
		r.subsets = append(r.subsets, row.Backends)
		r.rows = append(r.rows, access.MapEntry{Match: row.Matcher, Unix: access.Unix{UID: uint32(i)}})
	}
	if err := r.checkNFS(c); err != nil {
		return err
	}
	if c.Identity.Otherwise == "squash" {
		r.squash, err = nfs.NewIdentity(uint32(c.Identity.SquashUID), uint32(c.Identity.SquashGID), nil, nfs.RootRefused)
	}
	return err
}

// quicVersions are the values of quic.versions.
var quicVersions = map[string]quic.Version{"v1": quic.Version1, "v2": quic.Version2}

// transportConfig is the part of a quic.Config that the file sets.
func transportConfig(q *config.QUIC) *quic.Config {
	c := &quic.Config{
		HandshakeTimeout: time.Duration(q.Handshake), MaxIdleTimeout: time.Duration(q.IdleTimeout), KeepAlive: time.Duration(q.Keepalive), MaxUDPPayload: int(q.MaxUDPPayload),
	}
	c.Congestion, _ = quic.ParseCongestion(q.Congestion) // the schema allows no other names
	for _, v := range q.Versions {
		c.Versions = append(c.Versions, quicVersions[v])
	}
	switch q.Retry {
	case "always":
		c.Retry = quic.RetryAlways
	case "auto":
		c.Retry = quic.RetryAuto
	}
	return c
}

// baseConfig is the configuration of a connection that is not routed yet.
func (g *Gateway) baseConfig(cfg *config.Config, e *endpoint) *quic.Config {
	c := transportConfig(&cfg.QUIC)
	c.Handshaker, c.Logger, c.Qlog = g.opts.Handshaker, g.log, g.traces
	c.RetryAbove = cfg.Limits.HandshakesPerSecond / 2
	if c.AddressKeys = g.table.Load().keys; c.AddressKeys == nil {
		c.ResetKey = g.opts.ResetKey
	}
	c.GetConfigForClient = func(h *quic.ClientHelloInfo) (*quic.Config, error) { return g.routeHello(e, h) }
	return c
}

// routeHello picks the route of a ClientHello. It runs under the connection's lock.
func (g *Gateway) routeHello(e *endpoint, h *quic.ClientHelloInfo) (*quic.Config, error) {
	if g.draining.Load() {
		return nil, refused(reason.Draining)
	}
	r, known := g.find(e.addr, h.ALPN, h.ServerName)
	if r == nil {
		if known {
			return nil, &quic.AlertError{Alert: quic.AlertUnrecognizedName, Reason: reason.UnrecognizedName.Name}
		}
		return nil, &quic.AlertError{Alert: quic.AlertNoApplicationProtocol, Reason: reason.NoApplicationProtocol.Name}
	}
	if err := g.limits.handshake(h.Remote.Addr(), time.Now()); err != nil {
		return nil, err
	}
	if r.conf.Forward != nil {
		return nil, refused(reason.ConnectionLimit) // it came past the forwarder because a limit was reached then
	}
	return r.quic, nil
}

// forwardTo is the process that a connection is given to, if it is not this
// one. Who is refused is left to the endpoint, which says so.
func (g *Gateway) forwardTo(e *endpoint, h *forward.Hello) netip.AddrPort {
	r, _ := g.find(e.addr, h.ALPN, h.ServerName)
	if r == nil || r.conf.Forward == nil || g.draining.Load() || g.limits.handshake(h.Remote.Addr(), time.Now()) != nil {
		return netip.AddrPort{}
	}
	g.metrics.connections.With(r.name, "forwarded").Inc()
	return r.conf.Forward.UDP.AddrPort()
}

// find returns the route of a connection; known tells whether some route
// serves one of the protocols, under another name.
func (g *Gateway) find(addr config.Addr, alpn []string, name string) (r *route, known bool) {
	t := g.table.Load()
	rc := t.cfg.Route(addr, alpn, name)
	if rc == nil {
		for _, x := range t.routes {
			for _, p := range alpn {
				known = known || p == x.alpn
			}
		}
		return nil, known
	}
	return t.routes[rc], true
}

// identityOf is the Unix identity of a client, nil to refuse every call. A row of
// the configuration counts before what the client's certificate says of itself.
func (r *route) identityOf(v *access.Verdict) (*nfs.Identity, error) {
	if u, ok := r.identity.Lookup(v.Chain); ok {
		root := nfs.RootRefused
		if u.UID == 0 || u.GID == 0 {
			root = nfs.RootAllowed // written out in the configuration, never by default
		}
		return nfs.NewIdentity(u.UID, u.GID, u.Groups, root)
	}
	id := &r.conf.NFS.Identity
	if id.AuthSys == nil {
		return r.squash, nil
	}
	u, ok, err := v.Chain.AuthSys(id.AuthSys, uint32(id.SquashGID))
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return r.squash, nil
	case int64(u.UID) < int64(id.AuthSysMin):
		return nil, fmt.Errorf("the certificate carries uid %d, and auth_sys_min_uid is %d", u.UID, id.AuthSysMin)
	}
	return nfs.NewIdentity(u.UID, u.GID, u.Groups, nfs.RootRefused)
}

// exportsOf is what a client may mount.
func (r *route) exportsOf(v *access.Verdict) nfs.Exports {
	if row, ok := r.rows.Lookup(v.Chain); ok && len(r.exports[row.UID]) > 0 {
		return r.exports[row.UID]
	}
	return r.nfs.Exports()
}

// sharesOf is what a client may use, where that can be seen; none means all.
func (r *route) sharesOf(v *access.Verdict) []string {
	if row, ok := r.shares.Lookup(v.Chain); ok && len(r.conf.SMB.ShareMap[row.UID].Shares) > 0 {
		return r.conf.SMB.ShareMap[row.UID].Shares
	}
	return r.conf.SMB.Shares
}

// backendsOf are those of the route's that a client may have; none means all.
func (r *route) backendsOf(v *access.Verdict) []string {
	if r.smb != nil {
		if row, ok := r.shares.Lookup(v.Chain); ok {
			return r.conf.SMB.ShareMap[row.UID].Backends
		}
		return nil
	}
	if row, ok := r.rows.Lookup(v.Chain); ok {
		return r.subsets[row.UID]
	}
	return nil
}

// advertised is the address that the portmapper names to a client.
func advertised(c *quic.Conn) netip.AddrPort {
	a, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return netip.AddrPort{}
	}
	return a
}
