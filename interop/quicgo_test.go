package interop

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"testing"

	qgo "github.com/quic-go/quic-go"
)

// quic-go.

type goServer struct {
	tr *qgo.Transport
	ln *qgo.Listener
	u  *net.UDPConn
}

func (s *settings) goParts(t testing.TB, at netip.AddrPort) (*qgo.Transport, *net.UDPConn, *qgo.Config) {
	u := listenUDP(t, at)
	tr := &qgo.Transport{Conn: u}
	if s.goTransport != nil {
		s.goTransport(tr)
	}
	t.Cleanup(func() { _ = tr.Close(); _ = u.Close() })
	cfg := &qgo.Config{}
	if s.goConfig != nil {
		s.goConfig(cfg)
	}
	return tr, u, cfg
}

func goListen(t testing.TB, at netip.AddrPort, s *settings) server {
	t.Helper()
	tr, u, cfg := s.goParts(t, at)
	ln, err := tr.Listen(s.serverTLS(), cfg)
	mustNot(t, err, "quic-go listen")
	return &goServer{tr, ln, u}
}

func goDial(ctx context.Context, t testing.TB, to netip.AddrPort, s *settings) (conn, error) {
	tr, _, cfg := s.goParts(t, localFor(to))
	dial := tr.Dial
	if s.early {
		dial = tr.DialEarly
	}
	c, err := dial(ctx, net.UDPAddrFromAddrPort(to), s.clientTLS(), cfg)
	if err != nil {
		return nil, err
	}
	return goConn{c}, nil
}

func (s *goServer) Addr() netip.AddrPort { return s.u.LocalAddr().(*net.UDPAddr).AddrPort() }

// Kill closes the socket first, so that no CONNECTION_CLOSE gets out.
func (s *goServer) Kill() {
	_ = s.u.Close()
	_ = s.tr.Close()
}

func (s *goServer) Accept(ctx context.Context) (conn, error) {
	c, err := s.ln.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return goConn{c}, nil
}

type goConn struct{ *qgo.Conn }

func (c goConn) Open(ctx context.Context) (stream, error) {
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	return goStream{s, s}, nil
}

func (c goConn) OpenUni(ctx context.Context) (stream, error) {
	s, err := c.OpenUniStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	return goStream{nil, s}, nil
}

func (c goConn) Accept(ctx context.Context) (stream, error) {
	s, err := c.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return goStream{s, s}, nil
}

func (c goConn) AcceptUni(ctx context.Context) (stream, error) {
	s, err := c.AcceptUniStream(ctx)
	if err != nil {
		return nil, err
	}
	return goStream{s, nil}, nil
}

func (c goConn) Close(code uint64, reason string) {
	_ = c.CloseWithError(qgo.ApplicationErrorCode(code), reason)
}

func (c goConn) Ended(ctx context.Context) (ended, error) {
	select {
	case <-c.Context().Done():
		return goEnded(context.Cause(c.Context())), nil
	case <-ctx.Done():
		return ended{}, context.Cause(ctx)
	}
}

func goEnded(err error) ended {
	var ae *qgo.ApplicationError
	var te *qgo.TransportError
	var ie *qgo.IdleTimeoutError
	var re *qgo.StatelessResetError
	var ve *qgo.VersionNegotiationError
	switch {
	case errors.As(err, &ae):
		return ended{app: true, code: uint64(ae.ErrorCode), reason: ae.ErrorMessage, remote: ae.Remote, err: err}
	case errors.As(err, &te):
		return ended{code: uint64(te.ErrorCode), reason: te.ErrorMessage, remote: te.Remote, err: err}
	case errors.As(err, &ie):
		return ended{other: "idle", err: err}
	case errors.As(err, &re):
		return ended{other: "reset", err: err}
	case errors.As(err, &ve):
		return ended{other: "version", err: err}
	}
	return ended{err: err}
}

func (c goConn) TLS() tlsFacts { return stdFacts(c.ConnectionState().TLS) }

func stdFacts(s tls.ConnectionState) tlsFacts {
	f := tlsFacts{alpn: s.NegotiatedProtocol, resumed: s.DidResume, chain: len(s.PeerCertificates)}
	if f.chain > 0 {
		f.leaf = string(s.PeerCertificates[0].Raw)
	}
	return f
}

type goReader interface {
	Read([]byte) (int, error)
	CancelRead(qgo.StreamErrorCode)
}

type goWriter interface {
	Write([]byte) (int, error)
	CancelWrite(qgo.StreamErrorCode)
	Close() error
}

type goStream struct {
	r goReader
	w goWriter
}

func (s goStream) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s goStream) Write(p []byte) (int, error) { return s.w.Write(p) }
func (s goStream) Flush() error                { return nil }
func (s goStream) CloseWrite() error           { return s.w.Close() }
func (s goStream) CancelRead(code uint64)      { s.r.CancelRead(qgo.StreamErrorCode(code)) }
func (s goStream) CancelWrite(code uint64)     { s.w.CancelWrite(qgo.StreamErrorCode(code)) }
func (s goStream) Code(err error) (uint64, bool) {
	var se *qgo.StreamError
	if errors.As(err, &se) && se.Remote {
		return uint64(se.ErrorCode), true
	}
	return 0, false
}
