package quic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// withhold makes a stream's first byte one that is never sent, until release.
func withhold(s *Stream) {
	c := s.conn
	c.lock()
	defer c.unlock()
	s.snd.buf.write([]byte{0})
	s.snd.buf.next = 1
	c.flow.sent++
}

func release(s *Stream) {
	c := s.conn
	c.lock()
	defer c.unlock()
	s.snd.buf.markLost(0, 1)
	c.queueSend(s)
}

// ackedBytes is how many bytes of a stream the peer has acknowledged.
func ackedBytes(s *Stream) (n int) {
	s.conn.lock()
	defer s.conn.unlock()
	for _, a := range s.snd.buf.acked {
		n += int(a.end - a.start)
	}
	return n + int(s.snd.buf.start)
}

func lateBytes(c *Conn) (late, held int) {
	c.lock()
	defer c.unlock()
	return c.acct.late, c.acct.held
}

// Row 66: 32 MiB behind a hole of one byte, on many connections at once, over
// real sockets, before and after the client was admitted.
func TestHostile66BehindAHole(t *testing.T) {
	const memory = 96 << 20
	conns, whole, size := 200, 8, int64(32<<20) // so many are read to the end
	if testing.Short() || raceEnabled {
		conns, whole, size = 20, 4, 8<<20
	}
	scfg, ccfg := serverConfig(), clientConfig()
	scfg.ManualAdmit = true
	scfg.StreamWindow, scfg.ConnWindow, scfg.MaxStreamWindow, scfg.MaxConnWindow = 32<<20, 32<<20, 32<<20, 32<<20
	scfg.MaxIdleTimeout, ccfg.MaxIdleTimeout = time.Minute, time.Minute
	before := udp.Outstanding()
	se, ce := newLoopback(t, scfg, WithMemory(memory)), newLoopback(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	type pair struct {
		server *Conn
		out    *Stream
	}
	var pairs []pair
	sent := make(chan error, conns)
	for range conns {
		c, err := ce.Dial(ctx, se.LocalAddr(), ccfg)
		if err != nil {
			t.Fatal(err)
		}
		sc, err := se.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.OpenStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		withhold(s)
		pairs = append(pairs, pair{sc, s})
		go func() {
			_, err := s.ReadFrom(&zeros{size - 1})
			if err == nil {
				err = s.CloseWrite()
			}
			sent <- err
		}()
	}
	watch := func(what string, limit int, d time.Duration) {
		peak, total := 0, int64(0)
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			for _, p := range pairs {
				late, held := lateBytes(p.server)
				peak = max(peak, late, held)
			}
			total = max(total, se.held.Load())
		}
		if peak > limit+limit/8+compactSlack {
			t.Errorf("%s: a connection holds %d bytes, the cap is %d", what, peak, limit)
		}
		if most := int64(memory + conns*smallHold); total > most {
			t.Errorf("%s: all hold %d bytes, the cap is %d", what, total, most)
		}
		for _, p := range pairs {
			// what was dropped is not acknowledged
			acked := ackedBytes(p.out)
			if _, held := lateBytes(p.server); acked > held {
				t.Errorf("%s: %d bytes are acknowledged, %d are held", what, acked, held)
			}
		}
		t.Logf("%s: one connection holds up to %d KiB, all %d MiB, %d packets dropped", what, peak>>10, total>>20, se.Stats().Drops["budget"])
	}
	watch("before Admit", 1<<20, 700*time.Millisecond)
	if se.Stats().Drops["budget"] == 0 {
		t.Error("no packet was over budget")
	}
	for _, p := range pairs {
		p.server.Admit()
	}
	watch("after Admit", 4<<20, 700*time.Millisecond)

	var wg sync.WaitGroup
	errs := make(chan error, conns)
	for i, p := range pairs {
		wg.Go(func() {
			s, err := p.server.AcceptStream(ctx)
			if err != nil {
				errs <- err
				return
			}
			want := size
			if i >= whole {
				want = 5 << 18 // more than what waited: the rest is not wanted
			}
			if n, err := io.CopyN(io.Discard, s, want); err != nil {
				errs <- fmt.Errorf("connection %d: %d of %d bytes arrived: %w", i, n, want, err)
			}
			if i < whole {
				if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					errs <- fmt.Errorf("connection %d: %w after the end", i, err)
				}
			}
			_ = s.Close()
		})
		release(p.out)
	}
	wg.Wait()
	for range conns {
		var stopped *StreamError
		if err := <-sent; err != nil && !errors.As(err, &stopped) {
			t.Error(err)
		}
	}
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	for _, p := range pairs {
		if late, held := lateBytes(p.server); late != 0 || held != 0 {
			t.Errorf("%d bytes late, %d held at the end", late, held)
		}
	}
	if held := se.Stats().HeldBytes; held != 0 {
		t.Errorf("the endpoint says %d bytes are held", held)
	}
	_ = se.Close(ctx)
	_ = ce.Close(ctx)
	if n := udp.Outstanding(); n != before {
		t.Errorf("%d buffers were not given back", n-before)
	}
}

