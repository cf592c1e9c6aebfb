package nfs

import (
	"slices"
	"testing"
)

func TestIdentityMap(t *testing.T) {
	m, err := NewIdentityMap(IdentityMapConfig{Rules: []IdentityRule{
		{SAN: "email:Alice@example.com", UID: 1001, GID: 1001, Groups: []uint32{100}},
		{SAN: "dns:laptop.example.com", UID: 1002, GID: 1002},
		{SAN: "ip:2001:db8::1", UID: 1003, GID: 1003},
		{SAN: "uri:urn:Bob", UID: 1001, GID: 1001},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		sans []string
		uid  uint32
	}{
		{[]string{"email:alice@EXAMPLE.com"}, 1001},
		{[]string{"dns:LAPTOP.example.com.", "email:alice@example.com"}, 1001},
		{[]string{"dns:laptop.example.com"}, 1002},
		{[]string{"ip:2001:DB8:0::1"}, 1003},
		{[]string{"uri:urn:Bob"}, 1001},
		{[]string{"uri:urn:bob"}, SquashID},
		{[]string{"upn:alice@example.com"}, SquashID},
		{[]string{"dns:x.laptop.example.com", "", "nonsense"}, SquashID},
		{nil, SquashID},
	} {
		if id := m.Identify(tt.sans); id == nil || id.UID() != tt.uid {
			t.Errorf("%q: %v, want uid %d", tt.sans, id, tt.uid)
		}
	}
	if s := m.SharedUIDs(); !slices.Equal(s, []uint32{1001}) {
		t.Errorf("shared uids %v", s)
	}
}

func TestIdentityMapRefuse(t *testing.T) {
	m, err := NewIdentityMap(IdentityMapConfig{Otherwise: Refuse})
	if err != nil {
		t.Fatal(err)
	}
	if id := m.Identify([]string{"dns:anyone"}); id != nil {
		t.Errorf("%v, want none", id)
	}
}

func TestIdentityMapErrors(t *testing.T) {
	rule := func(san string, uid uint32, groups ...uint32) IdentityRule {
		return IdentityRule{SAN: san, UID: uid, GID: 5, Groups: groups}
	}
	for name, cfg := range map[string]IdentityMapConfig{
		"no kind":     {Rules: []IdentityRule{rule("alice", 1)}},
		"no name":     {Rules: []IdentityRule{rule("dns:", 1)}},
		"wildcard":    {Rules: []IdentityRule{rule("dns:*.example.com", 1)}},
		"other kind":  {Rules: []IdentityRule{rule("cn:alice", 1)}},
		"no address":  {Rules: []IdentityRule{rule("ip:1.2.3", 1)}},
		"twice":       {Rules: []IdentityRule{rule("dns:a", 1), rule("dns:A.", 2)}},
		"root":        {Rules: []IdentityRule{rule("dns:a", 0)}},
		"17 groups":   {Rules: []IdentityRule{rule("dns:a", 1, make([]uint32, 17)...)}, Root: RootAllowed},
		"squash to -": {SquashUID: noID},
	} {
		if _, err := NewIdentityMap(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}
