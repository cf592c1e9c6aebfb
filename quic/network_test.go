package quic

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// A simPair is a client and a server on a simulated network.
type simPair struct {
	testing.TB
	net            *simnet.Net
	client, server *Endpoint
}

var (
	clientHost = netip.MustParseAddr("10.0.0.2")
	serverHost = netip.MustParseAddr("10.0.0.1")
)

func newSimPair(t testing.TB, seed uint64, p simnet.Params, scfg *Config) *simPair {
	t.Helper()
	return newSimPairOn(t, seed, p, scfg, simnet.Options{MaxSegments: 16, GRO: true, ECN: true})
}

// newSimPairOn is newSimPair with sockets of given properties.
func newSimPairOn(t testing.TB, seed uint64, p simnet.Params, scfg *Config, opt simnet.Options) *simPair {
	t.Helper()
	n := simnet.New(seed, p)
	se, err := n.Listen(netip.AddrPortFrom(serverHost, 443), opt)
	if err != nil {
		t.Fatal(err)
	}
	ce, err := n.Listen(netip.AddrPortFrom(clientHost, 5000), opt)
	if err != nil {
		t.Fatal(err)
	}
	before := udp.Outstanding()
	sp := &simPair{TB: t, net: n, server: NewEndpoint([]udp.PacketConn{se}, scfg), client: NewEndpoint([]udp.PacketConn{ce}, nil)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = sp.client.Close(ctx)
		_ = sp.server.Close(ctx)
		_ = n.Close()
		if x := udp.Outstanding(); x != before {
			t.Errorf("%d buffers were not given back", x-before)
		}
		if h := sp.client.held.Load() + sp.server.held.Load(); h != 0 {
			t.Errorf("%d bytes are still charged", h)
		}
	})
	return sp
}

// dial connects, as often as the network needs.
func (sp *simPair) dial(ccfg *Config) (client, server *Conn) {
	sp.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	client, err := sp.client.Dial(ctx, netip.AddrPortFrom(serverHost, 443), ccfg)
	if err != nil {
		sp.Fatalf("Dial: %v", err)
	}
	for {
		server, err = sp.server.Accept(ctx)
		if err != nil {
			sp.Fatalf("Accept: %v", err)
		}
		if server.ID() == client.ID() {
			return client, server
		}
	}
}

// patient is a configuration for networks on which everything takes long.
func patient(cfg *Config) *Config {
	cfg.HandshakeTimeout, cfg.MaxIdleTimeout = 2*time.Minute, 2*time.Minute
	return cfg
}

// exchange sends size bytes both ways on n streams at once, and checks them.
func (sp *simPair) exchange(client, server *Conn, n, size int) {
	sp.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	done := make(chan error, 2*n+1)
	data := func(i uint64, way byte) []byte {
		b := make([]byte, size)
		r := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), way})
		_, _ = r.Read(b)
		return b
	}
	run := func(s *Stream, mine, theirs byte) error {
		go func() {
			_, err := s.ReadFrom(bytes.NewReader(data(s.ID(), mine)))
			if err == nil {
				err = s.CloseWrite()
			}
			if err == nil {
				err = s.Flush(ctx)
			}
			if err != nil {
				err = fmt.Errorf("sending on stream %d: %w", s.ID(), err)
			}
			done <- err
		}()
		got, err := io.ReadAll(s)
		if err != nil {
			return fmt.Errorf("stream %d after %d bytes: %w", s.ID(), len(got), err)
		}
		if !bytes.Equal(got, data(s.ID(), theirs)) {
			return fmt.Errorf("stream %d: %d bytes differ from what was sent", s.ID(), len(got))
		}
		return nil
	}
	finished := make(chan error, 2*n)
	go func() {
		for range n {
			s, err := server.AcceptStream(ctx)
			if err != nil {
				finished <- err
				continue
			}
			go func() { finished <- run(s, 's', 'c') }()
		}
	}()
	for range n {
		s, err := client.OpenStream(ctx)
		if err != nil {
			sp.Fatal(err)
		}
		go func() { finished <- run(s, 'c', 's') }()
	}
	for range 2 * n {
		if err := <-finished; err != nil {
			sp.Errorf("%v (client %v, server %v)", err, client.Err(), server.Err())
			return
		}
	}
	for range 2 * n {
		if err := <-done; err != nil {
			sp.Error(err)
			return
		}
	}
}

