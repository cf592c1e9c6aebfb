package conform

import (
	"maps"
	"path"
	"slices"
	"strings"
)

// Coverage tells where requirements are quoted.
type Coverage struct {
	Places map[string][]string // by ID: "quic/flow.go Conn.onData"
	Tests  map[string][]string // by ID: "quic.TestFlowControl"
	Wrong  []Quote             // quotes that are not in their section
}

// Cover matches quotes and requirements.
func Cover(r *Requirements, quotes []Quote) *Coverage {
	c := &Coverage{Places: map[string][]string{}, Tests: map[string][]string{}}
	for i := range quotes {
		q := &quotes[i]
		found := Quoted(r.Of(q.RFC, q.Section), q)
		if found == nil {
			c.Wrong = append(c.Wrong, *q)
		}
		for _, s := range found {
			if s.N == 0 {
				continue
			}
			if q.Test && (strings.HasPrefix(q.Func, "Test") || strings.HasPrefix(q.Func, "Fuzz")) {
				add(c.Tests, s.ID(), path.Dir(q.File)+"."+q.Func)
			} else if !q.Test {
				add(c.Places, s.ID(), q.File+" "+q.Func)
			}
		}
	}
	return c
}

func add(m map[string][]string, id, what string) {
	if !slices.Contains(m[id], what) {
		m[id] = append(m[id], what)
	}
}

// Sorted returns the keys of a map in order.
func Sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
