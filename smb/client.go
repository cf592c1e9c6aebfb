package smb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/cloudsoda/go-smb2"
)

// ClientConfig is who logs on, and where.
type ClientConfig struct {
	Host           string // the server's name, as it goes into \\host\share; required
	User           string // required: anonymous sessions are not supported
	Password       string // NTLMv2
	Domain         string // "" for a local account
	RequireSigning bool   // refuse a server that signs nothing
	MinDialect     Dialect
	Timeout        time.Duration // for negotiation and logon: default 30 s
}

// Client is an SMB2 session over a connection of any kind: a QUIC stream, TCP.
// Dialects 2.0.2 to 3.1.1, NTLMv2, signing, AES-128 encryption where the server
// asks for it. Safe for use by many goroutines.
type Client struct {
	conn    net.Conn
	session *smb2.Session
	data    slots
}

// maxDataRequests is how many requests with data are under way in a session,
// each of up to 1 MiB, which takes 16 credits. The library borrows none for the
// requests of a logon and so believes that it has a few more than the server
// has granted (it asks for 128); a server drops the session of a client that
// spends them. Six leave 32, which no other requests use up.
const maxDataRequests = 6

// slots bound the data requests of a session.
type slots chan struct{}

// hold waits for a slot; the function it returns gives it back. The wait is
// bounded by the requests under way, which end when the session does.
func (s slots) hold() func() {
	s <- struct{}{}
	return func() { <-s }
}

