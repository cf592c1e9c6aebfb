package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/quic-fsgw/quic-fsgw/gateway/client"
	"github.com/quic-fsgw/quic-fsgw/internal/procs"
	"github.com/quic-fsgw/quic-fsgw/internal/tcpio"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

var connectCommand = command{
	name:    "connect",
	args:    "--listen 127.0.0.1:1445 smb://GATEWAY[:PORT] | nfs://GATEWAY[:PORT]",
	summary: "carry a local TCP port to a gateway, for clients that have no QUIC",
}

func init() { connectCommand.run = runConnect }

func runConnect(ctx context.Context, io stdio, args []string) error {
	fs := connectCommand.flags()
	var t trustFlags
	t.register(fs)
	listen := fs.String("listen", "", "TCP `address` to listen on")
	lan := fs.Bool("allow-lan", false, "allow an address that others can reach: they get in with your certificate")
	rest, err := connectCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 || *listen == "" {
		return usagef("connect: one URL and --listen are needed")
	}
	u, err := client.ParseURL(rest[0])
	if err != nil {
		return &usageError{err}
	}
	if u.User != "" || u.Path != "/" {
		return usagef("connect: %s: only the gateway belongs here, user and path are the client's affair", u)
	}
	addr, err := net.ResolveTCPAddr("tcp", *listen)
	if err != nil {
		return usagef("connect: --listen: %w", err)
	}
	if !addr.IP.IsLoopback() && !*lan {
		return usagef("connect: --listen %s can be reached by others, who would get in with your certificate (add --allow-lan if that is meant)", *listen)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	d, stop, err := t.dialer(ctx, log)
	if err != nil {
		return err
	}
	defer stop()
	l, err := tcpio.Listen(ctx, addr.String())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	fmt.Fprintf(io.err, "%s carries to %s\n", l.Addr(), u)
	go procs.Fit(ctx, procs.Source{Work: udp.Work})
	f := &client.Forwarder{Dialer: d, URL: u, Logger: log}
	return f.Serve(ctx, l)
}