// Row 68: lone datagrams, in and out of order, must not pin 64 KiB each.
func TestHostile68PinnedBuffers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		const each = 1000
		payload, start := 0, udp.Outstanding()
		for i := range uint64(200) {
			off := i * 2 * each // every other piece is missing
			if i%20 == 0 {
				off = 0
			}
			tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(i%50, false), off, pattern(off, each), false))
			payload += each
			tc.wire.take()
		}
		if held := tc.conn.Stats().HeldBytes; held > 2*payload+50*recvBlockSize {
			t.Errorf("%d bytes are held for %d", held, payload)
		}
		if n := udp.Outstanding() - start; n > 2 {
			t.Errorf("%d receive buffers are pinned", n)
		}
	})
	// Whatever the size: one datagram a stream pins at most twice its bytes.
	bubble(t, func(t *testing.T) {
		for _, n := range []int{1, 33, 64, 65, 100, 500, 513, 1000, 1100} {
			tc := establishedServer(t, nil)
			for i := range uint64(50) {
				tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(i, false), 0, pattern(0, n), false))
				tc.wire.take()
			}
			if held := tc.conn.Stats().HeldBytes; held > 50*max(2*n, minRecvBlock) {
				t.Errorf("%d bytes are held for 50 datagrams of %d", held, n)
			}
			// the same in small pieces
			for off := n; off < 4000; off += n {
				tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(0, false), uint64(off), pattern(uint64(off), n), false))
				tc.wire.take()
			}
			if held := tc.conn.Stats().HeldBytes; held > 49*max(2*n, minRecvBlock)+2*(4000+n)+minRecvBlock {
				t.Errorf("%d bytes are held for a stream of 4000 in pieces of %d", held, n)
			}
			tc.conn.CloseTransport(NoError, "")
		}
	})
	// Where memory is short, the rest of a big batch is copied out as soon as it is
	// less than half of what it pins.
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil, WithMemory(128<<10)).establish()
		tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(0, false), 0, pattern(0, 1<<10), false))
		s := tc.acceptStream()
		next := uint64(1 << 10)
		r := bigBatch(tc, &next)
		tc.conn.receive(&r)
		r.buf.Release()
		if _, err := io.ReadFull(s, make([]byte, next-500)); err != nil {
			t.Fatal(err)
		}
		if held := tc.conn.Stats().HeldBytes; held > 1000+minRecvBlock {
			t.Errorf("%d bytes are held for 500", held)
		}
		if _, err := io.ReadFull(s, make([]byte, 500)); err != nil {
			t.Fatal(err)
		}
	})
	// A big batch is kept by reference, and copied out when most of it is gone.
	bubble(t, func(t *testing.T) {
		tc := establishedServer(t, nil)
		tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(0, false), 0, pattern(0, 1<<10), false))
		s := tc.acceptStream()
		next := uint64(1 << 10)
		for range 30 {
			r := bigBatch(tc, &next)
			tc.conn.receive(&r)
			r.buf.Release()
			// the application is slow: it leaves a little of each
			n := int(next-s.rcv.buf.read) - 500
			if _, err := io.ReadFull(s, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
		}
		if held := tc.conn.Stats().HeldBytes; held > 2*1000+compactSlack {
			t.Errorf("%d bytes are held for 500", held)
		}
		if _, err := io.ReadFull(s, make([]byte, 500)); err != nil {
			t.Fatal(err)
		}
	})
}

// bigBatch is a receive call of 40 datagrams that continue stream 0.
func bigBatch(tc *testConn, next *uint64) rxBatch {
	buf := udp.NewBuffer()
	used, segment := 0, 0
	for range 40 {
		// an offset beyond 2^14 takes four bytes: pad what is shorter
		payload := streamFrame(tc.peerStream(0, false), *next, pattern(*next, 1000), false)
		payload = wire.AppendPadding(payload, 1020-len(payload))
		*next += 1000
		d := tc.build(wire.Packet1RTT, payload)
		segment = len(d)
		used += copy(buf.Bytes()[used:], d)
	}
	return rxBatch{buf: buf, data: buf.Bytes()[:used], segment: segment, total: used, remote: tc.remote, local: tc.wire.local.Addr()}
}
