package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway"
	"github.com/quic-fsgw/quic-fsgw/gateway/client"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// otherReading is a TLS that has read another name or protocol in the
// ClientHello than the router: the one disagreement that no input brings about,
// as far as anybody knows.
type otherReading struct {
	quic.Handshaker
	alter func(*quic.TLSState)
}

func (o otherReading) Handshake(req *quic.HandshakeRequest, sink func(quic.HandshakeEvent)) quic.Handshake {
	return o.Handshaker.Handshake(req, func(e quic.HandshakeEvent) {
		if e.Kind == quic.EventDone {
			o.alter(e.TLS)
		}
		sink(e)
	})
}

// Hostile inputs, row 67: the route that a ClientHello was given is checked
// again by what TLS has read in it, and a difference ends the connection before
// a backend hears of it.
func TestHostile67RouteIsCheckedAgain(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	base := newInProcess(t, "127.0.0.1:1", "1")
	closeGateway(t, base.Gateway)
	server := &tls.Config{Certificates: base.server.Certificates}
	for name, tt := range map[string]struct {
		alter func(*quic.TLSState)
		fine  bool
	}{
		"the same":                    {func(*quic.TLSState) {}, true},
		"the same in another case":    {func(s *quic.TLSState) { s.ServerName = strings.ToUpper(s.ServerName) }, true},
		"a name of a stricter route":  {func(s *quic.TLSState) { s.ServerName = "strict.test" }, false},
		"a name of another weak one":  {func(s *quic.TLSState) { s.ServerName = "weak.test" }, false},
		"a name that nobody has":      {func(s *quic.TLSState) { s.ServerName = "nobody.test" }, false},
		"no name":                     {func(s *quic.TLSState) { s.ServerName = "" }, false},
		"another protocol":            {func(s *quic.TLSState) { s.ALPN = "sunrpc" }, false},
		"a protocol that nobody has":  {func(s *quic.TLSState) { s.ALPN = "h3" }, false},
		"no protocol":                 {func(s *quic.TLSState) { s.ALPN = "" }, false},
		"a name with a trailing dots": {func(s *quic.TLSState) { s.ServerName += ".." }, false},
	} {
		t.Run(name, func(t *testing.T) {
			var log syncBuffer
			addr := startReading(t, otherReading{quic.TLS(server), tt.alter}, backend.Addr().String(), &log)
			d := &client.Dialer{Handshaker: quic.TLS(base.client), ServerName: testName}
			defer d.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c, err := d.DialConn(ctx, "smb", "127.0.0.1", addr.Port())
			if tt.fine {
				if err != nil {
					t.Fatal(err)
				}
				s, err := c.OpenStream(ctx)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				await(t, "the connection to be admitted", func() bool { return c.TLS() != nil && c.Err() == nil })
				return
			}
			if err == nil {
				<-c.Done()
				err = c.Err()
			}
			var te *quic.TransportError
			if !errors.As(err, &te) || !te.Remote || uint64(te.Code) != reason.RouteMismatch.Code {
				t.Errorf("the client got %v, want %s", err, reason.RouteMismatch.Name)
			}
			await(t, "the log line", func() bool { return strings.Contains(log.String(), "reason="+reason.RouteMismatch.Name) })
		})
	}
	_ = backend.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if c, err := backend.Accept(); err == nil {
		c.Close()
		t.Error("the backend was dialed")
	}
}

// startReading serves a weak route under the name of the tests, another weak
// one and a strict one, with a TLS of the test's.
func startReading(t *testing.T, h quic.Handshaker, backend string, log *syncBuffer) netip.AddrPort {
	t.Helper()
	return startServing(t, h, backend, log).addr
}

// startServing is startReading, and returns the gateway.
func startServing(t *testing.T, h quic.Handshaker, backend string, log *syncBuffer) *inProcess {
	t.Helper()
	group, err := udp.ListenGroup(netip.MustParseAddrPort("127.0.0.1:0"), 1, udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	addr := group.Sockets()[0].LocalAddr()
	var routes bytes.Buffer
	for _, r := range [][3]string{{"mine", testName, "public"}, {"weak", "weak.test", "public"}, {"strict", "strict.test", "staff"}} {
		fmt.Fprintf(&routes, "  - {name: %s, match: {alpn: smb, server_name: %s}, access: %s, smb: {backends: [%q], probe: {interval: 0s}}}\n", r[0], r[1], r[2], backend)
	}
	cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, `
listen: [{udp: %q}]
tlshd: {certificates: [{names: [files.test, weak.test, strict.test], cert: /none.crt, key: /none.key}], client_ca: [/none.pem]}
access: {staff: {client_certificate: required, allow: [{any: true}]}}
routes:
%s  - {name: rpc, match: {alpn: sunrpc, server_name: files.test}, access: public, nfs: {backends: [%q], probe: {interval: 0s}}}
`, addr, routes.String(), backend))
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(cfg, []gateway.Listener{{Addr: cfg.Listen[0].UDP, Group: group}},
		gateway.Options{Handshaker: h, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	closeGateway(t, g)
	return &inProcess{Gateway: g, addr: addr}
}

// closeGateway ends a gateway at the end of the test.
func closeGateway(t *testing.T, g *gateway.Gateway) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// await waits until ok.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
}
