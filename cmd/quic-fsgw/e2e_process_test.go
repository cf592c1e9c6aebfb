//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// What becomes of live and new connections when processes die or are told to end.

// copying is a `quic-fsgw cp` under way.
type copying struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan error
}

// startCopy begins a copy and waits until the gateway has seen a part of it.
func (s *nfsStage) startCopy(t testing.TB, who string, args ...string) *copying {
	t.Helper()
	c := &copying{cmd: exec.Command(program(t), s.as(who, "cp", args...)...), done: make(chan error, 1)}
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.done <- c.cmd.Wait() }()
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	const part = 64 << 20
	eventually(t, "the copy to be under way", func() bool {
		for _, conn := range s.Status().Connections {
			if conn.BytesIn > part || conn.BytesOut > part {
				return true
			}
		}
		return false
	})
	return c
}

// running reports whether the copy has not ended yet.
func (c *copying) running() bool { return len(c.done) == 0 }

// wait waits for the copy's end and returns its error.
func (c *copying) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-c.done:
		c.done <- err
		if err != nil {
			return fmt.Errorf("%w: %s", err, c.out.String())
		}
		return nil
	case <-time.After(2 * time.Minute):
		t.Fatal("cp has not ended after two minutes")
		return nil
	}
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(e2eDeadline); !ok(); poll(t) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", e2eDeadline, what)
		}
	}
}

