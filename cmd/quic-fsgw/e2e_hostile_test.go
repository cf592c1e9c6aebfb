//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
	"github.com/quic-fsgw/quic-fsgw/smb"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// hostileSite is a gateway with one backend that only counts, for both protocols.
func hostileSite(t *testing.T) (*gatewayProcess, *countingBackend, peer) {
	backend := startCounting(t)
	g := startGateway(t, gatewaySetup{
		Names: []string{sambatest.Host},
		Rest: quietSMB(backend.Addr) + fmt.Sprintf("  - name: nfs\n    match: {alpn: sunrpc, server_name: %s}\n    access: public\n    nfs: {backends: [%q], probe: {interval: 0s}}\n",
			sambatest.Host, backend.Addr),
	})
	return g, backend, peer{ServerName: sambatest.Host, CA: g.Authority.CA}
}

// Hostile inputs, row 53: SMB framing. Whatever does not begin as a session must
// is refused with its code and reason, and no backend hears of it.
func TestHostile53SMBFraming(t *testing.T) {
	g, backend, client := hostileSite(t)
	pid := g.Child(workerWord)
	before, _ := memory(t, pid)
	smb1 := negotiate()
	copy(smb1[4:], "\xffSMB")
	other := negotiate()
	binary.LittleEndian.PutUint16(other[4+12:], 1) // SESSION_SETUP
	frame := func(n uint32, rest ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, n), rest...) }
	for _, tt := range []struct {
		name   string
		send   []byte
		end    bool // the client ends its side then
		reason smb.Reason
	}{
		{"length 0", frame(0, 0, 0, 0, 0), false, smb.ReasonClientFraming},
		{"16 MiB - 1", frame(1<<24-1, []byte("\xfeSMB")...), false, smb.ReasonNotNegotiate},
		{"first octet not 0", append([]byte{0x85}, negotiate()[1:]...), false, smb.ReasonClientFraming},
		{"SMB1", smb1, false, smb.ReasonClientFraming},
		{"not a NEGOTIATE", other, false, smb.ReasonNotNegotiate},
		{"half a header", negotiate()[:3], true, smb.ReasonClientTruncated},
		{"half a message", negotiate()[:40], true, smb.ReasonClientTruncated},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), false, smb.ReasonClientFraming},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mark := g.Log.mark()
			conn := client.mustDial(t, g.Addr)
			s := stream(t, conn)
			if _, err := s.Write(tt.send); err != nil {
				t.Fatal(err)
			}
			if tt.end {
				if err := s.CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			err := ended(t, conn)
			if code, app, ok := remoteCode(err); !ok || !app || code != tt.reason.Code() {
				t.Errorf("the client got %v, want application code %d", err, tt.reason.Code())
			}
			l := g.Log.wait(t, mark, "the end", func(l logLine) bool { return l.Msg == "connection ended" })
			if l.str("reason") != tt.reason.String() {
				t.Errorf("%s, want reason %s", l.Raw, tt.reason)
			}
		})
	}
	if n := backend.count.Load(); n != 0 {
		t.Errorf("the backend was dialed %d times", n)
	}
	if after, _ := memory(t, pid); after > before+16<<20 {
		t.Errorf("the packet process grew from %d to %d MiB", before>>20, after>>20)
	}
	t.Run("pipelined", func(t *testing.T) { pipelined(t, g, backend, client) })
}

// pipelined: what a client sends before it has an answer goes to the backend,
// every octet of it and in order.
func pipelined(t *testing.T, g *gatewayProcess, backend *countingBackend, client peer) {
	s := stream(t, client.mustDial(t, g.Addr))
	two := append(negotiate(), negotiate()...)
	if _, err := s.Write(two); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-backend.conns:
		defer c.Close()
		c.SetDeadline(time.Now().Add(e2eDeadline))
		got := make([]byte, len(two))
		if _, err := io.ReadFull(c, got[:len(two)/2]); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(negotiateAnswer()); err != nil { // the second goes on after it
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, got[len(two)/2:]); err != nil {
			t.Fatal(err)
		}
		if string(got) != string(two) {
			t.Error("the backend got other octets")
		}
	case <-time.After(e2eDeadline):
		t.Fatal("the backend was not dialed")
	}
	if n := backend.count.Load(); n != 1 {
		t.Errorf("the backend was dialed %d times for one session", n)
	}
}

