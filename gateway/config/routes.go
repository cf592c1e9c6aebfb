package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
)

func checkRoutes(d *decoder, c *Config) {
	if len(c.Routes) == 0 && (d.written("routes") || c.Client == nil) {
		d.errorAt("routes", "quic-fsgw init writes an example", "at least one route is needed")
	}
	names := map[string]int{}
	for i := range c.Routes {
		r, path := &c.Routes[i], fmt.Sprintf("routes[%d]", i)
		if r.Name != "" && !validName(r.Name) {
			d.errorAt(path+".name", "letters, digits, - and _, at most 64", "%q is not a name", r.Name)
		}
		if first, ok := names[r.Name]; ok && r.Name != "" {
			d.errorAt(path+".name", "", "routes[%d] has the name %s already", first, r.Name)
		}
		names[r.Name] = i
		checkMatch(d, c, path, r)
		checkTarget(d, c, path, r)
	}
	for name := range c.Access {
		if !slices.ContainsFunc(c.Routes, func(r Route) bool { return r.Access == name }) && len(c.Routes) > 0 {
			d.warnAt("access."+name, "", "no route uses this rule")
		}
	}
	warnUnreachable(d, c)
}

func checkMatch(d *decoder, c *Config, path string, r *Route) {
	m := &r.Match
	seen := map[string]bool{}
	for j, n := range m.ServerName {
		norm, err := normalizePattern(n)
		at := path + ".match.server_name"
		if d.written(fmt.Sprintf("%s[%d]", at, j)) {
			at = fmt.Sprintf("%s[%d]", at, j)
		}
		if err != nil {
			d.errorAt(at, "", "%v", err)
			continue
		}
		if seen[norm] {
			d.errorAt(at, "", "%s is given twice", norm)
		}
		seen[norm], m.ServerName[j] = true, norm
	}
	if len(m.ALPN) > 255 {
		d.errorAt(path+".match.alpn", "", "longer than 255 octets")
	}
	for _, a := range m.Listen {
		if !slices.ContainsFunc(c.Listen, func(l Listen) bool { return l.UDP == a }) {
			var known []string
			for _, l := range c.Listen {
				known = append(known, string(l.UDP))
			}
			d.errorAt(path+".match.listen", didYouMean(string(a), known), "%s is not in listen", a)
		}
	}
}

// checkTarget checks that a route leads to one place, and the rules of its kind.
func checkTarget(d *decoder, c *Config, path string, r *Route) {
	n := 0
	for _, set := range []bool{r.SMB != nil, r.NFS != nil, r.Forward != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		d.errorAt(path, "", "needs exactly one of smb, nfs and forward, has %d", n)
		return
	}
	switch {
	case r.SMB != nil:
		checkALPN(d, path, r, "smb")
		checkAccess(d, c, path, r)
		checkBackends(d, path+".smb", r.SMB.Backends, "445")
		if p := r.SMB.Probe; (p.User == "") != (p.PasswordFile == "") {
			d.errorAt(path+".smb.probe", "", "user and password_file go together")
		} else if p.Share != "" && p.User == "" {
			d.errorAt(path+".smb.probe.share", "user and password_file", "a share is connected after a logon, and there is no user")
		}
		checkShares(d, path+".smb.shares", r.SMB.Shares)
		for j := range r.SMB.ShareMap {
			row, at := &r.SMB.ShareMap[j], fmt.Sprintf("%s.smb.share_map[%d]", path, j)
			row.Matcher = compileClient(d, c.tags, at, Matcher{SAN: row.SAN, SHA256: row.SHA256, Tag: row.Tag})
			checkShares(d, at+".shares", row.Shares)
			checkSubset(d, at, row.Backends, r.SMB.Backends, "445")
			if len(row.Shares)+len(row.Backends) == 0 {
				d.errorAt(at, "shares: [NAME]", "needs at least one share or backend")
			}
		}
	case r.NFS != nil:
		checkALPN(d, path, r, "sunrpc")
		checkAccess(d, c, path, r)
		checkBackends(d, path+".nfs", r.NFS.Backends, "2049")
		checkNFS(d, c, path+".nfs", r)
		if !slices.Contains(c.QUIC.Versions, "v1") {
			d.errorAt("quic.versions", "add v1", "route %s needs v1: sunrpc is accepted on v1 only", r.Name)
		}
	default:
		if r.Access != "" {
			d.errorAt(path+".access", "remove it", "a forwarded connection's certificates are the other process's matter")
		}
		to := r.Forward.UDP.AddrPort()
		switch {
		case r.Forward.UDP == "":
		case !to.Addr().IsValid() || to.Addr().IsUnspecified() || to.Port() == 0:
			d.errorAt(path+".forward.udp", "127.0.0.1:8443", "%s is no address to send to", r.Forward.UDP)
		case slices.ContainsFunc(c.Listen, func(l Listen) bool { return l.UDP.AddrPort() == to }):
			d.errorAt(path+".forward.udp", "another port", "%s is one of the gateway's own addresses", r.Forward.UDP)
		}
	}
}

