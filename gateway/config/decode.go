package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// Bounds on what a file may ask of the decoder: aliases can make a small file
// stand for a huge tree, or for one that contains itself.
const (
	maxFile  = 4 << 20
	maxNodes = 200_000
	maxDepth = 32
)

// decoder walks the YAML tree and fills Config through the struct tags. It
// goes on after an error, so that one run reports them all.
type decoder struct {
	file     string
	lineBase int // added to every line number
	problems Problems
	warnings Problems
	pos      map[string]*yaml.Node // where each path stands in the file
	nodes    int
	tooBig   bool
}

// fail records an error at a node.
func (d *decoder) fail(n *yaml.Node, path, hint, format string, args ...any) {
	d.problems = append(d.problems, d.problem(n, path, hint, fmt.Sprintf(format, args...)))
}

func (d *decoder) problem(n *yaml.Node, path, hint, what string) Problem {
	p := Problem{File: d.file, Path: path, What: what, Hint: hint}
	if n != nil {
		p.Line, p.Column = n.Line+d.lineBase, n.Column
	}
	return p
}

// at finds the node of path, or of the closest parent that is in the file.
func (d *decoder) at(path string) *yaml.Node {
	for {
		if n := d.pos[path]; n != nil {
			return n
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return d.pos[""]
		}
		path = path[:i]
	}
}

// errorAt and warnAt are what the checks after decoding use.
func (d *decoder) errorAt(path, hint, format string, args ...any) {
	d.fail(d.at(path), path, hint, format, args...)
}

func (d *decoder) warnAt(path, hint, format string, args ...any) {
	d.warnings = append(d.warnings, d.problem(d.at(path), path, hint, fmt.Sprintf(format, args...)))
}

// written reports whether the file itself has path.
func (d *decoder) written(path string) bool { return d.pos[path] != nil }

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return "the boolean " + n.Value
	case "!!timestamp":
		return "a date"
	}
	return fmt.Sprintf("%q", n.Value)
}

// node decodes n into v. It returns false where v was left alone.
func (d *decoder) node(n *yaml.Node, path string, v reflect.Value, tag reflect.StructTag, depth int) bool {
	if d.nodes++; d.nodes > maxNodes || depth > maxDepth {
		if !d.tooBig {
			d.tooBig = true
			d.fail(n, path, "", "more than %d values or %d levels, aliases followed", maxNodes, maxDepth)
		}
		return false
	}
	if n.Kind == yaml.AliasNode {
		return d.node(n.Alias, path, v, tag, depth+1)
	}
	d.pos[path] = n
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		d.fail(n, path, "remove the key or give it a value", "no value")
		return false
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return d.node(n, path, v.Elem(), tag, depth+1)
	case reflect.Struct:
		return d.mapping(n, path, v, depth)
	case reflect.Map:
		return d.table(n, path, v, depth)
	case reflect.Slice:
		return d.list(n, path, v, tag, depth)
	}
	return d.scalar(n, path, v, tag)
}

// fields lists the keys of a struct type in order.
func fields(t reflect.Type) []reflect.StructField {
	var fs []reflect.StructField
	for f := range t.Fields() {
		if key := f.Tag.Get("yaml"); key != "" && key != "-" {
			fs = append(fs, f)
		}
	}
	return fs
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value, depth int) bool {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "", "must be a mapping, is %s", kindName(n))
		return false
	}
	known := map[string]reflect.StructField{}
	var keys []string
	for _, f := range fields(v.Type()) {
		known[f.Tag.Get("yaml")] = f
		keys = append(keys, f.Tag.Get("yaml"))
	}
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content) && !d.tooBig; i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		f, ok := known[k.Value]
		if !ok || k.Kind != yaml.ScalarNode {
			d.fail(k, path, didYouMean(k.Value, keys), "unknown key %q", k.Value)
			continue
		}
		if first := seen[k.Value]; first != nil {
			d.fail(k, path, fmt.Sprintf("it is also on line %d", first.Line+d.lineBase), "key %s is given twice", k.Value)
			continue
		}
		seen[k.Value] = k
		d.node(val, join(path, k.Value), v.FieldByIndex(f.Index), f.Tag, depth+1)
	}
	d.defaults(n, path, v, seen)
	return true
}

