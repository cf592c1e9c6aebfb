package quic

import (
	"context"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// searchFor runs a search over a path that carries up to passes bytes, of which
// the interface lets up to iface out, and returns where it ended.
func searchFor(limit, passes, iface int) (mtu int, probes []int) {
	now := time.Unix(1000, 0)
	s := mtuSearch{limit: limit, carried: 1 << 30}
	mtu = minDatagram
	s.advance(mtu, now)
	for s.due(mtu, now) {
		switch {
		case s.size > iface:
			s.ceiling = s.size
			s.advance(mtu, now)
		case s.size <= passes:
			probes = append(probes, s.size)
			mtu = s.size
			s.advance(mtu, now)
		default:
			probes = append(probes, s.size)
			if s.tries++; s.tries >= maxMTUProbes {
				s.ceiling = s.size
				s.advance(mtu, now)
			}
		}
		if len(probes) > 100 {
			break
		}
	}
	return mtu, probes
}

func TestMTUSearch(t *testing.T) {
	for _, c := range []struct {
		name                 string
		limit, passes, iface int
		least                int
	}{
		{"loopback", maxDatagramSize, maxDatagramSize, maxDatagramSize, maxDatagramSize},
		{"loopback, IPv6", maxDatagramIPv6, maxDatagramIPv6, maxDatagramIPv6, maxDatagramIPv6},
		{"Ethernet", maxDatagramSize, 1472, 1472, 1452},
		{"Ethernet, IPv6", maxDatagramIPv6, 1452, 1452, 1452},
		{"PPPoE", maxDatagramSize, 1464, 1472, 1452},
		{"a tunnel", maxDatagramSize, 1392, 1472, 1372},
		{"nothing more than the least", maxDatagramSize, 1200, 1472, 1200},
		{"jumbo", maxDatagramSize, 8972, 8972, 8952},
		{"a jumbo interface on an ordinary path", maxDatagramSize, 1472, 8972, 1452},
		{"jumbo of an odd size", maxDatagramSize, 4000, 8972, 3940},
		{"exactly what was asked for", 1400, 1472, 1472, 1400},
		{"asked for more than there is", 1452, 1400, 1472, 1380},
		{"asked for 65000", 65000, maxDatagramSize, maxDatagramSize, 65000},
	} {
		mtu, probes := searchFor(c.limit, c.passes, c.iface)
		if mtu < c.least || mtu > min(c.limit, c.passes) {
			t.Errorf("%s: found %d of %d bytes, by probes of %v", c.name, mtu, c.passes, probes)
		}
		if len(probes) > 40 || !slices.Contains(probes, mtu) && mtu > minDatagram {
			t.Errorf("%s: %d probes: %v", c.name, len(probes), probes)
		}
	}
}

// RFC 8899, Section 5.1.1: PMTU_RAISE_TIMER, "The default is 600 s".
func TestMTURaiseTimer(t *testing.T) {
	now := time.Unix(1000, 0)
	s := mtuSearch{limit: 1472, ceiling: 1300}
	s.advance(1299, now)
	if s.due(1299, now.Add(mtuRaiseTimer-1)) {
		t.Error("probes before the timer")
	}
	if !s.due(1299, now.Add(mtuRaiseTimer)) || s.size != defaultMaxDatagram {
		t.Errorf("after the timer: probes for %d", s.size)
	}
	// what was reached in full is not probed again
	s.advance(1472, now)
	if s.due(1472, now.Add(time.Hour)) {
		t.Error("probes for more than the limit")
	}
}

// mtuPair is a pair whose interfaces take up to iface bytes.
func mtuPair(t *testing.T, seed uint64, iface int, p simnet.Params) *simPair {
	return newSimPairOn(t, seed, p, patient(serverConfig()), simnet.Options{MaxSegments: 64, GRO: true, ECN: true, MTU: iface})
}

func (sp *simPair) setMTU(n int) {
	sp.net.Both(clientHost, serverHost, func(p *simnet.Params) { p.MTU = n })
}

func TestMTUGrowsToJumbo(t *testing.T) {
	for _, c := range []struct{ iface, path, least int }{{8972, 8972, 8952}, {8972, 1472, 1452}, {65507, 65507, 65507}, {8972, 4052, 3990}} {
		bubble(t, func(t *testing.T) {
			sp := mtuPair(t, 1, c.iface, simnet.Params{Delay: time.Millisecond, MTU: c.path})
			client, server := sp.dial(patient(clientConfig()))
			for range 12 {
				sp.exchange(client, server, 1, 1<<20)
			}
			for _, conn := range []*Conn{client, server} {
				st := conn.Stats()
				if st.MTU < c.least || st.MTU > c.path || st.BlackHoles != 0 {
					t.Errorf("interface %d, path %d: MTU %d, %d black holes", c.iface, c.path, st.MTU, st.BlackHoles)
				}
				// RFC 9000, Section 14.4: lost probes are no sign of congestion
				if st.PacketsLost > 1 || st.GSOFallbacks != 0 { // one: sent with keys that the server has dropped
					t.Errorf("interface %d, path %d: %d packets lost, %d GSO fallbacks", c.iface, c.path, st.PacketsLost, st.GSOFallbacks)
				}
			}
		})
	}
}

// A path of jumbo frames turns into one that swallows them, in the middle of a
// transfer, and back.
func TestMTUBlackHole(t *testing.T) {
	for seed := range uint64(4) {
		bubble(t, func(t *testing.T) {
			sp := mtuPair(t, seed, 8972, simnet.Params{Delay: 5 * time.Millisecond, Rate: 20 << 20, MTU: 8972})
			client, server := sp.dial(patient(clientConfig()))
			for range 4 {
				sp.exchange(client, server, 1, 1<<20)
			}
			if m := client.Stats().MTU; m < jumboDatagram {
				t.Fatalf("MTU %d before", m)
			}
			time.AfterFunc(50*time.Millisecond, func() { sp.setMTU(1372) })
			start := time.Now()
			sp.exchange(client, server, 1, 8<<20)
			took := time.Since(start)
			sp.exchange(client, server, 1, 1<<20)
			for _, conn := range []*Conn{client, server} {
				st := conn.Stats()
				if st.MTU < 1340 || st.MTU > 1372 || st.BlackHoles == 0 || st.BlackHoles > 2 {
					t.Errorf("MTU %d, %d black holes", st.MTU, st.BlackHoles)
				}
				if st.GSOFallbacks != 0 {
					t.Error("batches were blamed")
				}
			}
			if took > 10*time.Second {
				t.Errorf("the transfer took %v", took)
			}
			// the path recovers: found when the timer has passed
			sp.setMTU(8972)
			time.Sleep(mtuRaiseTimer / 20)
			sp.exchange(client, server, 1, 2<<20)
			if m := client.Stats().MTU; m > 1372 {
				t.Errorf("MTU %d before the timer", m)
			}
			for range 25 { // within the idle timeout
				time.Sleep(mtuRaiseTimer / 20)
				sp.exchange(client, server, 1, 1<<10)
			}
			for range 4 {
				sp.exchange(client, server, 1, 1<<20)
			}
			if m := client.Stats().MTU; m < jumboDatagram {
				t.Errorf("MTU %d after the path recovered", m)
			}
		})
	}
}

// Small packets go on while full-size ones vanish: no probe timeout tells of it.
func TestMTUBlackHoleBesideSmallPackets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sp := mtuPair(t, 1, 1452, simnet.Params{Delay: 20 * time.Millisecond})
		client, server := sp.dial(patient(clientConfig()))
		sp.exchange(client, server, 1, 100<<10)
		sp.setMTU(1250)
		ctx := context.Background()
		go func() { // a stream of small messages
			s, err := client.OpenUniStream(ctx)
			for err == nil {
				time.Sleep(5 * time.Millisecond)
				_, err = s.Write(pattern(0, 100))
			}
		}()
		go func() {
			s, err := server.AcceptUniStream(ctx)
			if err == nil {
				_, _ = io.Copy(io.Discard, s)
			}
		}()
		start := time.Now()
		sp.exchange(client, server, 1, 200<<10)
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("took %v", d)
		}
		if st := client.Stats(); st.MTU > 1250 || st.BlackHoles == 0 {
			t.Errorf("MTU %d, %d black holes", st.MTU, st.BlackHoles)
		}
		_ = client.CloseWithError(0, "")
	})
}

