package quic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// socket opens another socket of the client's host, watched for its IDs.
func (x *cidTrace) socket(sp *simPair, addr string) *simnet.Endpoint {
	sp.Helper()
	e, err := sp.net.Listen(addrPort(addr), simnet.Options{MaxSegments: 16, GRO: true})
	if err != nil {
		sp.Fatal(err)
	}
	x.watch(e, udp.DefaultConnIDLen)
	return e
}

func closedSocket(e *simnet.Endpoint) bool {
	return errors.Is(e.Send(&udp.SendMsg{Data: []byte("x"), Remote: serverAddr}), net.ErrClosed)
}

// sockets is how many sockets of connections' own an endpoint has.
func (e *Endpoint) sockets() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.moved)
}

// TestMigrateTo moves a client to other ports and addresses while data flows
// both ways. Nobody can tell by the connection IDs that it is the same one, the
// other connections of the endpoint stay, and sockets that were left are closed.
func TestMigrateTo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sp, ids := movingPair(t, serverConfig())
		c, s := sp.dial(clientConfig())
		other, _ := sp.dial(clientConfig())
		time.Sleep(time.Second)
		var left []*simnet.Endpoint
		for i, a := range []string{"10.0.0.2:5001", "10.0.0.33:5000", "10.0.0.2:5002", "10.0.0.34:6000"} {
			pc := ids.socket(sp, a)
			moved := make(chan error, 1)
			go func() {
				time.Sleep(100 * time.Millisecond)
				moved <- c.MigrateTo(context.Background(), pc)
			}()
			sp.exchange(c, s, 2, 1<<20)
			if err := <-moved; err != nil {
				t.Fatal(err)
			}
			sp.exchange(c, s, 1, 1000)
			time.Sleep(10 * time.Second)
			if got := s.RemoteAddrPort(); got != addrPort(a) || c.LocalAddr().String() != a {
				t.Errorf("move to %s: the server sends to %v, the client is at %v", a, got, c.LocalAddr())
			}
			if n := c.Stats().PathChanges; n != uint64(i+1) {
				t.Errorf("%d path changes", n)
			}
			for _, old := range left {
				if !closedSocket(old) {
					t.Errorf("the socket at %v is still open", old.LocalAddr())
				}
			}
			left = append(left, pc)
		}
		ids.unlinkable(t)
		if n := sp.client.sockets(); n != 1 {
			t.Errorf("the endpoint has %d sockets of connections' own", n)
		}
		if got := other.LocalAddr().String(); got != "10.0.0.2:5000" {
			t.Errorf("the other connection is at %v", got)
		}
		c.CloseTransport(NoError, "")
		time.Sleep(time.Minute)
		if n := sp.client.sockets(); n != 0 {
			t.Errorf("the endpoint has %d sockets of a connection that is closed", n)
		}
	})
}

// TestMigrateToFails: the connection stays in its socket when the server is not
// heard in the new one, or the move is not allowed; the new one is closed.
func TestMigrateToFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sp, ids := movingPair(t, serverConfig())
		c, s := sp.dial(clientConfig())
		early := ids.socket(sp, "10.0.0.2:5003")
		c.lock()
		confirmed := c.confirmed
		c.confirmed = false
		c.unlock()
		if err := c.MigrateTo(context.Background(), early); !errors.Is(err, errMigrateEarly) {
			t.Errorf("before the handshake is confirmed: %v", err)
		}
		c.lock()
		c.confirmed = confirmed
		c.unlock()
		time.Sleep(time.Second)

		away := ids.socket(sp, "10.0.0.44:5000")
		sp.net.Both(away.LocalAddr().Addr(), serverHost, func(p *simnet.Params) { p.Loss = 1 })
		if err := c.MigrateTo(context.Background(), away); !errors.Is(err, ErrPathFailed) {
			t.Errorf("to nowhere: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		slow := ids.socket(sp, "10.0.0.44:5001")
		if err := c.MigrateTo(ctx, slow); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("in no time: %v", err)
		}
		v6 := ids.socket(sp, "[fd00::1]:5000")
		if err := c.MigrateTo(context.Background(), v6); err == nil {
			t.Error("moved to another address family")
		}
		mine := ids.socket(sp, "10.0.0.11:5000")
		if err := s.MigrateTo(context.Background(), mine); !errors.Is(err, errMigrateServer) {
			t.Errorf("a server: %v", err)
		}
		sp.exchange(c, s, 2, 100<<10)
		if got := s.RemoteAddrPort(); got != addrPort("10.0.0.2:5000") {
			t.Errorf("the server sends to %v", got)
		}
		for _, e := range []*simnet.Endpoint{early, away, slow, v6, mine} {
			if !closedSocket(e) {
				t.Errorf("the socket at %v is still open", e.LocalAddr())
			}
		}
	})
}

// TestMigrateOverSockets moves between real sockets of the loopback interface,
// ports and addresses, while data flows.
func TestMigrateOverSockets(t *testing.T) {
	ctx := testContext(t)
	listen := func(addr string) *udp.Socket {
		s, err := udp.ListenOne(netip.MustParseAddrPort(addr), udp.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	se := NewEndpoint([]udp.PacketConn{listen("127.0.0.1:0")}, serverConfig())
	ce := NewEndpoint([]udp.PacketConn{listen("127.0.0.1:0")}, nil)
	t.Cleanup(func() { _, _ = ce.Close(ctx), se.Close(ctx) })
	client, err := ce.Dial(ctx, se.LocalAddr(), clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	server, err := se.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		to := listen(fmt.Sprintf("127.0.0.%d:0", 1+i))
		moved := make(chan error, 1)
		go func() {
			err := client.MigrateTo(ctx, to)
			for errors.Is(err, errMigrateEarly) || errors.Is(err, errMigrateNoID) { // IDs come with the next packets
				to = listen(fmt.Sprintf("127.0.0.%d:0", 1+i))
				err = client.MigrateTo(ctx, to)
			}
			moved <- err
		}()
		move(t, ctx, client, server, 8<<20)
		if err := <-moved; err != nil {
			t.Fatal(err)
		}
		// The server answers at once, and says so when it has validated the path.
		for {
			move(t, ctx, client, server, 1<<20)
			got := server.RemoteAddrPort()
			if got == to.LocalAddr() {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("the server sends to %v, the client is at %v", got, to.LocalAddr())
			}
		}
	}
}
