package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

// The versions in the documents are those that were measured: go.mod's.
func TestVersions(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"github.com/quic-go/quic-go", "golang.org/x/net"} {
		if v := version(module); !strings.Contains(string(mod), module+" "+v+"\n") {
			t.Errorf("%s %s is not what go.mod requires", module, v)
		}
	}
	var r report
	if want := version("github.com/quic-go/quic-go"); !strings.Contains(r.document(), want) || !strings.Contains(r.summary(time.Now()), want) {
		t.Errorf("the documents do not say quic-go %s", want)
	}
}

func TestSummaryInDocument(t *testing.T) {
	var r report
	r.compare("Gbit/s", "12", "3", "")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	doc := "# Title\n\n" + readmeBegin + "old\n" + readmeEnd + "\nend\n"
	for range 2 { // the second time over the first
		var err error
		if doc, err = putSummary(doc, r.summary(now)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"# Title\n", "| Gbit/s | 12 | 3 |  |\n", "2026-01-02", "\nend\n"} {
		if strings.Count(doc, want) != 1 {
			t.Errorf("%q stands %d times in\n%s", want, strings.Count(doc, want), doc)
		}
	}
	if strings.Contains(doc, "old") {
		t.Errorf("what was there before is still there:\n%s", doc)
	}
	for _, bad := range []string{"", readmeBegin, readmeEnd + readmeBegin} {
		if got, err := putSummary(bad, "x"); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}
