//go:build linux

package nfs3_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/nfs/nfs3"
)

// ganesha is a running server with connections to it.
type ganesha struct{ *ganeshatest.Server }

func start(tb testing.TB) *ganesha { return &ganesha{ganeshatest.Start(tb)} }

// Conns dials the server's NFS and MOUNT ports, as root unless cfg says otherwise.
func (g *ganesha) Conns(tb testing.TB, cfg nfs3.Config) (nfs, mount *nfs3.Conn) {
	tb.Helper()
	if cfg.Auth == nil {
		cfg.Auth = &nfs3.AuthSys{Machine: "test"}
	}
	dial := func(addr string) *nfs3.Conn {
		nc, err := net.Dial("tcp", addr)
		check(tb, err)
		c, err := nfs3.NewConn(nc, cfg)
		check(tb, err)
		tb.Cleanup(func() { c.Close() })
		return c
	}
	return dial(g.NFS), dial(g.Mount)
}

// FS mounts the export.
func (g *ganesha) FS(tb testing.TB, o nfs3.Options) *nfs3.FS {
	tb.Helper()
	c, mc := g.Conns(tb, nfs3.Config{})
	f, rest, err := nfs3.MountFS(tb.Context(), mc, c, ganeshatest.Pseudo, o)
	if err != nil || rest != "" {
		tb.Fatalf("mount: rest %q, %v", rest, err)
	}
	return f
}

