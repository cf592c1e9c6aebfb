package quic

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A cidTrace remembers which addresses each connection ID of a short header was used between.
type cidTrace struct {
	mu   sync.Mutex
	seen map[wire.ConnID]map[[2]netip.AddrPort]bool
}

// watch has the trace see all that e sends.
func (x *cidTrace) watch(e *simnet.Endpoint, size int) {
	e.OnSend(func(m *udp.SendMsg) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		seg := m.SegmentSize
		if seg <= 0 {
			seg = len(m.Data)
		}
		local := e.LocalAddr()
		if m.Local.IsValid() {
			local = netip.AddrPortFrom(m.Local, local.Port())
		}
		for b := m.Data; len(b) > 0; b = b[min(seg, len(b)):] {
			if dst, ok := wire.ShortDst(b, size); ok {
				id, _ := wire.MakeConnID(dst)
				if x.seen[id] == nil {
					x.seen[id] = make(map[[2]netip.AddrPort]bool)
				}
				x.seen[id][[2]netip.AddrPort{local, m.Remote}] = true
			}
		}
		return nil
	})
}

// movingPair is a client and a server with two addresses each, and a trace of connection IDs.
func movingPair(t testing.TB, scfg *Config) (sp *simPair, ids *cidTrace) {
	t.Helper()
	n := simnet.New(7, simnet.Params{Delay: 15 * time.Millisecond, Rate: 50e6})
	listen := func(addr, more string) (*simnet.Endpoint, udp.PacketConn) {
		e, err := n.Listen(addrPort(addr), simnet.Options{MaxSegments: 16, GRO: true})
		if err == nil {
			err = e.AddAddr(netip.MustParseAddr(more))
		}
		if err != nil {
			t.Fatal(err)
		}
		return e, e
	}
	ce, cc := listen("10.0.0.2:5000", "10.0.0.22")
	se, sc := listen("10.0.0.1:443", "10.0.0.11")
	ids = &cidTrace{seen: make(map[wire.ConnID]map[[2]netip.AddrPort]bool)}
	ids.watch(ce, udp.DefaultConnIDLen)
	ids.watch(se, udp.DefaultConnIDLen)
	sp = &simPair{TB: t, net: n, server: NewEndpoint([]udp.PacketConn{sc}, scfg), client: NewEndpoint([]udp.PacketConn{cc}, nil)}
	t.Cleanup(func() {
		_ = sp.client.Close(context.Background())
		_ = sp.server.Close(context.Background())
		_ = n.Close()
	})
	return sp, ids
}

// unlinkable checks that no connection ID was used between more than one pair of addresses.
func (x *cidTrace) unlinkable(t testing.TB) {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, pairs := range x.seen {
		if len(pairs) > 1 {
			t.Errorf("connection ID %v was used between %v", id, pairs)
		}
	}
}

// TestHostile43Linkability: who sees all paths of a connection finds no connection ID
// on more than one of them, whoever moves, and none of a path that was left.
func TestHostile43Linkability(t *testing.T) {
	bubble(t, func(t *testing.T) {
		scfg := serverConfig()
		scfg.PreferredAddress.IPv4 = addrPort("10.0.0.11:443")
		sp, ids := movingPair(t, scfg)
		c, s := sp.dial(clientConfig())
		sp.exchange(c, s, 1, 100<<10)
		time.Sleep(time.Second)
		for _, to := range []string{"10.0.0.22", "10.0.0.2", "10.0.0.22"} {
			if err := c.Migrate(context.Background(), netip.MustParseAddr(to)); err != nil {
				t.Fatal(err)
			}
			sp.exchange(c, s, 1, 100<<10)
			time.Sleep(time.Second)
		}
		ids.unlinkable(t)
		// the handshake's addresses, the server's other one, three moves: both ways
		if n := len(ids.seen); n < 2*5 {
			t.Errorf("%d connection IDs were seen on 5 paths", n)
		}
	})
}

