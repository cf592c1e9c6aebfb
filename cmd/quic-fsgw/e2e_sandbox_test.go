//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
)

// idsOf returns a line of /proc/PID/status of each thread of a process.
func idsOf(t testing.TB, pid int, key string) []string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of %d: %v", pid, err)
	}
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, key+":"); ok {
				out = append(out, strings.TrimSpace(rest))
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("no %s of any thread of %d", key, pid)
	}
	return out
}

// The packet process is a user of its own without any capability, under a
// system-call filter, on all its threads; so it serves, reloads, rereads a map
// file that only root can read, writes its logs, and is replaced.
func TestPacketProcessSandbox(t *testing.T) {
	dir := t.TempDir()
	audit, mapFile := filepath.Join(dir, "audit"), filepath.Join(dir, "map")
	if err := os.WriteFile(mapFile, []byte("# nobody yet\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	s.edit(t, "log: {", fmt.Sprintf("log: {audit: %q, ", audit))
	s.edit(t, "otherwise: squash", fmt.Sprintf("map_file: %q\n        otherwise: squash", mapFile))
	mustCLI(t, time.Minute, nil, "reload", "-c", s.Config)
	mustCLI(t, time.Minute, nil, s.as("alice", "ls", s.url(""))...)

	check := func() {
		t.Helper()
		worker, helper := s.Child(workerWord), s.Child(helperWord)
		for pid, caps := range map[int]string{worker: "0000000000000000", helper: "0000000000000004"} {
			if os.Geteuid() == 0 {
				uids := idsOf(t, pid, "Uid")
				if slices.Contains(strings.Fields(strings.Join(uids, " ")), "0") {
					t.Errorf("threads of %d run as %q", pid, uids)
				}
				for _, set := range []string{"CapEff", "CapPrm"} {
					for _, got := range idsOf(t, pid, set) {
						// Where it can't be given the limit, the helper keeps CAP_IPC_LOCK.
						if got != caps && !(pid == helper && got == "0000000000004004") {
							t.Errorf("%s of %d is %s, want %s", set, pid, got, caps)
						}
					}
				}
			}
			for key, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2"} {
				for _, got := range idsOf(t, pid, key) {
					if got != want {
						t.Errorf("%s of %d is %s, want %s", key, pid, got, want)
					}
				}
			}
		}
		if os.Geteuid() == 0 && idsOf(t, worker, "Uid")[0] == idsOf(t, helper, "Uid")[0] {
			t.Error("packet process and helper are the same user")
		}
	}
	check()
	s.unreadable(t)

	// The file is reread by itself when it changes.
	mark := s.Log.mark()
	if err := os.WriteFile(mapFile, []byte(`{san: "email:carol@example.com", uid: 4242, gid: 4242}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Log.wait(t, mark, "the map file to be reread", func(l logLine) bool { return l.Msg == "configuration reloaded" })
	mark = s.Log.mark()
	if err := os.WriteFile(mapFile, []byte("{nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Log.wait(t, mark, "the refusal of a bad map file", func(l logLine) bool {
		return strings.Contains(l.Msg, "the old configuration stays") && strings.Contains(l.Raw, mapFile)
	})
	mustCLI(t, time.Minute, nil, s.as("alice", "ls", s.url(""))...)

	// The next packet process has all of it again.
	mark = s.Log.mark()
	old := s.Child(workerWord)
	kill9(t, old)
	s.Log.wait(t, mark, "a new packet process", func(l logLine) bool { return l.Msg == "serving" })
	s.Log.wait(t, mark, "its helper", func(l logLine) bool { return l.Msg == "handshake helper connected" })
	mustCLI(t, time.Minute, nil, s.as("alice", "ls", s.url(""))...)
	check()
	b, err := os.ReadFile(audit)
	if err != nil || !strings.Contains(string(b), `"allowed":true`) {
		t.Errorf("audit log: %q, %v", b, err)
	}
}

// unreadable: as the packet process's user nobody can read the key, as the helper's
// with its capability one can. (That Landlock forbids it besides, and where all
// processes are one user, is tlshd's TestFileRules.)
func (s *nfsStage) unreadable(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	for word, reads := range map[string]bool{workerWord: false, helperWord: true} {
		uid, err := strconv.Atoi(strings.Fields(idsOf(t, s.Child(word), "Uid")[0])[0])
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("cat", s.serverKey)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		if reads {
			cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_DAC_READ_SEARCH}
		}
		if out, err := cmd.CombinedOutput(); (err == nil) != reads || !reads && !strings.Contains(string(out), "Permission denied") {
			t.Errorf("as the user of %s, %d: %v, %d bytes read", word, uid, err, len(out))
		}
	}
}
