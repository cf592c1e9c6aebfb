package nfs3

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"
)

// ErrTimeout is wrapped by errors about a server that did not answer or did
// not take data within [Config.Timeout].
var ErrTimeout = errors.New("the server does not answer")

// Error is an error status of an NFS or MOUNT procedure. errors.Is finds
// fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrInvalid and the
// matching syscall.Errno in it.
type Error struct {
	Op     string         // the procedure, lower case
	Name   string         // the name it was about, may be empty
	Status nfsv3.Nfsstat3 // MOUNT's numbers mean the same
}

type statusInfo struct {
	text  string
	errno syscall.Errno
	kind  error
}

var statuses = map[nfsv3.Nfsstat3]statusInfo{
	nfsv3.NFS3ERR_PERM:        {"operation not permitted", syscall.EPERM, fs.ErrPermission},
	nfsv3.NFS3ERR_NOENT:       {"no such file or directory", syscall.ENOENT, fs.ErrNotExist},
	nfsv3.NFS3ERR_IO:          {"input/output error on the server", syscall.EIO, nil},
	nfsv3.NFS3ERR_NXIO:        {"no such device", syscall.ENXIO, nil},
	nfsv3.NFS3ERR_ACCES:       {"permission denied", syscall.EACCES, fs.ErrPermission},
	nfsv3.NFS3ERR_EXIST:       {"file exists", syscall.EEXIST, fs.ErrExist},
	nfsv3.NFS3ERR_XDEV:        {"not on the same file system", syscall.EXDEV, nil},
	nfsv3.NFS3ERR_NODEV:       {"no such device", syscall.ENODEV, nil},
	nfsv3.NFS3ERR_NOTDIR:      {"not a directory", syscall.ENOTDIR, nil},
	nfsv3.NFS3ERR_ISDIR:       {"is a directory", syscall.EISDIR, nil},
	nfsv3.NFS3ERR_INVAL:       {"invalid argument", syscall.EINVAL, fs.ErrInvalid},
	nfsv3.NFS3ERR_FBIG:        {"file too large", syscall.EFBIG, nil},
	nfsv3.NFS3ERR_NOSPC:       {"no space left on the server", syscall.ENOSPC, nil},
	nfsv3.NFS3ERR_ROFS:        {"read-only file system", syscall.EROFS, fs.ErrPermission},
	nfsv3.NFS3ERR_MLINK:       {"too many links", syscall.EMLINK, nil},
	nfsv3.NFS3ERR_NAMETOOLONG: {"name too long", syscall.ENAMETOOLONG, nil},
	nfsv3.NFS3ERR_NOTEMPTY:    {"directory not empty", syscall.ENOTEMPTY, nil},
	nfsv3.NFS3ERR_DQUOT:       {"quota exceeded", syscall.EDQUOT, nil},
	nfsv3.NFS3ERR_STALE:       {"stale file handle", syscall.ESTALE, nil},
	nfsv3.NFS3ERR_REMOTE:      {"file is on another server", syscall.EREMOTE, nil},
	nfsv3.NFS3ERR_BADHANDLE:   {"bad file handle", 0, nil},
	nfsv3.NFS3ERR_NOT_SYNC:    {"changed meanwhile", 0, nil},
	nfsv3.NFS3ERR_BAD_COOKIE:  {"directory changed while it was read", 0, nil},
	nfsv3.NFS3ERR_NOTSUPP:     {"not supported by the server", syscall.ENOTSUP, errors.ErrUnsupported},
	nfsv3.NFS3ERR_TOOSMALL:    {"buffer too small", 0, nil},
	nfsv3.NFS3ERR_SERVERFAULT: {"server fault", 0, nil},
	nfsv3.NFS3ERR_BADTYPE:     {"type not supported by the server", 0, nil},
	nfsv3.NFS3ERR_JUKEBOX:     {"the server asks to try later", syscall.EAGAIN, nil},
}

func (e *Error) Error() string {
	text := statuses[e.Status].text
	if text == "" {
		text = fmt.Sprintf("status %d", e.Status)
	}
	if e.Name == "" {
		return fmt.Sprintf("nfs %s: %s", e.Op, text)
	}
	return fmt.Sprintf("nfs %s %q: %s", e.Op, e.Name, text)
}

// Is makes errors.Is work with the errors of io/fs and with syscall.Errno.
func (e *Error) Is(target error) bool {
	i, ok := statuses[e.Status]
	if !ok {
		return false
	}
	if no, isErrno := target.(syscall.Errno); isErrno {
		return i.errno != 0 && i.errno == no
	}
	return i.kind != nil && i.kind == target
}

func isStatus(err error, s nfsv3.Nfsstat3) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == s
}

func statusError(op, name string, s uint32) error {
	if s == uint32(nfsv3.NFS3_OK) {
		return nil
	}
	return &Error{Op: op, Name: name, Status: nfsv3.Nfsstat3(s)}
}

// RPCError is a refusal by the RPC layer, before any procedure ran.
type RPCError struct {
	Denied bool
	Accept rpcv2.AcceptStat // Denied false
	Auth   rpcv2.AuthStat   // Denied true, unless VersionMismatch
	// VersionMismatch: the server does not speak RPC version 2.
	VersionMismatch bool
}

func (e *RPCError) Error() string {
	switch {
	case e.VersionMismatch:
		return "rpc: the server does not speak version 2 of ONC RPC"
	case e.Denied:
		text := map[rpcv2.AuthStat]string{
			rpcv2.AUTH_BADCRED: "bad credential", rpcv2.AUTH_REJECTEDCRED: "credential rejected",
			rpcv2.AUTH_TOOWEAK: "credential too weak (is a client certificate required?)",
		}[e.Auth]
		if text == "" {
			text = fmt.Sprintf("auth status %d", e.Auth)
		}
		return "rpc: access denied: " + text
	}
	text := map[rpcv2.AcceptStat]string{
		rpcv2.PROG_UNAVAIL: "the server does not offer this program", rpcv2.PROG_MISMATCH: "the server does not offer this version",
		rpcv2.PROC_UNAVAIL: "the server does not offer this procedure", rpcv2.GARBAGE_ARGS: "the server could not decode the call",
		rpcv2.SYSTEM_ERR: "system error on the server",
	}[e.Accept]
	if text == "" {
		text = fmt.Sprintf("accept status %d", e.Accept)
	}
	return "rpc: " + text
}

// Is makes errors.Is(err, fs.ErrPermission) true for a denied call and
// errors.Is(err, errors.ErrUnsupported) for an unknown procedure.
func (e *RPCError) Is(target error) bool {
	if e.Denied {
		return target == fs.ErrPermission
	}
	return target == errors.ErrUnsupported && (e.Accept == rpcv2.PROC_UNAVAIL || e.Accept == rpcv2.PROG_UNAVAIL || e.Accept == rpcv2.PROG_MISMATCH)
}
