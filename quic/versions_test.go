package quic

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

func info(chosen Version, available ...Version) []byte {
	i := wire.VersionInfo{Chosen: chosen, Available: available}
	return i.Append(nil)
}

// longVersions are the versions of the long headers in ps, by packet type.
func longVersions(ps []packet) map[wire.PacketType]map[Version]int {
	m := make(map[wire.PacketType]map[Version]int)
	for _, p := range ps {
		if p.version != 0 {
			if m[p.typ] == nil {
				m[p.typ] = make(map[Version]int)
			}
			m[p.typ][p.version]++
		}
	}
	return m
}

// TestVersionPairs runs connections between all preferences over a network.
func TestVersionPairs(t *testing.T) {
	v1, v2, v12, v21 := []Version{Version1}, []Version{Version2}, []Version{Version1, Version2}, []Version{Version2, Version1}
	for _, x := range []struct {
		client, server []Version
		want           Version // 0: none
	}{
		{nil, nil, Version1}, {v1, v1, Version1}, {v2, v2, Version2}, {v12, v12, Version1}, {v21, v21, Version2},
		{v12, v21, Version2}, // the server's choice
		{v21, v12, Version1},
		{v12, v2, Version2}, {v12, v1, Version1},
		{v21, v1, Version1}, // by a Version Negotiation packet
		{v21, v2, Version2}, {v1, v21, Version1}, {v2, v12, Version2},
		{v1, v2, 0}, {v2, v1, 0},
	} {
		for _, retry := range []RetryMode{RetryNever, RetryAlways} {
			bubble(t, func(t *testing.T) {
				scfg, ccfg := serverConfig(), clientConfig()
				scfg.Versions, scfg.Retry, ccfg.Versions = x.server, retry, x.client
				sp := newSimPair(t, 1, simnet.Params{Delay: 10 * time.Millisecond}, scfg)
				if x.want == 0 {
					_, err := sp.client.Dial(context.Background(), serverAddr, ccfg)
					var ve *VersionError
					if !errors.As(err, &ve) {
						t.Errorf("%v to %v: %v", x.client, x.server, err)
					}
					return
				}
				c, s := sp.dial(ccfg)
				if c.Version() != x.want || s.Version() != x.want {
					t.Errorf("%v to %v: %v at the client, %v at the server, want %v", x.client, x.server, c.Version(), s.Version(), x.want)
				}
				sp.exchange(c, s, 2, 100<<10)
				if err := c.UpdateKeys(); err != nil {
					t.Error(err)
				}
				sp.exchange(c, s, 2, 100<<10)
			})
		}
	}
}

// TestFirstVersion: a client that likes version 2 best may begin with version 1.
func TestFirstVersion(t *testing.T) {
	v1, v2, v21 := []Version{Version1}, []Version{Version2}, []Version{Version2, Version1}
	for _, x := range []struct {
		server []Version
		want   Version
	}{{v1, Version1}, {v2, Version2}, {v21, Version2}, {nil, Version1}} {
		bubble(t, func(t *testing.T) {
			scfg, ccfg := serverConfig(), clientConfig()
			scfg.Versions, ccfg.Versions, ccfg.FirstVersion = x.server, v21, Version1
			sp := newSimPair(t, 1, simnet.Params{Delay: 10 * time.Millisecond}, scfg)
			c, s := sp.dial(ccfg)
			if c.Version() != x.want || s.Version() != x.want {
				t.Errorf("%v at the client, %v at the server that has %v, want %v", c.Version(), s.Version(), x.server, x.want)
			}
			sp.exchange(c, s, 2, 100<<10)
		})
	}
	bubble(t, func(t *testing.T) {
		sp := newSimPair(t, 1, simnet.Params{}, serverConfig())
		ccfg := clientConfig()
		ccfg.Versions, ccfg.FirstVersion = v2, Version1
		if _, err := sp.client.Dial(context.Background(), serverAddr, ccfg); err == nil {
			t.Error("a first version that is not among the versions was taken")
		}
	})
}

