//go:build linux

package smb_test

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
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/smb"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// mount logs on to the server directly and mounts its share.
func mount(t *testing.T, s *sambatest.Server) *smb.Share {
	t.Helper()
	share, err := dialClient(t, s.Port, sambatest.Password).Mount(t.Context(), sambatest.Share)
	if err != nil {
		t.Fatal(err)
	}
	return share
}

// The client against smbd, with signing and with encryption.
func TestClientFiles(t *testing.T) {
	for _, global := range [][]string{nil, {"server signing = mandatory"}, {"server smb encrypt = required", "server min protocol = SMB3_11"}} {
		t.Run(fmt.Sprint(global), func(t *testing.T) {
			server := sambatest.Start(t, sambatest.Options{Global: global})
			share := mount(t, server)
			data := make([]byte, 3<<20+17)
			rand.Read(data)
			if err := share.Mkdir("a/../dir", 0o755); err != nil {
				t.Fatal(err)
			}
			f, err := share.OpenFile("dir/ünï ☃", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := f.Write(data); n != len(data) || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
			if err := errors.Join(f.Sync(), f.Close()); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(server.Dir, "dir", "ünï ☃")); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("the server has %d octets, %v", len(got), err)
			}
			if err := share.Rename("dir/ünï ☃", "dir/b"); err != nil {
				t.Fatal(err)
			}
			if f, err = share.Open("/dir/b"); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(f)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("read: %d octets, %v", len(got), err)
			}
			part := make([]byte, 1000)
			if n, err := f.ReadAt(part, int64(len(data))-10); n != 10 || err != io.EOF {
				t.Errorf("read over the end: %d, %v", n, err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			checkMeta(t, server, share, int64(len(data)))
			if err := errors.Join(share.Remove("dir/b"), share.Remove("dir")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func checkMeta(t *testing.T, server *sambatest.Server, share *smb.Share, size int64) {
	t.Helper()
	fi, err := share.Stat("dir/b")
	if err != nil || fi.Size() != size || fi.IsDir() {
		t.Errorf("stat: %+v, %v", fi, err)
	}
	when := time.Date(2001, 2, 3, 4, 5, 6, 700, time.UTC)
	if err := errors.Join(share.Chtimes("dir/b", when, when), share.Truncate("dir/b", 5)); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat(filepath.Join(server.Dir, "dir/b")); err != nil || fi.Size() != 5 {
		t.Errorf("after truncate: %+v, %v", fi, err)
	}
	list, err := share.ReadDir("dir")
	if err != nil || len(list) != 1 || list[0].Name() != "b" {
		t.Errorf("list: %v, %v", list, err)
	}
	if s, err := share.Statfs(); err != nil || s.Total == 0 || s.Available > s.Total {
		t.Errorf("space: %+v, %v", s, err)
	}
}

// Refusals are the errors of package os.
func TestClientErrors(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	share := mount(t, server)
	if err := os.WriteFile(filepath.Join(server.Dir, "locked"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(share.Mkdir("d", 0o755), share.Mkdir("d/sub", 0o755)); err != nil {
		t.Fatal(err)
	}
	open := func(p string, flag int) error { _, err := share.OpenFile(p, flag, 0o644); return err }
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"open what is not there", open("none", os.O_RDONLY), fs.ErrNotExist},
		{"open in what is not there", open("none/none", os.O_RDONLY), fs.ErrNotExist},
		{"create what is there", open("locked", os.O_CREATE|os.O_EXCL|os.O_RDWR), fs.ErrExist},
		{"make what is there", share.Mkdir("d", 0o755), fs.ErrExist},
		{"write what is another's", open("locked", os.O_WRONLY), fs.ErrPermission},
		{"remove what is not empty", share.Remove("d"), syscall.ENOTEMPTY},
		{"rename onto what is there", share.Rename("locked", "d"), fs.ErrExist},
		{"backslash", open(`d\..\locked`, os.O_RDONLY), fs.ErrInvalid},
	} {
		var e *smb.Error
		if !errors.Is(c.err, c.want) || !errors.As(c.err, &e) {
			t.Errorf("%s: %v (%T), want %v", c.name, c.err, c.err, c.want)
		}
	}
	conn, err := net.Dial("tcp", server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	_, err = smb.NewClient(t.Context(), conn, smb.ClientConfig{Host: sambatest.Host, User: sambatest.User, Password: "wrong"})
	if !errors.Is(err, smb.ErrLogon) || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := dialClient(t, server.Port, sambatest.Password).Mount(t.Context(), "nowhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such share: %v", err)
	}
}

// Many goroutines share one session.
func TestClientConcurrent(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	share := mount(t, server)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			name := fmt.Sprintf("f%d", i)
			want := bytes.Repeat([]byte{byte(i)}, 100_000+i)
			f, err := share.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, err := f.WriteAt(want, 0); err != nil {
				t.Error(err)
			}
			got := make([]byte, len(want))
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	list, err := share.ReadDir(".")
	if err != nil || len(list) != 16 || !slices.IsSortedFunc(list, func(a, b fs.FileInfo) int { return bytes.Compare([]byte(a.Name()), []byte(b.Name())) }) {
		t.Errorf("%d files, %v", len(list), err)
	}
}

// The backend dies in the middle of a transfer: the session ends at once, with
// its reason, and the client gets an error, not silence.
func TestRelayBackendDies(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	randomFile(t, server.Dir, "big", 64<<20)
	front := startFront(t, server.Addr, smb.Options{}, nil)
	share, err := dialClient(t, front.port, sambatest.Password).Mount(t.Context(), sambatest.Share)
	if err != nil {
		t.Fatal(err)
	}
	f, err := share.Open("big")
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	for total, killed := 0, false; ; {
		n, err := f.Read(buf)
		if total += n; err != nil {
			if errors.Is(err, io.EOF) {
				t.Fatal("the whole file was read after smbd was killed")
			}
			break
		}
		if total >= 8<<20 && !killed {
			killed = true
			server.Stop()
		}
	}
	r := front.result(t)
	if r.Reason.Side() != smb.SideBackend {
		t.Errorf("reason %s: %v", r.Reason, r.Err)
	}
}

func TestProbe(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{Global: []string{"server signing = mandatory"}})
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", server.Addr)
	}
	cfg := smb.ProbeConfig{Host: sambatest.Host}
	res, err := smb.Probe(t.Context(), dial, cfg)
	if err != nil || res.Response.Dialect != smb.Dialect311 || !res.Response.SigningRequired || res.NegotiateTime <= 0 || res.LogonTime != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	cfg.User, cfg.Password, cfg.Share = sambatest.User, sambatest.Password, sambatest.Share
	if res, err := smb.Probe(t.Context(), dial, cfg); err != nil || res.LogonTime <= 0 {
		t.Errorf("with a logon: %+v, %v", res, err)
	}
	cfg.Password = "wrong"
	if _, err := smb.Probe(t.Context(), dial, cfg); !errors.Is(err, smb.ErrLogon) {
		t.Errorf("with a wrong password: %v", err)
	}
	// HOSTILE 52: smbd on TCP does not take the offer.
	backends, err := smb.NewBackends(smb.BackendsConfig{Addrs: []string{server.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := backends.CheckBackend(t.Context(), server.Addr, smb.ProbeConfig{}); err != nil || res.Response.TransportSecurity {
		t.Errorf("%+v, %v", res, err)
	}
	server.Stop()
	if _, err := smb.Probe(t.Context(), dial, smb.ProbeConfig{}); err == nil {
		t.Error("a server that is gone was found")
	}
}
