package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// samba lets this program use the Samba of the tests, which wants a testing.TB:
// whatever ends a test there ends a section here.
type samba struct {
	testing.TB // nil: only the methods below are used

	ctx      context.Context
	base     string
	mu       sync.Mutex
	cleanups []func()
}

// sambaFailure is what ends a test: see rescue.
type sambaFailure struct{ text string }

// shmRoom is how much memory the share may take of /dev/shm, in bytes. It is
// there if it can be, so that no disk is measured.
const shmRoom = 6 << 30

func newSamba(ctx context.Context) (*samba, error) {
	where := os.TempDir()
	var fs syscall.Statfs_t
	if syscall.Statfs("/dev/shm", &fs) == nil && fs.Bavail*uint64(fs.Bsize) > shmRoom {
		where = "/dev/shm"
	}
	dir, err := os.MkdirTemp(where, "fsgw-bench")
	if err != nil {
		return nil, err
	}
	return &samba{ctx: ctx, base: dir}, nil
}

// close undoes everything, last things first.
func (s *samba) close() {
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
	_ = os.RemoveAll(s.base)
}

// rescue makes an error of what would have ended a test.
func rescue(err *error) {
	switch r := recover().(type) {
	case nil:
	case sambaFailure:
		*err = errors.Join(*err, errors.New(r.text))
	default:
		panic(r)
	}
}

func (s *samba) Helper()                  {}
func (s *samba) Context() context.Context { return s.ctx }
func (s *samba) Cleanup(f func())         { s.cleanups = append(s.cleanups, f) }
func (s *samba) Fatal(a ...any)           { panic(sambaFailure{fmt.Sprint(a...)}) }
func (s *samba) Fatalf(f string, a ...any) {
	panic(sambaFailure{fmt.Sprintf(f, a...)})
}

func (s *samba) TempDir() string {
	dir, err := os.MkdirTemp(s.base, "d")
	if err != nil {
		s.Fatal(err)
	}
	return dir
}

// A share is a running smbd with a file to read, and a folder for its clients.
type share struct {
	s    *samba
	smbd *sambatest.Server
	work string // the clients' /mnt
}

// shareName is the file that transfers read, upName what they write.
const shareName, upName = "big", "up"

// startShare runs smbd with a file of size bytes to read, and one to write.
func startShare(ctx context.Context, size int64) (sh *share, err error) {
	s, err := newSamba(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	defer rescue(&err)
	sh = &share{s: s, smbd: sambatest.Start(s, sambatest.Options{
		Share: []string{"vfs objects =", "store dos attributes = no", "ea support = no"}, Global: []string{"log level = 0"},
	})}
	sh.work = s.TempDir()
	if err := fill(filepath.Join(sh.smbd.Dir, shareName), size); err != nil {
		return nil, err
	}
	return sh, fill(filepath.Join(sh.work, upName), size)
}

// fill writes a file of size bytes that is no hole.
func fill(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for left := size; left > 0 && err == nil; left -= int64(len(block)) {
		_, err = f.Write(block[:min(left, int64(len(block)))])
	}
	return errors.Join(err, f.Close())
}

func (sh *share) close()    { sh.s.close() }
func (sh *share) port() int { return sh.smbd.Port }

func (sh *share) target(port int) sambatest.Target {
	g := sambatest.TCP(port)
	g.Work = sh.work
	return g
}

// client runs smbclient against a port and returns what it wrote.
func (sh *share) client(port int, commands ...string) (out string, err error) {
	defer rescue(&err)
	return sambatest.MustSMBClient(sh.s, sh.target(port), commands...), nil
}

// torture runs one of smbtorture's benchmarks and returns what it wrote.
func (sh *share) torture(port int, name string, options ...string) (text string, err error) {
	defer rescue(&err)
	out := sambatest.Torture(sh.s, sh.target(port), name, options...)
	if out.Code != 0 {
		return "", fmt.Errorf("smbtorture %s: exit status %d: %s", name, out.Code, lastLines(out.Text))
	}
	return out.Text, nil
}
