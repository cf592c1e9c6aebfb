package quic

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

func tokenHeaderOf(token []byte, v Version, dst wire.ConnID) *wire.LongHeader {
	return &wire.LongHeader{Version: v, Dst: dst, Token: token}
}

func TestTokens(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.7")
	now := time.Unix(1e9, 0)
	src := connID("retry-src")
	for _, retry := range []bool{true, false} {
		m := newTokenMaker(nil)
		make := func() []byte {
			if retry {
				return m.retry(connID("original"), src, Version1, addr, now)
			}
			return m.next(Version1, addr, now)
		}
		tok, life := make(), newTokenLife
		if retry {
			life = retryTokenLife
		}
		got, ok := m.open(tokenHeaderOf(tok, Version1, src), addr, now.Add(life))
		if !ok || got.retry != retry || retry && got.originalDst != connID("original") || isRetryToken(tok) != retry {
			t.Fatalf("retry %v: open: %+v, %v", retry, got, ok)
		}
		if _, ok := m.open(tokenHeaderOf(tok, Version1, src), netip.AddrFrom16(addr.As16()), now); !ok {
			t.Error("the same address in its mapped form is refused")
		}
		if bytes.Contains(tok, []byte("original")) {
			t.Error("the connection ID can be read")
		}
		refused := func(name string, m *tokenMaker, b []byte, v Version, dst wire.ConnID, a netip.Addr, at time.Time) {
			t.Helper()
			if _, ok := m.open(tokenHeaderOf(b, v, dst), a, at); ok {
				t.Errorf("retry %v, %s: accepted", retry, name)
			}
		}
		refused("late", m, tok, Version1, src, addr, now.Add(life+time.Second))
		refused("from the future", m, tok, Version1, src, addr, now.Add(-2*time.Second))
		refused("from elsewhere", m, tok, Version1, src, netip.MustParseAddr("192.0.2.8"), now)
		refused("of another version", m, tok, Version2, src, addr, now)
		refused("another key", newTokenMaker(nil), tok, Version1, src, addr, now)
		if retry {
			refused("to another connection ID", m, tok, Version1, connID("other-src"), addr, now)
		}
		for n := range len(tok) {
			refused("cut", m, tok[:n], Version1, src, addr, now) // hostile row 31: short token
			b := bytes.Clone(tok)
			b[n] ^= 0x10
			refused("changed", m, b, Version1, src, addr, now)
		}
		if bytes.Equal(make(), tok) {
			t.Error("two tokens are equal")
		}
	}
}

// TestTokenKeys: keys made here change, and old ones go when nothing of theirs is
// good any more; keys that are given are shared and rotated by who gives them.
func TestTokenKeys(t *testing.T) {
	addr := netip.MustParseAddr("2001:db8::7")
	start := time.Unix(1e9, 0)
	m := newTokenMaker(nil)
	var made [][]byte
	for i := range 40 {
		now := start.Add(time.Duration(i) * 2 * time.Hour)
		made = append(made, m.next(Version1, addr, now))
		for j, tok := range made {
			age := time.Duration(i-j) * 2 * time.Hour
			if _, ok := m.open(tokenHeaderOf(tok, Version1, wire.ConnID{}), addr, now); ok != (age <= newTokenLife) {
				t.Fatalf("token of %v ago: %v", age, ok)
			}
		}
		if len(m.keys) > 4 {
			t.Fatalf("%d keys", len(m.keys))
		}
	}
	if m.keys[0].id == newTokenMaker(nil).key(start).id {
		t.Error("keys are not random")
	}

	a, b := [32]byte{1}, [32]byte{2}
	node := func(keys ...[32]byte) *tokenMaker { return newTokenMaker(&Config{AddressKeys: keys}) }
	opens := func(m *tokenMaker, tok []byte) bool {
		_, ok := m.open(tokenHeaderOf(tok, Version1, wire.ConnID{}), addr, start)
		return ok
	}
	one, two := node(a), node(b, a)
	if !opens(two, one.next(Version1, addr, start)) {
		t.Error("the other node's token is refused")
	}
	if opens(one, two.next(Version1, addr, start)) {
		t.Error("a key that a node does not have yet opens")
	}
	old := one.next(Version1, addr, start)
	one.configure(&Config{AddressKeys: [][32]byte{b, a}})
	if !opens(one, two.next(Version1, addr, start)) || !opens(one, old) {
		t.Error("after rotation tokens are refused")
	}
	one.configure(&Config{AddressKeys: [][32]byte{b}})
	if opens(one, old) {
		t.Error("a key that was taken away opens")
	}
	one.configure(&Config{})
	if opens(one, two.next(Version1, addr, start)) || !opens(one, one.next(Version1, addr, start)) {
		t.Error("keys that are given no longer are still in use")
	}

	// Stateless resets: the same on all nodes, and while newer keys come.
	if *(&Config{AddressKeys: [][32]byte{a}}).resetKeyOf() != *(&Config{AddressKeys: [][32]byte{b, a}}).resetKeyOf() {
		t.Error("the reset key changes with a new first key")
	}
	if *(&Config{AddressKeys: [][32]byte{a}}).resetKeyOf() == a {
		t.Error("the reset key is the key of the tokens")
	}
}

