package client

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/quic-fsgw/quic-fsgw/nfs/nfs3"
)

// nfsFS is a FileSystem on an NFS export.
type nfsFS struct {
	f     *nfs3.FS
	conns []*nfs3.Conn
	close func() error // the session's, may be nil
}

// NewNFS makes a FileSystem of a mounted export. Close closes conns.
func NewNFS(f *nfs3.FS, conns ...*nfs3.Conn) FileSystem { return &nfsFS{f: f, conns: conns} }

func openNFS(ctx context.Context, u *RemoteURL, o OpenOptions) (FileSystem, string, error) {
	s, err := o.Dial(ctx, "sunrpc", u.Host, u.Port)
	if err != nil {
		return nil, "", &ConnectError{u.String(), err}
	}
	n := &nfsFS{close: s.Close}
	cfg := nfs3.Config{Auth: localCredential(), Timeout: o.Timeout}
	first, err := n.open(ctx, s, cfg)
	if err != nil {
		n.Close()
		return nil, "", &ConnectError{u.String(), err}
	}
	more := make(chan *nfs3.Conn)
	for range o.Streams - 1 {
		go func() { more <- furtherStream(ctx, s, cfg) }()
	}
	// The gateway routes by the program number in each call, so one stream
	// serves MOUNT and NFS.
	var rest string
	n.f, rest, err = nfs3.MountFS(ctx, first, first, u.Path, nfs3.Options{})
	for range o.Streams - 1 {
		if c := <-more; c != nil {
			n.conns = append(n.conns, c)
		}
	}
	if err != nil {
		n.Close()
		return nil, "", err
	}
	n.f.AddStreams(n.conns[1:]...)
	return n, rest, nil
}

// open opens a stream.
func (n *nfsFS) open(ctx context.Context, s *Session, cfg nfs3.Config) (*nfs3.Conn, error) {
	nc, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	c, err := nfs3.NewConn(nc, cfg)
	if err != nil {
		return nil, err
	}
	n.conns = append(n.conns, c)
	return c, nil
}

// furtherStreamWait is how long a stream beside the first may take until it serves.
const furtherStreamWait = 5 * time.Second

// furtherStream opens a stream that makes things faster, and no more: a server may
// deny it, by QUIC's limit on streams or when it is used. nil: there is none.
//
// draft-cel-nfsv4-rpc-over-quicv1-06, Section 3.1.1.2: an RPC server may refuse
// streams, and its clients go on with those that they have.
func furtherStream(ctx context.Context, s *Session, cfg nfs3.Config) *nfs3.Conn {
	ctx, cancel := context.WithTimeout(ctx, furtherStreamWait)
	defer cancel()
	octx, stop := context.WithTimeout(ctx, furtherStreamWait/20) // it opens at once or not at all
	defer stop()
	nc, err := s.Open(octx)
	if err != nil {
		return nil
	}
	c, err := nfs3.NewConn(nc, cfg)
	if err != nil {
		return nil
	}
	if err := c.Null(ctx); err != nil {
		c.Close()
		return nil
	}
	return c
}

// localCredential claims the ids of this process. A gateway replaces them.
func localCredential() *nfs3.AuthSys {
	const nobody = 65534
	a := &nfs3.AuthSys{Machine: "quic-fsgw", UID: nobody, GID: nobody}
	if uid := os.Getuid(); uid >= 0 {
		a.UID, a.GID = uint32(uid), uint32(os.Getgid())
		groups, err := os.Getgroups()
		for _, g := range groups[:min(len(groups), 16)] {
			if err == nil {
				a.Groups = append(a.Groups, uint32(g))
			}
		}
	}
	return a
}

func (n *nfsFS) Close() error {
	for _, c := range n.conns {
		c.Close()
	}
	if n.close != nil {
		return n.close()
	}
	return nil
}

// info keeps a nil *nfs3.FileInfo from becoming a non-nil interface.
func info(i *nfs3.FileInfo, err error) (fs.FileInfo, error) {
	if err != nil {
		return nil, err
	}
	return i, nil
}

func (n *nfsFS) Stat(ctx context.Context, p string) (fs.FileInfo, error) {
	return info(n.f.Stat(ctx, p))
}

func (n *nfsFS) Lstat(ctx context.Context, p string) (fs.FileInfo, error) {
	return info(n.f.Lstat(ctx, p))
}

func (n *nfsFS) ReadDir(ctx context.Context, p string) ([]fs.FileInfo, error) {
	list, err := n.f.ReadDir(ctx, p)
	infos := make([]fs.FileInfo, len(list))
	for i := range list {
		infos[i] = list[i]
	}
	return infos, err
}

func (n *nfsFS) Open(ctx context.Context, p string) (io.ReadCloser, error) {
	r, err := n.f.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (n *nfsFS) Create(ctx context.Context, p string, perm fs.FileMode) (Writer, error) {
	w, err := n.f.Create(ctx, p, perm, true)
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (n *nfsFS) Mkdir(ctx context.Context, p string, perm fs.FileMode) error {
	return n.f.Mkdir(ctx, p, perm)
}
func (n *nfsFS) Remove(ctx context.Context, p string) error        { return n.f.Remove(ctx, p) }
func (n *nfsFS) Rmdir(ctx context.Context, p string) error         { return n.f.Rmdir(ctx, p) }
func (n *nfsFS) Rename(ctx context.Context, from, to string) error { return n.f.Rename(ctx, from, to) }
func (n *nfsFS) Symlink(ctx context.Context, text, p string) error { return n.f.Symlink(ctx, text, p) }
func (n *nfsFS) Readlink(ctx context.Context, p string) (string, error) {
	return n.f.Readlink(ctx, p)
}

func (n *nfsFS) SetAttr(ctx context.Context, p string, mode fs.FileMode, mtime time.Time) error {
	m := nfs3.ProtocolMode(mode)
	err := n.f.SetAttr(ctx, p, nfs3.SetAttr{Mode: &m, Mtime: &mtime})
	// A server may refuse the mode where it takes the time: a squashed
	// identity does not own the file, an ACL forbids chmod.
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		return n.f.SetAttr(ctx, p, nfs3.SetAttr{Mtime: &mtime})
	}
	return err
}

func (n *nfsFS) StatFS(ctx context.Context, p string) (Space, error) {
	s, err := n.f.StatFS(ctx, p)
	return Space{Total: s.Tbytes, Free: s.Fbytes, Available: s.Abytes}, err
}