func checkALPN(d *decoder, path string, r *Route, want string) {
	if r.Match.ALPN == "" {
		r.Match.ALPN = want
	}
	if r.Match.ALPN != want {
		d.errorAt(path+".match.alpn", "use "+want, "%s routes are spoken to with %s, not %q", r.Kind(), want, r.Match.ALPN)
	}
}

// checkAccess: a file route says who may use it and under which name.
func checkAccess(d *decoder, c *Config, path string, r *Route) {
	if len(r.Match.ServerName) == 0 && !d.written(path+".match.server_name") {
		d.errorAt(path+".match", "server_name: files.example.com", "a file route must name its server_name")
	} else if len(r.Match.ServerName) == 0 {
		d.errorAt(path+".match.server_name", "", "must have at least one name")
	}
	rule, ok := c.Access[r.Access]
	switch {
	case r.Access == "":
		d.errorAt(path, "access: public has to be written out", "a file route must name its access rule")
		return
	case r.Access == publicRule:
	case !ok:
		known := append(slices.Sorted(maps.Keys(c.Access)), publicRule)
		d.errorAt(path+".access", didYouMean(r.Access, known), "there is no access rule %q", r.Access)
		return
	case rule.ClientCertificate != "none" && len(rule.ClientCA)+len(c.Tlshd.ClientCA) == 0 && c.Tlshd.Mode == "spawn":
		d.errorAt("access."+r.Access, "tlshd.client_ca: [FILE]", "asks for client certificates, but no client_ca says whose")
	}
	if len(c.Tlshd.Certificates)+len(c.fetched()) == 0 {
		return
	}
	for _, name := range r.Match.ServerName {
		if !slices.Contains(c.fetched(), name) && !slices.ContainsFunc(c.Tlshd.Certificates, func(cert Certificate) bool {
			return slices.ContainsFunc(cert.Names, func(n string) bool { return covered(n, name) })
		}) {
			d.warnAt(path+".match.server_name", "", "no certificate is for %s", name)
		}
	}
}

func checkBackends(d *decoder, path string, backends []string, port string) {
	if len(backends) == 0 {
		d.errorAt(path, "backends: [10.0.0.5]", "needs at least one backend")
	}
	for i, b := range backends {
		at := fmt.Sprintf("%s.backends[%d]", path, i)
		norm, err := parseBackend(b, port)
		if err != nil {
			d.errorAt(at, "host:port", "%q: %v", b, err)
			continue
		}
		if slices.Contains(backends[:i], norm) {
			d.errorAt(at, "", "%s is given twice", norm)
		}
		backends[i] = norm
	}
}

// checkSubset checks the backends of a row against those of its route.
func checkSubset(d *decoder, path string, row, route []string, port string) {
	for i, b := range row {
		norm, err := parseBackend(b, port)
		if err != nil || !slices.Contains(route, norm) {
			d.errorAt(fmt.Sprintf("%s.backends[%d]", path, i), didYouMean(b, route), "%q is not among the route's backends", b)
			continue
		}
		row[i] = norm
	}
}

// CheckBackends is checkSubset for the rows of an NFS route's map_file.
func (r *MapRow) CheckBackends(n *NFS) error {
	for i, b := range r.Backends {
		norm, err := parseBackend(b, "2049")
		if err != nil || !slices.Contains(n.Backends, norm) {
			return fmt.Errorf("row of uid %d: %q is not among the route's backends", r.UID, b)
		}
		r.Backends[i] = norm
	}
	return nil
}

func checkExports(d *decoder, path string, exports []string) {
	for i, e := range exports {
		if !strings.HasPrefix(e, "/") || len(e) > 1024 {
			d.errorAt(fmt.Sprintf("%s[%d]", path, i), "", "%q is not an absolute path of at most 1024 octets", e)
		}
	}
}

func checkShares(d *decoder, path string, shares []string) {
	for i, s := range shares {
		if s == "" || len(s) > 80 || strings.ContainsAny(s, `\/`) {
			d.errorAt(fmt.Sprintf("%s[%d]", path, i), "the name alone, without \\\\server\\", "%q is not a share name", s)
		}
	}
}

