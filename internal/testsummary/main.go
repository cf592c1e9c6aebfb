// Command testsummary reads the output of go test -json, shows what failed as
// it happens, and ends with a line per package and the totals:
//
//	12 passed, 0 failed, 0 skipped
//
// It exits with 1 when a test or a package failed, or when nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// event is one line of go test -json.
type event struct {
	Action     string
	Package    string
	ImportPath string // build-output events name this instead
	Test       string
	Output     string
	Elapsed    float64
}

// counts of one package.
type counts struct {
	passed, failed, skipped int
	broken                  bool // failed as a whole: did not build, or ended early
	seconds                 float64
}

// summary reads events and collects counts.
type summary struct {
	out    io.Writer
	total  map[string]*counts
	output map[string][]string // of tests that still run
}

const keptLines = 2000 // of output per test

func main() {
	s := &summary{out: os.Stdout, total: map[string]*counts{}, output: map[string][]string{}}
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(1)
	}
	if !s.print() {
		os.Exit(1)
	}
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(s.out, lines.Text()) // what go itself says, outside of JSON
			continue
		}
		s.event(e)
	}
	return lines.Err()
}

func (s *summary) event(e event) {
	if e.Action == "build-output" {
		fmt.Fprint(s.out, e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	c := s.total[e.Package]
	if c == nil {
		c = &counts{}
		s.total[e.Package] = c
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		if len(s.output[key]) < keptLines {
			s.output[key] = append(s.output[key], e.Output)
		}
		return
	case "pass", "skip", "fail":
	default:
		return
	}
	if e.Action != "pass" && e.Test != "" || e.Action == "fail" {
		fmt.Fprint(s.out, strings.Join(s.output[key], ""))
	}
	delete(s.output, key)
	switch {
	case e.Test == "":
		c.seconds = e.Elapsed
		c.broken = e.Action == "fail"
	case e.Action == "pass":
		c.passed++
	case e.Action == "fail":
		c.failed++
	default:
		c.skipped++
	}
}

// print writes the end of the report; false: something failed.
func (s *summary) print() bool {
	var passed, failed, skipped, broken int
	fmt.Fprintln(s.out)
	for _, name := range slices.Sorted(maps.Keys(s.total)) {
		c := s.total[name]
		word := "ok  "
		switch {
		case c.broken || c.failed > 0:
			word = "FAIL"
			broken++
		case c.passed+c.skipped == 0:
			continue // no test files
		}
		fmt.Fprintf(s.out, "%s  %-60s %5d passed %3d failed %3d skipped  %6.1fs\n", word, name, c.passed, c.failed, c.skipped, c.seconds)
		passed, failed, skipped = passed+c.passed, failed+c.failed, skipped+c.skipped
	}
	if broken > 0 && failed == 0 {
		failed = broken // a package that did not even build is a failure too
	}
	fmt.Fprintf(s.out, "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return broken == 0 && failed == 0 && passed > 0
}
