package devserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"

	"github.com/quic-fsgw/quic-fsgw/nfs/nfs3"
)

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// serve serves a new directory on loopback.
func serve(tb testing.TB, cfg Config) (dir, addr string) {
	tb.Helper()
	if cfg.Dir == "" {
		cfg.Dir = tb.TempDir()
	}
	s, err := New(cfg)
	check(tb, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(tb, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	tb.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return cfg.Dir, l.Addr().String()
}

func dial(tb testing.TB, addr string) *nfs3.Conn {
	tb.Helper()
	nc, err := net.Dial("tcp", addr)
	check(tb, err)
	c, err := nfs3.NewConn(nc, nfs3.Config{Auth: &nfs3.AuthSys{Machine: "test"}, Timeout: 20 * time.Second})
	check(tb, err)
	tb.Cleanup(func() { c.Close() })
	return c
}

func mountFS(tb testing.TB, addr, path string) *nfs3.FS {
	tb.Helper()
	c := dial(tb, addr)
	f, _, err := nfs3.MountFS(tb.Context(), c, c, path, nfs3.Options{})
	check(tb, err)
	return f
}

// The attack that leaves the directory of the library's own file system: make
// a symbolic link to a file outside, then read through the link's own handle.
func TestSymlinkDoesNotLeave(t *testing.T) {
	outside := t.TempDir()
	check(t, os.WriteFile(filepath.Join(outside, "x"), []byte("secret"), 0o644))
	dir, addr := serve(t, Config{})
	c, ctx := dial(t, addr), t.Context()
	root, _, err := c.Mnt(ctx, "/")
	check(t, err)
	up, err := filepath.Rel(dir, filepath.Join(outside, "x"))
	check(t, err)
	for i, target := range []string{up, filepath.Join(outside, "x"), "../../../../../../../../etc/passwd"} {
		name := fmt.Sprint("link", i)
		h, _, err := c.Symlink(ctx, root, name, target, nfs3.SetAttr{})
		check(t, err)
		if h == "" {
			h, _, err = c.Lookup(ctx, root, name)
			check(t, err)
		}
		buf := make([]byte, 100)
		if n, _, err := c.Read(ctx, h, 0, buf); err == nil {
			t.Errorf("READ through a link to %q gave %q", target, buf[:n])
		}
		if _, _, _, err := c.Write(ctx, h, 0, []byte("overwritten"), nfsv3.FILE_SYNC); err == nil {
			t.Errorf("WRITE through a link to %q succeeded", target)
		}
		size := uint64(0)
		if _, err := c.Setattr(ctx, h, nfs3.SetAttr{Size: &size}); err == nil {
			t.Errorf("SETATTR through a link to %q succeeded", target)
		}
		if text, err := c.Readlink(ctx, h); err != nil || text != target {
			t.Errorf("READLINK %q, %v", text, err)
		}
	}
	// A link to a directory outside, and a lookup below it.
	h, _, err := c.Symlink(ctx, root, "dirlink", outside, nfs3.SetAttr{})
	check(t, err)
	if _, _, err := c.Lookup(ctx, h, "x"); err == nil {
		t.Error("LOOKUP below a link to a directory outside succeeded")
	}
	if page, err := c.ReaddirPlus(ctx, h, 0, [8]byte{}, 8192); err == nil {
		t.Errorf("READDIRPLUS of a link to a directory outside: %+v", page)
	}
	if b, _ := os.ReadFile(filepath.Join(outside, "x")); string(b) != "secret" {
		t.Errorf("the file outside holds %q", b)
	}
}

// Names no honest client sends are written by hand: the client refuses them.
func TestNamesDoNotLeave(t *testing.T) {
	dir, addr := serve(t, Config{Dir: filepath.Join(t.TempDir())})
	check(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	c := dial(t, addr)
	root, _, err := c.Mnt(t.Context(), "/sub")
	check(t, err)
	nc, err := net.Dial("tcp", addr)
	check(t, err)
	defer nc.Close()
	check(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
	for _, name := range []string{"..", ".", "", "a/b", "../x", "../../../etc", "a\x00b", "/etc/passwd", strings.Repeat("n", 300)} {
		for _, proc := range []uint32{8, 9, 12, 13} {
			b := put32(make([]byte, 4), 7, 0, 2, nfsv3.NFS_PROGRAM_PROGRAM_NUMBER, 3, proc, 0, 0, 0, 0)
			b = putOpaque(putOpaque(b, []byte(root)), []byte(name))
			if proc == 8 {
				b = put32(b, uint32(nfsv3.UNCHECKED))
			}
			b = put32(b, 0, 0, 0, 0, 0, 0)
			binary.BigEndian.PutUint32(b, uint32(len(b)-4)|lastMark)
			_, err := nc.Write(b)
			check(t, err)
			var mark [4]byte
			_, err = io.ReadFull(nc, mark[:])
			check(t, err)
			reply := make([]byte, binary.BigEndian.Uint32(mark[:])&^lastMark)
			_, err = io.ReadFull(nc, reply)
			check(t, err)
			if len(reply) < 28 || binary.BigEndian.Uint32(reply[20:]) != 0 || binary.BigEndian.Uint32(reply[24:]) == 0 {
				t.Errorf("procedure %d with name %q: reply %x", proc, name, reply)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	check(t, err)
	if len(entries) != 1 {
		t.Errorf("the directory holds %v", entries)
	}
}

func TestMount(t *testing.T) {
	dir, addr := serve(t, Config{Export: "/srv/files"})
	check(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	check(t, os.Symlink("/etc", filepath.Join(dir, "link")))
	c, ctx := dial(t, addr), t.Context()
	for path, want := range map[string]error{
		"/srv/files": nil, "/srv/files/": nil, "/srv/files/a/b": nil, "//srv/./files": nil,
		"/srv/files/a/../../../srv/files/a": nil,
		"/":                                 fs.ErrPermission, "/srv": fs.ErrPermission, "/srv/filesx": fs.ErrPermission, "/srv/files/../other": fs.ErrPermission,
		"/etc": fs.ErrPermission, "": fs.ErrPermission, "/srv/files/none": fs.ErrNotExist, "/srv/files/file": syscall.ENOTDIR, "/srv/files/link": syscall.ENOTDIR,
	} {
		if _, _, err := c.Mnt(ctx, path); !errors.Is(err, want) {
			t.Errorf("mount %q: %v, want %v", path, err, want)
		}
	}
	exports, err := c.Exports(ctx)
	if err != nil || len(exports) != 1 || exports[0].Dir != "/srv/files" {
		t.Errorf("exports %v, %v", exports, err)
	}
	check(t, c.Umnt(ctx, "/srv/files"))
}

func TestReadOnly(t *testing.T) {
	dir, addr := serve(t, Config{ReadOnly: true})
	check(t, os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644))
	c, ctx := dial(t, addr), t.Context()
	root, _, err := c.Mnt(ctx, "/")
	check(t, err)
	h, _, err := c.Lookup(ctx, root, "file")
	check(t, err)
	mode := uint32(0o777)
	_, _, createErr := c.Create(ctx, root, "new", nfs3.Unchecked, nfs3.SetAttr{}, [8]byte{})
	_, _, exclErr := c.Create(ctx, root, "new", nfs3.Exclusive, nfs3.SetAttr{}, [8]byte{1})
	_, _, mkdirErr := c.Mkdir(ctx, root, "new", nfs3.SetAttr{})
	_, _, linkErr := c.Symlink(ctx, root, "new", "x", nfs3.SetAttr{})
	_, _, _, writeErr := c.Write(ctx, h, 0, []byte("x"), nfsv3.UNSTABLE)
	_, setErr := c.Setattr(ctx, h, nfs3.SetAttr{Mode: &mode})
	for i, err := range []error{createErr, exclErr, mkdirErr, linkErr, writeErr, setErr, c.Remove(ctx, root, "file"),
		c.Rename(ctx, root, "file", root, "new"), c.Link(ctx, h, root, "new")} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("change %d on a read-only export: %v", i, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if b, _ := os.ReadFile(filepath.Join(dir, "file")); err != nil || len(entries) != 1 || string(b) != "text" {
		t.Errorf("%v %q %v", entries, b, err)
	}
}

func TestClient(t *testing.T) {
	dir, addr := serve(t, Config{})
	f, ctx := mountFS(t, addr, "/"), t.Context()
	data := make([]byte, 9<<20+77)
	rand.NewChaCha8([32]byte{1}).Read(data)
	w, err := f.Create(ctx, "büx", 0o640, true)
	check(t, err)
	_, err = io.Copy(w, bytes.NewReader(data))
	check(t, errors.Join(err, w.Close()))
	if b, err := os.ReadFile(filepath.Join(dir, "büx")); err != nil || !bytes.Equal(b, data) {
		t.Fatalf("%d octets on disk, %v", len(b), err)
	}
	check(t, f.Mkdir(ctx, "d", 0o755))
	before, err := f.Stat(ctx, "büx")
	check(t, err)
	check(t, f.Rename(ctx, "büx", "d/moved"))
	if a, err := f.Conn().Getattr(ctx, before.Handle()); err != nil || a.Size != uint64(len(data)) {
		t.Errorf("a handle after its file was renamed: %v", err)
	}
	check(t, f.Link(ctx, "d/moved", "hard"))
	if err := f.Rmdir(ctx, "d"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("rmdir: %v", err)
	}
	r, err := f.Open(ctx, "hard")
	check(t, err)
	got, err := io.ReadAll(r)
	check(t, errors.Join(err, r.Close()))
	if !bytes.Equal(got, data) {
		t.Error("read back differs")
	}
	root := f.Root()
	for range 2 {
		_, _, err = f.Conn().Create(ctx, root, "excl", nfs3.Exclusive, nfs3.SetAttr{}, [8]byte{5})
		check(t, err)
	}
	if _, _, err = f.Conn().Create(ctx, root, "excl", nfs3.Exclusive, nfs3.SetAttr{}, [8]byte{6}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("exclusive create: %v", err)
	}
	check(t, f.Remove(ctx, "d/moved"))
	if _, err := f.Conn().Getattr(ctx, before.Handle()); err == nil {
		t.Error("a removed file's handle still works")
	}
	if s, err := f.StatFS(ctx, "/"); err != nil || s.Tbytes == 0 {
		t.Errorf("%+v %v", s, err)
	}
	for i := range 1500 {
		check(t, os.WriteFile(filepath.Join(dir, "d", fmt.Sprint("entry", i)), nil, 0o644))
	}
	if list, err := f.ReadDir(ctx, "d"); err != nil || len(list) != 1500 {
		t.Errorf("%d entries, %v", len(list), err)
	}
}

// RPC that is not for this server gets the answer RFC 5531 has for it.
func TestRPCErrors(t *testing.T) {
	_, addr := serve(t, Config{})
	call := func(b []byte) []byte {
		nc, err := net.Dial("tcp", addr)
		check(t, err)
		defer nc.Close()
		check(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
		for i := range b { // one fragment an octet
			frag := append(put32(nil, 1), b[i])
			if i == len(b)-1 {
				frag[0] = 0x80
			}
			_, err := nc.Write(frag)
			check(t, err)
		}
		var mark [4]byte
		_, err = io.ReadFull(nc, mark[:])
		check(t, err)
		reply := make([]byte, binary.BigEndian.Uint32(mark[:])&^lastMark)
		_, err = io.ReadFull(nc, reply)
		check(t, err)
		return reply
	}
	// Lengths that the library would allocate.
	for proc, args := range map[uint32][]byte{
		1: put32(nil, 1<<31-1), 3: put32(putOpaque(nil, []byte("h")), 1<<31-1), 6: put32(nil, 1<<31-1),
		10: put32(putOpaque(putOpaque(nil, []byte("h")), []byte("n")), 0, 0, 0, 0, 0, 0, 1<<31-1), 17: put32(nil, 1<<30),
	} {
		got := call(append(put32(nil, 9, 0, 2, 100003, 3, proc, 0, 0, 0, 0), args...))
		if !bytes.Equal(got, put32(nil, 9, 1, 0, 0, 0, 4)) {
			t.Errorf("procedure %d with a huge length: %x", proc, got)
		}
	}
	for _, c := range []struct {
		name                    string
		rpcvers, prog, ver, prc uint32
		want                    []uint32
	}{
		{"program", 2, 100021, 4, 0, []uint32{9, 1, 0, 0, 0, 1}},
		{"version", 2, 100003, 4, 0, []uint32{9, 1, 0, 0, 0, 2, 3, 3}},
		{"procedure", 2, 100003, 3, 22, []uint32{9, 1, 0, 0, 0, 3}},
		{"mount procedure", 2, 100005, 3, 6, []uint32{9, 1, 0, 0, 0, 3}},
		{"arguments", 2, 100003, 3, 7, []uint32{9, 1, 0, 0, 0, 4}},
		{"rpc version", 3, 100003, 3, 0, []uint32{9, 1, 1, 0, 2, 2}},
		{"null", 2, 100003, 3, 0, []uint32{9, 1, 0, 0, 0, 0}},
	} {
		got := call(put32(nil, 9, 0, c.rpcvers, c.prog, c.ver, c.prc, 0, 0, 0, 0))
		if !bytes.Equal(got, put32(nil, c.want...)) {
			t.Errorf("%s: %x", c.name, got)
		}
	}
}

// A record that announces more than any call needs ends the connection.
func TestOversizeRecord(t *testing.T) {
	_, addr := serve(t, Config{})
	for _, b := range [][]byte{put32(nil, 0xffffffff, 1, 0), put32(nil, 1<<30, 1, 0), bytes.Repeat(make([]byte, 4), maxFragments+2)} {
		nc, err := net.Dial("tcp", addr)
		check(t, err)
		check(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
		nc.Write(b)
		if n, err := nc.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %x...: %d, %v", b[:4], n, err)
		}
		nc.Close()
	}
}

// The tools of libnfs, with their defaults: they ask for the export list.
func TestLibnfs(t *testing.T) {
	if runtime.GOOS != "linux" {
		return
	}
	for _, tool := range []string{"nfs-ls", "nfs-cp", "nfs-cat"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is not installed: run `make test`, which installs the Debian package libnfs-utils", tool)
		}
	}
	dir, addr := serve(t, Config{Export: "/export"})
	_, port, _ := net.SplitHostPort(addr)
	url := func(p string) string {
		return "nfs://127.0.0.1/export" + p + "?version=3&nfsport=" + port + "&mountport=" + port
	}
	local := filepath.Join(t.TempDir(), "in")
	data := bytes.Repeat([]byte("libnfs and the dev server\n"), 100_000)
	check(t, os.WriteFile(local, data, 0o644))
	run := func(name string, args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", name, err, out, stderr.Bytes())
		}
		return out
	}
	run("nfs-cp", local, url("/copy"))
	if b, err := os.ReadFile(filepath.Join(dir, "copy")); err != nil || !bytes.Equal(b, data) {
		t.Fatalf("%d octets, %v", len(b), err)
	}
	if out := run("nfs-cat", url("/copy")); !bytes.Equal(out, data) {
		t.Errorf("nfs-cat gave %d octets", len(out))
	}
	if out := run("nfs-ls", url("")); !bytes.Contains(out, []byte("copy")) {
		t.Errorf("nfs-ls: %s", out)
	}
}

func FuzzAnswer(f *testing.F) {
	dir := f.TempDir()
	s, err := New(Config{Dir: dir})
	check(f, err)
	root := s.tab.handle(nil)
	for proc := range uint32(23) {
		b := put32(nil, 9, 0, 2, 100003, 3, proc, 0, 0, 0, 0)
		f.Add(put32(putOpaque(putOpaque(b, root), []byte("name")), 2, 0, 0, 0, 0))
	}
	f.Add(putOpaque(put32(nil, 9, 0, 2, 100005, 3, 1, 0, 0, 0, 0), []byte("/../..")))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseCall(b)
		if err != nil {
			return
		}
		if reply, mine := s.answer(c); mine && len(reply) < 16 {
			t.Fatalf("%x", reply)
		}
	})
}
