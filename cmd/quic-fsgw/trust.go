package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/quic-fsgw/quic-fsgw/gateway/client"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/upcall"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// trustFlags are the flags of every client command.
type trustFlags struct {
	config, ca, crl, cert, key, serverName, passwordFile, keyLog, congestion string
	insecure                                                                 bool
}

func (t *trustFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&t.config, "c", "", "configuration `file` with a client section (default "+defaultConfig+", if it is there)")
	fs.StringVar(&t.ca, "ca", "", "CA certificates to trust, a `file`; without it the system's")
	fs.StringVar(&t.crl, "crl", "", "revocation lists for server certificates, a `file`")
	fs.StringVar(&t.cert, "cert", "", "client certificate `file`")
	fs.StringVar(&t.key, "key", "", "its private key, a `file`")
	fs.StringVar(&t.serverName, "server-name", "", "`name` to ask for and to verify, instead of the URL's host")
	fs.StringVar(&t.congestion, "congestion", "", "congestion `control` of what is sent: cubic (the default), newreno, or bbr for paths that lose packets")
	fs.BoolVar(&t.insecure, "insecure-skip-verify", false, "do not verify the server; for experiments only")
	fs.StringVar(&t.keyLog, "unsafe-key-log", "", "append the TLS secrets to a `file`: who reads it can read the traffic; for finding faults only")
}

func (t *trustFlags) registerPassword(fs *flag.FlagSet) {
	fs.StringVar(&t.passwordFile, "password-file", "", "`file` with the SMB password; also from QUIC_FSGW_PASSWORD")
}

// apply takes from a configuration what the flags leave open.
func (t *trustFlags) apply() error {
	if (t.cert == "") != (t.key == "") {
		return usagef("--cert and --key belong together")
	}
	if t.congestion != "" {
		if _, err := quic.ParseCongestion(t.congestion); err != nil {
			return usagef("--congestion: %w", err)
		}
	}
	file := first(t.config, defaultConfig)
	c, err := config.Load(file)
	if t.config == "" && (errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission)) {
		return nil // nobody has asked for it
	}
	if err != nil {
		return &usageError{err}
	}
	if c.Client == nil {
		return nil
	}
	t.ca = first(t.ca, string(c.Client.CA))
	t.crl = first(t.crl, string(c.Client.CRL))
	if t.cert == "" {
		t.cert, t.key = string(c.Client.Cert), string(c.Client.Key)
	}
	t.serverName = first(t.serverName, c.Client.ServerName)
	t.congestion = first(t.congestion, c.Client.Congestion)
	t.insecure = t.insecure || c.Client.InsecureSkipVerify
	t.keyLog = first(t.keyLog, string(c.Client.UnsafeKeyLog))
	return nil
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// helperConfig is what the handshake helper is told: it alone opens the files.
func (t *trustFlags) helperConfig() tlshd.Config {
	cc := &tlshd.ClientConfig{InsecureSkipVerify: t.insecure}
	if t.ca != "" {
		cc.CA = []string{t.ca}
	}
	if t.crl != "" {
		cc.CRL = []string{t.crl}
	}
	if t.cert != "" {
		cc.Certificate = &tlshd.Certificate{Cert: t.cert, Key: t.key}
	}
	return tlshd.Config{Client: cc, UnsafeKeyLog: t.keyLog}
}

// dialer starts a handshake helper and returns a dialer that uses it. A helper
// that dies is started again, for commands that run for long.
func (t *trustFlags) dialer(ctx context.Context, log *slog.Logger) (d *client.Dialer, stop func(), err error) {
	if err := t.apply(); err != nil {
		return nil, nil, err
	}
	hc := tlshd.NewClient(tlshd.ClientOptions{Logger: log})
	sup, err := tlshd.Supervise(ctx, tlshd.SpawnConfig{Args: helperArgs(log), Config: t.helperConfig(), Logger: log}, func(p *tlshd.Process) error {
		conn, err := p.Connect(ctx)
		if err != nil {
			return err
		}
		return hc.Attach(conn)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("handshake helper: %w", err)
	}
	d = &client.Dialer{Handshaker: upcall.Handshaker(hc), ServerName: t.serverName, Logger: log}
	d.Congestion, _ = quic.ParseCongestion(first(t.congestion, "cubic")) // flag and schema allow no other names
	// The helper's client before the helper, which it would miss otherwise.
	return d, func() { _ = errors.Join(d.Close(), hc.Close(), sup.Close()) }, nil
}

// quietLogger logs what a person at a terminal has to know.
func quietLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// remote is a place that a command works on.
type remote struct {
	fs   client.FileSystem
	path string
	stop func()
}

// openRemote opens the place a URL names.
func (t *trustFlags) openRemote(ctx context.Context, raw string, streams int) (*remote, error) {
	u, err := client.ParseURL(raw)
	if err != nil {
		return nil, &usageError{err}
	}
	if err := u.ResolvePassword(t.passwordFile, os.Getenv); err != nil {
		return nil, &usageError{err}
	}
	d, stop, err := t.dialer(ctx, quietLogger())
	if err != nil {
		return nil, err
	}
	f, p, err := client.OpenRemote(ctx, u, client.OpenOptions{Dial: d.Dial, Streams: streams})
	if err != nil {
		stop()
		return nil, err
	}
	return &remote{fs: f, path: p, stop: func() {
		_ = f.Close()
		stop()
	}}, nil
}

// open opens a URL or a local path.
func (t *trustFlags) open(ctx context.Context, arg string, follow bool, streams int) (*remote, error) {
	if client.IsRemote(arg) {
		return t.openRemote(ctx, arg, streams)
	}
	f, p, err := client.OpenLocal(arg, follow)
	if err != nil {
		return nil, err
	}
	return &remote{fs: f, path: p, stop: func() { _ = f.Close() }}, nil
}