func kill9(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

const copySize = 1 << 30

// The helper dies in the middle of a transfer: the transfer goes on, and new
// handshakes work again within two seconds.
func TestHelperKilled(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	local := filepath.Join(t.TempDir(), "local")
	sum := randomBytesFile(t, local, copySize)
	c := s.startCopy(t, "alice", local, s.url("/big"))
	helper := s.Child(helperWord)
	start := time.Now()
	kill9(t, helper)
	mustCLI(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...)
	took := time.Since(start)
	t.Logf("a new client was served %.2f s after the helper's death", took.Seconds())
	if took > 2*time.Second {
		t.Errorf("that is more than 2 s")
	}
	if !c.running() {
		t.Error("the copy was over too early for this test to say anything")
	}
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
	if got := fileHash(t, s.nfs.Dir+"/big"); got != sum {
		t.Errorf("SHA-256 %s, want %s", got, sum)
	}
	if again := s.Child(helperWord); again == helper {
		t.Error("the same helper still")
	}
}

// The packet process dies: it is started again, in spite of a configuration
// file that is broken meanwhile, and clients do not hang.
func TestPacketProcessKilled(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	local := filepath.Join(t.TempDir(), "local")
	randomBytesFile(t, local, copySize)
	c := s.startCopy(t, "alice", local, s.url("/big"))
	good, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	s.write("listen: nonsense\n")
	mark := s.Log.mark()
	worker := s.Child(workerWord)
	kill9(t, worker)
	s.Log.wait(t, mark, "a new packet process", func(l logLine) bool { return l.Msg == "serving" })
	s.Log.wait(t, mark, "its helper", func(l logLine) bool { return l.Msg == "handshake helper connected" })
	mustCLI(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...)
	if again := s.Child(workerWord); again == worker {
		t.Error("the same packet process still")
	}
	start := time.Now()
	if err := c.wait(t); err == nil {
		t.Error("the copy was not interrupted")
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the client noticed after %s only", took)
	}
	s.write(string(good))
}

// SIGTERM: the copy under way ends well, new clients are refused, and the
// status is 0.
func TestDrain(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	port := s.connect(t, "bob") // an idle session must not hold the drain up
	if _, err := tool(t, time.Minute, "nfs-ls", libnfs(port, 3, "")); err != nil {
		t.Fatal(err)
	}
	local := filepath.Join(t.TempDir(), "local")
	sum := randomBytesFile(t, local, copySize)
	c := s.startCopy(t, "alice", local, s.url("/big"))
	mark := s.Log.mark()
	s.stopped = true
	if err := syscall.Kill(s.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.Log.wait(t, mark, "the drain to begin", func(l logLine) bool { return l.Msg == "draining" })
	eventually(t, "the gateway to refuse", func() bool { return s.Status().Draining })
	r := cli(t, time.Minute, nil, s.as("bob", "ls", s.url(""))...)
	if r.Code != exitRemote || !strings.Contains(r.Err, "draining") {
		t.Errorf("a new client: exit %d, %q", r.Code, r.Err)
	}
	if !c.running() {
		t.Error("the copy was over too early for this test to say anything")
	}
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
	if got := fileHash(t, s.nfs.Dir+"/big"); got != sum {
		t.Errorf("SHA-256 %s, want %s", got, sum)
	}
	select {
	case <-s.done:
	case <-time.After(e2eDeadline):
		t.Fatal("serve has not ended")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("serve: exit status %d", code)
	}
}

// The helper as a service of its own, which dies and comes back, and a packet
// process that dies and needs a new way to it.
func TestHelperService(t *testing.T) {
	dir := shortDir(t)
	socket := filepath.Join(dir, "tlshd.sock")
	a := newAuthority(t)
	cert, key := a.server(nfsName)
	conf := filepath.Join(dir, "tlshd.yaml")
	yaml := fmt.Sprintf(`tlshd:
  mode: socket
  socket: %s
  certificates: [{names: [%s], cert: %s, key: %s}]
  client_ca: [%s]
access: {staff: {client_certificate: required, allow: [{any: true}]}}
routes: [{name: home, match: {alpn: sunrpc, server_name: %s}, access: staff, nfs: {backends: ["127.0.0.1:2049"]}}]
`, socket, nfsName, cert, key, a.CA, nfsName)
	if err := os.WriteFile(conf, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	up := func(l logLine) bool { return strings.Contains(l.Raw, "handshake helper listening") }
	helper := startHelperService(t, conf, socket)
	helper.Log.wait(t, 0, "the helper to listen", up)
	// The gateway's own certificate section names other files: nobody may look at them.
	s := newNFSStage(t, nfsSetup{authority: newAuthority(t), clients: a, tlshd: "  mode: socket\n  socket: " + socket + "\n"})
	ls := func() cliResult { return cli(t, time.Minute, nil, s.as("alice", "ls", s.url(""))...) }
	if r := ls(); r.Code != 0 {
		t.Fatalf("exit %d: %s", r.Code, r.Err)
	}
	local := filepath.Join(t.TempDir(), "local")
	sum := randomBytesFile(t, local, copySize)
	c := s.startCopy(t, "alice", local, s.url("/big"))
	kill9(t, helper.cmd.Process.Pid)
	<-helper.done
	start := time.Now()
	startHelperService(t, conf, socket).Log.wait(t, 0, "the next helper to listen", up)
	if r := ls(); r.Code != 0 {
		t.Errorf("after the helper's restart: exit %d: %s", r.Code, r.Err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a new client was served %s after the restart", took)
	}
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
	if got := fileHash(t, s.nfs.Dir+"/big"); got != sum {
		t.Errorf("SHA-256 %s, want %s", got, sum)
	}
	mark := s.Log.mark()
	kill9(t, s.Child(workerWord))
	s.Log.wait(t, mark, "a new packet process to reach the helper", func(l logLine) bool { return l.Msg == "handshake helper connected" })
	if r := ls(); r.Code != 0 {
		t.Errorf("after the packet process' restart: exit %d: %s", r.Code, r.Err)
	}
}

// startHelperService runs `quic-fsgw tlshd`; unlike startService it may be killed.
func startHelperService(t testing.TB, conf, socket string) *service {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &service{Log: newLogLines(), cmd: exec.Command(program(t), "tlshd", "-c", conf, "--socket", socket), done: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = w, w
	err = s.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		s.Log.readFrom(r)
		s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM) // dead already where the test has killed it
		select {
		case <-s.done:
		case <-time.After(e2eDeadline):
			t.Errorf("tlshd has not ended after SIGTERM\n%s", s.Log.tail(20))
			_ = s.cmd.Process.Kill()
		}
	})
	return s
}
