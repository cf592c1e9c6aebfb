package quic

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// datagramConn is an established connection that takes DATAGRAM frames of 1000
// bytes, with a peer that takes some of max bytes.
func datagramConn(t testing.TB, server bool, max uint64) *testConn {
	t.Helper()
	var tc *testConn
	if server {
		cfg := serverConfig()
		cfg.MaxDatagramFrame = 1000
		tc = newTestServer(t, cfg)
	} else {
		cfg := clientConfig()
		cfg.MaxDatagramFrame = 1000
		tc = newTestClient(t, cfg)
	}
	tc.params.MaxDatagram = max
	return tc.establish()
}

func datagramFrame(data []byte) []byte {
	return append(wire.AppendDatagramHeader(nil, len(data)), data...)
}

// eitherDatagrams runs f for both roles.
func eitherDatagrams(t *testing.T, max uint64, f func(t *testing.T, tc *testConn)) {
	t.Helper()
	for _, server := range []bool{true, false} {
		bubble(t, func(t *testing.T) { f(t, datagramConn(t, server, max)) })
	}
}

// TestDatagramSizes: the largest that fits is sent, one byte more is not, whether
// the peer's limit or the path's comes first; and the same for what is received.
func TestDatagramSizes(t *testing.T) {
	for _, limit := range []uint64{1, 2, 3, 40, 65, 66, 67, 1100, 1 << 20} {
		eitherDatagrams(t, limit, func(t *testing.T, tc *testConn) {
			n := tc.conn.MaxDatagramSize()
			frame := wire.DatagramHeaderLen(n) + n
			if uint64(frame) > limit && limit > 1 {
				t.Errorf("limit %d: a frame of %d bytes", limit, frame)
			}
			if more := wire.DatagramHeaderLen(n+1) + n + 1; uint64(more) <= limit && limit < 1200 {
				t.Errorf("limit %d: %d bytes would fit as well", limit, n+1)
			}
			var te *DatagramSizeError
			if err := tc.conn.SendDatagram(make([]byte, n+1)); !errors.As(err, &te) || te.Max != n || te.Size != n+1 {
				t.Errorf("limit %d: %v", limit, err)
			}
			tc.wantNone(wire.FrameDatagramLen)
			if limit < 2 {
				return
			}
			tc.send(wire.Packet1RTT, ping()) // an acknowledgment is pending and must not be in the way
			for _, size := range []int{n, n - 1, 0} {
				want := pattern(3, max(size, 0))
				if err := tc.conn.SendDatagram(want); err != nil {
					t.Fatal(err)
				}
				if f := tc.want(wire.FrameDatagramLen); !bytes.Equal(f.data, want) || f.packet.size > tc.conn.Stats().MTU {
					t.Errorf("limit %d: %d bytes arrived of %d, in %d", limit, len(f.data), len(want), f.packet.size)
				}
			}
		})
	}
	eitherDatagrams(t, 0, func(t *testing.T, tc *testConn) {
		if tc.theirs.MaxDatagram != 1000 {
			t.Errorf("max_datagram_frame_size %d", tc.theirs.MaxDatagram)
		}
		if err := tc.conn.SendDatagram(nil); !errors.Is(err, ErrNoDatagrams) || tc.conn.MaxDatagramSize() != 0 {
			t.Errorf("to a peer that takes none: %v", err)
		}
		for _, size := range []int{0, 1, 996, 997} {
			tc.send(wire.Packet1RTT, datagramFrame(pattern(1, size)))
			b, err := tc.conn.ReceiveDatagram(context.Background())
			if err != nil || !bytes.Equal(b, pattern(1, size)) {
				t.Errorf("%d bytes: got %d, %v", size, len(b), err)
			}
		}
		// without a length, to the packet's end
		tc.send(wire.Packet1RTT, append(wire.AppendDatagramHeader(nil, -1), pattern(2, 999)...))
		if b, err := tc.conn.ReceiveDatagram(context.Background()); err != nil || !bytes.Equal(b, pattern(2, 999)) {
			t.Errorf("got %d, %v", len(b), err)
		}
		tc.send(wire.Packet1RTT, datagramFrame(make([]byte, 998)))
		tc.wantClose(ProtocolViolation)
		if _, err := tc.conn.ReceiveDatagram(context.Background()); err == nil {
			t.Error("a datagram of a closed connection")
		}
	})
}

