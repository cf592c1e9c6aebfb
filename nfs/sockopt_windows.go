package nfs

import (
	"errors"
	"syscall"
)

// reuseAddress does nothing: SO_REUSEADDR on Windows would let others take the port over.
func reuseAddress(_, _ string, _ syscall.RawConn) error { return nil }

// wsaEADDRINUSE is Winsock's "address already in use".
const wsaEADDRINUSE = syscall.Errno(10048)

// addressTaken reports that another source port is worth a try.
func addressTaken(err error) bool { return errors.Is(err, wsaEADDRINUSE) }
