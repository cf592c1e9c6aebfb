package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
	"github.com/quic-fsgw/quic-fsgw/internal/procs"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

var benchCommand = command{
	name:    "bench",
	args:    "server --listen ADDR | client --connect ADDR --download SIZE | --upload SIZE | --requests N",
	summary: "measure what the transport costs, without any file server",
}

func init() { benchCommand.run = runBench }

// benchFlags are those of both ends.
type benchFlags struct {
	json    bool
	payload sizeFlag
	gso     modeFlag
	gro     modeFlag
	zero    modeFlag
	fill    bool
	profile string
	cc      congestionFlag
}

func runBench(ctx context.Context, io stdio, args []string) error {
	if len(args) == 0 {
		return usagef("bench: server or client (quic-fsgw bench --help)")
	}
	switch args[0] {
	case "server":
		return runBenchServer(ctx, io, args[1:])
	case "client":
		return runBenchClient(ctx, io, args[1:])
	case "-h", "--help", "-help":
		fmt.Fprintf(io.out, "usage: quic-fsgw bench %s\n%s.\nquic-fsgw bench server --help and quic-fsgw bench client --help say more.\n", benchCommand.args, benchCommand.summary)
		return nil
	}
	return usagef("bench: %q is neither server nor client", args[0])
}

func (b *benchFlags) register(c command) *flag.FlagSet {
	fs := c.flags()
	fs.BoolVar(&b.json, "json", false, "print results as JSON, one object a line")
	fs.Var(&b.payload, "udp-payload", "largest datagram in `bytes` (default: as large as the path carries)")
	fs.Var(&b.gso, "gso", "segmentation offload: `auto`, on or off")
	fs.Var(&b.gro, "gro", "receive offload: `auto`, on or off")
	fs.Var(&b.cc, "congestion", "congestion control of what this end sends: `cubic`, newreno or bbr")
	fs.Var(&b.zero, "zerocopy", "MSG_ZEROCOPY: `auto` (not used), on or off")
	fs.BoolVar(&b.fill, "fill", false, "write what this end sends before it is sent, as reading a file would")
	fs.StringVar(&b.profile, "cpuprofile", "", "write a CPU profile to `FILE`, for go tool pprof")
	return fs
}

func (b *benchFlags) udp() udp.Config {
	return udp.Config{GSO: b.gso.Mode, GRO: b.gro.Mode, Zerocopy: b.zero.Mode}
}

// start starts the profile, if one is wanted. From then on the process has as many
// processors as serve and connect would have under such a load.
func (b *benchFlags) start(ctx context.Context) (stop func() error, err error) {
	stopProfile := func() error { return nil }
	if b.profile != "" {
		if stopProfile, err = profileTo(b.profile); err != nil {
			return nil, fmt.Errorf("bench: --cpuprofile: %w", err)
		}
	}
	fit, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { procs.Fit(fit, procs.Source{Work: udp.Work}) })
	return func() error {
		cancel()
		wg.Wait()
		return stopProfile()
	}, nil
}

func runBenchServer(ctx context.Context, io stdio, args []string) (err error) {
	c := benchCommand
	c.name, c.args = "bench server", "--listen ADDR [--json]"
	var b benchFlags
	fs := b.register(c)
	listen := fs.String("listen", "127.0.0.1:4444", "UDP `address` to listen on")
	rest, err := c.parse(io, fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("bench server: what is %q?", rest[0])
	}
	addr, err := benchAddr(*listen)
	if err != nil {
		return usagef("bench server: --listen: %w", err)
	}
	stop, err := b.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var mu sync.Mutex
	s := perf.Server{
		Listen: addr, UDPPayload: int(b.payload), UDP: b.udp(), Congestion: b.cc.Congestion, Fill: b.fill,
		Ready: func(a netip.AddrPort) { fmt.Fprintf(io.err, "listening on %s\n", a) },
		Report: func(r *perf.Result) {
			mu.Lock()
			defer mu.Unlock()
			_ = r.Write(io.out, b.json) // nobody may be reading
		},
	}
	if err := s.Run(ctx); err != nil {
		return fmt.Errorf("bench server: %w", err)
	}
	return nil
}

