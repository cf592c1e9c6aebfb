package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestClientCongestion: what client commands send follows the flag, then the
// configuration, and an unknown algorithm is a mistake of usage.
func TestClientCongestion(t *testing.T) {
	file := filepath.Join(t.TempDir(), "client.yaml")
	if err := os.WriteFile(file, []byte("client: {congestion: bbr}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{"": "bbr", "newreno": "newreno"} {
		f := trustFlags{config: file, congestion: flag}
		if err := f.apply(); err != nil || f.congestion != want {
			t.Errorf("--congestion %q: %q, %v, want %q", flag, f.congestion, err, want)
		}
	}
	f := trustFlags{config: file, congestion: "vegas"}
	if err := f.apply(); err == nil || !strings.Contains(err.Error(), "one of newreno, cubic, bbr") {
		t.Errorf("--congestion vegas: %v", err)
	}
}
