package conform

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestQuotes: what comments quote of the RFCs is their text.
func TestQuotes(t *testing.T) {
	r, err := ReadRequirements("requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	quotes, err := Quotes("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(quotes) < 200 {
		t.Fatalf("only %d quotes found", len(quotes))
	}
	for _, q := range Cover(r, quotes).Wrong {
		t.Errorf("%s:%d: RFC %d, Section %s does not say %q (if it does: go run ./internal/conform/extract)", q.File, q.Line, q.RFC, q.Section, q.Parts)
	}
}

// load reads all there is.
func load(t *testing.T) (*Requirements, map[string]Entry, *Coverage) {
	t.Helper()
	r, err := ReadRequirements("requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	audit, err := ReadAudit("audit.txt")
	if err != nil {
		t.Fatal(err)
	}
	quotes, err := Quotes("../..")
	if err != nil {
		t.Fatal(err)
	}
	return r, audit, Cover(r, quotes)
}

// TestAudit: each requirement is met where it is quoted and shown by a test, or
// the reason is given why it is not.
func TestAudit(t *testing.T) {
	r, audit, c := load(t)
	folders := map[string]map[string]bool{}
	exceptions := 0
	for _, s := range r.Sentences {
		if s.N == 0 {
			continue
		}
		e, ok := audit[s.ID()]
		if !ok {
			t.Errorf("%s is not in audit.txt: %s", s.ID(), s.Text)
			continue
		}
		delete(audit, s.ID())
		switch e.Status {
		case Met:
			if len(c.Places[e.ID]) == 0 {
				t.Errorf("%s: no code quotes it: %s", e.ID, s.Text)
			}
			if len(AllTests(e, c)) == 0 {
				t.Errorf("%s: no test: %s", e.ID, s.Text)
			}
		case Exception:
			exceptions++
			fallthrough
		case Library, Unused, Other, Open:
			if e.Note == "" {
				t.Errorf("%s: %s, and no reason", e.ID, e.Status)
			}
		default:
			t.Errorf("%s: status %q", e.ID, e.Status)
		}
		for _, name := range e.Tests {
			dir, test, _ := strings.Cut(name, ".")
			if folders[dir] == nil {
				folders[dir] = testsIn(t, dir)
			}
			if !folders[dir][test] {
				t.Errorf("%s: there is no %s", e.ID, name)
			}
		}
	}
	for id := range audit {
		t.Errorf("%s in audit.txt is no requirement", id)
	}
	if exceptions > MaxExceptions {
		t.Errorf("%d exceptions, at most %d", exceptions, MaxExceptions)
	}
}

// testsIn are the names of the tests in a folder of the repository.
func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Errorf("%s: no tests (%v)", dir, err)
	}
	names := map[string]bool{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testName.FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
	}
	return names
}

var testName = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)

// TestDocument: docs/conformance.md is current; UPDATE=1 writes it.
func TestDocument(t *testing.T) {
	r, audit, c := load(t)
	want := Document(r, audit, c)
	const name = "../../docs/conformance.md"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != want {
		t.Errorf("docs/conformance.md is not current (%v): run UPDATE=1 go test ./internal/conform", err)
	}
}

// TestSplit: sections, sentences, and words that a line's end has broken.
func TestSplit(t *testing.T) {
	text := "1.  First\n\n   An endpoint MUST go on, e.g. by ack-\n   eliciting packets.  It (the endpoint) MAY stop.\n\n   *  a list item\n\nAppendix A.  Last\n\nA.1.  Deeper\n\n   See Section 2.1.  The end\n"
	var got []string
	for _, s := range Split(9000, text) {
		got = append(got, s.Section+" "+s.Text)
	}
	want := []string{"1 An endpoint MUST go on, e.g. by ack-eliciting packets.", "1 It (the endpoint) MAY stop.", "1 a list item", "A.1 See Section 2.1.", "A.1 The end"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !Requires(want[0]) || Requires(want[1]) || Requires("you must") {
		t.Error("what is a requirement")
	}
}

// TestQuoteMatching: a quote of other words is none.
func TestQuoteMatching(t *testing.T) {
	of := []Sentence{{9000, "4.1", 1, `A receiver MUST close the connection if the sender violates "the" limits; see Section 11.`}, {9000, "4.1", 0, "More follows."}}
	for comment, want := range map[string]int{
		`RFC 9000, Section 4.1: "A receiver MUST close the connection [...] limits."`: 1,
		`RFC 9000, Section 4.1: "the sender violates "the" limits"`:                   1,
		`RFC 9000, Section 4.1: "limits; see Section 11. More follows."`:              2,
		`RFC 9000, Section 4.1: "a receiver MUST close the stream"`:                   0,
		`RFC 9000, Section 4.1: "limits [...] A receiver MUST close"`:                 0,
	} {
		q := groupQuotes(comment)
		if len(q) != 1 || q[0].RFC != 9000 || q[0].Section != "4.1" {
			t.Fatalf("%s: %+v", comment, q)
		}
		if got := len(Quoted(of, &q[0])); got != want {
			t.Errorf("%s: in %d sentences, want %d", comment, got, want)
		}
	}
}
