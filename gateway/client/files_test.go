package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/devserver"
)

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// tcpDial stands in for QUIC: each stream is a TCP connection to addr.
func tcpDial(addr string) Dial {
	return func(context.Context, string, string, uint16) (*Session, error) {
		open := func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
		return &Session{Open: open, Close: func() error { return nil }}, nil
	}
}

func devServer(tb testing.TB) (dir, addr string) {
	tb.Helper()
	dir = tb.TempDir()
	s, err := devserver.New(devserver.Config{Dir: dir})
	check(tb, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(tb, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	tb.Cleanup(func() { s.Close(); <-done })
	return dir, l.Addr().String()
}

func openURL(tb testing.TB, raw, addr string) (FileSystem, string) {
	tb.Helper()
	u, err := ParseURL(raw)
	check(tb, err)
	f, p, err := OpenRemote(tb.Context(), u, OpenOptions{Dial: tcpDial(addr), Streams: 2, Timeout: 20 * time.Second})
	check(tb, err)
	tb.Cleanup(func() { f.Close() })
	return f, p
}

// tree makes files that copies are compared with.
func tree(tb testing.TB, dir string) {
	tb.Helper()
	for _, d := range []string{"empty", "deep/er/est", "Ümläut dir"} {
		check(tb, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	sizes := map[string]int{"zero": 0, "one": 1, "deep/er/est/page": 4096, "deep/exact": 1 << 20, "deep/over": 1<<20 + 1, "Ümläut dir/größer": 5<<20 + 3}
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for name, n := range sizes {
		data := make([]byte, n)
		rand.Read(data)
		p := filepath.Join(dir, name)
		check(tb, os.WriteFile(p, data, 0o640))
		check(tb, os.Chtimes(p, when, when))
	}
	check(tb, os.Symlink("../one", filepath.Join(dir, "deep", "link")))
	check(tb, os.Symlink("/nowhere/at/all", filepath.Join(dir, "dangling")))
	check(tb, os.Chmod(filepath.Join(dir, "zero"), 0o400))
	check(tb, os.Chtimes(filepath.Join(dir, "deep"), when, when))
}

// same compares two trees: names, types, content, permissions, times.
func same(tb testing.TB, a, b string) {
	tb.Helper()
	seen := map[string]bool{}
	check(tb, filepath.WalkDir(a, func(p string, d fs.DirEntry, err error) error {
		check(tb, err)
		rel, _ := filepath.Rel(a, p)
		seen[rel] = true
		i, err := d.Info()
		check(tb, err)
		q := filepath.Join(b, rel)
		j, err := os.Lstat(q)
		if err != nil {
			tb.Error(err)
			return nil
		}
		if i.Mode() != j.Mode() && i.Mode()&fs.ModeSymlink == 0 {
			tb.Errorf("%s: mode %v, then %v", rel, i.Mode(), j.Mode())
		}
		switch {
		case i.Mode().IsRegular():
			x, _ := os.ReadFile(p)
			y, _ := os.ReadFile(q)
			if !bytes.Equal(x, y) || !i.ModTime().Equal(j.ModTime()) {
				tb.Errorf("%s: content same %v, times %v %v", rel, bytes.Equal(x, y), i.ModTime(), j.ModTime())
			}
		case i.Mode()&fs.ModeSymlink != 0:
			x, _ := os.Readlink(p)
			if y, _ := os.Readlink(q); x != y {
				tb.Errorf("%s: link %q, then %q", rel, x, y)
			}
		case rel == "deep" && !i.ModTime().Equal(j.ModTime()):
			tb.Errorf("%s: times %v %v", rel, i.ModTime(), j.ModTime())
		}
		return nil
	}))
	check(tb, filepath.WalkDir(b, func(p string, _ fs.DirEntry, err error) error {
		check(tb, err)
		if rel, _ := filepath.Rel(b, p); !seen[rel] {
			tb.Errorf("left over: %s", rel)
		}
		return nil
	}))
}

func TestCopyTree(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // permissions and links are compared
	}
	_, addr := devServer(t)
	remote, root := openURL(t, "nfs://gw.test/", addr)
	testCopyTree(t, remote, root)
}

func testCopyTree(t *testing.T, remote FileSystem, at string) {
	ctx, local := t.Context(), t.TempDir()
	tree(t, filepath.Join(local, "src"))
	src, p, err := OpenLocal(filepath.Join(local, "src"), true)
	check(t, err)
	defer src.Close()
	c := Copier{Recursive: true}
	check(t, c.Copy(ctx, src, p, remote, join(at, "up")))
	check(t, c.Copy(ctx, remote, join(at, "up"), remote, join(at, "again")))
	dst, q, err := OpenLocal(filepath.Join(local, "back"), false)
	check(t, err)
	defer dst.Close()
	check(t, c.Copy(ctx, remote, join(at, "again"), dst, q))
	same(t, filepath.Join(local, "src"), filepath.Join(local, "back"))
	check(t, c.Copy(ctx, remote, join(at, "again"), dst, q)) // into the directory that exists now
	same(t, filepath.Join(local, "src"), filepath.Join(local, "back", "again"))
	if err := c.Copy(ctx, remote, join(at, "up"), remote, join(at, "up/deep")); err == nil {
		t.Error("copied a directory into itself")
	}
	if err := (&Copier{}).Copy(ctx, remote, join(at, "up"), remote, join(at, "flat")); err == nil {
		t.Error("copied a directory without -r")
	}
	if err := RemoveAll(ctx, remote, join(at, "up"), false); err == nil {
		t.Error("removed a directory without -r")
	}
	check(t, RemoveAll(ctx, remote, join(at, "up"), true))
	if _, err := remote.Lstat(ctx, join(at, "up")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after rm -r: %v", err)
	}
}

func join(a, b string) string { return strings.Trim(a+"/"+b, "/") }

// failing breaks off after n octets.
type failing struct{ n int64 }

var errBroken = errors.New("broken off")

func (f *failing) Read(p []byte) (int, error) {
	if f.n <= 0 {
		return 0, errBroken
	}
	n := min(int64(len(p)), f.n)
	f.n -= n
	return int(n), nil
}

// A copy that fails leaves the old file as it was and nothing else behind.
func TestCopyIsWholeOrNotThere(t *testing.T) {
	dir, addr := devServer(t)
	remote, _ := openURL(t, "nfs://gw.test/", addr)
	check(t, os.WriteFile(filepath.Join(dir, "file"), []byte("old"), 0o644))
	c, ctx := Copier{}, t.Context()
	if err := c.FromReader(ctx, &failing{3 << 20}, remote, "file"); !errors.Is(err, errBroken) {
		t.Errorf("broken source: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	stop := readerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
	if err := c.FromReader(cancelled, stop, remote, "file"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if b, _ := os.ReadFile(filepath.Join(dir, "file")); err != nil || len(entries) != 1 || string(b) != "old" {
		t.Fatalf("%v, %q, %v", entries, b, err)
	}
	check(t, c.FromReader(ctx, strings.NewReader("new"), remote, "file"))
	var out bytes.Buffer
	check(t, Cat(ctx, &out, remote, "file"))
	if out.String() != "new" {
		t.Errorf("%q", out.String())
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A full target is reported as such, and nothing is left of the file.
func TestNoSpace(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		return // only Linux has it
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	check(t, err)
	defer full.Close()
	dir, addr := devServer(t)
	check(t, os.WriteFile(filepath.Join(dir, "f"), []byte("data"), 0o644))
	remote, _ := openURL(t, "nfs://gw.test/", addr)
	if err := Cat(t.Context(), full, remote, "f"); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	info, err := os.Stat(dir)
	check(t, err)
	s, err := remote.StatFS(t.Context(), "")
	check(t, err)
	if err := checkSpace(t.Context(), remote, "x", int64(s.Available)+1<<40); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v in %v", err, info.Name())
	}
}

func TestListAndDF(t *testing.T) {
	dir, addr := devServer(t)
	check(t, os.WriteFile(filepath.Join(dir, "evil\x1b[31m\nname"), nil, 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1536), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, ".hidden"), nil, 0o600))
	check(t, os.Symlink("big", filepath.Join(dir, "link")))
	remote, _ := openURL(t, "nfs://gw.test/", addr)
	ctx := t.Context()
	var out bytes.Buffer
	check(t, List(ctx, &out, remote, "", ListOptions{}))
	if out.String() != "big\nevil\\x1b[31m\\nname\nlink\n" {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	check(t, List(ctx, &out, remote, "", ListOptions{Long: true, Human: true, All: true}))
	for _, want := range []string{"-rw-------", "1.5 KiB", "link -> big", ".hidden"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	check(t, MkdirAll(ctx, remote, "a/b/c", 0o755))
	check(t, MkdirAll(ctx, remote, "a/b/c", 0o755))
	if err := MkdirAll(ctx, remote, "big/x", 0o755); err == nil {
		t.Error("made a directory below a file")
	}
	out.Reset()
	check(t, DF(ctx, &out, remote, "", "nfs://gw.test/", true))
	if !strings.Contains(out.String(), "Available") || !strings.Contains(out.String(), "nfs://gw.test/") {
		t.Errorf("%s", out.String())
	}
	if err := RemoveAll(ctx, remote, "", true); err == nil {
		t.Error("removed the root")
	}
}

// What a server sends as names and links stays inside the target directory.
func TestLocalStaysInside(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	l, p, err := OpenLocal(filepath.Join(dir, "x"), false)
	check(t, err)
	defer l.Close()
	ctx := t.Context()
	check(t, l.Mkdir(ctx, p, 0o755))
	check(t, l.Symlink(ctx, outside, "x/out"))
	for _, name := range []string{"x/out/file", "../file", "x/../../file"} {
		if w, err := l.Create(ctx, name, 0o644); err == nil {
			w.Abort()
			if entries, _ := os.ReadDir(outside); len(entries) > 0 {
				t.Errorf("%q was created outside", name)
			}
		}
	}
}

func TestParseURL(t *testing.T) {
	for raw, want := range map[string]RemoteURL{
		"smb://host/share":                   {Scheme: "smb", Host: "host", Port: 443, Path: "/share"},
		"SMB://u:p%40%3A@host:4433/s/a%20b/": {Scheme: "smb", Host: "host", Port: 4433, User: "u", Password: "p@:", HasPassword: true, Path: "/s/a b"},
		"nfs://[::1]:99/e/../f":              {Scheme: "nfs", Host: "::1", Port: 99, Path: "/f"},
		"nfs://h":                            {Scheme: "nfs", Host: "h", Port: 443, Path: "/"},
	} {
		u, err := ParseURL(raw)
		if err != nil || *u != want {
			t.Errorf("%s: %+v, %v", raw, u, err)
		}
	}
	for _, raw := range []string{"http://h/x", "smb:///x", "nfs://u@h/x", "smb://h:0/x", "smb://h:70000/x", "smb://h/x?y", "smb://h/x#y", "smb://h/%00", "smb://h/%zz", "h/x", ""} {
		if u, err := ParseURL(raw); err == nil {
			t.Errorf("%q: %+v", raw, u)
		} else if strings.Contains(err.Error(), "secret") {
			t.Error(err)
		}
	}
	u, _ := ParseURL("smb://DOM%5Cme:secret@h:1/s/p")
	if d, n := u.Account(); d != "DOM" || n != "me" || strings.Contains(u.String(), "secret") {
		t.Errorf("%q %q %s", d, n, u)
	}
	if IsRemote("C:/x") || IsRemote("./smb://x") || !IsRemote("nfs://h") {
		t.Error("IsRemote")
	}
	file := filepath.Join(t.TempDir(), "pw")
	check(t, os.WriteFile(file, []byte("from file\r\n"), 0o600))
	env := func(string) string { return "from env" }
	for want, f := range map[string]string{"from file": file, "from env": ""} {
		u, _ := ParseURL("smb://me@h/s")
		if err := u.ResolvePassword(f, env); err != nil || u.Password != want {
			t.Errorf("%q %v", u.Password, err)
		}
	}
}

func TestProgressLine(t *testing.T) {
	p, now := new(Progress), time.Unix(1000, 0)
	p.Expect(100 << 20)
	p.Name("some/file\x1b")
	p.line(now, 80)
	p.Add(50 << 20)
	line := p.line(now.Add(5*time.Second), 80)
	if line != ` 50% 50 MiB of 100 MiB  10 MiB/s  0:05 left  some/file\x1b` {
		t.Errorf("%q", line)
	}
	for width := range 60 {
		if n := len([]rune(p.line(now.Add(6*time.Second), width))); n > max(width-1, 1) {
			t.Errorf("%d columns of %d", n, width)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 10 << 20: "10 MiB", 1<<20 - 1: "1.0 MiB", 1<<64 - 1: "16 EiB"} {
		if got := HumanSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	var none *Progress
	none.Add(1)
	none.Stop()
	if StartProgress(os.Stdin) != nil {
		t.Log("standard input is a terminal")
	}
}

// The pipeline that SMB uses, over a plain file: all sizes around a chunk.
func TestPipeline(t *testing.T) {
	const chunk = 64
	for n := range 5*chunk + 2 {
		data := make([]byte, n)
		rand.Read(data)
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		check(t, err)
		w := newPipeWriter(f.WriteAt, func(bool) error { return nil }, chunk, 3)
		_, err = io.Copy(w, io.MultiReader(bytes.NewReader(data[:n/3]), bytes.NewReader(data[n/3:])))
		check(t, errors.Join(err, w.Close()))
		for _, told := range []int{n, 0, n / 2, 2 * n} {
			r := newPipeReader(f.ReadAt, func() error { return nil }, int64(told), chunk, 3)
			got, err := io.ReadAll(r)
			check(t, errors.Join(err, r.Close()))
			if !bytes.Equal(got, data) {
				t.Fatalf("size %d, told %d: %d octets", n, told, len(got))
			}
		}
		f.Close()
	}
	w := newPipeWriter(func(p []byte, _ int64) (int, error) { return 0, errBroken }, func(bool) error { return nil }, chunk, 3)
	io.Copy(w, io.LimitReader(zero{}, 100*chunk))
	if err := w.Close(); !errors.Is(err, errBroken) {
		t.Errorf("%v", err)
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { return len(p), nil }

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"smb://u:p@h:1/s/p", "nfs://[::1]/x", "smb://h/%2e%2e/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s)
		if err != nil {
			return
		}
		v, err := ParseURL(u.String())
		if err != nil {
			t.Fatalf("%q became %q: %v", s, u, err)
		}
		v.Password, v.HasPassword = u.Password, u.HasPassword
		if fmt.Sprint(*u) != fmt.Sprint(*v) {
			t.Fatalf("%+v became %+v", u, v)
		}
	})
}
