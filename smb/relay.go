package smb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/backend"
)

// A session goes through these steps, in the order of this file:
//
//  1. The client's first message is read whole and must be a NEGOTIATE that the
//     route accepts. Until then no backend is dialed.
//  2. A backend is dialed, gets the message, and answers in time; otherwise the
//     next one is tried. The answer is judged, too, and passed on.
//  3. Two copies run, each through an Inspector that looks at the bytes where
//     they are; no byte is changed, because NEGOTIATE and SESSION_SETUP are
//     hashed into the session's keys by both ends (preauthentication integrity).
//  4. The first end of either copy decides the Result. A client that has said
//     its last word still gets its answers; a backend that has ends the session.

// Options of a relay. The zero value is usable and strict.
type Options struct {
	MaxMessage      int            // longest SMB2 message, bytes: 0 is MaxMessage
	Protection      Protection     // refuse what is less protected
	MinDialect      Dialect        // refuse sessions below it; 0: none
	KerberosOnly    bool           // refuse every logon but by Kerberos
	AllowNamedPipes bool           // let named pipes be opened where the traffic can be seen
	Shares          []string       // the only shares that may be connected where the traffic can be seen; empty: all. IPC$ is always among them
	Backends        []string       // those of the relay's that the client may have; empty: all
	Logons          *LogonThrottle // slows refused logons; nil: not slowed

	NegotiateTimeout time.Duration // for the client's first message, and for a backend's answer to it: default 30 s
	MessageTimeout   time.Duration // a side that stops inside a message is given up after it: default 60 s, < 0: never
	StallTimeout     time.Duration // a side that takes no bytes is given up after it: default 15 min, < 0: never
	HalfCloseTimeout time.Duration // a backend gets it to answer what a client asked before it ended its side, from the last answered byte: default 30 s
	IdleTimeout      time.Duration // a session without a byte ends after it; 0: never, since clients hold files open for days. The transports find peers that are gone

	// Meter, if it is not nil, is called with each piece of bytes moved on a
	// session, and how many messages began in it, and with nothing before the first.
	// It returns when the next piece may be moved; an error ends the session.
	Meter func(ctx context.Context, backend string, bytes, messages int) error

	ProxyHeader []byte // sent to a backend before anything else; nil: nothing

	// CleanClose tells of an error of the stream whether it is the client's way to
	// end a session: Samba's closes its QUIC connection without an error instead
	// of ending the stream. Between messages that is ReasonClientClosed, otherwise,
	// and where CleanClose is nil, ReasonClientReset.
	CleanClose func(error) bool

	Logger *slog.Logger // nil: none
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.NegotiateTimeout, 30*time.Second)
	def(&o.MessageTimeout, time.Minute)
	def(&o.StallTimeout, 15*time.Minute)
	def(&o.HalfCloseTimeout, 30*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Result of a session.
type Result struct {
	Reason       Reason
	Err          error    // what Reason sums up; nil for an orderly end
	Backend      string   // address; "" if none was reached
	Shares       []string // connected to where that could be seen, in lower case, the first 16
	Request      NegotiateRequest
	Response     NegotiateResponse
	UpBytes      int64 // client to backend, frame headers included
	DownBytes    int64 // backend to client
	UpMessages   int64
	DownMessages int64
	Duration     time.Duration
}

// Relay serves sessions of one route. Safe for use by many goroutines.
type Relay struct {
	Backends *Backends
	Options  Options
}

// Serve relays one session between stream and a backend chosen for the client
// named key, until one of them ends it or ctx is done. It owns stream and closes
// it: orderly ends with FIN, others by CancelRead and CancelWrite with the
// reason's code where stream has them. Closing the connection under the stream
// is the caller's, which knows the code from the Result.
func (r *Relay) Serve(ctx context.Context, stream net.Conn, key string) Result {
	result := make(chan Result, 1)
	r.Start(ctx, stream, key, func(res Result) { result <- res })
	return <-result
}

// Start is Serve that comes back when the session is under way or over already;
// done is called once when it is over, perhaps before. Until then there is a
// goroutine for each direction, and none of those whose stacks opening it has made
// large, which would be a fourth of what an idle session costs.
func (r *Relay) Start(ctx context.Context, stream net.Conn, key string, done func(Result)) {
	s := newSession(stream, r.Options)
	connect := func(ctx context.Context, answer func(context.Context, net.Conn) error) (net.Conn, string, error) {
		var conn net.Conn
		addr, err := r.Backends.Each(ctx, key, func(ctx context.Context, addr string) (err error) {
			if err = r.Backends.Acquire(addr); err != nil {
				return err
			}
			if conn, err = r.Backends.dial(ctx, addr, r.Options.ProxyHeader); err == nil {
				if err = answer(ctx, conn); err != nil {
					conn.Close()
					err = r.Backends.blame(ctx, addr, err)
				}
			}
			if err != nil {
				r.Backends.Release(addr)
			}
			return err
		}, r.Options.Backends...)
		if errors.Is(err, backend.ErrNotTried) {
			return nil, "", &reasonError{ReasonBackendLimit, fmt.Errorf("smb: %w", err)}
		}
		if err != nil {
			return nil, "", fmt.Errorf("smb: %w", err)
		}
		return conn, addr, nil
	}
	s.serve(ctx, connect, func(res Result) {
		if res.Backend != "" {
			r.Backends.Release(res.Backend)
			r.Backends.Touch(key, res.Backend, time.Now())
		}
		done(res)
	})
}

// Serve is Relay.Serve with a backend that is connected already. It owns both.
func Serve(ctx context.Context, stream, backend net.Conn, opts Options) Result {
	s := newSession(stream, opts)
	result := make(chan Result, 1)
	s.serve(ctx, func(ctx context.Context, answer func(context.Context, net.Conn) error) (net.Conn, string, error) {
		return backend, backend.RemoteAddr().String(), answer(ctx, backend)
	}, func(res Result) {
		backend.Close()
		result <- res
	})
	return <-result
}

// connectFunc reaches a backend and runs answer on it.
type connectFunc func(ctx context.Context, answer func(context.Context, net.Conn) error) (net.Conn, string, error)

type session struct {
	opts     Options
	policy   *policy
	stream   net.Conn
	backend  net.Conn
	up, down flow
	start    time.Time

	mu     sync.Mutex
	reason Reason
	err    error
}

func newSession(stream net.Conn, opts Options) *session {
	opts = opts.withDefaults()
	s := &session{opts: opts, policy: newPolicy(&opts), stream: stream, start: time.Now()}
	s.up.in = NewInspector(ToBackend, opts.MaxMessage)
	s.up.in.walk = s.policy.requests()
	s.down.in = NewInspector(ToClient, opts.MaxMessage)
	return s
}

// serve opens the session and begins to relay it; done is called when it is over.
func (s *session) serve(ctx context.Context, connect connectFunc, done func(Result)) {
	ctx, cancel := context.WithCancel(ctx)
	s.down.in.walk = s.policy.responses(func(status uint32) error {
		if s.opts.Logons == nil {
			return nil
		}
		return s.opts.Logons.hold(ctx, status)
	})
	res := new(Result)
	over := func() {
		s.close()
		s.sum(res)
		s.log(ctx, res)
		cancel()
		done(*res)
	}
	if err := s.open(ctx, connect, res); err != nil {
		reason := reasonOf(err, ReasonBackendUnreachable)
		if ctx.Err() != nil {
			reason = ReasonShutdown
		}
		s.end(reason, err)
		over()
		return
	}
	if s.opts.Meter != nil {
		meter := func(bytes, messages int) error { return s.opts.Meter(ctx, res.Backend, bytes, messages) }
		s.up.meter, s.down.meter = meter, meter
	}
	s.relay(ctx, over)
}

// sum completes the result of a session that is over.
func (s *session) sum(res *Result) {
	s.mu.Lock() // who stops it may still be about to
	res.Reason, res.Err = s.reason, s.err
	s.mu.Unlock()
	res.UpBytes, res.DownBytes = s.up.bytes.Load(), s.down.bytes.Load()
	res.UpMessages, res.DownMessages = s.up.in.Messages(), s.down.in.Messages()
	res.Duration, res.Shares = time.Since(s.start), s.policy.seen
}

// open does steps 1 and 2.
func (s *session) open(ctx context.Context, connect connectFunc, res *Result) error {
	first, err := s.readFirst(ctx, s.stream, s.up.in, ReasonFirstMessageTimeout, ReasonClientReset)
	if err != nil {
		return err
	}
	if res.Request, err = ParseNegotiateRequest(first[frameHeaderLen:]); err != nil {
		return &reasonError{ReasonNotNegotiate, err}
	}
	if high := res.Request.Highest(); high < s.opts.MinDialect {
		return &reasonError{ReasonDialect, fmt.Errorf("smb: the client offers %s, the route wants %s or higher", dialectList(res.Request.Dialects), s.opts.MinDialect)}
	}
	var answer []byte
	s.backend, res.Backend, err = connect(ctx, func(ctx context.Context, conn net.Conn) (err error) {
		answer, res.Response, err = s.ask(ctx, conn, first)
		return err
	})
	if err != nil {
		s.backend = nil
		return err
	}
	s.up.bytes.Add(int64(len(first)))
	if d := res.Response.Dialect; res.Response.Status == 0 && d < s.opts.MinDialect {
		return &reasonError{ReasonDialect, fmt.Errorf("smb: the backend chose %s, the route wants %s or higher", d, s.opts.MinDialect)}
	}
	if err := s.opts.Protection.check(&res.Response); err != nil {
		return err
	}
	if res.Response.TransportSecurity {
		// The client would now send in the clear what only QUIC protects, and the
		// gateway would put it on the network behind it.
		return &reasonError{ReasonTransportSecurity, errors.New("smb: the backend accepted transport-level security on TCP (let it ask for SMB encryption instead)")}
	}
	s.capLengths(&res.Response)
	err = withDeadline(ctx, s.stream, s.opts.NegotiateTimeout, func() error {
		n, err := s.stream.Write(answer)
		s.down.bytes.Add(int64(n))
		return err
	})
	if err != nil {
		return &reasonError{reasonOf(err, ReasonClientReset), fmt.Errorf("smb: passing on the answer to NEGOTIATE: %w", err)}
	}
	return nil
}

// lengthSlack is what a message may have beyond the largest transfer: headers,
// a compound's other members.
const lengthSlack = 64 << 10

// capLengths bounds messages by what was negotiated, where that is less than MaxMessage.
func (s *session) capLengths(r *NegotiateResponse) {
	if r.Status != 0 {
		return
	}
	most := uint64(max(r.MaxTransact, r.MaxRead, r.MaxWrite)) + lengthSlack
	s.up.in.limit(most)
	s.down.in.limit(most)
}

// ask sends the client's NEGOTIATE to a backend and reads the answer. The
// backend may be replaced by another if that fails, so each attempt inspects anew.
func (s *session) ask(ctx context.Context, conn net.Conn, first []byte) ([]byte, NegotiateResponse, error) {
	err := withDeadline(ctx, conn, s.opts.NegotiateTimeout, func() error {
		_, err := conn.Write(first)
		return err
	})
	if err != nil {
		return nil, NegotiateResponse{}, err
	}
	walk := s.down.in.walk
	s.down.in = NewInspector(ToClient, s.opts.MaxMessage)
	s.down.in.walk = walk
	answer, err := s.readFirst(ctx, conn, s.down.in, ReasonBackendUnreachable, ReasonBackendUnreachable)
	if err != nil {
		return nil, NegotiateResponse{}, err
	}
	resp, err := ParseNegotiateResponse(answer[frameHeaderLen:])
	return answer, resp, err
}

// readFirst reads the first message of a side, frame header included. Its
// length is judged before a buffer is made for it.
func (s *session) readFirst(ctx context.Context, conn net.Conn, in *Inspector, late, broken Reason) ([]byte, error) {
	var msg []byte
	err := withDeadline(ctx, conn, s.opts.NegotiateTimeout, func() error {
		var head [preambleLen]byte
		for n := 0; n < preambleLen; {
			k, err := conn.Read(head[n:])
			if _, bad := in.Inspect(head[n : n+k]); bad != nil {
				return bad
			}
			if n += k; err != nil && n < preambleLen {
				return err
			}
		}
		size := frameHeaderLen + int(binary.BigEndian.Uint32(head[:]))
		if size > maxNegotiate {
			return &reasonError{ReasonNotNegotiate, fmt.Errorf("smb: a first message of %d octets (NEGOTIATE has some hundreds)", size)}
		}
		msg = make([]byte, size)
		copy(msg, head[:])
		if _, err := io.ReadFull(conn, msg[preambleLen:]); err != nil {
			return err
		}
		_, bad := in.Inspect(msg[preambleLen:])
		return bad
	})
	if err == nil {
		return msg, nil
	}
	reason := reasonOf(err, broken)
	if isTimeout(err) {
		reason = late
	}
	if broken == ReasonClientReset && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		reason = ReasonClientTruncated
		if !in.Midway() {
			reason = ReasonClientClosed
		}
	}
	return nil, &reasonError{reason, fmt.Errorf("smb: first message: %w", err)}
}

