package interop

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	qgo "github.com/quic-go/quic-go"
	xquic "golang.org/x/net/quic"
)

// The three implementations behind one face. Each has a server and a client;
// settings hold what a test wants of each.
type settings struct {
	server, client *tls.Config // nil: serverTLS(false), clientTLS(false)
	fsgw           func(*quic.Config)
	goConfig       func(*qgo.Config)
	goTransport    func(*qgo.Transport)
	xnet           func(*xquic.Config)
	early          bool // the client sends 0-RTT if it can
	// between is put between the ends where it is not nil.
	between *faults
}

// ended is how a connection ended, in terms all three share.
type ended struct {
	app    bool // an application code
	code   uint64
	reason string
	remote bool
	other  string // not by CONNECTION_CLOSE: "idle", "reset", "version", "handshake"
	err    error
}

type conn interface {
	Open(ctx context.Context) (stream, error)
	OpenUni(ctx context.Context) (stream, error)
	Accept(ctx context.Context) (stream, error)
	AcceptUni(ctx context.Context) (stream, error)
	Close(code uint64, reason string)
	// Ended waits until the connection is over.
	Ended(ctx context.Context) (ended, error)
	TLS() tlsFacts
}

// tlsFacts is what both ends must agree on.
type tlsFacts struct {
	alpn    string
	chain   int // length of the peer's certificate chain
	leaf    string
	resumed bool
}

type stream interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
	// Flush hands over what an implementation buffers.
	Flush() error
	CloseWrite() error
	CancelRead(code uint64)
	CancelWrite(code uint64)
	// Code takes the peer's code out of an error of Read or Write.
	Code(err error) (code uint64, ok bool)
}

// A server accepts connections at an address.
type server interface {
	Addr() netip.AddrPort
	Accept(ctx context.Context) (conn, error)
	// Kill stops without a word to the clients; it may be called twice.
	Kill()
}

// A stack is one implementation.
type stack struct {
	name   string
	listen func(t testing.TB, at netip.AddrPort, s *settings) server
	dial   func(ctx context.Context, t testing.TB, to netip.AddrPort, s *settings) (conn, error)
}

var (
	fsgw = stack{"fsgw", fsgwListen, fsgwDial}
	qg   = stack{"quic-go", goListen, goDial}
	xn   = stack{"x-net", xnetListen, xnetDial}
)

// pairs are client and server; one is always ours.
var pairs = []struct{ client, server stack }{{qg, fsgw}, {fsgw, qg}, {xn, fsgw}, {fsgw, xn}}

// onPairs runs a test on all pairs.
func onPairs(t *testing.T, f func(t *testing.T, client, server stack)) {
	t.Parallel()
	for _, p := range pairs {
		t.Run(p.client.name+"_to_"+p.server.name, func(t *testing.T) {
			t.Parallel()
			f(t, p.client, p.server)
		})
	}
}

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func testCtx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect returns both ends of a new connection and the proxy, if there is one.
func connect(t testing.TB, client, srv stack, s *settings) (c, d conn, p *proxy) {
	t.Helper()
	ctx := testCtx(t)
	ln := srv.listen(t, loopback, s)
	to := ln.Addr()
	if s.between != nil {
		p = newProxy(t, to, *s.between)
		to = p.Addr()
	}
	c, err := client.dial(ctx, t, to, s)
	mustNot(t, err, "dial")
	d, err = ln.Accept(ctx)
	mustNot(t, err, "accept")
	return c, d, p
}

func (s *settings) serverTLS() *tls.Config {
	if s.server != nil {
		return s.server
	}
	return serverTLS(false)
}

func (s *settings) clientTLS() *tls.Config {
	if s.client != nil {
		return s.client
	}
	return clientTLS(false)
}

func listenUDP(t testing.TB, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	mustNot(t, err, "listen")
	_ = u.SetReadBuffer(4 << 20)
	_ = u.SetWriteBuffer(4 << 20)
	return u
}

// Ours.

type fsgwServer struct {
	*quic.Endpoint
	sock *udp.Socket
}

func (s *settings) fsgwConfig(tc *tls.Config) *quic.Config {
	cfg := &quic.Config{Handshaker: quic.TLS(tc), NextProtos: tc.NextProtos, ServerName: tc.ServerName}
	if s.fsgw != nil {
		s.fsgw(cfg)
	}
	return cfg
}

