package smb

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"
)

func TestParseProtection(t *testing.T) {
	for i, s := range []string{"any", "signing", "encryption"} {
		if p, err := ParseProtection(s); err != nil || p != Protection(i) {
			t.Errorf("%s: %d, %v", s, p, err)
		}
	}
	if _, err := ParseProtection("none"); err == nil {
		t.Error("none was accepted")
	}
}

// What the server answers is held against what the route asks for.
func TestProtectionOfServer(t *testing.T) {
	cipher := map[uint16][]byte{ctxEncryption: {1, 0, 2, 0}}
	for _, c := range []struct {
		name string
		want Protection
		resp NegotiateResponse
		bad  bool
	}{
		{"any", ProtectAny, NegotiateResponse{Dialect: Dialect202}, false},
		{"signs", ProtectSigning, NegotiateResponse{Dialect: Dialect210, SigningRequired: true}, false},
		{"need not sign", ProtectSigning, NegotiateResponse{Dialect: Dialect311, Cipher: 2}, true},
		{"3.1.1 with a cipher", ProtectEncryption, NegotiateResponse{Dialect: Dialect311, Cipher: 2}, false},
		{"3.1.1 without", ProtectEncryption, NegotiateResponse{Dialect: Dialect311, Capabilities: capEncryption}, true},
		{"3.0.2 that can", ProtectEncryption, NegotiateResponse{Dialect: Dialect302, Capabilities: capEncryption}, false},
		{"3.0 that cannot", ProtectEncryption, NegotiateResponse{Dialect: Dialect300}, true},
		{"2.1", ProtectEncryption, NegotiateResponse{Dialect: Dialect210, Capabilities: capEncryption}, true},
	} {
		err := c.want.check(&c.resp)
		if (err != nil) != c.bad || err != nil && reasonOf(err, ReasonNone) != ReasonProtection {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// And on the wire: the client gets no answer that it could go on with.
	p := startPeers(t, t.Context(), Options{Protection: ProtectSigning}, func() (net.Conn, net.Conn) { return tcpPair(t) })
	request := negotiateRequest(ProbeConfig{})
	send(t, p.client, request)
	expect(t, p.backend, request)
	send(t, p.backend, negotiateResponse(Dialect311, 0, cipher))
	if r := p.want(t, ReasonProtection); r.DownBytes != 0 {
		t.Errorf("%d bytes of the answer went to the client", r.DownBytes)
	}
}

// Where encryption is asked for, nothing but negotiation and logon passes in the clear.
func TestProtectionOfClient(t *testing.T) {
	for _, c := range []struct {
		name string
		msg  []byte
		ok   bool
	}{
		{"logon", plain(element(header{command: cmdSessionSetup}, make([]byte, 24)...)), true},
		{"encrypted", message("\xfdSMB", 200), true},
		{"tree connect", plain(element(header{command: cmdTreeConnect}, treeConnectBody(`\\h\s`)...)), false},
		{"read", plain(element(header{command: 8}, make([]byte, 49)...)), false},
		{"compressed", message("\xfcSMB", 200), false},
		{"logon with more behind it", plain(element(header{command: cmdSessionSetup}, make([]byte, 24)...), element(header{command: 8}, make([]byte, 48)...)), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPeers(t, t.Context(), Options{Protection: ProtectEncryption, AllowNamedPipes: true}, func() (net.Conn, net.Conn) { return tcpPair(t) })
			p.negotiate(t)
			send(t, p.client, c.msg)
			if !c.ok {
				p.want(t, ReasonProtection)
				return
			}
			expect(t, p.backend, c.msg)
			p.leave(t)
		})
	}
}

// No message may be longer than what was negotiated lets it be.
func TestNegotiatedLength(t *testing.T) {
	const most = 8<<20 + lengthSlack // negotiateResponse has MaxTransact 8 MiB
	for n, want := range map[int]Reason{most: ReasonClientClosed, most + 1: ReasonClientFraming} {
		p := startPeers(t, t.Context(), Options{}, func() (net.Conn, net.Conn) { return tcpPair(t) })
		p.negotiate(t)
		msg := message("\xfdSMB", n)
		go p.client.Write(msg) // an error shows at the other end
		if want != ReasonClientClosed {
			p.want(t, want)
			continue
		}
		expect(t, p.backend, msg)
		p.leave(t)
	}
}

// The shares that a client connects to are in the result.
func TestResultShares(t *testing.T) {
	for _, o := range []Options{{}, {AllowNamedPipes: true}} { // with a rule on trees, and without
		p := startPeers(t, t.Context(), o, func() (net.Conn, net.Conn) { return tcpPair(t) })
		p.negotiate(t)
		for _, path := range []string{`\\h\Data`, `\\h\IPC$`, `\\h\data`} {
			msg := plain(element(header{command: cmdTreeConnect}, treeConnectBody(path)...))
			send(t, p.client, msg)
			expect(t, p.backend, msg)
		}
		if r := p.leave(t); !slices.Equal(r.Shares, []string{"data", "ipc$"}) {
			t.Errorf("shares %q", r.Shares)
		}
	}
}

// A meter hears of every byte and message, and its error ends the session.
func TestMeter(t *testing.T) {
	var bytes, messages atomic.Int64
	enough := errors.New("enough")
	meter := func(_ context.Context, _ string, n, m int) error {
		messages.Add(int64(m))
		if bytes.Add(int64(n)) > 1000 {
			return enough
		}
		return nil
	}
	p := startPeers(t, t.Context(), Options{Meter: meter}, func() (net.Conn, net.Conn) { return tcpPair(t) })
	p.negotiate(t)
	before := messages.Load()
	for range 2 {
		send(t, p.client, message("\xfdSMB", 196))
		expect(t, p.backend, message("\xfdSMB", 196))
		send(t, p.backend, message("\xfdSMB", 96))
		expect(t, p.client, message("\xfdSMB", 96))
	}
	if got := bytes.Load(); got != 600 {
		t.Errorf("%d bytes metered, 600 moved", got)
	}
	send(t, p.client, message("\xfdSMB", 500))
	expect(t, p.backend, message("\xfdSMB", 500))
	if r := p.want(t, ReasonShutdown); !errors.Is(r.Err, enough) {
		t.Errorf("%v", r.Err)
	}
	if got := messages.Load() - before; got < 5 || got > 7 { // NEGOTIATE and its answer may be told with the first
		t.Errorf("%d messages metered", got)
	}
}

// leave ends a session the way a client does.
func (p *peers) leave(t *testing.T) Result {
	t.Helper()
	closeWrite(p.client)
	if _, err := ended(t, p.backend); err != nil {
		t.Errorf("the backend's connection ended with %v", err)
	}
	p.backend.Close()
	return p.want(t, ReasonClientClosed)
}
