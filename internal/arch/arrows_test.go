package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/quic-fsgw/quic-fsgw/"

// pkg is what go list says about a package.
type pkg struct {
	ImportPath string
	ForTest    string
	Imports    []string
	Deps       []string
}

// packages lists every package of the module, for each system it builds on:
// a forbidden import behind a build tag is one all the same.
func packages(t *testing.T) []pkg {
	t.Helper()
	var all []pkg
	for _, goos := range []string{"linux", "darwin", "windows"} {
		cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,ForTest,Imports,Deps", "./...")
		cmd.Dir = "../.."
		cmd.Env = append(cmd.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				t.Logf("%s", exit.Stderr)
			}
			t.Fatalf("go list: %v", err)
		}
		dec := json.NewDecoder(strings.NewReader(string(out)))
		for {
			var p pkg
			if err := dec.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(p.ImportPath, module) {
				all = append(all, p)
			}
		}
	}
	if len(all) == 0 {
		t.Fatal("go list found no package of this module")
	}
	return all
}

// within reports whether path is dir or below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// ours names a package of this module without the module's name; foreign is
// true for other modules, and the standard library is neither.
func ours(path string) (name string, foreign bool) {
	if name, ok := strings.CutPrefix(path, module); ok {
		return name, false
	}
	first, _, _ := strings.Cut(path, "/")
	return "", strings.Contains(first, ".") && !strings.HasPrefix(path, "vendor/")
}

// rule says what the packages below dir may reach, directly or through others.
type rule struct {
	dir    string
	ours   []string // of this module; dir itself is always allowed
	others []string // other modules
	deny   []string // of this module; where set, ours is not looked at
}

// rules are the arrows of docs/architecture.md. The first rule whose dir fits
// a package holds, so the narrow ones come first.
var rules = []rule{
	{dir: "quic/wire"},
	{dir: "quic/protect", ours: []string{"quic/wire"}, others: []string{"golang.org/x/crypto", "golang.org/x/sys"}},
	{dir: "quic/recovery", ours: []string{"quic/wire"}},
	{dir: "quic/udp", others: []string{"golang.org/x/sys"}},
	{dir: "quic/qlog", ours: []string{"quic/wire"}},
	{dir: "quic", ours: []string{"quic"}, others: []string{"golang.org/x/sys", "golang.org/x/crypto"}},
	{dir: "tlshd", others: []string{"golang.org/x/sys", "golang.org/x/crypto"}},
	{dir: "internal/backend"},
	{dir: "smb", deny: []string{"nfs", "gateway", "tlshd"}},
	{dir: "nfs", deny: []string{"smb", "gateway", "tlshd"}},
	{dir: "gateway/access"},
	{dir: "gateway/forward", ours: []string{"quic/wire", "quic/protect", "quic/udp"}, others: []string{"golang.org/x/sys", "golang.org/x/crypto"}},
	{dir: "gateway/reason"},
	{dir: "gateway/kdcproxy"},
	{dir: "gateway/admin"},
	{dir: "gateway/config", ours: []string{"gateway/access"}, others: []string{"gopkg.in/yaml.v3"}},
	{dir: "gateway/client", deny: []string{"gateway/admin"}},
}

// TestArrows enforces who may import whom.
func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		name, _ := ours(p.ImportPath)
		i := slices.IndexFunc(rules, func(r rule) bool { return within(name, r.dir) })
		if i < 0 {
			continue
		}
		for _, dep := range p.Deps {
			depName, foreign := ours(dep)
			switch {
			case depName != "" && !rules[i].allowsOurs(depName):
				t.Errorf("%s reaches %s", name, depName)
			case foreign && rules[i].deny == nil && !slices.ContainsFunc(rules[i].others, func(o string) bool { return within(dep, o) }):
				t.Errorf("%s reaches %s", name, dep)
			}
		}
	}
}

func (r rule) allowsOurs(name string) bool {
	if r.deny != nil {
		return !slices.ContainsFunc(r.deny, func(d string) bool { return within(name, d) })
	}
	return within(name, r.dir) || slices.ContainsFunc(r.ours, func(o string) bool { return within(name, o) })
}

// TestOneOwner: cmd is the top of the house, and only one
// package knows YAML.
func TestOneOwner(t *testing.T) {
	for _, p := range packages(t) {
		name, _ := ours(p.ImportPath)
		for _, dep := range p.Imports {
			depName, _ := ours(dep)
			if within(depName, "cmd") && !within(name, "cmd") {
				t.Errorf("%s imports %s", name, depName)
			}
			if within(dep, "gopkg.in/yaml.v3") && name != "gateway/config" {
				t.Errorf("%s imports YAML; gateway/config alone knows it", name)
			}
			if dep == "C" {
				t.Errorf("%s uses cgo", name)
			}
		}
	}
}

// TestNames: a package is named for what it does.
func TestNames(t *testing.T) {
	for _, p := range packages(t) {
		last := p.ImportPath[strings.LastIndexByte(p.ImportPath, '/')+1:]
		if slices.Contains([]string{"common", "util", "utils", "types", "helpers"}, last) {
			t.Errorf("%s says nothing", p.ImportPath)
		}
	}
}
