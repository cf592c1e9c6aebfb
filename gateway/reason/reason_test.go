package reason

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	type key struct {
		layer Layer
		name  string
	}
	seen := map[key]bool{}
	for _, r := range All() {
		if r.Name == "" || strings.Trim(r.Name, "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("%q can't be a metric label", r.Name)
		}
		k := key{r.Layer, r.Name}
		if seen[k] {
			t.Errorf("%s stands twice", r.Name)
		}
		seen[k] = true
		if r.Cause == "" || (r.Layer == Silent) != (r.Word == "") {
			t.Errorf("%s is incomplete", r.Name)
		}
		if (r.Layer == Alert) != (r.Code >= 0x100 && r.Code <= 0x1ff) {
			t.Errorf("%s: code 0x%x is not one of %s", r.Name, r.Code, r.Layer)
		}
	}
}

// The document holds exactly this table; UPDATE=1 writes it there.
func TestDocument(t *testing.T) {
	const begin, end = "<!-- table: begin -->\n", "<!-- table: end -->\n"
	file := filepath.Join("..", "..", "docs", "close-codes.md")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), begin)
	table, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no marks around its table", file)
	}
	if table == Markdown() {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatal("docs/close-codes.md is not current: run UPDATE=1 go test ./gateway/reason")
	}
	if err := os.WriteFile(file, []byte(head+begin+Markdown()+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
