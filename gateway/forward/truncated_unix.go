//go:build unix

package forward

import "golang.org/x/sys/unix"

// truncated reports whether a datagram was longer than the buffer.
func truncated(flags int) bool { return flags&unix.MSG_TRUNC != 0 }
