package conform

import (
	"fmt"
	"regexp"
	"strings"
)

// RFCs are the numbers of the documents, in the order of the report.
var RFCs = []int{9000, 9001, 9002, 9221, 9287, 9368, 9369}

// A Sentence is one sentence of an RFC, with single spaces.
type Sentence struct {
	RFC     int
	Section string // "4.1", "A.2"
	N       int    // among the section's sentences that are kept, from 1; 0: not a requirement
	Text    string
}

// ID names a requirement: 9000-4.1-3.
func (s *Sentence) ID() string { return fmt.Sprintf("%d-%s-%d", s.RFC, s.Section, s.N) }

var keyword = regexp.MustCompile(`\b(MUST|SHALL|REQUIRED)\b`)

// Requires reports whether a sentence demands something.
func Requires(text string) bool {
	return keyword.MatchString(text) && !strings.HasPrefix(text, `The key words "MUST"`)
}

var heading = regexp.MustCompile(`^(?:Appendix )?([0-9A-Z]+(?:\.[0-9]+)*)\.  ?\S`)

// Split takes an RFC's text (the unpaginated form) apart. The appendices' pseudocode
// and figures come out as sentences too, which nobody requires or quotes.
func Split(rfc int, text string) []Sentence {
	var all []Sentence
	section := ""
	var paragraph []string
	flush := func() {
		if section != "" {
			for _, t := range sentences(brokenWord.ReplaceAllString(strings.Join(paragraph, " "), "$1-$2")) {
				all = append(all, Sentence{RFC: rfc, Section: section, Text: t})
			}
		}
		paragraph = nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \r\n")
		if m := heading.FindStringSubmatch(line); m != nil {
			flush()
			section = m[1]
			continue
		}
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || strings.HasPrefix(trimmed, "*  ") {
			flush()
		}
		if trimmed != "" {
			paragraph = append(paragraph, strings.TrimPrefix(trimmed, "*  "))
		}
	}
	flush()
	return all
}

// brokenWord is a hyphenated word at a line's end.
var brokenWord = regexp.MustCompile(`(\w)- (\w)`)

var stop = regexp.MustCompile(`[.?!]["')\]]* +["(\[]?[A-Z0-9]`)

// sentences splits a paragraph.
func sentences(p string) []string {
	p = strings.Join(strings.Fields(p), " ")
	var out []string
	for from := 0; ; {
		m := stop.FindStringIndex(p[from:])
		if m == nil {
			break
		}
		end := from + m[0] + strings.IndexByte(p[from+m[0]:], ' ')
		if s := p[:end]; strings.HasSuffix(s, "e.g.") || strings.HasSuffix(s, "i.e.") {
			from = end
			continue
		}
		out = append(out, p[:end])
		p, from = p[end+1:], 0
	}
	if p != "" {
		out = append(out, p)
	}
	return out
}
