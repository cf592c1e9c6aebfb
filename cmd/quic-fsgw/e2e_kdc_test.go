//go:build linux

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
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

// The KDC proxy's certificate is renewed as certbot does it, by links to files
// that were not there when its process was put into its sandbox: it is shown
// without a word, and a key that does not fit leaves the old pair.
func TestKDCProxyRenewal(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.server("localhost")
	at := t.TempDir()
	crt, pem := filepath.Join(at, "live.crt"), filepath.Join(at, "live.key")
	link := func(from, to string) {
		t.Helper()
		if err := errors.Join(os.Symlink(from, to+".new"), os.Rename(to+".new", to)); err != nil {
			t.Fatal(err)
		}
	}
	link(cert, crt)
	link(key, pem)
	port := freeTCPPort(t)
	backend := startCounting(t)
	g := startGateway(t, gatewaySetup{Authority: a, Names: []string{sambatest.Host}, Rest: quietSMB(backend.Addr) + fmt.Sprintf(`https:
  listen: "127.0.0.1:%d"
  kdc_proxy: {realms: [{name: CORP.TEST, kdcs: ["127.0.0.1:1"]}], cert: %s, key: %s}
`, port, crt, pem)})
	shown := func() string {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: e2eDeadline}, "tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first, mark := shown(), g.Log.mark()
	newCert, newKey := a.another(t).server("localhost")
	link(newCert, crt)
	g.Log.wait(t, mark, "a pair that does not fit", func(l logLine) bool { return strings.Contains(l.Msg, "https process has changed but can not be used") })
	if got := shown(); got != first {
		t.Error("a certificate is shown whose key is not there")
	}
	link(newKey, pem)
	eventually(t, "the renewed certificate", func() bool { return shown() != first })
}
