package perf

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// A Server answers the perf protocol. It makes its own certificate.
type Server struct {
	Listen     netip.AddrPort
	UDPPayload int // largest datagram, 0: as large as the path carries
	Congestion quic.Congestion
	UDP        udp.Config
	Fill       bool // write what is sent first, as reading a file would
	// Report is called when the last client has left and none has come for
	// half a second, with what happened since the first one came.
	Report func(*Result)
	// Ready is called with the address once the socket is open.
	Ready func(netip.AddrPort)

	ep   *quic.Endpoint
	caps udp.Caps

	mu     sync.Mutex
	meter  Meter
	active int
	conns  int
	bytes  uint64
	mtu    int
	since  time.Time // the first client came
	result *Result   // taken when the last one left, not yet reported
	quiet  *time.Timer
}

// settle is how long no client may come before a result is reported.
const settle = 500 * time.Millisecond

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	cert, err := Certificate()
	if err != nil {
		return err
	}
	s.ep, s.caps, err = open(s.Listen, s.UDP, config(serverTLS(cert), s.UDPPayload, s.Congestion))
	if err != nil {
		return err
	}
	s.meter.Start(s.ep)
	if s.Ready != nil {
		s.Ready(s.ep.LocalAddr())
	}
	var wg sync.WaitGroup
	for {
		c, err := s.ep.Accept(ctx)
		if err != nil {
			break
		}
		s.arrive()
		wg.Go(func() {
			defer s.leave(c)
			s.serve(ctx, c)
		})
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	err = s.ep.Close(closing)
	wg.Wait()
	s.report()
	if err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

func (s *Server) arrive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == 0 {
		s.since = time.Now()
	}
	s.active++
	s.conns++
}

func (s *Server) leave(c *quic.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mtu = max(s.mtu, c.Stats().MTU)
	if s.active--; s.active > 0 {
		return
	}
	r := s.meter.Stop(s.ep, "server", s.bytes, s.since)
	r.Connections, r.DatagramSize = s.conns, s.mtu
	r.offload(s.caps)
	s.result = r
	if s.quiet == nil {
		s.quiet = time.AfterFunc(settle, s.report)
	} else {
		s.quiet.Reset(settle)
	}
}

// report hands out a result that nobody came to add to.
func (s *Server) report() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active > 0 || s.result == nil {
		return
	}
	r := s.result
	s.result, s.bytes, s.conns, s.mtu = nil, 0, 0, 0
	// What a handshake costs before Accept belongs to the next client.
	s.meter.Start(s.ep)
	if s.Report != nil {
		s.Report(r)
	}
}

func (s *Server) count(n uint64) {
	s.mu.Lock()
	s.bytes += n
	s.mu.Unlock()
}

// serve answers the streams of one connection until it ends.
func (s *Server) serve(ctx context.Context, c *quic.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			st, err := c.AcceptUniStream(ctx)
			if err != nil {
				return
			}
			wg.Go(func() { s.answer(ctx, st, nil) })
		}
	})
	var waiting atomic.Int32
	s.answerStreams(ctx, c, &wg, &waiting)
	wg.Wait()
	<-c.Done()
}

// spareWaiters is how many goroutines of a connection wait for streams when
// none comes.
const spareWaiters = 2

// answerStreams answers one stream after the other. While it is busy, another
// goroutine waits for the next stream: one for each stream would have to grow
// its stack each time.
func (s *Server) answerStreams(ctx context.Context, c *quic.Conn, wg *sync.WaitGroup, waiting *atomic.Int32) {
	for waiting.Add(1) <= spareWaiters {
		st, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		if waiting.Add(-1) == 0 {
			wg.Go(func() { s.answerStreams(ctx, c, wg, waiting) })
		}
		s.answer(ctx, st, st)
	}
	waiting.Add(-1)
}

// Application error codes on ALPN perf.
const (
	codeDone    = 0
	codeRequest = 1 // a stream without a header, or one that asks for too much
)

// answer reads one stream to its end and sends what it asks for; out is nil
// for a unidirectional stream.
func (s *Server) answer(ctx context.Context, in, out *quic.Stream) {
	var h headed
	_, err := in.WriteTo(&h)
	s.count(h.n)
	if err != nil {
		if out != nil {
			out.CancelWrite(codeDone)
		}
		return
	}
	want, err := h.want()
	if err != nil {
		_ = in.Conn().CloseWithError(codeRequest, err.Error())
		return
	}
	if out == nil {
		if want == 0 {
			return
		}
		if out, err = in.Conn().OpenUniStream(ctx); err != nil {
			return
		}
	}
	n, _ := out.SendAll(&source{left: want, fill: s.Fill}) // an error: the client has had enough, or is gone
	s.count(uint64(n))
}
