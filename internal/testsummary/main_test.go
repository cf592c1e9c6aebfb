package main

import (
	"strings"
	"testing"
)

func run(t *testing.T, input string) (string, bool) {
	t.Helper()
	var b strings.Builder
	s := &summary{out: &b, total: map[string]*counts{}, output: map[string][]string{}}
	if err := s.read(strings.NewReader(input)); err != nil {
		t.Fatal(err)
	}
	ok := s.print()
	return b.String(), ok
}

const passing = `{"Action":"run","Package":"a","Test":"T"}
{"Action":"output","Package":"a","Test":"T","Output":"quiet\n"}
{"Action":"pass","Package":"a","Test":"T","Elapsed":0.1}
{"Action":"pass","Package":"a","Elapsed":0.2}
`

func TestSummary(t *testing.T) {
	tests := []struct {
		name, input, want, not string
		ok                     bool
	}{
		{"pass", passing, "\n1 passed, 0 failed, 0 skipped\n", "quiet", true},
		{"nothing", "", "0 passed, 0 failed, 0 skipped", "", false},
		{"fail", passing + `{"Action":"output","Package":"b","Test":"U","Output":"loud\n"}
{"Action":"fail","Package":"b","Test":"U"}
{"Action":"fail","Package":"b"}
`, "loud", "quiet", false},
		{"skip is shown", passing + `{"Action":"output","Package":"a","Test":"V","Output":"why\n"}
{"Action":"skip","Package":"a","Test":"V"}
`, "why", "", true},
		{"does not build", passing + `{"ImportPath":"c","Action":"build-output","Output":"c.go:1: oops\n"}
{"Action":"fail","Package":"c"}
`, "1 passed, 1 failed, 0 skipped", "", false},
		{"not JSON", "go: something\n" + passing, "go: something", "", true},
	}
	for _, tt := range tests {
		got, ok := run(t, tt.input)
		if ok != tt.ok || !strings.Contains(got, tt.want) || (tt.not != "" && strings.Contains(got, tt.not)) {
			t.Errorf("%s: %v\n%s", tt.name, ok, got)
		}
	}
}
