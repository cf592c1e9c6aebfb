package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"
	"syscall"
	"time"
)

const (
	copyJobs = 4 // files copied at once below a directory
	// spaceCheckFrom is the file size in octets from which the target is asked
	// for its free space first; below it the question costs more than it saves.
	spaceCheckFrom = 64 << 20
	tempPrefix     = ".quic-fsgw-"
)

// Copier copies files and directories between file systems. Each file is
// written under a temporary name in its target directory, checked, and then
// renamed: what has its name is whole.
type Copier struct {
	Recursive bool      // directories too
	Progress  *Progress // may be nil

	jobs chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	errs []error
}

// Copy copies srcPath to dstPath, or into it where it is a directory. It
// goes on with other files after an error and returns all of them.
func (c *Copier) Copy(ctx context.Context, src FileSystem, srcPath string, dst FileSystem, dstPath string) error {
	info, err := src.Stat(ctx, srcPath)
	if err != nil {
		return err
	}
	if t, err := dst.Stat(ctx, dstPath); err == nil && t.IsDir() {
		if base := path.Base(path.Clean("/" + srcPath)); base != "/" {
			dstPath = path.Join(dstPath, base)
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !info.IsDir() {
		c.Progress.Expect(info.Size())
		return c.file(ctx, src, srcPath, info, dst, dstPath)
	}
	if !c.Recursive {
		return fmt.Errorf("cp %q: is a directory (use -r)", srcPath)
	}
	if src == dst && within(dstPath, srcPath) {
		return fmt.Errorf("cp %q: cannot copy a directory into itself", srcPath)
	}
	c.jobs = make(chan struct{}, copyJobs)
	c.dir(ctx, src, srcPath, info, dst, dstPath, 0)
	c.wg.Wait()
	return errors.Join(c.errs...)
}

func within(p, dir string) bool {
	p, dir = path.Clean("/"+p), path.Clean("/"+dir)
	return p == dir || dir == "/" || len(p) > len(dir) && p[:len(dir)] == dir && p[len(dir)] == '/'
}

func (c *Copier) fail(err error) {
	if err != nil {
		c.mu.Lock()
		c.errs = append(c.errs, err)
		c.mu.Unlock()
	}
}

// dir copies one directory; files below it run in parallel, and its own
// attributes come last, because each new entry changes its time.
func (c *Copier) dir(ctx context.Context, src FileSystem, from string, info fs.FileInfo, dst FileSystem, to string, depth int) {
	if depth > maxDepth {
		c.fail(fmt.Errorf("cp %q: nested more than %d deep", from, maxDepth))
		return
	}
	if err := dst.Mkdir(ctx, to, 0o700); err != nil {
		if t, e := dst.Lstat(ctx, to); e != nil || !t.IsDir() {
			c.fail(err)
			return
		}
	}
	list, err := src.ReadDir(ctx, from)
	if err != nil {
		c.fail(err)
		return
	}
	var files sync.WaitGroup
	for _, e := range list {
		if err := checkEntry(e.Name()); err != nil {
			c.fail(err)
			return
		}
		if ctx.Err() != nil {
			break
		}
		c.entry(ctx, src, path.Join(from, e.Name()), e, dst, path.Join(to, e.Name()), depth, &files)
	}
	files.Wait()
	if err := ctx.Err(); err != nil {
		c.fail(err)
		return
	}
	c.fail(dst.SetAttr(ctx, to, info.Mode(), info.ModTime()))
}

func (c *Copier) entry(ctx context.Context, src FileSystem, from string, info fs.FileInfo, dst FileSystem, to string, depth int, files *sync.WaitGroup) {
	switch m := info.Mode(); {
	case m.IsDir():
		c.dir(ctx, src, from, info, dst, to, depth+1)
	case m&fs.ModeSymlink != 0:
		c.fail(link(ctx, src, from, dst, to))
	case m.IsRegular():
		c.Progress.Expect(info.Size())
		c.jobs <- struct{}{}
		files.Add(1)
		c.wg.Go(func() {
			defer files.Done()
			c.fail(c.file(ctx, src, from, info, dst, to))
			<-c.jobs
		})
	default:
		c.fail(fmt.Errorf("cp %q: not copied: neither file, directory nor link (%v)", from, m.Type()))
	}
}

// link copies a symbolic link as such.
func link(ctx context.Context, src FileSystem, from string, dst FileSystem, to string) error {
	text, err := src.Readlink(ctx, from)
	if err != nil {
		return err
	}
	if old, err := dst.Readlink(ctx, to); err == nil {
		if old == text {
			return nil
		}
		if err := dst.Remove(ctx, to); err != nil {
			return err
		}
	}
	return dst.Symlink(ctx, text, to)
}

// file copies one regular file.
func (c *Copier) file(ctx context.Context, src FileSystem, from string, info fs.FileInfo, dst FileSystem, to string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.Progress.Name(from)
	if t, err := dst.Lstat(ctx, to); err == nil && t.IsDir() {
		return fmt.Errorf("cp %q: %q is a directory", from, to)
	}
	if err := checkSpace(ctx, dst, to, info.Size()); err != nil {
		return fmt.Errorf("cp %q: %w", from, err)
	}
	r, err := src.Open(ctx, from)
	if err != nil {
		return err
	}
	defer r.Close()
	unchanged := func(n int64) error {
		now, err := src.Stat(ctx, from)
		if err == nil && (now.Size() != n || !now.ModTime().Equal(info.ModTime())) {
			err = fmt.Errorf("it changed while it was copied (%d octets read, %d there now)", n, now.Size())
		}
		return err
	}
	if err := c.write(ctx, r, dst, to, info, unchanged); err != nil {
		return fmt.Errorf("cp %q: %w", from, err)
	}
	return nil
}

// FromReader copies a stream, such as standard input, to a file. An existing
// directory as target is an error: the stream has no name.
func (c *Copier) FromReader(ctx context.Context, r io.Reader, dst FileSystem, to string) error {
	if t, err := dst.Stat(ctx, to); err == nil && t.IsDir() {
		return fmt.Errorf("cp -: %q is a directory (name the file)", to)
	}
	if err := c.write(ctx, r, dst, to, nil, nil); err != nil {
		return fmt.Errorf("cp -: %w", err)
	}
	return nil
}

// write does the work of one file: temporary name, data, checks, attributes,
// rename. check is asked about the number of octets copied.
func (c *Copier) write(ctx context.Context, r io.Reader, dst FileSystem, to string, info fs.FileInfo, check func(n int64) error) (err error) {
	temp := path.Join(path.Dir(path.Clean("/"+to)), tempPrefix+rand.Text()+".part")
	w, err := dst.Create(ctx, temp, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.Abort()
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
			defer cancel()
			if e := dst.Remove(late, temp); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = fmt.Errorf("%w (and %q could not be removed: %w)", err, temp, e)
			}
		}
	}()
	n, err := c.data(ctx, w, r)
	if err != nil {
		return err
	}
	if err = w.Close(); err != nil {
		return err
	}
	if check != nil {
		if err = check(n); err != nil {
			return err
		}
	}
	t, err := dst.Lstat(ctx, temp)
	if err != nil {
		return err
	}
	if t.Size() != n {
		return fmt.Errorf("the target holds %d octets after %d were written", t.Size(), n)
	}
	mode, mtime := fs.FileMode(0o644), time.Now()
	if info != nil {
		mode, mtime = info.Mode(), info.ModTime()
	}
	if err = dst.SetAttr(ctx, temp, mode, mtime); err != nil && info != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return dst.Rename(ctx, temp, to)
}

