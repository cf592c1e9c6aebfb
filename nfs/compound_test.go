package nfs

import (
	"bytes"
	"strings"
	"testing"
)

// compound builds COMPOUND arguments from operations.
func compound(ops ...[]byte) []byte {
	b := appendOpaque(nil, "tag")
	b = be32(be32(b, 1), uint32(len(ops)))
	return append(b, bytes.Join(ops, nil)...)
}

func lookup(name string) []byte { return appendOpaque(be32(nil, opLookup), name) }

var (
	sequence  = append(be32(nil, opSequence), make([]byte, 32)...)
	putRootFH = be32(nil, opPutRootFH)
	getFH     = be32(nil, opGetFH)
	getAttr   = be32(be32(be32(be32(nil, opGetAttr), 2), 1), 2)
)

func TestLimitWalk(t *testing.T) {
	e := Exports{"/srv/home", "/data"}
	for _, c := range []struct {
		name  string
		ops   [][]byte
		limit string // name that is overwritten
	}{
		{"to a root", [][]byte{sequence, putRootFH, getFH, lookup("srv"), getFH, getAttr, lookup("home"), getFH}, ""},
		{"below", [][]byte{putRootFH, lookup("data"), lookup("x"), lookup("y")}, ""},
		{"beside", [][]byte{sequence, putRootFH, lookup("srv"), lookup("secret"), getFH}, "secret"},
		{"a longer name", [][]byte{putRootFH, lookup("database")}, "database"},
		{"up and beside", [][]byte{putRootFH, lookup("data"), be32(nil, opLookupP), lookup("etc")}, "etc"},
		{"not from the root", [][]byte{append(be32(nil, 22), appendOpaque(nil, "handle")...), lookup("etc")}, ""},
		{"no walk", [][]byte{sequence, lookup("etc")}, ""},
		{"dots are the server's to refuse", [][]byte{putRootFH, lookup(".."), lookup("etc")}, ""},
		{"bitmap too long", [][]byte{putRootFH, be32(be32(nil, opGetAttr), 1<<30), lookup("etc")}, ""},
	} {
		args := compound(c.ops...)
		want := bytes.Clone(args)
		if c.limit != "" {
			i := bytes.LastIndex(want, []byte(c.limit))
			copy(want[i:], strings.Repeat("/", len(c.limit)))
		}
		for cut := range args { // a call that is cut off anywhere is no other call
			Exports{"/"}.limitWalk(bytes.Clone(args[:cut]))
			e.limitWalk(bytes.Clone(args[:cut]))
		}
		if hit := e.limitWalk(args); hit != (c.limit != "") || !bytes.Equal(args, want) {
			t.Errorf("%s: overwritten %v\n got %q\nwant %q", c.name, hit, args, want)
		}
	}
}

func FuzzLimitWalk(f *testing.F) {
	f.Add(compound(sequence, putRootFH, lookup("srv"), lookup("x")))
	f.Fuzz(func(t *testing.T, args []byte) {
		before := bytes.Clone(args)
		hit := Exports{"/srv/home"}.limitWalk(args)
		if same := bytes.Equal(before, args); hit == same && !(hit && bytes.Contains(before, []byte("/"))) {
			t.Errorf("overwritten %v, same %v", hit, same)
		}
	})
}

// On a stream, in whatever pieces and fragments, the call arrives whole but for the name.
func TestLimitedCompound(t *testing.T) {
	server := startServer(t, echoCalls)
	s := newTestService(t, Config{Backends: []string{server.addr}, V4Exports: []string{"/srv/home"}})
	g := startGateway(t, s, testIdentity(t))
	for _, tail := range []int{0, 100, maxPathCall, 100 << 10} {
		args := string(compound(putRootFH, lookup("etc"))) + strings.Repeat("t", tail)
		want := strings.Replace(args, "etc", "///", 1)
		for _, size := range []int{7, 100, 5000, 1 << 20} {
			if tail > 10<<10 && size < 1000 {
				continue // more fragments than a message may have
			}
			c := g.dial(t)
			mustWrite(t, c, fragments(callRecord(9, ProgNFS, 4, 1, args), size))
			// Of a call in tiny fragments the first alone is looked at.
			if got := mustRead(t, c); !bytes.Contains(got, []byte(want)) && (size > 1000 || !bytes.Contains(got, []byte(args))) {
				t.Errorf("tail %d in fragments of %d: the server got %d bytes, and not what it should", tail, size, len(got))
			}
			c.Close()
			g.outcome(t)
		}
	}
}
