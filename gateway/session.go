package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/gateway/upcall"
	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// A session is an admitted connection.
type session struct {
	conn    *quic.Conn
	route   *route
	addr    *endpoint
	tls     *quic.TLSState
	verdict atomic.Pointer[access.Verdict]
	policy  *clientPolicy // as it was when the session began
	meter   *clientMeter
	client  string // what limits and stickiness count by
	started time.Time
	backend atomic.Pointer[string]
	outcome outcome

	chain   atomic.Pointer[[][]byte] // as it was verified last
	trusted atomic.Uint64            // the trust's epoch then
	caSet   atomic.Pointer[string]   // and the set of CAs
	ends    *time.Timer              // of its certificates; nil: there are none

	identity *nfs.Identity             // NFS: who the client is to the server; nil: nobody
	relay    atomic.Pointer[nfs.Relay] // NFS: what serves its streams
	streams  atomic.Int64              // NFS: streams being served
	serving  sync.WaitGroup            // the same
	parked   atomic.Bool               // NFS: nobody waits for streams, see park
	cutBy    atomic.Pointer[string]    // why this side has ended it
}

// cut ends a session from this side; its name is what the logs say.
func (s *session) cut(r reason.Reason) {
	s.cutBy.CompareAndSwap(nil, &r.Name)
	if r.Layer == reason.RPC || r.Layer == reason.SMB {
		_ = s.conn.CloseWithError(r.Code, r.Name)
		return
	}
	s.conn.CloseTransport(quic.TransportErrorCode(r.Code), r.Name)
}

// outcome is how a session ended.
type outcome struct {
	reason string
	err    error
	places []string // shares or exports, where they could be seen
}

// flushTimeout bounds the wait for a client to acknowledge the last bytes.
const flushTimeout = 5 * time.Second

// firstStreamTimeout bounds the wait for an admitted client's first stream.
const firstStreamTimeout = 30 * time.Second

// serve takes a connection from the end of TLS to its end.
func (g *Gateway) serve(e *endpoint, c *quic.Conn) {
	s, err := g.admit(e, c)
	if err != nil {
		return
	}
	g.work.Add(1)
	// Judging has made this goroutine's stack four times as large as waiting for
	// the client needs, which may take days.
	go g.relay(s)
}

// relay begins to serve an admitted connection; over is called when it is.
func (g *Gateway) relay(s *session) {
	// The end of the connection ends its streams, and so the bridge, which then
	// knows better how: the context is for the end of the gateway.
	if s.route.smb == nil {
		g.serveNFS(s)
	} else {
		g.serveSMB(g.ctx, s)
	}
}

// over ends a session that relay has begun.
func (g *Gateway) over(s *session) {
	defer g.work.Done()
	g.end(s)
}

// admit judges a connection whose TLS is complete.
func (g *Gateway) admit(e *endpoint, c *quic.Conn) (*session, error) {
	s := &session{conn: c, addr: e, tls: c.TLS(), started: time.Now()}
	s.route, _ = c.Config().Tag.(*route)
	if s.route == nil || s.tls == nil {
		c.CloseTransport(quic.InternalError, "connection without a route")
		return nil, errors.New("no route")
	}
	// The route was picked by our reading of the ClientHello; crypto/tls has read
	// it too, and what it says must lead to the same place under today's rules.
	again, _ := g.find(e.addr, []string{s.tls.ALPN}, s.tls.ServerName)
	if again == nil || again.name != s.route.name {
		g.refuse(s, reason.RouteMismatch, fmt.Errorf("TLS negotiated %q for %q", s.tls.ALPN, s.tls.ServerName))
		return nil, errors.New("route mismatch")
	}
	if again.table != s.route.table {
		// Reloaded during the handshake: what the helper verified may be out of date.
		g.refuse(s, reason.Reloaded, errors.New("the configuration changed during the handshake: connect again"))
		return nil, errors.New("reloaded")
	}
	s.chain.Store(&s.tls.Chain)
	s.trusted.Store(s.tls.TrustEpoch)
	s.caSet.Store(new(string))
	if p, ok := s.route.quic.HandshakeOptions.(*upcall.Policy); ok {
		s.caSet.Store(&p.CASet)
	}
	v := s.route.rule.Evaluate(s.tls.Chain)
	s.verdict.Store(&v)
	g.metrics.verdicts.With(s.route.rule.Name, string(v.Reason)).Inc()
	g.audit(s, &v)
	if !v.Allowed {
		g.refuseLate(s, &v, verdictReason(&v), v.Err)
		return nil, errors.New("denied")
	}
	if s.route.nfs != nil {
		var err error
		if s.identity, err = s.route.identityOf(&v); err != nil {
			g.refuseLate(s, &v, reason.Identity, err)
			return nil, err
		}
	}
	s.policy = s.route.policyOf(&v)
	s.client = clientKey(&v, c.RemoteAddrPort().Addr())
	if err := g.enter(s); err != nil {
		return nil, err
	}
	if err := g.trustEntering(s); err != nil {
		g.end(s)
		return nil, err
	}
	g.metrics.connections.With(s.route.name, "admitted").Inc()
	g.watchEnd(s, &v)
	c.Admit()
	return s, nil
}

