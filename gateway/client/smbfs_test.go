//go:build linux

package client

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// The file commands on a real smbd, with two sessions.
func TestSMB(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	remote, root := openURL(t, "smb://"+sambatest.User+":"+sambatest.Password+"@"+sambatest.Host+"/"+sambatest.Share, server.Addr)
	if root != "" {
		t.Fatalf("path %q", root)
	}
	ctx, local := t.Context(), t.TempDir()
	when := time.Date(2011, 2, 3, 4, 5, 6, 0, time.UTC)
	files := map[string]int{"zero": 0, "one": 1, "sub/exact": smbChunk, "sub/over": smbChunk + 1, "sub/größer": 20<<20 + 3}
	check(t, os.MkdirAll(filepath.Join(local, "src/sub/empty"), 0o755))
	for name, n := range files {
		data := make([]byte, n)
		rand.Read(data)
		check(t, os.WriteFile(filepath.Join(local, "src", name), data, 0o644))
		check(t, os.Chtimes(filepath.Join(local, "src", name), when, when))
	}
	src, p, err := OpenLocal(filepath.Join(local, "src"), true)
	check(t, err)
	defer src.Close()
	c := Copier{Recursive: true}
	for range 2 { // the second time every file is replaced
		check(t, c.Copy(ctx, src, p, remote, "up"))
		check(t, remote.Rename(ctx, "up", "moved"))
		check(t, remote.Rename(ctx, "moved", "up"))
		check(t, RemoveAll(ctx, remote, "up/zero", false))
		check(t, c.Copy(ctx, src, p+"/zero", remote, "up/zero"))
		check(t, c.Copy(ctx, src, p+"/one", remote, "up/one"))
	}
	dst, q, err := OpenLocal(filepath.Join(local, "back"), false)
	check(t, err)
	defer dst.Close()
	check(t, c.Copy(ctx, remote, "up", dst, q))
	for name := range files {
		a, _ := os.ReadFile(filepath.Join(local, "src", name))
		b, err := os.ReadFile(filepath.Join(local, "back", name))
		i, e := os.Stat(filepath.Join(local, "back", name))
		if err != nil || e != nil || !bytes.Equal(a, b) || !i.ModTime().Equal(when) {
			t.Errorf("%s: %d of %d octets, %v, %v", name, len(b), len(a), err, e)
		}
	}
	if err := remote.Rmdir(ctx, "up/sub"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("rmdir: %v", err)
	}
	if _, err := remote.Open(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
	if err := c.FromReader(ctx, &failing{3 << 20}, remote, "broken"); !errors.Is(err, errBroken) {
		t.Errorf("broken source: %v", err)
	}
	var out bytes.Buffer
	check(t, List(ctx, &out, remote, "", ListOptions{All: true}))
	if out.String() != "up\n" {
		t.Errorf("left over: %q", out.String())
	}
	check(t, DF(ctx, io.Discard, remote, "", "x", false))
	check(t, RemoveAll(ctx, remote, "up", true))
}

func TestSMBWrongPassword(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	u, err := ParseURL("smb://" + sambatest.User + ":wrong@" + sambatest.Host + "/" + sambatest.Share)
	check(t, err)
	if _, _, err := OpenRemote(t.Context(), u, OpenOptions{Dial: tcpDial(server.Addr)}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%v", err)
	}
}
