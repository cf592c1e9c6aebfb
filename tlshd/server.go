package tlshd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// helloTimeout is how long a new connection may take to say what it is.
const helloTimeout = 5 * time.Second

// Server is the helper: it holds keys and trust and plays the TLS side of
// handshakes for the packet processes that connect to it.
type Server struct {
	log   *slog.Logger
	state atomic.Pointer[state]

	reload      sync.Mutex // one reload at a time
	failed      *state     // what the last one that failed has seen; guarded by reload
	lastFailure string     // and that the log has; guarded by reload
	stop        context.CancelFunc
	ctx         context.Context
	wg          sync.WaitGroup

	smu      sync.Mutex
	sessions map[*session]struct{}

	running atomic.Int64 // handshakes without a verdict
	kept    atomic.Int64 // handshakes known, those waiting for their ticket included
	count   counters
	spent   atomic.Pointer[spentTickets]
	keyLog  *keyLog // nil: none
}

type counters struct {
	started, done, failed, resumed, tickets, reloads, reloadErrors, unknown, refusedPeers, reverified, reverifyRefused atomic.Uint64

	outcomes, ticketRefusals outcomeCounters
}

// outcomeCounters count by two fixed words.
type outcomeCounters struct {
	mu sync.Mutex
	m  map[string]uint64
}

func (o *outcomeCounters) add(kind string, r Reason) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.m == nil {
		o.m = map[string]uint64{}
	}
	o.m[kind+" "+string(r)]++
}

func (o *outcomeCounters) copy() map[string]uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.m)
}

// ServerStats are a helper's counters since its start.
type ServerStats struct {
	Started      uint64 `json:"started"`
	Done         uint64 `json:"done"`
	Failed       uint64 `json:"failed"`
	Resumed      uint64 `json:"resumed"`
	Tickets      uint64 `json:"tickets"`
	Reloads      uint64 `json:"reloads"`
	ReloadErrors uint64 `json:"reload_errors"`
	// Unknown counts messages for handshakes that are over.
	Unknown uint64 `json:"unknown"`
	// RefusedPeers counts connections from users who may not use the helper.
	RefusedPeers uint64 `json:"refused_peers"`
	// Reverified counts chains of live connections that were judged again,
	// ReverifyRefused those of them that did not pass.
	Reverified      uint64 `json:"reverified"`
	ReverifyRefused uint64 `json:"reverify_refused"`
	// Outcomes counts handshakes by "server" or "client", a space, and Reason.
	Outcomes map[string]uint64 `json:"outcomes,omitempty"`
	// TicketRefusals counts tickets that were not good where they were shown, by
	// "refused", a space, and why.
	TicketRefusals map[string]uint64 `json:"ticket_refusals,omitempty"`

	// Expiries are when certificates and lists end, the soonest first.
	Expiries []Expiry `json:"expiries,omitempty"`

	InFlight int `json:"in_flight"` // without a verdict
	Kept     int `json:"kept"`      // with one, but not forgotten
}

// NewServer reads everything cfg names. log gets one line a handshake, at level
// Info; nil: no log.
func NewServer(cfg Config, log *slog.Logger) (*Server, error) { return newServer(cfg, log, openKeyLog) }

func newServer(cfg Config, log *slog.Logger, open func(string) (*os.File, error)) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	st, err := loadState(cfg, nil, time.Now())
	if err != nil {
		return nil, &ConfigError{err}
	}
	var keys *keyLog
	if cfg.UnsafeKeyLog != "" {
		f, err := open(cfg.UnsafeKeyLog)
		if err != nil {
			return nil, &ConfigError{err}
		}
		keys = newKeyLog(cfg.UnsafeKeyLog, f, log)
	}
	s := &Server{log: log, sessions: map[*session]struct{}{}, keyLog: keys}
	s.spent.Store(newSpentTickets(time.Now()))
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.state.Store(st)
	s.wg.Add(1)
	go s.watch()
	return s, nil
}

// Close ends every connection and waits for them.
func (s *Server) Close() error {
	s.smu.Lock()
	s.stop()
	s.smu.Unlock()
	s.wg.Wait()
	if s.keyLog != nil {
		s.keyLog.close()
	}
	return nil
}

// Reload makes cfg the configuration of new handshakes, whole or not at all:
// after an error everything is as before. User and Group have no effect any
// more.
func (s *Server) Reload(cfg Config) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	return s.load(cfg)
}

