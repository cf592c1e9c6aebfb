//go:build linux

package main

import (
	"bytes"
	"context"
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

// demo is a running `serve --dev`, and what it has printed.
type demo struct {
	*service
	dir     string
	printed []string // the lines to type, as printed
}

// startDemo runs a command that ends in serve --dev and waits for its hints.
func startDemo(t testing.TB, dir string, cmd *exec.Cmd) *demo {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{dir: dir, service: &service{Log: newLogLines(), cmd: cmd, done: make(chan struct{})}}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		d.Log.readFrom(r)
		_ = cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		// As Ctrl-C does: to the whole group.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		select {
		case <-d.done:
		case <-time.After(e2eDeadline):
			t.Errorf("serve --dev has not ended after SIGINT\n%s", d.Log.tail(20))
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-d.done
		}
		if t.Failed() {
			t.Logf("serve --dev wrote:\n%s", d.Log.tail(40))
		}
	})
	d.Log.wait(t, 0, "the hints", func(l logLine) bool { return strings.HasPrefix(l.Raw, "Ctrl-C") })
	for _, l := range d.Log.since(0) {
		if strings.HasPrefix(l.Raw, "  ") {
			d.printed = append(d.printed, strings.TrimSpace(l.Raw))
		}
	}
	return d
}

func (d *demo) line(t testing.TB, contains string) string {
	t.Helper()
	for _, l := range d.printed {
		if strings.Contains(l, contains) {
			return l
		}
	}
	t.Fatalf("no printed line has %q:\n%s", contains, strings.Join(d.printed, "\n"))
	return ""
}

// shell runs a line as typed, in a folder.
func shell(t testing.TB, dir, line string) (out string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir, cmd.WaitDelay = dir, 5*time.Second
	b, err := cmd.CombinedOutput()
	return string(b), err
}

// typeIt does what the printed lines say, as a new user would.
func (d *demo) typeIt(t *testing.T) {
	ganeshatest.Require(t, "nfs-ls")
	home := t.TempDir()
	sum := randomBytesFile(t, filepath.Join(home, "FILE"), 20<<20) // the word that is printed
	if out, err := shell(t, home, d.line(t, " cp ")); err != nil || out != "" {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	if got := fileHash(t, filepath.Join(d.dir, "FILE")); got != sum {
		t.Errorf("cp: SHA-256 %s, want %s", got, sum)
	}
	ls := d.line(t, " ls ")
	out, err := shell(t, home, ls)
	if err != nil || !strings.Contains(out, "FILE\n") {
		t.Errorf("ls: %v\n%s", err, out)
	}
	// Back again, with the words turned around.
	words := strings.Fields(d.line(t, " cp "))
	url := words[len(words)-1]
	back := strings.Join(append(words[:len(words)-2], url+"FILE", "back"), " ")
	if out, err := shell(t, home, back); err != nil || fileHash(t, filepath.Join(home, "back")) != sum {
		t.Errorf("%s: %v\n%s", back, err, out)
	}

	connect := strings.Fields(d.line(t, " connect "))
	startConnectLine(t, connect)
	out, err = shell(t, home, d.line(t, "nfs-ls "))
	if err != nil || !strings.Contains(out, "FILE") {
		t.Errorf("nfs-ls: %v\n%s", err, out)
	}
}

// startConnectLine runs a printed connect line.
func startConnectLine(t testing.TB, words []string) {
	t.Helper()
	s := startService(t, words[1:]...)
	s.Log.wait(t, 0, "connect to listen", func(l logLine) bool { return strings.Contains(l.Raw, "carries to") })
}

// A new user: serve --dev, then the printed lines, then what must not be possible.
func TestServeDev(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "served")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(parent, "secret")
	if err := os.WriteFile(secret, []byte("out of reach"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"absolute": secret, "up": "../secret", "folder": ".."} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	addr := fmt.Sprintf("127.0.0.1:%d", freeUDPPort(t))
	d := startDemo(t, dir, exec.Command(program(t), "serve", "--dev", dir, "--listen", addr))
	d.typeIt(t)
	words := strings.Fields(d.line(t, " ls "))
	url := words[len(words)-1]
	for _, name := range []string{"absolute", "up", "folder/secret", "../secret", "folder/../../secret"} {
		line := strings.Join(append(append([]string{words[0], "cat"}, words[2:len(words)-1]...), url+"/"+name), " ")
		if out, err := shell(t, parent, line); err == nil || strings.Contains(out, "out of reach") {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	state := filepath.Dir(words[3]) // of --ca
	if _, err := os.Stat(filepath.Join(state, "ca.key")); err == nil {
		t.Errorf("the throwaway CA's private key lies about in %s", state)
	}
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT)
	select {
	case <-d.done:
	case <-time.After(e2eDeadline):
		t.Fatal("serve --dev has not ended after SIGINT")
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d after SIGINT", code)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", state, err)
	}
}

// What the README says: make demo, and the printed lines. It serves the
// working folder, so it runs in a copy of the tree.
func TestMakeDemo(t *testing.T) {
	ganeshatest.Require(t, "make", "git")
	tree := filepath.Join(t.TempDir(), "clone")
	if out, err := exec.Command("git", "-c", "safe.directory=*", "clone", "-q", "--depth=1", "file://"+repository(t), tree).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v\n%s", err, out)
	}
	if c, err := net.ListenPacket("udp", "127.0.0.1:4433"); err != nil {
		t.Fatalf("make demo needs UDP port 4433: %v", err)
	} else {
		_ = c.Close()
	}
	cmd := exec.Command("make", "-s", "demo")
	cmd.Dir = tree
	startDemo(t, tree, cmd).typeIt(t)
}

// repository is the root of the working copy.
func repository(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("git", "-c", "safe.directory=*", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(out))
}

// --dev is for this machine alone unless told otherwise.
func TestServeDevIsLocal(t *testing.T) {
	dir := t.TempDir()
	for _, listen := range []string{"0.0.0.0:0", "[::]:4433", "192.0.2.1:4433"} {
		r := cli(t, e2eDeadline, nil, "serve", "--dev", dir, "--listen", listen)
		if r.Code != exitUsage || !strings.Contains(r.Err, "--dev-allow-lan") {
			t.Errorf("--listen %s: exit %d, %q", listen, r.Code, r.Err)
		}
	}
	for _, args := range [][]string{{"--dev", filepath.Join(dir, "none")}, {"--dev", dir, "--listen", "localhost:1"}} {
		if r := cli(t, e2eDeadline, nil, append([]string{"serve"}, args...)...); r.Code != exitUsage {
			t.Errorf("%q: exit %d, %q", args, r.Code, r.Err)
		}
	}
}
