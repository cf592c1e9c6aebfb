package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
)

// A runner starts both ends of a peer as processes of their own and collects
// what they say.
type runner struct {
	fsgw  string // the program quic-fsgw
	self  string
	docs  string // folder for what a section draws; "": nowhere
	quick bool

	problems []string // measurements of this section that failed

	profile string // what the names of the relay's CPU profiles begin with; "": none
}

// ours is the name of quic-fsgw among the peers.
const ours = "quic-fsgw"

// work is one measurement, the same for every peer.
type work struct {
	upload      uint64
	download    uint64
	requests    int
	handshakes  int
	idle        int
	streams     int
	connections int
	payload     int
	gso         string    // "off", only for quic-fsgw
	fill        bool      // write what is sent first, only for quic-fsgw
	procs       int       // GOMAXPROCS of both ends; 0: as they do by themselves
	profile     string    // prefix of profile names, only for quic-fsgw
	congestion  string    // only for quic-fsgw and TLS over TCP; "": as it does by itself
	away        *distance // nil: both ends are on the loopback interface
	timeout     time.Duration
}

// measured is what both ends said.
type measured struct{ client, server perf.Result }

// cpu is CPU seconds per GiB of both ends.
func (m measured) sender() float64   { return m.client.CPUPerGiB }
func (m measured) receiver() float64 { return m.server.CPUPerGiB }

// command makes one end of a peer.
func (r *runner) command(ctx context.Context, peer, end, addr string, w *work) *exec.Cmd {
	var args []string
	program := r.self
	if peer == ours {
		program = r.fsgw
		at := "--listen"
		if end == "client" {
			at = "--connect"
		}
		args = append(args, "bench", end, at, addr, "--json")
		if w.gso != "" {
			args = append(args, "--gso", w.gso)
		}
		if w.fill {
			args = append(args, "--fill")
		}
		if w.congestion != "" {
			args = append(args, "--congestion", w.congestion)
		}
		if w.profile != "" {
			args = append(args, "--cpuprofile", w.profile+"."+end)
		}
	} else {
		args = append(args, peer, end, "--addr", addr)
		if w.congestion != "" {
			args = append(args, "--congestion", w.congestion)
		}
	}
	if w.payload != 0 {
		args = append(args, "--udp-payload", strconv.Itoa(w.payload))
	}
	if end == "client" {
		args = append(args, clientArgs(peer, w)...)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	if w.procs > 0 {
		cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(w.procs))
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func clientArgs(peer string, w *work) (args []string) {
	number := func(name string, n uint64) {
		if n > 0 {
			args = append(args, name, strconv.FormatUint(n, 10))
		}
	}
	number("--upload", w.upload)
	number("--download", w.download)
	number("--requests", uint64(w.requests))
	number("--handshakes", uint64(w.handshakes))
	number("--idle", uint64(w.idle))
	number("--streams", uint64(w.streams))
	number("--connections", uint64(w.connections))
	if w.idle > 0 {
		if peer == ours {
			return append(args, "--seconds", strconv.Itoa(int(holdIdle.Seconds())))
		}
		return append(args, "--hold", holdIdle.String())
	}
	return args
}

// Idle connections are looked at when they have been idle for a while.
const (
	settleIdle = 15 * time.Second
	holdIdle   = 20 * time.Second
)

// A process is a started end that says where it listens.
type process struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	addr string
}

// start starts an end by means of run.
func start(cmd *exec.Cmd, run func(*exec.Cmd) error) (*process, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	logs, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := run(cmd); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(logs).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("%v does not listen: %q, %w", cmd.Args, line, err), cmd.Cancel(), cmd.Wait())
	}
	go func() { _, _ = io.Copy(io.Discard, logs) }()
	return &process{cmd, bufio.NewReader(out), addr}, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait() // it ends by the signal
}

func (p *process) result() (r perf.Result, err error) {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return r, fmt.Errorf("%v said nothing: %w", p.cmd.Args, err)
	}
	return r, json.Unmarshal([]byte(line), &r)
}

// once runs both ends of a peer.
func (r *runner) once(ctx context.Context, peer string, w *work) (m measured, err error) {
	ctx, cancel := context.WithTimeout(ctx, max(w.timeout, 2*time.Minute))
	defer cancel()
	near, far, listen := (*exec.Cmd).Start, (*exec.Cmd).Start, "127.0.0.1:0"
	if w.away != nil {
		a, err := setApart(*w.away)
		if err != nil {
			return m, err
		}
		defer a.close()
		near, far, listen = a.near.start, a.far.start, netip.AddrPortFrom(farAddr, 0).String()
	}
	srv, err := start(r.command(ctx, peer, "server", listen, w), far)
	if err != nil {
		return m, err
	}
	defer srv.stop()
	base := resident(srv.cmd.Process.Pid)
	cl := r.command(ctx, peer, "client", srv.addr, w)
	cl.Stderr = os.Stderr
	out, err := cl.StdoutPipe()
	if err != nil {
		return m, err
	}
	if err := near(cl); err != nil {
		return m, err
	}
	err = json.NewDecoder(out).Decode(&m.client)
	if w.idle > 0 {
		select { // until what is only needed by busy connections was given back
		case <-time.After(settleIdle):
		case <-ctx.Done():
		}
	}
	idle := resident(srv.cmd.Process.Pid) - base
	if err = errors.Join(err, cl.Wait()); err != nil {
		return m, fmt.Errorf("%v: %w", cl.Args, err)
	}
	m.server, err = srv.result()
	m.server.Resident = idle
	return m, err
}