// enter makes the session one of those that limits count, that a reload
// judges again and that a drain waits for.
func (g *Gateway) enter(s *session) error {
	if !g.limits.enter(s.client) {
		g.refuse(s, reason.ClientLimit, nil)
		return errors.New("limit")
	}
	s.meter = g.meters.enter(s.client)
	g.mu.Lock()
	draining := g.draining.Load()
	if !draining {
		g.sessions[s] = struct{}{}
		g.memory.busy()
	}
	g.mu.Unlock()
	if draining {
		g.limits.leave(s.client)
		g.meters.leave(s.client)
		g.refuse(s, reason.Draining, nil)
		return errors.New("draining")
	}
	if g.table.Load() != s.route.table {
		// A reload between the verdict and here has not seen this session.
		g.judgeAgain(s)
	}
	return nil
}

// clientKey tells clients apart: by certificate where there is one.
func clientKey(v *access.Verdict, a netip.Addr) string {
	if v.Chain != nil {
		return v.Chain.SHA256
	}
	return sourceName(a)
}

// verdictReason is what a client is told that its access rule does not let in.
func verdictReason(v *access.Verdict) reason.Reason {
	switch v.Reason {
	case access.ReasonNoCertificate:
		return reason.NoClientCertificate
	case access.ReasonBadCertificate:
		return reason.BadClientCertificate
	case access.ReasonDenied:
		return reason.AccessDenied
	}
	return reason.AccessNotAllowed
}

// refuse closes a connection that was not admitted.
func (g *Gateway) refuse(s *session, r reason.Reason, err error) {
	g.logRefused(s, r, err)
	s.conn.CloseTransport(quic.TransportErrorCode(r.Code), r.Name)
}

// refuseLate closes a connection whose client its rule does not let in, which
// hears of it after limits.failure_delay.
func (g *Gateway) refuseLate(s *session, v *access.Verdict, r reason.Reason, err error) {
	g.logRefused(s, r, err)
	c := refusedClient{addr: s.conn.RemoteAddrPort().Addr()}
	if v.Chain != nil {
		c.sha256 = v.Chain.SHA256
	}
	g.refusals.answer(c, maxRefusalWait, func() { s.conn.CloseTransport(quic.TransportErrorCode(r.Code), r.Name) })
}

func (g *Gateway) logRefused(s *session, r reason.Reason, err error) {
	g.metrics.connections.With(s.route.name, r.Name).Inc()
	attrs := append(s.attrs(), slog.String("reason", r.Name))
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	g.log.LogAttrs(g.ctx, slog.LevelWarn, "connection refused", attrs...)
}

// attrs are what every log line about a session says.
func (s *session) attrs() []slog.Attr {
	a := []slog.Attr{
		slog.String("conn", s.conn.ID()), slog.String("route", s.route.name), slog.String("remote", s.conn.RemoteAddrPort().String()),
		slog.String("server_name", fmt.Sprintf("%q", s.tls.ServerName)),
	}
	if v := s.verdict.Load(); v != nil && v.Chain != nil {
		a = append(a, slog.String("client", fmt.Sprintf("%q", v.Chain.Subject)), slog.String("client_sha256", v.Chain.SHA256), slog.String("client_sha1", v.Chain.SHA1))
	}
	return a
}

// end closes what is left of a session and writes the access log.
func (g *Gateway) end(s *session) {
	g.mu.Lock()
	delete(g.sessions, s)
	if len(g.sessions) == 0 {
		g.memory.idle()
		if g.draining.Load() {
			g.closeIdle()
		}
	}
	g.mu.Unlock()
	if s.ends != nil {
		s.ends.Stop()
	}
	g.limits.leave(s.client)
	g.meters.leave(s.client)
	st := s.conn.Stats()
	g.metrics.retire(s.route.name, &st)
	g.metrics.ends.With(s.route.name, s.outcome.reason).Inc()
	attrs := append(s.attrs(), slog.String("reason", s.outcome.reason), slog.Uint64("bytes_in", st.StreamBytesReceived),
		slog.Uint64("bytes_out", st.StreamBytesSent), slog.Duration("duration", time.Since(s.started)))
	if b := s.backend.Load(); b != nil {
		attrs = append(attrs, slog.String("backend", *b))
	}
	if len(s.outcome.places) > 0 {
		attrs = append(attrs, slog.String("places", fmt.Sprintf("%q", s.outcome.places)))
	}
	if s.outcome.err != nil {
		attrs = append(attrs, slog.String("error", s.outcome.err.Error()))
	}
	g.log.LogAttrs(context.Background(), slog.LevelInfo, "connection ended", attrs...)
	if g.opts.Access != nil {
		g.opts.Access.LogAttrs(context.Background(), slog.LevelInfo, "connection", attrs...)
	}
}

