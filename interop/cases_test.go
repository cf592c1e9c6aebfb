package interop

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// The cases of quic-interop-runner (https://interop.seemann.io), with its
// assertions, each of our client and of our server with every peer. What makes
// the table in docs/interop.md.

// A matchup is one cell of the table: a client and a server, one of them ours.
type matchup struct {
	*testing.T
	peer           peer
	name           string // of the case
	role           string // the peer's: client or server
	client, server peer
}

// A testCase is one line of the table.
type testCase struct {
	name      string
	what      string // for the table
	long      bool   // only with INTEROP_LONG
	suites    bool   // chooses TLS cipher suites: in a process of its own where the peer is in Go
	namespace bool   // in a network namespace of its own
	run       func(m *matchup)
}

const (
	kB = 1000
	mB = 1000 * kB
)

// limit is for what takes seconds, on a machine that may have a lot else to do.
const limit = 5 * time.Minute

// link is the network of most cases: quic-interop-runner's delay, at five times its rate.
func link() *faults { return &faults{delay: 15 * time.Millisecond, rate: 50e6, queue: 100} }

// slow is quic-interop-runner's network.
func slow() *faults { return &faults{delay: 15 * time.Millisecond, rate: 10e6, queue: 25} }

var cases = []testCase{
	{name: "handshake", what: "1 kB over version 1, without Retry", run: handshakeCase},
	{name: "transfer", what: "2, 3 and 5 MB at once on one connection", run: transferCase},
	{name: "longrtt", what: "a round trip of 1.5 s; the ClientHello is sent again", run: longRTTCase},
	{name: "chacha20", what: "the peer offers TLS_CHACHA20_POLY1305_SHA256 only; 3 MB", suites: true, run: chaCha20Case},
	{name: "multiplexing", what: "1999 files of 32 bytes, at most 1000 streams allowed at first", run: multiplexingCase},
	{name: "retry", what: "the token comes back; packet numbers go on", run: retryCase},
	{name: "resumption", what: "the second handshake has no certificate", run: resumptionCase},
	{name: "zerortt", what: "39 requests with long names in 0-RTT packets", long: true, run: zeroRTTCase},
	{name: "blackhole", what: "10 MB; the network is gone for 2 s, twice", long: true, run: blackholeCase},
	{name: "keyupdate", what: "the peer updates its keys, then we do; both ends use the next phase", run: keyUpdateCase},
	{name: "ecn", what: "both ends mark, both report the marks", run: ecnCase},
	{name: "amplificationlimit", what: "9 certificates, packets 3 to 6 to the server lost; three times what came is never exceeded (by others four times)", run: amplificationCase},
	{name: "handshakeloss", what: "50 connections; 30 % of datagrams lost, each way", long: true, run: func(m *matchup) { m.badHandshakes(&faults{loss: 0.3}) }},
	{name: "handshakecorruption", what: "50 connections; 30 % of datagrams damaged, each way", long: true, run: func(m *matchup) { m.badHandshakes(&faults{corrupt: 0.3}) }},
	{name: "transferloss", what: "2 MB; 2 % of datagrams lost", run: func(m *matchup) { m.badTransfer(&faults{loss: 0.02}) }},
	{name: "transfercorruption", what: "2 MB; 2 % of datagrams damaged", run: func(m *matchup) { m.badTransfer(&faults{corrupt: 0.02}) }},
	{name: "ipv6", what: "5 MB over IPv6", run: ipv6Case},
	{name: "v2", what: "version 1 becomes version 2 in the handshake (RFC 9368)", run: version2Case},
	{name: "rebind-port", what: "10 MB while the client's port changes", run: func(m *matchup) { m.rebinding(false) }},
	{name: "rebind-addr", what: "10 MB while the client's address changes", run: func(m *matchup) { m.rebinding(true) }},
	{name: "connectionmigration", what: "the client moves to the server's preferred address, with another connection ID", run: preferredCase},
	{name: "goodput", what: "10 MB over 10 Mbit/s, five times", long: true, run: goodputCase},
	{name: "crosstraffic", what: "25 MB beside a TCP connection with CUBIC, over a link of 20 Mbit/s that they share", long: true, namespace: true, run: crossTrafficCase},
}