// resident is the memory of a process in RAM, in bytes.
func resident(pid int) int64 {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	f := strings.Fields(string(b))
	if err != nil || len(f) < 2 {
		return 0
	}
	n, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return n * int64(os.Getpagesize())
}

// rounds runs all peers in turn, several times, so that what else the machine
// does meets all of them.
func (r *runner) rounds(ctx context.Context, n int, works map[string]*work, order []string) (map[string][]measured, error) {
	all := make(map[string][]measured)
	for i := range n {
		for _, p := range order {
			peer, _, _ := strings.Cut(p, " ")
			w := *works[p]
			if w.away != nil { // each round other losses, the same for all
				d := *w.away
				d.seed = uint64(i)
				w.away = &d
			}
			m, err := r.once(ctx, peer, &w)
			if err != nil {
				if ctx.Err() != nil {
					return nil, err
				}
				r.problems = append(r.problems, fmt.Sprintf("%s: %v", p, err))
				continue // it stays out of the medians
			}
			all[p] = append(all[p], m)
		}
	}
	return all, nil
}

// A section is a part of the report that can be measured alone.
type section struct {
	name string
	run  func(context.Context, *report) error
}

func (r *runner) sections() []section {
	return []section{
		{"throughput", r.throughput}, {"parallel", r.parallel}, {"latency", r.latency}, {"handshakes", r.handshakes}, {"gateway", r.gatewayHandshakes},
		{"memory", r.memory}, {"relay", r.relay}, {"smallops", r.smallops}, {"bridge", r.bridge}, {"lossy", r.lossy}, {"bytes", r.bySize}, {"sizes", r.sizes},
		{"datapath", r.datapath},
	}
}

// choose keeps the sections named in a list, all for "".
func choose(all []section, list string) ([]section, error) {
	if list == "" {
		return all, nil
	}
	var chosen []section
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(s section) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no section %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// runAll measures everything, or some sections, and writes the documents.
func runAll(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	fsgw := fs.String("fsgw", "bin/quic-fsgw", "the program to measure")
	docs := fs.String("docs", "", "`folder` for performance.md and datapath.svg; none are written without")
	readme := fs.String("readme", "", "`file` whose table is written too; none is without")
	only := fs.String("only", "", "`sections` to measure, with commas between: throughput, parallel, latency, handshakes, gateway, memory, relay, smallops, bridge, lossy, bytes, sizes, datapath")
	asIs := fs.Bool("as-is", false, "measure in the machine's own network, with its settings for TCP")
	profile := fs.String("profile", "", "`prefix` of CPU profiles of the relay's ends; none are written without")
	if err := fs.Parse(args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r := &runner{fsgw: *fsgw, self: self, docs: *docs, profile: *profile, quick: os.Getenv("BENCH_QUICK") != ""}
	chosen, err := choose(r.sections(), *only)
	if err != nil {
		return err
	}
	rep := &report{quick: r.quick, began: time.Now(), load: loadavg(), only: *only}
	if !*asIs {
		ran, network, err := inOwnNetwork(ctx, self)
		if ran || err != nil {
			return err
		}
		rep.network = network
	}
	limited, cancel := context.WithTimeout(ctx, pick(r.quick, 8*time.Minute, 30*time.Minute))
	defer cancel()
	err = r.measure(limited, rep, chosen)
	if ctx.Err() != nil {
		return ctx.Err() // by the user: nothing is written
	}
	fmt.Print(rep.document())
	if r.docs != "" {
		err = errors.Join(err, os.WriteFile(filepath.Join(r.docs, "performance.md"), []byte(rep.document()), 0o644))
	}
	if *readme != "" {
		err = errors.Join(err, rep.writeSummary(*readme))
	}
	return err
}

// measure runs sections. One that fails says so in the report, and the rest goes on.
func (r *runner) measure(ctx context.Context, rep *report, sections []section) error {
	var failed []error
	for _, s := range sections {
		began := time.Now()
		r.problems = nil
		err := s.run(ctx, rep)
		if ctx.Err() != nil {
			rep.note("The time for this run was over before the section " + s.name + " and what follows could be measured.")
			return errors.Join(append(failed, ctx.Err())...)
		}
		fmt.Fprintf(os.Stderr, "%s: %.0f s\n", s.name, time.Since(began).Seconds())
		for _, p := range r.problems {
			rep.note("**A measurement failed and is not in the medians:** " + p)
			failed = append(failed, fmt.Errorf("%s: %s", s.name, p))
		}
		if err != nil {
			rep.note(fmt.Sprintf("**The section %s was not measured to its end:** %v", s.name, err))
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(failed...)
}

// loadavg is the machine's load before anything is measured.
func loadavg() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}
