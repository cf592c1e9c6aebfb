package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A report is docs/performance.md in the making.
type report struct {
	quick   bool
	only    string // sections, if not all
	load    string // of the machine when it began
	network string // what to say of it
	began   time.Time
	body    strings.Builder
	targets [][]string
	short   [][]string // for README.md
}

func f0(v float64) string { return number("%.0f", v) }
func f1(v float64) string { return number("%.1f", v) }
func f2(v float64) string { return number("%.2f", v) }
func f3(v float64) string { return number("%.3f", v) }

// number leaves what was not measured empty.
func number(format string, v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf(format, v)
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func median(m []measured, f func(measured) float64) float64 { return middle(m, f) }

func (r *report) section(title, text string) {
	fmt.Fprintf(&r.body, "\n## %s\n\n%s\n\n", title, text)
}

func (r *report) note(text string) { fmt.Fprintf(&r.body, "\n%s\n", text) }

// A table writes its rows as they come.
type table struct{ b *strings.Builder }

func (r *report) table(head ...string) table {
	t := table{&r.body}
	t.row(head...)
	t.row(slices.Repeat([]string{"---"}, len(head))...)
	return t
}

func (t table) row(cells ...string) { fmt.Fprintf(t.b, "| %s |\n", strings.Join(cells, " | ")) }

func (r *report) target(what, want, got string, met bool) {
	verdict := "met"
	if !met {
		verdict = "missed"
	}
	r.targets = append(r.targets, []string{what, want, got, verdict})
}

// document is the whole file.
func (r *report) document() string {
	var b strings.Builder
	b.WriteString("# Performance\n\nWritten by `make bench`, which builds the peers, runs all of them in turn on one machine and takes medians. " +
		"Read the ratios: seconds are those of the machine, and of what else it did.\n\n")
	fmt.Fprintf(&b, "Measured with %s on %s/%s, kernel %s, %d cores, in %.0f minutes", runtime.Version(), runtime.GOOS, runtime.GOARCH, kernel(), runtime.NumCPU(), time.Since(r.began).Minutes())
	if r.quick {
		b.WriteString(" (a quick run: few rounds)")
	}
	fmt.Fprintf(&b, "; quic-go %s, golang.org/x/net %s. Load of the machine before it began (1, 5, 15 minutes): %s.",
		version("github.com/quic-go/quic-go"), version("golang.org/x/net"), r.load)
	if r.only != "" {
		fmt.Fprintf(&b, " Only: %s.", r.only)
	}
	if r.network != "" {
		b.WriteString(" " + r.network)
	}
	b.WriteString(" Where a cell has brackets, they hold the least and the most of the rounds.\n\n## Targets\n\n")
	t := table{&b}
	t.row("what", "target", "measured", "")
	t.row("---", "---", "---", "---")
	for _, row := range r.targets {
		t.row(row...)
	}
	b.WriteString(r.body.String())
	b.WriteString(recipe)
	return b.String()
}

const recipe = `
## Look for yourself

    make bench                                   everything here, in less than 25 minutes; BENCH_QUICK=1 for 5
    bin/bench run -only relay,latency            some sections, printed and not written
    bin/bench run -only relay -profile /tmp/cpu  with CPU profiles of both ends of the relay
    go test ./quic/... ./smb ./nfs ./gateway/... ./internal/tcpio -run '^$' -bench .   the hot functions one by one

[tuning.md](tuning.md) tells how to profile every process, and what can be switched.
`

// version is the version of a module that this program was built with.
func version(module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == module {
				return m.Version
			}
		}
	}
	return "of an unknown version"
}

// kernel is the version of the running kernel, without what its builder added.
func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	v, _, _ := strings.Cut(strings.TrimSpace(string(b)), "-")
	return v
}
