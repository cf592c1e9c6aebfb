package quic

import (
	"context"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// echoLoop sends and expects small messages on one connection until stop.
func echoLoop(ctx context.Context, c *Conn, rounds *atomic.Int64, stop <-chan struct{}) error {
	s, err := c.OpenStream(ctx)
	if err != nil {
		return err
	}
	msg := make([]byte, 3000)
	buf := make([]byte, len(msg))
	for !isClosed(stop) {
		if _, err := s.Write(msg); err != nil {
			return err
		}
		if _, err := io.ReadFull(s, buf); err != nil {
			return err
		}
		rounds.Add(1)
	}
	return s.Close()
}

func serveEcho(ctx context.Context, e *Endpoint) {
	for {
		c, err := e.Accept(ctx)
		if err != nil {
			return
		}
		go func() {
			for {
				s, err := c.AcceptStream(ctx)
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(s, s)
					_ = s.CloseWrite()
				}()
			}
		}()
	}
}

// TestReplaceShardUnderLoad closes and replaces one socket of a group while
// connections on all of them are busy: none may be lost.
func TestReplaceShardUnderLoad(t *testing.T) {
	group, err := udp.ListenGroup(netip.MustParseAddrPort("127.0.0.1:0"), 3, udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var pcs []udp.PacketConn
	for _, s := range group.Sockets() {
		pcs = append(pcs, s)
	}
	srv := NewEndpoint(pcs, serverConfig(), WithLayout(group.Layout()))
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	t.Cleanup(func() {
		c, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Close(c)
		_ = group.Close()
	})
	go serveEcho(ctx, srv)

	const n = 24
	stop := make(chan struct{})
	var rounds [n]atomic.Int64
	var wg sync.WaitGroup
	perShard := map[int]int{}
	for i := range n {
		c, err := newLoopback(t, nil).Dial(ctx, srv.LocalAddr(), clientConfig())
		if err != nil {
			t.Fatal(err)
		}
		dst := c.remoteID()
		shard, _, ok := group.Layout().Shard(dst.Append(nil))
		if !ok {
			t.Fatalf("connection ID %v has no shard", dst)
		}
		perShard[int(shard)]++
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := echoLoop(ctx, c, &rounds[i], stop); err != nil {
				t.Errorf("connection %d (shard %d): %v", i, shard, err)
			}
		}()
	}
	if len(perShard) != 3 {
		t.Fatalf("connections per shard: %v", perShard)
	}
	awaitRounds := func(more int64) {
		t.Helper()
		var from [n]int64
		for i := range rounds {
			from[i] = rounds[i].Load()
		}
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := range rounds {
			for rounds[i].Load() < from[i]+more {
				select {
				case <-tick.C:
				case <-ctx.Done():
					t.Fatalf("connection %d makes no progress", i)
				}
			}
		}
	}
	awaitRounds(5)
	for shard := range 3 {
		if _, err := group.Replace(ctx, shard, func(s *udp.Socket) { srv.ReplaceSocket(shard, s) }); err != nil {
			t.Fatal(err)
		}
		awaitRounds(5)
	}
	close(stop)
	wg.Wait()
}

// remoteID is the connection ID that this end sends to.
func (c *Conn) remoteID() interface{ Append([]byte) []byte } {
	c.lock()
	defer c.unlock()
	return c.dst()
}
