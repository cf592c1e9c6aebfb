//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// Which shares and exports a client gets to see, by its certificate.

func TestSharesByClient(t *testing.T) {
	s := &smbSite{smbd: sambatest.Start(t, sambatest.Options{
		Share: []string{"[other]", "path = /mnt/share", "read only = no", "valid users = " + sambatest.User},
	})}
	a := newAuthority(t)
	s.gatewayProcess = startGateway(t, gatewaySetup{
		Authority: a, Names: []string{sambatest.Host}, Tlshd: fmt.Sprintf("  client_ca: [%s]\n", a.CA),
		Rest: fmt.Sprintf(`access:
  staff:
    client_certificate: required
    allow: [{any: true}]
tags:
  guests: [{field: subject.CN, match: "guest*"}]
routes:
  - name: office
    match: {alpn: smb, server_name: %s}
    access: staff
    smb:
      backends: [%q]
      shares: [%s]
      share_map:
        - {san: "dns:laptop.test", shares: [other]}
        - {tag: guests, shares: [nothing]}
`, sambatest.Host, s.smbd.Addr, sambatest.Share),
	})
	if err := os.WriteFile(s.path("f"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		client string
		may    map[string]bool
	}{
		{"desk.test", map[string]bool{sambatest.Share: true, "other": false}},
		{"laptop.test", map[string]bool{sambatest.Share: false, "other": true}},
		{"guest7.test", map[string]bool{sambatest.Share: false, "other": false}},
	} {
		cert, key := a.client(c.client)
		for share, may := range c.may {
			mark := s.Log.mark()
			url := strings.Replace(s.url("f"), "/"+sambatest.Share+"/", "/"+share+"/", 1)
			r := cli(t, time.Minute, smbPassword, "cat", url, "--ca", a.CA, "--cert", cert, "--key", key, "--server-name", sambatest.Host)
			if may != (r.Code == 0 && r.Out == "text") {
				t.Errorf("%s on %s: exit %d, %q %q", c.client, share, r.Code, r.Out, r.Err)
			}
			want := map[bool]string{true: "client_closed", false: "share"}[may]
			if l := s.Log.wait(t, mark, "the end of the session", func(l logLine) bool { return l.Msg == "connection ended" }); l.str("reason") != want {
				t.Errorf("%s on %s: %s, want reason %s", c.client, share, l.Raw, want)
			}
		}
	}
}

func TestExportsByClient(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo + "/all"})
	for _, d := range []string{"all", "hers"} {
		dir := filepath.Join(s.nfs.Dir, d)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte(d), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.edit(t, fmt.Sprintf("gid: %d}]", aliceGID), fmt.Sprintf("gid: %d, exports: [%s/hers]}]", aliceGID, ganeshatest.Pseudo))
	mustCLI(t, time.Minute, nil, "reload", "-c", s.Config)
	for who, may := range map[string]map[string]bool{"alice": {"hers": true, "all": false}, "bob": {"hers": false, "all": true}} {
		for d, ok := range may {
			r := cli(t, time.Minute, nil, s.as(who, "cat", s.url("/"+d+"/f"))...)
			if ok != (r.Code == 0 && r.Out == d) {
				t.Errorf("%s in %s: exit %d, %q %q", who, d, r.Code, r.Out, r.Err)
			}
		}
		// The list of exports is each client's own.
		out, err := tool(t, time.Minute, "nfs-ls", libnfs(s.connect(t, who), 3, map[string]string{"alice": "/hers", "bob": "/all"}[who]))
		if err != nil {
			t.Errorf("%s: %v\n%s", who, err, out)
		}
	}
}
