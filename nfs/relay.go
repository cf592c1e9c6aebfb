package nfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/backend"
)

// Relay serves the streams of one client connection. Make it with Service.Relay.
// Its streams may be served concurrently.
type Relay struct {
	svc     *Service
	client  Client
	allowed atomic.Pointer[Exports]
	pin     atomic.Pointer[target] // where this connection's file handles come from
	due     atomic.Int64           // replies that backends owe, on all streams

	mu      sync.Mutex
	mounted []string
}

// Client is whom a Relay serves: what is known of a connection for its whole life.
type Client struct {
	// Identity is bound to the connection; nil: none, and every call but NULL is refused with AUTH_TOOWEAK.
	Identity *Identity
	// Advertise is the gateway's address as the portmapper tells it; zero: the stream's local address.
	Advertise netip.AddrPort
	// Backends are those of Config.Backends that the client may have; empty: all.
	Backends []string
	// Key names the client where a backend is chosen: with the same key, the same backend.
	Key string
	// Meter, if it is not nil, is called with each piece of bytes moved, and the calls among them, and
	// with nothing before the first. It returns when the next piece may be moved; an error ends the stream.
	Meter func(ctx context.Context, backend string, bytes, calls int) error
	// Callbacks opens a stream to the client for calls that a backend makes; it must not wait. An
	// error, or nil instead of it, means that the client takes none.
	Callbacks func() (net.Conn, error)
	// Proxy is what backends are told of the client where Config.Proxy is set.
	Proxy *backend.ProxyInfo
}

// SetExports changes what the client may mount from now on; calls under way
// and file handles that it has already are not touched.
func (r *Relay) SetExports(e Exports) { r.allowed.Store(&e) }

// maxMounted bounds the paths that Mounted returns.
const maxMounted = 16

// Mounted returns the paths that the client has asked to mount and was allowed to, the first 16.
func (r *Relay) Mounted() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.mounted)
}

func (r *Relay) noteMount(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.mounted) < maxMounted && !slices.Contains(r.mounted, path) {
		r.mounted = append(r.mounted, path)
	}
}

// Due is the number of calls that wait for their replies.
func (r *Relay) Due() int64 { return r.due.Load() }

func (r *Relay) exports() Exports { return *r.allowed.Load() }

// Outcome says how a stream ended.
type Outcome struct {
	// Code is the application error code that the stream was reset with;
	// CodeNoError with a nil Err is an orderly end by FIN.
	Code uint64
	// Err is why the stream did not end in order; nil otherwise.
	Err error
	// Backend is the address of the backend used; empty if none was dialled.
	Backend string

	Calls     uint64 // calls forwarded
	Replies   uint64 // replies forwarded
	Answered  uint64 // calls answered by the gateway with success
	Refused   uint64 // calls answered by the gateway with an error
	Discarded uint64 // messages of the wrong direction
	BytesUp   uint64 // bytes sent to backends
	BytesDown uint64 // bytes received from backends
	Duration  time.Duration
}

// Reasons for an Outcome's Err, beside those of record marking and of ParseCall.
var (
	// ErrBusy: the service is at Config.MaxStreams or Config.MaxBackends.
	ErrBusy = errors.New("nfs: too many streams or backend connections")
	// ErrBackendLost: the backend's connection ended while replies were due, or could not be dialled.
	ErrBackendLost = errors.New("nfs: backend lost")
	// ErrBackendProtocol: the backend's record marking is broken.
	ErrBackendProtocol = errors.New("nfs: backend broke the RPC protocol")
	// ErrStalled: no byte moved for Config.IdleTimeout although replies were due.
	ErrStalled = errors.New("nfs: stream stalled")
	// ErrUnanswered: the client's FIN came, and replies were still due after Config.DrainTimeout.
	ErrUnanswered = errors.New("nfs: calls left unanswered")
	// ErrClientGone: the stream can no longer be read or written.
	ErrClientGone = errors.New("nfs: client's stream failed")
)

// errIdle ends a stream in order.
var errIdle = errors.New("nfs: idle")

// stream is the state of one stream being served.
//
// One goroutine feeds calls (the caller of ServeStream), one a backend connection pumps
// replies. fail may be called by any; the first reason wins.
type stream struct {
	r      *Relay
	conn   net.Conn
	ctx    context.Context
	cancel context.CancelCauseFunc
	start  time.Time

	// Held for a whole message. draft-cel-nfsv4-rpc-over-quicv1, Section 3.4: "RPC
	// messages MUST NOT be interleaved on one stream."
	writeMu sync.Mutex

	mu      sync.Mutex
	conns   [numServices]*backendConn
	backend *target // once one is dialled, the stream stays with it
	code    uint64
	err     error // why the stream ends early
	ended   bool

	pumps   sync.WaitGroup
	due     atomic.Int64  // replies that backends owe
	drained chan struct{} // poked when due falls to 0
	active  atomic.Int64  // when a byte last moved, nanoseconds after start

	calls, replies, answered, refused, discarded, up, down atomic.Uint64
}