// audit writes the verdict on a client.
func (g *Gateway) audit(s *session, v *access.Verdict) {
	if g.opts.Audit == nil {
		return
	}
	attrs := append(s.attrs(), slog.Bool("allowed", v.Allowed), slog.String("reason", string(v.Reason)), slog.String("rule", v.Rule),
		slog.String("entry", v.Entry), slog.Bool("resumed", s.tls.Resumed))
	if v.Chain != nil {
		attrs = append(attrs, slog.String("issuer", fmt.Sprintf("%q", v.Chain.Issuer)), slog.String("serial", v.Chain.Serial),
			slog.Any("tags", g.table.Load().cfg.TagsOf(v.Chain)))
	}
	g.opts.Audit.LogAttrs(context.Background(), slog.LevelInfo, "access", attrs...)
}

// onHandshakeFailure logs a handshake that never became a connection.
func (g *Gateway) onHandshakeFailure(f quic.HandshakeFailure) {
	name := "none"
	if r, ok := f.Tag.(*route); ok {
		name = r.name
	}
	why := failureReason(f.Err).Name
	g.metrics.connections.With(name, why).Inc()
	attrs := []slog.Attr{slog.String("conn", f.ID), slog.String("route", name), slog.String("remote", f.Remote.String()),
		slog.String("reason", why), slog.String("error", f.Err.Error())}
	if r, ok := f.Tag.(*route); ok && r.rule != nil {
		attrs = append(attrs, slog.String("rule", r.rule.Name))
	}
	var bad *tlshd.Error
	if errors.As(f.Err, &bad) && bad.Peer != "" {
		attrs = append(attrs, slog.String("client", fmt.Sprintf("%q", bad.PeerSubject)), slog.String("client_sha256", bad.Peer),
			slog.String("issuer", fmt.Sprintf("%q", bad.PeerIssuer)), slog.String("serial", bad.PeerSerial))
	}
	if f.Hello != nil {
		attrs = append(attrs, slog.String("server_name", fmt.Sprintf("%q", f.Hello.ServerName)), slog.String("alpn", fmt.Sprintf("%q", f.Hello.ALPN)))
	}
	g.log.LogAttrs(g.ctx, slog.LevelWarn, "handshake failed", attrs...)
	if g.opts.Audit != nil {
		g.opts.Audit.LogAttrs(g.ctx, slog.LevelInfo, "handshake", attrs...)
	}
}

// failureReason says why a handshake failed.
func failureReason(err error) reason.Reason {
	var te *quic.TransportError
	var he *quic.HandshakeError
	var ht *quic.HandshakeTimeoutError
	switch {
	case errors.As(err, &ht):
		return reason.HandshakeTimeout
	case errors.As(err, &he):
		return helperReason(he)
	case errors.As(err, &te) && te.Remote && te.Code >= quic.CryptoErrorBase:
		return reason.ClientAlert
	case errors.As(err, &te) && te.Remote && te.Code != quic.NoError:
		return reason.ClientError
	case errors.As(err, &te) && te.Remote:
		return reason.ClientClosed
	case errors.As(err, &te):
		return localReason(te)
	}
	return reason.ClientClosed
}

// helperReason tells a helper that failed from a client that did.
func helperReason(he *quic.HandshakeError) reason.Reason {
	var t *tlshd.Error
	if errors.As(he.Err, &t) {
		switch t.Reason {
		case tlshd.ReasonTimeout:
			return reason.HandshakeTimeout
		case tlshd.ReasonTLS, tlshd.ReasonUnexpected, tlshd.ReasonCryptoExceeded:
			return reason.TLSError
		case tlshd.ReasonNameMismatch:
			return reason.RouteMismatch
		}
	}
	return reason.ByAlert(he.Alert)
}

// localReason is why this end has closed a connection: the phrase it gave the
// peer, or what the code says.
func localReason(te *quic.TransportError) reason.Reason {
	if r, ok := reason.ByName(te.Reason); ok && r.Code == uint64(te.Code) {
		return r
	}
	if te.Code >= quic.CryptoErrorBase {
		return reason.ByAlert(uint8(te.Code - quic.CryptoErrorBase))
	}
	if te.Code == quic.NoError {
		return reason.Shutdown
	}
	return reason.Protocol
}