func FuzzToken(f *testing.F) {
	m := newTokenMaker(&Config{AddressKeys: [][32]byte{{7}}})
	addr, now := clientAddr.Addr(), time.Unix(1e9, 0)
	f.Add(m.retry(connID("original"), connID("src-of-retry"), Version1, addr, now))
	f.Add(m.next(Version1, addr, now))
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, ok := m.open(tokenHeaderOf(b, Version1, connID("src-of-retry")), addr, now)
		if ok && tok.retry != isRetryToken(b) {
			t.Errorf("%x: %+v", b, tok)
		}
	})
}

// TestSpentTokensAreBounded: what does not fit is forgotten, but not so that it could be used again.
func TestSpentTokensAreBounded(t *testing.T) {
	m := newTokenMaker(nil)
	start := time.Unix(1e9, 0)
	tok := func(i int) *addressToken {
		return &addressToken{id: [tokenNonce]byte{byte(i), byte(i >> 8), byte(i >> 16)}, issued: start.Add(time.Duration(i) * time.Millisecond)}
	}
	n := 3*maxSpentTokens + 10
	for i := range n {
		if m.spentBefore(tok(i)) {
			t.Fatalf("token %d was never used", i)
		}
		m.spend(tok(i))
	}
	for i := range n {
		if !m.spentBefore(tok(i)) {
			t.Fatalf("token %d can be used twice", i)
		}
	}
	if have := len(m.spent.now) + len(m.spent.before); have > 2*maxSpentTokens {
		t.Errorf("%d are remembered", have)
	}
}

func TestTokenStore(t *testing.T) {
	var none *TokenStore
	if none.take("a", Version1) != nil {
		t.Error("a token out of nothing")
	}
	s := new(TokenStore)
	for i := range 10 {
		s.put("a", Version1, []byte{byte(i)})
	}
	s.put("a", Version2, []byte("v2"))
	for _, want := range []byte{9, 8, 7, 6} {
		if got := s.take("a", Version1); len(got) != 1 || got[0] != want {
			t.Errorf("took %v, want %d", got, want)
		}
	}
	if s.take("a", Version1) != nil || s.take("b", Version1) != nil || string(s.take("a", Version2)) != "v2" {
		t.Error("tokens of others, or of none")
	}
	for i := range 3 * maxTokenServers {
		s.put(fmt.Sprint(i), Version1, []byte("x"))
	}
	if s.Len() != maxTokenServers || s.take("0", Version1) != nil || s.take(fmt.Sprint(3*maxTokenServers-1), Version1) == nil {
		t.Errorf("%d tokens", s.Len())
	}
}