// TestMigrate moves a client while data flows both ways.
func TestMigrate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sp, ids := movingPair(t, serverConfig())
		c, s := sp.dial(clientConfig())
		time.Sleep(time.Second)
		for i, a := range []string{"10.0.0.22", "10.0.0.2", "10.0.0.22"} {
			to := netip.MustParseAddr(a)
			moved := make(chan error, 1)
			go func() {
				time.Sleep(300 * time.Millisecond)
				moved <- c.Migrate(context.Background(), to)
			}()
			sp.exchange(c, s, 2, 4<<20)
			if err := <-moved; err != nil {
				t.Fatal(err)
			}
			sp.exchange(c, s, 1, 1000)
			time.Sleep(time.Second)
			if got := s.RemoteAddrPort(); got.Addr() != to {
				t.Errorf("move %d: the server sends to %v", i, got)
			}
			if n := c.Stats().PathChanges; n != uint64(i+1) {
				t.Errorf("%d path changes", n)
			}
		}
		ids.unlinkable(t)
		c.lock()
		if len(c.ids.remote) < 2 || c.ids.taken < 3 {
			t.Errorf("the server's IDs: %+v", c.ids.remote)
		}
		c.unlock()
	})
}

// TestMigrateToNowhere: the connection stays where it is when nobody answers.
func TestMigrateToNowhere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sp, _ := movingPair(t, serverConfig())
		c, s := sp.dial(clientConfig())
		time.Sleep(time.Second)
		away := netip.MustParseAddr("10.0.0.22")
		sp.net.Both(away, serverHost, func(p *simnet.Params) { p.Loss = 1 })
		if err := c.Migrate(context.Background(), away); !errors.Is(err, ErrPathFailed) {
			t.Errorf("Migrate: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		if err := c.Migrate(ctx, away); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Migrate: %v", err)
		}
		sp.exchange(c, s, 2, 100<<10)
		if got := s.RemoteAddrPort(); got.Addr() != clientHost {
			t.Errorf("the server sends to %v", got)
		}
		// what was tried can be tried again: the IDs were given back and replaced
		sp.net.Both(away, serverHost, func(p *simnet.Params) { p.Loss = 0 })
		if err := c.Migrate(context.Background(), away); err != nil {
			t.Error(err)
		}
	})
}

func TestMigrateRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		new := netip.MustParseAddr("10.0.0.22")
		if err := tc.conn.Migrate(context.Background(), new); !errors.Is(err, errMigrateEarly) {
			t.Errorf("in the handshake: %v", err)
		}
		tc.establish()
		if err := tc.conn.Migrate(context.Background(), new); !errors.Is(err, errMigrateNoID) {
			t.Errorf("without an ID: %v", err)
		}
		tc.giveIDs(3)
		for _, a := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Loopback()} {
			if err := tc.conn.Migrate(context.Background(), a); err == nil {
				t.Errorf("to %v", a)
			}
		}
		first := make(chan error, 1)
		go func() { first <- tc.conn.Migrate(context.Background(), new) }()
		f := tc.want(wire.FramePathChallenge)
		if f.packet.dst != tc.spareID(1) || f.packet.size < minDatagram {
			t.Errorf("challenge to %v in %d bytes", f.packet.dst, f.packet.size)
		}
		if err := tc.conn.Migrate(context.Background(), new); !errors.Is(err, ErrMigrating) {
			t.Errorf("while one is under way: %v", err)
		}
		// RFC 9000, Section 8.2.3: only the data of the challenge counts
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, [8]byte{1}))
		if tc.conn.Stats().PathChanges != 0 {
			t.Error("moved for a wrong answer")
		}
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, f.path))
		if err := <-first; err != nil {
			t.Error(err)
		}
		// It retires the old path's ID and makes the server follow with a packet that is no probe.
		fs := tc.frames()
		var pinged, retired bool
		for _, f := range fs {
			pinged = pinged || f.typ == wire.FramePing
			retired = retired || f.typ == wire.FrameRetireConnectionID && f.seq == 0
			if f.packet.dst != tc.spareID(1) {
				t.Errorf("%v to %v", f, f.packet.dst)
			}
		}
		if !pinged || !retired {
			t.Errorf("after the move: %v", fs)
		}
	})
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.params.DisableActiveMigration = true
		tc.establish().giveIDs(2)
		if err := tc.conn.Migrate(context.Background(), netip.MustParseAddr("10.0.0.22")); !errors.Is(err, errMigrateDisabled) {
			t.Errorf("disabled: %v", err)
		}
	})
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		if err := tc.conn.Migrate(context.Background(), netip.MustParseAddr("10.0.0.22")); !errors.Is(err, errMigrateServer) {
			t.Errorf("server: %v", err)
		}
	})
}