// checkSpace fails early where a large file cannot fit.
func checkSpace(ctx context.Context, dst FileSystem, to string, size int64) error {
	if size < spaceCheckFrom {
		return nil
	}
	s, err := dst.StatFS(ctx, path.Dir(path.Clean("/"+to)))
	if err != nil || s.Available >= uint64(size) {
		return nil // a server that does not tell lets the write decide
	}
	return fmt.Errorf("%w: %s needed, %s available at the target", syscall.ENOSPC, HumanSize(uint64(size)), HumanSize(s.Available))
}

// counted counts data on its way into w, and ends it when the context does.
type counted struct {
	ctx context.Context
	w   io.Writer
	p   *Progress
}

func (c *counted) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(b)
	c.p.Add(int64(n))
	return n, err
}

// countedReader does the same on the way out of r.
type countedReader struct {
	ctx context.Context
	r   io.Reader
	p   *Progress
}

func (c *countedReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(b)
	c.p.Add(int64(n))
	return n, err
}

// data moves the content. A remote writer reads from the source into its own
// buffers, a remote reader writes from its own: neither needs a copy.
func (c *Copier) data(ctx context.Context, w Writer, r io.Reader) (int64, error) {
	if _, local := w.(*localWriter); !local {
		if rf, ok := w.(io.ReaderFrom); ok {
			return rf.ReadFrom(&countedReader{ctx, r, c.Progress})
		}
	}
	out := &counted{ctx, w, c.Progress}
	if wt, ok := r.(io.WriterTo); ok {
		return wt.WriteTo(out)
	}
	return io.CopyBuffer(out, struct{ io.Reader }{r}, make([]byte, 1<<20))
}
