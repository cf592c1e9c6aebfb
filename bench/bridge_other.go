//go:build !linux

package main

import (
	"context"
	"errors"
)

func (r *runner) bridge(context.Context, *report) error {
	return errors.New("smbd and nfs-ganesha run on Linux only")
}
