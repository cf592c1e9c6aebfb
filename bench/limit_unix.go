//go:build unix

package main

import "syscall"

// raiseFileLimit lets this process and those it starts have as many files as
// the system allows. Go raises its own limit alone.
func raiseFileLimit() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l) // then fewer connections are open, and the run says so
	}
}
