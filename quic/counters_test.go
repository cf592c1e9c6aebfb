package quic

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestCounters: each counter of the kernel's implementation, by its name there, moves
// by one when once happens what it counts (docs/quic.md).
func TestCounters(t *testing.T) {
	sealShort := func(tc *testConn, edit func([]byte), frames ...[]byte) []byte {
		var payload []byte
		for _, f := range frames {
			payload = append(payload, f...)
		}
		return tc.sealPN(wire.Packet1RTT, tc.spaces[recovery.AppData].next, append(payload, make([]byte, 20)...), edit)
	}
	for _, one := range []struct {
		name    string
		provoke func(tc *testConn)
		get     func(s *Stats) int64
	}{
		{"QuicPktRcvFastpaths, QuicPktDecFastpaths", func(tc *testConn) { tc.send(wire.Packet1RTT, ping()) }, func(s *Stats) int64 { return int64(s.PacketsReceived) }},
		{"QuicPktEncFastpaths", func(tc *testConn) { tc.write(tc.openStream(), []byte("data")) }, func(s *Stats) int64 { return int64(s.PacketsSent) }},
		{"QuicPktRcvBacklogs", func(tc *testConn) {
			tc.conn.lock()
			tc.send(wire.Packet1RTT, ping())
			tc.conn.unlock()
		}, func(s *Stats) int64 { return s.ReceivedLater }},
		{"QuicPktInvHdrDrop", func(tc *testConn) {
			tc.sendRaw(sealShort(tc, func(hdr []byte) { hdr[0] |= 0x18 }, ping()))
		}, func(s *Stats) int64 { return s.Drops["header"] }},
		{"QuicPktInvNumDrop", func(tc *testConn) {
			b := sealShort(tc, nil, ping())
			tc.sendRaw(b)
			tc.sendRaw(b)
		}, func(s *Stats) int64 { return s.Drops["duplicate"] }},
		{"QuicPktInvFrmDrop", func(tc *testConn) { tc.sendRaw(sealShort(tc, nil, []byte{0x3f})) }, func(s *Stats) int64 { return s.Drops["frame"] }},
		{"QuicPktRcvDrop", func(tc *testConn) {
			tc.conn.lock()
			tc.conn.inbox.mu.Lock()
			tc.conn.inbox.pinned = maxInboxBytes
			tc.conn.inbox.mu.Unlock()
			tc.send(wire.Packet1RTT, ping())
			time.Sleep(2 * busyWaits * busyWait)
			tc.conn.inbox.mu.Lock()
			tc.conn.inbox.pinned = 0
			tc.conn.inbox.mu.Unlock()
			tc.conn.unlock()
		}, func(s *Stats) int64 { return s.Drops["busy"] }},
		{"QuicPktDecDrop", func(tc *testConn) {
			b := sealShort(tc, nil, ping())
			b[len(b)-1] ^= 1
			tc.sendRaw(b)
		}, func(s *Stats) int64 { return s.Drops["decrypt"] }},
		{"QuicPktEncDrop", func(tc *testConn) {
			tc.write(tc.openStream(), []byte("opens the flow"))
			tc.settle()
			tc.conn.lock()
			tc.conn.app.flow.Remove()
			tc.conn.unlock()
			tc.write(tc.openStream(), []byte("not sealed"))
		}, func(s *Stats) int64 { return s.Drops["encrypt"] }},
		{"QuicFrmRcvBufDrop", func(tc *testConn) {
			tc.conn.lock()
			tc.conn.acct.lateMax = 0
			tc.conn.unlock()
			tc.sendRaw(sealShort(tc, nil, streamFrame(tc.peerStream(0, false), 1000, pattern(0, 1000), false)))
		}, func(s *Stats) int64 { return s.Drops["budget"] }},
		{"QuicFrmRetrans", func(tc *testConn) {
			s := tc.openStream()
			tc.write(s, []byte("lost"))
			tc.frames()
			tc.spaces[recovery.AppData].got = nil
			for range 5 {
				tc.write(s, []byte("arrives"))
			}
			tc.frames()
			tc.ack(wire.Packet1RTT)
		}, func(s *Stats) int64 { return int64(s.FramesRetransmitted) }},
		{"QuicFrmOutCloses", func(tc *testConn) {
			_ = tc.conn.CloseWithError(1, "bye")
			_ = tc.conn.CloseWithError(1, "again")
			tc.send(wire.Packet1RTT, ping())
		}, func(s *Stats) int64 { return s.ClosesSent }},
		{"QuicFrmInCloses", func(tc *testConn) {
			b := wire.AppendConnectionClose(nil, true, 1, 0, []byte("bye"))
			tc.send(wire.Packet1RTT, b)
			tc.send(wire.Packet1RTT, b)
		}, func(s *Stats) int64 { return s.ClosesReceived }},
	} {
		t.Run(one.name, func(t *testing.T) {
			either(t, func(t *testing.T, tc *testConn) {
				before := tc.ep.Stats()
				one.provoke(tc)
				synctest.Wait()
				after := tc.ep.Stats()
				if n := one.get(&after) - one.get(&before); n != 1 {
					t.Errorf("counted %d", n)
				}
			})
		})
	}
}

