//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"

	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/nfs/nfs3"
)

// The same random calls, once straight to nfs-ganesha and once through connect
// and the gateway, in two folders: every answer is the same, and what is on the
// disk afterwards. The relayed client claims to be root and is alice all the same;
// the direct one is alice.

// A randomClient makes calls in one folder.
type randomClient struct {
	t    *testing.T
	c    *nfs3.Conn
	root nfs3.Handle
}

func newRandomClient(t *testing.T, s *nfsStage, addr string, auth *nfs3.AuthSys, dir string) *randomClient {
	t.Helper()
	mount, err := net.Dial("tcp", s.nfs.Mount)
	if err != nil {
		t.Fatal(err)
	}
	m, err := nfs3.NewConn(mount, nfs3.Config{Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	root, _, err := m.Mnt(t.Context(), ganeshatest.Pseudo)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := nfs3.NewConn(conn, nfs3.Config{Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r, mode := &randomClient{t: t, c: c}, uint32(0o755)
	if r.root, _, err = c.Mkdir(t.Context(), root, dir, nfs3.SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	return r
}

// says is an outcome without what differs from place to place.
func says(err error, a *nfs3.Attr) string {
	var status *nfs3.Error
	switch {
	case errors.As(err, &status):
		return fmt.Sprint(status.Status)
	case err != nil:
		return err.Error()
	case a == nil:
		return "done"
	case a.Type == nfsv3.NF3DIR: // its size is the file system's affair
		return fmt.Sprintf("%v %o %d:%d", a.Type, a.Mode, a.Uid, a.Gid)
	}
	return fmt.Sprintf("%v %o %d:%d nlink %d size %d", a.Type, a.Mode, a.Uid, a.Gid, a.Nlink, a.Size)
}

// call makes one call, chosen by r, and tells what came of it.
func (x *randomClient) call(ctx context.Context, r *rand.Rand) string {
	name := func() string { return fmt.Sprintf("n%d", r.IntN(12)) }
	mode := uint32(0o600 + 0o100*r.IntN(2) + r.IntN(0o100))
	a, b := name(), name()
	off, data := uint64(r.IntN(200<<10)), make([]byte, 1+r.IntN(100<<10))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	kind := r.IntN(14)
	h, attr, err := x.c.Lookup(ctx, x.root, a)
	if kind > 4 && err != nil {
		return "lookup: " + says(err, nil)
	}
	switch kind {
	case 0, 1:
		_, attr, err := x.c.Create(ctx, x.root, a, nfs3.CreateMode(r.IntN(2)), nfs3.SetAttr{Mode: &mode}, [8]byte{})
		return "create " + says(err, attr)
	case 2:
		_, attr, err := x.c.Mkdir(ctx, x.root, a, nfs3.SetAttr{Mode: &mode})
		return "mkdir " + says(err, attr)
	case 3:
		_, attr, err := x.c.Symlink(ctx, x.root, a, "to/"+b, nfs3.SetAttr{})
		return "symlink " + says(err, attr)
	case 4:
		return "rename " + says(x.c.Rename(ctx, x.root, a, x.root, b), nil)
	case 5:
		return "remove " + says(x.c.Remove(ctx, x.root, a), nil)
	case 6:
		return "rmdir " + says(x.c.Rmdir(ctx, x.root, a), nil)
	case 7:
		return "link " + says(x.c.Link(ctx, h, x.root, b), nil)
	case 8:
		size := off
		attr, err := x.c.Setattr(ctx, h, nfs3.SetAttr{Size: &size})
		return "truncate " + says(err, attr)
	case 9:
		attr, err := x.c.Setattr(ctx, h, nfs3.SetAttr{Mode: &mode})
		return "chmod " + says(err, attr)
	case 10:
		target, err := x.c.Readlink(ctx, h)
		return "readlink " + target + says(err, nil)
	case 11:
		n, eof, err := x.c.Read(ctx, h, off, data)
		return fmt.Sprintf("read %d %v %x %s", n, eof, sha256.Sum256(data[:n]), says(err, nil))
	case 12:
		n, _, _, err := x.c.Write(ctx, h, off, data, nfsv3.StableHow(r.IntN(3)))
		return fmt.Sprintf("write %d %s", n, says(err, nil))
	default:
		return "getattr " + says(nil, attr)
	}
}

// list is the folder as the server lists it, in the order of names.
func (x *randomClient) list(ctx context.Context) string {
	var names []string
	var page nfs3.DirPage
	for !page.EOF {
		p, err := x.c.ReaddirPlus(ctx, x.root, page.Cookie, page.Verf, 4096)
		if err != nil {
			x.t.Fatal(err)
		}
		for _, e := range p.Entries {
			names = append(names, e.Name+" "+says(nil, e.Attr))
		}
		page = *p
	}
	slices.Sort(names)
	return strings.Join(names, "\n")
}

func TestNFSRandomCalls(t *testing.T) {
	s := newNFSStage(t, nfsSetup{exports: ganeshatest.Pseudo})
	direct := newRandomClient(t, s, s.nfs.NFS, &nfs3.AuthSys{Machine: "client", UID: aliceUID, GID: aliceGID}, "direct")
	relayed := newRandomClient(t, s, fmt.Sprintf("127.0.0.1:%d", s.connect(t, "alice")), &nfs3.AuthSys{Machine: "client"}, "relayed")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	one, two := rand.New(rand.NewPCG(seed, 2)), rand.New(rand.NewPCG(seed, 2))
	kinds := map[string]int{}
	for i := range 3000 {
		a, b := direct.call(t.Context(), one), relayed.call(t.Context(), two)
		if a != b {
			t.Fatalf("call %d: direct %q, relayed %q", i, a, b)
		}
		kinds[strings.Fields(a)[0]]++
		if i%500 == 499 {
			if a, b := direct.list(t.Context()), relayed.list(t.Context()); a != b {
				t.Fatalf("after %d calls: direct\n%s\nrelayed\n%s", i+1, a, b)
			}
		}
	}
	if len(kinds) < 14 {
		t.Errorf("too few kinds of calls: %v", kinds)
	}
	if a, b := tree(t, filepath.Join(s.nfs.Dir, "direct")), tree(t, filepath.Join(s.nfs.Dir, "relayed")); a != b {
		t.Errorf("on the disk: direct\n%s\nrelayed\n%s", a, b)
	}
}

// tree tells all files of a folder, and what is in them.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fmt.Fprintf(&all, "%s %v", rel, info.Mode())
		switch {
		case info.Mode().IsRegular():
			fmt.Fprintf(&all, " %d %s", info.Size(), fileHash(t, p))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			all.WriteString(" " + target)
		}
		all.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