// TestVersionsOnBadNetworks: a change of version survives loss and reordering.
func TestVersionsOnBadNetworks(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, func(t *testing.T) {
			scfg, ccfg := patient(serverConfig()), patient(clientConfig())
			scfg.Versions = []Version{Version2, Version1}
			sp := newSimPair(t, seed, simnet.Params{Delay: 20 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.2}, scfg)
			c, s := sp.dial(ccfg)
			if c.Version() != Version2 || s.Version() != Version2 {
				t.Errorf("%v and %v", c.Version(), s.Version())
			}
			sp.exchange(c, s, 1, 50<<10)
		})
	}
}

// TestCompatibleVersionAtServer: the server's packets are of the version it took
// from the moment it knows the client's parameters, and only those count.
func TestCompatibleVersionAtServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.Versions = []Version{Version2, Version1}
		tc := newTestServer(t, cfg)
		tc.params.VersionInfo = info(Version1, Version1, Version2)
		tc.startTLS()
		// An acknowledgment of the first part of the ClientHello is of the original version.
		first := tc.takeCrypto(recovery.Initial, 700)
		tc.send(wire.PacketInitial, first)
		tc.wait(time.Second)
		ps := tc.packets()
		if v := longVersions(ps)[wire.PacketInitial]; len(v) != 1 || v[Version1] == 0 {
			t.Fatalf("before the ClientHello was whole: %v", v)
		}
		rest := tc.takeCrypto(recovery.Initial, 2000)
		tc.send(wire.PacketInitial, rest)
		tc.read()
		if v := longVersions(tc.queue); v[wire.PacketInitial][Version1] > 0 || v[wire.PacketInitial][Version2] == 0 || v[wire.PacketHandshake][Version2] == 0 {
			t.Fatalf("the answer is of versions %v", v)
		}
		// RFC 9369, Section 4.1: "The server MUST NOT discard its original version Initial
		// receive keys until it successfully processes a Handshake packet with the
		// negotiated version."
		before := tc.conn.Stats().PacketsReceived
		tc.send(wire.PacketInitial, ping())
		if tc.conn.Stats().PacketsReceived != before+1 {
			t.Error("an Initial of the original version was not taken")
		}
		// "Both endpoints MUST send Handshake and 1-RTT packets using the negotiated
		// version. An endpoint MUST drop packets using any other version."
		tc.version = Version2
		next := tc.spaces[recovery.Initial].next
		tc.initialKeys()
		tc.spaces[recovery.Initial].next = next
		for i := range tc.queue {
			tc.queue[i].frames = append([]frame(nil), tc.queue[i].frames...)
		}
		tc.feedTLS()
		tc.version = Version1
		drops := tc.ep.Stats().Drops["version"]
		tc.send(wire.PacketHandshake, ping())
		if tc.ep.Stats().Drops["version"] != drops+1 {
			t.Error("a Handshake packet of the original version was looked at")
		}
		tc.version = Version2
		tc.flushCrypto()
		tc.handshakeRest()
		tc.want(wire.FrameHandshakeDone)
		if tc.conn.Version() != Version2 || tc.conn.ver.initialRx != nil {
			t.Errorf("version %v, the original's key is there: %v", tc.conn.Version(), tc.conn.ver.initialRx != nil)
		}
		got, err := wire.ParseVersionInfo(tc.theirs.VersionInfo, true)
		if err != nil || got.Chosen != Version2 {
			t.Errorf("the server says %v, %v", got, err)
		}
	})
}