func (s *Server) load(cfg Config) error {
	old := s.state.Load()
	st, err := loadState(cfg, old, time.Now())
	if err == nil && cfg.UnsafeKeyLog != old.cfg.UnsafeKeyLog {
		err = errors.New("tlshd: unsafe_key_log can not be changed while the helper runs (restart)")
	}
	if err != nil {
		s.failed = st
		s.count.reloadErrors.Add(1)
		return err
	}
	s.failed = nil
	s.state.Store(st)
	s.count.reloads.Add(1)
	s.announce()
	return nil
}

// watch rereads the files when one of them has changed, and does what else is due
// now and then. A set that does not fit together, a new certificate whose key is
// still the old one, is tried again when it has changed further.
func (s *Server) watch() {
	defer s.wg.Done()
	interval := s.state.Load().cfg.WatchInterval
	if interval < 0 {
		return
	}
	if interval == 0 {
		interval = defaultWatch
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var warnings expiryWarnings
	var crowds calmWatch
	for {
		warnings.warn(s.log, s.state.Load(), time.Now())
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
			s.reloadChanged()
			s.releaseAfterCrowd(&crowds)
		}
	}
}

func (s *Server) reloadChanged() {
	s.reload.Lock()
	defer s.reload.Unlock()
	now := s.state.Load()
	if s.failed != nil && !s.failed.files.changed() || s.failed == nil && !now.files.changed() {
		return
	}
	err := s.load(now.cfg)
	if err == nil {
		s.lastFailure = ""
		s.log.Info("files changed and were reread")
		return
	}
	// A file that may not be read is tried again and again: once is enough to say.
	if text := err.Error(); text != s.lastFailure {
		s.lastFailure = text
		s.log.Error("files changed but can not be used, the old ones stay", "error", text)
	}
}

// Stats returns the counters.
func (s *Server) Stats() ServerStats {
	c := &s.count
	return ServerStats{
		Started: c.started.Load(), Done: c.done.Load(), Failed: c.failed.Load(), Resumed: c.resumed.Load(),
		Tickets: c.tickets.Load(), Reloads: c.reloads.Load(), ReloadErrors: c.reloadErrors.Load(),
		Unknown: c.unknown.Load(), RefusedPeers: c.refusedPeers.Load(),
		Reverified: c.reverified.Load(), ReverifyRefused: c.reverifyRefused.Load(),
		Outcomes: c.outcomes.copy(), TicketRefusals: c.ticketRefusals.copy(),
		Expiries: soonest(s.state.Load().files.expiries),
		InFlight: int(s.running.Load()), Kept: int(s.kept.Load() - s.running.Load()),
	}
}

// session is one connection of the helper.
type session struct {
	s      *Server
	sock   *socket
	ctx    context.Context
	cancel context.CancelFunc

	mu         sync.Mutex
	handshakes map[uint64]*serverHandshake
	wg         sync.WaitGroup

	announcing atomic.Bool   // CHANGED is about to be written
	verifying  chan struct{} // a slot for each VERIFY under way
}

// Serve shakes hands for the packet process at the other end of conn until that
// goes away or breaks the protocol, ctx ends or the Server is closed. It takes
// conn over. It returns nil when the other end has closed.
func (s *Server) Serve(ctx context.Context, conn *net.UnixConn) error {
	if !s.begin() {
		_ = conn.Close()
		return ErrClosed
	}
	defer s.wg.Done()
	ses := &session{s: s, sock: newSocket(conn), handshakes: map[uint64]*serverHandshake{},
		verifying: make(chan struct{}, maxVerifying)}
	ses.ctx, ses.cancel = context.WithCancel(ctx)
	defer context.AfterFunc(s.ctx, ses.cancel)()
	defer context.AfterFunc(ses.ctx, func() { _ = ses.sock.close() })()
	s.enlist(ses)
	err := ses.loop()
	s.strike(ses)
	ctxErr := ses.ctx.Err()
	ses.cancel()
	_ = ses.sock.close()
	ses.wg.Wait()
	ses.sock.wipe()
	if ctxErr != nil || peerGone(err) {
		return nil
	}
	return err
}

// begin makes Close wait for the caller, unless it waits already.
func (s *Server) begin() bool {
	s.smu.Lock()
	defer s.smu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.wg.Add(1)
	return true
}

// peerGone reports whether the other process has closed its end, with or without
// having read everything.
func peerGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (ses *session) loop() error {
	if err := greet(ses.sock, rolePacket, ses.s.features()); err != nil {
		return err
	}
	for {
		m, err := ses.sock.read()
		if err != nil {
			return err
		}
		as, err := parseAttributes(m.typ, m.body)
		if err != nil {
			return err
		}
		if err := ses.receive(m, as); err != nil {
			return err
		}
	}
}

