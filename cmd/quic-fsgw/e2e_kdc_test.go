//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/gateway/kdcproxy"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// A client outside that reaches nothing but the gateway: it logs on at the KDC
// through the gateway's KDC proxy, and with the ticket at smbd through a route on
// which NTLM is denied. The password alone gets nowhere.
func TestKerberosFromOutside(t *testing.T) {
	kdc := sambatest.StartKDC(t)
	s := &smbSite{smbd: sambatest.Start(t, sambatest.Options{KDC: kdc})}
	a := newAuthority(t)
	cert, key := a.server("localhost")
	port := freeTCPPort(t)
	s.gatewayProcess = startGateway(t, gatewaySetup{Authority: a, Names: []string{sambatest.Host},
		Rest: strings.Replace(publicSMB(s.smbd.Addr), "min_dialect", "ntlm: deny, min_dialect", 1) + fmt.Sprintf(`https:
  listen: %q
  kdc_proxy:
    realms: [{name: %s, kdcs: [%q]}]
    cert: %s
    key: %s
`, fmt.Sprintf("127.0.0.1:%d", port), sambatest.Realm, kdc.Addr, cert, key)})
	target := s.target(t)
	target.KDC = kdc.Through(fmt.Sprintf("https://localhost:%d%s", port, kdcproxy.Path), a.CA)
	mark := s.Log.mark()
	sambatest.MustSMBClient(t, target, "mkdir by-ticket")
	if fi, err := os.Stat(s.path("by-ticket")); err != nil || !fi.IsDir() {
		t.Error(err)
	}
	if l := s.Log.wait(t, mark, "the KDC proxy to say so", func(l logLine) bool { return l.Msg == "KDC proxy answered" }); l.str("realm") != sambatest.Realm {
		t.Errorf("%s", l.Raw)
	}
	mark = s.Log.mark()
	if out := sambatest.SMBClient(t, s.target(t), "mkdir by-password"); out.Code == 0 {
		t.Errorf("a logon by NTLM passes:\n%s", out.Text)
	}
	if l := s.Log.wait(t, mark, "the end of the session", func(l logLine) bool { return l.Msg == "connection ended" }); l.str("reason") != "ntlm" {
		t.Errorf("%s", l.Raw)
	}
}
