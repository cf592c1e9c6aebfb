package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
)

var checkCommand = command{
	name:    "check",
	args:    "[-c FILE] [--print | --json] [--no-files]",
	summary: "check a configuration and the files it names",
}

func init() { checkCommand.run = runCheck }

func runCheck(_ context.Context, io stdio, args []string) error {
	fs := checkCommand.flags()
	file := fs.String("c", defaultConfig, "configuration `file`")
	printed := fs.Bool("print", false, "print the configuration with every default filled in")
	asJSON := fs.Bool("json", false, "the same as JSON")
	noFiles := fs.Bool("no-files", false, "do not look at the certificates, keys and other files it names")
	rest, err := checkCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("check: unexpected %q (the configuration goes behind -c)", rest[0])
	}
	if *printed && *asJSON {
		return usagef("check: --print and --json exclude each other")
	}
	c, err := config.Load(*file)
	if err != nil {
		return reportConfig(io, err)
	}
	for _, w := range c.Warnings() {
		fmt.Fprintf(io.err, "quic-fsgw: warning: %v\n", w)
	}
	var problems config.Problems
	if !*noFiles {
		var warnings config.Problems
		problems, warnings = c.CheckFiles(time.Now())
		for _, w := range warnings {
			fmt.Fprintf(io.err, "quic-fsgw: warning: %v\n", w)
		}
	}
	// The normalised form is shown even where files are missing: a person may
	// look at a configuration on another machine than the gateway's.
	switch {
	case *printed:
		err = write(io, c.YAML)
	case *asJSON:
		err = write(io, c.JSON)
	case len(problems) == 0:
		_, err = fmt.Fprintf(io.out, "%s: ok\n", *file)
	}
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return reportConfig(io, problems)
	}
	return nil
}

func write(io stdio, encode func() ([]byte, error)) error {
	b, err := encode()
	if err != nil {
		return err
	}
	_, err = io.out.Write(b)
	return err
}

// reportConfig prints every problem of a configuration on a line of its own.
func reportConfig(io stdio, err error) error {
	var ps config.Problems
	if !errors.As(err, &ps) {
		return usagef("configuration: %w", err)
	}
	for _, p := range ps {
		fmt.Fprintf(io.err, "quic-fsgw: %v\n", p)
	}
	return &usageError{errReported}
}
