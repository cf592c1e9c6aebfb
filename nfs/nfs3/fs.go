package nfs3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
)

const (
	maxLinks      = 40
	maxCachedDirs = 4096
	// maxDirEntries bounds what ReadDir holds; Entries has no bound.
	maxDirEntries = 1 << 20
	dirPageSize   = 512 << 10
	minIO         = 4 << 10
	defaultWindow = 16
)

// Options tunes an [FS]; the zero value is the default.
type Options struct {
	Window int // READs or WRITEs under way for one open file; 0: 16
	IOSize int // octets of one READ or WRITE, at most what the server offers; 0: that, at most 1 MiB
	Retain int // WRITEs kept in memory until they are committed; 0: 4 * Window
}

// FS is one export seen as a file system with slash-separated paths below
// the export's root. Symbolic links are followed by the client; neither they
// nor ".." lead out of the export. Its methods may be called from any
// goroutine.
type FS struct {
	c      *Conn
	data   []*Conn // READs and WRITEs take turns on these
	turn   atomic.Uint32
	export string
	root   Handle
	info   FSInfo
	rsize  int
	wsize  int
	window int
	retain int
	noPlus atomic.Bool // the server does not offer READDIRPLUS

	mu   sync.Mutex
	dirs map[string]Handle // directories walked through, by clean path
}

// NewFS makes a file system of the root handle of an export. c is used for
// everything; see AddStreams.
func NewFS(ctx context.Context, c *Conn, export string, root Handle, o Options) (*FS, error) {
	info, err := c.Fsinfo(ctx, root)
	if err != nil {
		return nil, err
	}
	limit := 1 << 20
	if o.IOSize > 0 {
		limit = min(o.IOSize, MaxIO)
	}
	f := &FS{c: c, data: []*Conn{c}, export: path.Clean("/" + export), root: root, info: info,
		window: o.Window, retain: o.Retain, dirs: make(map[string]Handle)}
	f.rsize, f.wsize = ioSize(info.Rtmax, limit), ioSize(info.Wtmax, limit)
	if f.window <= 0 {
		f.window = defaultWindow
	}
	if f.retain <= 0 {
		f.retain = 4 * f.window
	}
	return f, nil
}

// ioSize holds what the server offers within reason: 0 octets would make no
// progress, and 2 GiB would be allocated.
func ioSize(offered uint32, limit int) int {
	return max(min(int(min(offered, 1<<30)), limit)&^7, min(minIO, limit))
}

// MountFS mounts the export that holds p and returns the rest of p below it.
// mc speaks to the MOUNT service, c to the NFS service; they may be the same.
func MountFS(ctx context.Context, mc, c *Conn, p string, o Options) (f *FS, rest string, err error) {
	p = path.Clean("/" + p)
	exports, exportsErr := mc.Exports(ctx)
	for _, candidate := range mountCandidates(exports, p) {
		h, _, e := mc.Mnt(ctx, candidate)
		if e != nil {
			// The refusal of the longest path is not what the user needs to
			// read when a shorter one was refused for a better reason.
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				err = e
			}
			var status *Error
			if errors.As(e, &status) {
				continue
			}
			return nil, "", e
		}
		f, e = NewFS(ctx, c, candidate, h, o)
		return f, strings.Trim(strings.TrimPrefix(p, candidate), "/"), e
	}
	if exportsErr != nil || len(exports) == 0 {
		return nil, "", err
	}
	var names []string
	for _, e := range exports[:min(len(exports), 10)] {
		names = append(names, fmt.Sprintf("%q", e.Dir))
	}
	return nil, "", fmt.Errorf("%w (the server exports %s)", err, strings.Join(names, ", "))
}

// mountCandidates lists the paths to try, best first: the longest export
// that holds p, then p and its parents.
func mountCandidates(exports []Export, p string) []string {
	var list []string
	best := ""
	for _, e := range exports {
		d := path.Clean("/" + e.Dir)
		if len(d) > len(best) && (d == p || d == "/" || strings.HasPrefix(p, d+"/")) {
			best = d
		}
	}
	if best != "" {
		list = append(list, best)
	}
	for q := p; len(list) < 64; q = path.Dir(q) {
		list = append(list, q)
		if q == "/" {
			break
		}
	}
	return list
}

