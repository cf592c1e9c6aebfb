package conform

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Requirements is what requirements.txt holds.
type Requirements struct {
	Digest    map[int]string // of the text that it was extracted from, SHA-256
	Sentences []Sentence     // in the RFCs' order
}

// ReadRequirements reads requirements.txt: a line "RFC 9000 sha256 ..." for each
// document, "== 4.1" for each section, "1 text" for each requirement and
// "- text" for other sentences that are quoted.
func ReadRequirements(path string) (*Requirements, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &Requirements{Digest: map[int]string{}}
	rfc, section := 0, ""
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		head, rest, _ := strings.Cut(lines.Text(), " ")
		switch {
		case head == "" || head == "#":
		case head == "RFC":
			number, digest, _ := strings.Cut(rest, " sha256 ")
			if rfc, err = strconv.Atoi(number); err != nil {
				return nil, err
			}
			r.Digest[rfc] = digest
		case head == "==":
			section = rest
		case head == "-":
			r.Sentences = append(r.Sentences, Sentence{rfc, section, 0, rest})
		default:
			n, err := strconv.Atoi(head)
			if err != nil {
				return nil, fmt.Errorf("%s: %q: a line begins with RFC, ==, - or a number", path, lines.Text())
			}
			r.Sentences = append(r.Sentences, Sentence{rfc, section, n, rest})
		}
	}
	return r, lines.Err()
}

// Of returns the sentences of a section, in order.
func (r *Requirements) Of(rfc int, section string) []Sentence {
	var of []Sentence
	for _, s := range r.Sentences {
		if s.RFC == rfc && s.Section == section {
			of = append(of, s)
		}
	}
	return of
}

// Quoted returns the sentences that a quote is of: the one that holds it, or
// the neighbours over which it reaches. None: the text is not the RFC's.
func Quoted(of []Sentence, q *Quote) []Sentence {
	for i := range of {
		if q.In(of[i].Text) {
			return of[i : i+1]
		}
	}
	for span := 2; span <= 8; span++ {
		for i := 0; i+span <= len(of); i++ {
			text := of[i].Text
			for _, s := range of[i+1 : i+span] {
				text += " " + s.Text
			}
			if q.In(text) {
				return of[i : i+span]
			}
		}
	}
	return nil
}