func (s *Server) features() []string {
	f := []string{"tls1.3", "x509", "crl", "exporter", "verify", featureGather}
	if s.state.Load().tickets != nil {
		f = append(f, "tickets", "early_data")
	}
	return f
}

// greet reads the first message, which has to be HELLO in the role wanted, and
// answers it.
func greet(sock *socket, role uint8, features []string) error {
	if err := sock.c.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	m, err := sock.read()
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return protocolError("no HELLO within %v", helloTimeout)
		}
		return err
	}
	if m.typ != msgHello {
		return protocolError("%v before HELLO", m.typ)
	}
	as, err := parseAttributes(m.typ, m.body)
	if err != nil {
		return err
	}
	if v, r := as.u8(attrVersion), as.u8(attrRole); v < protoVersion || r != role {
		return protocolError("HELLO of version %d and role %d, want %d and %d", v, r, protoVersion, role)
	}
	if err := sock.c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	sock.gatherIf(as)
	var b body
	b.u8(attrVersion, protoVersion)
	for _, f := range features {
		b.str(attrFeature, f)
	}
	return sock.write(msgCaps, 0, false, b)
}

// receive handles one message of a packet process.
func (ses *session) receive(m message, as attributes) error {
	switch m.typ {
	case msgStart:
		return ses.start(m.request, as)
	case msgStats:
		return ses.s.sendStats(ses.sock, m.request)
	case msgVerify:
		return ses.verify(m.request, as)
	case msgCryptoIn, msgLocalTP, msgTicket, msgCancel:
	default:
		return protocolError("%v from a packet process", m.typ)
	}
	ses.mu.Lock()
	h := ses.handshakes[m.request]
	ses.mu.Unlock()
	if h == nil {
		// It ended while the message was on its way.
		ses.s.count.unknown.Add(1)
		return nil
	}
	return h.receive(m, as)
}

// sendStats answers STATS.
func (s *Server) sendStats(sock *socket, request uint64) error {
	j, err := json.Marshal(s.Stats())
	if err != nil {
		return err
	}
	var b body
	b.bytes(attrJSON, j)
	return sock.write(msgStats, request, true, b)
}

// start begins a handshake, or refuses it.
func (ses *session) start(id uint64, as attributes) error {
	s := ses.s
	ses.mu.Lock()
	_, dup := ses.handshakes[id]
	ses.mu.Unlock()
	if dup || id == 0 {
		return protocolError("START with the request id %d, which is in use", id)
	}
	s.count.started.Add(1)
	st := s.state.Load()
	h, bad := newServerHandshake(ses, st, id, as)
	limit := int64(st.cfg.maxHandshakes())
	if bad == nil && (s.running.Load() >= limit || s.kept.Load() >= 4*limit) {
		bad = overload(fmt.Sprintf("handshakes at once, at most %d", limit))
	}
	if bad != nil {
		s.count.failed.Add(1)
		h.audit(bad)
		return ses.sock.write(msgDone, id, true, encodeFailure(bad))
	}
	s.running.Add(1)
	s.kept.Add(1)
	ses.mu.Lock()
	ses.handshakes[id] = h
	ses.mu.Unlock()
	ses.wg.Add(1)
	go h.run()
	return nil
}

// forget removes a handshake. It comes before the message that tells the other
// end, which may then use its id no more.
func (ses *session) forget(h *serverHandshake) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.handshakes[h.id] == h {
		delete(ses.handshakes, h.id)
		ses.s.kept.Add(-1)
	}
}

func encodeFailure(e *Error) body {
	var b body
	b.u32(attrStatus, uint32(e.Status))
	b.u8(attrAlert, e.Alert)
	b.str(attrReason, string(e.Reason))
	d := printable(e.Detail)
	b.str(attrDetail, d[:min(len(d), maxDetail)])
	if sum, err := hex.DecodeString(e.Peer); err == nil && len(sum) == sha256.Size {
		b.bytes(attrPeerHash, sum)
		// Escaped, a name may be longer than it was.
		b.str(attrPeerSubject, e.PeerSubject[:min(len(e.PeerSubject), maxDetail)])
		b.str(attrPeerIssuer, e.PeerIssuer[:min(len(e.PeerIssuer), maxDetail)])
		b.str(attrPeerSerial, e.PeerSerial)
	}
	return b
}