// NewClient negotiates and logs on over conn, and owns it also in case of an error.
// Errors are *Error where the server refused: a wrong password is fs.ErrPermission.
func NewClient(ctx context.Context, conn net.Conn, cfg ClientConfig) (*Client, error) {
	if cfg.Host == "" || cfg.User == "" {
		conn.Close()
		return nil, errors.New("smb: client: a host name and a user are needed (smb://user@host/share)")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	dialer := &smb2.Dialer{
		Negotiator: smb2.Negotiator{RequireMessageSigning: cfg.RequireSigning},
		Initiator:  &smb2.NTLMInitiator{User: cfg.User, Password: cfg.Password, Domain: cfg.Domain, TargetSPN: "cifs/" + cfg.Host},
	}
	guarded := &clientConn{Conn: conn, in: NewInspector(ToClient, 0)}
	guarded.in.walk = guarded.walker(cfg.MinDialect)
	var session *smb2.Session
	err := withDeadline(ctx, conn, cfg.Timeout, func() (err error) {
		defer malformed(&err)
		session, err = dialer.DialConn(ctx, guarded, cfg.Host)
		return err
	})
	if err != nil {
		conn.Close()
		return nil, wrapError("connect", cfg.Host, err)
	}
	return &Client{conn: conn, session: session, data: make(slots, maxDataRequests)}, nil
}

// Mount connects a share by its name, without the host.
func (c *Client) Mount(ctx context.Context, share string) (_ *Share, err error) {
	defer malformed(&err)
	if share == "" || strings.ContainsAny(share, `\/`) {
		return nil, fmt.Errorf("smb: mount: share name %q (one name, without host or path)", share)
	}
	s, err := c.session.WithContext(ctx).Mount(share)
	if err != nil {
		return nil, wrapError("mount", share, err)
	}
	return &Share{share: s, data: c.data}, nil
}

// Shares lists the names of the server's shares. It opens a named pipe, which
// gateways and servers may refuse.
func (c *Client) Shares(ctx context.Context) (_ []string, err error) {
	defer malformed(&err)
	names, err := c.session.WithContext(ctx).ListSharenames()
	return names, wrapError("list", "shares", err)
}

// Close logs off, if the server answers before ctx ends, and closes the connection.
func (c *Client) Close(ctx context.Context) error {
	err := c.session.WithContext(ctx).Logoff()
	c.conn.Close() // logging off has closed it, unless it failed
	return wrapError("logoff", "", err)
}

// Share is a connected share. Names are slash-separated, relative to its root;
// "." and "" are the root. Safe for use by many goroutines.
type Share struct {
	share *smb2.Share
	data  slots
}

// Close disconnects the share.
func (s *Share) Close() error { return wrapError("unmount", "", s.share.Umount()) }

// WithContext returns the share with ctx for its calls; files opened through it
// keep ctx, too.
func (s *Share) WithContext(ctx context.Context) *Share {
	return &Share{share: s.share.WithContext(ctx), data: s.data}
}

// name turns a slash-separated path into the library's. Backslashes would be
// separators to the server and must not come from a name.
func name(op, p string) (string, error) {
	if strings.ContainsAny(p, "\\\x00") {
		return "", &Error{Op: op, Path: p, Err: fs.ErrInvalid}
	}
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	return strings.ReplaceAll(p, "/", `\`), nil
}

// OpenFile opens or creates a file; flag and perm as for os.OpenFile.
func (s *Share) OpenFile(p string, flag int, perm fs.FileMode) (_ *File, err error) {
	defer malformed(&err)
	n, err := name("open", p)
	if err != nil {
		return nil, err
	}
	f, err := s.share.OpenFile(n, flag, perm)
	if err != nil {
		return nil, wrapError("open", p, err)
	}
	return &File{f: f, path: p, data: s.data}, nil
}

// Open opens a file for reading.
func (s *Share) Open(p string) (*File, error) { return s.OpenFile(p, os.O_RDONLY, 0) }

// Stat describes a file; a symbolic link is followed where the server tells of it.
func (s *Share) Stat(p string) (fs.FileInfo, error) { return info(s.share.Stat, "stat", p) }

// Lstat describes a file without following a link.
func (s *Share) Lstat(p string) (fs.FileInfo, error) { return info(s.share.Lstat, "lstat", p) }

func info(f func(string) (os.FileInfo, error), op, p string) (_ fs.FileInfo, err error) {
	defer malformed(&err)
	n, err := name(op, p)
	if err != nil {
		return nil, err
	}
	fi, err := f(n)
	return fi, wrapError(op, p, err)
}

// ReadDir lists a directory, sorted by name, without "." and "..". Names that
// could lead out of it are left out: they can only come from a hostile server.
func (s *Share) ReadDir(p string) (_ []fs.FileInfo, err error) {
	defer malformed(&err)
	n, err := name("readdir", p)
	if err != nil {
		return nil, err
	}
	list, err := s.share.ReadDir(n)
	if err != nil {
		return nil, wrapError("readdir", p, err)
	}
	out := list[:0]
	for _, fi := range list {
		if base := fi.Name(); base != "" && base != "." && base != ".." && !strings.ContainsAny(base, "/\\\x00") {
			out = append(out, fi)
		}
	}
	return out, nil
}

// each of these does what its namesake in package os does.

// Mkdir makes a directory.
func (s *Share) Mkdir(p string, perm fs.FileMode) error {
	return s.one("mkdir", p, func(n string) error { return s.share.Mkdir(n, perm) })
}

// Remove removes a file or an empty directory.
func (s *Share) Remove(p string) error { return s.one("remove", p, s.share.Remove) }

// Truncate sets a file's length in bytes.
func (s *Share) Truncate(p string, size int64) error {
	return s.one("truncate", p, func(n string) error { return s.share.Truncate(n, size) })
}

// Chtimes sets the times of access and modification.
func (s *Share) Chtimes(p string, atime, mtime time.Time) error {
	return s.one("chtimes", p, func(n string) error { return s.share.Chtimes(n, atime, mtime) })
}

// Chmod sets or clears the read-only attribute by the owner's write bit: SMB2
// has no other mode bits.
func (s *Share) Chmod(p string, mode fs.FileMode) error {
	return s.one("chmod", p, func(n string) error { return s.share.Chmod(n, mode) })
}

func (s *Share) one(op, p string, f func(string) error) (err error) {
	defer malformed(&err)
	n, err := name(op, p)
	if err != nil {
		return err
	}
	return wrapError(op, p, f(n))
}

// Rename renames a file or directory. It does not replace: an existing target
// is fs.ErrExist.
func (s *Share) Rename(from, to string) error {
	a, err := name("rename", from)
	if err != nil {
		return err
	}
	b, err := name("rename", to)
	if err != nil {
		return err
	}
	return wrapError("rename", from, s.share.Rename(a, b))
}

// Readlink returns where a symbolic link points.
func (s *Share) Readlink(p string) (_ string, err error) {
	defer malformed(&err)
	n, err := name("readlink", p)
	if err != nil {
		return "", err
	}
	target, err := s.share.Readlink(n)
	return strings.ReplaceAll(target, `\`, "/"), wrapError("readlink", p, err)
}

// Space is the size of a file system, in bytes.
type Space struct {
	Total, Free, Available uint64 // Available: to this user
	BlockSize              uint64
}

// Statfs returns the size of the file system the share lies on.
func (s *Share) Statfs() (_ Space, err error) {
	defer malformed(&err)
	fi, err := s.share.Statfs("")
	if err != nil {
		return Space{}, wrapError("statfs", "", err)
	}
	block := fi.BlockSize() * fi.FragmentSize()
	if fi.FragmentSize() == 0 {
		block = fi.BlockSize()
	}
	return Space{
		Total: fi.TotalBlockCount() * block, Free: fi.FreeBlockCount() * block,
		Available: fi.AvailableBlockCount() * block, BlockSize: block,
	}, nil
}

// File is an open file. ReadAt and WriteAt may be called at the same time.
type File struct {
	f    *smb2.File
	path string
	data slots
}

// Name returns the path the file was opened by.
func (f *File) Name() string { return f.path }

// Read reads at the current offset.
func (f *File) Read(b []byte) (n int, err error) {
	defer malformed(&err)
	defer f.data.hold()()
	n, err = f.f.Read(b)
	return max(n, 0), f.wrap("read", err)
}

// ReadAt reads at an offset in bytes. As io.ReaderAt has it, fewer than len(b)
// octets come only with an error.
func (f *File) ReadAt(b []byte, off int64) (n int, err error) {
	defer malformed(&err)
	defer f.data.hold()()
	for n < len(b) && err == nil {
		var k int
		k, err = f.f.ReadAt(b[n:], off+int64(n))
		if n += max(k, 0); k <= 0 && err == nil {
			err = io.EOF
		}
	}
	return n, f.wrap("read", err)
}

// Write writes at the current offset.
func (f *File) Write(b []byte) (n int, err error) {
	defer malformed(&err)
	defer f.data.hold()()
	n, err = f.f.Write(b)
	return max(n, 0), f.wrap("write", err)
}

// WriteAt writes at an offset in bytes.
func (f *File) WriteAt(b []byte, off int64) (n int, err error) {
	defer malformed(&err)
	defer f.data.hold()()
	n, err = f.f.WriteAt(b, off)
	return max(n, 0), f.wrap("write", err)
}

// Seek sets the offset of Read and Write.
func (f *File) Seek(off int64, whence int) (int64, error) {
	n, err := f.f.Seek(off, whence)
	return n, f.wrap("seek", err)
}

// Stat describes the file.
func (f *File) Stat() (fs.FileInfo, error) {
	fi, err := f.f.Stat()
	return fi, f.wrap("stat", err)
}

// Sync asks the server to write the file to stable storage.
func (f *File) Sync() error { return f.wrap("sync", f.f.Sync()) }

// Truncate sets the file's length in bytes.
func (f *File) Truncate(size int64) error { return f.wrap("truncate", f.f.Truncate(size)) }

// Close closes the handle at the server.
func (f *File) Close() error { return f.wrap("close", f.f.Close()) }

func (f *File) wrap(op string, err error) error {
	if err == io.EOF { // exactly, as readers compare it
		return err
	}
	return wrapError(op, f.path, err)
}

// malformed turns a panic of the library's decoders into an error. They trust
// the server with more than a file name deserves.
func malformed(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("malformed answer: %v", r)
	}
}

// clientConn stands between the library and the connection and keeps malformed
// frames from it.
type clientConn struct {
	net.Conn
	in  *Inspector
	err error
}

// Read reads what the inspector lets through.
func (c *clientConn) Read(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(b)
	ok, refused := c.in.Inspect(b[:n])
	if refused != nil {
		c.err = refused
		return ok, refused
	}
	return n, err
}

// walker checks what the library relies on: that compounds stay inside their
// message, and that the dialect is high enough.
func (c *clientConn) walker(least Dialect) *walker {
	return &walker{
		want: func(h header, _ []byte) int {
			if h.command == cmdNegotiate {
				return headerLen + 6
			}
			return headerLen
		},
		see: func(h header, b []byte) error {
			if h.command != cmdNegotiate || h.status != 0 || len(b) < headerLen+6 {
				return nil
			}
			if d := Dialect(binary.LittleEndian.Uint16(b[headerLen+4:])); d < least {
				return &reasonError{ReasonDialect, fmt.Errorf("smb: the server chose dialect %s, %s or higher is wanted", d, least)}
			}
			return nil
		},
	}
}

func encodeUTF16(s string) []byte {
	u := utf16.Encode([]rune(s))
	b := make([]byte, 0, 2*len(u))
	for _, c := range u {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}
