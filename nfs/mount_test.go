package nfs

import (
	"bytes"
	"strings"
	"testing"
)

func TestParseExports(t *testing.T) {
	for _, bad := range []string{"", "srv", "./srv", "/a\x00b", "/" + strings.Repeat("x", maxMountPath)} {
		if _, err := ParseExports([]string{bad}); err == nil {
			t.Errorf("export %q accepted", bad)
		}
	}
	e, err := ParseExports([]string{"/srv/home/", "/data//x/../y"})
	if err != nil || e[0] != "/srv/home" || e[1] != "/data/y" {
		t.Errorf("%q, %v", e, err)
	}
}

func TestExportsClean(t *testing.T) {
	some := Exports{"/srv/home"}
	for _, tt := range []struct {
		e         Exports
		dir, want string // want "": refused
	}{
		{some, "/srv/home", "/srv/home"},
		{some, "/srv/home/", "/srv/home"},
		{some, "//srv///home/./alice", "/srv/home/alice"},
		{some, "/srv/home/../home/bob", "/srv/home/bob"},
		{some, "/srv/home/..", ""},
		{some, "/srv/home/../../etc", ""},
		{some, "/srv/homework", ""},
		{some, "/srv", ""},
		{some, "/", ""},
		{some, "srv/home", ""},
		{some, "", ""},
		{some, "/srv/home/\x00/..", ""},
		{Exports{"/"}, "/any/where", "/any/where"},
		{nil, "/any/../where", "/where"},
		{nil, "relative", ""},
	} {
		got, ok := tt.e.clean([]byte(tt.dir))
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%q clean %q: %q, %v", tt.e, tt.dir, got, ok)
		}
	}
}

func TestMountCall(t *testing.T) {
	e := Exports{"/srv"}
	path := func(p string) []byte { return appendOpaque(nil, p) }
	for _, tt := range []struct {
		name          string
		version, proc uint32
		args          []byte
		action        mountAction
		data          []byte
	}{
		{"null", 3, 0, nil, mountForward, nil},
		{"mnt", 3, 1, path("/srv/x/../y"), mountForward, path("/srv/y")},
		{"mnt foreign", 3, 1, path("/etc"), mountAnswer, AppendSuccess(nil, 1, be32(nil, 13))},
		{"mnt v1 foreign", 1, 1, path("/etc"), mountAnswer, AppendSuccess(nil, 1, be32(nil, 13))},
		{"mnt no args", 3, 1, nil, mountAnswer, AppendAcceptError(nil, 1, AcceptGarbageArgs)},
		{"mnt trailing", 3, 1, append(path("/srv"), 0, 0, 0, 0), mountAnswer, AppendAcceptError(nil, 1, AcceptGarbageArgs)},
		{"mnt long", 3, 1, path("/srv/" + strings.Repeat("x", 1020)), mountAnswer, AppendAcceptError(nil, 1, AcceptGarbageArgs)},
		{"umnt", 3, 3, path("/srv"), mountForward, path("/srv")},
		{"umnt foreign", 3, 3, path("/etc"), mountAnswer, AppendSuccess(nil, 1, nil)},
		{"umntall", 3, 4, nil, mountAnswer, AppendSuccess(nil, 1, nil)},
		{"dump", 3, 2, nil, mountList, nil},
		{"export", 3, 5, nil, mountList, nil},
		{"exportall", 2, 6, nil, mountList, nil},
		{"exportall v3", 3, 6, nil, mountAnswer, AppendAcceptError(nil, 1, AcceptProcUnavail)},
		{"pathconf", 2, 7, path("/srv"), mountForward, path("/srv")},
		{"pathconf foreign", 2, 7, path("/etc"), mountAnswer, AppendAcceptError(nil, 1, AcceptSystemErr)},
		{"pathconf v3", 3, 7, path("/srv"), mountAnswer, AppendAcceptError(nil, 1, AcceptProcUnavail)},
	} {
		action, data := e.mountCall(&Call{XID: 1, Version: tt.version, Procedure: tt.proc}, tt.args)
		if action != tt.action || !bytes.Equal(data, tt.data) {
			t.Errorf("%s: %d % x, want %d % x", tt.name, action, data, tt.action, tt.data)
		}
	}
}

func exportList(entries ...[]string) []byte {
	var b []byte
	for _, e := range entries {
		b = appendOpaque(be32(b, 1), e[0])
		for _, g := range e[1:] {
			b = appendOpaque(be32(b, 1), g)
		}
		b = be32(b, 0)
	}
	return be32(b, 0)
}

func TestFilterList(t *testing.T) {
	e := Exports{"/srv"}
	got, err := e.filterList(mountExport, exportList([]string{"/srv/a", "host1", "host2"}, []string{"/etc", "host3"}, []string{"/srv"}))
	if err != nil || !bytes.Equal(got, exportList([]string{"/srv/a"}, []string{"/srv"})) {
		t.Errorf("EXPORT: % x, %v", got, err)
	}
	dump := func(pairs ...string) []byte {
		var b []byte
		for i := 0; i < len(pairs); i += 2 {
			b = appendOpaque(appendOpaque(be32(b, 1), pairs[i]), pairs[i+1])
		}
		return be32(b, 0)
	}
	got, err = e.filterList(mountDump, dump("internal-host", "/srv/a", "other", "/etc"))
	if err != nil || !bytes.Equal(got, dump(machineName, "/srv/a")) {
		t.Errorf("DUMP: % x, %v", got, err)
	}
	whole := exportList([]string{"/srv/a", "host1"})
	for n := range whole {
		if _, err := e.filterList(mountExport, whole[:n]); err == nil {
			t.Errorf("list cut to %d bytes accepted", n)
		}
	}
}

func FuzzMount(f *testing.F) {
	f.Add(uint32(3), uint32(1), appendOpaque(nil, "/srv/x"))
	f.Add(uint32(3), uint32(5), exportList([]string{"/srv/a", "host1"}))
	e := Exports{"/srv"}
	f.Fuzz(func(t *testing.T, version, proc uint32, args []byte) {
		action, data := e.mountCall(&Call{XID: 5, Version: version, Procedure: proc}, args)
		if action == mountAnswer {
			checkRecord(t, data, 5)
		}
		if action == mountForward && proc != mountNull {
			d := decoder{b: data}
			if p, ok := e.clean(d.opaque(maxMountPath)); !ok || d.bad || len(d.b) != 0 || !strings.HasPrefix(p, "/srv") {
				t.Fatalf("forwarded % x", data)
			}
		}
		if list, err := e.filterList(proc, args); err == nil {
			again, err := e.filterList(proc, list)
			if err != nil || !bytes.Equal(again, list) {
				t.Fatalf("filtered % x to % x, again to % x, %v", args, list, again, err)
			}
		}
	})
}
