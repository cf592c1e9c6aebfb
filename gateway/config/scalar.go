package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// parseScalar reads text into v by its type, and holds it against the tags.
func parseScalar(v reflect.Value, text string, tag reflect.StructTag) error {
	if strings.ContainsRune(text, 0) {
		return errors.New("contains a NUL")
	}
	switch v.Interface().(type) {
	case bool:
		v.SetBool(text == "true")
		return nil
	case int, Size, Duration, Auto:
		n, err := parseNumber(v, text)
		if err != nil {
			return err
		}
		if err := checkBounds(v, n, tag); err != nil {
			return err
		}
		v.SetInt(n)
		return nil
	case Addr:
		a, err := ParseAddr(text)
		if text == "" && tag.Get("default") == "" && hasDefault(tag) {
			a, err = "", nil
		}
		v.SetString(string(a))
		return err
	}
	if enum := tag.Get("enum"); enum != "" && !slices.Contains(strings.Split(enum, "|"), text) {
		return errors.New("not a value this key knows")
	}
	if text == "" && !hasDefault(tag) {
		return errors.New("empty")
	}
	v.SetString(text)
	return nil
}

func hasDefault(tag reflect.StructTag) bool {
	_, ok := tag.Lookup("default")
	return ok
}

// parseNumber reads the notation of v's type into the integer it holds.
func parseNumber(v reflect.Value, text string) (int64, error) {
	switch v.Interface().(type) {
	case Size:
		n, err := ParseSize(text)
		return int64(n), err
	case Duration:
		n, err := ParseDuration(text)
		return int64(n), err
	case Auto:
		if text == "auto" {
			return 0, nil
		}
	}
	n, err := strconv.ParseInt(text, 0, 64)
	if err != nil {
		return 0, errors.New("not a whole number")
	}
	if _, ok := v.Interface().(Auto); ok && n == 0 {
		return 0, errors.New("not a number from 1, and not the word auto")
	}
	return n, nil
}

// checkBounds holds n against the min and max tags; the word auto is inside.
func checkBounds(v reflect.Value, n int64, tag reflect.StructTag) error {
	if _, ok := v.Interface().(Auto); ok && n == 0 {
		return nil
	}
	for _, bound := range []string{"min", "max"} {
		text := tag.Get(bound)
		if text == "" {
			continue
		}
		limit, err := parseNumber(v, text)
		if err != nil {
			return fmt.Errorf("internal: bound %q: %w", text, err)
		}
		if (bound == "min" && n < limit) || (bound == "max" && n > limit) {
			return fmt.Errorf("must be from %s to %s", tag.Get("min"), tag.Get("max"))
		}
	}
	return nil
}

// scalarText is the inverse of parseScalar.
func scalarText(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case bool:
		return strconv.FormatBool(x)
	case int:
		return strconv.Itoa(x)
	case fmt.Stringer:
		return x.String()
	}
	return v.String()
}
