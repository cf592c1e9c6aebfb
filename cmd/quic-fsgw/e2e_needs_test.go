//go:build linux

package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// What Samba's client needs of a server beyond the specifications. It fails, in
// ways of its own, where one of these is missing.

// spy looks at what passes between a connection and TLS.
type spy struct {
	quic.Handshaker
	alter func(p *wire.TransportParams) // changes the server's parameters on their way to the connection

	tickets atomic.Int64 // bytes of TLS messages after the handshake
	mu      sync.Mutex
	params  wire.TransportParams
}

type spiedHandshake struct {
	quic.Handshake
	spy *spy
}

func (h spiedHandshake) Crypto(level quic.Level, data []byte) {
	if level == quic.LevelApp {
		h.spy.tickets.Add(int64(len(data)))
	}
	h.Handshake.Crypto(level, data)
}

func (s *spy) Handshake(req *quic.HandshakeRequest, sink func(quic.HandshakeEvent)) quic.Handshake {
	return spiedHandshake{s.Handshaker.Handshake(req, func(e quic.HandshakeEvent) {
		if e.Kind == quic.EventPeerTransportParams {
			if p, err := wire.ParseTransportParams(e.Data, true); err == nil {
				s.mu.Lock()
				s.params = p
				s.mu.Unlock()
				if s.alter != nil {
					s.alter(&p)
					e.Data = p.Append(nil, true)
				}
			}
		}
		sink(e)
	}), s}
}

// on makes the peer's connections pass through s.
func (s *spy) on(p peer) peer {
	p.QUIC = func(c *quic.Config) {
		s.Handshaker = c.Handshaker
		c.Handshaker = s
	}
	return p
}

// exchange sends a NEGOTIATE and reads its answer: the session stands, and what
// the gateway sends on admission was sent before.
func exchange(t *testing.T, c *quic.Conn) *quic.Stream {
	t.Helper()
	s := stream(t, c)
	if _, err := s.Write(negotiate()); err != nil {
		t.Fatal(err)
	}
	var head [4]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSMBClientNeeds(t *testing.T) {
	backend := sambatest.Start(t, sambatest.Options{})
	g := startGateway(t, gatewaySetup{
		Names: []string{sambatest.Host},
		Rest: publicSMB(backend.Addr) + fmt.Sprintf("  - name: nfs\n    match: {alpn: sunrpc, server_name: %s}\n    access: public\n    nfs: {backends: [\"127.0.0.1:9\"]}\nquic: {idle_timeout: 3s, keepalive: 500ms}\n",
			sambatest.Host),
	})
	s := &smbSite{gatewayProcess: g, smbd: backend}
	client := peer{ServerName: sambatest.Host, CA: g.Authority.CA}

	t.Run("1 no ticket without session_ticket", func(t *testing.T) {
		// crypto/tls sends the extension only with a cache.
		var without, with spy
		exchange(t, without.on(client).mustDial(t, g.Addr))
		if n := without.tickets.Load(); n != 0 {
			t.Errorf("%d bytes of TLS after the handshake", n)
		}
		cached := client
		cached.TLS = func(c *tls.Config) { c.ClientSessionCache = tls.NewLRUClientSessionCache(1) }
		exchange(t, with.on(cached).mustDial(t, g.Addr))
		if with.tickets.Load() == 0 {
			t.Error("no ticket for a client that asks for one")
		}
		// Samba's ClientHello has psk_key_exchange_modes without session_ticket:
		// a ticket would be its end.
		sambatest.MustSMBClient(t, s.target(t), "ls")
	})
	t.Run("2 windows of 32 MiB on smb only", func(t *testing.T) {
		var onSMB, onRPC spy
		onSMB.on(client).mustDial(t, g.Addr)
		rpc := client
		rpc.ALPN = []string{"sunrpc"}
		onRPC.on(rpc).mustDial(t, g.Addr)
		p := &onSMB.params
		if p.InitialMaxData < 32<<20 || p.InitialMaxStreamDataBidiRemote < 32<<20 {
			t.Errorf("smb: windows of %d and %d", p.InitialMaxData, p.InitialMaxStreamDataBidiRemote)
		}
		if p.InitialMaxStreamsBidi != 1 || p.InitialMaxStreamsUni != 0 {
			t.Errorf("smb: %d bidirectional and %d unidirectional streams", p.InitialMaxStreamsBidi, p.InitialMaxStreamsUni)
		}
		p = &onRPC.params
		if p.InitialMaxData > 8<<20 || p.InitialMaxStreamDataBidiRemote > 8<<20 || p.InitialMaxStreamsBidi < 2 {
			t.Errorf("sunrpc: windows of %d and %d, %d streams", p.InitialMaxData, p.InitialMaxStreamDataBidiRemote, p.InitialMaxStreamsBidi)
		}
	})
	t.Run("5 the server name in any case", func(t *testing.T) {
		upper := client
		upper.ServerName = strings.ToUpper(sambatest.Host)
		exchange(t, upper.mustDial(t, g.Addr))
	})
	t.Run("6 no client certificate asked for", func(t *testing.T) {
		asked := client
		asked.TLS = func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				t.Error("the gateway asked for a certificate")
				return new(tls.Certificate), nil
			}
		}
		exchange(t, asked.mustDial(t, g.Addr))
	})
	t.Run("3 and 4 keepalive, and the end of the backend", func(t *testing.T) { waitingClient(t, s) })
	// 7, no loss that the client would have to repair, is looked at in TestSMBClient.
}

// waitingClient: smbclient sends nothing while it waits for a notification, for
// longer than the idle timeout; it hears of the change, and then, soon, that its
// server is gone.
func waitingClient(t *testing.T, s *smbSite) {
	const idle = 3 * time.Second
	target := s.target(t)
	target.Limit = 30 * time.Second
	waiting := sambatest.StartSMBClient(t, target, "mkdir watched", "notify watched")
	s.transferred(1, 100) // admitted, and the server has answered it
	var id string
	// It is waiting when no more bytes come; from then on for twice the timeout.
	for quiet, last := time.Now(), uint64(0); time.Since(quiet) < 2*idle+idle/2; poll(t) {
		conns := s.Status().Connections
		if len(conns) != 1 {
			t.Fatalf("%d connections while one client waits\n%s", len(conns), s.Log.tail(5))
		}
		id = conns[0].ID
		if n := conns[0].BytesIn; n != last {
			quiet, last = time.Now(), n
		}
	}
	sambatest.MustSMBClient(t, s.target(t), "mkdir watched/news")
	timeout := time.After(e2eDeadline)
	for heard := false; !heard; {
		select {
		case line, ok := <-waiting.Lines:
			if !ok {
				t.Fatal("smbclient ended while it waited")
			}
			heard = strings.Contains(line, "news")
		case <-timeout:
			t.Fatal("smbclient has not heard of the new directory")
		}
	}
	mark, start := s.Log.mark(), time.Now()
	s.smbd.Stop()
	if _, ended := waiting.Wait(5 * time.Second); !ended {
		t.Error("smbclient has not noticed within 5 s that the server is gone")
	}
	l := s.Log.wait(t, mark, "the end of the session", func(l logLine) bool { return l.Msg == "connection ended" && l.str("conn") == id })
	if r := l.str("reason"); !strings.HasPrefix(r, "backend_") {
		t.Errorf("%s", l.Raw)
	}
	t.Logf("smbclient ended %s after its server", time.Since(start).Round(time.Millisecond))
}
