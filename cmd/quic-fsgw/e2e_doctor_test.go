//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// examined runs the doctor and returns its findings.
func examined(t *testing.T, file string) (code int, all []finding) {
	t.Helper()
	code, out, errOut := do(t, "doctor", "-c", file, "--json", "--timeout", "10s")
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%v: exit %d, %q %q", err, code, out, errOut)
	}
	return code, all
}

// has reports whether a finding is among them.
func has(all []finding, status, area, what string) bool {
	for _, f := range all {
		if f.Status == status && f.Area == area && strings.Contains(f.What, what) {
			return true
		}
	}
	return false
}

// The doctor finds what is wrong, and nothing where all is well.
func TestDoctor(t *testing.T) {
	dir := shortDir(t)
	a := newAuthority(t)
	cert, key := a.server("files.test")
	old := &authority{t: t, dir: t.TempDir()}
	makeExpired(t, old)
	smbd := answeringBackend(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	write := func(port int, rest string) string {
		t.Helper()
		file := filepath.Join(dir, "config.yaml")
		text := fmt.Sprintf(`listen: [{udp: "127.0.0.1:%d"}]
access: {staff: {client_certificate: required, allow: [{any: true}]}}
admin: {socket: %s/admin.sock}
routes:
  - name: office
    match: {server_name: files.test}
    access: staff
    smb: {backends: [%q]}
%s`, port, dir, smbd.Addr, rest)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	tlshdSection := func(cert, key, more string) string {
		return fmt.Sprintf("tlshd:\n  certificates: [{names: [files.test], cert: %s, key: %s}]\n  client_ca: [%s]\n%s", cert, key, a.CA, more)
	}
	t.Run("well", func(t *testing.T) {
		code, all := examined(t, write(freeUDPPort(t), tlshdSection(cert, key, "")))
		for _, f := range all {
			if f.Status == "fail" {
				t.Errorf("%+v", f)
			}
		}
		for _, w := range [][3]string{{"ok", "config", "1 routes"}, {"ok", "backends", "speaks SMB 3.0.2"}, {"ok", "expiry", "CN=files.test"},
			{"ok", "ports", "is free"}, {"ok", "permissions", "files.test.key"}, {"ok", "gateway", "none is running"}, {"warn", "backends", "does not require signing"}} {
			if !has(all, w[0], w[1], w[2]) {
				t.Errorf("no %q in %+v", w, all)
			}
		}
		if code != exitOK {
			t.Errorf("exit %d", code)
		}
	})
	t.Run("ill", func(t *testing.T) {
		taken, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		oldCert, oldKey := old.files("old.corp.test")
		open := filepath.Join(dir, "open.key")
		b, err := os.ReadFile(oldKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(open, b, 0o644); err != nil {
			t.Fatal(err)
		}
		code, all := examined(t, write(taken.LocalAddr().(*net.UDPAddr).Port, fmt.Sprintf(`  - name: home
    match: {server_name: files.test}
    access: staff
    nfs: {backends: [%q]}
`, closed.Addr())+tlshdSection(oldCert, open, "run_as: {user: nobody-of-that-name}\n")))
		for _, w := range [][3]string{{"fail", "certificates", "expired on"}, {"fail", "expiry", "CN=old.corp.test"}, {"warn", "certificates", "everybody on this machine"},
			{"fail", "ports", "in use"}, {"fail", "backends", "home: "}, {"fail", "accounts", "nobody-of-that-name"}, {"ok", "backends", "office: "}} {
			if !has(all, w[0], w[1], w[2]) {
				t.Errorf("no %q in %+v", w, all)
			}
		}
		if code != exitFailed {
			t.Errorf("exit %d", code)
		}
	})
	t.Run("helper that may not read its key again", func(t *testing.T) {
		_, all := examined(t, write(freeUDPPort(t), tlshdSection(cert, key, "  user: nobody\n")))
		if !has(all, "fail", "permissions", "can not") {
			t.Errorf("%+v", all)
		}
	})
	t.Run("no configuration", func(t *testing.T) {
		file := filepath.Join(dir, "none.yaml")
		if code, all := examined(t, file); code != exitUsage || !has(all, "fail", "config", file) {
			t.Errorf("exit %d, %+v", code, all)
		}
		if err := os.WriteFile(file, []byte("listen: 7\nx: 1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, _ := do(t, "doctor", "-c", file)
		if code != exitUsage || !strings.Contains(out, "fail  config       "+file+":2:1: unknown key") {
			t.Errorf("exit %d, %q", code, out)
		}
	})
}
