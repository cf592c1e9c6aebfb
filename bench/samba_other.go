//go:build !linux

package main

import (
	"context"
	"errors"
)

// A share needs Linux: see samba_linux.go.
type share struct{ work string }

const shareName, upName = "", ""

func startShare(context.Context, int64) (*share, error) {
	return nil, errors.New("smbd runs on Linux only")
}

func (*share) close()                                         {}
func (*share) port() int                                      { return 0 }
func (*share) client(int, ...string) (string, error)          { return "", nil }
func (*share) torture(int, string, ...string) (string, error) { return "", nil }
