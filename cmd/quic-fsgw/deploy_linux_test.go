package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The units of deploy/systemd are what systemd takes without a remark, and
// start commands that exist.
func TestSystemdUnits(t *testing.T) {
	units, err := filepath.Glob("../../deploy/systemd/*.service")
	if err != nil || len(units) < 2 {
		t.Fatalf("units: %q, %v", units, err)
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		checkExecStart(t, unit, string(text))
		// The program is installed nowhere while its tests run.
		moved := filepath.Join(dir, filepath.Base(unit))
		if err := os.WriteFile(moved, []byte(strings.ReplaceAll(string(text), "/usr/bin/quic-fsgw", program(t))), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, moved)
	}
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", args...)
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

func checkExecStart(t *testing.T, unit, text string) {
	t.Helper()
	_, line, ok := strings.Cut(text, "\nExecStart=/usr/bin/quic-fsgw ")
	line, _, _ = strings.Cut(line, "\n")
	words := strings.Fields(line)
	if !ok || len(words) == 0 {
		t.Errorf("%s starts no quic-fsgw", unit)
		return
	}
	i := slices.IndexFunc(commands(), func(c command) bool { return c.name == words[0] })
	if i < 0 {
		t.Errorf("%s starts %q, which is no command", unit, words[0])
		return
	}
	_, help, _ := do(t, words[0], "--help")
	for _, w := range words[1:] {
		if strings.HasPrefix(w, "-") && !strings.Contains(help, "\n  "+w+" ") {
			t.Errorf("%s: %s has no flag %s", unit, words[0], w)
		}
	}
}
