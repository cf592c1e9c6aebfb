package nfs

import (
	"errors"
	"fmt"
)

// Limits cap what one RPC message may be. The zero value means the defaults.
type Limits struct {
	// MaxMessage is the largest RPC message in bytes, all fragments together
	// and without their marks. It must hold the backend's largest READ or WRITE and
	// its header. Default 4 MiB + 64 KiB. Memory does not depend on it.
	MaxMessage int64
	// MaxFragments is the largest number of record fragments of one
	// message, empty ones included. Default 1024.
	MaxFragments int
}

func (l Limits) withDefaults() Limits {
	if l.MaxMessage <= 0 {
		l.MaxMessage = 4<<20 + 64<<10
	}
	if l.MaxFragments <= 0 {
		l.MaxFragments = 1024
	}
	return l
}

// Errors of record marking; each one ends the stream with CodeProtocolViolation.
var (
	// ErrMessageSize: the fragments announced are more than Limits.MaxMessage.
	ErrMessageSize = errors.New("rpc message larger than the limit")
	// ErrFragmentCount: a message of more than Limits.MaxFragments fragments.
	ErrFragmentCount = errors.New("rpc message of too many fragments")
	// ErrTruncated: the message or the stream ended inside an RPC header, a mark or a fragment.
	ErrTruncated = errors.New("rpc message truncated")
)

const (
	markLen  = 4
	lastFrag = 1 << 31
)

// framer follows the record marks of one direction of one stream.
//
// RFC 5531, Section 11: "A record is composed of one or more record fragments.
// A record fragment is a four-byte header followed by 0 to (2**31) - 1 bytes of
// fragment data."
type framer struct {
	limits Limits
	total  int64  // bytes of the current message announced so far
	frags  int    // fragments of the current message seen so far
	rem    uint32 // bytes of the current fragment not consumed yet
	last   bool   // the current fragment is the message's last
	open   bool   // between a message's first mark and its last byte
}

// mark begins the next fragment. What it announces is judged before a byte of it is read.
func (f *framer) mark(m uint32) error {
	if !f.open {
		f.total, f.frags, f.open = 0, 0, true
	}
	f.rem = m &^ lastFrag
	f.last = m&lastFrag != 0
	f.total += int64(f.rem)
	f.frags++
	switch {
	case f.total > f.limits.MaxMessage:
		return fmt.Errorf("%w: %d bytes announced, %d allowed", ErrMessageSize, f.total, f.limits.MaxMessage)
	case f.frags > f.limits.MaxFragments:
		return fmt.Errorf("%w: more than %d", ErrFragmentCount, f.limits.MaxFragments)
	}
	return nil
}

// take consumes n bytes of the current fragment.
func (f *framer) take(n int) { f.rem -= uint32(n) }

// atEnd reports whether all of the current message has been consumed.
func (f *framer) atEnd() bool { return f.open && f.rem == 0 && f.last }

// markValue is the mark of a fragment that holds n bytes and ends the message if the current fragment does.
func (f *framer) markValue(n int) uint32 {
	m := uint32(n)
	if f.last {
		m |= lastFrag
	}
	return m
}
