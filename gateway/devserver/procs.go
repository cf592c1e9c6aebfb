package devserver

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	billy "github.com/go-git/go-billy/v5"

	"github.com/buildbarn/go-xdr/pkg/protocols/mount"
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"
)

const (
	version3      = 3
	handleLimit   = nfsv3.NFS3_FHSIZE
	nameLimit     = 4096 // of a name as sent; longer than 255 is an error status
	maxExclusives = 1024
)

// answer answers a call, or says that it is the library's.
func (s *Server) answer(c call) (reply []byte, mine bool) {
	switch {
	case c.rpcvers != 2:
		b := put32(make([]byte, 4), c.xid, uint32(rpcv2.REPLY), uint32(rpcv2.MSG_DENIED), uint32(rpcv2.RPC_MISMATCH), 2, 2)
		return b, true
	case c.prog != nfsv3.NFS_PROGRAM_PROGRAM_NUMBER && c.prog != mount.MOUNT_PROGRAM_PROGRAM_NUMBER:
		return accepted(c.xid, rpcv2.PROG_UNAVAIL), true
	case c.vers != version3:
		return put32(accepted(c.xid, rpcv2.PROG_MISMATCH), version3, version3), true
	case c.prog == mount.MOUNT_PROGRAM_PROGRAM_NUMBER:
		return s.mountProc(c), true
	}
	var body func(*args) []byte
	switch c.proc {
	case 7:
		body = s.write
	case 8:
		if reply, mine := s.createExclusive(c); mine {
			return reply, true
		}
	case 12:
		body = func(a *args) []byte { return s.remove(a, false) }
	case 13:
		body = func(a *args) []byte { return s.remove(a, true) }
	case 14:
		body = s.rename
	case 15:
		body = s.link
	case 18:
		body = s.fsstat
	case 19:
		body = s.fsinfo
	case 21:
		body = s.commit
	default:
		if c.proc > 21 {
			return accepted(c.xid, rpcv2.PROC_UNAVAIL), true
		}
	}
	if body != nil {
		return finish(c, body), true
	}
	if !wellFormed(c) {
		return accepted(c.xid, rpcv2.GARBAGE_ARGS), true
	}
	return nil, false
}

// wellFormed checks the variable-length arguments of a call for the library,
// which would allocate whatever length they announce.
func wellFormed(c call) bool {
	a := c.args
	if c.proc == 0 {
		return true
	}
	a.opaque(handleLimit)
	switch c.proc {
	case 3, 8, 9, 10, 11: // LOOKUP, CREATE, MKDIR, SYMLINK, MKNOD
		a.opaque(nameLimit)
	}
	if c.proc == 10 {
		a.sattr()
		a.opaque(nameLimit)
	}
	return !a.bad
}

func finish(c call, body func(*args) []byte) []byte {
	result := body(&c.args)
	if c.args.bad {
		return accepted(c.xid, rpcv2.GARBAGE_ARGS)
	}
	return append(accepted(c.xid, rpcv2.SUCCESS), result...)
}

// status finds the NFS status that says err best.
func status(err error) uint32 {
	var no syscall.Errno
	switch {
	case err == nil:
		return uint32(nfsv3.NFS3_OK)
	case errors.Is(err, billy.ErrReadOnly):
		return uint32(nfsv3.NFS3ERR_ROFS)
	case errors.Is(err, errStale):
		return uint32(nfsv3.NFS3ERR_STALE)
	case errors.As(err, &no):
		for errno, s := range errnoStatus {
			if no == errno {
				return uint32(s)
			}
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return uint32(nfsv3.NFS3ERR_NOENT)
	case errors.Is(err, fs.ErrExist):
		return uint32(nfsv3.NFS3ERR_EXIST)
	case errors.Is(err, fs.ErrPermission):
		return uint32(nfsv3.NFS3ERR_ACCES)
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, errNotRegular):
		return uint32(nfsv3.NFS3ERR_INVAL)
	}
	return uint32(nfsv3.NFS3ERR_IO)
}

var errStale = errors.New("stale handle")

var errnoStatus = map[syscall.Errno]nfsv3.Nfsstat3{
	syscall.EPERM: nfsv3.NFS3ERR_PERM, syscall.ENOENT: nfsv3.NFS3ERR_NOENT, syscall.EACCES: nfsv3.NFS3ERR_ACCES,
	syscall.EEXIST: nfsv3.NFS3ERR_EXIST, syscall.EXDEV: nfsv3.NFS3ERR_XDEV, syscall.ENOTDIR: nfsv3.NFS3ERR_NOTDIR,
	syscall.EISDIR: nfsv3.NFS3ERR_ISDIR, syscall.EINVAL: nfsv3.NFS3ERR_INVAL, syscall.EFBIG: nfsv3.NFS3ERR_FBIG,
	syscall.ENOSPC: nfsv3.NFS3ERR_NOSPC, syscall.EROFS: nfsv3.NFS3ERR_ROFS, syscall.EMLINK: nfsv3.NFS3ERR_MLINK,
	syscall.ENAMETOOLONG: nfsv3.NFS3ERR_NAMETOOLONG, syscall.ENOTEMPTY: nfsv3.NFS3ERR_NOTEMPTY, syscall.EDQUOT: nfsv3.NFS3ERR_DQUOT,
}

