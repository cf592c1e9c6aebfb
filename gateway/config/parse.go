package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"

	"gopkg.in/yaml.v3"
)

// Load reads and checks a file. File names in it that are not absolute start
// from its own folder. The error is Problems where the content is at fault.
func Load(name string) (*Config, error) {
	data, err := Read(name)
	if err != nil {
		return nil, err
	}
	return LoadFrom(name, data)
}

// Read reads a file as Load does, and no more of it than a configuration may have.
func Read(name string) ([]byte, error) { return readBounded(name, maxFile) }

// LoadFrom is Load of a file whose content the caller has.
func LoadFrom(name string, data []byte) (*Config, error) { return LoadWith(name, data, ReadNamed) }

// LoadWith is LoadFrom for a process that may not open files: what others the
// configuration names, of those that NamedFiles lists, come from read.
func LoadWith(name string, data []byte, read func(path string) ([]byte, error)) (*Config, error) {
	c, err := Parse(name, data)
	if err != nil {
		return nil, err
	}
	c.read = read
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return nil, fmt.Errorf("folder of %s: %w", name, err)
	}
	resolve(reflect.ValueOf(c).Elem(), dir)
	// The rows of map files are part of what the file says, so they are
	// checked with it; serve reads them again when they change.
	var problems Problems
	for i := range c.Routes {
		if n := c.Routes[i].NFS; n != nil && n.Identity.MapFile != "" {
			rows, err := c.LoadMapFile(n.Identity.MapFile)
			var ps Problems
			if errors.As(err, &ps) {
				problems = append(problems, ps...)
			}
			for i := range rows {
				if err := rows[i].CheckBackends(n); err != nil {
					problems = append(problems, Problem{File: string(n.Identity.MapFile), What: err.Error()})
				}
			}
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// ReadNamed reads one of NamedFiles, and no more of it than it may have.
func ReadNamed(path string) ([]byte, error) { return readBounded(path, maxMapFile) }

// NamedFiles lists the files whose content is the packet process's business, in
// the order of the routes.
func (c *Config) NamedFiles() []string {
	var out []string
	add := func(p Path) {
		if p != "" && !slices.Contains(out, string(p)) {
			out = append(out, string(p))
		}
	}
	for i := range c.Routes {
		if s := c.Routes[i].SMB; s != nil {
			add(s.Probe.PasswordFile)
		}
		if n := c.Routes[i].NFS; n != nil {
			add(n.Identity.MapFile)
		}
	}
	return out
}

// ReadFile reads one of NamedFiles.
func (c *Config) ReadFile(path Path) ([]byte, error) {
	if c.read == nil {
		return ReadNamed(string(path))
	}
	return c.read(string(path))
}

func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, nil
}

// resolve makes every Path in v absolute.
func resolve(v reflect.Value, dir string) {
	switch v.Kind() {
	case reflect.Struct:
		for _, f := range fields(v.Type()) {
			resolve(v.FieldByIndex(f.Index), dir)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			resolve(v.Elem(), dir)
		}
	case reflect.Slice:
		for i := range v.Len() {
			resolve(v.Index(i), dir)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(v.MapIndex(k))
			resolve(e, dir)
			v.SetMapIndex(k, e)
		}
	case reflect.String:
		t := v.Type()
		if t != reflect.TypeFor[Path]() && (t != reflect.TypeFor[LogTarget]() || v.String() == "journal") {
			return
		}
		if s := v.String(); s != "" && !filepath.IsAbs(s) {
			v.SetString(filepath.Join(dir, s))
		}
	}
}

// Parse checks data; name is used in messages only. The error is Problems and
// holds everything that is wrong.
func Parse(name string, data []byte) (*Config, error) {
	d := &decoder{file: name, pos: map[string]*yaml.Node{}}
	root, p := parseYAML(name, data)
	if p != nil {
		return nil, Problems{*p}
	}
	c := &Config{}
	d.node(root, "", reflect.ValueOf(c).Elem(), "", 0)
	if !d.tooBig {
		check(d, c)
	}
	if len(d.problems) > 0 {
		return nil, sorted(d.problems)
	}
	c.warnings, c.dec = sorted(d.warnings), d
	return c, nil
}

func sorted(ps Problems) Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return ps
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// parseYAML reads the one document of a file.
func parseYAML(name string, data []byte) (*yaml.Node, *Problem) {
	if len(data) > maxFile {
		return nil, &Problem{File: name, What: fmt.Sprintf("larger than %d bytes", maxFile)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || (err == nil && len(doc.Content) == 0) {
		return nil, &Problem{File: name, Line: 1, Column: 1, What: "the file is empty", Hint: "quic-fsgw init writes one"}
	}
	if err == nil {
		if err = dec.Decode(&next); err == nil {
			return nil, &Problem{File: name, Line: next.Line, Column: 1, What: "a second document; one file is one configuration"}
		}
		if errors.Is(err, io.EOF) {
			return doc.Content[0], nil
		}
	}
	p := &Problem{File: name, Line: 1, Column: 1, What: err.Error(), Hint: "the file is not valid YAML"}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		p.What = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			p.Line = n
		}
	}
	return nil, p
}
