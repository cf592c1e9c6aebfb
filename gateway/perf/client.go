package perf

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// A Client runs one measurement against a Server: Download or Upload, or
// Requests, or Handshakes, or Idle.
type Client struct {
	Connect     netip.AddrPort
	Download    uint64 // bytes, over all streams and connections
	Upload      uint64
	Requests    int // in all; Request bytes up (the header included), Response bytes back
	Request     int
	Response    int
	Parallel    int           // requests in flight, default 1
	Handshakes  int           // connections made and closed, one after the other
	Idle        int           // connections held open
	Hold        func(*Result) // Idle: called while they are open
	Streams     int           // default 1, of each connection
	Connections int           // default 1
	UDPPayload  int           // largest datagram in both directions, 0: as large as the path carries
	Congestion  quic.Congestion
	For         time.Duration // end transfers and requests after this time, 0: not before they are complete
	UDP         udp.Config
	Fill        bool // write what is sent first, as reading a file would

	ep    *quic.Endpoint
	caps  udp.Caps
	cfg   *quic.Config
	conns []*quic.Conn
	until time.Time
}

func serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

// Run measures. The time it takes to connect counts only for Handshakes.
func (c *Client) Run(ctx context.Context) (*Result, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	local := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if c.Connect.Addr().Is6() {
		local = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	var err error
	if c.ep, c.caps, err = open(local, c.UDP, nil); err != nil {
		return nil, err
	}
	c.cfg = clientConfig(c.UDPPayload, c.Congestion)
	r, err := c.run(ctx)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err = errors.Join(err, c.ep.Close(closing)); err != nil {
		return nil, err
	}
	r.offload(c.caps)
	return r, nil
}

// ErrUsage is wrapped by the error for a Client that makes no sense.
var ErrUsage = errors.New("cannot measure that")

func usagef(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrUsage, fmt.Sprintf(format, a...))
}

func (c *Client) check() error {
	c.Streams, c.Connections, c.Parallel = max(c.Streams, 1), max(c.Connections, 1), max(c.Parallel, 1)
	if c.Streams > 1024 || c.Parallel > 1024 {
		return usagef("at most 1024 streams at a time")
	}
	if c.Requests > 0 && (c.Request < headerLen || c.Response < 0) {
		return usagef("a request has at least %d bytes, and a response no less than none", headerLen)
	}
	if c.Download > maxAnswer || c.Upload > maxAnswer {
		return usagef("at most 2^50 bytes")
	}
	if c.Download == 0 && c.Upload == 0 && c.Requests == 0 && c.Handshakes == 0 && c.Idle == 0 {
		return usagef("nothing to do: one of download, upload, requests, handshakes, idle is needed")
	}
	return nil
}

func (c *Client) run(ctx context.Context) (*Result, error) {
	switch {
	case c.Handshakes > 0:
		return c.handshakes(ctx)
	case c.Idle > 0:
		return c.idle(ctx)
	}
	for range c.Connections {
		conn, err := c.dial(ctx)
		if err != nil {
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	if c.Requests > 0 {
		return c.requests(ctx)
	}
	return c.transfer(ctx)
}

// A DialError means that the server could not be reached.
type DialError struct {
	Server netip.AddrPort
	Err    error
}

func (e *DialError) Error() string { return fmt.Sprintf("connect to %s: %v", e.Server, e.Err) }
func (e *DialError) Unwrap() error { return e.Err }

func (c *Client) dial(ctx context.Context) (*quic.Conn, error) {
	conn, err := c.ep.Dial(ctx, c.Connect, c.cfg)
	if err != nil {
		return nil, &DialError{c.Connect, err}
	}
	return conn, nil
}

// start begins the measurement.
func (c *Client) start() (m Meter) {
	if c.For > 0 {
		c.until = time.Now().Add(c.For)
	}
	m.Start(c.ep)
	return m
}

func (c *Client) stop(m *Meter, bytes uint64) *Result {
	r := m.Stop(c.ep, "client", bytes, time.Time{})
	r.Connections, r.Streams = len(c.conns), c.Streams
	for _, conn := range c.conns {
		r.DatagramSize = max(r.DatagramSize, conn.Stats().MTU)
		_ = conn.CloseWithError(codeDone, "")
	}
	return r
}

// share is what part i of n moves of all.
func share(all uint64, i, n int) uint64 {
	k := all / uint64(n)
	if i == 0 {
		k += all % uint64(n)
	}
	return k
}

// transfer moves Download and Upload bytes over all streams at once.
func (c *Client) transfer(ctx context.Context) (*Result, error) {
	n := c.Connections * c.Streams
	errs := make([]error, n)
	moved := make([]uint64, n)
	m := c.start()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			moved[i], errs[i] = c.stream(ctx, c.conns[i%c.Connections], share(c.Download, i, n), share(c.Upload, i, n))
		})
	}
	wg.Wait()
	var bytes uint64
	for _, k := range moved {
		bytes += k
	}
	return c.stop(&m, bytes), errors.Join(errs...)
}