// Random loss and congestion are not taken for a black hole.
func TestMTULossIsNoBlackHole(t *testing.T) {
	for seed := range uint64(4) {
		bubble(t, func(t *testing.T) {
			sp := mtuPair(t, seed, 1452, simnet.Params{Delay: 10 * time.Millisecond, Loss: 0.05, Rate: 2 << 20, Queue: 32 << 10})
			client, server := sp.dial(patient(clientConfig()))
			sp.exchange(client, server, 2, 2<<20)
			for _, conn := range []*Conn{client, server} {
				if st := conn.Stats(); st.MTU != 1452 || st.BlackHoles != 0 || st.GSOFallbacks != 0 {
					t.Errorf("MTU %d, %d black holes, %d GSO fallbacks, %d packets lost", st.MTU, st.BlackHoles, st.GSOFallbacks, st.PacketsLost)
				}
			}
		})
	}
}

// Probes that the interface refuses are neither in flight nor lost.
func TestMTURefusedProbes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.wire.setRefuse(func(m *udp.SendMsg) error {
			if len(m.Data) > 1300 && m.SegmentSize == 0 {
				return udp.ErrMessageTooLong
			}
			return nil
		})
		tc.establish()
		for range 20 {
			tc.wait(20 * time.Millisecond)
			tc.read()
			tc.queue = nil
			tc.send(wire.Packet1RTT, tc.ackFrame(recovery.AppData), ping())
		}
		st := tc.conn.Stats()
		if st.MTU < 1280 || st.MTU > 1300 || st.PacketsLost != 0 || st.BytesInFlight != 0 {
			t.Errorf("MTU %d, %d packets lost, %d bytes in flight", st.MTU, st.PacketsLost, st.BytesInFlight)
		}
	})
}