// TestTokenSavesARetry: a client that comes again, from another port, needs no
// second Retry, on any node that shares the keys; from another address it does.
func TestTokenSavesARetry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.Retry, cfg.AddressKeys = RetryAlways, [][32]byte{{1}}
		sp := newSimPair(t, 1, simnet.Params{Delay: 10 * time.Millisecond}, cfg)
		listen := func(addr string) udp.PacketConn {
			pc, err := sp.net.Listen(addrPort(addr), simnet.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return pc
		}
		node2 := NewEndpoint([]udp.PacketConn{listen("10.0.0.9:443")}, cfg)
		store := new(TokenStore)
		dial := func(from, to string) time.Duration {
			ccfg := clientConfig()
			ccfg.Tokens = store
			e := NewEndpoint([]udp.PacketConn{listen(from)}, nil)
			start := time.Now()
			c, err := e.Dial(context.Background(), addrPort(to), ccfg)
			if err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)
			time.Sleep(time.Second) // NEW_TOKEN comes behind the handshake
			_ = c.CloseWithError(0, "")
			_ = e.Close(context.Background())
			return took
		}
		defer node2.Close(context.Background())
		retries := func() int64 { return sp.server.Stats().Retries + node2.Stats().Retries }
		first := dial("10.0.0.2:6000", "10.0.0.1:443")
		if retries() != 1 || store.Len() != 1 {
			t.Fatalf("first connection: %d retries, %d tokens", retries(), store.Len())
		}
		again := dial("10.0.0.2:6001", "10.0.0.1:443")
		other := dial("10.0.0.2:6002", "10.0.0.9:443")
		if retries() != 1 {
			t.Errorf("with a token: %d retries", retries())
		}
		if again >= first || other >= first {
			t.Errorf("handshakes took %v, %v, %v: no round trip was saved", first, again, other)
		}
		elsewhere := dial("10.0.0.3:6000", "10.0.0.1:443")
		if retries() != 2 {
			t.Errorf("from another address: %d retries, %v", retries(), elsewhere)
		}
	})
}

// TestLostNewToken: NEW_TOKEN is sent again when it is lost (RFC 9000, Section 13.3).
func TestLostNewToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.Retry = RetryAuto
		tc := newTestServer(t, cfg)
		tc.handshake()
		f := tc.want(wire.FrameNewToken)
		// Everything but that packet is acknowledged, and more.
		lost := f.packet.pn
		for range 5 {
			tc.send(wire.Packet1RTT, ping())
			tc.wait(50 * time.Millisecond)
			tc.read()
			var pns []uint64
			for _, pn := range tc.spaces[recovery.AppData].got {
				if pn != lost {
					pns = append(pns, pn)
				}
			}
			if len(pns) > 0 {
				tc.send(wire.Packet1RTT, ackOf(pns...))
			}
		}
		if again := tc.want(wire.FrameNewToken); again.packet.pn == lost {
			t.Error("not sent again")
		}
	})
}

// TestHostile31NewTokenAtServer: RFC 9000, Section 19.7.
func TestHostile31NewTokenAtServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.send(wire.Packet1RTT, wire.AppendNewToken(nil, []byte("token")))
		tc.wantClose(ProtocolViolation)
	})
	bubble(t, func(t *testing.T) {
		cfg := clientConfig()
		cfg.Tokens = new(TokenStore)
		tc := establishedClient(t, cfg)
		for i := range 100 { // as many and as large as a server likes
			tc.send(wire.Packet1RTT, wire.AppendNewToken(nil, append([]byte{byte(i)}, make([]byte, i*10)...)))
		}
		tc.wantOpen()
		if n := cfg.Tokens.Len(); n != maxTokensOfServer {
			t.Errorf("%d tokens", n)
		}
		tc.send(wire.Packet1RTT, append([]byte{byte(wire.FrameNewToken)}, 0))
		tc.wantClose(FrameEncodingError)
	})
}