// stream moves bytes on one stream and returns how many.
func (c *Client) stream(ctx context.Context, conn *quic.Conn, down, up uint64) (uint64, error) {
	s, err := conn.OpenStream(ctx)
	if err != nil {
		return 0, fmt.Errorf("open stream: %w", err)
	}
	sent, err := s.SendAll(&request{want: down, source: source{left: up, until: c.until, fill: c.Fill}})
	if err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	in := sink{until: c.until}
	_, err = s.WriteTo(&in)
	if errors.Is(err, errEnough) {
		s.CancelRead(codeDone)
		err = nil
	} else if err == nil && in.n != down {
		err = fmt.Errorf("%d bytes came back, not %d: %w", in.n, down, io.ErrUnexpectedEOF)
	}
	return uint64(sent) - headerLen + in.n, err
}

// requests sends Requests requests, Parallel at a time, each on a stream of its own.
func (c *Client) requests(ctx context.Context) (*Result, error) {
	times := make([][]time.Duration, c.Parallel)
	errs := make([]error, c.Parallel)
	m := c.start()
	var wg sync.WaitGroup
	for i := range c.Parallel {
		n := int(share(uint64(c.Requests), i, c.Parallel))
		wg.Go(func() { times[i], errs[i] = c.repeat(ctx, c.conns[i%c.Connections], n) })
	}
	wg.Wait()
	var all []time.Duration
	for _, t := range times {
		all = append(all, t...)
	}
	r := c.stop(&m, uint64(len(all))*uint64(c.Request+c.Response))
	r.Streams = c.Parallel
	r.latencies(all)
	return r, errors.Join(errs...)
}

// repeat sends n requests, one after the other.
func (c *Client) repeat(ctx context.Context, conn *quic.Conn, n int) ([]time.Duration, error) {
	times := make([]time.Duration, 0, min(n, 1<<20))
	answer := make([]byte, max(c.Response, 1))
	for began := time.Now(); n > 0; n-- {
		if !c.until.IsZero() && began.After(c.until) {
			break
		}
		if err := c.ask(ctx, conn, answer); err != nil {
			return times, err
		}
		now := time.Now()
		times = append(times, now.Sub(began))
		began = now
	}
	return times, nil
}

// ask makes one request; answer is room for what comes back.
func (c *Client) ask(ctx context.Context, conn *quic.Conn, answer []byte) error {
	s, err := conn.OpenStream(ctx)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	if _, err := s.SendAll(&request{want: uint64(c.Response), source: source{left: uint64(c.Request - headerLen), fill: c.Fill}}); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	got := 0
	for {
		n, err := s.Read(answer)
		got += n
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read response: %w", err)
		}
	}
	if got != c.Response {
		return fmt.Errorf("a response of %d bytes, not %d: %w", got, c.Response, io.ErrUnexpectedEOF)
	}
	return nil
}

// handshakes connects and closes, Parallel at a time.
func (c *Client) handshakes(ctx context.Context) (*Result, error) {
	m := c.start()
	errs := make([]error, c.Parallel)
	done := make([]int, c.Parallel)
	var wg sync.WaitGroup
	for i := range c.Parallel {
		wg.Go(func() {
			for range share(uint64(c.Handshakes), i, c.Parallel) {
				conn, err := c.dial(ctx)
				if err != nil {
					errs[i] = err
					return
				}
				done[i]++
				_ = conn.CloseWithError(codeDone, "")
			}
		})
	}
	wg.Wait()
	r := c.stop(&m, 0)
	for _, n := range done {
		r.Handshakes += n
	}
	r.Connections, r.Streams = r.Handshakes, 0
	r.HandshakesPerCPU = float64(r.Handshakes) / math.Max(r.CPUSeconds, 1e-9)
	return r, errors.Join(errs...)
}

// idle opens connections and holds them.
func (c *Client) idle(ctx context.Context) (*Result, error) {
	m := c.start()
	for range c.Idle {
		conn, err := c.dial(ctx)
		if err != nil {
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	r := m.Stop(c.ep, "client", 0, time.Time{})
	r.Connections, r.Handshakes = len(c.conns), len(c.conns)
	r.HandshakesPerCPU = float64(r.Handshakes) / math.Max(r.CPUSeconds, 1e-9)
	r.offload(c.caps)
	r.Resident = Resident()
	if c.Hold != nil {
		c.Hold(r)
	}
	for _, conn := range c.conns {
		_ = conn.CloseWithError(codeDone, "")
	}
	return r, nil
}