// mountProc answers the MOUNT program. Only the export and directories below
// it can be mounted.
func (s *Server) mountProc(c call) []byte {
	switch c.proc {
	case 0, 4: // NULL, UMNTALL
		return accepted(c.xid, rpcv2.SUCCESS)
	case 1:
		return finish(c, s.mnt)
	case 2: // DUMP: nothing is recorded
		return put32(accepted(c.xid, rpcv2.SUCCESS), 0)
	case 3:
		return finish(c, func(a *args) []byte { a.opaque(1024); return nil })
	case 5: // EXPORT: one entry, for everyone
		b := putOpaque(put32(accepted(c.xid, rpcv2.SUCCESS), 1), []byte(s.cfg.Export))
		return put32(b, 0, 0)
	}
	return accepted(c.xid, rpcv2.PROC_UNAVAIL)
}

func (s *Server) mnt(a *args) []byte {
	dir := path.Clean("/" + string(a.opaque(1024)))
	rest, below := strings.CutPrefix(dir, strings.TrimSuffix(s.cfg.Export, "/")+"/")
	if !below && dir != s.cfg.Export {
		return put32(nil, uint32(mount.MNT3ERR_ACCES))
	}
	elems := []string{}
	if below && rest != "" {
		elems = strings.Split(rest, "/")
	}
	i, err := s.fs.Lstat(s.fs.Join(elems...))
	if err == nil && !i.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return put32(nil, status(err)) // MOUNT's numbers are the same
	}
	return put32(putOpaque(put32(nil, 0), s.tab.handle(elems)), 2, uint32(rpcv2.AUTH_NONE), uint32(rpcv2.AUTH_SYS))
}

// noWcc is wcc_data without attributes.
func noWcc(b []byte) []byte { return put32(b, 0, 0) }

func (s *Server) path(handle []byte) ([]string, error) {
	p, ok := s.tab.path(handle)
	if !ok {
		return nil, errStale
	}
	return p, nil
}

// child resolves a directory handle and a name in it.
func (s *Server) child(handle, name []byte) ([]string, error) {
	p, err := s.path(handle)
	if err != nil {
		return nil, err
	}
	if err := s.fs.writable(); err != nil {
		return nil, err
	}
	if len(name) > 255 {
		return nil, syscall.ENAMETOOLONG
	}
	if !validName(string(name)) {
		return nil, syscall.EINVAL
	}
	return append(p, string(name)), nil
}

// withFile runs do on the open file of a handle.
func (s *Server) withFile(handle []byte, flag int, do func(*os.File) error) error {
	p, err := s.path(handle)
	if err != nil {
		return err
	}
	f, err := s.fs.open(s.fs.Join(p...), flag, 0)
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}

// write answers WRITE. Only what was asked to be stable is synced, and only
// that is reported as stable.
func (s *Server) write(a *args) []byte {
	handle, off, count, stable, data := a.opaque(handleLimit), a.uint64(), a.uint32(), a.uint32(), a.opaque(maxIO)
	if a.bad || uint64(count) > uint64(len(data)) || stable > uint32(nfsv3.FILE_SYNC) {
		a.bad = true
		return nil
	}
	err := s.withFile(handle, os.O_WRONLY, func(f *os.File) error {
		if off > 1<<63-1-maxIO {
			return syscall.EFBIG
		}
		if _, err := f.WriteAt(data[:count], int64(off)); err != nil {
			return err
		}
		if stable != uint32(nfsv3.UNSTABLE) {
			return f.Sync()
		}
		return nil
	})
	b := noWcc(put32(nil, status(err)))
	if err != nil {
		return b
	}
	if stable != uint32(nfsv3.UNSTABLE) {
		stable = uint32(nfsv3.FILE_SYNC)
	}
	return append(put32(b, count, stable), s.verf[:]...)
}

// commit answers COMMIT by syncing the whole file.
func (s *Server) commit(a *args) []byte {
	handle := a.opaque(handleLimit)
	a.uint64()
	a.uint32()
	flag := os.O_RDONLY
	if filesNeedWriteToSync {
		flag = os.O_WRONLY
	}
	err := s.withFile(handle, flag, (*os.File).Sync)
	b := noWcc(put32(nil, status(err)))
	if err == nil {
		b = append(b, s.verf[:]...)
	}
	return b
}