// TestDisableActiveMigration: a server that does not allow it hears nothing from
// other addresses, but lets a NAT rebind.
func TestDisableActiveMigration(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.DisableActiveMigration = true
		tc := newTestServer(t, cfg)
		tc.handshake()
		var spare wire.ConnID
		for _, f := range tc.frames() {
			if f.typ == wire.FrameNewConnectionID && f.seq == 1 {
				spare = f.cid
			}
		}
		tc.settle()
		if !tc.theirs.DisableActiveMigration {
			t.Error("the parameter was not sent")
		}
		tc.giveIDs(2)
		tc.send(wire.Packet1RTT, ping())
		home, first := tc.remote, tc.dst
		refused := func(name string, remote netip.AddrPort, dst wire.ConnID) {
			before := tc.conn.Stats().PacketsReceived
			tc.remote, tc.dst = remote, dst
			tc.send(wire.Packet1RTT, ping())
			tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{1}))
			if len(to(tc.packets(), remote)) > 0 || tc.conn.Stats().PacketsReceived != before {
				t.Errorf("%s: not refused", name)
			}
			tc.remote, tc.dst = home, first
		}
		refused("another address", addrPort("10.0.0.3:4000"), first)
		refused("another port with another ID", addrPort("10.0.0.2:4001"), spare)
		tc.remote = addrPort("10.0.0.2:4002")
		tc.send(wire.Packet1RTT, ping())
		f := tc.want(wire.FramePathChallenge)
		for f.packet.remote != tc.remote {
			f = tc.want(wire.FramePathChallenge)
		}
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, f.path))
		if got := tc.conn.RemoteAddrPort(); got != tc.remote {
			t.Errorf("after a NAT's change: %v", got)
		}
	})
}

// TestPreferredAddress: the client validates the server's address and goes there, with a new connection ID.
func TestPreferredAddress(t *testing.T) {
	for _, stay := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			scfg := serverConfig()
			scfg.PreferredAddress.IPv4 = addrPort("10.0.0.11:443")
			scfg.DisableActiveMigration = true
			sp, ids := movingPair(t, scfg)
			ccfg := clientConfig()
			ccfg.StayAtAddress = stay
			c, s := sp.dial(ccfg)
			sp.exchange(c, s, 2, 1<<20)
			time.Sleep(time.Second)
			want, local := scfg.PreferredAddress.IPv4, "10.0.0.11:443"
			if stay {
				want, local = addrPort("10.0.0.1:443"), "10.0.0.1:443"
			}
			if got := c.RemoteAddrPort(); got != want {
				t.Errorf("stay %v: the client sends to %v", stay, got)
			}
			if got := s.LocalAddr().String(); got != local {
				t.Errorf("stay %v: the server sends from %v", stay, got)
			}
			sp.exchange(c, s, 2, 1<<20)
			ids.unlinkable(t)
			if stay {
				return
			}
			// RFC 9000, Section 18.2: after that, a client may move all the same
			if err := c.Migrate(context.Background(), netip.MustParseAddr("10.0.0.22")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHostile36Reach: nobody is led from outside to inside.
func TestHostile36Reach(t *testing.T) {
	const public, public6, private, link, loop = "192.0.2.1", "2001:db8::1", "10.0.0.1", "fe80::1", "127.0.0.1"
	for _, x := range []struct {
		from, to string
		want     bool
	}{
		{public, "198.51.100.7:443", true}, {public6, "[2001:db8::2]:443", true}, {private, "10.9.9.9:443", true},
		{private, "192.0.2.9:443", true}, {loop, "127.0.0.1:444", true}, {loop, "10.0.0.1:443", true},
		{public, "10.0.0.1:443", false}, {public, "172.16.0.1:443", false}, {public, "192.168.1.1:80", false},
		{public, "127.0.0.1:22", false}, {public, "169.254.169.254:80", false}, {public, "100.64.0.1:443", false},
		{public, "0.0.0.0:443", false}, {public, "0.1.2.3:443", false}, {public, "224.0.0.1:443", false}, {public, "255.255.255.255:443", false},
		{public, "198.51.100.7:0", false}, {private, "127.0.0.1:443", false}, {private, "169.254.169.254:80", false},
		{public6, "[::1]:443", false}, {public6, "[fd00::1]:443", false}, {public6, "[fe80::1]:443", false}, {public6, "[ff02::1]:443", false},
		{public6, "[::ffff:10.0.0.1]:443", false}, {public6, "[::]:443", false}, {link, "[::1]:443", false},
	} {
		if got := mayLead(netip.MustParseAddr(x.from), addrPort(x.to)); got != x.want {
			t.Errorf("from %s to %s: %v", x.from, x.to, got)
		}
	}
}

// TestHostile36Silent: an address that does not answer gets a few challenges and nothing else.
func TestHostile36Silent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		victim := addrPort("10.6.6.6:53")
		tc.params.PreferredAddress = &wire.PreferredAddress{IPv4: victim, ID: connID("preferred"), ResetToken: [16]byte{1}}
		tc.establish()
		s := tc.openStream()
		tc.write(s, []byte("x"))
		n := 0
		for range 100 {
			for _, p := range tc.packets() {
				if p.remote == victim {
					if n++; n > 10 {
						t.Fatal("more than 10 datagrams to the victim")
					}
					for _, f := range p.frames {
						if f.typ != wire.FramePathChallenge && f.typ != wire.FramePadding {
							t.Errorf("the victim got %v", f)
						}
					}
				}
			}
			tc.ack(wire.Packet1RTT)
			tc.wait(100 * time.Millisecond)
		}
		if n == 0 {
			t.Error("the address was not tried")
		}
		tc.wantOpen()
		if tc.conn.RemoteAddrPort() != serverAddr {
			t.Errorf("the client sends to %v", tc.conn.RemoteAddrPort())
		}
	})
}

