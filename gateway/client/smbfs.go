package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-fsgw/quic-fsgw/smb"
)

const (
	smbChunk   = 1 << 20 // the library sends no larger request
	smbWindow  = 8       // chunks under way for one file
	smbHandles = 4       // opens of one file: a server may serve one request an open at a time
	logoffTime = 5 * time.Second
)

// smbFS is a FileSystem on an SMB share, by one or more sessions.
type smbFS struct {
	shares []*smb.Share
	turn   atomic.Uint32
	close  []func() error // in the order of opening
}

// NewSMB makes a FileSystem of one share, mounted in one or more sessions;
// reading and writing take turns on them. Close calls closer.
func NewSMB(shares []*smb.Share, closer func() error) FileSystem {
	return &smbFS{shares: shares, close: []func() error{closer}}
}

func openSMB(ctx context.Context, u *RemoteURL, o OpenOptions) (FileSystem, string, error) {
	name, rest, err := u.Share()
	if err != nil {
		return nil, "", err
	}
	s := new(smbFS)
	for range o.Streams {
		if err := s.session(ctx, u, name, o); err != nil {
			s.Close()
			return nil, "", err
		}
	}
	return s, rest, nil
}

// session adds one session. SMB over QUIC has one stream to a connection.
func (s *smbFS) session(ctx context.Context, u *RemoteURL, share string, o OpenOptions) error {
	q, err := o.Dial(ctx, "smb", u.Host, u.Port)
	if err != nil {
		return &ConnectError{u.String(), err}
	}
	s.close = append(s.close, q.Close)
	nc, err := q.Open(ctx)
	if err != nil {
		return &ConnectError{u.String(), err}
	}
	domain, user := u.Account()
	if user == "" {
		user = "guest"
	}
	c, err := smb.NewClient(ctx, nc, smb.ClientConfig{Host: u.Host, User: user, Domain: domain, Password: u.Password, Timeout: o.Timeout})
	if err != nil {
		return fmt.Errorf("logon as %q at %s: %w (user in the URL, password in QUIC_FSGW_PASSWORD or --password-file)", user, u.Host, err)
	}
	s.close = append(s.close, func() error {
		late, cancel := context.WithTimeout(context.Background(), logoffTime)
		defer cancel()
		return c.Close(late)
	})
	sh, err := c.Mount(ctx, share)
	if err != nil {
		return fmt.Errorf("share %q at %s: %w", share, u.Host, err)
	}
	s.shares = append(s.shares, sh)
	return nil
}

// Close ends the sessions, the last one first.
func (s *smbFS) Close() error {
	var errs []error
	for i := len(s.close) - 1; i >= 0; i-- {
		errs = append(errs, s.close[i]())
	}
	s.close = nil
	return errors.Join(errs...)
}

func (s *smbFS) share(ctx context.Context) *smb.Share {
	return s.shares[int(s.turn.Add(1))%len(s.shares)].WithContext(ctx)
}

func (s *smbFS) Stat(ctx context.Context, p string) (fs.FileInfo, error) { return s.share(ctx).Stat(p) }

func (s *smbFS) Lstat(ctx context.Context, p string) (fs.FileInfo, error) {
	return s.share(ctx).Lstat(p)
}

func (s *smbFS) ReadDir(ctx context.Context, p string) ([]fs.FileInfo, error) {
	return s.share(ctx).ReadDir(p)
}

func (s *smbFS) Mkdir(ctx context.Context, p string, perm fs.FileMode) error {
	return s.share(ctx).Mkdir(p, perm)
}

func (s *smbFS) Readlink(ctx context.Context, p string) (string, error) {
	return s.share(ctx).Readlink(p)
}

// Symlink fails: what a link's text means differs between SMB servers, and
// most let only administrators make one.
func (s *smbFS) Symlink(_ context.Context, text, p string) error {
	return &smb.Error{Op: "symlink", Path: p, Err: errors.ErrUnsupported}
}

func (s *smbFS) StatFS(ctx context.Context, _ string) (Space, error) {
	i, err := s.share(ctx).Statfs()
	return Space{Total: i.Total, Free: i.Free, Available: i.Available}, err
}

// Remove does not take a directory although the protocol would.
func (s *smbFS) Remove(ctx context.Context, p string) error { return s.unlink(ctx, "remove", p, false) }

