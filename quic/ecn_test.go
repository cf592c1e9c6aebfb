package quic

import (
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// honestPeer is an established connection whose peer reports the marks it sees.
func honestPeer(t *testing.T, server bool) *testConn {
	t.Helper()
	tc := newTestClient
	if server {
		tc = newTestServer
	}
	c := tc(t, nil)
	c.ecn = true
	return c.establish()
}

func bothRoles(t *testing.T, f func(t *testing.T, tc *testConn)) {
	t.Helper()
	t.Run("server", func(t *testing.T) { bubble(t, func(t *testing.T) { f(t, honestPeer(t, true)) }) })
	t.Run("client", func(t *testing.T) { bubble(t, func(t *testing.T) { f(t, honestPeer(t, false)) }) })
}

// RFC 9000, Section 13.4.2: marks are set, validated and kept.
func TestECNValidated(t *testing.T) {
	bothRoles(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		for range 12 {
			tc.write(s, []byte("x"))
			tc.read()
			tc.ack(wire.Packet1RTT)
		}
		if st := tc.conn.Stats(); st.ECN != "capable" || st.CEReports != 0 {
			t.Fatalf("ECN %s, %d CE reports", st.ECN, st.CEReports)
		}
		tc.settle()
		tc.write(s, []byte("x"))
		for _, p := range tc.packets() {
			if p.ecn != udp.ECT0 {
				t.Errorf("a packet is marked %d", p.ecn)
			}
		}
	})
}

// RFC 9002, Section 7.1: CE is a signal of congestion; Section 7.3.2: once a
// round trip.
func TestECNCongestion(t *testing.T) {
	bothRoles(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		tc.write(s, pattern(0, 3000))
		tc.wait(30 * time.Millisecond)
		tc.settle()
		window := tc.conn.Stats().CongestionWindow
		tc.write(s, pattern(3000, 6000))
		tc.congested = true
		tc.read()
		pns := tc.spaces[recovery.AppData].got
		if len(pns) < 4 {
			t.Fatalf("%d packets", len(pns))
		}
		all := tc.spaces[recovery.AppData].marks
		// two ACK frames of one round trip, both with more CE than before
		first := all
		first[2] -= 2
		tc.wait(10 * time.Millisecond)
		tc.send(wire.Packet1RTT, wire.AppendAck(nil, ackRanges(pns[:len(pns)-2]), 0, &first, 4096))
		once := tc.conn.Stats().CongestionWindow
		if once >= window || once < window/3 {
			t.Errorf("window %d after a CE report, it was %d", once, window)
		}
		tc.send(wire.Packet1RTT, wire.AppendAck(nil, ackRanges(pns), 0, &all, 4096))
		st := tc.conn.Stats()
		if st.CongestionWindow < once || st.CEReports != 2 {
			t.Errorf("window %d, then %d; %d reports", once, st.CongestionWindow, st.CEReports)
		}
		if st.PacketsLost != 0 {
			t.Errorf("%d packets lost", st.PacketsLost)
		}
	})
}

// RFC 9000, Section 13.4.2.1: counts that fall, that are missing, and marks
// that were never set end marking, and nothing else.
func TestECNFails(t *testing.T) {
	for name, lie := range map[string]func(m [3]uint64) *[3]uint64{
		"no counts": func([3]uint64) *[3]uint64 { return nil },
		"falling":   func(m [3]uint64) *[3]uint64 { m[0] -= 2; return &m },
		"ECT(1)":    func(m [3]uint64) *[3]uint64 { m[1]++; return &m },
		"too many":  func(m [3]uint64) *[3]uint64 { m[0] += 1000; return &m },
		"bleached":  func(m [3]uint64) *[3]uint64 { m[0] = 0; return &m },
	} {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, tc *testConn) {
				s := tc.openStream()
				tc.write(s, pattern(0, 5000))
				tc.read()
				sp := &tc.spaces[recovery.AppData]
				if sp.marks[0] == 0 {
					t.Fatal("nothing was marked")
				}
				tc.send(wire.Packet1RTT, wire.AppendAck(nil, ackRanges(sp.got), 0, lie(sp.marks), 4096))
				if st := tc.conn.Stats(); st.ECN != "failed" || st.CEReports != 0 {
					t.Errorf("ECN %s, %d reports", st.ECN, st.CEReports)
				}
				tc.packets()
				tc.write(s, pattern(5000, 1000))
				for _, p := range tc.packets() {
					if p.ecn != udp.NotECT {
						t.Error("still marking")
					}
				}
				tc.wantOpen()
			})
		})
	}
}

// What paths do to marks: the transfer succeeds on all of them.
func TestECNPolicies(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy simnet.ECNPolicy
		want   string
	}{
		{"kept", simnet.ECNKeep, "capable"},
		{"bleached", simnet.ECNBleach, "failed"},
		{"rewritten to ECT(1)", simnet.ECNToECT1, "failed"},
		{"all CE", simnet.ECNAllCE, "failed"},
		{"dropped", simnet.ECNDropAll, "failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				sp := newSimPair(t, 1, simnet.Params{Delay: 5 * time.Millisecond, ECN: c.policy}, patient(serverConfig()))
				client, server := sp.dial(patient(clientConfig()))
				sp.exchange(client, server, 2, 300<<10)
				for _, conn := range []*Conn{client, server} {
					st := conn.Stats()
					if st.ECN != c.want {
						t.Errorf("ECN %s, want %s", st.ECN, c.want)
					}
					if c.policy == simnet.ECNAllCE && st.CongestionWindow < 10*minDatagram {
						t.Errorf("window %d because of a path that marks everything", st.CongestionWindow)
					}
				}
			})
		})
	}
}

// A queue that marks instead of dropping keeps a sender at its rate without loss.
func TestECNQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := simnet.Params{Delay: 10 * time.Millisecond, Rate: 2 << 20, Queue: 512 << 10, MarkAt: 32 << 10}
		sp := newSimPair(t, 1, p, patient(serverConfig()))
		client, server := sp.dial(patient(clientConfig()))
		start := time.Now()
		sp.exchange(client, server, 1, 8<<20)
		took := time.Since(start)
		for _, conn := range []*Conn{client, server} {
			if st := conn.Stats(); st.ECN != "capable" || st.CEReports == 0 || st.PacketsLost != 0 {
				t.Errorf("ECN %s, %d CE reports, %d packets lost", st.ECN, st.CEReports, st.PacketsLost)
			}
		}
		if took > 6*time.Second {
			t.Errorf("8 MiB at 2 MiB/s took %v", took)
		}
	})
}
