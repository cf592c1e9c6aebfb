package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
)

// publicRule is the built-in access rule.
const publicRule = "public"

// check holds the decoded file against everything one key alone can't say.
func check(d *decoder, c *Config) {
	checkListen(d, c)
	checkHTTPS(d, c)
	checkTlshd(d, c)
	checkTags(d, c)
	for name, r := range c.Access {
		c.Access[name] = checkRule(d, c.tags, name, r)
	}
	checkRoutes(d, c)
	checkQUIC(d, &c.QUIC)
	checkRest(d, c)
}

func checkListen(d *decoder, c *Config) {
	if len(c.Listen) == 0 && !d.written("listen") {
		c.Listen = []Listen{{UDP: ":443"}}
	}
	if len(c.Listen) == 0 {
		d.errorAt("listen", "", "must have at least one entry")
	}
	seen := map[Addr]int{}
	for i, l := range c.Listen {
		if first, ok := seen[l.UDP]; ok && l.UDP.AddrPort().Port() != 0 {
			d.errorAt(fmt.Sprintf("listen[%d].udp", i), "", "%s is already entry %d", l.UDP, first)
		}
		seen[l.UDP] = i
	}
}

func checkTlshd(d *decoder, c *Config) {
	t := &c.Tlshd
	if len(t.Certificates)+len(c.fetched()) == 0 && t.Mode == "spawn" && len(c.Routes) > 0 {
		d.errorAt("tlshd.certificates", "quic-fsgw init and quic-fsgw cert make some", "at least one server certificate is needed")
	}
	for i := range t.Certificates {
		cert, path := &t.Certificates[i], fmt.Sprintf("tlshd.certificates[%d]", i)
		switch {
		case cert.PFX != "" && (cert.Cert != "" || cert.Key != ""):
			d.errorAt(path+".pfx", "", "give either pfx, or cert and key")
		case cert.PFX == "" && cert.PFXPassword != "":
			d.errorAt(path+".pfx_password_file", "", "is the password of a pfx, and there is none")
		case cert.PFX == "" && (cert.Cert == "" || cert.Key == ""):
			d.errorAt(path, "", "needs cert and key, or pfx")
		}
		if len(cert.Names) == 0 {
			d.errorAt(path, "names: [files.example.com]", "needs the server names it is for")
		}
		for j, n := range cert.Names {
			norm, err := normalizePattern(n)
			if err != nil {
				d.errorAt(fmt.Sprintf("%s.names[%d]", path, j), "", "%v", err)
				continue
			}
			// Several certificates may have a name, of other kinds of keys: the client
			// gets the first that it can verify.
			if slices.Contains(cert.Names[:j], norm) {
				d.errorAt(fmt.Sprintf("%s.names[%d]", path, j), "", "%s stands there already", norm)
			}
			cert.Names[j] = norm
		}
	}
}

// checkRule compiles an access rule.
func checkRule(d *decoder, tags []*access.Tag, name string, r AccessRule) AccessRule {
	path := "access." + name
	if name == publicRule {
		d.errorAt(path, "choose another name", "public is built in")
	}
	r.Rule = &access.Rule{Name: name}
	switch r.ClientCertificate {
	case "required":
		r.Rule.Mode = access.Required
	case "optional":
		r.Rule.Mode = access.Optional
	case "none":
		if len(r.Allow)+len(r.Deny)+len(r.ClientCA)+len(r.CRL) > 0 {
			d.errorAt(path, "client_certificate: required", "has entries that are never looked at: no certificate is asked for")
		}
		return r
	}
	if len(r.Allow) == 0 {
		d.errorAt(path, "allow: [{any: true}] lets everybody in whom client_ca certifies", "has no allow entry, so nobody could pass")
	}
	for i, m := range r.Allow {
		if am, ok := compileMatcher(d, tags, fmt.Sprintf("%s.allow[%d]", path, i), m); ok {
			r.Rule.Allow = append(r.Rule.Allow, am)
		}
	}
	for i, m := range r.Deny {
		p := fmt.Sprintf("%s.deny[%d]", path, i)
		if m.Any {
			d.errorAt(p+".any", "", "would refuse everybody")
			continue
		}
		if am, ok := compileMatcher(d, tags, p, m); ok {
			r.Rule.Deny = append(r.Rule.Deny, am)
		}
	}
	return r
}

