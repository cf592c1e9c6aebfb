//go:build !linux

package ganeshatest

import "syscall"

func childAttr() *syscall.SysProcAttr { return nil }
