package main

import (
	"log/slog"
	"os"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
)

// newLogger makes the log that a configuration asks for, on stderr.
func newLogger(l *config.Log, w *os.File) *slog.Logger {
	opts := &slog.HandlerOptions{}
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err == nil {
		opts.Level = level
	}
	if l.Format == "json" || l.Format == "auto" && !isTerminal(w) {
		return slog.New(slog.NewJSONHandler(newLogWriter(w), opts))
	}
	return slog.New(slog.NewTextHandler(newLogWriter(w), opts))
}

// newLoggers makes all the logs of a packet process, which has its files open.
func newLoggers(c *config.Config, accessFile, auditFile *os.File) (log, access, audit *slog.Logger, err error) {
	log = newLogger(&c.Log, os.Stderr)
	return log, jsonLog(c.Log.Access, accessFile), jsonLog(c.Log.Audit, auditFile), nil
}

// jsonLog is a log of JSON lines: to a file, or "journal", which is stderr as
// systemd collects it.
func jsonLog(target config.LogTarget, f *os.File) *slog.Logger {
	if target == "journal" {
		f = os.Stderr
	}
	if f == nil {
		return nil
	}
	return slog.New(slog.NewJSONHandler(newLogWriter(f), nil))
}

func isTerminal(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0
}