// play is one exchange with checks that every case has.
func (m *matchup) play(w wants, f *faults, limit time.Duration, sizes map[string]int, meanwhile func(context.Context, *stage)) *stage {
	m.Helper()
	st := newStage(m.T, w, sizes)
	var side func(context.Context)
	if meanwhile != nil {
		side = func(ctx context.Context) { meanwhile(ctx, st) }
	}
	st.play(m.client, m.server, f, limit, side)
	if m.Failed() {
		m.FailNow()
	}
	return st
}

func one(size int) map[string]int { return map[string]int{"file": size} }

// onConnections checks how many connections there were, and their version.
func (st *stage) onConnections(n int, v quic.Version) {
	st.Helper()
	cs := st.connections()
	st.want(len(cs) == n, "%d connections, want %d", len(cs), n)
	for _, c := range cs {
		st.want(c.Version() == v, "version %v, want %v", c.Version(), v)
	}
}

func handshakeCase(m *matchup) {
	st := m.play(wants{}, link(), limit, one(kB), nil)
	st.onConnections(1, quic.Version1)
	st.want(st.proxy.retries.Load() == 0, "a Retry packet was sent")
}

func transferCase(m *matchup) {
	st := m.play(wants{}, link(), limit, map[string]int{"a": 2 * mB, "b": 3 * mB, "c": 5 * mB}, nil)
	st.onConnections(1, quic.Version1)
	st.want(st.frames(m.role == "server", "max_data") > 0, "the client's flow control limit did not grow")
}

func longRTTCase(m *matchup) {
	st := m.play(wants{}, &faults{delay: 750 * time.Millisecond, rate: 10e6, queue: 25}, limit, one(kB), nil)
	st.onConnections(1, quic.Version1)
	st.want(st.proxy.sights.clientHellos >= 2, "%d packets that begin a ClientHello", st.proxy.sights.clientHellos)
}

func chaCha20Case(m *matchup) {
	if _, inGo := stacksInGo[m.peer.name]; inGo {
		a, b := suitesTLS13, suitesTLS13NoAES
		suitesTLS13, suitesTLS13NoAES = []uint16{tls.TLS_CHACHA20_POLY1305_SHA256}, []uint16{tls.TLS_CHACHA20_POLY1305_SHA256}
		m.Cleanup(func() { suitesTLS13, suitesTLS13NoAES = a, b })
	}
	st := m.play(wants{chacha20: true}, link(), limit, one(3*mB), nil)
	for _, c := range st.connections() {
		st.want(c.Conn.TLS().Suite == tls.TLS_CHACHA20_POLY1305_SHA256, "cipher suite %#x", c.Conn.TLS().Suite)
	}
}

func multiplexingCase(m *matchup) {
	sizes := map[string]int{}
	for i := range 1999 {
		sizes[fmt.Sprintf("%04d", i)] = 32
	}
	st := m.play(wants{}, link(), limit, sizes, nil)
	st.onConnections(1, quic.Version1)
}

func retryCase(m *matchup) {
	st := m.play(wants{retry: true}, link(), limit, one(kB), nil)
	s := &st.proxy.sights
	st.want(st.proxy.retries.Load() > 0, "no Retry packet was seen")
	st.want(len(s.afterRetry) > 0, "the token did not come back")
	for _, pn := range s.afterRetry {
		// RFC 9000, Section 17.2.5.3: "A client MUST NOT reset the packet number for
		// any packet number space after processing a Retry packet."
		st.want(pn > 0, "packet number %d after Retry", pn)
	}
}

func resumptionCase(m *matchup) {
	st := m.play(wants{resume: true}, link(), limit, map[string]int{"a": kB, "b": kB}, nil)
	cs := st.connections()
	if len(cs) != 2 {
		m.Fatalf("%d connections, want 2", len(cs))
	}
	st.want(!cs[0].TLS().resumed && cs[1].TLS().resumed, "resumed: %v and %v", cs[0].TLS().resumed, cs[1].TLS().resumed)
}

