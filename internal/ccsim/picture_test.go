package ccsim

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

const picture = "../../docs/quic-recovery.svg"

// TestGeneratedDocs compares the picture in docs with a run made now, and
// prints the windows: go test ./internal/ccsim -run GeneratedDocs -v. With
// UPDATE=1 it writes the picture (make generate).
func TestGeneratedDocs(t *testing.T) {
	charts := Charts()
	for _, c := range charts {
		t.Logf("%s; window in kB", c.Title)
		for _, tr := range c.Traces {
			t.Logf("%v: %.1f %% of the link used, %d bytes lost, %d bytes wait in the queue on average", tr.Algorithm, 100*tr.Used, tr.Result.Lost, tr.Result.MeanQueue)
			for _, s := range tr.Result.Samples {
				if s.At%(250*time.Millisecond) == 0 {
					t.Logf("  %8s %5d  round trip %-6s %s", s.At, s.Window/1000, s.Smoothed.Round(time.Millisecond), s.State)
				}
			}
		}
	}
	svg := Picture(charts)
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not XML: %v", err)
		}
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(picture, svg, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(old, svg) {
		t.Errorf("%s is not what the controllers do now (make generate)", picture)
	}
}