// networks are the conditions of TestNetworks. Size is what one stream carries each way.
var networks = []struct {
	name    string
	params  simnet.Params
	streams int
	size    int
	seeds   uint64
}{
	{"clean", simnet.Params{Delay: 10 * time.Millisecond}, 3, 1 << 20, 1},
	{"loss 30 %", simnet.Params{Delay: 5 * time.Millisecond, Loss: 0.3}, 1, 1 << 20, 2},
	{"loss 5 %, many streams", simnet.Params{Delay: 10 * time.Millisecond, Loss: 0.05}, 20, 64 << 10, 3},
	// Runs count datagrams, not time: one of 8 swallows the lone ACKs of nine probes in a row.
	{"loss in bursts", simnet.Params{Delay: 10 * time.Millisecond, Loss: 0.01, LossRun: 4}, 2, 512 << 10, 3},
	{"reordering", simnet.Params{Delay: 10 * time.Millisecond, Reorder: 0.3, ReorderBy: 7 * time.Millisecond}, 3, 256 << 10, 3},
	{"duplication", simnet.Params{Delay: 10 * time.Millisecond, Duplicate: 0.3}, 3, 256 << 10, 2},
	{"corruption", simnet.Params{Delay: 10 * time.Millisecond, Corrupt: 0.1}, 2, 256 << 10, 3},
	{"everything", simnet.Params{Delay: 20 * time.Millisecond, Jitter: 15 * time.Millisecond, Loss: 0.05, Reorder: 0.1, ReorderBy: 30 * time.Millisecond,
		Duplicate: 0.05, Corrupt: 0.02}, 4, 128 << 10, 6},
	{"narrow", simnet.Params{Delay: 30 * time.Millisecond, Rate: 100 << 10, Queue: 20 << 10}, 2, 128 << 10, 2},
	{"small datagrams", simnet.Params{Delay: 10 * time.Millisecond, MTU: 1200}, 2, 256 << 10, 1},
	{"slow", simnet.Params{Delay: 600 * time.Millisecond, Loss: 0.02}, 2, 256 << 10, 2},
	{"CE marks", simnet.Params{Delay: 10 * time.Millisecond, MarkCE: 0.2, ECN: simnet.ECNAllCE}, 2, 128 << 10, 1},
}

func TestNetworks(t *testing.T) {
	for _, n := range networks {
		for seed := range n.seeds {
			t.Run(fmt.Sprintf("%s/seed %d", n.name, seed), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					sp := newSimPair(t, seed, n.params, patient(serverConfig()))
					client, server := sp.dial(patient(clientConfig()))
					sp.exchange(client, server, n.streams, n.size)
				})
			})
		}
	}
}

// Handshakes alone, on a bad network, with and without Retry.
func TestHandshakesOnBadNetworks(t *testing.T) {
	for seed := range uint64(40) {
		bubble(t, func(t *testing.T) {
			scfg := patient(serverConfig())
			if seed%2 == 1 {
				scfg.Retry = RetryAlways
			}
			p := simnet.Params{Delay: 20 * time.Millisecond, Loss: 0.3, Duplicate: 0.2, Reorder: 0.2, ReorderBy: 50 * time.Millisecond}
			sp := newSimPair(t, 1000+seed, p, scfg)
			client, server := sp.dial(patient(clientConfig()))
			sp.exchange(client, server, 1, 10)
		})
	}
}

