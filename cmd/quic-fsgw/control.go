package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
)

// Commands that ask a running gateway, through its admin socket.

var (
	statusCommand = command{name: "status", args: "[-c FILE] [--socket PATH] [--json]", summary: "show what a running gateway does"}
	reloadCommand = command{name: "reload", args: "[-c FILE] [--socket PATH]", summary: "apply a changed configuration, whole or not at all"}
	drainCommand  = command{name: "drain", args: "[-c FILE] [--socket PATH] [--timeout 60s]", summary: "refuse new connections and wait for the present ones"}
)

func init() {
	statusCommand.run, reloadCommand.run, drainCommand.run = runStatus, runReload, runDrain
}

type controlFlags struct {
	config, socket string
	timeout        time.Duration
	json           bool
}

// ask parses the flags of a control command and sends its request.
func (c command) ask(ctx context.Context, io stdio, args []string, word string) (*admin.Response, *controlFlags, error) {
	fs := c.flags()
	var f controlFlags
	fs.StringVar(&f.config, "c", defaultConfig, "configuration `file` that names the socket")
	fs.StringVar(&f.socket, "socket", "", "admin socket, instead of the configuration's")
	fs.DurationVar(&f.timeout, "timeout", time.Minute, "how long to wait for the answer")
	if word == admin.CommandStatus {
		fs.BoolVar(&f.json, "json", false, "the whole status as JSON")
	}
	rest, err := c.parse(io, fs, args)
	if err != nil {
		return nil, nil, err
	}
	if len(rest) > 0 {
		return nil, nil, usagef("%s: unexpected %q", c.name, rest[0])
	}
	if f.socket == "" {
		cfg, err := config.Load(f.config)
		if err != nil {
			return nil, nil, reportConfig(io, err)
		}
		f.socket = string(cfg.Admin.Socket)
	}
	if f.socket == "" {
		return nil, nil, usagef("%s: the configuration has no admin.socket (name one with --socket)", c.name)
	}
	actx, cancel := context.WithTimeout(ctx, f.timeout+time.Second)
	defer cancel()
	r, err := admin.Call(actx, f.socket, admin.Request{Command: word, TimeoutMS: f.timeout.Milliseconds()})
	if err != nil {
		return nil, nil, &unreachableError{fmt.Errorf("%s: %w (is the gateway running?)", c.name, err)}
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(io.err, "quic-fsgw: warning: %s\n", w)
	}
	if !r.OK {
		return nil, nil, fmt.Errorf("%s: %w", c.name, errors.New(r.Error))
	}
	return r, &f, nil
}

func runReload(ctx context.Context, io stdio, args []string) error {
	_, _, err := reloadCommand.ask(ctx, io, args, admin.CommandReload)
	return err
}

func runDrain(ctx context.Context, io stdio, args []string) error {
	_, _, err := drainCommand.ask(ctx, io, args, admin.CommandDrain)
	return err
}

func runStatus(ctx context.Context, io stdio, args []string) error {
	r, f, err := statusCommand.ask(ctx, io, args, admin.CommandStatus)
	if err != nil {
		return err
	}
	if f.json {
		var b bytes.Buffer
		if err := json.Indent(&b, r.Status, "", "  "); err != nil {
			return err
		}
		_, err = fmt.Fprintln(io.out, b.String())
		return err
	}
	return printStatus(io, r.Status)
}
