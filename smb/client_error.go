package smb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/cloudsoda/go-smb2"
)

// Error is a refused operation. Err is what os would say (fs.ErrNotExist,
// syscall.ENOTEMPTY, ...) where there is such a thing, so errors.Is works as
// with local files; Status is the server's NTSTATUS, 0 if unknown.
type Error struct {
	Op, Path string
	Status   uint32
	Err      error
}

// Error tells what was refused and why.
func (e *Error) Error() string {
	s := "smb: " + e.Op
	if e.Path != "" {
		s += " " + fmt.Sprintf("%q", e.Path)
	}
	s += ": " + e.Err.Error()
	if e.Status != 0 {
		s += fmt.Sprintf(" (status 0x%08x)", e.Status)
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// ErrLogon is a refused logon; it is fs.ErrPermission, too.
var ErrLogon = fmt.Errorf("user name or password refused: %w", fs.ErrPermission)

// statusErrors says what an NTSTATUS (MS-ERREF 2.3) is to a Go program.
var statusErrors = map[uint32]error{
	0xC0000002: errors.ErrUnsupported, // STATUS_NOT_IMPLEMENTED
	0xC0000008: fs.ErrClosed,          // STATUS_INVALID_HANDLE
	0xC000000D: syscall.EINVAL,        // STATUS_INVALID_PARAMETER
	0xC000000F: fs.ErrNotExist,        // STATUS_NO_SUCH_FILE
	0xC0000010: errors.ErrUnsupported, // STATUS_INVALID_DEVICE_REQUEST
	0xC0000022: fs.ErrPermission,      // STATUS_ACCESS_DENIED
	0xC0000033: fs.ErrInvalid,         // STATUS_OBJECT_NAME_INVALID
	0xC0000034: fs.ErrNotExist,        // STATUS_OBJECT_NAME_NOT_FOUND
	0xC0000035: fs.ErrExist,           // STATUS_OBJECT_NAME_COLLISION
	0xC000003A: fs.ErrNotExist,        // STATUS_OBJECT_PATH_NOT_FOUND
	0xC000003B: fs.ErrInvalid,         // STATUS_OBJECT_PATH_SYNTAX_BAD
	0xC0000043: syscall.EBUSY,         // STATUS_SHARING_VIOLATION
	0xC0000044: syscall.EDQUOT,        // STATUS_QUOTA_EXCEEDED
	0xC0000054: syscall.EAGAIN,        // STATUS_FILE_LOCK_CONFLICT
	0xC0000055: syscall.EAGAIN,        // STATUS_LOCK_NOT_GRANTED
	0xC0000056: fs.ErrNotExist,        // STATUS_DELETE_PENDING
	0xC0000064: ErrLogon,              // STATUS_NO_SUCH_USER
	0xC000006A: ErrLogon,              // STATUS_WRONG_PASSWORD
	0xC000006D: ErrLogon,              // STATUS_LOGON_FAILURE
	0xC000006E: ErrLogon,              // STATUS_ACCOUNT_RESTRICTION
	0xC0000071: ErrLogon,              // STATUS_PASSWORD_EXPIRED
	0xC0000072: ErrLogon,              // STATUS_ACCOUNT_DISABLED
	0xC0000234: ErrLogon,              // STATUS_ACCOUNT_LOCKED_OUT
	0xC000007F: syscall.ENOSPC,        // STATUS_DISK_FULL
	0xC00000A2: syscall.EROFS,         // STATUS_MEDIA_WRITE_PROTECTED
	0xC00000BA: syscall.EISDIR,        // STATUS_FILE_IS_A_DIRECTORY
	0xC00000BB: errors.ErrUnsupported, // STATUS_NOT_SUPPORTED
	0xC00000CC: fs.ErrNotExist,        // STATUS_BAD_NETWORK_NAME: no such share
	0xC0000101: syscall.ENOTEMPTY,     // STATUS_DIRECTORY_NOT_EMPTY
	0xC0000103: syscall.ENOTDIR,       // STATUS_NOT_A_DIRECTORY
	0xC0000106: syscall.ENAMETOOLONG,  // STATUS_NAME_TOO_LONG
	0xC000011F: syscall.EMFILE,        // STATUS_TOO_MANY_OPENED_FILES
	0xC0000121: fs.ErrPermission,      // STATUS_CANNOT_DELETE
	0xC0000128: fs.ErrClosed,          // STATUS_FILE_CLOSED
}

// wrapError turns an error of the library into ours; nil stays nil.
func wrapError(op, p string, err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*smb2.ResponseError](err); ok {
		meant, known := statusErrors[r.Code]
		if !known {
			meant = errors.New("the server refuses it")
		}
		return &Error{Op: op, Path: p, Status: r.Code, Err: meant}
	}
	for _, meant := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrClosed} {
		if errors.Is(err, meant) {
			return &Error{Op: op, Path: p, Err: meant}
		}
	}
	// The library does not unwrap this itself.
	if t, ok := errors.AsType[*smb2.TransportError](err); ok {
		err = t.Err
	}
	// The end of the connection must not pass for the end of a file.
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &Error{Op: op, Path: p, Err: err}
}
