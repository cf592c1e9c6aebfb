package config

import (
	"fmt"
	"strings"
)

// Problem is one thing wrong with a file, and where.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0: unknown
	Path         string // such as routes[0].match.alpn; empty: the file as a whole
	What         string
	Hint         string // what to do; may be empty
}

func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.What)
	if p.Hint != "" {
		fmt.Fprintf(&b, " (%s)", p.Hint)
	}
	return b.String()
}

// Problems is every error of a file at once, in the file's order.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// closest finds the known word the writer most likely meant.
func closest(word string, known []string) string {
	best, bestDistance := "", 1+max(1, len(word)/3)
	for _, k := range known {
		if d := distance(strings.ToLower(word), k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the single-character edits between two short words; words
// beyond 64 octets are far from everything.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// didYouMean is the hint for a word that is none of known.
func didYouMean(word string, known []string) string {
	if c := closest(word, known); c != "" {
		return "did you mean " + c + "?"
	}
	if len(known) == 1 {
		return "use " + known[0]
	}
	return "use one of " + strings.Join(known, ", ")
}