// TestHostile42Downgrade: what somebody in between does to the versions ends the
// handshake with VERSION_NEGOTIATION_ERROR.
func TestHostile42Downgrade(t *testing.T) {
	t.Run("server: the client chose another", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			tc := newTestServer(t, nil)
			tc.params.VersionInfo = info(Version2, Version1, Version2)
			tc.startTLS()
			tc.flushCrypto()
			tc.wantClose(VersionNegotiationError)
		})
	})
	t.Run("server: no version for this service", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			cfg := serverConfig()
			only1 := *cfg
			only1.Versions = []Version{Version1}
			cfg.GetConfigForClient = func(*ClientHelloInfo) (*Config, error) { return &only1, nil }
			tc := newTestServer(t, cfg)
			tc.version = Version2
			tc.initialKeys()
			tc.params.VersionInfo = info(Version2, Version2)
			tc.startTLS()
			tc.flushCrypto()
			// RFC 9001, Section 8.1: "The server MUST treat the inability to select a
			// compatible application protocol as a connection error of type 0x0178
			// (no_application_protocol)."
			tc.wantClose(0x178)
		})
	})
	for name, x := range map[string]struct {
		versions []Version
		vn       []Version // what a Version Negotiation packet offers
		answer   Version   // the scripted server's packets
		info     []byte
		code     TransportErrorCode // 0: it goes on
	}{
		"malformed":                       {nil, nil, Version1, []byte{1, 2, 3}, TransportParameterError},
		"chose version 0":                 {nil, nil, Version1, info(0, Version1), TransportParameterError},
		"chose another than it uses":      {nil, nil, Version1, info(Version2, Version1, Version2), VersionNegotiationError},
		"absent":                          {nil, nil, Version1, nil, NoError},
		"absent after a change":           {nil, nil, Version2, nil, VersionNegotiationError},
		"changed":                         {nil, nil, Version2, info(Version2, Version2, Version1), NoError},
		"forged Version Negotiation":      {[]Version{Version2, Version1}, []Version{Version1}, Version1, info(Version1, Version1, Version2), VersionNegotiationError},
		"honest Version Negotiation":      {[]Version{Version2, Version1}, []Version{Version1}, Version1, info(Version1, Version1), NoError},
		"old server after negotiation":    {[]Version{Version2, Version1}, []Version{Version1}, Version1, nil, NoError},
		"empty list after negotiation":    {[]Version{Version1, Version2}, []Version{Version2}, Version2, info(Version2), VersionNegotiationError},
		"stripped after negotiation":      {[]Version{Version1, Version2}, []Version{Version2}, Version2, nil, VersionNegotiationError},
		"retiring version 1, negotiation": {[]Version{Version1, Version2}, []Version{Version2}, Version2, info(Version2, Version2), NoError},
	} {
		t.Run("client: "+name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cfg := clientConfig()
				cfg.Versions = x.versions
				tc := newTestClient(t, cfg)
				if x.vn != nil {
					tc.packets()
					tc.sendRaw(wire.AppendVersionNegotiation(nil, tc.dst.Append(nil), tc.odcid.Append(nil), append(x.vn, 0x1a2a3a4a), 3))
					// RFC 9368, Section 4: "A client that makes a connection attempt based on
					// information received from a Version Negotiation packet MUST ignore any
					// Version Negotiation packets it receives in response to that connection
					// attempt."
					tc.sendRaw(wire.AppendVersionNegotiation(nil, tc.dst.Append(nil), tc.odcid.Append(nil), []Version{0x1a2a3a4a}, 3))
					tc.spaces[recovery.Initial].in = cryptoStream{limit: 1 << 20}
				}
				tc.version = x.answer
				tc.initialKeys()
				tc.params.VersionInfo = x.info
				if x.code == NoError {
					tc.establish()
					if tc.conn.Version() != x.answer {
						t.Errorf("version %v", tc.conn.Version())
					}
					return
				}
				tc.startTLS()
				tc.feedTLS()
				tc.flushCrypto()
				tc.read()
				var te *TransportError
				if err := <-tc.dialed; !errors.As(err, &te) || te.Code != x.code || te.Remote {
					t.Errorf("Dial: %v, want %v", err, x.code)
				}
			})
		})
	}
}

// TestServerKeepsToItsVersion: after a CRYPTO frame in the original version, a
// client takes no other.
func TestServerKeepsToItsVersion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.startTLS()
		tc.feedTLS()
		tc.send(wire.PacketInitial, tc.ackFrame(recovery.Initial), tc.takeCrypto(recovery.Initial, 20))
		tc.version = Version2
		next := tc.spaces[recovery.Initial].next
		tc.initialKeys()
		tc.spaces[recovery.Initial].next = next
		drops := tc.ep.Stats().Drops["version"]
		tc.send(wire.PacketInitial, ping())
		if tc.ep.Stats().Drops["version"] != drops+1 || tc.conn.Version() != Version1 {
			t.Errorf("version %v", tc.conn.Version())
		}
	})
}

