// Command extract writes requirements.txt from the text of the RFCs:
//
//	go run ./internal/conform/extract DIR
//
// DIR holds rfc9000.txt and so on, in the unpaginated form of the RFC Editor. It
// is run from the repository's root, when a comment quotes a sentence that the
// file does not have yet, and ends with 1 if a quote is nowhere in its section.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"github.com/quic-fsgw/quic-fsgw/internal/conform"
)

const target = "internal/conform/requirements.txt"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "extract: usage: extract DIR (with rfc9000.txt, rfc9001.txt, ...)")
		os.Exit(2)
	}
	if err := extract(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "extract:", err)
		os.Exit(1)
	}
}

func extract(dir string) error {
	quotes, err := conform.Quotes(".")
	if err != nil {
		return err
	}
	var out bytes.Buffer
	out.WriteString("# Written by internal/conform/extract. Numbered: requirements. With a dash: other sentences quoted in the code.\n")
	wrong := 0
	for _, rfc := range conform.RFCs {
		text, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("rfc%d.txt", rfc)))
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "\nRFC %d sha256 %x\n", rfc, sha256.Sum256(text))
		wrong += section(&out, conform.Split(rfc, string(text)), quotes, rfc)
	}
	if err := os.WriteFile(target, out.Bytes(), 0o644); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%d quotes are not in the RFC's section", wrong)
	}
	return nil
}

// section writes what is kept of an RFC and returns how many quotes are wrong.
func section(out *bytes.Buffer, all []conform.Sentence, quotes []conform.Quote, rfc int) (wrong int) {
	by := map[string][]conform.Sentence{}
	var order []string
	for _, s := range all {
		if by[s.Section] == nil {
			order = append(order, s.Section)
		}
		by[s.Section] = append(by[s.Section], s)
	}
	quoted := map[string]bool{}
	for i := range quotes {
		q := &quotes[i]
		if q.RFC != rfc {
			continue
		}
		of := conform.Quoted(by[q.Section], q)
		if of == nil {
			wrong++
			fmt.Fprintf(os.Stderr, "%s:%d: RFC %d, Section %s: not there: %q\n", q.File, q.Line, q.RFC, q.Section, q.Parts)
		}
		for _, s := range of {
			quoted[s.Section+" "+s.Text] = true
		}
	}
	for _, name := range order {
		title, n := false, 0
		for _, s := range by[name] {
			required := conform.Requires(s.Text)
			if !required && !quoted[name+" "+s.Text] {
				continue
			}
			if !title {
				fmt.Fprintf(out, "== %s\n", name)
				title = true
			}
			mark := "-"
			if required {
				n++
				mark = fmt.Sprint(n)
			}
			fmt.Fprintf(out, "%s %s\n", mark, s.Text)
		}
	}
	return wrong
}
