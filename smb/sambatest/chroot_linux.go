package sambatest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// chroot returns the tree, or ends the test with what is missing.
func chroot(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(ChrootEnv)
	if dir == "" {
		dir = DefaultChroot
	}
	if _, err := os.Stat(filepath.Join(dir, ".quic-fsgw")); err != nil {
		t.Fatalf("Samba for the tests is missing: %v\nrun `make deps` (as root, or with sudo), or set %s to a tree that testenv/setup-chroot.sh built", err, ChrootEnv)
	}
	if os.Geteuid() != 0 {
		t.Fatalf("tests with Samba need root, to chroot: run them with sudo (`make deps` and `make test` do)")
	}
	return dir
}

// enter is what a program's process does first, in its own mount namespace: $1
// is the tree, $2 the directory that becomes /mnt, the rest the program.
const enter = `set -e
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount --bind "$2" "$1/mnt"
mount --bind "$2/hosts" "$1/etc/hosts"
tree=$1; shift 2
exec chroot "$tree" "$@"`

// command prepares a program of the tree, with dir as its /mnt.
func command(t testing.TB, ctx context.Context, dir string, args ...string) *exec.Cmd {
	t.Helper()
	tree := chroot(t)
	if err := hosts(dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", enter, "sh", tree, dir}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "KRB5_CONFIG=/mnt/krb5.conf", "KRB5CCNAME=FILE:/mnt/tickets"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// The first process of a process namespace takes all others with it.
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// hosts writes the tree's /etc/hosts. smbd looks up this machine's own name in
// every session, which without an entry and without DNS takes it five seconds.
func hosts(dir string) error {
	file := filepath.Join(dir, "hosts")
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	self, err := os.Hostname()
	if err != nil {
		return err
	}
	return os.WriteFile(file, fmt.Appendf(nil, "127.0.0.1 localhost %s %s\n", Host, self), 0o644)
}

// Output is what a client program wrote and how it ended.
type Output struct {
	Text string // stdout and stderr
	Code int    // exit status
}

// run runs a program of the tree to its end, or kills it after limit.
func run(t testing.TB, dir string, limit time.Duration, args ...string) Output {
	t.Helper()
	out, ended := runLimited(t, dir, limit, args...)
	if !ended {
		t.Fatalf("%s did not end in %s; it wrote:\n%s", args[0], limit, tail(out.Text))
	}
	return out
}

// runLimited is run; ended is false if the program was killed after limit.
func runLimited(t testing.TB, dir string, limit time.Duration, args ...string) (out Output, ended bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := command(t, ctx, dir, args...)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("%s did not start: %v", args[0], err)
	}
	return Output{Text: text.String(), Code: cmd.ProcessState.ExitCode()}, ctx.Err() == nil
}

// tail returns the last lines of s.
func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}
