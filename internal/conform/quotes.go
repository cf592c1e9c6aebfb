package conform

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// A Quote is what a comment quotes of an RFC, in the form
//
//	// RFC 9000, Section 4.1: "A receiver MUST close the connection [...] limits."
//
// Further quotes in the same comment belong to the section named last. Text may
// come before the first, and [...] stands for words that were left out.
type Quote struct {
	RFC     int
	Section string
	Parts   []string // between the omissions, with single spaces
	File    string   // below the repository's root, with slashes
	Line    int
	Func    string // the declaration it is in or above: "Conn.onCrypto"
	Test    bool   // in a _test.go file
}

// citation is "RFC 9000, Section 4.1:", also further down "Section 4.1:" or
// "Section 4.1 says" alone, and quotation is a text in quotes.
var (
	citation  = regexp.MustCompile(`(?:RFC (\d{4})(?:,|:|\)|;)? ?)?(?:(?:Section|Appendix) ([0-9A-Z]+(?:\.[0-9]+)*))|RFC (\d{4})`)
	quotation = regexp.MustCompile(`"((?:[^"]|"(?:[a-z_]+|quic ku|)")*)"`) // with names in quotes inside
)

// Quotes finds every quote of the seven RFCs in the Go files below root.
func Quotes(root string) ([]Quote, error) {
	var all []Quote
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return fs.SkipDir
		}
		rel, _ := filepath.Rel(root, path)
		rel = filepath.ToSlash(rel)
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasPrefix(rel, "internal/conform/") {
			return nil
		}
		q, err := fileQuotes(path, rel)
		all = append(all, q...)
		return err
	})
	return all, err
}

// fileQuotes finds the quotes of one file.
func fileQuotes(path, rel string) ([]Quote, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var all []Quote
	for _, group := range f.Comments {
		for _, q := range groupQuotes(group.Text()) {
			q.File, q.Line = rel, fset.Position(group.Pos()).Line
			q.Func = declName(f, group)
			q.Test = strings.HasSuffix(rel, "_test.go")
			all = append(all, q)
		}
	}
	return all, nil
}

// groupQuotes takes a comment apart.
func groupQuotes(text string) []Quote {
	text = strings.Join(strings.Fields(text), " ")
	quoted := quotation.FindAllStringSubmatchIndex(text, -1)
	var all []Quote
	rfc, section := 0, ""
	at := 0
	for _, m := range quoted {
		// The citations in front of it, outside of other quotes.
		for _, c := range citation.FindAllStringSubmatch(text[min(at, m[0]):m[0]], -1) {
			if n := c[1] + c[3]; n != "" {
				rfc, _ = strconv.Atoi(n)
				section = ""
			}
			if c[2] != "" {
				section = c[2]
			}
		}
		at = m[1]
		if section == "" || !known(rfc) {
			continue
		}
		q := Quote{RFC: rfc, Section: section}
		for part := range strings.SplitSeq(text[m[2]:m[3]], "[...]") {
			if part = strings.Trim(part, " ,"); part != "" {
				q.Parts = append(q.Parts, part)
			}
		}
		if words := len(strings.Fields(text[m[2]:m[3]])); words >= 3 {
			all = append(all, q)
		}
	}
	return all
}

func known(rfc int) bool {
	for _, n := range RFCs {
		if n == rfc {
			return true
		}
	}
	return false
}

// declName names the declaration that a comment is in, or documents.
func declName(f *ast.File, g *ast.CommentGroup) string {
	for _, d := range f.Decls {
		from := d.Pos()
		var doc *ast.CommentGroup
		name := ""
		switch d := d.(type) {
		case *ast.FuncDecl:
			doc, name = d.Doc, d.Name.Name
			if d.Recv != nil && len(d.Recv.List) == 1 {
				name = receiver(d.Recv.List[0].Type) + "." + name
			}
		case *ast.GenDecl:
			doc, name = d.Doc, specName(d, g)
		}
		if doc != nil {
			from = doc.Pos()
		}
		if g.Pos() >= from && g.Pos() < d.End() {
			return name
		}
	}
	return ""
}

func receiver(t ast.Expr) string {
	if s, ok := t.(*ast.StarExpr); ok {
		t = s.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name
	}
	return "?"
}

// specName names the constant, variable or type that a comment of a group stands at.
func specName(d *ast.GenDecl, g *ast.CommentGroup) string {
	name := ""
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			name = s.Name.Name
		case *ast.ValueSpec:
			name = s.Names[0].Name
		}
		if s.End() > g.Pos() {
			break
		}
	}
	return name
}

// In reports whether text holds all the quote's parts, in order. A quote may
// begin in the middle of a sentence with a capital letter, or the other way
// round, and end it with a full stop.
func (q *Quote) In(text string) bool {
	for i, p := range q.Parts {
		if i == len(q.Parts)-1 {
			p = strings.TrimRight(p, ".,;")
		}
		_, after, ok := strings.Cut(text, p)
		if !ok {
			_, after, ok = strings.Cut(text, otherCase(p))
		}
		if !ok {
			return false
		}
		text = after
	}
	return true
}

// otherCase changes the case of the first letter.
func otherCase(s string) string {
	if s == "" || s[0] < 'A' || s[0]|0x20 < 'a' || s[0]|0x20 > 'z' {
		return s
	}
	return string(s[0]^0x20) + s[1:]
}
