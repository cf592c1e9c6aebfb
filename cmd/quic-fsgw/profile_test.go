package main

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProfileEnvironment holds the name of the files and that they are profiles.
func TestProfileEnvironment(t *testing.T) {
	prefix := filepath.Join(t.TempDir(), "cpu")
	t.Setenv(profileEnv, prefix)
	stop, err := profiled()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := profiled(); err == nil || !strings.Contains(err.Error(), "CPU profile") {
		t.Errorf("a second profile of one process: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(prefix + ".*.pprof")
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	f, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || !strings.Contains(string(b), "nanoseconds") {
		t.Errorf("no profile: %d bytes, %v", len(b), err)
	}
	t.Setenv(profileEnv, filepath.Join(t.TempDir(), "none", "cpu"))
	if _, err := profiled(); err == nil {
		t.Error("a folder that is not there was accepted")
	}
}
