package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// documented are the packages that other programs may use: there, every exported
// name says what it is for.
var documented = []string{"quic", "tlshd", "smb", "nfs"}

// TestExportedNamesAreDocumented: each exported name has a comment. One of a group of
// constants, variables or fields may be explained by the comment on the group, or by
// one on its line.
func TestExportedNamesAreDocumented(t *testing.T) {
	for _, dir := range documented {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				if n := d.Name(); n == "testdata" || n == "internal" {
					return fs.SkipDir
				}
				return nil
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, name := range undocumented(t, path, text) {
				t.Errorf("%s: %s has no comment", strings.TrimPrefix(path, "../../"), name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// undocumented are the exported names of a file that nothing is said of.
func undocumented(t *testing.T, path string, text []byte) (names []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	if f.Name.Name == "main" {
		return nil
	}
	said := func(groups ...*ast.CommentGroup) bool {
		for _, g := range groups {
			if strings.TrimSpace(g.Text()) != "" {
				return true
			}
		}
		return false
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if !d.Name.IsExported() || said(d.Doc) {
				continue
			}
			if d.Recv == nil {
				names = append(names, d.Name.Name)
			} else if of := receiver(d); ast.IsExported(of) && !wellKnown(d.Name.Name) {
				names = append(names, of+"."+d.Name.Name)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() {
						if !said(d.Doc, s.Doc, s.Comment) {
							names = append(names, s.Name.Name)
						}
						names = append(names, members(s, said)...)
					}
				case *ast.ValueSpec:
					for _, n := range s.Names {
						if n.IsExported() && !said(d.Doc, s.Doc, s.Comment) {
							names = append(names, n.Name)
						}
					}
				}
			}
		}
	}
	return names
}

// members are the methods of an exported interface that nothing is said of. Fields
// of structs are explained by their names, by the struct's comment, or their own.
func members(s *ast.TypeSpec, said func(...*ast.CommentGroup) bool) (names []string) {
	i, ok := s.Type.(*ast.InterfaceType)
	if !ok {
		return nil
	}
	for _, m := range i.Methods.List {
		for _, n := range m.Names {
			if n.IsExported() && !said(m.Doc, m.Comment) {
				names = append(names, s.Name.Name+"."+n.Name)
			}
		}
	}
	return names
}

// receiver is the name of a method's type.
func receiver(d *ast.FuncDecl) string {
	x := d.Recv.List[0].Type
	for {
		switch y := x.(type) {
		case *ast.StarExpr:
			x = y.X
		case *ast.IndexExpr:
			x = y.X
		case *ast.IndexListExpr:
			x = y.X
		case *ast.Ident:
			return y.Name
		default:
			return ""
		}
	}
}

// wellKnown are methods whose meaning their interface in the standard library tells.
func wellKnown(name string) bool {
	switch name {
	case "Error", "Unwrap", "Timeout", "Temporary", "String", "Is", "As", "Read", "Write", "Close", "LocalAddr", "RemoteAddr",
		"MarshalText", "UnmarshalText", "MarshalJSON", "UnmarshalJSON", "Len", "Less", "Swap",
		"Name", "Size", "Mode", "ModTime", "IsDir", "Sys":
		return true
	}
	return false
}

// The rule itself.
func TestUndocumented(t *testing.T) {
	const text = `package p

// Group.
const (
	A = 1
	B = 2
)

const C = 1 // said
const D = 1

// T is.
type T struct{}

func (T) Error() string { return "" }
func (t *T) M() {}
func (t *T) m() {}
func F() {}
func f() {}

// I is.
type I interface {
	// One does.
	One()
	Two()
}

type U int
type v int

func (v) Exported() {}
`
	got := strings.Join(undocumented(t, "p.go", []byte(text)), " ")
	if want := "D T.M F I.Two U"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