// negotiateAnswer is a server's answer to negotiate, in its frame.
func negotiateAnswer() []byte {
	b := make([]byte, 4+64+64)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	copy(b[4:], "\xfeSMB")
	binary.LittleEndian.PutUint16(b[8:], 64)
	b[4+16] = 1 // flags: a response
	body := b[4+64:]
	binary.LittleEndian.PutUint16(body, 65)
	binary.LittleEndian.PutUint16(body[4:], 0x0302)
	for _, at := range []int{28, 32, 36} { // MaxTransactSize, MaxReadSize, MaxWriteSize
		binary.LittleEndian.PutUint32(body[at:], 8<<20)
	}
	return b
}

// Hostile inputs, row 61: one protocol's octets where the other is spoken.
func TestHostile61ALPNConfusion(t *testing.T) {
	g, backend, client := hostileSite(t)
	rpc := client
	rpc.ALPN = []string{"sunrpc"}
	t.Run("SMB on sunrpc", func(t *testing.T) {
		s := stream(t, rpc.mustDial(t, g.Addr))
		if _, err := s.Write(negotiate()); err != nil {
			t.Fatal(err)
		}
		_, err := io.ReadAll(s)
		var se *quic.StreamError
		if !errors.As(err, &se) || !se.Remote || se.Code != nfs.CodeProtocolViolation {
			t.Errorf("the stream ended with %v, want a reset with code %d", err, nfs.CodeProtocolViolation)
		}
	})
	t.Run("RPC on smb", func(t *testing.T) {
		call := make([]byte, 44) // a NULL call: mark, xid, CALL, version 2, NFS 3, procedure 0, no credentials
		for i, v := range []uint32{1<<31 | 40, 7, 0, 2, 100003, 3, 0} {
			binary.BigEndian.PutUint32(call[4*i:], v)
		}
		conn := client.mustDial(t, g.Addr)
		if _, err := stream(t, conn).Write(call); err != nil {
			t.Fatal(err)
		}
		err := ended(t, conn)
		if code, app, ok := remoteCode(err); !ok || !app || code != smb.CodeProtocol {
			t.Errorf("the client got %v, want application code %d", err, smb.CodeProtocol)
		}
	})
	t.Run("second stream on smb", func(t *testing.T) { secondStream(t, g, client) })
	if n := backend.count.Load(); n != 0 {
		t.Errorf("the backend was dialed %d times", n)
	}
}

// secondStream: a client may not open one, and one that does all the same
// loses the connection.
func secondStream(t *testing.T, g *gatewayProcess, client peer) {
	conn := client.mustDial(t, g.Addr)
	stream(t, conn)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := conn.OpenStream(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second stream: %v", err)
	}
	// A client that reads the limit as it likes.
	liar := spy{alter: func(p *wire.TransportParams) { p.InitialMaxStreamsBidi = 10 }}
	mark := g.Log.mark()
	conn = liar.on(client).mustDial(t, g.Addr)
	stream(t, conn)
	if _, err := stream(t, conn).Write(negotiate()); err != nil {
		t.Fatal(err)
	}
	err := ended(t, conn)
	if code, app, ok := remoteCode(err); !ok || app || code != uint64(quic.StreamLimitError) {
		t.Errorf("the client got %v, want STREAM_LIMIT_ERROR", err)
	}
	l := g.Log.wait(t, mark, "the end", func(l logLine) bool { return l.Msg == "connection ended" && l.str("conn") == conn.ID() })
	if l.str("reason") != reason.Protocol.Name {
		t.Errorf("%s, want reason %s", l.Raw, reason.Protocol.Name)
	}
}
