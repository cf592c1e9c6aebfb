package quic

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestClientCloseIsFullSize: a client that gives up before it has Handshake
// keys says so in an Initial of 1200 bytes, which a server may not discard.
func TestClientCloseIsFullSize(t *testing.T) {
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	e := newLoopback(t, nil)
	ctx, cancel := context.WithCancel(testContext(t))
	dialed := make(chan error, 1)
	go func() {
		_, err := e.Dial(ctx, u.LocalAddr().(*net.UDPAddr).AddrPort(), clientConfig())
		dialed <- err
	}()
	_ = u.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 2000)
	if _, err := u.Read(b); err != nil {
		t.Fatal(err)
	}
	c := e.Conns()[0]
	long := &TransportError{Code: InternalError, Reason: strings.Repeat("x", 1000)}
	c.lock()
	packet := c.buildClose(long)
	c.mu.Unlock()
	if h, err := wire.ParseLong(packet); err != nil || h.Type != wire.PacketInitial || len(packet) != minDatagram {
		t.Errorf("close packet of %d bytes: %v", len(packet), err)
	}
	cancel()
	if err := <-dialed; !errors.Is(err, context.Canceled) {
		t.Errorf("dial: %v", err)
	}
}