func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func TestProcedures(t *testing.T) {
	g := start(t)
	ctx := t.Context()
	c, mc := g.Conns(t, nfs3.Config{})
	check(t, c.Null(ctx))
	check(t, mc.MountNull(ctx))
	exports := must[[]nfs3.Export](t)(mc.Exports(ctx))
	if len(exports) != 1 || exports[0].Dir != "/export" {
		t.Fatalf("exports %v", exports)
	}
	root, flavors, err := mc.Mnt(ctx, "/export")
	if err != nil || len(flavors) == 0 {
		t.Fatal(root, flavors, err)
	}
	if _, _, err := mc.Mnt(ctx, "/nowhere"); err == nil {
		t.Fatal("mounted a path that is not exported")
	}

	zero, mode := uint64(0), uint32(0o640)
	h, _, err := c.Create(ctx, root, "Grüße \xff", nfs3.Guarded, nfs3.SetAttr{Mode: &mode, Size: &zero}, [8]byte{})
	check(t, err)
	if _, _, err = c.Create(ctx, root, "Grüße \xff", nfs3.Guarded, nfs3.SetAttr{}, [8]byte{}); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("guarded create of an existing file: %v", err)
	}
	for range 2 { // the same verifier finds its own file
		_, _, err = c.Create(ctx, root, "excl", nfs3.Exclusive, nfs3.SetAttr{}, [8]byte{1, 2, 3})
		check(t, err)
	}
	if _, _, err = c.Create(ctx, root, "excl", nfs3.Exclusive, nfs3.SetAttr{}, [8]byte{9}); !errors.Is(err, syscall.EEXIST) {
		t.Fatalf("exclusive create of an existing file: %v", err)
	}
	n, _, verf, err := c.Write(ctx, h, 3, []byte("hello"), nfsv3.UNSTABLE)
	if err != nil || n != 5 {
		t.Fatal(n, err)
	}
	if v := must[nfs3.Verifier](t)(c.Commit(ctx, h, 0, 0)); v != verf {
		t.Fatalf("verifier %x, then %x", verf, v)
	}
	buf := make([]byte, 100)
	n, eof, err := c.Read(ctx, h, 1, buf)
	if err != nil || !eof || string(buf[:n]) != "\x00\x00hello" {
		t.Fatalf("%q %v %v", buf[:n], eof, err)
	}
	mtime := time.Unix(1234567890, 123456789)
	must[*nfs3.Attr](t)(c.Setattr(ctx, h, nfs3.SetAttr{Mtime: &mtime}))
	a := must[*nfs3.Attr](t)(c.Getattr(ctx, h))
	if a.Size != 8 || a.Mode != 0o640 || !nfs3.Time(a.Mtime).Equal(mtime) {
		t.Fatalf("%+v", a)
	}
	if must[uint32](t)(c.Access(ctx, h, nfsv3.ACCESS3_READ|nfsv3.ACCESS3_MODIFY)) != nfsv3.ACCESS3_READ|nfsv3.ACCESS3_MODIFY {
		t.Fatal("root has no access")
	}
	dir, _, err := c.Mkdir(ctx, root, "dir", nfs3.SetAttr{})
	check(t, err)
	link, _, err := c.Symlink(ctx, dir, "link", "../ziel ü", nfs3.SetAttr{})
	check(t, err)
	if text := must[string](t)(c.Readlink(ctx, link)); text != "../ziel ü" {
		t.Fatalf("link text %q", text)
	}
	check(t, c.Link(ctx, h, dir, "hard"))
	check(t, c.Rename(ctx, root, "Grüße \xff", dir, "renamed"))
	if err := c.Rmdir(ctx, root, "dir"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Fatalf("rmdir of a directory with files: %v", err)
	}
	plus := must[*nfs3.DirPage](t)(c.ReaddirPlus(ctx, dir, 0, [8]byte{}, 64<<10))
	plain := must[*nfs3.DirPage](t)(c.Readdir(ctx, dir, 0, [8]byte{}, 64<<10))
	if len(plus.Entries) != 3 || len(plain.Entries) != 3 || !plus.EOF || !plain.EOF || plus.Entries[0].Handle == "" {
		t.Fatalf("%+v %+v", plus, plain)
	}
	check(t, c.Remove(ctx, dir, "hard"))
	if _, _, err := c.Lookup(ctx, dir, "hard"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("lookup of a removed file: %v", err)
	}
	if s := must[nfs3.FSStat](t)(c.Fsstat(ctx, root)); s.Tbytes == 0 || s.Abytes > s.Tbytes {
		t.Fatalf("%+v", s)
	}
	if i := must[nfs3.FSInfo](t)(c.Fsinfo(ctx, root)); i.Rtmax < 64<<10 || i.Wtmax < 64<<10 {
		t.Fatalf("%+v", i)
	}
	if p := must[nfs3.PathConf](t)(c.Pathconf(ctx, root)); p.NameMax < 255 {
		t.Fatalf("%+v", p)
	}
	check(t, mc.Umnt(ctx, "/export"))
}

func TestCredential(t *testing.T) {
	g := start(t)
	c, mc := g.Conns(t, nfs3.Config{Auth: &nfs3.AuthSys{Machine: "m", UID: 4242, GID: 4243, Groups: []uint32{77}}})
	f, _, err := nfs3.MountFS(t.Context(), mc, c, "/export", nfs3.Options{})
	check(t, err)
	w := must[*nfs3.Writer](t)(f.Create(t.Context(), "mine", 0o600, true))
	check(t, w.Close())
	info := must[fs.FileInfo](t)(os.Stat(filepath.Join(g.Dir, "mine")))
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 4242 || st.Gid != 4243 {
		t.Fatalf("owner %d:%d", st.Uid, st.Gid)
	}
	check(t, os.WriteFile(filepath.Join(g.Dir, "secret"), []byte("x"), 0o600))
	r, err := f.Open(t.Context(), "secret")
	if err == nil {
		_, err = io.ReadAll(r)
		r.Close()
	}
	if !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("read of another user's file: %v", err)
	}
}

