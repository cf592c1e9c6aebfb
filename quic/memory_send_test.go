package quic

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A peer that acknowledges everything but one packet has what follows it freed all
// the same, in whatever steps it is written.
func TestSendBufBehindAHole(t *testing.T) {
	for _, step := range []int{1000, smallChunkSize, 5000, bigChunkSize, 3*bigChunkSize + 1} {
		var mem sendMemory
		b := sendBuf{mem: &mem}
		const size = 16 << 20
		b.write(make([]byte, 1)) // never acknowledged
		for b.end < size {
			b.write(make([]byte, step))
			for b.next < b.end {
				end := min(b.next+1200, b.end)
				start := max(b.next, 1)
				b.sent(b.next, end)
				b.ack(start, end)
			}
			if most := 2*step + 3*(chunkHeadroom+bigChunkSize); mem.held > most || len(b.chunks) > 8+step/smallChunkSize {
				t.Fatalf("steps of %d: %d bytes in %d chunks are held after %d, want no more than %d", step, mem.held, len(b.chunks), b.end, most)
			}
		}
		checkChunks(t, &b)
		b.ack(0, b.end)
		if b.start != b.end || len(b.acked) != 0 {
			t.Errorf("steps of %d: everything up to %d of %d is acknowledged", step, b.start, b.end)
		}
		b.discard()
		if mem.held != 0 {
			t.Errorf("steps of %d: %d bytes are held at the end", step, mem.held)
		}
	}
}

// TestHostileReadsNothing: clients that open many streams and read none of what
// they ask for take no more of the server's memory for it than there is, counted by
// capacity, and one that does read is served meanwhile. When they have gone, nothing
// is held.
func TestHostileReadsNothing(t *testing.T) {
	const (
		memory  = 8 << 20
		conns   = 16
		streams = 20
	)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	before := udp.Outstanding()
	scfg, ccfg := serverConfig(), clientConfig()
	se, ce := newLoopback(t, scfg, WithMemory(memory)), newLoopback(t, nil)
	dial := func() (client, server *Conn) {
		c, err := ce.Dial(ctx, se.LocalAddr(), ccfg)
		if err != nil {
			t.Fatal(err)
		}
		if server, err = se.Accept(ctx); err != nil {
			t.Fatal(err)
		}
		return c, server
	}
	var wg sync.WaitGroup
	var greedy []*Conn
	for range conns {
		c, s := dial()
		greedy = append(greedy, c)
		for range streams {
			out, err := s.OpenUniStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { _, _ = out.ReadFrom(&zeros{1 << 40}) })
		}
	}
	// By then most writers wait.
	for last, same := int64(-1), 0; same < 5; time.Sleep(20 * time.Millisecond) {
		now := se.Stats().SendHeldBytes
		if same++; now != last {
			last, same = now, 0
		}
		if ctx.Err() != nil {
			t.Fatal("what is held never settles")
		}
	}
	// What each connection may always hold, and a chunk for each of its streams.
	most := int64(memory/2 + conns*(smallStreams+chunkHeadroom+bigChunkSize))
	if held := se.Stats().SendHeldBytes; held > most || held < memory/4 {
		t.Errorf("%d bytes are held, want %d at most", held, most)
	}
	unlimited := int64(conns * streams * maxUnsent)
	if unlimited < 2*most {
		t.Fatalf("%d bytes without a limit: the test shows nothing", unlimited)
	}

	c, s := dial()
	for range 3 {
		move(t, ctx, s, c, 4<<20) // downwards
	}
	for _, g := range greedy {
		_ = g.CloseWithError(0, "")
	}
	wg.Wait()
	move(t, ctx, s, c, 4<<20)
	_ = c.CloseWithError(0, "")
	_ = se.Close(ctx)
	_ = ce.Close(ctx)
	if held := se.sending.Load() + ce.sending.Load(); held != 0 {
		t.Errorf("%d bytes are still charged", held)
	}
	if n := udp.Outstanding(); n != before {
		t.Errorf("%d buffers were not given back", n-before)
	}
}

// Where memory is short all the time, many streams both ways still get through.
func TestLittleSendMemory(t *testing.T) {
	ctx := testContext(t)
	for _, memory := range []int64{1, 128 << 10, 512 << 10} {
		se, ce := newLoopback(t, serverConfig(), WithMemory(memory)), newLoopback(t, nil, WithMemory(memory))
		c, err := ce.Dial(ctx, se.LocalAddr(), clientConfig())
		if err != nil {
			t.Fatal(err)
		}
		s, err := se.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 12 {
			from, to := c, s
			if i%2 == 0 {
				from, to = s, c
			}
			wg.Go(func() {
				out, err := from.OpenUniStream(ctx)
				if err == nil {
					if i%3 == 0 {
						_, err = out.Write(make([]byte, 600<<10))
					} else {
						_, err = out.ReadFrom(&zeros{600 << 10})
					}
				}
				if err == nil {
					err = out.CloseWrite()
				}
				if err == nil {
					err = out.Flush(ctx)
				}
				if err != nil {
					t.Errorf("with %d bytes of memory: %v", memory, err)
				}
			})
			wg.Go(func() {
				in, err := to.AcceptUniStream(ctx)
				var n int64
				if err == nil {
					n, err = io.Copy(io.Discard, in)
				}
				if err != nil || n != 600<<10 {
					t.Errorf("with %d bytes of memory: %d bytes arrived, %v", memory, n, err)
				}
			})
		}
		wg.Wait()
		if a, b := s.Stats().SendHeldBytes, c.Stats().SendHeldBytes; a+b != 0 {
			t.Errorf("with %d bytes of memory: %d and %d bytes are held when all is acknowledged", memory, a, b)
		}
	}
}

// A connection holds no more than its own limit, however much memory there is, and
// goes on when the peer has acknowledged some of it.
func TestSendMemoryOfConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestServer(t, nil, WithMemory(1<<40)).establish()
		c := tc.conn
		tc.send(wire.Packet1RTT, wire.AppendMaxData(nil, 1<<40))
		tc.settle()
		c.lock()
		c.sendMem.held = maxSendHeld - 1000 // as if other streams held it
		c.unlock()
		s := tc.openStream()
		c.lock()
		room, short := s.room(), c.sendMem.short
		c.unlock()
		if room != 1000 || !short {
			t.Errorf("room for %d bytes, short: %t", room, short)
		}
		done := make(chan error, 1)
		go func() {
			_, err := s.Write(make([]byte, 100<<10))
			done <- err
		}()
		tc.settle()
		select {
		case err := <-done:
			t.Fatalf("100 KiB found room: %v", err)
		default:
		}
		if held := c.Stats().SendHeldBytes; held > maxSendHeld+chunkHeadroom+bigChunkSize {
			t.Errorf("%d bytes are held", held)
		}
		c.lock()
		c.sendMem.held -= maxSendHeld - 1000
		c.unlock()
		tc.settle()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("the writer was not woken")
		}
	})
}
