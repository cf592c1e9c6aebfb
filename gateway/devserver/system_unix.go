//go:build linux || darwin || freebsd

package devserver

import "golang.org/x/sys/unix"

// openFlags: the last element is no link and nothing that blocks.
const openFlags = unix.O_NOFOLLOW | unix.O_NONBLOCK

// filesNeedWriteToSync: a descriptor for reading syncs as well.
const filesNeedWriteToSync = false

func diskSpace(dir string) (total, free, avail uint64, err error) {
	var s unix.Statfs_t
	if err = unix.Statfs(dir, &s); err != nil {
		return 0, 0, 0, err
	}
	block := uint64(s.Bsize)
	return s.Blocks * block, s.Bfree * block, uint64(s.Bavail) * block, nil
}
