package quic

import (
	"crypto/tls"
	"fmt"
	"testing"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// crypto/tls does not let TLS 1.3 cipher suites be chosen; it keeps these two
// lists reachable for such tests.
//
//go:linkname suitesTLS13 crypto/tls.defaultCipherSuitesTLS13
var suitesTLS13 []uint16

//go:linkname suitesTLS13NoAES crypto/tls.defaultCipherSuitesTLS13NoAES
var suitesTLS13NoAES []uint16

// forceSuite has all handshakes of a test use one cipher suite.
func forceSuite(t testing.TB, suite uint16) {
	a, b := suitesTLS13, suitesTLS13NoAES
	suitesTLS13, suitesTLS13NoAES = []uint16{suite}, []uint16{suite}
	t.Cleanup(func() { suitesTLS13, suitesTLS13NoAES = a, b })
}

var suites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}

// TestCipherSuites: each suite of TLS 1.3, in both versions, over a network and through key updates.
func TestCipherSuites(t *testing.T) {
	for _, suite := range suites {
		for _, v := range defaultVersions {
			t.Run(fmt.Sprintf("%s %v", tls.CipherSuiteName(suite), v), func(t *testing.T) {
				forceSuite(t, suite)
				bubble(t, func(t *testing.T) {
					scfg, ccfg := serverConfig(), clientConfig()
					scfg.Versions, ccfg.Versions = []Version{v}, []Version{v}
					sp := newSimPair(t, 1, simnet.Params{Delay: 5 * time.Millisecond, Loss: 0.01}, scfg)
					c, s := sp.dial(ccfg)
					if c.TLS().Suite != suite || c.Version() != v {
						t.Fatalf("suite %x, %v", c.TLS().Suite, c.Version())
					}
					for i := range 3 {
						sp.exchange(c, s, 2, 200<<10)
						if err := []*Conn{c, s}[i%2].UpdateKeys(); err != nil {
							t.Error(err)
						}
						time.Sleep(time.Second)
					}
				})
			})
		}
	}
}

// TestConfidentialityLimit: RFC 9001, Section 6.6. Keys are updated before one has
// sealed as much as it may, and the connection ends where they cannot be.
func TestConfidentialityLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// Less in flight than the limit leaves room for: what is not acknowledged yet
		// cannot be followed by another update.
		scfg, ccfg := serverConfig(), clientConfig()
		for _, cfg := range []*Config{scfg, ccfg} {
			cfg.StreamWindow, cfg.MaxStreamWindow, cfg.ConnWindow, cfg.MaxConnWindow = 32<<10, 32<<10, 64<<10, 64<<10
		}
		sp := newSimPair(t, 1, simnet.Params{Delay: 5 * time.Millisecond}, scfg)
		c, s := sp.dial(ccfg)
		time.Sleep(time.Second)
		const limit = 800
		for _, x := range []*Conn{c, s} {
			x.lock()
			x.app.maxSealed = limit
			x.unlock()
		}
		sp.exchange(c, s, 2, 4<<20)
		for _, x := range []*Conn{c, s} {
			st := x.Stats()
			x.lock()
			if least := st.PacketsSent / limit; st.KeyUpdates < least || x.app.sealed > limit {
				t.Errorf("%d key updates for %d packets, the last key has sealed %d", st.KeyUpdates, st.PacketsSent, x.app.sealed)
			}
			x.unlock()
		}
	})
	either(t, func(t *testing.T, tc *testConn) {
		tc.conn.lock()
		tc.conn.app.maxSealed = tc.conn.app.sealed + 40
		tc.conn.unlock()
		// nothing is acknowledged: no update may follow the first
		for range 200 {
			tc.send(wire.Packet1RTT, ping())
			tc.wait(30 * time.Millisecond)
			if tc.conn.Err() != nil {
				break
			}
		}
		tc.wantClose(AEADLimitReached)
	})
}

