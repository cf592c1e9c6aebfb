package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/client"
)

var probeCommand = command{
	name:    "probe",
	args:    "[--timeout 10s] [--warn-days 14] [--critical-days 3] URL",
	summary: "tell whether a service is there, as a monitoring plugin",
}

func init() { probeCommand.run = runProbe }

// Exit statuses of monitoring plugins.
const (
	probeOK = iota
	probeWarning
	probeCritical
	probeUnknown
)

var probeWords = [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}

// statusError ends the program with a status of its own. What there is to say
// has been said.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }

// probeFlags are what a probe is judged by.
type probeFlags struct {
	trust                  trustFlags
	timeout                time.Duration
	warnDays, criticalDays int
}

func runProbe(ctx context.Context, io stdio, args []string) error {
	fs := probeCommand.flags()
	var f probeFlags
	f.trust.register(fs)
	f.trust.registerPassword(fs)
	fs.DurationVar(&f.timeout, "timeout", 10*time.Second, "`time` for all of it")
	fs.IntVar(&f.warnDays, "warn-days", 14, "warning where the server's certificate ends within so many `days`")
	fs.IntVar(&f.criticalDays, "critical-days", 3, "critical where it does so within so many `days`")
	status, text := f.probe(ctx, io, fs, args)
	if status < 0 {
		return nil // help
	}
	// Monitoring reads one line of standard output, and what is behind the bar.
	if _, err := fmt.Fprintf(io.out, "%s - %s\n", probeWords[status], text); err != nil {
		return err
	}
	if status == probeOK {
		return nil
	}
	return statusError(status)
}

// probe returns the status, -1 for help, and the line that goes with it.
func (f *probeFlags) probe(ctx context.Context, io stdio, fs *flag.FlagSet, args []string) (int, string) {
	rest, err := probeCommand.parse(io, fs, args)
	if errors.Is(err, flag.ErrHelp) {
		return -1, ""
	}
	if err == nil && len(rest) != 1 {
		err = errors.New("probe: which URL? (smb://host or nfs://host, and a share or an export)")
	}
	var u *client.RemoteURL
	if err == nil {
		u, err = client.ParseURL(rest[0])
	}
	if err == nil {
		err = u.ResolvePassword(f.trust.passwordFile, os.Getenv)
	}
	if err != nil {
		return probeUnknown, oneLine(err)
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	d, stop, err := f.trust.dialer(ctx, quietLogger())
	if err != nil {
		return probeUnknown, oneLine(err)
	}
	defer stop()
	p, err := client.ProbeService(ctx, d, u)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("not done within %s: %w", f.timeout, err)
		}
		return probeCritical, oneLine(err) + perfData(p, time.Now())
	}
	return f.judge(u, p, time.Now())
}

// judge is the verdict on a service that answers.
func (f *probeFlags) judge(u *client.RemoteURL, p *client.Probe, now time.Time) (int, string) {
	text := fmt.Sprintf("%s: %s answers, handshake %s, answer %s", u, p.Detail, p.Handshake.Round(100*time.Microsecond), p.Answer.Round(100*time.Microsecond))
	status := probeOK
	switch c := p.Certificate; {
	case c == nil:
		status = probeWarning
		text += ", certificate not verified"
	default:
		days := int(c.NotAfter.Sub(now) / (24 * time.Hour))
		text += fmt.Sprintf(", certificate good for %d days (%s)", days, c.NotAfter.UTC().Format(time.DateOnly))
		switch {
		case days < f.criticalDays:
			status = probeCritical
		case days < f.warnDays:
			status = probeWarning
		}
	}
	return status, text + perfData(p, now)
}

// oneLine is an error as monitoring can show it: without line breaks and bars.
func oneLine(err error) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '|':
			return '/'
		case r < ' ' || r == 0x7f:
			return ' '
		}
		return r
	}, err.Error())
}

// perfData are the measured values, in the plugins' notation; what was not
// reached is left out.
func perfData(p *client.Probe, now time.Time) string {
	var out []string
	for _, v := range []struct {
		name string
		d    time.Duration
	}{{"handshake", p.Handshake}, {"answer", p.Answer}, {"logon", p.Logon}} {
		if v.d > 0 {
			out = append(out, fmt.Sprintf("%s=%.6fs", v.name, v.d.Seconds()))
		}
	}
	if p.Certificate != nil {
		out = append(out, fmt.Sprintf("certificate=%ds", int64(p.Certificate.NotAfter.Sub(now).Seconds())))
	}
	if len(out) == 0 {
		return ""
	}
	return " | " + strings.Join(out, " ")
}
