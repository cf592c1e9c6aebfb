//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
)

var doctorCommand = command{
	name:    "doctor",
	args:    "[-c FILE] [--json] [--timeout 5s]",
	summary: "check this host, the configuration, the certificates and every backend",
}

func init() { doctorCommand.run = runDoctor }

// finding is one line of the doctor's.
type finding struct {
	Status string `json:"status"` // ok, warn or fail
	Area   string `json:"area"`
	What   string `json:"what"`
	Fix    string `json:"fix,omitempty"`
}

// examination collects findings.
type examination struct {
	cfg      *config.Config
	timeout  time.Duration // for each thing that is waited for
	now      time.Time
	findings []finding
}

func (e *examination) add(status, area, fix, format string, args ...any) {
	e.findings = append(e.findings, finding{status, area, fmt.Sprintf(format, args...), fix})
}
func (e *examination) ok(area, format string, args ...any) { e.add("ok", area, "", format, args...) }
func (e *examination) warn(area, fix, format string, args ...any) {
	e.add("warn", area, fix, format, args...)
}
func (e *examination) fail(area, fix, format string, args ...any) {
	e.add("fail", area, fix, format, args...)
}

// problems adds what the configuration's own checks say.
func (e *examination) problems(status, area string, ps config.Problems) {
	for _, p := range ps {
		hint := p.Hint
		p.Hint = ""
		e.add(status, area, hint, "%v", p)
	}
}

func runDoctor(ctx context.Context, io stdio, args []string) error {
	fs := doctorCommand.flags()
	file := fs.String("c", defaultConfig, "configuration `file`")
	asJSON := fs.Bool("json", false, "the findings as a JSON array")
	timeout := fs.Duration("timeout", 5*time.Second, "longest `time` for one backend or socket")
	rest, err := doctorCommand.parse(io, fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("doctor: unexpected %q (the configuration goes behind -c)", rest[0])
	}
	e := &examination{timeout: *timeout, now: time.Now()}
	usable := e.configuration(*file)
	e.host()
	if usable {
		e.certificates()
		e.accounts()
		e.helperSocket(ctx)
		e.listeners(ctx)
		e.backends(ctx)
	}
	if err := e.print(io, *asJSON); err != nil {
		return err
	}
	for _, f := range e.findings {
		if f.Status == "fail" && !usable {
			return &usageError{errReported}
		} else if f.Status == "fail" {
			return errReported
		}
	}
	return nil
}

func (e *examination) print(io stdio, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(io.out)
		enc.SetIndent("", "  ")
		return enc.Encode(e.findings)
	}
	for _, f := range e.findings {
		line := fmt.Sprintf("%-4s  %-12s %s", f.Status, f.Area, f.What)
		if f.Fix != "" {
			line += " (" + f.Fix + ")"
		}
		if _, err := fmt.Fprintln(io.out, line); err != nil {
			return err
		}
	}
	return nil
}

// configuration reads the file; false: nothing can be done with it.
func (e *examination) configuration(file string) bool {
	cfg, err := config.Load(file)
	var ps config.Problems
	if errors.As(err, &ps) {
		e.problems("fail", "config", ps)
		return false
	}
	if err != nil {
		e.fail("config", "quic-fsgw init writes one", "%v", err)
		return false
	}
	e.cfg = cfg
	e.problems("warn", "config", cfg.Warnings())
	e.ok("config", "%s: %d routes, %d access rules", file, len(cfg.Routes), len(cfg.Access))
	return true
}