func runBenchClient(ctx context.Context, io stdio, args []string) (err error) {
	c := benchCommand
	c.name, c.args = "bench client", "--connect ADDR --download SIZE | --upload SIZE | --requests N [--request B] [--response B] | --handshakes N | --idle N"
	var b benchFlags
	var cl perf.Client
	fs := b.register(c)
	connect := fs.String("connect", "127.0.0.1:4444", "UDP `address` of the server")
	fs.Var((*sizeFlag)(&cl.Download), "download", "`SIZE` to receive: bytes, or with KiB, MiB, GiB")
	fs.Var((*sizeFlag)(&cl.Upload), "upload", "`SIZE` to send")
	fs.IntVar(&cl.Requests, "requests", 0, "`number` of requests, each on a stream of its own")
	request, response := sizeFlag(512), sizeFlag(4096)
	fs.Var(&request, "request", "`SIZE` of a request, 8 bytes at least")
	fs.Var(&response, "response", "`SIZE` of a response")
	fs.IntVar(&cl.Parallel, "parallel", 1, "requests or handshakes in flight")
	fs.IntVar(&cl.Handshakes, "handshakes", 0, "`number` of connections to make and close")
	fs.IntVar(&cl.Idle, "idle", 0, "`number` of connections to hold open, for --seconds")
	fs.IntVar(&cl.Streams, "streams", 1, "streams of each connection")
	fs.IntVar(&cl.Connections, "connections", 1, "connections")
	seconds := fs.Float64("seconds", 0, "end after this time even if not everything has moved (0: never)")
	rest, err := c.parse(io, fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("bench client: what is %q?", rest[0])
	}
	if cl.Connect, err = benchAddr(*connect); err != nil {
		return usagef("bench client: --connect: %w", err)
	}
	cl.UDPPayload, cl.UDP, cl.Congestion, cl.Fill = int(b.payload), b.udp(), b.cc.Congestion, b.fill
	cl.Request, cl.Response = int(request), int(response)
	cl.For = time.Duration(*seconds * float64(time.Second))
	cl.Hold = func(r *perf.Result) {
		_ = r.Write(io.out, b.json)
		select {
		case <-time.After(cl.For):
		case <-ctx.Done():
		}
	}
	return b.measure(ctx, io, &cl)
}

func (b *benchFlags) measure(ctx context.Context, io stdio, cl *perf.Client) (err error) {
	stop, err := b.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	r, err := cl.Run(ctx)
	var de *perf.DialError
	if errors.As(err, &de) {
		return fmt.Errorf("bench client: %w", &unreachableError{err})
	}
	if errors.Is(err, perf.ErrUsage) {
		return usagef("bench client: %w (quic-fsgw bench client --help)", err)
	}
	if err != nil {
		return fmt.Errorf("bench client: %w", err)
	}
	if cl.Idle > 0 {
		return nil // printed while the connections were open
	}
	return r.Write(io.out, b.json)
}

// benchAddr resolves HOST:PORT.
func benchAddr(s string) (netip.AddrPort, error) {
	a, err := net.ResolveUDPAddr("udp", s)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// sizeFlag is a number of bytes: 65536, 64KiB, 2GiB.
type sizeFlag uint64

func (f *sizeFlag) String() string { return strconv.FormatUint(uint64(*f), 10) }

func (f *sizeFlag) Set(s string) error {
	digits, shift := s, 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if d, ok := strings.CutSuffix(s, unit); ok {
			digits, shift = d, 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 64)
	if err != nil || n > math.MaxInt64>>shift {
		return errors.New("want a number of bytes, or one with KiB, MiB, GiB or TiB behind it")
	}
	*f = sizeFlag(n << shift)
	return nil
}

// modeFlag is auto, on or off.
type modeFlag struct{ udp.Mode }

func (f *modeFlag) Set(s string) error {
	for _, m := range []udp.Mode{udp.Auto, udp.On, udp.Off} {
		if s == m.String() {
			f.Mode = m
			return nil
		}
	}
	return errors.New("want auto, on or off")
}

// congestionFlag is a congestion control algorithm.
type congestionFlag struct{ quic.Congestion }

func (f *congestionFlag) Set(s string) (err error) {
	f.Congestion, err = quic.ParseCongestion(s)
	return err
}
