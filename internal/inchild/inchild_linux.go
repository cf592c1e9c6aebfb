// Package inchild runs tests in a process of their own, in namespaces of the
// kernel that nothing else of the machine is in.
package inchild

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mark names the test that a child is for.
const mark = "QUIC_FSGW_TEST_IN_CHILD"

// limit is how long a child may take.
const limit = 3 * time.Minute

// Network is a network namespace; its process is root there, whoever runs the
// tests, where the kernel lets users make namespaces.
func Network() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
}

// Run runs the calling test again in a process with attr, and returns true there.
// In the process that called it the test fails if it did not pass there.
func Run(t *testing.T, attr *syscall.SysProcAttr) bool {
	t.Helper()
	if os.Getenv(mark) == t.Name() {
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout="+limit.String())
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the kernel does not let this user make namespaces: %v (run the tests as root, or allow user namespaces)", err)
	}
	t.Logf("in a process of its own:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a process of its own: %v", err)
	}
	return false
}
