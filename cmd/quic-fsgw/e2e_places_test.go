//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/quic"
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

// A client gets the servers that its row names, and no other, whatever works.
func TestBackendsByClient(t *testing.T) {
	one, two := sambatest.Start(t, sambatest.Options{}), sambatest.Start(t, sambatest.Options{})
	nfsOne, nfsTwo := ganeshatest.Start(t), ganeshatest.Start(t)
	_, mount, _ := strings.Cut(nfsOne.Mount, ":")
	a := newAuthority(t)
	g := startGateway(t, gatewaySetup{
		Authority: a, Names: []string{sambatest.Host, nfsName}, Tlshd: fmt.Sprintf("  client_ca: [%s]\n", a.CA),
		Rest: fmt.Sprintf(`access: {staff: {client_certificate: required, allow: [{any: true}]}}
routes:
  - name: office
    match: {alpn: smb, server_name: %s}
    access: staff
    smb:
      backends: [%q, %q]
      share_map: [{san: "dns:two.test", backends: [%q]}]
  - name: home
    match: {alpn: sunrpc, server_name: %s}
    access: staff
    nfs:
      backends: [%q, %q]
      ports: {mount: %s}
      exports: [%s]
      identity:
        map: [{san: "dns:two.test", uid: 2001, gid: 2001, backends: [%q]}]
`, sambatest.Host, one.Addr, two.Addr, two.Addr, nfsName, nfsOne.NFS, nfsTwo.NFS, mount, ganeshatest.Pseudo, nfsTwo.NFS),
	})
	s := &smbSite{gatewayProcess: g, smbd: one}
	for dir, text := range map[string]string{one.Dir: "one", two.Dir: "two", nfsOne.Dir: "one", nfsTwo.Dir: "two"} {
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	trust := map[string][]string{}
	for _, client := range []string{"one", "two"} {
		cert, key := a.client(client + ".test")
		trust[client] = []string{"--ca", a.CA, "--cert", cert, "--key", key}
	}
	read := func(client string) cliResult {
		return cli(t, time.Minute, smbPassword, append([]string{"cat", s.url("f"), "--server-name", sambatest.Host}, trust[client]...)...)
	}
	for client := range trust {
		if r := read(client); r.Code != 0 || r.Out != client {
			t.Errorf("%s on SMB: exit %d, %q %q", client, r.Code, r.Out, r.Err)
		}
	}
	// The port of mountd is the route's, so NFSv4 tells the servers apart.
	for client, flags := range trust {
		port := startConnect(t, fmt.Sprintf("nfs://%s:%d", nfsName, g.Port), flags...)
		if out, err := tool(t, time.Minute, "nfs-cat", libnfs(port, 4, "/f")); err != nil || string(out) != client {
			t.Errorf("%s on NFS: %q, %v", client, out, err)
		}
	}
	two.Stop()
	if r := read("two"); r.Code == 0 {
		t.Errorf("two went to the other server when its own was gone: %q", r.Out)
	}
	if r := read("one"); r.Code != 0 || r.Out != "one" {
		t.Errorf("one: exit %d, %q %q", r.Code, r.Out, r.Err)
	}
}

// HOSTILE 64: what a reload forbids ends the sessions that might do it, and no
// others; what it newly allows ends none.
func TestReloadNarrows(t *testing.T) {
	g, backend, client := hostileSite(t)
	rpc := client
	rpc.ALPN = []string{"sunrpc"}
	begin := func() *quic.Conn {
		c := client.mustDial(t, g.Addr)
		s := stream(t, c)
		if _, err := s.Write(negotiate()); err != nil {
			t.Fatal(err)
		}
		accepted(t, backend)
		if _, err := io.ReadFull(s, make([]byte, len(negotiateAnswer()))); err != nil {
			t.Fatal(err)
		}
		return c
	}
	reload := func(old, new string) {
		b, err := os.ReadFile(g.Config)
		if err != nil || !strings.Contains(string(b), old) {
			t.Fatalf("%q is not in the configuration: %v", old, err)
		}
		g.write(strings.Replace(string(b), old, new, 1))
		mustCLI(t, time.Minute, nil, "reload", "-c", g.Config)
	}
	other := rpc.mustDial(t, g.Addr)
	stream(t, other)
	for _, step := range []struct {
		old, new string
		cut      bool
	}{
		{"min_dialect: \"2.1\"", "min_dialect: \"2.1\", named_pipes: allow", false},
		{"named_pipes: allow", "named_pipes: deny", true},
		{"named_pipes: deny", "shares: [office]", true},
		{"shares: [office]", "shares: [office, home]", false},
		{"shares: [office, home]", "ntlm: deny, shares: [office, home]", true},
		{"ntlm: deny, shares: [office, home]", "protection: signing", true},
	} {
		c, mark := begin(), g.Log.mark()
		reload(step.old, step.new)
		if !step.cut {
			if c.Err() != nil {
				t.Errorf("%q: the session ended with %v", step.new, c.Err())
			}
			_ = c.CloseWithError(0, "")
			continue
		}
		err := ended(t, c)
		if code, app, ok := remoteCode(err); !ok || app || code != reason.PolicyChanged.Code {
			t.Errorf("%q: the session ended with %v", step.new, err)
		}
		g.Log.wait(t, mark, "the end", func(l logLine) bool {
			return l.Msg == "connection ended" && l.str("conn") != other.ID() && l.str("reason") == reason.PolicyChanged.Name
		})
	}
	if other.Err() != nil {
		t.Errorf("a session of the other route ended with %v", other.Err())
	}
	mark := g.Log.mark()
	reload("nfs: {backends", "nfs: {v4_exports: [/a], backends")
	if code, app, ok := remoteCode(ended(t, other)); !ok || app || code != reason.PolicyChanged.Code {
		t.Errorf("v4_exports: the session ended with %v", other.Err())
	}
	g.Log.wait(t, mark, "the end", func(l logLine) bool {
		return l.Msg == "connection ended" && l.str("reason") == reason.PolicyChanged.Name
	})
}
