package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// Marks around the table in README.md, which is written with docs/performance.md.
const (
	readmeBegin = "<!-- make bench writes from here -->\n"
	readmeEnd   = "<!-- to here -->\n"
)

// compare adds a row to the table in README.md; what was not measured is "".
func (r *report) compare(what, ours, quicGo, tls string) {
	r.short = append(r.short, []string{what, ours, quicGo, tls})
}

// summary is the part of README.md between the marks.
func (r *report) summary(now time.Time) string {
	var b strings.Builder
	b.WriteString("\n")
	t := table{&b}
	t.row("", "quic-fsgw", "quic-go "+version("github.com/quic-go/quic-go"), "TLS over TCP, crypto/tls")
	t.row("---", "---", "---", "---")
	for _, row := range r.short {
		t.row(row...)
	}
	fmt.Fprintf(&b, "\n%s, %s on %s/%s, %d cores, loopback", now.UTC().Format(time.DateOnly), runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if r.quick {
		b.WriteString(", a quick run")
	}
	b.WriteString(".\n\n")
	return b.String()
}

// putSummary exchanges what is between the marks of a document.
func putSummary(doc, summary string) (string, error) {
	head, rest, ok := strings.Cut(doc, readmeBegin)
	_, tail, ok2 := strings.Cut(rest, readmeEnd)
	if !ok || !ok2 {
		return "", fmt.Errorf("no place for the table: %q and behind it %q are needed", readmeBegin, readmeEnd)
	}
	return head + readmeBegin + summary + readmeEnd + tail, nil
}

// writeSummary puts the table into the file called name.
func (r *report) writeSummary(name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	doc, err := putSummary(string(b), r.summary(time.Now()))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(name, []byte(doc), 0o644)
}
