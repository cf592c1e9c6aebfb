package sambatest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// The virtual machine's default place, the variable that names another, and the
// address under which it sees this machine's loopback.
const (
	DefaultVM = "/var/tmp/quic-fsgw/vm"
	VMEnv     = "QUIC_FSGW_VM"
	VMHost    = "10.0.2.2"
)

// VM boots the virtual machine that testenv/vm/build.sh made, with the kernel's
// own CIFS and NFS clients, and runs script in it as root. Its working directory
// /host is folder. The machine has no hardware acceleration: expect ten seconds
// to boot, and cryptography at a hundredth of the usual speed.
func VM(t testing.TB, folder, script string, limit time.Duration) Output {
	t.Helper()
	dir := os.Getenv(VMEnv)
	if dir == "" {
		dir = DefaultVM
	}
	if _, err := os.Stat(filepath.Join(dir, "stamp")); err != nil {
		t.Fatalf("the virtual machine is missing: %v\nrun `make interop`, which builds it (testenv/install.sh vm.packages, testenv/vm/build.sh)", err)
	}
	if err := os.WriteFile(filepath.Join(folder, "run.sh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit+30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(moduleRoot(t), "testenv", "vm", "run.sh"), folder, strconv.Itoa(int(limit.Seconds())))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("the virtual machine did not start: %v", err)
	}
	code := cmd.ProcessState.ExitCode()
	if code == 124 || code == 125 || ctx.Err() != nil {
		t.Fatalf("the virtual machine failed or was not done in %s (exit status %d):\n%s", limit, code, tail(out.String()))
	}
	return Output{Text: out.String(), Code: code}
}

// moduleRoot is the nearest folder upwards with a go.mod.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test's folder")
		}
		dir = up
	}
}
