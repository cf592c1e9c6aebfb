//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// The access log tells of each session who it was, by which route and on which
// server, on what share or export, how much moved, how long it took and why it
// ended.
func TestAccessLog(t *testing.T) {
	smbd, nfs := sambatest.Start(t, sambatest.Options{}), ganeshatest.Start(t)
	_, mount, _ := strings.Cut(nfs.Mount, ":")
	a := newAuthority(t)
	file := filepath.Join(t.TempDir(), "access.log")
	g := startGateway(t, gatewaySetup{
		Authority: a, Names: []string{sambatest.Host, nfsName}, Tlshd: fmt.Sprintf("  client_ca: [%s]\n", a.CA), Log: ", access: " + file,
		Rest: fmt.Sprintf(`access: {staff: {client_certificate: required, allow: [{any: true}]}}
routes:
  - {name: office, match: {alpn: smb, server_name: %s}, access: staff, smb: {backends: [%q], named_pipes: allow}}
  - {name: home, match: {alpn: sunrpc, server_name: %s}, access: staff, nfs: {backends: [%q], ports: {mount: %s}, exports: [%s]}}
`, sambatest.Host, smbd.Addr, nfsName, nfs.NFS, mount, ganeshatest.Pseudo),
	})
	const size = 1 << 20
	local := filepath.Join(t.TempDir(), "local")
	randomBytesFile(t, local, size)
	cert, key := a.client("laptop.test")
	trust := []string{"--ca", a.CA, "--cert", cert, "--key", key}
	s := &smbSite{gatewayProcess: g, smbd: smbd}
	mustCLI(t, time.Minute, smbPassword, append([]string{"cp", "--server-name", sambatest.Host, local, s.url("f")}, trust...)...)
	mustCLI(t, time.Minute, nil, append([]string{"cp", local, fmt.Sprintf("nfs://%s:%d%s/f", nfsName, g.Port, ganeshatest.Pseudo)}, trust...)...)

	found := map[string]map[string]any{} // by route, the session that moved the most
	eventually(t, "both sessions in the access log", func() bool {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var l map[string]any
			if bytes.HasSuffix(line, []byte("\n")) && json.Unmarshal(line, &l) != nil {
				t.Fatalf("not JSON: %s", line)
			}
			route, _ := l["route"].(string)
			if n, _ := l["bytes_in"].(float64); n > size/4 {
				found[route] = l
			}
		}
		return len(found) == 2
	})
	for route, want := range map[string][2]string{"office": {smbd.Addr, sambatest.Share}, "home": {nfs.NFS, ganeshatest.Pseudo}} {
		l := found[route]
		text := func(k string) string { s, _ := l[k].(string); return s }
		number := func(k string) float64 { n, _ := l[k].(float64); return n }
		if text("client_sha256") != fingerprint(t, cert) || !strings.Contains(text("client"), "laptop.test") || !strings.HasPrefix(text("remote"), "127.0.0.1:") {
			t.Errorf("%s: who it was is not said: %v", route, l)
		}
		if text("backend") != want[0] || !strings.Contains(text("places"), want[1]) {
			t.Errorf("%s: server %q and places %q, want %q", route, text("backend"), text("places"), want)
		}
		if number("bytes_out") < 100 || number("duration") <= 0 || number("duration") > float64(time.Minute) {
			t.Errorf("%s: %v octets out in %v ns", route, l["bytes_out"], l["duration"])
		}
		if text("reason") != "client_closed" {
			t.Errorf("%s: reason %q", route, text("reason"))
		}
	}
}