// TestIntegrityLimit: "If the total number of received packets that fail
// authentication within the connection, across all keys, exceeds the integrity
// limit for the selected AEAD, the endpoint MUST immediately close the connection".
func TestIntegrityLimit(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.conn.lock()
		tc.conn.app.maxFailed = tc.conn.app.failed + 30
		tc.conn.unlock()
		for i := range 30 {
			if i == 15 { // across all keys
				tc.updateKeys()
				tc.send(wire.Packet1RTT, ping())
				tc.wait(5 * time.Millisecond)
			}
			b := tc.build(wire.Packet1RTT, ping(), wire.AppendPadding(nil, 40))
			b[len(b)-1] ^= 1
			tc.sendRaw(b)
		}
		tc.wantOpen()
		b := tc.build(wire.Packet1RTT, ping(), wire.AppendPadding(nil, 40))
		b[len(b)-1] ^= 1
		tc.sendRaw(b)
		tc.wantClose(AEADLimitReached)
	})
}

// TestHostile09UpdateRate: updates that wait for their acknowledgment, but come without end.
func TestHostile09UpdateRate(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		for range 2 * maxKeyUpdates {
			tc.updateKeys()
			tc.send(wire.Packet1RTT, ping())
			tc.send(wire.Packet1RTT, ping())
			tc.wait(5 * time.Millisecond)
			tc.read()
			if tc.conn.Err() != nil {
				break
			}
		}
		tc.wantClose(KeyUpdateError)
		if n := tc.conn.Stats().KeyUpdates; n != maxKeyUpdates {
			t.Errorf("%d updates were followed", n)
		}
	})
}

// TestKeyUpdateTiming compares the work that packets cost at a key update. Opening
// allocates nothing, making keys does: a packet that none is made for costs one AEAD
// operation, whatever phase it claims and whether it is authentic.
func TestKeyUpdateTiming(t *testing.T) {
	for _, suite := range suites {
		var k appKeys
		size := 32
		if suite == tls.TLS_AES_256_GCM_SHA384 {
			size = 48
		}
		key := func(secret byte) *protect.Key {
			b := make([]byte, size)
			b[0] = secret
			x, err := protect.NewKey(Version1, suite, b)
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		peer, pn := key(1), uint64(0)
		if err := k.install(true, key(2)); err != nil {
			t.Fatal(err)
		}
		if err := k.install(false, key(1)); err != nil {
			t.Fatal(err)
		}
		now := time.Unix(1e9, 0)
		buf := make([]byte, 0, 1500)
		work := func(name string, from *protect.Key, phase, forged, ok bool) {
			t.Helper()
			pkt := from.Seal(nil, make([]byte, 1200), nil, pn)
			if forged {
				pkt[5] ^= 1
			}
			n := testing.AllocsPerRun(20, func() {
				pkt := append(buf[:0], pkt...)
				if _, updated, err := k.open(now, time.Second, phase, pn, pkt, nil); (err == nil) != ok {
					t.Errorf("%x, %s: %v", suite, name, err)
				} else if updated {
					if err := k.rotate(0); err != nil {
						t.Error(err)
					}
					k.heard(now, time.Second, pn)
				}
			})
			if n != 0 {
				t.Errorf("%x, %s: %v allocations: keys were made for a packet", suite, name, n)
			}
			pn++
		}
		next, err := peer.Next()
		if err != nil {
			t.Fatal(err)
		}
		work("present phase", peer, false, false, true)
		work("present phase, forged", peer, false, true, false)
		work("next phase, forged", next, true, true, false)
		work("next phase", next, true, false, true) // the first of its 21 runs is the update
		if !k.phase || !k.due() {
			t.Fatalf("%x: the keys were not updated", suite)
		}
		after, err := next.Next()
		if err != nil {
			t.Fatal(err)
		}
		work("the phase after, not yet ready", after, false, false, false)
		if err := k.prepare(); err != nil {
			t.Fatal(err)
		}
		work("the phase after", after, false, false, true)
		if n := testing.AllocsPerRun(5, func() { _, _ = after.Next() }); n == 0 {
			t.Error("making a key allocates nothing: this test shows nothing")
		}
	}
}

// TestNextKeysAreReady: the timer makes the next keys soon after an update.
func TestNextKeysAreReady(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		due := func() bool {
			tc.conn.lock()
			defer tc.conn.unlock()
			return tc.conn.app.due()
		}
		if due() {
			t.Error("no keys are ready at the start")
		}
		tc.updateKeys()
		tc.send(wire.Packet1RTT, ping())
		if !due() {
			t.Error("keys were made for a packet")
		}
		tc.wait(2 * timerGranularity)
		if due() {
			t.Error("no keys are ready after the update")
		}
		tc.spaces[recovery.AppData].next++
	})
}