func (s *smbFS) Rmdir(ctx context.Context, p string) error { return s.unlink(ctx, "rmdir", p, true) }

func (s *smbFS) unlink(ctx context.Context, op, p string, dir bool) error {
	sh := s.share(ctx)
	i, err := sh.Lstat(p)
	if err != nil {
		return err
	}
	switch {
	case dir && !i.IsDir():
		return &smb.Error{Op: op, Path: p, Err: syscall.ENOTDIR}
	case !dir && i.IsDir():
		return &smb.Error{Op: op, Path: p, Err: syscall.EISDIR}
	case !dir && i.Mode()&0o200 == 0: // a read-only file can't be removed
		if err := sh.Chmod(p, i.Mode()|0o200); err != nil {
			return err
		}
	}
	return sh.Remove(p)
}

// Rename replaces a file in two steps, because the library cannot ask for
// replacement: for a moment there is no file at to, never half of one.
func (s *smbFS) Rename(ctx context.Context, from, to string) error {
	sh := s.share(ctx)
	err := sh.Rename(from, to)
	if !errors.Is(err, fs.ErrExist) || path.Clean("/"+from) == path.Clean("/"+to) {
		return err
	}
	if i, e := sh.Lstat(to); e != nil || i.IsDir() {
		return err
	}
	if e := s.Remove(ctx, to); e != nil {
		return e
	}
	return sh.Rename(from, to)
}

// SetAttr sets the time and, as the only permission SMB has here, read-only.
func (s *smbFS) SetAttr(ctx context.Context, p string, mode fs.FileMode, mtime time.Time) error {
	sh := s.share(ctx)
	if err := sh.Chtimes(p, mtime, mtime); err != nil {
		return err
	}
	i, err := sh.Stat(p)
	if err != nil || i.IsDir() || i.Mode()&0o200 == mode&0o200 {
		return err
	}
	return sh.Chmod(p, mode)
}

// smbFile is one file opened several times, so that requests run in parallel.
type smbFile struct {
	files []*smb.File
	turn  atomic.Uint32
}

// open opens p by first, and where the file is worth it by more again.
func (s *smbFS) open(ctx context.Context, p string, first, more, opens int, perm fs.FileMode) (*smbFile, error) {
	x := new(smbFile)
	for flag := first; len(x.files) < opens; flag = more {
		f, err := s.share(ctx).OpenFile(p, flag, perm)
		if err != nil {
			if len(x.files) == 0 {
				return nil, err
			}
			break // a server need not allow a second open
		}
		x.files = append(x.files, f)
	}
	return x, nil
}

func (x *smbFile) next() *smb.File { return x.files[int(x.turn.Add(1))%len(x.files)] }

func (x *smbFile) readAt(p []byte, off int64) (int, error)  { return x.next().ReadAt(p, off) }
func (x *smbFile) writeAt(p []byte, off int64) (int, error) { return x.next().WriteAt(p, off) }

// shut closes every open; sync first asks the server to write to its disk.
func (x *smbFile) shut(sync bool) error {
	var errs []error
	if sync {
		errs = append(errs, x.files[0].Sync())
	}
	for _, f := range x.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func (s *smbFS) Open(ctx context.Context, p string) (io.ReadCloser, error) {
	i, err := s.share(ctx).Stat(p)
	if err != nil {
		return nil, err
	}
	if i.IsDir() {
		return nil, &smb.Error{Op: "open", Path: p, Err: syscall.EISDIR}
	}
	opens := int(min(1+i.Size()/smbChunk, smbHandles))
	x, err := s.open(ctx, p, os.O_RDONLY, os.O_RDONLY, opens, 0)
	if err != nil {
		return nil, err
	}
	return newPipeReader(x.readAt, func() error { return x.shut(false) }, i.Size(), smbChunk, smbWindow), nil
}

func (s *smbFS) Create(ctx context.Context, p string, perm fs.FileMode) (Writer, error) {
	// A file that is created read-only could not be opened again; SetAttr
	// comes later.
	x, err := s.open(ctx, p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.O_WRONLY, smbHandles, perm|0o200)
	if err != nil {
		return nil, err
	}
	return newPipeWriter(x.writeAt, x.shut, smbChunk, smbWindow), nil
}
