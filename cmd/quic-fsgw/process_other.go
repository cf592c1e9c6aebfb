//go:build !linux

package main

import "context"

// The gateway itself runs on Linux; elsewhere there are the client commands.

var processes = map[string]func(ctx context.Context, args []string) error{helperWord: runHelper}

func systemCommands() []command { return nil }
