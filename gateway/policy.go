package gateway

import (
	"slices"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
	"github.com/quic-fsgw/quic-fsgw/smb"
)

// clientPolicy is what a route lets one client do, as far as it holds for the
// whole life of a session.
type clientPolicy struct {
	backends []string // of these lists, none means all
	shares   []string
	exports  []string // of NFSv4
	programs []uint32 // side programs of NFS
	pipes    bool
	ntlm     bool
	gss      bool

	dialect    smb.Dialect
	protection smb.Protection
}

func (r *route) policyOf(v *access.Verdict) *clientPolicy {
	p := &clientPolicy{backends: r.backendsOf(v)}
	if r.smb != nil {
		o := &r.smb.Options
		p.shares, p.pipes, p.ntlm, p.dialect, p.protection = r.sharesOf(v), o.AllowNamedPipes, !o.KerberosOnly, o.MinDialect, o.Protection
		return p
	}
	p.exports, p.gss, p.programs = r.conf.NFS.V4Exports, r.conf.NFS.GSS == "pass", r.nfs.Programs()
	return p
}

// narrower reports whether p forbids something that old lets through.
func (p *clientPolicy) narrower(old *clientPolicy) bool {
	for _, l := range [][2][]string{{p.backends, old.backends}, {p.shares, old.shares}, {p.exports, old.exports}} {
		if now, was := l[0], l[1]; len(now) > 0 && (len(was) == 0 || !subset(was, now)) {
			return true
		}
	}
	return !subset(old.programs, p.programs) || old.pipes && !p.pipes || old.ntlm && !p.ntlm || old.gss && !p.gss ||
		p.dialect > old.dialect || p.protection > old.protection
}

func subset[T comparable](a, of []T) bool {
	return !slices.ContainsFunc(a, func(x T) bool { return !slices.Contains(of, x) })
}