func zeroRTTCase(m *matchup) {
	sizes := map[string]int{}
	for i := range 40 {
		sizes[fmt.Sprintf("%02d%s", i, strings.Repeat("n", 248))] = 32
	}
	st := m.play(wants{resume: true, early: true}, link(), limit, sizes, nil)
	cs := st.connections()
	if len(cs) != 2 {
		m.Fatalf("%d connections, want 2", len(cs))
	}
	tls := cs[1].Conn.TLS() // nil where the client had all files, and left, before the end of the handshake
	st.want(tls == nil || tls.EarlyData, "the server did not take 0-RTT")
	st.want(st.proxy.sights.number(true, wire.Packet0RTT, wire.Version1) > 0, "no 0-RTT packet was sent")
	early := st.streamBytes(m.role == "server", wire.Packet0RTT)
	st.want(early > 39*250/2, "%d bytes of requests in 0-RTT packets", early)
}

func blackholeCase(m *matchup) {
	st := m.play(wants{}, slow(), limit, one(10*mB), func(ctx context.Context, st *stage) {
		for _, at := range []int64{mB, 6 * mB} {
			if !st.proxy.passed(ctx, at) {
				return
			}
			st.proxy.black.Store(true)
			select {
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
			}
			st.proxy.black.Store(false)
		}
	})
	st.onConnections(1, quic.Version1)
}

func keyUpdateCase(m *matchup) {
	for _, w := range []wants{{keyUpdate: true}, {weUpdate: true}} {
		st := m.play(w, link(), limit, one(3*mB), nil)
		phase1 := func(e *event) bool {
			return e.Data.Header.Type == wire.Packet1RTT.String() && e.Data.Header.KeyPhase == 1
		}
		st.want(st.packets(true, phase1) > 0, "peer begins: %v: we have sent nothing of the next key phase", w.keyUpdate)
		st.want(st.packets(false, phase1) > 0, "peer begins: %v: the peer has sent nothing of the next key phase", w.keyUpdate)
	}
}

func ecnCase(m *matchup) {
	st := m.play(wants{}, nil, limit, one(3*mB), nil)
	for _, c := range st.connections() {
		st.want(c.Stats().ECN == "capable", "our path is %q", c.Stats().ECN)
	}
	for sent, who := range map[bool]string{true: "we", false: "the peer"} {
		n := st.packets(sent, func(e *event) bool {
			for _, f := range e.Data.Frames {
				if f.CE > 0 {
					st.Errorf("%s reported congestion marks", who)
				}
				if f.Type == "ack" && f.ECT0 > 0 {
					return true
				}
			}
			return false
		})
		st.want(n > 0, "%s did not report marks", who)
	}
}

func amplificationCase(m *matchup) {
	f := link()
	f.passToServer, f.dropToServer = 2, 4 // after a ClientHello with a post-quantum key share
	st := m.play(wants{chain: true}, f, limit, one(5*kB), nil)
	st.onConnections(1, quic.Version1)
	// RFC 9000, Section 8.1: "Prior to validating the client address, servers MUST NOT
	// send more than three times as many bytes as the number of bytes they have
	// received." From others quic-interop-runner takes four times.
	allowed := 3.0
	if m.role == "server" {
		allowed = 4
	}
	st.want(st.proxy.sights.amplified <= allowed, "the server sent %.2f times what it had got", st.proxy.sights.amplified)
}

func (m *matchup) badHandshakes(f *faults) {
	if _, ok := eased[[2]string{m.name, m.peer.name}]; ok {
		f.loss, f.corrupt = f.loss/3, f.corrupt/3
	}
	sizes := map[string]int{}
	for i := range 50 {
		sizes[fmt.Sprintf("%02d", i)] = kB
	}
	f.delay, f.rate, f.queue, f.burst, f.seed = 15*time.Millisecond, 10e6, 25, 3, 1
	m.play(wants{each: true}, f, 10*time.Minute, sizes, nil)
}

