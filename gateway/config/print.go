package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// YAML writes the normalised configuration: every key, defaults included.
// Parsing it gives the same Config.
func (c *Config) YAML() ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(treeOf(reflect.ValueOf(*c))); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return b.Bytes(), nil
}

// JSON writes the same as YAML, as one indented JSON object.
func (c *Config) JSON() ([]byte, error) {
	var b, out bytes.Buffer
	writeJSON(&b, treeOf(reflect.ValueOf(*c)))
	if err := json.Indent(&out, b.Bytes(), "", "  "); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// treeOf turns a value into YAML nodes in the order of the fields.
func treeOf(v reflect.Value) *yaml.Node {
	switch v.Kind() {
	case reflect.Pointer:
		return treeOf(v.Elem())
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, f := range fields(v.Type()) {
			fv := v.FieldByIndex(f.Index)
			if skip(fv, f.Tag) {
				continue
			}
			n.Content = append(n.Content, textNode(f.Tag.Get("yaml")), treeOf(fv))
		}
		return n
	case reflect.Map:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			n.Content = append(n.Content, textNode(k.String()), treeOf(v.MapIndex(k)))
		}
		return n
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for i := range v.Len() {
			n.Content = append(n.Content, treeOf(v.Index(i)))
		}
		if v.Len() == 0 || v.Index(0).Kind() != reflect.Struct {
			n.Style = yaml.FlowStyle
		}
		return n
	}
	switch x := v.Interface().(type) {
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: scalarText(v)}
	case int:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: scalarText(v)}
	case Size:
		if _, err := strconv.Atoi(x.String()); err == nil {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: x.String()}
		}
	case Auto:
		if x != 0 {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: x.String()}
		}
	}
	return textNode(scalarText(v))
}

func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	if s == "" {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// skip leaves out what would be noise or could not be read back: the route
// kinds a route is not, and the unset alternatives of a matcher.
func skip(v reflect.Value, tag reflect.StructTag) bool {
	switch v.Kind() {
	case reflect.Pointer:
		return v.IsNil()
	case reflect.Map:
		return v.Len() == 0
	case reflect.Slice:
		return v.Len() == 0
	}
	return v.IsZero() && tag.Get("default") == "" && hasDefault(tag) || v.Kind() == reflect.Bool && !v.Bool()
}

// writeJSON writes the nodes treeOf makes.
func writeJSON(b *bytes.Buffer, n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		b.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(jsonString(n.Content[i].Value) + ":")
			writeJSON(b, n.Content[i+1])
		}
		b.WriteByte('}')
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, e := range n.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSON(b, e)
		}
		b.WriteByte(']')
	default:
		if n.Tag == "!!int" || n.Tag == "!!bool" {
			b.WriteString(n.Value)
		} else {
			b.WriteString(jsonString(n.Value))
		}
	}
}

func jsonString(s string) string {
	b, err := json.Marshal(strings.ToValidUTF8(s, "\ufffd"))
	if err != nil {
		panic("config: a string does not marshal: " + err.Error())
	}
	return string(b)
}
