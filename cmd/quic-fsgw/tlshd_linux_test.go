package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The helper as a service of its own (tlshd.mode: socket): the gateway's
// processes open no key, the service shakes hands for it, and a service that
// is started again is found.
func TestTlshdCommand(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.server(nfsName)
	dir := shortDir(t)
	socket, file := filepath.Join(dir, "tlshd.sock"), filepath.Join(dir, "helper.yaml")
	err := os.WriteFile(file, fmt.Appendf(nil, `tlshd:
  mode: socket
  certificates: [{names: [%s], cert: %s, key: %s}]
  client_ca: [%s]
routes: [{name: home, match: {alpn: sunrpc, server_name: %[1]s}, access: public, nfs: {backends: [127.0.0.1]}}]
log: {format: json}
`, nfsName, cert, key, a.CA), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	helper := startService(t, "tlshd", "-c", file, "--socket", socket, "--allow-user", "nobody")
	up := helper.Log.wait(t, 0, "the helper to listen", func(l logLine) bool { return l.Msg == "handshake helper listening" })
	if !strings.Contains(up.Raw, "seccomp") || !strings.Contains(up.Raw, "no-dump") {
		t.Errorf("the service has no sandbox: %s", up.Raw)
	}
	// The gateway gets no key that it could open: none is there any more.
	away := t.TempDir()
	if err := os.Rename(key, filepath.Join(away, "key")); err != nil {
		t.Fatal(err)
	}
	st := newNFSStage(t, nfsSetup{authority: a, tlshd: "  mode: socket\n  socket: " + socket + "\n"})
	if r := cli(t, e2eDeadline, nil, st.as("alice", "ls", st.url("/"))...); r.Code != 0 {
		t.Errorf("ls: exit status %d\n%s", r.Code, r.Err)
	}
}

func TestHelperServiceUsage(t *testing.T) {
	code, _, errOut := do(t, "tlshd", "--allow-user", "no-such-account")
	if code != exitUsage || !strings.Contains(errOut, `no account "no-such-account"`) {
		t.Errorf("exit %d: %s", code, errOut)
	}
}