// ServeStream relays one client-opened stream until it ends, and closes it. It may be any
// net.Conn; CloseWrite, CancelRead(code) and CancelWrite(code) are used where it has them, and
// ReadFrom and WriteTo move large bodies without a copy. Cancelling ctx resets the stream.
func (r *Relay) ServeStream(ctx context.Context, conn net.Conn) Outcome {
	s := &stream{r: r, conn: conn, start: time.Now(), drained: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	st := r.svc.stats
	st.streamsTotal.Add(1)
	if n := st.streams.Add(1); n > int64(r.svc.cfg.MaxStreams) {
		s.fail(CodeServerBusy, fmt.Errorf("%w: %d streams", ErrBusy, n-1))
	} else {
		s.serve()
	}
	st.streams.Add(-1)
	return s.finish()
}

func (s *stream) serve() {
	stop := context.AfterFunc(s.ctx, func() {
		code := CodeNoError
		if s.due.Load() > 0 {
			code = CodeRequestDropped
		}
		s.fail(code, context.Cause(s.ctx))
	})
	defer stop()
	watchdog := s.watch()
	defer watchdog()

	calls := &callSink{s: s, frame: framer{limits: s.r.svc.cfg.Limits}}
	_, err := io.Copy(calls, s.conn)
	calls.letGo()
	switch {
	case err != nil:
		s.fail(calls.reason(err))
	case calls.partial():
		s.fail(CodeProtocolViolation, fmt.Errorf("%w: stream ended inside a message", ErrTruncated))
	default:
		s.drain()
	}
}

// drain waits for the replies still due after the client's FIN. Backends are not told of
// the FIN: NFS servers drop a connection, and the replies it is owed, when they read one.
func (s *stream) drain() {
	timeout := time.NewTimer(s.r.svc.cfg.DrainTimeout)
	defer timeout.Stop()
	for s.due.Load() > 0 {
		select {
		case <-s.drained:
		case <-s.ctx.Done():
			return
		case <-timeout.C:
			s.fail(CodeRequestDropped, fmt.Errorf("%w: %d", ErrUnanswered, s.due.Load()))
		}
	}
}

// watch ends the stream when nothing moves for IdleTimeout: in order if no reply is due.
func (s *stream) watch() (stop func()) {
	limit := s.r.svc.cfg.IdleTimeout
	var timer *time.Timer
	var mu sync.Mutex
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(limit, func() {
		mu.Lock()
		defer mu.Unlock()
		idle := time.Since(s.start) - time.Duration(s.active.Load())
		switch {
		case idle < limit:
			timer.Reset(limit - idle)
		case s.due.Load() > 0:
			s.fail(CodeUnspecifiedError, fmt.Errorf("%w for %v, %d replies due", ErrStalled, idle, s.due.Load()))
		default:
			s.fail(CodeNoError, errIdle)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
	}
}

func (s *stream) touch() { s.active.Store(int64(time.Since(s.start))) }

// fail ends the stream: everything that waits returns. Only the first call counts.
func (s *stream) fail(code uint64, err error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended, s.code, s.err = true, code, err
	s.mu.Unlock()
	s.cancel(err)
	interrupt(s.conn, code, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.conns {
		if b != nil {
			b.conn.Close()
		}
	}
}

// finish waits for the pumps, closes everything, and reports.
func (s *stream) finish() Outcome {
	s.mu.Lock()
	orderly := !s.ended
	s.ended = true
	for _, b := range s.conns {
		if b != nil {
			b.conn.Close()
		}
	}
	s.mu.Unlock()
	s.pumps.Wait()
	s.r.due.Add(-s.due.Load()) // of those, none comes any more
	s.cancel(nil)
	if orderly || errors.Is(s.err, errIdle) {
		closeInOrder(s.conn)
	} else {
		closeHard(s.conn)
	}
	o := Outcome{
		Code: s.code, Err: s.err,
		Calls: s.calls.Load(), Replies: s.replies.Load(), Answered: s.answered.Load(),
		Refused: s.refused.Load(), Discarded: s.discarded.Load(),
		BytesUp: s.up.Load(), BytesDown: s.down.Load(), Duration: time.Since(s.start),
	}
	if errors.Is(o.Err, errIdle) {
		o.Err = nil
	}
	if s.backend != nil {
		o.Backend = s.backend.String()
	}
	s.count(&o)
	return o
}

func (s *stream) count(o *Outcome) {
	st := s.r.svc.stats
	st.calls.Add(o.Calls)
	st.replies.Add(o.Replies)
	st.answered.Add(o.Answered)
	st.refused.Add(o.Refused)
	st.discarded.Add(o.Discarded)
	st.bytesUp.Add(o.BytesUp)
	st.bytesDown.Add(o.BytesDown)
	if o.Code != CodeNoError {
		st.resets.Add(1)
	}
	switch {
	case errors.Is(o.Err, ErrBusy):
		st.overloads.Add(1)
	case errors.Is(o.Err, ErrBackendLost):
		st.backendLosses.Add(1)
	}
	s.r.svc.log.Debug("nfs stream ended", "code", o.Code, "err", o.Err, "backend", o.Backend,
		"calls", o.Calls, "replies", o.Replies, "refused", o.Refused, "discarded", o.Discarded,
		"bytes_up", o.BytesUp, "bytes_down", o.BytesDown, "duration", o.Duration)
}

// interrupt makes reads and writes of the client's stream return. An idle stream keeps its
// write side for the FIN.
func interrupt(conn net.Conn, code uint64, err error) {
	idle := errors.Is(err, errIdle)
	if c, ok := conn.(interface{ CancelRead(uint64) }); ok {
		c.CancelRead(code)
	}
	if c, ok := conn.(interface{ CancelWrite(uint64) }); ok && !idle {
		c.CancelWrite(code)
	}
	if idle {
		conn.SetReadDeadline(time.Unix(1, 0))
	} else {
		conn.SetDeadline(time.Unix(1, 0))
	}
}

func closeInOrder(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	conn.Close()
}

// closeHard lets a TCP peer see a reset, since a FIN would look like an orderly end.
func closeHard(conn net.Conn) {
	if c, ok := conn.(interface{ SetLinger(int) error }); ok {
		c.SetLinger(0)
	}
	conn.Close()
}