// TestProbeTakesItsOwnID: an answer to a probe is sent to a connection ID of its
// own, the one that is used when the peer moves there.
func TestProbeTakesItsOwnID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.giveIDs(3)
		home := tc.remote
		probe := func(a string) frame {
			tc.remote = addrPort(a)
			tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{7}), wire.AppendPadding(nil, 1100))
			f := tc.want(wire.FramePathResponse)
			if f.packet.remote != tc.remote {
				t.Errorf("the answer went to %v", f.packet.remote)
			}
			return f
		}
		if f := probe("10.0.0.9:1"); f.packet.dst != tc.spareID(1) {
			t.Errorf("answered to %v", f.packet.dst)
		}
		if f := probe("10.0.0.9:1"); f.packet.dst != tc.spareID(1) {
			t.Errorf("answered again to %v", f.packet.dst)
		}
		tc.send(wire.Packet1RTT, ping(), wire.AppendPadding(nil, 1100))
		f := tc.want(wire.FramePathChallenge)
		for f.packet.remote != tc.remote {
			if f.packet.dst == tc.spareID(1) {
				t.Error("one ID for two addresses")
			}
			f = tc.want(wire.FramePathChallenge)
		}
		if f.packet.dst != tc.spareID(1) {
			t.Errorf("moved with %v", f.packet.dst)
		}
		tc.send(wire.Packet1RTT, wire.AppendPathResponse(nil, f.path))
		if f := tc.want(wire.FrameRetireConnectionID); f.seq != 0 {
			t.Errorf("retired %d", f.seq)
		}
		_ = home
		// Addresses that are only probed use one ID each, and give it back.
		probe("10.0.0.10:1")
		if f := probe("10.0.0.11:1"); f.packet.dst != tc.spareID(3) {
			t.Errorf("answered to %v", f.packet.dst)
		}
		tc.remote = addrPort("10.0.0.12:1")
		tc.packets()
		tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{7}), wire.AppendPadding(nil, 1100))
		if ps := to(tc.packets(), tc.remote); len(ps) > 0 {
			t.Errorf("answered without an ID to spare: %v", ps)
		}
	})
}

// TestPathFramesAreAckEliciting: what carries them is sent on its path and is
// waited for: a PTO follows when no acknowledgment comes.
func TestPathFramesAreAckEliciting(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{1}))
		tc.want(wire.FramePathResponse)
		before := tc.conn.Stats().PTOs
		tc.wait(2 * time.Second)
		if tc.conn.Stats().PTOs == before {
			t.Error("nobody waits for the acknowledgment of a PATH_RESPONSE")
		}
	})
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.giveIDs(2)
		inFlight := tc.conn.Stats().BytesInFlight
		tc.remote = addrPort("10.0.0.9:1")
		tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{1}), wire.AppendPadding(nil, 1100))
		tc.want(wire.FramePathResponse)
		if n := tc.conn.Stats().BytesInFlight; n != inFlight {
			t.Errorf("%d bytes of another path are in flight on this one", n-inFlight)
		}
	})
}

