package devserver

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	billy "github.com/go-git/go-billy/v5"
)

// badPath is what Join makes of names that are none; os.Root refuses it.
const badPath = "\x00"

// rootFS is the library's view of the directory. Everything goes through an
// os.Root, and the last element of a path is never followed if it is a
// symbolic link: in NFS the client follows links.
type rootFS struct {
	root     *os.Root
	dir      string
	readOnly bool
}

var errNotRegular = errors.New("not a regular file")

// validName reports whether name may stand for one directory entry.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\x00") &&
		(filepath.Separator == '/' || !strings.ContainsAny(name, `\:`))
}

// Join makes a path of elements that came from the network one by one.
func (r *rootFS) Join(elem ...string) string {
	for _, e := range elem {
		if !validName(e) {
			return badPath
		}
	}
	if len(elem) == 0 {
		return "."
	}
	return path.Join(elem...)
}

// Capabilities is what the library asks before it changes anything.
func (r *rootFS) Capabilities() billy.Capability {
	if r.readOnly {
		return billy.ReadCapability | billy.SeekCapability
	}
	return billy.DefaultCapabilities
}

func (r *rootFS) writable() error {
	if r.readOnly {
		return billy.ErrReadOnly
	}
	return nil
}

// open opens a regular file. The check comes before, because opening a FIFO
// would block, and after, because the file may have been exchanged.
func (r *rootFS) open(name string, flag int, perm os.FileMode) (*os.File, error) {
	if flag&(os.O_WRONLY|os.O_RDWR|os.O_CREATE|os.O_TRUNC) != 0 {
		if err := r.writable(); err != nil {
			return nil, err
		}
	}
	i, err := r.root.Lstat(name)
	if err == nil && !i.Mode().IsRegular() || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, &os.PathError{Op: "open", Path: name, Err: errNotRegular})
	}
	if flag&os.O_CREATE == 0 {
		flag &^= os.O_EXCL // the library sets it where it means nothing
	}
	f, err := r.root.OpenFile(name, flag|openFlags, perm)
	if err != nil {
		return nil, err
	}
	if i, err := f.Stat(); err != nil || !i.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, &os.PathError{Op: "open", Path: name, Err: errNotRegular})
	}
	return f, nil
}

// file is an open file as the library wants it.
type file struct {
	*os.File
	name string
}

func (f file) Name() string  { return f.name }
func (f file) Lock() error   { return billy.ErrNotSupported }
func (f file) Unlock() error { return billy.ErrNotSupported }

func (r *rootFS) OpenFile(name string, flag int, perm os.FileMode) (billy.File, error) {
	f, err := r.open(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return file{f, name}, nil
}

func (r *rootFS) Open(name string) (billy.File, error) { return r.OpenFile(name, os.O_RDONLY, 0) }

// Create does not truncate: an unchecked CREATE of NFS keeps what an existing
// file holds unless its attributes say size 0, which the library applies.
func (r *rootFS) Create(name string) (billy.File, error) {
	return r.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
}

func (r *rootFS) Stat(name string) (os.FileInfo, error)  { return r.root.Lstat(name) }
func (r *rootFS) Lstat(name string) (os.FileInfo, error) { return r.root.Lstat(name) }

func (r *rootFS) Rename(from, to string) error {
	if err := r.writable(); err != nil {
		return err
	}
	return r.root.Rename(from, to)
}

func (r *rootFS) Remove(name string) error {
	if err := r.writable(); err != nil {
		return err
	}
	return r.root.Remove(name)
}

func (r *rootFS) TempFile(string, string) (billy.File, error) { return nil, billy.ErrNotSupported }

func (r *rootFS) ReadDir(name string) ([]os.FileInfo, error) {
	d, err := r.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	infos := make([]os.FileInfo, 0, len(entries))
	for _, e := range entries {
		if i, err := e.Info(); err == nil { // gone meanwhile otherwise
			infos = append(infos, i)
		}
	}
	return infos, nil
}

func (r *rootFS) MkdirAll(name string, perm os.FileMode) error {
	if err := r.writable(); err != nil {
		return err
	}
	return r.root.MkdirAll(name, perm.Perm())
}

func (r *rootFS) Symlink(target, link string) error {
	if err := r.writable(); err != nil {
		return err
	}
	return r.root.Symlink(target, link)
}

func (r *rootFS) Readlink(link string) (string, error) { return r.root.Readlink(link) }

func (r *rootFS) Chroot(string) (billy.Filesystem, error) { return nil, billy.ErrNotSupported }
func (r *rootFS) Root() string                            { return "/" }

// noLink refuses symbolic links: Chmod and Chtimes of os.Root follow them.
func (r *rootFS) noLink(name string) error {
	if err := r.writable(); err != nil {
		return err
	}
	i, err := r.root.Lstat(name)
	if err == nil && i.Mode()&fs.ModeSymlink != 0 {
		err = &os.PathError{Op: "change", Path: name, Err: fs.ErrInvalid}
	}
	return err
}

func (r *rootFS) Chmod(name string, mode os.FileMode) error {
	if err := r.noLink(name); err != nil {
		return err
	}
	return r.root.Chmod(name, mode)
}

func (r *rootFS) Lchown(name string, uid, gid int) error {
	if err := r.writable(); err != nil {
		return err
	}
	return r.root.Lchown(name, uid, gid)
}

func (r *rootFS) Chown(name string, uid, gid int) error { return r.Lchown(name, uid, gid) }

func (r *rootFS) Chtimes(name string, atime, mtime time.Time) error {
	if err := r.noLink(name); err != nil {
		return err
	}
	return r.root.Chtimes(name, atime, mtime)
}
