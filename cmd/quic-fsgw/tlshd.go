//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"syscall"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/supervise"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

var tlshdCommand = command{
	name:    "tlshd",
	args:    "[-c FILE] --socket PATH [--allow-user NAME]...",
	summary: "run the handshake helper as a service of its own",
}

func init() { tlshdCommand.run = runTlshd }

func runTlshd(ctx context.Context, io stdio, args []string) error {
	fs := tlshdCommand.flags()
	file := fs.String("c", defaultConfig, "configuration `file`")
	socket := fs.String("socket", "", "socket to listen on; without it the configuration's tlshd.socket")
	var uids []int
	fs.Func("allow-user", "`account` whose gateway may use the helper, besides root's and this one's own; may be repeated", func(name string) error {
		uid, err := accountID(name)
		uids = append(uids, uid)
		return err
	})
	rest, err := tlshdCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("tlshd: unexpected %q", rest[0])
	}
	cfg, err := config.Load(*file)
	if err != nil {
		return reportConfig(io, err)
	}
	log := newLogger(&cfg.Log, os.Stderr)
	path := first(*socket, string(cfg.Tlshd.Socket))
	srv, err := tlshd.NewServer(supervise.HelperConfig(cfg), log)
	if err != nil {
		return fmt.Errorf("tlshd: %w", err)
	}
	defer srv.Close()
	l, err := tlshd.Listen(path, uids)
	if err != nil {
		return fmt.Errorf("tlshd: %w", err)
	}
	defer l.Close()
	sandbox, err := tlshd.Harden(supervise.HelperConfig(cfg))
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
				if err := reloadTlshd(srv, *file); err != nil {
					log.Error("reload failed, the old configuration stays", "error", err)
				}
			}
		}
	}()
	log.Info("handshake helper listening", "socket", path, "sandbox", sandbox)
	return l.Serve(ctx, srv)
}

func reloadTlshd(srv *tlshd.Server, file string) error {
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	return srv.Reload(supervise.HelperConfig(cfg))
}

// accountID is the number of an account, by name or number.
func accountID(name string) (int, error) {
	if u, err := user.Lookup(name); err == nil {
		name = u.Uid
	}
	id, err := strconv.Atoi(name)
	if err != nil || id < 0 {
		return 0, fmt.Errorf("there is no account %q", name)
	}
	return id, nil
}