// TestDatagramQueues: what nobody takes, or what cannot be sent, is bounded and counted.
func TestDatagramQueues(t *testing.T) {
	eitherDatagrams(t, 1200, func(t *testing.T, tc *testConn) {
		for i := range 3 * maxDatagrams {
			tc.send(wire.Packet1RTT, datagramFrame(binary.BigEndian.AppendUint32(make([]byte, 500), uint32(i))))
		}
		st := tc.conn.Stats()
		if st.DatagramFramesReceived != 3*maxDatagrams || st.DatagramFramesDropped != 2*maxDatagrams || st.HeldBytes < maxDatagrams*504 || st.HeldBytes > maxDatagramBytes {
			t.Errorf("received %d, dropped %d, holding %d bytes", st.DatagramFramesReceived, st.DatagramFramesDropped, st.HeldBytes)
		}
		for i := range maxDatagrams {
			b, err := tc.conn.ReceiveDatagram(context.Background())
			if err != nil || len(b) != 504 || binary.BigEndian.Uint32(b[500:]) != uint32(i) {
				t.Fatalf("datagram %d: %d bytes, %v", i, len(b), err)
			}
		}
		if n := tc.conn.Stats().HeldBytes; n != 0 {
			t.Errorf("holding %d bytes of none", n)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := tc.conn.ReceiveDatagram(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("from an empty queue: %v", err)
		}
		tc.packets()
		full := 0
		for range 20 * maxDatagrams {
			if err := tc.conn.SendDatagram(make([]byte, 1000)); errors.Is(err, ErrDatagramQueue) {
				full++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		// RFC 9221, Section 5.4: "DATAGRAM frames employ the QUIC connection's congestion controller."
		sent := 0
		for _, p := range tc.packets() {
			sent += p.size
		}
		if st := tc.conn.Stats(); full == 0 || sent > st.CongestionWindow+2*st.MTU || st.DatagramFramesDropped != uint64(2*maxDatagrams+full) {
			t.Errorf("%d refused, %d bytes sent with a window of %d, %d dropped", full, sent, st.CongestionWindow, st.DatagramFramesDropped)
		}
	})
}

// TestLostDatagrams: RFC 9221, Section 5: lost ones are not sent again.
func TestLostDatagrams(t *testing.T) {
	eitherDatagrams(t, 1200, func(t *testing.T, tc *testConn) {
		if err := tc.conn.SendDatagram([]byte("once")); err != nil {
			t.Fatal(err)
		}
		lost := tc.want(wire.FrameDatagramLen).packet.pn
		for range 30 {
			tc.send(wire.Packet1RTT, ping())
			tc.wait(100 * time.Millisecond)
			for _, f := range tc.frames() {
				if f.typ == wire.FrameDatagramLen {
					t.Fatal("sent again")
				}
			}
			var pns []uint64
			for _, pn := range tc.spaces[recovery.AppData].got {
				if pn != lost {
					pns = append(pns, pn)
				}
			}
			tc.send(wire.Packet1RTT, ackOf(pns...))
		}
		if tc.conn.Stats().PacketsLost == 0 {
			t.Error("the packet was not found to be lost")
		}
	})
}

// TestDatagramsWaitForAdmit: a server's application gets none before the client was admitted.
func TestDatagramsWaitForAdmit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.ManualAdmit, cfg.MaxDatagramFrame = true, 1000
		tc := newTestServer(t, cfg)
		tc.handshake()
		tc.send(wire.Packet1RTT, datagramFrame([]byte("early")))
		got := make(chan string, 1)
		go func() {
			b, _ := tc.conn.ReceiveDatagram(context.Background())
			got <- string(b)
		}()
		tc.wait(time.Second)
		if len(got) > 0 {
			t.Error("received before Admit")
		}
		tc.conn.Admit()
		if s := <-got; s != "early" {
			t.Errorf("got %q", s)
		}
	})
}

// TestDatagramsOverANetwork: beside streams, neither starves, what arrives is whole and arrives once.
func TestDatagramsOverANetwork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		scfg, ccfg := serverConfig(), clientConfig()
		scfg.MaxDatagramFrame, ccfg.MaxDatagramFrame = 1500, 1500
		sp := newSimPair(t, 5, simnet.Params{Delay: 10 * time.Millisecond, Rate: 5 << 20, Loss: 0.02}, scfg)
		c, s := sp.dial(ccfg)
		ctx, cancel := context.WithCancel(context.Background())
		seen := make(map[uint64]bool)
		received := make(chan struct{})
		go func() {
			defer close(received)
			for {
				b, err := s.ReceiveDatagram(ctx)
				if err != nil {
					return
				}
				id := binary.BigEndian.Uint64(b)
				if seen[id] || !bytes.Equal(b[8:], pattern(id, len(b)-8)) {
					t.Errorf("datagram %d is damaged, or came twice", id)
				}
				seen[id] = true
			}
		}()
		go func() {
			for id := uint64(0); ctx.Err() == nil; {
				n := min(8+int(id*37%1500), c.MaxDatagramSize())
				b := append(binary.BigEndian.AppendUint64(nil, id), pattern(id, n-8)...)
				if err := c.SendDatagram(b); err == nil {
					id++
				} else {
					time.Sleep(time.Millisecond)
				}
			}
		}()
		start := time.Now()
		sp.exchange(c, s, 2, 2<<20)
		took := time.Since(start)
		cancel()
		<-received
		st := c.Stats()
		if len(seen) < 500 || took > time.Minute || uint64(len(seen)) > st.DatagramFramesSent {
			t.Errorf("%d datagrams of %d arrived in %v", len(seen), st.DatagramFramesSent, took)
		}
	})
}