// A path that swallows everything for five seconds.
func TestBlackout(t *testing.T) {
	for seed := range uint64(3) {
		bubble(t, func(t *testing.T) {
			sp := newSimPair(t, seed, simnet.Params{Delay: 10 * time.Millisecond, Rate: 4 << 20}, patient(serverConfig()))
			client, server := sp.dial(patient(clientConfig()))
			time.AfterFunc(100*time.Millisecond, func() {
				sp.net.Both(clientHost, serverHost, func(p *simnet.Params) { p.Down, p.DropNow = true, true })
			})
			time.AfterFunc(5100*time.Millisecond, func() {
				sp.net.Both(clientHost, serverHost, func(p *simnet.Params) { p.Down = false })
			})
			start := time.Now()
			sp.exchange(client, server, 2, 1<<20)
			if d := time.Since(start); d > 30*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

// The path's datagram size falls below what was found, in the middle of a transfer.
func TestPathShrinks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sp := newSimPair(t, 1, simnet.Params{Delay: 10 * time.Millisecond, Rate: 4 << 20}, patient(serverConfig()))
		client, server := sp.dial(patient(clientConfig()))
		time.AfterFunc(200*time.Millisecond, func() {
			sp.net.Both(clientHost, serverHost, func(p *simnet.Params) { p.MTU = 1250 })
		})
		sp.exchange(client, server, 2, 1<<20)
		if m := client.Stats().MTU; m < 1200 || m > 1250 {
			t.Errorf("MTU %d", m)
		}
	})
}

// A NAT that forgets its mappings again and again, and one that moves to other addresses.
func TestNATRebinding(t *testing.T) {
	for _, move := range []bool{false, true} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("move %v/seed %d", move, seed), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					sp := newSimPair(t, seed, simnet.Params{Delay: 10 * time.Millisecond, Rate: 1 << 20, Loss: 0.01}, patient(serverConfig()))
					outside := netip.MustParseAddr("192.0.2.1")
					nat := sp.net.NAT(clientHost, outside)
					ccfg := patient(clientConfig())
					ccfg.KeepAlive = time.Second // only the client can open the NAT again
					client, server := sp.dial(ccfg)
					stop := make(chan struct{})
					defer close(stop)
					go func() {
						for range 5 {
							select {
							case <-time.After(700 * time.Millisecond):
							case <-stop:
								return
							}
							if outside = outside.Next(); move {
								nat.Move(outside)
							} else {
								nat.Rebind()
							}
						}
					}()
					sp.exchange(client, server, 2, 1<<20)
					if n := server.Stats().PathChanges; n == 0 {
						t.Error("no path change was seen")
					}
				})
			})
		}
	}
}

// Key updates from both ends in the middle of a lossy transfer.
func TestKeyUpdatesUnderLoad(t *testing.T) {
	for seed := range uint64(3) {
		bubble(t, func(t *testing.T) {
			sp := newSimPair(t, seed, simnet.Params{Delay: 10 * time.Millisecond, Loss: 0.05, Reorder: 0.1, ReorderBy: 20 * time.Millisecond, Rate: 1 << 20}, patient(serverConfig()))
			client, server := sp.dial(patient(clientConfig()))
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				rnd := rand.New(rand.NewPCG(seed, 1))
				for {
					select {
					case <-time.After(time.Duration(1+rnd.IntN(100)) * time.Millisecond):
					case <-stop:
						return
					}
					for _, c := range []*Conn{client, server}[:1+rnd.IntN(2)] {
						_ = c.UpdateKeys() // refused while the last one is under way
					}
				}
			}()
			sp.exchange(client, server, 2, 512<<10)
			if n := client.Stats().KeyUpdates; n < 3 {
				t.Errorf("%d key updates", n)
			}
		})
	}
}

// A socket whose send buffer fills up.
func TestSendBufferFills(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := simnet.New(1, simnet.Params{Delay: 10 * time.Millisecond, Rate: 2 << 20, Queue: 1 << 20})
		opt := simnet.Options{MaxSegments: 16, GRO: true, SendBuffer: 16 << 10}
		se, err := n.Listen(netip.AddrPortFrom(serverHost, 443), opt)
		if err != nil {
			t.Fatal(err)
		}
		ce, err := n.Listen(netip.AddrPortFrom(clientHost, 5000), opt)
		if err != nil {
			t.Fatal(err)
		}
		sp := &simPair{TB: t, net: n, server: NewEndpoint([]udp.PacketConn{se}, patient(serverConfig())), client: NewEndpoint([]udp.PacketConn{ce}, nil)}
		client, server := sp.dial(patient(clientConfig()))
		sp.exchange(client, server, 3, 512<<10)
		_ = sp.client.Close(context.Background())
		_ = sp.server.Close(context.Background())
		_ = n.Close()
	})
}

// Datagrams of 64 KiB: every length that a frame can have is met.
func TestHugeDatagrams(t *testing.T) {
	for seed := range uint64(3) {
		bubble(t, func(t *testing.T) {
			scfg, ccfg := patient(serverConfig()), patient(clientConfig())
			opt := simnet.Options{MaxSegments: 16, GRO: true, ECN: true, MTU: udp.MaxPayload}
			sp := newSimPairOn(t, seed, simnet.Params{Delay: time.Millisecond, Loss: float64(seed) * 0.01}, scfg, opt)
			client, server := sp.dial(ccfg)
			sp.exchange(client, server, 5, 1<<20+int(seed)*12345)
			// The probe waits for a window that has room for it beside the data.
			for i := 0; i < 10 && seed == 0 && client.Stats().MTU != 65507; i++ {
				sp.exchange(client, server, 1, 1<<20)
			}
			if m := client.Stats().MTU; seed == 0 && m != 65507 {
				t.Errorf("MTU %d", m)
			}
		})
	}
}
