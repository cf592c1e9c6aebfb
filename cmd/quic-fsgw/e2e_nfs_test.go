//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// NFS end to end: real clients, the program's processes, a real server.

const nfsName = "localhost"

// Identities that certificates are mapped to; neither is this process's own.
const (
	aliceUID, aliceGID   = 2001, 2002
	squashUID, squashGID = 4711, 4712
)

// nfsStage is a server, a gateway in front of it, and clients' certificates.
type nfsStage struct {
	*gatewayProcess
	nfs       *ganeshatest.Server
	serverKey string              // file
	trust     map[string][]string // flags by client: alice is mapped, bob is not
}

type nfsSetup struct {
	exports   string     // YAML list, "" for none
	otherwise string     // squash or refuse, "" for squash
	extra     string     // further sections
	tlshd     string     // further lines of tlshd, certificates first
	admin     string     // of gatewaySetup
	wrap      []string   // of gatewaySetup
	names     []string   // of the route; the first has the certificate
	authority *authority // of the server; nil: a new one
	clients   *authority // of the clients, which trust it; nil: the same
}

// nfsRules are access rule, route and limits of a stage.
func nfsRules(nfs *ganeshatest.Server, s nfsSetup) string {
	_, mount, _ := net.SplitHostPort(nfs.Mount)
	otherwise := "otherwise: " + first(s.otherwise, "squash")
	if s.otherwise != "refuse" {
		otherwise += fmt.Sprintf(", squash_uid: %d, squash_gid: %d", squashUID, squashGID)
	}
	return fmt.Sprintf(`access:
  staff:
    client_certificate: required
    allow: [{any: true}]
    deny: []
routes:
  - name: home
    match: {alpn: sunrpc, server_name: [%s]}
    access: staff
    nfs:
      backends: [%q]
      ports: {mount: %s}
      exports: [%s]
      identity:
        map: [{san: "email:alice@example.com", uid: %d, gid: %d}]
        %s
limits: {connections_per_client: 1000}
%s`, strings.Join(s.names, ", "), nfs.NFS, mount, s.exports, aliceUID, aliceGID, strings.ReplaceAll(otherwise, ", ", "\n        "), s.extra)
}

func newNFSStage(t testing.TB, s nfsSetup) *nfsStage {
	t.Helper()
	if len(s.names) == 0 {
		s.names = []string{nfsName}
	}
	st := &nfsStage{nfs: ganeshatest.Start(t), trust: map[string][]string{}}
	a := s.authority
	if a == nil {
		a = newAuthority(t)
	}
	clients := a
	if s.clients != nil {
		clients = s.clients
	}
	for _, name := range []string{"alice", "bob"} {
		cert, key := clients.client(name, "--email", name+"@example.com")
		st.trust[name] = []string{"--ca", clients.CA, "--cert", cert, "--key", key}
	}
	st.gatewayProcess = startGateway(t, gatewaySetup{
		Authority: a, Names: []string{nfsName}, Rest: nfsRules(st.nfs, s),
		Tlshd: fmt.Sprintf("%s  client_ca: [%s]\n", s.tlshd, clients.CA),
		Admin: s.admin, Wrap: s.wrap,
	})
	st.serverKey = filepath.Join(a.dir, nfsName+".key")
	return st
}

// url names a place in the export.
func (s *nfsStage) url(path string) string {
	return fmt.Sprintf("nfs://%s:%d%s%s", nfsName, s.Port, ganeshatest.Pseudo, path)
}

// as returns a command line of a client.
func (s *nfsStage) as(who, command string, args ...string) []string {
	return append(append([]string{command}, s.trust[who]...), args...)
}

// connect runs `quic-fsgw connect` as a client and returns its TCP port.
func (s *nfsStage) connect(t testing.TB, who string) int {
	t.Helper()
	return startConnect(t, fmt.Sprintf("nfs://%s:%d", nfsName, s.Port), s.trust[who]...)
}

