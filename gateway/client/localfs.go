package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// localFS is a FileSystem on a local directory. It works through an os.Root,
// so that names and links a server sends cannot lead out of the directory.
type localFS struct {
	root *os.Root
	dir  string
}

// OpenLocal opens the directory that holds name, and returns name's path in
// it. With follow, a name that is a symbolic link stands for its target; one
// that does not exist yet stands for itself.
func OpenLocal(name string, follow bool) (FileSystem, string, error) {
	if follow {
		resolved, err := filepath.EvalSymlinks(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, "", err
		}
		if err == nil {
			name = resolved
		}
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, "", err
	}
	dir, base := filepath.Split(abs)
	if base == "" { // a root directory
		base = "."
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, "", err
	}
	return &localFS{root: root, dir: dir}, filepath.ToSlash(base), nil
}

// name turns a path into one of the root. A slash-separated name that holds a
// separator of this system, or a name it reserves, must not become a path.
func (l *localFS) name(p string) (string, error) {
	p = path.Clean("/" + p)[1:]
	if p == "" {
		return ".", nil
	}
	if runtime.GOOS == "windows" && strings.ContainsAny(p, `\:*?"<>|`) || !filepath.IsLocal(filepath.FromSlash(p)) {
		return "", fmt.Errorf("local file %q: the name is not allowed on this system: %w", p, fs.ErrInvalid)
	}
	return filepath.FromSlash(p), nil
}

// on runs do with p's name.
func (l *localFS) on(p string, do func(name string) error) error {
	name, err := l.name(p)
	if err != nil {
		return err
	}
	err = do(name)
	var pe *fs.PathError
	if errors.As(err, &pe) && pe.Path == name {
		// os.Root names its system calls, and the file from its folder on.
		pe.Op, pe.Path = strings.TrimSuffix(pe.Op, "at"), filepath.Join(l.dir, name)
	}
	return err
}

func (l *localFS) Stat(_ context.Context, p string) (i fs.FileInfo, err error) {
	err = l.on(p, func(name string) error { i, err = l.root.Stat(name); return err })
	return i, err
}

func (l *localFS) Lstat(_ context.Context, p string) (i fs.FileInfo, err error) {
	err = l.on(p, func(name string) error { i, err = l.root.Lstat(name); return err })
	return i, err
}

func (l *localFS) ReadDir(_ context.Context, p string) ([]fs.FileInfo, error) {
	var infos []fs.FileInfo
	err := l.on(p, func(name string) error {
		d, err := l.root.Open(name)
		if err != nil {
			return err
		}
		defer d.Close()
		entries, err := d.ReadDir(-1)
		for _, e := range entries {
			i, e := e.Info()
			if errors.Is(e, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if e != nil {
				return e
			}
			infos = append(infos, i)
		}
		return err
	})
	return infos, err
}

func (l *localFS) Open(_ context.Context, p string) (r io.ReadCloser, err error) {
	err = l.on(p, func(name string) error {
		f, err := l.root.Open(name)
		if err != nil {
			return err
		}
		if i, err := f.Stat(); err != nil || !i.Mode().IsRegular() {
			f.Close()
			return errors.Join(err, fmt.Errorf("open %q: not a regular file", p))
		}
		r = f
		return nil
	})
	return r, err
}

// localWriter syncs before it closes: what is renamed into place must be on
// the disk.
type localWriter struct{ *os.File }

func (w *localWriter) Close() error { return errors.Join(w.Sync(), w.File.Close()) }
func (w *localWriter) Abort()       { w.File.Close() }

func (l *localFS) Create(_ context.Context, p string, perm fs.FileMode) (w Writer, err error) {
	err = l.on(p, func(name string) error {
		f, err := l.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm.Perm())
		if err != nil {
			return err
		}
		w = &localWriter{f}
		return nil
	})
	return w, err
}

func (l *localFS) Mkdir(_ context.Context, p string, perm fs.FileMode) error {
	return l.on(p, func(name string) error { return l.root.Mkdir(name, perm.Perm()) })
}

func (l *localFS) Remove(_ context.Context, p string) error {
	return l.on(p, func(name string) error {
		if i, err := l.root.Lstat(name); err != nil {
			return err
		} else if i.IsDir() {
			return fmt.Errorf("remove %q: is a directory", p)
		}
		return l.root.Remove(name)
	})
}

func (l *localFS) Rmdir(_ context.Context, p string) error { return l.on(p, l.root.Remove) }

func (l *localFS) Rename(_ context.Context, from, to string) error {
	return l.on(from, func(a string) error {
		return l.on(to, func(b string) error { return l.root.Rename(a, b) })
	})
}

func (l *localFS) SetAttr(_ context.Context, p string, mode fs.FileMode, mtime time.Time) error {
	return l.on(p, func(name string) error {
		return errors.Join(l.root.Chtimes(name, time.Now(), mtime), l.root.Chmod(name, mode))
	})
}

func (l *localFS) Readlink(_ context.Context, p string) (text string, err error) {
	err = l.on(p, func(name string) error { text, err = l.root.Readlink(name); return err })
	return filepath.ToSlash(text), err
}

func (l *localFS) Symlink(_ context.Context, text, p string) error {
	return l.on(p, func(name string) error { return l.root.Symlink(filepath.FromSlash(text), name) })
}

func (l *localFS) StatFS(_ context.Context, p string) (Space, error) {
	name, err := l.name(p)
	if err != nil {
		return Space{}, err
	}
	return localSpace(filepath.Join(l.dir, name))
}

func (l *localFS) Close() error { return l.root.Close() }
