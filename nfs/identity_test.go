package nfs

import "testing"

func TestNewIdentity(t *testing.T) {
	sixteen := make([]uint32, 16)
	for i := range sixteen {
		sixteen[i] = uint32(i + 1)
	}
	for _, tt := range []struct {
		name     string
		uid, gid uint32
		groups   []uint32
		root     Root
		ok       bool
	}{
		{"plain", 1000, 1000, nil, RootRefused, true},
		{"16 groups", 1000, 1000, sixteen, RootRefused, true},
		{"17 groups", 1000, 1000, append(sixteen, 17), RootRefused, false},
		{"uid 0", 0, 1000, nil, RootRefused, false},
		{"gid 0", 1000, 0, nil, RootRefused, false},
		{"group 0", 1000, 1000, []uint32{5, 0}, RootRefused, false},
		{"root allowed", 0, 0, []uint32{0}, RootAllowed, true},
		{"no uid", noID, 1000, nil, RootAllowed, false},
		{"no gid", 1000, noID, nil, RootAllowed, false},
		{"no group", 1000, 1000, []uint32{noID}, RootAllowed, false},
	} {
		id, err := NewIdentity(tt.uid, tt.gid, tt.groups, tt.root)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err != nil {
			continue
		}
		d := decoder{b: id.cred}
		if d.uint32() != AuthSys {
			t.Errorf("%s: flavor is not AUTH_SYS", tt.name)
		}
		sys, err := ParseAuthSys(d.opaque(maxAuthBody))
		if err != nil || sys.UID != tt.uid || sys.GID != tt.gid || len(sys.Groups) != len(tt.groups) {
			t.Errorf("%s: encoded as %+v, %v", tt.name, sys, err)
		}
	}
}
