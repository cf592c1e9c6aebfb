package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/internal/backend"
	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/smb"
)

// serveSMB begins to relay the one stream of an SMB connection.
func (g *Gateway) serveSMB(ctx context.Context, s *session) {
	stream, err := s.firstStream(ctx)
	if err != nil {
		why := reason.NoStream
		if s.conn.Err() != nil {
			why = reason.ClientClosed // it distrusts the server's certificate, say
		}
		s.finish(why.Name, err, smb.CodeTimeout)
		g.over(s)
		return
	}
	relay := *s.route.smb
	relay.Options.Logons = g.throttles.of(s.client)
	relay.Options.Meter = g.meters.of(s)
	relay.Options.Shares = s.route.sharesOf(s.verdict.Load())
	relay.Options.Backends = s.route.backendsOf(s.verdict.Load())
	if s.route.conf.SMB.Proxy == "v2" {
		relay.Options.ProxyHeader = backend.AppendProxy(nil, s.proxyInfo())
	}
	relay.Start(ctx, stream, s.client, func(res smb.Result) { g.endSMB(ctx, s, stream, &res) })
}

// endSMB ends the connection of a session that is over: Samba's client takes no
// notice of FIN or RESET_STREAM when its server is gone.
func (g *Gateway) endSMB(ctx context.Context, s *session, stream *quic.Stream, res *smb.Result) {
	defer g.over(s)
	if res.Backend != "" {
		s.backend.Store(&res.Backend)
	}
	if res.Reason.Orderly() {
		fctx, cancel := context.WithTimeout(ctx, flushTimeout)
		_ = stream.Flush(fctx) // the client may be gone: then there is nobody to tell
		cancel()
	}
	s.finish(res.Reason.String(), res.Err, res.Reason.Code())
	s.outcome.places = res.Shares
}

// noWait is a context that has ended.
var noWait = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// callbacks opens a stream to the client, if it takes one now.
func (s *session) callbacks() (net.Conn, error) {
	stream, err := s.conn.OpenStream(noWait)
	if err != nil { // not a nil *Stream in an interface
		return nil, fmt.Errorf("the client allows no more streams: %w", err)
	}
	return stream, nil
}

// proxyInfo is what a backend is told of the client. Its address is the one
// that its last packets came from and that was validated.
func (s *session) proxyInfo() *backend.ProxyInfo {
	return &backend.ProxyInfo{Source: s.conn.RemoteAddrPort(), Destination: advertised(s.conn), ALPN: s.tls.ALPN, ServerName: s.tls.ServerName}
}

// cleanClose reports a connection that its client closed without an error,
// which is how Samba ends a session.
func cleanClose(err error) bool {
	var te *quic.TransportError
	var ae *quic.ApplicationError
	switch {
	case errors.As(err, &te):
		return te.Remote && te.Code == quic.NoError
	case errors.As(err, &ae):
		return ae.Remote && ae.Code == 0
	}
	return false
}

// firstStream waits for the client's first stream, not for ever.
func (s *session) firstStream(ctx context.Context) (*quic.Stream, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, firstStreamTimeout, errors.New("the client opened no stream in time"))
	defer cancel()
	return s.conn.AcceptStream(ctx)
}

// serveNFS makes the relay of an NFS session and serves its streams.
func (g *Gateway) serveNFS(s *session) {
	relay := s.route.nfs.Relay(nfs.Client{Identity: s.identity, Backends: s.route.backendsOf(s.verdict.Load()), Advertise: advertised(s.conn), Key: s.client, Proxy: s.proxyInfo(), Meter: g.meters.of(s), Callbacks: s.callbacks})
	relay.SetExports(s.route.exportsOf(s.verdict.Load()))
	if s.relay.Store(relay); g.table.Load() != s.route.table {
		g.judgeAgain(s) // a reload since the verdict has not seen the relay
	}
	g.acceptStreams(s)
}

// acceptStreams relays every stream that the client has opened, and comes back
// when there are more. Meanwhile the session is parked.
func (g *Gateway) acceptStreams(s *session) {
	for {
		stream, err := s.conn.AcceptStream(noWait)
		switch {
		case err == nil:
			g.startStream(s, stream)
		case s.conn.Err() != nil:
			g.endNFS(s, reason.ClientClosed)
			return
		case g.ctx.Err() != nil:
			g.endNFS(s, reason.Shutdown)
			return
		default:
			g.park(s)
			return
		}
	}
}

// park leaves a session alone until its client opens a stream or it is over. It
// has no goroutine then, whose stack would be half of what an idle session costs.
func (g *Gateway) park(s *session) {
	s.parked.Store(true)
	s.conn.NotifyStream(func() { g.unpark(s) })
	if g.ctx.Err() != nil {
		g.unpark(s) // Close has not seen it
	}
}

func (g *Gateway) unpark(s *session) {
	if s.parked.CompareAndSwap(true, false) {
		g.acceptStreams(s)
	}
}

// startStream relays a stream on a goroutine of its own.
func (g *Gateway) startStream(s *session, stream *quic.Stream) {
	if !g.meters.openStream(s.meter) {
		stream.CancelRead(nfs.CodeServerBusy)
		stream.CancelWrite(nfs.CodeServerBusy)
		_ = stream.Close()
		g.log.Info("stream refused", "conn", s.conn.ID(), "route", s.route.name, "reason", reason.RPCBusy.Name, "error", "limits.streams_per_client is reached")
		return
	}
	s.serving.Add(1)
	s.streams.Add(1)
	go func() {
		defer s.serving.Done()
		defer s.streams.Add(-1)
		defer g.meters.closeStream(s.meter)
		g.serveRPC(g.ctx, s, s.relay.Load(), stream)
	}()
}

// endNFS closes an NFS session and waits for its streams.
func (g *Gateway) endNFS(s *session, why reason.Reason) {
	s.finish(why.Name, nil, nfs.CodeNoError)
	s.outcome.places = s.relay.Load().Mounted()
	s.serving.Wait()
	g.over(s)
}

func (g *Gateway) serveRPC(ctx context.Context, s *session, relay *nfs.Relay, stream net.Conn) {
	out := relay.ServeStream(ctx, stream)
	if out.Backend != "" {
		s.backend.Store(&out.Backend)
	}
	if out.Err != nil {
		g.log.Info("stream ended", "conn", s.conn.ID(), "route", s.route.name, "reason", reason.OfStream(out.Code).Name, "error", out.Err)
	}
}

// endReason names the end of a connection that its transport brought about.
func endReason(err error) string {
	var idle *quic.IdleTimeoutError
	var reset *quic.StatelessResetError
	var te *quic.TransportError
	switch {
	case errors.As(err, &idle):
		return reason.IdleTimeout.Name
	case errors.As(err, &reset):
		return reason.StatelessReset.Name
	case errors.As(err, &te) && !te.Remote:
		return localReason(te).Name
	case errors.As(err, &te) && te.Code != quic.NoError:
		return reason.ClientError.Name
	}
	return ""
}

// finish records how the session ended and closes its connection.
func (s *session) finish(why string, err error, code uint64) {
	if e := endReason(s.conn.Err()); e != "" {
		why = e
	}
	if by := s.cutBy.Load(); by != nil {
		why = *by
	}
	s.outcome = outcome{reason: why, err: err}
	_ = s.conn.CloseWithError(code, why)
}