// relay does steps 3 and 4, and calls over.
func (s *session) relay(ctx context.Context, over func()) {
	stopCtx := context.AfterFunc(ctx, func() {
		s.stop(ReasonShutdown, fmt.Errorf("smb: session ended: %w", context.Cause(ctx)))
	})
	s.up.begin(waitSource)
	s.down.begin(waitSource)
	dog := newWatchdog(s)
	var running atomic.Int32
	run := func(f func()) {
		f()
		if running.Add(-1) == 0 {
			dog.stop()
			stopCtx()
			over()
		}
	}
	if s.up.meter != nil {
		s.up.begin(waitPaced)
		if err := s.up.meter(0, 0); err != nil {
			running.Store(1)
			run(func() { s.stop(ReasonShutdown, err) })
			return
		}
		s.up.begin(waitSource)
	}
	running.Store(2)
	go run(s.copyUp)
	go run(s.copyDown)
}

// copyUp moves the client's requests. The stream's WriteTo hands its buffers to
// the writer, which looks at them and passes them on.
func (s *session) copyUp() {
	w := &inspectingWriter{flow: &s.up, conn: s.backend}
	_, err := io.Copy(w, s.stream)
	s.up.finish()
	switch {
	case w.refused != nil:
		s.stop(reasonOf(w.refused, ReasonClientFraming), w.refused)
	case s.up.paced != nil:
		s.stop(ReasonShutdown, s.up.paced)
	case w.failed != nil:
		s.stop(ReasonBackendReset, fmt.Errorf("smb: writing to the backend: %w", w.failed))
	case err != nil:
		s.clientGone(s.up.in.Midway(), fmt.Errorf("smb: reading from the client: %w", err))
	default:
		if err := s.up.in.Finish(); err != nil {
			s.stop(ReasonClientTruncated, err)
			return
		}
		s.end(ReasonClientClosed, nil)
		closeWrite(s.backend)
	}
}

