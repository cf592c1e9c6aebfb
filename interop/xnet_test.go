package interop

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	xquic "golang.org/x/net/quic"
)

// golang.org/x/net/quic.

type xnetServer struct {
	e *xquic.Endpoint
	u *net.UDPConn
}

func (s *settings) xnetEndpoint(t testing.TB, at netip.AddrPort, cfg *xquic.Config) (*xquic.Endpoint, *net.UDPConn) {
	u := listenUDP(t, at)
	e, err := xquic.NewEndpoint(u, cfg)
	mustNot(t, err, "x/net listen")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = e.Close(ctx)
	})
	return e, u
}

func xnetListen(t testing.TB, at netip.AddrPort, s *settings) server {
	t.Helper()
	cfg := &xquic.Config{TLSConfig: s.serverTLS()}
	if s.xnet != nil {
		s.xnet(cfg)
	}
	e, u := s.xnetEndpoint(t, at, cfg)
	return &xnetServer{e, u}
}

func xnetDial(ctx context.Context, t testing.TB, to netip.AddrPort, s *settings) (conn, error) {
	cfg := &xquic.Config{TLSConfig: s.clientTLS()}
	if s.xnet != nil {
		s.xnet(cfg)
	}
	e, _ := s.xnetEndpoint(t, localFor(to), nil)
	c, err := e.Dial(ctx, "udp", to.String(), cfg)
	if err != nil {
		return nil, err
	}
	return newXnetConn(c), nil
}

func (s *xnetServer) Addr() netip.AddrPort { return s.e.LocalAddr() }

// Kill closes the socket first, so that no CONNECTION_CLOSE gets out.
func (s *xnetServer) Kill() {
	_ = s.u.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.e.Close(ctx)
}

func (s *xnetServer) Accept(ctx context.Context) (conn, error) {
	c, err := s.e.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return newXnetConn(c), nil
}

// An xnetConn sorts accepted streams by direction, which x/net does not.
type xnetConn struct {
	*xquic.Conn
	bidi, uni chan stream
}

func newXnetConn(c *xquic.Conn) conn {
	x := &xnetConn{c, make(chan stream, 4096), make(chan stream, 4096)}
	go func() {
		for {
			s, err := c.AcceptStream(context.Background())
			if err != nil {
				return // the connection is over, as at the latest at the end of the test
			}
			if s.IsReadOnly() {
				x.uni <- xnetStream{s}
			} else {
				x.bidi <- xnetStream{s}
			}
		}
	}()
	return x
}

func take(ctx context.Context, ch chan stream) (stream, error) {
	select {
	case s := <-ch:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *xnetConn) Accept(ctx context.Context) (stream, error)    { return take(ctx, c.bidi) }
func (c *xnetConn) AcceptUni(ctx context.Context) (stream, error) { return take(ctx, c.uni) }

func (c *xnetConn) Open(ctx context.Context) (stream, error) {
	s, err := c.NewStream(ctx)
	if err != nil {
		return nil, err
	}
	return xnetStream{s}, nil
}

func (c *xnetConn) OpenUni(ctx context.Context) (stream, error) {
	s, err := c.NewSendOnlyStream(ctx)
	if err != nil {
		return nil, err
	}
	return xnetStream{s}, nil
}

func (c *xnetConn) Close(code uint64, reason string) {
	c.Abort(&xquic.ConnectionCloseError{Code: code, Reason: reason})
}

func (c *xnetConn) Ended(ctx context.Context) (ended, error) {
	err := c.Wait(ctx)
	if ctx.Err() != nil {
		return ended{}, context.Cause(ctx)
	}
	return xnetEnded(err), nil
}

// xnetEnded reads what x/net tells of transport errors from their texts: the types are not exported.
func xnetEnded(err error) ended {
	var ae *xquic.ConnectionCloseError
	if errors.As(err, &ae) {
		return ended{app: true, code: ae.Code, reason: ae.Reason, remote: true, err: err}
	}
	e := ended{err: err}
	switch {
	case err == nil:
		e.remote = true // NO_ERROR
	case strings.Contains(err.Error(), "idle timeout"):
		e.other = "idle"
	case strings.Contains(err.Error(), "stateless reset"):
		e.other = "reset"
	case strings.HasPrefix(err.Error(), "peer closed connection: "):
		e.remote = true
		e.reason = err.Error()
	}
	return e
}

func (c *xnetConn) TLS() tlsFacts { return stdFacts(c.ConnectionState()) }

type xnetStream struct{ *xquic.Stream }

func (s xnetStream) CloseWrite() error       { return s.Stream.CloseWrite() }
func (s xnetStream) CancelRead(code uint64)  { _ = s.StopSending(code) }
func (s xnetStream) CancelWrite(code uint64) { _ = s.Reset(code) }
func (s xnetStream) Code(err error) (uint64, bool) {
	var se xquic.StreamError
	if errors.As(err, &se) {
		return uint64(se), true
	}
	return 0, false
}

// Read closes the reading direction at its end: x/net keeps a stream, and
// counts it against the peer's limit, until the application closes both.
func (s xnetStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err != nil {
		_ = s.CloseRead()
	}
	return n, err
}