// defaults fills the keys that the file does not have, and complains about
// those that have no default.
func (d *decoder) defaults(n *yaml.Node, path string, v reflect.Value, seen map[string]*yaml.Node) {
	for _, f := range fields(v.Type()) {
		key := f.Tag.Get("yaml")
		if seen[key] != nil {
			continue
		}
		fv := v.FieldByIndex(f.Index)
		switch fv.Kind() {
		case reflect.Pointer, reflect.Map:
			continue
		case reflect.Struct:
			setDefaults(fv)
			continue
		}
		def, ok := f.Tag.Lookup("default")
		switch {
		case ok:
			setText(fv, def, f.Tag)
		case fv.Kind() != reflect.Slice:
			d.fail(n, join(path, key), f.Tag.Get("doc"), "is missing")
		}
	}
}

// setDefaults gives a struct that the file does not mention its defaults.
func setDefaults(v reflect.Value) {
	for _, f := range fields(v.Type()) {
		fv := v.FieldByIndex(f.Index)
		if fv.Kind() == reflect.Struct {
			setDefaults(fv)
		} else if def, ok := f.Tag.Lookup("default"); ok {
			setText(fv, def, f.Tag)
		}
	}
}

// setText sets a field from a tag. The tags are ours: a test decodes them all.
func setText(v reflect.Value, text string, tag reflect.StructTag) {
	if v.Kind() == reflect.Slice {
		list := reflect.Zero(v.Type())
		for _, one := range strings.Split(text, ",") {
			s := reflect.New(v.Type().Elem()).Elem()
			s.SetString(one)
			list = reflect.Append(list, s)
		}
		v.Set(list)
		return
	}
	if text == "" && v.Kind() == reflect.String {
		v.SetString("")
		return
	}
	if err := parseScalar(v, text, tag); err != nil {
		panic("config: default " + strconv.Quote(text) + ": " + err.Error())
	}
}

// table decodes a mapping with names of the user's own.
func (d *decoder) table(n *yaml.Node, path string, v reflect.Value, depth int) bool {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "", "must be a mapping of names, is %s", kindName(n))
		return false
	}
	v.Set(reflect.MakeMap(v.Type()))
	for i := 0; i+1 < len(n.Content) && !d.tooBig; i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		if !validName(k.Value) || k.Kind != yaml.ScalarNode {
			d.fail(k, path, "letters, digits, - and _, at most 64", "%q is not a name", k.Value)
			continue
		}
		key := reflect.ValueOf(k.Value)
		if v.MapIndex(key).IsValid() {
			d.fail(k, path, "", "name %s is given twice", k.Value)
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		if d.node(val, join(path, k.Value), e, "", depth+1) {
			v.SetMapIndex(key, e)
		}
	}
	return true
}

// validName is what routes and access rules may be called: it ends up in
// metrics and logs.
func validName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func (d *decoder) list(n *yaml.Node, path string, v reflect.Value, tag reflect.StructTag, depth int) bool {
	items := n.Content
	if n.Kind != yaml.SequenceNode {
		if t := v.Type(); n.Kind != yaml.ScalarNode || (t != reflect.TypeFor[Names]() && t != reflect.TypeFor[Addrs]()) {
			d.fail(n, path, "write [a, b] or one - item a line", "must be a list, is %s", kindName(n))
			return false
		}
		items = []*yaml.Node{n}
	}
	out := reflect.Zero(v.Type())
	for i, item := range items {
		e := reflect.New(v.Type().Elem()).Elem()
		p := path
		if n.Kind == yaml.SequenceNode {
			p = fmt.Sprintf("%s[%d]", path, i)
		}
		if d.node(item, p, e, tag, depth+1) {
			out = reflect.Append(out, e)
		}
		if d.tooBig {
			break
		}
	}
	d.pos[path] = n
	v.Set(out)
	return true
}

func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value, tag reflect.StructTag) bool {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "", "must be one value, is %s", kindName(n))
		return false
	}
	shortTag := n.ShortTag()
	var want string
	switch v.Interface().(type) {
	case bool:
		if shortTag != "!!bool" {
			want = "true or false"
		}
	case int:
		if shortTag != "!!int" {
			want = "a whole number"
		}
	case Size, Auto, Duration:
		if shortTag != "!!int" && shortTag != "!!str" {
			want = "a number or a word"
		}
	default:
		if shortTag != "!!str" {
			want = "text; put it in quotes"
		}
	}
	if want != "" {
		d.fail(n, path, "", "must be %s, is %s", want, kindName(n))
		return false
	}
	if err := parseScalar(v, n.Value, tag); err != nil {
		hint := ""
		if enum := tag.Get("enum"); enum != "" {
			hint = didYouMean(n.Value, strings.Split(enum, "|"))
		}
		d.fail(n, path, hint, "%q: %v", n.Value, err)
		return false
	}
	return true
}