// copyDown moves the backend's responses. The stream's ReadFrom lets the reader
// fill its buffers from the backend's socket.
func (s *session) copyDown() {
	r := &inspectingReader{flow: &s.down, conn: s.backend}
	var from io.Reader = r
	if lr, ok := s.backend.(lentReader); ok {
		from = newLentInspectingReader(r, lr)
	}
	_, err := io.Copy(s.stream, from)
	s.down.finish()
	switch {
	case r.refused != nil:
		s.stop(reasonOf(r.refused, ReasonBackendFraming), r.refused)
	case s.down.paced != nil:
		s.stop(ReasonShutdown, s.down.paced)
	case r.failed != nil:
		s.stop(ReasonBackendReset, fmt.Errorf("smb: reading from the backend: %w", r.failed))
	case err != nil:
		up, _ := s.up.waiting()
		s.clientGone(up == waitSourceMid, fmt.Errorf("smb: writing to the client: %w", err))
	default:
		if err := s.down.in.Finish(); err != nil {
			s.stop(ReasonBackendTruncated, err)
			return
		}
		// A server that has ended its side answers nothing more, so there is no
		// use in letting the client ask on.
		closeWrite(s.stream)
		s.stop(ReasonBackendClosed, nil)
	}
}

// clientGone ends the session after an error of the client's stream; midway says
// that its last message is incomplete.
func (s *session) clientGone(midway bool, err error) {
	if s.opts.CleanClose != nil && !midway && s.opts.CleanClose(err) {
		s.stop(ReasonClientClosed, nil)
		return
	}
	s.stop(ReasonClientReset, err)
}