// TestGreaseIsSent: peers get reserved versions and transport parameters to ignore.
func TestGreaseIsSent(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		if !tc.theirs.GreaseBit {
			t.Error("no grease_quic_bit")
		}
		info, err := wire.ParseVersionInfo(tc.theirs.VersionInfo, tc.server)
		if err != nil || len(info.Available) != 3 {
			t.Fatalf("version information %v, %v", info, err)
		}
		reserved := 0
		for _, v := range info.Available {
			if v.Reserved() {
				reserved++
			}
		}
		if reserved != 1 {
			t.Errorf("%d reserved versions in %v", reserved, info.Available)
		}
		if tc.theirs.GreaseID != 0 {
			t.Error("the reserved parameter has a meaning")
		}
	})
	var p wire.TransportParams
	greaseParams(&p)
	plain := wire.TransportParams{}
	if got := p.Append(nil, false); len(got) <= len(plain.Append(nil, false)) || p.GreaseID == 0 {
		t.Errorf("no reserved parameter in %x", got)
	}
}

// TestQUICBit: RFC 9287. The bit is taken as it comes, and sent as it likes only to those who said they do not mind.
func TestQUICBit(t *testing.T) {
	bits := func(tc *testConn, n int) (zero, one int) {
		for range n {
			tc.send(wire.Packet1RTT, ping())
			tc.wait(30 * time.Millisecond)
			for _, p := range tc.packets() {
				if wire.HasFixedBit(p.raw[0]) {
					one++
				} else {
					zero++
				}
			}
		}
		return zero, one
	}
	for _, server := range []bool{true, false} {
		for _, offered := range []bool{true, false} {
			bubble(t, func(t *testing.T) {
				var tc *testConn
				if server {
					tc = newTestServer(t, nil)
				} else {
					tc = newTestClient(t, nil)
				}
				tc.params.GreaseBit = offered
				tc.establish()
				zero, one := bits(tc, 100)
				if one == 0 || (zero > 0) != offered {
					t.Errorf("server %v, offered %v: %d packets with bit 0, %d with bit 1", server, offered, zero, one)
				}
				before := tc.conn.Stats().PacketsReceived
				b := tc.sealPN(wire.Packet1RTT, tc.spaces[recovery.AppData].next, ping(), func(hdr []byte) { wire.ClearFixedBit(&hdr[0]) })
				tc.sendRaw(b)
				if tc.conn.Stats().PacketsReceived != before+1 {
					t.Error("a packet with QUIC bit 0 was dropped")
				}
			})
		}
	}
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.NoGrease = true
		tc := newTestServer(t, cfg)
		tc.params.GreaseBit = true
		tc.establish()
		if zero, _ := bits(tc, 50); zero > 0 || tc.theirs.GreaseBit {
			t.Errorf("%d packets with QUIC bit 0, parameter %v", zero, tc.theirs.GreaseBit)
		}
		// RFC 9000, Section 17.2: "Packets containing a zero value for this bit are not
		// valid packets in this version and MUST be discarded."
		before := tc.conn.Stats().PacketsReceived
		tc.sendRaw(tc.sealPN(wire.Packet1RTT, tc.spaces[recovery.AppData].next, ping(), func(hdr []byte) { wire.ClearFixedBit(&hdr[0]) }))
		if tc.conn.Stats().PacketsReceived != before {
			t.Error("a packet with QUIC bit 0 was taken")
		}
	})
}

// TestVersion2HandshakeBits: packets of version 2 have other type bits.
func TestVersion2HandshakeBits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := clientConfig()
		cfg.Versions = []Version{Version2}
		tc := newTestClient(t, cfg)
		ps := tc.packets()
		// RFC 9369, Section 3.2: "Initial: 0b01"
		if b := ps[0].raw[0]; b>>4&3 != 1 || ps[0].version != Version2 {
			t.Errorf("first byte %#x, version %v", b, ps[0].version)
		}
	})
}