// firstInitial has a scripted client send the first part of its ClientHello to cfg's server.
func firstInitial(t testing.TB, cfg *Config, token []byte, from netip.AddrPort) (*testConn, []packet) {
	t.Helper()
	tc := newTestServer(t, cfg)
	tc.token, tc.remote = token, from
	tc.startTLS()
	tc.send(wire.PacketInitial, tc.takeCrypto(recovery.Initial, 700))
	return tc, tc.packets()
}

// TestHostile44TokenReplay: NEW_TOKEN from another address, old, of another node, used twice: no address is validated by it.
func TestHostile44TokenReplay(t *testing.T) {
	cfg := func() *Config {
		c := serverConfig()
		c.Retry, c.AddressKeys = RetryAlways, [][32]byte{{1}}
		return c
	}
	node := newTokenMaker(cfg())
	for name, x := range map[string]struct {
		token func(now time.Time) []byte
		from  netip.AddrPort
		good  bool
	}{
		"good":                 {func(now time.Time) []byte { return node.next(Version1, clientAddr.Addr(), now) }, clientAddr, true},
		"from another port":    {func(now time.Time) []byte { return node.next(Version1, clientAddr.Addr(), now) }, addrPort("10.0.0.2:9"), true},
		"from another address": {func(now time.Time) []byte { return node.next(Version1, clientAddr.Addr(), now) }, addrPort("10.0.0.3:4000"), false},
		"old": {func(now time.Time) []byte {
			return node.next(Version1, clientAddr.Addr(), now.Add(-newTokenLife-time.Second))
		}, clientAddr, false},
		"of another node": {func(now time.Time) []byte { return newTokenMaker(nil).next(Version1, clientAddr.Addr(), now) }, clientAddr, false},
		"of version 2":    {func(now time.Time) []byte { return node.next(Version2, clientAddr.Addr(), now) }, clientAddr, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				tc, ps := firstInitial(t, cfg(), x.token(time.Now()), x.from)
				retried := len(ps) == 1 && ps[0].typ == wire.PacketRetry
				if retried == x.good || (tc.conn != nil) != x.good {
					t.Errorf("got %v, connection %v", ps, tc.conn != nil)
				}
				if x.good && !tc.conn.path.validated {
					t.Error("the address is not validated")
				}
			})
		})
	}
	t.Run("used twice", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			c := cfg()
			tc, _ := firstInitial(t, c, node.next(Version1, clientAddr.Addr(), time.Now()), clientAddr)
			if tc.conn == nil {
				t.Fatal("no connection")
			}
			// another connection, the same token
			tc.dst = connID("another-dst")
			tc.initialKeys()
			tc.spaces[recovery.Initial].next = 0
			tc.send(wire.PacketInitial, ping())
			if ps := tc.packets(); len(ps) != 1 || ps[0].typ != wire.PacketRetry {
				t.Errorf("got %v, want a Retry", ps)
			}
			if s := tc.ep.Stats(); s.Started != 1 || s.TokensRefused != 1 {
				t.Errorf("%d connections, %d tokens refused", s.Started, s.TokensRefused)
			}
		})
	})
}

