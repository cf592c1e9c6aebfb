//go:build !linux

package main

import (
	"errors"
	"net/netip"
	"os/exec"
	"syscall"
)

// Distances need Linux: see distance_linux.go.
type apart struct{ near, far *place }

type place struct{}

var farAddr = netip.MustParseAddr("10.71.0.2")

func setApart(distance) (*apart, error) {
	return nil, errors.New("network namespaces are Linux's")
}

func (*apart) close()                {}
func (*place) start(*exec.Cmd) error { return nil }

func useCongestion(name string) func(network, address string, c syscall.RawConn) error {
	if name == "" {
		return nil
	}
	return func(string, string, syscall.RawConn) error {
		return errors.New("the choice of TCP's congestion control is Linux's")
	}
}
