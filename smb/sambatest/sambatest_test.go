//go:build linux

package sambatest

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// The fixture by itself: a server, a client, what it wrote.
func TestServerAndClient(t *testing.T) {
	s := Start(t, Options{})
	g := TCP(s.Port)
	g.Work = t.TempDir()
	if err := os.WriteFile(filepath.Join(g.Work, "hello"), []byte("hello, share\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	MustSMBClient(t, g, "put /mnt/hello hello")
	got, err := os.ReadFile(filepath.Join(s.Dir, "hello"))
	if err != nil || string(got) != "hello, share\n" {
		t.Fatalf("the share has %q, %v", got, err)
	}
	g.User, g.Password = User, "wrong"
	if out := SMBClient(t, g, "ls"); out.Code == 0 {
		t.Fatalf("a wrong password was accepted:\n%s", out.Text)
	}
}

func TestVerdicts(t *testing.T) {
	got := parseVerdicts("time: now\ntest: a\nsuccess: a\ntest: b c\nfailure: b c [\nwhy: not\n]\nskip: d\nerror: e [\n]\n")
	want := Verdicts{"a": "success", "b c": "failure", "d": "skip", "e": "error"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if worse := difference("s", Verdicts{"a": "success", "b": "failure", "c": "success"}, Verdicts{"a": "success"}); len(worse) != 1 || worse[0] != "c" {
		t.Errorf("difference: %q", worse)
	}
}
