package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
)

const (
	maxMapFile = 16 << 20
	maxMapRows = 100_000
	maxGroups  = 16 // RFC 5531, Appendix A: "unsigned int gids<16>;"
)

// compileRow checks one identity row.
func compileRow(d *decoder, tags []*access.Tag, path string, r *MapRow) {
	r.Matcher = compileClient(d, tags, path, Matcher{SAN: r.SAN, SHA256: r.SHA256, Tag: r.Tag})
	if (r.SAN != "" || r.Tag != "") && r.Matcher.HasWildcard() {
		d.warnAt(path, "one row per user", "every client that matches becomes uid %d, and they can take each other's NFS state", r.UID)
	}
	checkExports(d, join(path, "exports"), r.Exports)
	if len(r.Groups) > maxGroups {
		d.errorAt(join(path, "groups"), "", "%d groups; AUTH_SYS carries at most %d", len(r.Groups), maxGroups)
	}
}

// compileClient reads the part of a row that says whose it is.
func compileClient(d *decoder, tags []*access.Tag, path string, m Matcher) access.Matcher {
	n := 0
	for _, v := range []string{m.SAN, m.SHA256, m.Tag} {
		if v != "" {
			n++
		}
	}
	if n != 1 {
		d.errorAt(path, "", "needs exactly one of san, sha256 and tag")
		return access.Matcher{}
	}
	am, _ := compileMatcher(d, tags, path, m)
	return am
}

// Compile joins the rows of the file and those of its map file, which the
// caller has read with LoadMapFile, into what access looks up.
func (id *Identity) Compile(fromFile []MapRow) access.IdentityMap {
	var m access.IdentityMap
	for _, r := range slices.Concat(id.Map, fromFile) {
		u := access.Unix{UID: uint32(r.UID), GID: uint32(r.GID)}
		for _, g := range r.Groups {
			u.Groups = append(u.Groups, uint32(g))
		}
		m = append(m, access.MapEntry{Match: r.Matcher, Unix: u})
	}
	return m
}

// LoadMapFile reads a map_file.
func (c *Config) LoadMapFile(name Path) ([]MapRow, error) {
	data, err := c.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return c.ParseMapFile(string(name), data)
}

// ParseMapFile reads identity rows, one a line, written as in map:
//
//	{san: "email:alice@example.com", uid: 1001, gid: 1001, groups: [100]}
//
// Empty lines and lines that begin with # are skipped. Tags are those of c. The
// error is Problems.
func (c *Config) ParseMapFile(name string, data []byte) ([]MapRow, error) {
	var rows []MapRow
	var problems Problems
	line := 0
	for text := range bytes.Lines(data) {
		line++
		text = bytes.TrimSpace(text)
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		if len(rows) == maxMapRows || len(problems) >= 100 {
			problems = append(problems, Problem{File: name, Line: line, Column: 1,
				What: fmt.Sprintf("stopped reading: more than %d rows, or too many errors", maxMapRows)})
			break
		}
		row, ps := parseMapRow(name, line, text, c.tags)
		problems = append(problems, ps...)
		rows = append(rows, row)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return rows, nil
}

func parseMapRow(name string, line int, text []byte, tags []*access.Tag) (row MapRow, ps Problems) {
	root, p := parseYAML(name, text)
	if p != nil {
		p.Line, p.Hint = line, `such as {san: "email:alice@example.com", uid: 1001, gid: 1001}`
		return row, Problems{*p}
	}
	d := &decoder{file: name, lineBase: line - 1, pos: map[string]*yaml.Node{}}
	if d.node(root, "", reflect.ValueOf(&row).Elem(), "", 0) {
		compileRow(d, tags, "", &row)
	}
	return row, d.problems
}
