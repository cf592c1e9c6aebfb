// Package client is the client end of the gateway: the file commands (ls, cat,
// cp, rm, mkdir, df) on NFS exports, SMB shares and local directories.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// FileSystem is what the file commands need of a place. Paths are
// slash-separated and relative to its root, "" or "." is the root. There are
// three: an NFS export, an SMB share, and a local directory.
type FileSystem interface {
	Stat(ctx context.Context, p string) (fs.FileInfo, error)  // follows symbolic links
	Lstat(ctx context.Context, p string) (fs.FileInfo, error) // does not
	ReadDir(ctx context.Context, p string) ([]fs.FileInfo, error)
	Open(ctx context.Context, p string) (io.ReadCloser, error)
	// Create makes a new file; it fails where p exists.
	Create(ctx context.Context, p string, perm fs.FileMode) (Writer, error)
	Mkdir(ctx context.Context, p string, perm fs.FileMode) error
	Remove(ctx context.Context, p string) error // not for directories
	Rmdir(ctx context.Context, p string) error
	Rename(ctx context.Context, from, to string) error // replaces a file at to
	// SetAttr sets permissions and modification time as far as the place has them.
	SetAttr(ctx context.Context, p string, mode fs.FileMode, mtime time.Time) error
	Readlink(ctx context.Context, p string) (string, error)
	Symlink(ctx context.Context, text, p string) error
	StatFS(ctx context.Context, p string) (Space, error)
	Close() error
}

// Writer is a file being written. Only when Close returns nil is the data
// complete and on stable storage; Abort gives up.
type Writer interface {
	io.WriteCloser
	Abort()
}

// Space is the size of a file system in octets; Available is what the user may use.
type Space struct{ Total, Free, Available uint64 }

// Session is one connection to a gateway.
type Session struct {
	// Open opens a bidirectional stream.
	Open func(ctx context.Context) (net.Conn, error)
	// Close ends the connection and its streams.
	Close func() error
}

// Dial connects to a gateway by QUIC with one ALPN name.
type Dial func(ctx context.Context, alpn, host string, port uint16) (*Session, error)

// ConnectError says that the gateway could not be reached or not be trusted.
// Commands end with status 3 for it.
type ConnectError struct {
	URL string
	Err error
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("connect %s: %v%s", e.URL, e.Err, connectHint(e.Err))
}
func (e *ConnectError) Unwrap() error { return e.Err }

// connectHint says what may help against a gateway's refusal.
func connectHint(err error) string {
	var te *quic.TransportError
	if !errors.As(err, &te) || !te.Remote || te.Code < quic.CryptoErrorBase {
		return ""
	}
	switch uint8(te.Code - quic.CryptoErrorBase) {
	case quic.AlertCertificateRequired:
		return " (it lets in clients with a certificate only: --cert and --key)"
	case quic.AlertUnrecognizedName:
		return " (it serves this protocol under other names only: --server-name)"
	case quic.AlertNoApplicationProtocol:
		return " (it serves other protocols only)"
	case quic.AlertAccessDenied:
		return " (its access rule does not let this certificate in)"
	}
	return ""
}

// OpenOptions tunes [OpenRemote].
type OpenOptions struct {
	Dial    Dial
	Streams int           // NFS streams or SMB sessions in parallel; 0: 1
	Timeout time.Duration // longest wait for one answer; 0: 60 s
}

// OpenRemote connects to u's gateway and opens the export or share. path is
// u's path within it.
func OpenRemote(ctx context.Context, u *RemoteURL, o OpenOptions) (f FileSystem, path string, err error) {
	if o.Streams <= 0 {
		o.Streams = 1
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	if u.Scheme == "nfs" {
		f, path, err = openNFS(ctx, u, o)
	} else {
		f, path, err = openSMB(ctx, u, o)
	}
	return f, path, connectError(u, err)
}

// connectError makes one ConnectError of the ways in which a gateway can't be
// reached or refuses. TLS 1.3 is complete for a client before the server has
// judged its certificate: a refusal may come while the first request waits.
func connectError(u *RemoteURL, err error) error {
	var ce *ConnectError
	for inner := err; errors.As(inner, &ce); inner = ce.Err {
		err = &ConnectError{u.String(), ce.Err}
	}
	if ce != nil {
		return err
	}
	var te *quic.TransportError
	if errors.As(err, &te) {
		return &ConnectError{u.String(), te}
	}
	if why := endedByGateway(u, err); why != nil {
		return &ConnectError{u.String(), why}
	}
	return err
}

// endedByGateway puts the name to the code that a gateway has ended a stream or
// connection with (docs/close-codes.md); nil if it did not.
func endedByGateway(u *RemoteURL, err error) error {
	var code uint64
	if se, ok := errors.AsType[*quic.StreamError](err); ok && se.Remote {
		code = se.Code
	} else if ae, ok := errors.AsType[*quic.ApplicationError](err); ok && ae.Remote {
		code = ae.Code
	} else {
		return nil
	}
	layer := reason.RPC
	if u.Scheme == "smb" {
		layer = reason.SMB
	}
	if word := reason.Word(layer, code); word != "" {
		return fmt.Errorf("the gateway has ended it: %s (code 0x%x; its log has the reason)", word, code)
	}
	return nil
}