// Info returns the server's limits.
func (f *FS) Info() FSInfo { return f.info }

// Conn returns the connection, for procedures that FS does not wrap.
func (f *FS) Conn() *Conn { return f.c }

// Root returns the handle of the export's root.
func (f *FS) Root() Handle { return f.root }

// AddStreams has READ and WRITE take turns on more connections. It must not be called once f is in use.
func (f *FS) AddStreams(c ...*Conn) { f.data = append(f.data, c...) }

// stream returns the connection whose turn it is.
func (f *FS) stream() *Conn { return f.data[int(f.turn.Add(1))%len(f.data)] }

// clean gives a path its one form: no leading slash, "" for the root.
func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// node is a place the walk has reached: the handles from the root down.
type node struct {
	names   []string
	handles []Handle // handles[0] is the root's
	attr    *Attr    // of the last one, may be nil

	usedCache bool
}

func (n *node) handle() Handle { return n.handles[len(n.handles)-1] }

// walk resolves p. Where it came through a cached directory that may have
// been replaced since, it forgets the cache and tries once more. Servers
// answer in a removed directory with "stale" or with "no such file".
func (f *FS) walk(ctx context.Context, op, p string, follow bool) (*node, error) {
	n, err := f.walkOnce(ctx, op, p, follow)
	if err != nil && n.usedCache && (isStatus(err, nfsv3.NFS3ERR_STALE) || isStatus(err, nfsv3.NFS3ERR_NOENT)) {
		f.forget()
		n, err = f.walkOnce(ctx, op, p, follow)
	}
	return n, err
}

// forget drops the cached directories.
func (f *FS) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.dirs)
}

func (f *FS) cached(names []string) Handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dirs[strings.Join(names, "/")]
}

func (f *FS) cache(names []string, h Handle) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.dirs) >= maxCachedDirs {
		clear(f.dirs)
	}
	f.dirs[strings.Join(names, "/")] = h
}

// walkOnce is one try of walk; it returns the node also with an error.
func (f *FS) walkOnce(ctx context.Context, op, p string, follow bool) (*node, error) {
	n := &node{handles: []Handle{f.root}}
	todo := strings.Split(clean(p), "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(n.names) == 0 {
				return n, fmt.Errorf("nfs %s %q: a link leads out of the export", op, p)
			}
			n.names, n.handles, n.attr = n.names[:len(n.names)-1], n.handles[:len(n.handles)-1], nil
			continue
		}
		if err := f.step(ctx, n, name, len(todo) > 0); err != nil {
			return n, pathError(err, op, p)
		}
		if n.attr == nil || n.attr.Type != nfsv3.NF3LNK || (len(todo) == 0 && !follow) {
			continue
		}
		if links++; links > maxLinks {
			return n, fmt.Errorf("nfs %s %q: more than %d symbolic links on the way", op, p, maxLinks)
		}
		text, err := f.c.Readlink(ctx, n.handle())
		if err != nil {
			return n, pathError(err, op, p)
		}
		n.names, n.handles, n.attr = n.names[:len(n.names)-1], n.handles[:len(n.handles)-1], nil
		if strings.HasPrefix(text, "/") {
			if text, err = f.inside(text); err != nil {
				return n, fmt.Errorf("nfs %s %q: %w", op, p, err)
			}
			n.names, n.handles = nil, n.handles[:1]
		}
		todo = append(strings.Split(text, "/"), todo...)
		if len(todo) > maxPath {
			return n, fmt.Errorf("nfs %s %q: path too long", op, p)
		}
	}
	return n, nil
}

// inside strips the export's own path from an absolute link's text.
func (f *FS) inside(text string) (string, error) {
	c := path.Clean(text)
	if c == f.export || f.export == "/" {
		return strings.TrimPrefix(c, f.export), nil
	}
	if rest, ok := strings.CutPrefix(c, f.export+"/"); ok {
		return rest, nil
	}
	return "", fmt.Errorf("the link %q leads out of the export", text)
}