// TestCountersOfRetransmission: the bytes, too, and no byte that was not lost.
func TestCountersOfRetransmission(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sp := newSimPair(t, 1, simnet.Params{Delay: 10 * time.Millisecond}, serverConfig())
		c, s := sp.dial(clientConfig())
		time.Sleep(time.Second)
		lost := 0
		sp.net.Link(clientHost, serverHost).Script(func(p *simnet.Packet) {
			if len(p.Data) > 1000 && lost == 0 {
				p.Drop = true
				lost++
			}
		})
		before := c.Stats()
		sp.exchange(c, s, 1, 20_000)
		after := c.Stats()
		if n := after.FramesRetransmitted - before.FramesRetransmitted; n != 1 || lost != 1 {
			t.Errorf("%d frames were sent again, of %d lost packets", n, lost)
		}
		if n := after.BytesRetransmitted - before.BytesRetransmitted; n < 1000 || n > uint64(after.MTU) {
			t.Errorf("%d bytes were sent again", n)
		}
	})
}

// TestCountersOfConnections: who began a connection, how many there are, and who
// ended them. QuicConnCurrentEstabs, QuicConnPassiveEstabs, QuicConnActiveEstabs,
// QuicFrmOutCloses and QuicFrmInCloses there.
func TestCountersOfConnections(t *testing.T) {
	type counts struct{ current, active, passive, out, in int64 }
	of := func(e *Endpoint) counts {
		s := e.Stats()
		return counts{int64(s.Established), s.Dialed, s.Handshakes, s.ClosesSent, s.ClosesReceived}
	}
	bubble(t, func(t *testing.T) {
		sp := newSimPair(t, 1, simnet.Params{Delay: 10 * time.Millisecond}, serverConfig())
		check := func(client, server counts) {
			t.Helper()
			time.Sleep(time.Second)
			if c, s := of(sp.client), of(sp.server); c != client || s != server {
				t.Errorf("the client counts %+v, want %+v; the server %+v, want %+v", c, client, s, server)
			}
			if n := len(sp.client.Conns()); n != int(client.current) {
				t.Errorf("%d connections are listed", n)
			}
		}
		check(counts{}, counts{})
		c, s := sp.dial(clientConfig())
		check(counts{current: 1, active: 1}, counts{current: 1, passive: 1})
		_, other := sp.dial(clientConfig())
		check(counts{current: 2, active: 2}, counts{current: 2, passive: 2})
		_ = c.CloseWithError(0, "")
		check(counts{current: 1, active: 2, out: 1}, counts{current: 1, passive: 2, in: 1})
		other.CloseTransport(NoError, "")
		check(counts{active: 2, out: 1, in: 1}, counts{passive: 2, in: 1, out: 1})
		_ = s
	})
}

// TestCountersOfEarlyPackets: QuicPktDecBacklogs, packets that came before their keys.
func TestCountersOfEarlyPackets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil)
		tc.startTLS()
		tc.flushCrypto()
		tc.feedTLS()
		tc.send(wire.Packet1RTT, ping())
		tc.flushCrypto()
		if n := tc.ep.Stats().OpenedLater; n != 1 {
			t.Errorf("%d packets waited for their keys", n)
		}
	})
}