// A kernel that ruins batches: single datagrams arrive, batches do not.
func TestGSOFaultFound(t *testing.T) {
	for name, ruin := range map[string]func(b []byte, seg int) []byte{
		"all lost":            func([]byte, int) []byte { return nil },
		"all but the first":   func(b []byte, seg int) []byte { return b[:seg] },
		"contents are ruined": func(b []byte, seg int) []byte { corrupt(b); return b },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				sp := newSimPair(t, 1, simnet.Params{Delay: 5 * time.Millisecond}, patient(serverConfig()))
				client, server := sp.dialVia(patient(clientConfig()), func(pc udp.PacketConn) udp.PacketConn {
					return &faultyGSO{PacketConn: pc, ruin: ruin}
				})
				start := time.Now()
				sp.exchange(client, server, 1, 1<<20)
				if d := time.Since(start); d > 20*time.Second {
					t.Errorf("took %v", d)
				}
				if st := client.Stats(); st.GSOFallbacks != 1 || st.BlackHoles != 0 {
					t.Errorf("%d GSO fallbacks, %d black holes, MTU %d", st.GSOFallbacks, st.BlackHoles, st.MTU)
				}
				if st := server.Stats(); st.GSOFallbacks != 0 {
					t.Error("the peer, whose batches arrive, has given them up")
				}
			})
		})
	}
}

// faultyGSO is a socket that ruins what it sends in batches.
type faultyGSO struct {
	udp.PacketConn
	ruin func(b []byte, seg int) []byte
}

func (f *faultyGSO) Send(m *udp.SendMsg) error {
	if m.SegmentSize <= 0 || m.SegmentSize >= len(m.Data) {
		return f.PacketConn.Send(m)
	}
	bad := *m
	bad.Data = f.ruin(slices.Clone(m.Data), m.SegmentSize)
	m.Sent = len(m.Data)
	if len(bad.Data) == 0 {
		return nil
	}
	return f.PacketConn.Send(&bad)
}

func corrupt(b []byte) {
	for i := 0; i < len(b); i += 97 {
		b[i] ^= 0x55
	}
}

// dialVia is dial from another socket, which wrap stands in front of.
func (sp *simPair) dialVia(ccfg *Config, wrap func(udp.PacketConn) udp.PacketConn) (client, server *Conn) {
	sp.Helper()
	pc, err := sp.net.Listen(netip.AddrPortFrom(clientHost, 6000), simnet.Options{MaxSegments: 16, GRO: true, ECN: true})
	if err != nil {
		sp.Fatal(err)
	}
	ep := NewEndpoint([]udp.PacketConn{wrap(pc)}, nil)
	sp.Cleanup(func() { _ = ep.Close(context.Background()) })
	own := sp.client
	sp.client = ep
	defer func() { sp.client = own }()
	return sp.dial(ccfg)
}

// Over the real loopback interface the search reaches what it carries.
func TestMTUOnLoopback(t *testing.T) {
	for addr, want := range map[string]int{"127.0.0.1:0": maxDatagramSize, "[::1]:0": maxDatagramIPv6} {
		t.Run(addr, func(t *testing.T) {
			ctx := testContext(t)
			ep := func(cfg *Config) *Endpoint {
				s, err := udp.ListenOne(netip.MustParseAddrPort(addr), udp.Config{})
				if err != nil {
					t.Fatal(err)
				}
				e := NewEndpoint([]udp.PacketConn{s}, cfg)
				t.Cleanup(func() { _ = e.Close(ctx) })
				return e
			}
			se, ce := ep(serverConfig()), ep(nil)
			client, err := ce.Dial(ctx, se.LocalAddr(), clientConfig())
			if err != nil {
				t.Fatal(err)
			}
			server, err := se.Accept(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for range 20 {
				if client.Stats().MTU == want {
					break
				}
				move(t, ctx, client, server, 4<<20)
			}
			if st := client.Stats(); st.MTU != want {
				t.Errorf("MTU %d, want %d", st.MTU, want)
			}
		})
	}
}