func (m *matchup) badTransfer(f *faults) {
	f.delay, f.rate, f.queue, f.burst, f.seed = 15*time.Millisecond, 50e6, 100, 3, 2
	st := m.play(wants{}, f, limit, one(2*mB), nil)
	st.onConnections(1, quic.Version1)
}

func ipv6Case(m *matchup) {
	st := m.play(wants{at: netip.MustParseAddrPort("[::1]:0")}, link(), limit, one(5*mB), nil)
	for _, c := range st.connections() {
		st.want(c.RemoteAddrPort().Addr().Is6(), "the peer is at %v", c.RemoteAddrPort())
	}
}

func version2Case(m *matchup) {
	st := m.play(wants{v2: true}, link(), limit, one(kB), nil)
	st.onConnections(1, quic.Version2)
	s := &st.proxy.sights
	st.want(s.number(true, wire.PacketInitial, wire.Version1) > 0, "the client did not begin with version 1")
	// Before it has the whole ClientHello a server may acknowledge parts of it in version 1.
	st.want(!s.late && s.number(false, wire.PacketInitial, wire.Version2) > 0, "the server's Initial packets are not of version 2")
	for _, up := range []bool{true, false} {
		st.want(s.number(up, wire.PacketHandshake, wire.Version1) == 0 && s.number(up, wire.PacketHandshake, wire.Version2) > 0, "Handshake packets that are not of version 2, to the server: %v", up)
	}
}

// rebinding changes the client's port or address twice in the middle of a transfer.
func (m *matchup) rebinding(addr bool) {
	f := slow()
	f.rate *= 2
	st := m.play(wants{}, f, limit, one(10*mB), func(ctx context.Context, st *stage) {
		for i, at := range []int64{mB, 6 * mB} {
			if !st.proxy.passed(ctx, at) {
				return
			}
			to := st.at.Addr()
			if addr {
				to = netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i)})
			}
			st.proxy.RebindTo(m.T, to)
			st.proxy.Cut()
		}
	})
	st.onConnections(1, quic.Version1)
	byUs := m.role == "client" // our server challenges, its client answers
	challenged, answered := st.frames(byUs, "path_challenge"), st.frames(!byUs, "path_response")
	st.want(challenged >= 2, "2 changes, %d challenges", challenged)
	st.want(answered >= 2, "2 changes, %d answers", answered)
}

func preferredCase(m *matchup) {
	st := newStage(m.T, wants{}, one(3*mB))
	// The preferred address leads to the same server by another way.
	second := newProxy(m.T, netip.AddrPort{}, *link())
	st.preferred = second.Addr()
	server := m.server
	server.serve = func(st *stage) netip.AddrPort {
		to := m.server.serve(st)
		second.aim(to)
		return to
	}
	st.play(m.client, server, link(), limit, nil)
	first, moved := st.proxy.sights.idsSeen(), second.sights.idsSeen()
	st.want(len(moved) > 0, "the client did not move")
	for id := range moved {
		// RFC 9000, Section 9.6.1 and Section 9.5.
		st.want(!first[id], "a connection ID was used at both addresses")
	}
	for _, c := range st.connections() {
		if m.role == "server" {
			st.want(c.RemoteAddrPort() == second.Addr(), "our client sends to %v, want %v", c.RemoteAddrPort(), second.Addr())
		} else {
			st.want(c.RemoteAddrPort() == second.back(), "our server sends to %v, want %v", c.RemoteAddrPort(), second.back())
		}
	}
}

func goodputCase(m *matchup) {
	var rates []string
	for range 5 {
		st := m.play(wants{}, slow(), limit, one(10*mB), nil)
		rates = append(rates, fmt.Sprintf("%.2f", 8*10/st.took.Seconds()))
	}
	note(m.T, strings.Join(rates, " ")+" Mbit/s")
}