// libnfs is the URL of a place for the libnfs tools.
func libnfs(port, version int, path string) string {
	return fmt.Sprintf("nfs://127.0.0.1%s?version=%d&nfsport=%d&mountport=%d", ganeshatest.Pseudo+path, version, port, port)
}

// tool runs a program that is not ours and returns what it wrote.
func tool(t testing.TB, limit time.Duration, name string, args ...string) (out []byte, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err = cmd.Output()
	if ctx.Err() != nil {
		t.Fatalf("%s %q has not ended after %s\n%s%s", name, args, limit, out, errOut.String())
	}
	if err != nil {
		err = fmt.Errorf("%s %q: %w\n%s%s", name, args, err, out, errOut.String())
	}
	return out, err
}

// owner returns the ids of a file in the server's folder.
func owner(t testing.TB, path string) (uid, gid uint32) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

func wantOwner(t testing.TB, path string, uid, gid uint32) {
	t.Helper()
	if u, g := owner(t, path); u != uid || g != gid {
		t.Errorf("%s belongs to %d:%d, want %d:%d", path, u, g, uid, gid)
	}
}

// The libnfs tools list, read and write through connect, in both versions.
func TestNFSLibnfs(t *testing.T) {
	ganeshatest.Require(t, "nfs-ls", "nfs-cat", "nfs-cp")
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	port := s.connect(t, "alice")
	const limit = time.Minute
	big := filepath.Join(t.TempDir(), "big")
	sum := randomBytesFile(t, big, 32<<20)
	for _, version := range []int{3, 4} {
		t.Run(fmt.Sprintf("v%d", version), func(t *testing.T) {
			up, upSum := big, sum
			if version == 4 {
				// libnfs 4.0.0 of Debian 12 cannot send an NFSv4 WRITE of more.
				up = filepath.Join(t.TempDir(), "small")
				upSum = randomBytesFile(t, up, 3000)
			}
			name := fmt.Sprintf("/up%d", version)
			if _, err := tool(t, limit, "nfs-cp", up, libnfs(port, version, name)); err != nil {
				t.Fatal(err)
			}
			if got := fileHash(t, s.nfs.Dir+name); got != upSum {
				t.Errorf("nfs-cp up: SHA-256 %s, want %s", got, upSum)
			}
			wantOwner(t, s.nfs.Dir+name, aliceUID, aliceGID)

			down := fmt.Sprintf("/down%d", version)
			downSum := randomBytesFile(t, s.nfs.Dir+down, 32<<20)
			got := filepath.Join(t.TempDir(), "got")
			if _, err := tool(t, limit, "nfs-cp", libnfs(port, version, down), got); err != nil {
				t.Fatal(err)
			}
			if fileHash(t, got) != downSum {
				t.Error("nfs-cp down: not what the server has")
			}
			text := []byte("read me\n")
			if err := os.WriteFile(s.nfs.Dir+"/text", text, 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := tool(t, limit, "nfs-cat", libnfs(port, version, "/text")); err != nil || !bytes.Equal(out, text) {
				t.Errorf("nfs-cat: %q, %v", out, err)
			}
			out, err := tool(t, limit, "nfs-ls", libnfs(port, version, ""))
			if err != nil || !bytes.Contains(out, []byte(name[1:])) || !bytes.Contains(out, []byte(down[1:])) {
				t.Errorf("nfs-ls: %v\n%s", err, out)
			}
		})
	}
	if st := s.Status(); len(st.Connections) != 1 || !strings.Contains(st.Connections[0].Client, "alice") {
		t.Errorf("all of connect's streams share one connection of alice's; status says %+v", st.Connections)
	}
}

// Who a client is to the server is what its certificate says, whatever it claims.
func TestNFSIdentity(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	file := filepath.Join(t.TempDir(), "f")
	randomBytesFile(t, file, 1<<20)
	private := s.nfs.Dir + "/private"
	if err := os.WriteFile(private, []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	for who, ids := range map[string][2]uint32{"alice": {aliceUID, aliceGID}, "bob": {squashUID, squashGID}} {
		mustCLI(t, time.Minute, nil, s.as(who, "cp", file, s.url("/of-"+who))...)
		wantOwner(t, s.nfs.Dir+"/of-"+who, ids[0], ids[1])
		// This test is root, and says so in its credential.
		if r := cli(t, time.Minute, nil, s.as(who, "cat", s.url("/private"))...); r.Code != exitFailed || r.Out != "" {
			t.Errorf("%s reads root's file: exit %d, %q %q", who, r.Code, r.Out, r.Err)
		}
	}
	mustCLI(t, time.Minute, nil, s.as("alice", "mkdir", s.url("/hers"))...)
	wantOwner(t, s.nfs.Dir+"/hers", aliceUID, aliceGID)
	mustCLI(t, time.Minute, nil, s.as("alice", "cp", file, s.url("/hers/f"))...)
	if r := cli(t, time.Minute, nil, s.as("bob", "rm", s.url("/hers/f"))...); r.Code != exitFailed || !strings.HasPrefix(r.Err, "quic-fsgw: rm: ") {
		t.Errorf("bob removes alice's file: exit %d, %q", r.Code, r.Err)
	}
}

// HOSTILE 57: a certificate may carry its user's numbers, where the route says so.
// A row counts before it, and numbers out of bounds refuse the client.
func TestNFSIdentityOfCertificate(t *testing.T) {
	const oid = "1.3.6.1.4.1.55555.1"
	a := newAuthority(t)
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo, otherwise: "squash, auth_sys_oid: " + oid + ", auth_sys_min_uid: 3000", authority: a})
	for who, flags := range map[string][]string{
		"carol": {"--auth-sys", oid + "=3001:3002,3003"},
		"alice": {"--auth-sys", oid + "=3009:3009", "--email", "alice@example.com"},
		"dave":  {"--auth-sys", "1.3.6.1.4.1.55555.2=3005:3005"},
		"mal":   {"--auth-sys", oid + "=2999:3002"},
	} {
		cert, key := a.client(who+"-numbered", flags...)
		s.trust[who] = []string{"--ca", a.CA, "--cert", cert, "--key", key}
	}
	file := filepath.Join(t.TempDir(), "f")
	randomBytesFile(t, file, 1<<16)
	for who, ids := range map[string][2]uint32{"carol": {3001, 3002}, "alice": {aliceUID, aliceGID}, "dave": {squashUID, squashGID}} {
		mustCLI(t, time.Minute, nil, s.as(who, "cp", file, s.url("/of-"+who))...)
		wantOwner(t, s.nfs.Dir+"/of-"+who, ids[0], ids[1])
	}
	// The supplementary group counts as well.
	shared := s.nfs.Dir + "/shared"
	if err := os.WriteFile(shared, []byte("group's"), 0o040); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(shared, 0o040), os.Chown(shared, 1, 3003)); err != nil {
		t.Fatal(err)
	}
	if r := mustCLI(t, time.Minute, nil, s.as("carol", "cat", s.url("/shared"))...); r.Out != "group's" {
		t.Errorf("%q", r.Out)
	}
	if r := cli(t, time.Minute, nil, s.as("mal", "ls", s.url(""))...); r.Code != exitRemote {
		t.Errorf("uid 2999: exit %d, %q", r.Code, r.Err)
	}
}

