package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
)

var (
	docCommand = regexp.MustCompile("quic-fsgw ([a-z]+)((?: [^\\s|`]+)*)")
	docFlag    = regexp.MustCompile(`^--?[a-z][a-z-]*$`)
	docLink    = regexp.MustCompile(`\]\(([^)#:]+)[^)]*\)`)
	docMetric  = regexp.MustCompile(`quicfsgw_[a-z_]+`)
	docReason  = regexp.MustCompile("(?m)^\\| ((?:`[a-z_]+`(?:, )?)+) \\|")
)

// documents are the texts for people, by name.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "deploy/*", "deploy/*/*", "configs/*"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil { // a folder is none
				texts[f] = string(b)
			}
		}
	}
	if len(texts) < 15 {
		t.Fatalf("only %d documents found", len(texts))
	}
	return texts
}

// Every command and flag that a document shows exists.
func TestDocumentsCommands(t *testing.T) {
	help := map[string]string{}
	for _, c := range commands() {
		_, help[c.name], _ = do(t, c.name, "--help")
	}
	for _, end := range []string{"server", "client"} {
		_, text, _ := do(t, "bench", end, "--help")
		help["bench"] += text
	}
	shown := 0
	for file, text := range documents(t) {
		for _, m := range docCommand.FindAllStringSubmatch(text, -1) {
			if m[1] == "help" {
				continue
			}
			words := strings.Fields(m[2])
			flags := slices.ContainsFunc(words, docFlag.MatchString)
			if help[m[1]] == "" {
				// "quic-fsgw is a gateway" names no command; with a flag it would.
				if flags {
					t.Errorf("%s: %q: there is no such command", file, m[0])
				}
				continue
			}
			shown++
			for _, w := range words {
				if docFlag.MatchString(w) && !strings.Contains(help[m[1]], "\n  "+w+" ") && !strings.Contains(help[m[1]], "\n  "+w+"\n") {
					t.Errorf("%s: %q: %s has no flag %s", file, m[0], m[1], w)
				}
			}
		}
	}
	if shown < 20 {
		t.Errorf("only %d commands found in the documents", shown)
	}
}

// Links lead to files, and metrics and reasons are ones that exist.
func TestDocumentsNames(t *testing.T) {
	texts := documents(t)
	metrics := texts["../../docs/metrics.md"]
	for file, text := range texts {
		for _, m := range docLink.FindAllStringSubmatch(text, -1) {
			if m[1] == "https" {
				continue // on another machine
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", file, m[1], err)
			}
		}
		for _, name := range docMetric.FindAllString(text, -1) {
			if strings.HasSuffix(name, "_") {
				continue // the prefix of all
			}
			if !strings.Contains(metrics, "| `"+name+"` |") {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
	}
	rows := docReason.FindAllStringSubmatch(texts["../../docs/guide.md"], -1)
	if len(rows) < 5 {
		t.Errorf("the guide explains %d reasons", len(rows))
	}
	for _, row := range rows {
		for name := range strings.SplitSeq(row[1], ", ") {
			name = strings.Trim(name, "`")
			if !slices.ContainsFunc(reason.All(), func(r reason.Reason) bool { return r.Name == name }) {
				t.Errorf("docs/guide.md: there is no reason %s", name)
			}
		}
	}
}