func TestFS(t *testing.T) {
	g := start(t)
	f := g.FS(t, nfs3.Options{})
	ctx := t.Context()
	check(t, f.Mkdir(ctx, "a", 0o755))
	check(t, f.Mkdir(ctx, "/a/b/", 0o700))
	check(t, f.Symlink(ctx, "../a/b", "a/rel"))
	check(t, f.Symlink(ctx, "/export/a", "abs"))
	check(t, f.Symlink(ctx, "/etc", "out"))
	check(t, f.Symlink(ctx, "../../..", "up"))
	check(t, f.Symlink(ctx, "loop", "loop"))
	w := must[*nfs3.Writer](t)(f.Create(ctx, "abs/rel/file", 0o644, false))
	must[int](t)(w.Write([]byte("content")))
	check(t, w.Close())
	if b := must[[]byte](t)(os.ReadFile(filepath.Join(g.Dir, "a/b/file"))); string(b) != "content" {
		t.Fatalf("%q", b)
	}
	for _, p := range []string{"out", "up", "loop", "up/etc", "a/../../x/../up"} {
		if _, err := f.Stat(ctx, p); err == nil {
			t.Errorf("stat %q succeeded", p)
		}
		if _, err := f.Lstat(ctx, p); p != "up/etc" && err != nil {
			t.Errorf("lstat %q: %v", p, err)
		}
	}
	if _, err := f.Stat(ctx, "a/b/file/x"); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
	// A directory whose handle is cached is replaced behind the client's back.
	check(t, os.Rename(filepath.Join(g.Dir, "a/b"), filepath.Join(g.Dir, "old")))
	check(t, os.RemoveAll(filepath.Join(g.Dir, "old")))
	check(t, os.Mkdir(filepath.Join(g.Dir, "a/b"), 0o755))
	check(t, os.WriteFile(filepath.Join(g.Dir, "a/b/new"), []byte("new"), 0o644))
	if i, err := f.Stat(ctx, "a/b/new"); err != nil || i.Size() != 3 {
		t.Errorf("after the directory was replaced: %v", err)
	}
	if s, err := f.StatFS(ctx, "/"); err != nil || s.Tbytes == 0 {
		t.Error(err)
	}
	sub, rest, err := nfs3.MountFS(ctx, must2(g.Conns(t, nfs3.Config{})), f.Conn(), "/export/a/b/new", nfs3.Options{})
	if err != nil || rest != "a/b/new" {
		t.Fatalf("rest %q, %v", rest, err)
	}
	if _, err := sub.Stat(ctx, rest); err != nil {
		t.Fatal(err)
	}
}

func must2(_, mount *nfs3.Conn) *nfs3.Conn { return mount }

func TestReadDirManyFiles(t *testing.T) {
	g := start(t)
	const files = 2000
	for i := range files {
		check(t, os.WriteFile(filepath.Join(g.Dir, fmt.Sprintf("%04d-%s", i, "a-name-of-some-length")), nil, 0o644))
	}
	f := g.FS(t, nfs3.Options{})
	seen := map[string]bool{}
	for info, err := range f.Entries(t.Context(), "/") {
		check(t, err)
		seen[info.Name()] = true
	}
	if len(seen) != files {
		t.Fatalf("%d of %d entries", len(seen), files)
	}
}

// Many goroutines on one stream: every reply reaches its own call.
func TestPipelining(t *testing.T) {
	g := start(t)
	f := g.FS(t, nfs3.Options{})
	ctx := t.Context()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			name := fmt.Sprint("file", i)
			data := bytes.Repeat([]byte(name), 20000+i)
			w, err := f.Create(ctx, name, 0o644, true)
			if err != nil {
				t.Error(err)
				return
			}
			w.Write(data)
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			for range 20 {
				r, err := f.Open(ctx, name)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(r)
				r.Close()
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: %d of %d octets, %v", name, len(got), len(data), err)
				}
			}
		})
	}
	wg.Wait()
}

