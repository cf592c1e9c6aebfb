package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/internal/procs"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// helperWord makes this program the handshake helper of the process that
// started it. It is no command: it needs the descriptors it is handed.
const helperWord = "tlshd-process"

// helperArgs starts a helper that logs as much as log does.
func helperArgs(log *slog.Logger) []string {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if log.Enabled(context.Background(), level) {
			return []string{helperWord, level.String()}
		}
	}
	return []string{helperWord, slog.LevelError.String()}
}

// runHelper is the handshake helper as a child of serve or of a client command.
func runHelper(ctx context.Context, args []string) error {
	level := "info"
	if len(args) == 1 {
		level = args[0]
	}
	fit, stop := context.WithCancel(ctx)
	defer stop()
	go procs.Fit(fit, procs.Source{}) // messages between two processes are what procs is for
	return tlshd.RunHelper(ctx, newLogger(&config.Log{Level: level, Format: "auto"}, os.Stderr))
}
