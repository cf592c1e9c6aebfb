package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// What a log writer is given arrives whole and in order, in a pipe whose reader
// is late and in a file that is appended to.
func TestLogWriter(t *testing.T) {
	var want bytes.Buffer
	lines := make([][]byte, 400)
	for i := range lines {
		lines[i] = fmt.Appendf(nil, "%d %s\n", i, bytes.Repeat([]byte{'x'}, i*37%9000))
		want.Write(lines[i])
	}
	write := func(w io.Writer) error {
		for _, l := range lines {
			if n, err := w.Write(l); err != nil || n != len(l) {
				return fmt.Errorf("%d of %d bytes: %w", n, len(l), err)
			}
		}
		return nil
	}
	r, p, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	done := make(chan error, 1)
	go func() {
		err := write(newLogWriter(p)) // fills the pipe many times over
		_ = p.Close()
		done <- err
	}()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("pipe: %d bytes, want %d, %v", len(got), want.Len(), err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}

	name := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w := newLogWriter(f)
	if err := write(w); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("file: %d bytes, want %d, %v", len(got), want.Len(), err)
	}
	if _, err := w.Write([]byte("late")); err == nil {
		t.Error("a closed file took a line")
	}
}
