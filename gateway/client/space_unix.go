//go:build linux || darwin || freebsd

package client

import (
	"os"

	"golang.org/x/sys/unix"
)

func localSpace(name string) (Space, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(name, &s); err != nil {
		return Space{}, &os.PathError{Op: "statfs", Path: name, Err: err}
	}
	block := uint64(s.Bsize)
	return Space{Total: s.Blocks * block, Free: s.Bfree * block, Available: uint64(s.Bavail) * block}, nil
}
