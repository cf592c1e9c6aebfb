package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// fetched are the names that certificates are fetched for.
func (c *Config) fetched() []string {
	if c.HTTPS == nil || c.HTTPS.ACME == nil {
		return nil
	}
	return c.HTTPS.ACME.Names
}

func checkHTTPS(d *decoder, c *Config) {
	h := c.HTTPS
	if h == nil {
		return
	}
	if h.ACME == nil && h.KDCProxy == nil {
		d.errorAt("https", "acme or kdc_proxy", "has nothing to serve")
	}
	if c.Tlshd.Mode == "socket" {
		d.warnAt("https", "tlshd.mode: spawn, as root", "with tlshd.mode socket serve is seldom root, and the process on TCP has no account of its own then; https.acme.dir has to be serve's to write and the helper's to read")
	}
	if a := h.ACME; a != nil {
		checkACME(d, h, a)
	}
	if k := h.KDCProxy; k != nil {
		checkKDCProxy(d, h, k)
	}
}

func checkACME(d *decoder, h *HTTPS, a *ACME) {
	if len(a.Names) == 0 {
		d.errorAt("https.acme", "names: [files.example.com]", "needs at least one name")
	}
	for i, n := range a.Names {
		at := fmt.Sprintf("https.acme.names[%d]", i)
		name, err := NormalizeServerName(n)
		switch {
		case err != nil:
			d.errorAt(at, "", "%v", err)
			continue
		case !strings.Contains(name, "."):
			d.errorAt(at, "its full name", "no authority certifies %s", name)
		case slices.Contains(a.Names[:i], name):
			d.errorAt(at, "", "%s is given twice", name)
		}
		a.Names[i] = name
	}
	if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		d.errorAt("https.acme.directory", "https://...", "%q is no https URL", a.Directory)
	}
	if !a.AcceptTerms {
		d.errorAt("https.acme", "accept_terms: true", "the authority's terms of service have to be accepted")
	}
	if p := h.Listen.AddrPort().Port(); p != 443 {
		d.warnAt("https.listen", ":443", "authorities ask on TCP port 443: something has to carry it to port %d", p)
	}
}

func checkKDCProxy(d *decoder, h *HTTPS, k *KDCProxy) {
	if (k.Cert == "") != (k.Key == "") {
		d.errorAt("https.kdc_proxy", "", "cert and key go together")
	}
	if k.Cert == "" && h.ACME == nil {
		d.errorAt("https.kdc_proxy", "cert and key, or https.acme", "needs a certificate")
	}
	if len(k.Realms) == 0 {
		d.errorAt("https.kdc_proxy", "realms: [{name: CORP.EXAMPLE.COM, kdcs: [dc.corp.example.com]}]", "needs at least one realm")
	}
	seen := map[string]bool{}
	for i := range k.Realms {
		r, at := &k.Realms[i], fmt.Sprintf("https.kdc_proxy.realms[%d]", i)
		r.Name = strings.ToUpper(r.Name)
		switch {
		case r.Name == "" || len(r.Name) > 255 || strings.ContainsFunc(r.Name, func(c rune) bool { return c <= ' ' || c > '~' }):
			d.errorAt(at+".name", "CORP.EXAMPLE.COM", "%q is no realm", r.Name)
		case seen[r.Name]:
			d.errorAt(at+".name", "", "%s is given twice", r.Name)
		}
		seen[r.Name] = true
		if len(r.KDCs) == 0 {
			d.errorAt(at, "kdcs: [dc.corp.example.com]", "needs at least one KDC")
		}
		for list, port := range map[*[]string]string{&r.KDCs: "88", &r.Passwords: "464"} {
			for j, b := range *list {
				norm, err := parseBackend(b, port)
				if err != nil {
					d.errorAt(at, "host:port", "%q: %v", b, err)
					continue
				}
				(*list)[j] = norm
			}
		}
	}
}