func TestRotateConnectionIDs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sp := newSimPair(t, 3, simnet.Params{Delay: 10 * time.Millisecond}, serverConfig())
		c, s := sp.dial(clientConfig())
		time.Sleep(time.Second)
		for i := range 10 {
			x := []*Conn{c, s}[i%2]
			dst := func() wire.ConnID {
				x.lock()
				defer x.unlock()
				return x.dst()
			}
			old := dst()
			if err := x.RotateConnectionIDs(); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
			sp.exchange(c, s, 1, 50<<10)
			time.Sleep(time.Second)
			if dst() == old {
				t.Error("the same ID is in use")
			}
		}
		for _, x := range []*Conn{c, s} {
			x.lock()
			if len(x.ids.local) != localConnIDLimit || len(x.ids.remote) != localConnIDLimit || x.ids.local[0].seq < 10 {
				t.Errorf("IDs: %+v and %+v", x.ids.local, x.ids.remote)
			}
			x.unlock()
		}
	})
	either(t, func(t *testing.T, tc *testConn) {
		tc.wait(time.Second)
		tc.settle()
		old := tc.dst
		if err := tc.conn.RotateConnectionIDs(); err != nil {
			t.Fatal(err)
		}
		var fresh []frame
		for _, f := range tc.frames() {
			if f.typ == wire.FrameNewConnectionID {
				fresh = append(fresh, f)
			}
		}
		if len(fresh) != 4 || fresh[0].prior != fresh[0].seq {
			t.Fatalf("new IDs: %v", fresh)
		}
		if err := tc.conn.RotateConnectionIDs(); !errors.Is(err, errIDs) {
			t.Errorf("before the old ones are retired: %v", err)
		}
		tc.dst = fresh[0].cid
		for seq := range fresh[0].seq {
			tc.send(wire.Packet1RTT, wire.AppendRetireConnectionID(nil, seq))
		}
		tc.wantOpen()
		// packets to a retired ID are ignored
		before := tc.conn.Stats().PacketsReceived
		tc.dst = old
		tc.send(wire.Packet1RTT, ping())
		if tc.conn.Stats().PacketsReceived != before {
			t.Error("a packet to a retired ID was taken")
		}
		tc.dst = fresh[0].cid
		tc.spaces[recovery.AppData].next += 10
		if err := tc.conn.RotateConnectionIDs(); err != nil {
			t.Error(err)
		}
	})
}

// A challenge overtakes the connection ID to answer it with: the answer follows
// when that has come, to where the challenge came from. One that has waited for
// too long gets none.
func TestChallengeBeforeConnectionID(t *testing.T) {
	for _, late := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			tc := establishedServer(t, nil)
			home, away := tc.remote, addrPort("10.0.0.9:1")
			tc.remote = away
			tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{1}), wire.AppendPadding(nil, 1100))
			if _, ok := find(to(tc.packets(), away), wire.FramePathResponse); ok {
				t.Fatal("answered without a connection ID for that path")
			}
			tc.remote = home
			if late {
				tc.wait(challengePatience)
			}
			tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, 1, 0, tc.spareID(1), [16]byte{9}))
			f, ok := find(to(tc.packets(), away), wire.FramePathResponse)
			if ok == late || ok && f.path != [8]byte{1} {
				t.Errorf("late %v: answered %v, %x", late, ok, f.path)
			}
		})
	}
}

// A response that finds the congestion window full goes out with the next probe
// timeout: a peer that waits for it may acknowledge nothing before.
func TestResponseWithProbeTimeout(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		tc.write(s, make([]byte, 64<<10))
		tc.wait(200 * time.Millisecond) // paced: a full window
		tc.packets()
		tc.send(wire.Packet1RTT, wire.AppendPathChallenge(nil, [8]byte{1}))
		for range 100 {
			if _, ok := find(tc.packets(), wire.FramePathResponse); ok {
				return
			}
			tc.wait(100 * time.Millisecond)
		}
		t.Error("no answer within 10 s")
	})
}