func checkNFS(d *decoder, c *Config, path string, r *Route) {
	n := r.NFS
	if len(n.Backends) > 1 {
		d.warnAt(path+".backends", "one route and server name each, unless they are the heads of a cluster", "file handles are one server's own: clients that change servers get ESTALE")
	}
	if e := n.Probe.Export; e != "" && (!strings.HasPrefix(e, "/") || len(e) > 1024) {
		d.errorAt(path+".probe.export", "", "%q is not an absolute path of at most 1024 octets", e)
	}
	if n.GSS == "pass" {
		d.warnAt(path+".rpcsec_gss", "", "identity and exports do not bind calls with Kerberos credentials")
	}
	checkExports(d, path+".exports", n.Exports)
	checkExports(d, path+".v4_exports", n.V4Exports)
	id := &n.Identity
	for i := range id.Map {
		at := fmt.Sprintf("%s.identity.map[%d]", path, i)
		compileRow(d, c.tags, at, &id.Map[i])
		checkSubset(d, at, id.Map[i].Backends, n.Backends, "2049")
	}
	if id.AuthSysOID != "" {
		var err error
		if id.AuthSys, err = access.ParseOID(id.AuthSysOID); err != nil {
			d.errorAt(path+".identity.auth_sys_oid", "", "%v", err)
		}
	}
	mapped := len(id.Map) > 0 || id.MapFile != "" || id.AuthSysOID != ""
	rule, ok := c.Access[r.Access]
	certificates := ok && rule.ClientCertificate != "none"
	switch {
	case mapped && !certificates:
		d.warnAt(path+".identity", "", "certificates decide, and access %s asks for none", r.Access)
	case !mapped && id.Otherwise == "refuse":
		d.errorAt(path+".identity", "", "otherwise: refuse without a row or auth_sys_oid refuses everybody")
	}
}

// warnUnreachable names routes, or names of routes, that an earlier route
// takes every connection from.
func warnUnreachable(d *decoder, c *Config) {
	for j := range c.Routes {
		later := &c.Routes[j].Match
		names := later.ServerName
		if len(names) == 0 {
			names = Names{""}
		}
		taken := map[string]string{}
		for _, name := range names {
			for i := range j {
				if later.under(&c.Routes[i].Match, name, c.Listen) {
					taken[name] = c.Routes[i].Name
					break
				}
			}
		}
		path := fmt.Sprintf("routes[%d].match", j)
		switch {
		case len(taken) == len(names):
			d.warnAt(path, "move it up or narrow the other", "route %s is never reached: %s takes its connections", c.Routes[j].Name, taken[names[0]])
		case len(taken) > 0:
			for _, name := range slices.Sorted(maps.Keys(taken)) {
				d.warnAt(path, "", "route %s never sees %s: %s takes it", c.Routes[j].Name, name, taken[name])
			}
		}
	}
}

// under reports whether earlier takes every connection that m takes under name.
func (m *Match) under(earlier *Match, name string, all []Listen) bool {
	if earlier.ALPN != "" && earlier.ALPN != m.ALPN {
		return false
	}
	if len(earlier.Listen) > 0 {
		on := m.Listen
		if len(on) == 0 {
			for _, l := range all {
				on = append(on, l.UDP)
			}
		}
		for _, a := range on {
			if !slices.Contains(earlier.Listen, a) {
				return false
			}
		}
	}
	if len(earlier.ServerName) == 0 {
		return true
	}
	return name != "" && slices.ContainsFunc(earlier.ServerName, func(p string) bool { return patternCovers(p, name) })
}

// Route finds the route of a connection: the first whose every condition
// holds. listen is the entry the connection came in on, alpn what the client
// offers, serverName what it asks for as it stood in the ClientHello; absent:
// empty. nil: refuse. A name that is absent or no host name matches only
// routes that ask for none, which no file route is.
func (c *Config) Route(listen Addr, alpn []string, serverName string) *Route {
	name, err := NormalizeServerName(serverName)
	if err != nil {
		name = ""
	}
	for i := range c.Routes {
		m := &c.Routes[i].Match
		if m.ALPN != "" && !slices.Contains(alpn, m.ALPN) {
			continue
		}
		if len(m.Listen) > 0 && !slices.Contains(m.Listen, listen) {
			continue
		}
		if len(m.ServerName) > 0 &&
			(name == "" || !slices.ContainsFunc(m.ServerName, func(p string) bool { return patternCovers(p, name) })) {
			continue
		}
		return &c.Routes[i]
	}
	return nil
}
