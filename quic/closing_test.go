package quic

import (
	"errors"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

func TestClosingState(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		pto := tc.currentPTO()
		_ = tc.conn.CloseWithError(77, "done")
		f := tc.want(wire.FrameConnectionCloseApp)
		if f.code != 77 || string(f.data) != "done" {
			t.Errorf("got %v %q", f, f.data)
		}
		// RFC 9000, Section 10.2.1: "An endpoint in the closing state sends a packet containing a
		// CONNECTION_CLOSE frame in response to any incoming packet that it attributes to the
		// connection." and "SHOULD limit the rate"
		answers := 0
		for range 100 {
			tc.send(wire.Packet1RTT, ping())
			answers += len(tc.packets())
		}
		if answers == 0 || answers > 10 {
			t.Errorf("%d answers to 100 packets", answers)
		}
		var ae *ApplicationError
		if _, err := s.Read(make([]byte, 1)); !errors.As(err, &ae) || ae.Code != 77 || ae.Remote {
			t.Errorf("Read: %v", err)
		}
		if _, err := tc.conn.OpenStream(tc.conn.Context()); !errors.As(err, &ae) {
			t.Errorf("OpenStream: %v", err)
		}
		if len(tc.ep.Conns()) != 1 {
			t.Error("forgotten before three PTOs")
		}
		tc.wait(3*pto + time.Millisecond)
		if len(tc.ep.Conns()) != 0 {
			t.Error("still there after three PTOs")
		}
		_ = tc.conn.CloseWithError(78, "again") // harmless
		if err := tc.conn.Err(); !errors.As(err, &ae) || ae.Code != 77 {
			t.Errorf("Err() = %v", err)
		}
	})
}

func TestDrainingState(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.send(wire.Packet1RTT, wire.AppendConnectionClose(nil, false, uint64(InternalError), 7, []byte("oops\x00\n")))
		var te *TransportError
		if err := tc.conn.Err(); !errors.As(err, &te) || te.Code != InternalError || !te.Remote || te.FrameType != 7 || te.Reason != "oops\x00\n" {
			t.Errorf("Err() = %v", err)
		}
		// RFC 9000, Section 10.2.2: "While otherwise identical to the closing state, an endpoint in the
		// draining state MUST NOT send any packets."
		for range 20 {
			tc.send(wire.Packet1RTT, ping())
		}
		_ = tc.conn.CloseWithError(1, "too late")
		tc.wait(10 * time.Second)
		for _, p := range tc.packets() {
			if len(p.frames) > 0 {
				t.Errorf("sent %v while draining", p)
			}
		}
		if len(tc.ep.Conns()) != 0 {
			t.Error("still there")
		}
	})
}

func TestLongReasons(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		_ = tc.conn.CloseWithError(1, string(make([]byte, 100000)))
		if f := tc.want(wire.FrameConnectionCloseApp); len(f.data) > 256 {
			t.Errorf("reason of %d bytes", len(f.data))
		}
	})
	either(t, func(t *testing.T, tc *testConn) {
		tc.send(wire.Packet1RTT, wire.AppendConnectionClose(nil, true, 1, 0, make([]byte, 20000)))
		var ae *ApplicationError
		if err := tc.conn.Err(); !errors.As(err, &ae) || len(ae.Reason) > maxReasonLen {
			t.Errorf("reason of %d bytes is kept", len(ae.Reason))
		}
	})
}

// RFC 9000, Section 10.2.3: "A CONNECTION_CLOSE of type 0x1d MUST be replaced by a
// CONNECTION_CLOSE of type 0x1c when sending the frame in Initial or Handshake packets."
func TestApplicationCloseInHandshake(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		tc.flushCrypto()
		tc.feedTLS()
		_ = tc.conn.CloseWithError(77, "secret")
		n := 0
		for _, f := range tc.frames() {
			switch f.typ {
			case wire.FrameConnectionClose:
				n++
				if f.code != uint64(ApplicationErrorCode) || len(f.data) != 0 {
					t.Errorf("got %v %q", f, f.data)
				}
			case wire.FrameConnectionCloseApp:
				t.Errorf("application close in space %v", f.space)
			}
		}
		if n == 0 {
			t.Error("nothing was sent")
		}
	})
}

func TestCloseWithAlert(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.ManualAdmit = true
		tc := newTestServer(t, cfg)
		tc.handshake()
		tc.conn.CloseWithAlert(AlertAccessDenied, "not you")
		f := tc.want(wire.FrameConnectionClose)
		if f.code != 0x131 {
			t.Errorf("closed with %#x", f.code)
		}
		tc.conn.Admit() // harmless
	})
}

func reset(token [16]byte, n int) []byte {
	b := make([]byte, n)
	b[0] = 0x43
	copy(b[n-16:], token[:])
	return b
}

