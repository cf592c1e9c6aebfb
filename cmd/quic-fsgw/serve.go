//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/supervise"
)

var serveCommand = command{
	name:    "serve",
	args:    "[-c FILE] | --dev DIR [--listen ADDR] [--dev-allow-lan]",
	summary: "run the gateway",
}

// The processes that serve starts run this program with these words. They are
// no commands: they need the descriptors that serve hands them.
const (
	workerWord = "packet-process"
	devNFSWord = "dev-nfs-process"
	httpsWord  = "https-process"
)

var processes = map[string]func(ctx context.Context, args []string) error{
	workerWord: func(ctx context.Context, _ []string) error {
		return supervise.Worker(ctx, supervise.WorkerConfig{Loggers: newLoggers})
	},
	helperWord: runHelper,
	devNFSWord: runDevNFS,
	httpsWord:  runHTTPS,
}

func init() { serveCommand.run = runServe }

func systemCommands() []command { return []command{serveCommand, tlshdCommand, doctorCommand} }

func runServe(ctx context.Context, io stdio, args []string) error {
	fs := serveCommand.flags()
	file := fs.String("c", defaultConfig, "configuration `file`")
	dev := fs.String("dev", "", "no configuration: serve this `folder` with throwaway certificates")
	listen := fs.String("listen", "127.0.0.1:4433", "with --dev: UDP `address`")
	lan := fs.Bool("dev-allow-lan", false, "with --dev: allow an address that others can reach")
	rest, err := serveCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("serve: unexpected %q", rest[0])
	}
	if *dev != "" {
		addr, err := netip.ParseAddrPort(*listen)
		if err != nil {
			return usagef("serve: --listen %q is not an IP address with a port", *listen)
		}
		if !addr.Addr().IsLoopback() && !*lan {
			return usagef("serve: --listen %s can be reached by others, and --dev lets everybody with its client certificate in (add --dev-allow-lan if that is meant)", addr)
		}
		return serveDev(ctx, io, *dev, addr)
	}
	cfg, err := config.Load(*file)
	if err != nil {
		return reportConfig(io, err)
	}
	for _, w := range cfg.Warnings() {
		fmt.Fprintf(io.err, "quic-fsgw: warning: %v\n", w)
	}
	return supervised(ctx, *file, newLogger(&cfg.Log, os.Stderr), nil)
}

// supervised runs the gateway of a configuration file until ctx ends.
func supervised(ctx context.Context, file string, log *slog.Logger, ready func()) error {
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	return supervise.Run(ctx, supervise.Config{
		File: file, WorkerArgs: []string{workerWord}, HelperArgs: helperArgs(log), HTTPSArgs: append([]string{httpsWord}, helperArgs(log)[1:]...), Logger: log, Ready: ready, Profile: packetProfiles(),
	}, reload)
}

// runHTTPS is the process that ends TLS on TCP, as a child of serve.
func runHTTPS(ctx context.Context, args []string) error {
	level := "info"
	if len(args) == 1 {
		level = args[0]
	}
	return supervise.HTTPS(ctx, newLogger(&config.Log{Level: level, Format: "auto"}, os.Stderr))
}