// end notes why the session ended; the first to say so is right.
func (s *session) end(reason Reason, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == ReasonNone {
		s.reason, s.err = reason, err
	}
}

// stop is end, and interrupts both copies.
func (s *session) stop(reason Reason, err error) {
	s.end(reason, err)
	s.stream.SetDeadline(past)
	if s.backend != nil {
		s.backend.SetDeadline(past)
	}
}

// close releases both ends after the copies.
func (s *session) close() {
	if s.backend != nil {
		s.backend.Close()
	}
	if s.reason.Orderly() {
		s.stream.SetDeadline(time.Time{})
		closeWrite(s.stream)
	}
	if c, ok := s.stream.(canceller); ok {
		c.CancelRead(s.reason.Code())
		if !s.reason.Orderly() {
			c.CancelWrite(s.reason.Code())
		}
	}
	s.stream.Close()
}

func (s *session) log(ctx context.Context, res *Result) {
	level := slog.LevelInfo
	if !res.Reason.Orderly() && res.Reason != ReasonClientReset && res.Reason != ReasonShutdown {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{
		slog.String("reason", res.Reason.String()), slog.String("side", res.Reason.Side().String()),
		slog.String("backend", res.Backend), slog.Int64("up_bytes", res.UpBytes), slog.Int64("down_bytes", res.DownBytes),
		slog.Duration("duration", res.Duration),
	}
	if res.Response.Dialect != 0 {
		attrs = append(attrs, slog.String("dialect", res.Response.Dialect.String()))
	}
	if res.Request.NetName != "" {
		attrs = append(attrs, slog.String("netname", fmt.Sprintf("%q", res.Request.NetName)))
	}
	if len(res.Shares) > 0 {
		attrs = append(attrs, slog.Any("shares", res.Shares))
	}
	if res.Err != nil {
		attrs = append(attrs, slog.String("error", res.Err.Error()))
	}
	s.opts.Logger.LogAttrs(ctx, level, "smb session ended", attrs...)
}

// reasonOf finds the reason in err.
func reasonOf(err error, otherwise Reason) Reason {
	if r, ok := errors.AsType[*reasonError](err); ok {
		return r.reason
	}
	if f, ok := errors.AsType[*FrameError](err); ok {
		if f.Direction == ToBackend {
			return ReasonClientFraming
		}
		return ReasonBackendFraming
	}
	return otherwise
}