// Cancelled reads leave the connection usable and the buffer alone.
func TestCancel(t *testing.T) {
	g := start(t)
	check(t, os.WriteFile(filepath.Join(g.Dir, "big"), make([]byte, 8<<20), 0o644))
	f := g.FS(t, nfs3.Options{})
	info := must[*nfs3.FileInfo](t)(f.Stat(t.Context(), "big"))
	for i := range 300 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*7)*time.Microsecond)
		buf := bytes.Repeat([]byte{0xee}, 1<<20)
		_, _, err := f.Conn().Read(ctx, info.Handle(), 0, buf)
		if err != nil {
			before := sha256.Sum256(buf)
			if must[*nfs3.Attr](t)(f.Conn().Getattr(t.Context(), info.Handle())).Size != 8<<20 {
				t.Fatal("wrong attributes")
			}
			if sha256.Sum256(buf) != before {
				t.Fatal("the buffer changed after Read returned")
			}
		}
		cancel()
	}
}

// TestRandomOperations does what fsx does: random reads, writes and
// truncations at random offsets, compared with a copy in memory.
func TestRandomOperations(t *testing.T) {
	g := start(t)
	f := g.FS(t, nfs3.Options{IOSize: 16 << 10, Window: 4})
	ctx := t.Context()
	w := must[*nfs3.Writer](t)(f.Create(ctx, "fsx", 0o644, true))
	check(t, w.Close())
	x := f.File(must[*nfs3.FileInfo](t)(f.Stat(ctx, "fsx")).Handle())
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	const most = 256 << 10
	var model []byte
	for op := range 1500 {
		off, n := rnd.IntN(most), 1+rnd.IntN(64<<10)
		switch rnd.IntN(5) {
		case 0, 1:
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(rnd.Uint32())
			}
			must[int](t)(x.WriteAt(ctx, data, uint64(off)))
			if off+n > len(model) {
				model = append(model, make([]byte, off+n-len(model))...)
			}
			copy(model[off:], data)
		case 2, 3:
			buf := make([]byte, n)
			got, err := x.ReadAt(ctx, buf, uint64(off))
			want := model[min(off, len(model)):min(off+n, len(model))]
			if err != nil && err != io.EOF || !bytes.Equal(buf[:got], want) || (err == io.EOF) != (got < n) {
				t.Fatalf("operation %d: read of %d at %d: %d octets of %d, %v", op, n, off, got, len(want), err)
			}
		default:
			check(t, x.Truncate(ctx, uint64(off)))
			if off > len(model) {
				model = append(model, make([]byte, off-len(model))...)
			}
			model = model[:off]
		}
	}
	r := must[*nfs3.Reader](t)(f.Open(ctx, "fsx"))
	defer r.Close()
	if got := must[[]byte](t)(io.ReadAll(r)); !bytes.Equal(got, model) {
		t.Fatal("the whole file differs")
	}
}

func benchmark(b *testing.B, size int64, run func(f *nfs3.FS, dir string)) {
	g := start(b)
	f := g.FS(b, nfs3.Options{})
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		run(f, g.Dir)
	}
}

func BenchmarkWrite(b *testing.B) {
	const size = 1 << 30
	benchmark(b, size, func(f *nfs3.FS, dir string) {
		w := must[*nfs3.Writer](b)(f.Create(b.Context(), "big", 0o644, false))
		if n := must[int64](b)(io.Copy(w, io.LimitReader(zeros{}, size))); n != size {
			b.Fatal(n)
		}
		check(b, w.Close())
	})
}

func BenchmarkRead(b *testing.B) {
	const size = 1 << 30
	benchmark(b, size, func(f *nfs3.FS, dir string) {
		check(b, os.WriteFile(filepath.Join(dir, "big"), nil, 0o644))
		check(b, os.Truncate(filepath.Join(dir, "big"), size))
		r := must[*nfs3.Reader](b)(f.Open(b.Context(), "big"))
		if n := must[int64](b)(io.Copy(io.Discard, r)); n != size {
			b.Fatal(n)
		}
		check(b, r.Close())
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
