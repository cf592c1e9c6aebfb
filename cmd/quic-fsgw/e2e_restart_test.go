//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// An upload is one `cp` of a crowd.
type upload struct {
	cmd  *exec.Cmd
	done chan error
	err  bytes.Buffer
}

// crowd runs n uploads at once, each from its own process, stops the server when
// some are under way, starts it again, and waits for all. Whoever says that the
// copy is done has it whole; whoever does not says so, and has left nothing under
// the name; and the next attempt of these succeeds.
func crowd(t *testing.T, n int, target func(i int) (args, env []string, file string), underWay func(), stop func(), restart func()) {
	t.Helper()
	local := filepath.Join(t.TempDir(), "file")
	want := randomBytesFile(t, local, 24<<20)
	start := func(i int) *upload {
		args, env, _ := target(i)
		u := &upload{cmd: exec.Command(program(t), append([]string{"cp", local}, args...)...), done: make(chan error, 1)}
		u.cmd.Env, u.cmd.Stderr = append(os.Environ(), env...), &u.err
		if err := u.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { u.done <- u.cmd.Wait() }()
		t.Cleanup(func() { _ = u.cmd.Process.Kill() })
		return u
	}
	var all []*upload
	for i := range n {
		all = append(all, start(i))
	}
	underWay()
	stop()
	restart()
	failed := 0
	for i, u := range all {
		if !u.ended(t, i, target, want) {
			failed++
			if again := start(i); !again.ended(t, i, target, want) {
				t.Errorf("copy %d failed again: %s", i, again.err.String())
			}
		}
	}
	t.Logf("of %d copies %d failed and were repeated", n, failed)
	if failed == 0 {
		t.Error("no copy failed: none was under way when the server was stopped")
	}
}

// ended waits for an upload and judges what it left.
func (u *upload) ended(t *testing.T, i int, target func(i int) (args, env []string, file string), want string) bool {
	t.Helper()
	select {
	case <-u.done:
	case <-time.After(3 * time.Minute):
		t.Fatalf("copy %d has not ended", i)
	}
	_, _, file := target(i)
	_, err := os.Lstat(file)
	code, text := u.cmd.ProcessState.ExitCode(), u.err.String()
	switch {
	case code == 0:
		if got := fileHash(t, file); got != want {
			t.Errorf("copy %d is said to be done, and is not what was copied", i)
		}
		return true
	case err == nil && fileHash(t, file) != want:
		t.Errorf("copy %d failed and left a part under its name", i)
	case code != exitFailed && code != exitRemote || !strings.HasPrefix(text, "quic-fsgw: cp: "):
		t.Errorf("copy %d: exit status %d, %q", i, code, text)
	}
	return false
}

// Servers that are killed and started again while fifty clients copy.
func TestBackendRestarted(t *testing.T) {
	const each = 25
	t.Run("SMB", func(t *testing.T) {
		t.Parallel()
		s, flags := startSecureSMB(t)
		crowd(t, each, func(i int) (args, env []string, file string) {
			name := fmt.Sprintf("f%d", i)
			return append([]string{s.url(name)}, flags...), smbPassword, s.path(name)
		}, func() { s.received(t, each/5, 1<<20) }, s.smbd.Stop, func() { s.smbd.Restart(t) })
	})
	t.Run("NFS", func(t *testing.T) {
		t.Parallel()
		s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
		crowd(t, each, func(i int) (args, env []string, file string) {
			name := fmt.Sprintf("/f%d", i)
			return append([]string{s.url(name)}, s.trust["alice"]...), nil, s.nfs.Dir + name
		}, func() { s.received(t, each/5, 1<<20) }, s.nfs.Stop, func() { s.nfs.Restart(t) })
	})
}

// received waits until the gateway has got more than n stream bytes on each of
// several connections.
func (g *gatewayProcess) received(t *testing.T, conns int, n uint64) {
	t.Helper()
	eventually(t, "copies under way", func() bool {
		ready := 0
		for _, c := range g.Status().Connections {
			if c.BytesIn > n {
				ready++
			}
		}
		return ready >= conns
	})
}