// TestHostile20RetryRaces: duplicate Initials around a Retry, and garbage for a token.
func TestHostile20RetryRaces(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.Retry = RetryAlways
		tc := newTestServer(t, cfg)
		tc.startTLS()
		hello := tc.takeCrypto(recovery.Initial, 2000)
		first := tc.build(wire.PacketInitial, hello)
		for range 5 {
			tc.sendRaw(first)
		}
		ps := tc.packets()
		if len(ps) != 5 || tc.conn != nil {
			t.Fatalf("got %v", ps)
		}
		h, err := wire.ParseLong(ps[0].raw)
		if err != nil {
			t.Fatal(err)
		}
		tc.token, tc.dst = bytes.Clone(h.Token), h.Src
		tc.initialKeys()
		second := tc.build(wire.PacketInitial, hello)
		for range 5 {
			tc.sendRaw(second)
			tc.sendRaw(first) // late ones of before the Retry
		}
		tc.read()
		if s := tc.ep.Stats(); s.Started != 1 || s.Retries != 10 {
			t.Errorf("%d connections, %d retries", s.Started, s.Retries)
		}
		tc.feedTLS()
		tc.establish2()
		tc.conn.CloseTransport(NoError, "")
		tc.wait(time.Second) // it is gone
		tc.packets()
		if n := len(tc.ep.Conns()); n != 0 {
			t.Fatalf("%d connections", n)
		}
		// Its Retry token is still young, but was used.
		tc.sendRaw(second)
		if ps := tc.packets(); len(ps) != 0 || len(tc.ep.Conns()) != 0 {
			t.Errorf("a used Retry token: %v", ps)
		}
	})
	for name, x := range map[string]struct {
		token []byte
		code  TransportErrorCode // 0: a Retry
	}{
		"short":                {[]byte{retryMark}, 0},
		"garbage":              {bytes.Repeat([]byte{0xaa}, 200), 0},
		"garbage like Retry's": {append([]byte{retryMark}, bytes.Repeat([]byte{0xaa}, 60)...), InvalidToken},
		"garbage like ours":    {append([]byte{newTokenMark}, bytes.Repeat([]byte{0xaa}, 60)...), 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cfg := serverConfig()
				cfg.Retry = RetryAlways
				tc, ps := firstInitial(t, cfg, x.token, clientAddr)
				if x.code == 0 {
					if len(ps) != 1 || ps[0].typ != wire.PacketRetry {
						t.Errorf("got %v, want a Retry", ps)
					}
				} else if f, ok := find(ps, wire.FrameConnectionClose); !ok || f.code != uint64(x.code) {
					t.Errorf("got %v, want %v", ps, x.code)
				}
				if tc.conn != nil {
					t.Error("a connection was made")
				}
			})
		})
	}
}

// TestHostile28InitialFlood: Initials from everywhere, and nobody accepts: what is
// kept is bounded, and Retry switches on, by number and by rate, and off again.
func TestHostile28InitialFlood(t *testing.T) {
	for name, cfgure := range map[string]func(*Config){
		"number": func(c *Config) { c.MaxHandshakes = 40 },
		"rate":   func(c *Config) { c.RetryAbove = 10 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cfg := serverConfig()
				cfg.Retry = RetryAuto
				cfgure(cfg)
				tc := newTestServer(t, cfg)
				tc.startTLS()
				hello := tc.takeCrypto(recovery.Initial, 700)
				flood := func(i int) {
					tc.remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 4000)
					tc.dst = connID(fmt.Sprintf("dst-%06d", i))
					tc.initialKeys()
					tc.spaces[recovery.Initial].next = 0
					tc.sendRaw(tc.build(wire.PacketInitial, hello))
				}
				for i := range 500 {
					flood(i)
				}
				s := tc.ep.Stats()
				if s.Started > 11 || s.Connections > 11 || s.Retries < 480 {
					t.Errorf("%d connections were begun, %d are there, %d retries", s.Started, s.Connections, s.Retries)
				}
				tc.wait(time.Minute) // handshakes time out, the rate is forgotten
				flood(1000)
				if after := tc.ep.Stats(); after.Started != s.Started+1 || after.Retries != s.Retries {
					t.Errorf("afterwards: %d begun, %d retries", after.Started-s.Started, after.Retries-s.Retries)
				}
				tc.conn = nil
			})
		})
	}
}

// TestForgedInitialIsCountedOnce: and makes no connection.
func TestForgedInitialIsCountedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		b := tc.sealPacket(wire.PacketInitial, make([]byte, minDatagram))
		b[len(b)-1] ^= 1
		for i := range 3 {
			tc.sendRaw(b)
			if n := tc.ep.Stats().Drops["decrypt"]; n != int64(i+1) {
				t.Errorf("%d forged packets were counted as %d", i+1, n)
			}
		}
	})
}
