package client

import (
	"os"

	"golang.org/x/sys/windows"
)

func localSpace(name string) (s Space, err error) {
	p, err := windows.UTF16PtrFromString(name)
	if err == nil {
		err = windows.GetDiskFreeSpaceEx(p, &s.Available, &s.Total, &s.Free)
	}
	if err != nil {
		return Space{}, &os.PathError{Op: "statfs", Path: name, Err: err}
	}
	return s, nil
}
