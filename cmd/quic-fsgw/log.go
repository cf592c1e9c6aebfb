package main

import (
	"fmt"
	"io"
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
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// newLoggers makes all the logs of a packet process.
func newLoggers(c *config.Config) (log, access, audit *slog.Logger, err error) {
	log = newLogger(&c.Log, os.Stderr)
	if access, err = openLog("log.access", c.Log.Access); err != nil {
		return nil, nil, nil, err
	}
	if audit, err = openLog("log.audit", c.Log.Audit); err != nil {
		return nil, nil, nil, err
	}
	return log, access, audit, nil
}

// openLog opens a log of JSON lines: a file, appended to, or "journal", which
// is stderr as systemd collects it.
func openLog(key string, target config.LogTarget) (*slog.Logger, error) {
	var w io.Writer
	switch target {
	case "":
		return nil, nil
	case "journal":
		w = os.Stderr
	default:
		f, err := os.OpenFile(string(target), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		w = f
	}
	return slog.New(slog.NewJSONHandler(w, nil)), nil
}

func isTerminal(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0
}
