package udp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func controlBytes(h *unix.Msghdr) []byte {
	return unsafe.Slice(h.Control, int(h.Controllen))
}

func ctlBytes(c *[32]uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(c)), len(c)*8)
}