func TestStatelessResetReceived(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		token := [16]byte{1, 2, 3, 4, 5}
		tc.params.ResetToken, tc.params.HasResetToken = token, true
		tc.establish()
		// hostile row 32: a wrong token is ignored
		wrong := token
		wrong[15] ^= 1
		tc.sendRaw(reset(wrong, 60))
		tc.sendRaw(reset(token, 20)) // RFC 9000, Section 10.3: too short
		tc.wantOpen()
		// Section 10.3.1: "An endpoint MUST NOT check for any stateless reset tokens associated with
		// connection IDs it has not used or for connection IDs that have been retired."
		unused := [16]byte{9, 9, 9}
		tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, 1, 0, connID("123456789"), unused))
		tc.sendRaw(reset(unused, 60))
		tc.wantOpen()
		tc.settle()
		tc.sendRaw(reset(token, 60))
		var se *StatelessResetError
		if err := tc.conn.Err(); !errors.As(err, &se) {
			t.Fatalf("Err() = %v", err)
		}
		// "the endpoint MUST enter the draining period and not send any further packets"
		tc.sendRaw(reset(token, 60))
		tc.wait(time.Second)
		tc.wantIdle()
	})
	// addressed to nobody we know: it still ends the connection that has the token
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		token := [16]byte{1, 2, 3, 4, 5}
		tc.params.ResetToken, tc.params.HasResetToken = token, true
		tc.establish()
		b := reset(token, 60)
		copy(b[1:], "somebody-else")
		remote := tc.remote
		tc.remote = addrPort("10.6.6.6:443") // Section 10.3.1: tokens belong to remote addresses
		tc.sendRaw(b)
		tc.wantOpen()
		tc.remote = remote
		tc.sendRaw(b)
		var se *StatelessResetError
		if err := tc.conn.Err(); !errors.As(err, &se) {
			t.Errorf("Err() = %v", err)
		}
	})
}

func TestStatelessResetSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.handshake()
		var other frame
		for _, f := range tc.frames() {
			if f.typ == wire.FrameNewConnectionID {
				other = f
			}
		}
		tc.ack(wire.Packet1RTT)
		tc.conn.CloseTransport(NoError, "")
		tc.wait(5 * time.Second)
		tc.packets()
		if len(tc.ep.Conns()) != 0 {
			t.Fatal("still there")
		}
		tc.dst = other.cid
		tc.send(wire.Packet1RTT, wire.AppendPadding(nil, 200))
		out := tc.wire.take()
		if len(out) != 1 || [16]byte(out[0].data[len(out[0].data)-16:]) != other.token || len(out[0].data) >= 200 {
			t.Fatalf("answer: %v", out)
		}
		// RFC 9000, Section 10.3.3: resets do not loop: each is smaller than what caused it
		n := 0
		for d := out[0].data; ; n++ {
			tc.wire.in <- datagram{data: d, remote: tc.remote}
			tc.read()
			tc.queue = nil
			again := tc.wire.take()
			if len(again) == 0 {
				break
			}
			if len(again[0].data) >= len(d) || n > 50 {
				t.Fatal("resets do not get smaller")
			}
			d = again[0].data
		}
		// hostile row 41: probing for live connections is answered at a limited rate
		for range 1000 {
			tc.send(wire.Packet1RTT, wire.AppendPadding(nil, 200))
		}
		if got := len(tc.packets()); got > 100 {
			t.Errorf("%d resets in no time", got)
		}
	})
}

// Every truncation of a valid packet is dropped, and nothing else happens.
func TestTruncatedPackets(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		b := tc.build(wire.Packet1RTT, streamFrame(tc.peerStream(0, false), 0, []byte("whole"), false))
		for n := range len(b) {
			tc.sendRaw(b[:n]) // zero bytes too: hostile row 30
		}
		for n := range len(b) {
			c := append([]byte(nil), b...)
			c[n] ^= 0x40
			tc.sendRaw(c)
		}
		tc.wantOpen()
		if n := len(tc.conn.streams.all); n != 0 {
			t.Errorf("%d streams", n)
		}
		tc.wait(100 * time.Millisecond)
		tc.queue = nil
		tc.sendRaw(b)
		if n := len(tc.conn.streams.all); n != 1 {
			t.Errorf("%d streams after the whole packet", n)
		}
	})
}

func TestEndpointCloseEndsEverything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		accept := make(chan error, 1)
		go func() { _, err := tc.ep.Accept(tc.conn.Context()); accept <- err }()
		tc.close()
		_, _ = tc.ep.Accept(tc.conn.Context())
		var te *TransportError
		if err := tc.conn.Err(); !errors.As(err, &te) || te.Code != NoError {
			t.Errorf("Err() = %v", err)
		}
		<-accept
		_ = recovery.Initial
	})
}