// step looks name up below n. The handles of directories on the way come
// from the cache where it has them.
func (f *FS) step(ctx context.Context, n *node, name string, passing bool) error {
	names := append(n.names[:len(n.names):len(n.names)], name)
	if passing {
		if h := f.cached(names); h != "" {
			n.names, n.handles, n.attr = names, append(n.handles, h), nil
			n.usedCache = true
			return nil
		}
	}
	h, a, err := f.c.Lookup(ctx, n.handle(), name)
	if err != nil {
		return err
	}
	if a == nil {
		if a, err = f.c.Getattr(ctx, h); err != nil {
			return err
		}
	}
	if a.Type == nfsv3.NF3DIR {
		f.cache(names, h)
	}
	n.names, n.handles, n.attr = names, append(n.handles, h), a
	return nil
}

// pathError puts the whole path into an NFS error.
func pathError(err error, op, p string) error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{Op: op, Name: p, Status: e.Status}
	}
	return err
}

// parent resolves the directory of p and returns p's last name.
func (f *FS) parent(ctx context.Context, op, p string) (*node, string, error) {
	dir, name := path.Split(clean(p))
	if name == "" {
		return nil, "", &Error{Op: op, Name: p, Status: nfsv3.NFS3ERR_INVAL}
	}
	n, err := f.walk(ctx, op, dir, true)
	return n, name, err
}

func (f *FS) stat(ctx context.Context, op, p string, follow bool) (*FileInfo, error) {
	n, err := f.walk(ctx, op, p, follow)
	if err != nil {
		return nil, err
	}
	if n.attr == nil {
		if n.attr, err = f.c.Getattr(ctx, n.handle()); err != nil {
			return nil, pathError(err, op, p)
		}
	}
	return &FileInfo{name: path.Base("/" + p), attr: *n.attr, handle: n.handle()}, nil
}

// Stat describes p, following symbolic links.
func (f *FS) Stat(ctx context.Context, p string) (*FileInfo, error) {
	return f.stat(ctx, "stat", p, true)
}

// Lstat describes p itself, even if it is a symbolic link.
func (f *FS) Lstat(ctx context.Context, p string) (*FileInfo, error) {
	return f.stat(ctx, "lstat", p, false)
}

// Entries yields the entries of a directory, page by page, in the server's
// order. After an error it ends.
func (f *FS) Entries(ctx context.Context, p string) iter.Seq2[*FileInfo, error] {
	return func(yield func(*FileInfo, error) bool) {
		n, err := f.walk(ctx, "readdir", p, true)
		if err != nil {
			yield(nil, err)
			return
		}
		dir := n.handle()
		for page := new(DirPage); !page.EOF; {
			if page, err = f.page(ctx, dir, page); err != nil {
				yield(nil, pathError(err, "readdir", p))
				return
			}
			for i := range page.Entries {
				info, err := f.entry(ctx, dir, &page.Entries[i])
				if errors.Is(err, fs.ErrNotExist) {
					continue // removed meanwhile
				}
				if err != nil {
					yield(nil, pathError(err, "readdir", p))
					return
				}
				if !yield(info, nil) {
					return
				}
			}
		}
	}
}

// page reads the page after last, by READDIR where READDIRPLUS is not offered.
func (f *FS) page(ctx context.Context, dir Handle, last *DirPage) (*DirPage, error) {
	size := uint32(min(dirPageSize, f.c.cfg.MaxReply/2))
	if !f.noPlus.Load() {
		page, err := f.c.ReaddirPlus(ctx, dir, last.Cookie, last.Verf, size)
		// A cookie of one procedure need not be valid in the other.
		if !errors.Is(err, errors.ErrUnsupported) || last.Cookie != 0 {
			return page, err
		}
		f.noPlus.Store(true)
	}
	return f.c.Readdir(ctx, dir, last.Cookie, last.Verf, size)
}

func (f *FS) entry(ctx context.Context, dir Handle, e *DirEntry) (*FileInfo, error) {
	var err error
	switch {
	case e.Attr != nil && e.Handle != "":
	case e.Handle != "":
		e.Attr, err = f.c.Getattr(ctx, e.Handle)
	default:
		if e.Handle, e.Attr, err = f.c.Lookup(ctx, dir, e.Name); err == nil && e.Attr == nil {
			e.Attr, err = f.c.Getattr(ctx, e.Handle)
		}
	}
	if err != nil {
		return nil, err
	}
	return &FileInfo{name: e.Name, attr: *e.Attr, handle: e.Handle}, nil
}