// A client that no row maps can be refused altogether.
func TestNFSRefuse(t *testing.T) {
	s := newNFSStage(t, nfsSetup{otherwise: "refuse"})
	mustCLI(t, time.Minute, nil, s.as("alice", "ls", s.url(""))...)
	r := cli(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...)
	if r.Code != exitFailed || !strings.HasPrefix(r.Err, "quic-fsgw: ls: ") {
		t.Errorf("bob: exit %d, %q", r.Code, r.Err)
	}
	for _, route := range s.Status().Routes {
		if route.NFS == nil || route.NFS.Refused == 0 {
			t.Errorf("no refused call is counted: %+v", route.NFS)
		}
	}
}

// Only exports on the list can be mounted.
func TestNFSExportFilter(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo + "/open"})
	for _, d := range []string{"open", "closed"} {
		if err := os.Mkdir(filepath.Join(s.nfs.Dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.nfs.Dir, d, "f"), []byte(d), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if r := mustCLI(t, time.Minute, nil, s.as("alice", "cat", s.url("/open/f"))...); r.Out != "open" {
		t.Errorf("%q", r.Out)
	}
	for _, p := range []string{"/closed/f", "/open/../closed/f", "/closed", ""} {
		if r := cli(t, time.Minute, nil, s.as("alice", "ls", s.url(p))...); r.Code != exitFailed {
			t.Errorf("ls %s: exit %d, %q %q", p, r.Code, r.Out, r.Err)
		}
	}
	port := s.connect(t, "alice")
	if out, err := tool(t, time.Minute, "nfs-ls", libnfs(port, 3, "/closed")); err == nil {
		t.Errorf("nfs-ls lists what is not exported:\n%s", out)
	}
	if _, err := tool(t, time.Minute, "nfs-ls", libnfs(port, 3, "/open")); err != nil {
		t.Error(err)
	}
}

// The file commands, and 1 GiB each way.
func TestNFSCommands(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	const size = 1 << 30
	dir := t.TempDir()
	local := filepath.Join(dir, "local")
	sum := randomBytesFile(t, local, size)
	r := mustCLI(t, 2*time.Minute, nil, s.as("alice", "cp", local, s.url("/big"))...)
	t.Logf("up: %s", rate(size, r.Took))
	if r.Err != "" {
		t.Errorf("cp wrote %q although there is no terminal", r.Err)
	}
	if got := fileHash(t, s.nfs.Dir+"/big"); got != sum {
		t.Errorf("up: SHA-256 %s, want %s", got, sum)
	}
	back := filepath.Join(dir, "back")
	r = mustCLI(t, 2*time.Minute, nil, s.as("alice", "cp", s.url("/big"), back)...)
	t.Logf("down: %s", rate(size, r.Took))
	if got := fileHash(t, back); got != sum {
		t.Errorf("down: SHA-256 %s, want %s", got, sum)
	}
	mustCLI(t, time.Minute, nil, s.as("alice", "mkdir", "-p", s.url("/a/b"))...)
	small := filepath.Join(dir, "small")
	if err := os.WriteFile(small, []byte("text\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	mustCLI(t, time.Minute, nil, s.as("alice", "cp", small, s.url("/a/b/"))...)
	if r = mustCLI(t, time.Minute, nil, s.as("alice", "ls", s.url(""), s.url("/a/b"))...); r.Out != "a\nbig\nsmall\n" {
		t.Errorf("ls: %q", r.Out)
	}
	if r = mustCLI(t, time.Minute, nil, s.as("alice", "cat", s.url("/a/b/small"))...); r.Out != "text\n" {
		t.Errorf("cat: %q", r.Out)
	}
	if r = mustCLI(t, time.Minute, nil, s.as("alice", "df", s.url(""))...); !strings.Contains(r.Out, "1K-blocks") || strings.Count(r.Out, "\n") != 2 {
		t.Errorf("df: %q", r.Out)
	}
	if r = cli(t, time.Minute, nil, s.as("alice", "rm", s.url("/a"))...); r.Code != exitFailed {
		t.Errorf("rm of a folder without -r: exit %d", r.Code)
	}
	mustCLI(t, time.Minute, nil, s.as("alice", "rm", "-r", s.url("/a"))...)
	mustCLI(t, time.Minute, nil, s.as("alice", "rm", s.url("/big"))...)
	if left, err := os.ReadDir(s.nfs.Dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
