package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Schema is the JSON schema (2020-12) of the file, for editors. It says what
// one key alone can say; check knows the rest.
func Schema() ([]byte, error) {
	s := structSchema(reflect.TypeFor[Config]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "quic-fsgw configuration"
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("write schema: %w", err)
	}
	return b.Bytes(), nil
}

func structSchema(t reflect.Type) map[string]any {
	props := map[string]any{}
	var required []string
	for _, f := range fields(t) {
		key := f.Tag.Get("yaml")
		p := typeSchema(f.Type, f.Tag)
		p["description"] = f.Tag.Get("doc")
		if def := f.Tag.Get("default"); def != "" && f.Type.Kind() != reflect.Slice {
			p["default"] = schemaValue(f.Type, def)
		}
		props[key] = p
		switch f.Type.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Struct:
		default:
			if !hasDefault(f.Tag) {
				required = append(required, key)
			}
		}
	}
	s := map[string]any{"type": "object", "additionalProperties": false, "properties": props}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func typeSchema(t reflect.Type, tag reflect.StructTag) map[string]any {
	switch t.Kind() {
	case reflect.Pointer:
		return typeSchema(t.Elem(), tag)
	case reflect.Struct:
		return structSchema(t)
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": typeSchema(t.Elem(), tag)}
	case reflect.Slice:
		item := typeSchema(t.Elem(), tag)
		list := map[string]any{"type": "array", "items": item}
		if t == reflect.TypeFor[Names]() || t == reflect.TypeFor[Addrs]() {
			return map[string]any{"oneOf": []any{item, list}}
		}
		return list
	}
	return scalarSchema(t, tag)
}

func scalarSchema(t reflect.Type, tag reflect.StructTag) map[string]any {
	s := map[string]any{"type": "string"}
	switch t {
	case reflect.TypeFor[bool]():
		s["type"] = "boolean"
	case reflect.TypeFor[Size]():
		s = map[string]any{"type": []string{"string", "integer"}}
	case reflect.TypeFor[Duration]():
		s["examples"] = []string{"500ms", "30s", "5m"}
	case reflect.TypeFor[Auto]():
		n := bounds(map[string]any{"type": "integer"}, t, tag)
		s = map[string]any{"oneOf": []any{map[string]any{"const": "auto"}, n}}
	case reflect.TypeFor[int]():
		s = bounds(map[string]any{"type": "integer"}, t, tag)
	default:
		if enum := tag.Get("enum"); enum != "" {
			s["enum"] = strings.Split(enum, "|")
		}
	}
	return s
}

func bounds(s map[string]any, t reflect.Type, tag reflect.StructTag) map[string]any {
	for key, bound := range map[string]string{"minimum": "min", "maximum": "max"} {
		if text := tag.Get(bound); text != "" {
			s[key] = schemaValue(t, text)
		}
	}
	return s
}

// schemaValue is a tag's text as JSON would have it.
func schemaValue(t reflect.Type, text string) any {
	switch t.Kind() {
	case reflect.Bool:
		return text == "true"
	case reflect.Int, reflect.Int64:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
	}
	return text
}

// Reference is docs/config.md: every key with its default and range.
func Reference() []byte {
	var b strings.Builder
	b.WriteString("# Configuration reference\n\n" +
		"Generated from the code (`UPDATE=1 go test ./gateway/config`); the same as\n" +
		"`config.schema.json`, for reading. Unknown keys are errors. Sizes are bytes or\n" +
		"take KiB, MiB, GiB, TiB (kB, MB, GB, TB for powers of ten); durations are 500ms,\n" +
		"30s, 5m, 1h30m; file names that are not absolute start from the folder of the\n" +
		"configuration file.\n\n" +
		"`quic-fsgw check -c FILE --print` shows a file with every default filled in.\n\n" +
		"| Key | Default | Values | Meaning |\n|---|---|---|---|\n")
	referenceRows(&b, "", reflect.TypeFor[Config]())
	return []byte(b.String())
}

func referenceRows(b *strings.Builder, prefix string, t reflect.Type) {
	for _, f := range fields(t) {
		path, ft := join(prefix, f.Tag.Get("yaml")), f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		inner := ft
		switch ft.Kind() {
		case reflect.Map:
			path, inner = path+".NAME", ft.Elem()
		case reflect.Slice:
			if inner = ft.Elem(); inner.Kind() == reflect.Struct {
				path += "[]"
			}
		}
		def := "required"
		if text, ok := f.Tag.Lookup("default"); ok && text != "" {
			def = "`" + text + "`"
		} else if k := f.Type.Kind(); ok || k == reflect.Pointer || k == reflect.Map || k == reflect.Slice || k == reflect.Struct {
			def = ""
		}
		values := strings.ReplaceAll(f.Tag.Get("enum"), "|", ", ")
		if f.Tag.Get("min") != "" {
			values = f.Tag.Get("min") + " to " + f.Tag.Get("max")
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", path, def, values, f.Tag.Get("doc"))
		if inner.Kind() == reflect.Struct {
			referenceRows(b, path, inner)
		}
	}
}