// createExclusive answers CREATE in mode EXCLUSIVE; other modes are the library's.
func (s *Server) createExclusive(c call) (reply []byte, mine bool) {
	a := c.args
	handle, name, mode := a.opaque(handleLimit), a.opaque(nameLimit), a.uint32()
	if a.bad || mode != uint32(nfsv3.EXCLUSIVE) {
		return nil, false
	}
	var verf [8]byte
	copy(verf[:], a.take(8))
	return finish(c, func(x *args) []byte {
		x.bad = a.bad
		p, err := s.child(handle, name)
		if err == nil && !a.bad {
			err = s.exclusive(p, verf)
		}
		if err != nil {
			return noWcc(put32(nil, status(err)))
		}
		b := putOpaque(put32(nil, 0, 1), s.tab.handle(p))
		return noWcc(put32(b, 0))
	}), true
}

// exclusive creates a file once for each verifier, so that a repeated call
// finds the file its first attempt made.
func (s *Server) exclusive(p []string, verf [8]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := s.fs.Join(p...)
	f, err := s.fs.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		if v, ok := s.excl[name]; ok && v == verf {
			return nil
		}
	}
	if err != nil {
		return err
	}
	if len(s.excl) >= maxExclusives {
		clear(s.excl)
	}
	s.excl[name] = verf
	return f.Close()
}

func (s *Server) remove(a *args, dir bool) []byte {
	handle, name := a.opaque(handleLimit), a.opaque(nameLimit)
	if a.bad {
		return nil
	}
	p, err := s.child(handle, name)
	if err == nil {
		err = s.unlink(p, dir)
	}
	return noWcc(put32(nil, status(err)))
}

func (s *Server) unlink(p []string, dir bool) error {
	name := s.fs.Join(p...)
	i, err := s.fs.Lstat(name)
	if err != nil {
		return err
	}
	if dir && !i.IsDir() {
		return syscall.ENOTDIR
	}
	if !dir && i.IsDir() {
		return syscall.EISDIR
	}
	if err := s.fs.Remove(name); err != nil {
		return err
	}
	s.tab.forget(p)
	s.mu.Lock()
	delete(s.excl, name)
	s.mu.Unlock()
	return nil
}

func (s *Server) rename(a *args) []byte {
	fromDir, fromName := a.opaque(handleLimit), a.opaque(nameLimit)
	toDir, toName := a.opaque(handleLimit), a.opaque(nameLimit)
	if a.bad {
		return nil
	}
	from, err := s.child(fromDir, fromName)
	var to []string
	if err == nil {
		to, err = s.child(toDir, toName)
	}
	if err == nil {
		err = s.fs.Rename(s.fs.Join(from...), s.fs.Join(to...))
	}
	if err == nil {
		s.tab.rename(from, to)
		s.mu.Lock()
		delete(s.excl, s.fs.Join(from...))
		delete(s.excl, s.fs.Join(to...))
		s.mu.Unlock()
	}
	return noWcc(noWcc(put32(nil, status(err))))
}

func (s *Server) link(a *args) []byte {
	handle, dir, name := a.opaque(handleLimit), a.opaque(handleLimit), a.opaque(nameLimit)
	if a.bad {
		return nil
	}
	old, err := s.path(handle)
	var p []string
	if err == nil {
		p, err = s.child(dir, name)
	}
	if err == nil {
		err = s.fs.root.Link(s.fs.Join(old...), s.fs.Join(p...))
	}
	return noWcc(put32(nil, status(err), 0))
}

// fsstat answers FSSTAT; files are not counted, so that their numbers are as
// large as they can be.
func (s *Server) fsstat(a *args) []byte {
	_, err := s.path(a.opaque(handleLimit))
	var total, free, avail uint64
	if err == nil {
		total, free, avail, err = diskSpace(s.fs.dir)
	}
	b := put32(nil, status(err), 0)
	if err == nil {
		for _, v := range []uint64{total, free, avail, 1 << 62, 1 << 62, 1 << 62} {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		b = put32(b, 0)
	}
	return b
}

// fsinfo answers FSINFO with limits that the server keeps.
func (s *Server) fsinfo(a *args) []byte {
	if _, err := s.path(a.opaque(handleLimit)); err != nil {
		return put32(nil, status(err), 0)
	}
	b := put32(nil, 0, 0, maxIO, maxIO, 4096, maxIO, maxIO, 4096, 64<<10)
	b = binary.BigEndian.AppendUint64(b, 1<<63-1-maxIO)
	const link, symlink, homogeneous, canSetTime = 1, 2, 8, 16
	return put32(b, 0, 1, link|symlink|homogeneous|canSetTime)
}