// checkTags compiles the tags, in the order of their names.
func checkTags(d *decoder, c *Config) {
	for _, name := range slices.Sorted(maps.Keys(c.Tags)) {
		path := "tags." + name
		var filters []access.Filter
		for i, f := range c.Tags[name] {
			af, err := access.NewFilter(f.Field, f.Match, f.Not)
			if err != nil {
				d.errorAt(fmt.Sprintf("%s[%d]", path, i), "", "%v", err)
				continue
			}
			filters = append(filters, af)
		}
		t, err := access.NewTag(name, filters)
		if err != nil {
			if len(c.Tags[name]) == 0 {
				d.errorAt(path, `such as [{field: subject.OU, match: "Lab*"}]`, "%v", err)
			}
			continue
		}
		c.tags = append(c.tags, t)
	}
}

func compileMatcher(d *decoder, tags []*access.Tag, path string, m Matcher) (access.Matcher, bool) {
	var am access.Matcher
	var err error
	key, n := "", 0
	if m.Issuer != "" {
		am, err = access.Issuer(m.Issuer)
		key, n = "issuer", n+1
	}
	if m.SHA256 != "" {
		am, err = access.SHA256(m.SHA256)
		key, n = "sha256", n+1
	}
	if m.SAN != "" {
		am, err = access.SAN(m.SAN)
		key, n = "san", n+1
	}
	if m.Tag != "" {
		key, n = "tag", n+1
		if i := slices.IndexFunc(tags, func(t *access.Tag) bool { return t.Name() == m.Tag }); i >= 0 {
			am = access.Tagged(tags[i])
		} else {
			err = fmt.Errorf("there is no tag %q", m.Tag)
		}
	}
	if m.Any {
		am = access.Any()
		n++
	}
	if n != 1 {
		d.errorAt(path, "", "needs exactly one of issuer, sha256, san, tag and any: true")
		return am, false
	}
	if err != nil {
		d.errorAt(join(path, key), "", "%v", err)
		return am, false
	}
	if other, ok := am.Reversed(); ok {
		d.warnAt(join(path, key), fmt.Sprintf("issuer: %q", other), "%q begins with the most general part, and no certificate's name is read so", m.Issuer)
	}
	return am, true
}

func checkQUIC(d *decoder, q *QUIC) {
	if q.Keepalive >= q.IdleTimeout && q.Keepalive > 0 {
		d.errorAt("quic.keepalive", "", "%s is not below idle_timeout %s", q.Keepalive, q.IdleTimeout)
	}
	if len(q.Versions) == 0 {
		d.errorAt("quic.versions", "versions: [v1]", "must have at least one entry")
	}
	for i, v := range q.Versions {
		if slices.Index(q.Versions, v) != i {
			d.errorAt(fmt.Sprintf("quic.versions[%d]", i), "", "%s is given twice", v)
		}
	}
}

func checkRest(d *decoder, c *Config) {
	l := &c.Limits
	if l.ConnectionsPerClient > l.Connections {
		d.warnAt("limits.connections_per_client", "", "%d is above limits.connections, %d", l.ConnectionsPerClient, l.Connections)
	}
	if http := c.Admin.HTTP; http != "" && !http.AddrPort().Addr().IsLoopback() {
		d.warnAt("admin.http", "127.0.0.1:9443", "%s can be reached from outside and asks for no password", http)
	}
	if c.Tlshd.UnsafeKeyLog != "" {
		d.warnAt("tlshd.unsafe_key_log", "", "%s lets whoever reads it read all traffic", c.Tlshd.UnsafeKeyLog)
	}
	cl := c.Client
	if cl == nil {
		return
	}
	if cl.UnsafeKeyLog != "" {
		d.warnAt("client.unsafe_key_log", "", "%s lets whoever reads it read all traffic", cl.UnsafeKeyLog)
	}
	if (cl.Cert == "") != (cl.Key == "") {
		d.errorAt("client", "", "cert and key go together")
	}
	if cl.InsecureSkipVerify {
		d.warnAt("client.insecure_skip_verify", "", "anybody on the way can read and change the files")
	}
	if cl.ServerName != "" {
		name, err := NormalizeServerName(cl.ServerName)
		if err != nil {
			d.errorAt("client.server_name", "", "%v", err)
		}
		cl.ServerName = name
	}
}

// covered reports whether a certificate for certName can prove name, which
// may be *.suffix. A * in a certificate stands for one label.
func covered(certName, name string) bool {
	if certName == name {
		return true
	}
	suffix, wild := strings.CutPrefix(certName, "*")
	if !wild {
		return false
	}
	first, rest, ok := strings.Cut(name, ".")
	return ok && first != "*" && "."+rest == suffix
}
