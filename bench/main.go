package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
)

// options are the flags of one end of a peer.
type options struct {
	addr        string
	payload     int
	download    uint64
	upload      uint64
	requests    int
	request     int
	response    int
	parallel    int
	handshakes  int
	idle        int
	hold        time.Duration
	streams     int
	connections int
	congestion  string
}

// A peer is one transport: both ends of the perf exchange.
type peer struct {
	name   string
	server func(ctx context.Context, o *options) error
	client func(ctx context.Context, o *options) (*perf.Result, error)
}

func peers() []peer {
	return []peer{
		{"quic-go", quicgoServer, quicgoClient},
		{"xnet", xnetServer, xnetClient},
		{"tls", tlsServer, tlsClient},
		{"floor", floorServer, floorClient},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: bench run | forward | quic-go|xnet|tls|floor server|client")
	}
	switch args[0] {
	case "run":
		return runAll(ctx, args[1:])
	case "forward":
		return runForward(ctx, args[1:])
	}
	for _, p := range peers() {
		if p.name == args[0] && len(args) > 1 {
			return p.run(ctx, args[1], args[2:])
		}
	}
	return fmt.Errorf("what is %q?", args)
}

func (p peer) run(ctx context.Context, end string, args []string) error {
	var o options
	fs := flag.NewFlagSet(p.name+" "+end, flag.ContinueOnError)
	fs.StringVar(&o.addr, "addr", "127.0.0.1:4445", "`address` to listen on or to connect to")
	fs.IntVar(&o.payload, "udp-payload", 1400, "datagram size")
	fs.Uint64Var(&o.download, "download", 0, "bytes to receive")
	fs.Uint64Var(&o.upload, "upload", 0, "bytes to send")
	fs.IntVar(&o.requests, "requests", 0, "requests to make, one after the other")
	fs.IntVar(&o.request, "request", 512, "bytes of a request")
	fs.IntVar(&o.response, "response", 4096, "bytes of a response")
	fs.IntVar(&o.parallel, "parallel", 1, "requests or handshakes in flight")
	fs.IntVar(&o.handshakes, "handshakes", 0, "connections to make and close")
	fs.IntVar(&o.idle, "idle", 0, "connections to hold open")
	fs.DurationVar(&o.hold, "hold", 5*time.Second, "how long to hold them")
	fs.IntVar(&o.streams, "streams", 1, "streams of each connection")
	fs.IntVar(&o.connections, "connections", 1, "connections")
	fs.StringVar(&o.congestion, "congestion", "", "congestion `control` of TCP, one of the kernel's (tls)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch end {
	case "server":
		return p.server(ctx, &o)
	case "client":
		r, err := p.client(ctx, &o)
		if err != nil || o.idle > 0 {
			return err
		}
		return r.Write(os.Stdout, true)
	}
	return fmt.Errorf("%q is neither server nor client", end)
}