func fsgwEndpoint(t testing.TB, at netip.AddrPort, cfg *quic.Config) (*quic.Endpoint, *udp.Socket) {
	t.Helper()
	sock, err := udp.ListenOne(at, udp.Config{})
	mustNot(t, err, "listen")
	e := quic.NewEndpoint([]udp.PacketConn{sock}, cfg)
	t.Cleanup(func() { closeEndpoint(e, 50*time.Millisecond) })
	return e, sock
}

func closeEndpoint(e *quic.Endpoint, wait time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	_ = e.Close(ctx)
}

func fsgwListen(t testing.TB, at netip.AddrPort, s *settings) server {
	e, sock := fsgwEndpoint(t, at, s.fsgwConfig(s.serverTLS()))
	return fsgwServer{e, sock}
}

func fsgwDial(ctx context.Context, t testing.TB, to netip.AddrPort, s *settings) (conn, error) {
	e, _ := fsgwEndpoint(t, localFor(to), nil)
	dial := e.Dial
	if s.early {
		dial = e.DialEarly
	}
	c, err := dial(ctx, to, s.fsgwConfig(s.clientTLS()))
	if err != nil {
		return nil, err
	}
	return fsgwConn{c}, nil
}

func (s fsgwServer) Addr() netip.AddrPort { return s.LocalAddr() }

// Kill closes the socket first, so that no CONNECTION_CLOSE gets out.
func (s fsgwServer) Kill() {
	_ = s.sock.Close()
	closeEndpoint(s.Endpoint, 0)
}

func (s fsgwServer) Accept(ctx context.Context) (conn, error) {
	c, err := s.Endpoint.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return fsgwConn{c}, nil
}

type fsgwConn struct{ *quic.Conn }

func fsgwWrap(s *quic.Stream, err error) (stream, error) {
	if err != nil {
		return nil, err
	}
	return fsgwStream{s}, nil
}

func (c fsgwConn) Open(ctx context.Context) (stream, error)    { return fsgwWrap(c.OpenStream(ctx)) }
func (c fsgwConn) OpenUni(ctx context.Context) (stream, error) { return fsgwWrap(c.OpenUniStream(ctx)) }
func (c fsgwConn) Accept(ctx context.Context) (stream, error)  { return fsgwWrap(c.AcceptStream(ctx)) }
func (c fsgwConn) AcceptUni(ctx context.Context) (stream, error) {
	return fsgwWrap(c.AcceptUniStream(ctx))
}
func (c fsgwConn) Close(code uint64, reason string) { _ = c.CloseWithError(code, reason) }

func (c fsgwConn) Ended(ctx context.Context) (ended, error) {
	select {
	case <-c.Done():
		return fsgwEnded(c.Err()), nil
	case <-ctx.Done():
		return ended{}, context.Cause(ctx)
	}
}

func fsgwEnded(err error) ended {
	var ae *quic.ApplicationError
	var te *quic.TransportError
	var ie *quic.IdleTimeoutError
	var re *quic.StatelessResetError
	var ve *quic.VersionError
	var he *quic.HandshakeError
	switch {
	case errors.As(err, &ae):
		return ended{app: true, code: ae.Code, reason: ae.Reason, remote: ae.Remote, err: err}
	case errors.As(err, &te):
		return ended{code: uint64(te.Code), reason: te.Reason, remote: te.Remote, err: err}
	case errors.As(err, &ie):
		return ended{other: "idle", err: err}
	case errors.As(err, &re):
		return ended{other: "reset", err: err}
	case errors.As(err, &ve):
		return ended{other: "version", err: err}
	case errors.As(err, &he):
		return ended{other: "handshake", code: uint64(he.Alert), err: err}
	}
	return ended{err: err}
}

func (c fsgwConn) TLS() tlsFacts {
	s := c.Conn.TLS()
	f := tlsFacts{alpn: s.ALPN, resumed: s.Resumed, chain: len(s.Chain)}
	if f.chain > 0 {
		f.leaf = string(s.Chain[0])
	}
	return f
}

type fsgwStream struct{ *quic.Stream }

func (s fsgwStream) Flush() error { return nil }
func (s fsgwStream) Code(err error) (uint64, bool) {
	var se *quic.StreamError
	ok := errors.As(err, &se) && se.Remote
	if !ok {
		return 0, false
	}
	return se.Code, true
}
