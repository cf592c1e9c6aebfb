package devserver

import "golang.org/x/sys/windows"

const openFlags = 0

// filesNeedWriteToSync: FlushFileBuffers needs a handle for writing.
const filesNeedWriteToSync = true

func diskSpace(dir string) (total, free, avail uint64, err error) {
	p, err := windows.UTF16PtrFromString(dir)
	if err == nil {
		err = windows.GetDiskFreeSpaceEx(p, &avail, &total, &free)
	}
	return total, free, avail, err
}
