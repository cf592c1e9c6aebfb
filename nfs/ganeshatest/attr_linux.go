package ganeshatest

import "syscall"

// childAttr makes the server end with the test process, however that ends.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