// ReadDir returns the entries of a directory, at most 1048576.
func (f *FS) ReadDir(ctx context.Context, p string) ([]*FileInfo, error) {
	var list []*FileInfo
	for info, err := range f.Entries(ctx, p) {
		if err != nil {
			return list, err
		}
		if list = append(list, info); len(list) > maxDirEntries {
			return list, fmt.Errorf("nfs readdir %q: more than %d entries", p, maxDirEntries)
		}
	}
	return list, nil
}

// Readlink returns the text of a symbolic link.
func (f *FS) Readlink(ctx context.Context, p string) (string, error) {
	n, err := f.walk(ctx, "readlink", p, false)
	if err != nil {
		return "", err
	}
	text, err := f.c.Readlink(ctx, n.handle())
	return text, pathErrorOrNil(err, "readlink", p)
}

func pathErrorOrNil(err error, op, p string) error {
	if err == nil {
		return nil
	}
	return pathError(err, op, p)
}

// Mkdir makes one directory.
func (f *FS) Mkdir(ctx context.Context, p string, perm fs.FileMode) error {
	n, name, err := f.parent(ctx, "mkdir", p)
	if err != nil {
		return err
	}
	mode := ProtocolMode(perm)
	_, _, err = f.c.Mkdir(ctx, n.handle(), name, SetAttr{Mode: &mode})
	return pathErrorOrNil(err, "mkdir", p)
}

// Symlink makes p a symbolic link that says text.
func (f *FS) Symlink(ctx context.Context, text, p string) error {
	n, name, err := f.parent(ctx, "symlink", p)
	if err != nil {
		return err
	}
	_, _, err = f.c.Symlink(ctx, n.handle(), name, text, SetAttr{})
	return pathErrorOrNil(err, "symlink", p)
}

// Link makes newPath another name of the file oldPath.
func (f *FS) Link(ctx context.Context, oldPath, newPath string) error {
	from, err := f.walk(ctx, "link", oldPath, false)
	if err != nil {
		return err
	}
	n, name, err := f.parent(ctx, "link", newPath)
	if err != nil {
		return err
	}
	return pathErrorOrNil(f.c.Link(ctx, from.handle(), n.handle(), name), "link", newPath)
}

// Remove removes a file that is no directory.
func (f *FS) Remove(ctx context.Context, p string) error {
	n, name, err := f.parent(ctx, "remove", p)
	if err != nil {
		return err
	}
	return pathErrorOrNil(f.c.Remove(ctx, n.handle(), name), "remove", p)
}

// Rmdir removes an empty directory.
func (f *FS) Rmdir(ctx context.Context, p string) error {
	n, name, err := f.parent(ctx, "rmdir", p)
	if err != nil {
		return err
	}
	f.forget()
	return pathErrorOrNil(f.c.Rmdir(ctx, n.handle(), name), "rmdir", p)
}

// Rename moves oldPath to newPath, replacing it.
func (f *FS) Rename(ctx context.Context, oldPath, newPath string) error {
	from, fromName, err := f.parent(ctx, "rename", oldPath)
	if err != nil {
		return err
	}
	to, toName, err := f.parent(ctx, "rename", newPath)
	if err != nil {
		return err
	}
	err = f.c.Rename(ctx, from.handle(), fromName, to.handle(), toName)
	f.forget()
	return pathErrorOrNil(err, "rename", oldPath)
}

// SetAttr changes attributes of p, following symbolic links.
func (f *FS) SetAttr(ctx context.Context, p string, s SetAttr) error {
	n, err := f.walk(ctx, "setattr", p, true)
	if err != nil {
		return err
	}
	_, err = f.c.Setattr(ctx, n.handle(), s)
	return pathErrorOrNil(err, "setattr", p)
}

// StatFS returns the space of the file system p is on.
func (f *FS) StatFS(ctx context.Context, p string) (FSStat, error) {
	n, err := f.walk(ctx, "statfs", p, true)
	if err != nil {
		return FSStat{}, err
	}
	s, err := f.c.Fsstat(ctx, n.handle())
	return s, pathErrorOrNil(err, "statfs", p)
}
