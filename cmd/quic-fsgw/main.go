// Command quic-fsgw puts QUIC, TLS 1.3 and device certificates in front of
// SMB and NFS servers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/quic-fsgw/quic-fsgw/gateway/client"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage or configuration
	exitRemote = 3 // could not reach, or not trusted
)

// defaultConfig is the file of every -c.
const defaultConfig = "/etc/quic-fsgw/config.yaml"

// command is one word of the command line; each has a file of its own.
type command struct {
	name    string
	args    string // after the name, for the usage line
	summary string
	// run parses args and does the work. A *usageError ends with exitUsage.
	run func(ctx context.Context, io stdio, args []string) error
}

// stdio is where a command reads and writes.
type stdio struct {
	out, err io.Writer
}

// commands in the order of the help.
func commands() []command {
	return append(systemCommands(),
		initCommand, checkCommand, connectCommand, lsCommand, catCommand, cpCommand, rmCommand, mkdirCommand, dfCommand,
		statusCommand, reloadCommand, drainCommand, probeCommand, benchCommand, certCommand, versionCommand)
}

// usageError is a command line, or a configuration, that can't be meant.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// errReported means that the command has said itself what is wrong.
var errReported = errors.New("already reported")

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	written, err := profiled()
	if err != nil {
		os.Exit(finish(stdio{os.Stdout, os.Stderr}, err))
	}
	code := run(ctx, stdio{os.Stdout, os.Stderr}, os.Args[1:])
	stop()
	if err := written(); err != nil && code == exitOK {
		code = finish(stdio{os.Stdout, os.Stderr}, fmt.Errorf("CPU profile: %w", err))
	}
	os.Exit(code)
}

// run is the whole program, for tests too.
func run(ctx context.Context, io stdio, args []string) int {
	if len(args) == 0 {
		usage(io.err)
		return exitUsage
	}
	if args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage(io.out)
		return exitOK
	}
	if p := processes[args[0]]; p != nil {
		return finish(io, p(ctx, args[1:]))
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return finish(io, c.run(ctx, io, args[1:]))
		}
	}
	return finish(io, usagef("unknown command %q (quic-fsgw help lists them)", args[0]))
}

func finish(io stdio, err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	var status statusError
	if errors.As(err, &status) {
		return int(status)
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintf(io.err, "quic-fsgw: %v\n", err)
	}
	var ue *usageError
	if errors.As(err, &ue) {
		return exitUsage
	}
	// The certificate, key and CA files belong to what the user wrote.
	var he *tlshd.ConfigError
	if errors.As(err, &he) {
		return exitUsage
	}
	var ce *client.ConnectError
	var re *unreachableError
	if errors.As(err, &ce) || errors.As(err, &re) {
		return exitRemote
	}
	return exitFailed
}

// unreachableError is a service of ours that does not answer.
type unreachableError struct{ err error }

func (e *unreachableError) Error() string { return e.err.Error() }
func (e *unreachableError) Unwrap() error { return e.err }

func usage(w io.Writer) {
	fmt.Fprint(w, "quic-fsgw puts QUIC and device certificates in front of SMB and NFS servers.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  quic-fsgw %-8s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\nquic-fsgw COMMAND --help says more.\n")
}

// parse reads flags that may stand before, between and behind the operands,
// and returns the operands.
func (c command) parse(io stdio, fs *flag.FlagSet, args []string) ([]string, error) {
	var out strings.Builder
	fs.SetOutput(&out)
	fs.Usage = func() {
		fmt.Fprintf(&out, "usage: quic-fsgw %s %s\n%s.\n\n", c.name, c.args, c.summary)
		printFlags(&out, fs)
	}
	var operands []string
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				fmt.Fprint(io.out, out.String())
				return nil, err
			}
			return nil, usagef("%s: %w (quic-fsgw %s --help)", c.name, err, c.name)
		}
		if fs.NArg() == 0 {
			return operands, nil
		}
		done := len(args) - fs.NArg()
		if done > 0 && args[done-1] == "--" {
			return append(operands, fs.Args()...), nil
		}
		operands = append(operands, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

// flags makes an empty flag set for the command.
func (c command) flags() *flag.FlagSet { return flag.NewFlagSet(c.name, flag.ContinueOnError) }

// printFlags lists a command's flags for its help, and for its manual page,
// which is written from the help. Package flag does the same with one dash.
func printFlags(w io.Writer, fs *flag.FlagSet) {
	fs.VisitAll(func(f *flag.Flag) {
		dashes := "--"
		if len(f.Name) == 1 {
			dashes = "-"
		}
		value, usage := flag.UnquoteUsage(f)
		if value != "" {
			value = " " + strings.ToUpper(value)
		}
		fmt.Fprintf(w, "  %s%s%s\n        %s", dashes, f.Name, value, usage)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && !strings.Contains(usage, "default") {
			fmt.Fprintf(w, " (default %s)", f.DefValue)
		}
		fmt.Fprintln(w)
	})
}
