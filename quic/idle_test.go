//go:build !race

package quic

import (
	"runtime"
	"testing"
	"time"
)

// TestIdleConnectionMemory bounds what an idle connection keeps on the heap,
// one end of it, TLS included: ten thousand of them must be no matter.
func TestIdleConnectionMemory(t *testing.T) {
	const (
		conns = 500
		limit = 14 << 10
	)
	scfg, ccfg := serverConfig(), clientConfig()
	scfg.MaxIdleTimeout, ccfg.MaxIdleTimeout = time.Minute, time.Minute
	se, ce := newLoopback(t, scfg), newLoopback(t, nil)
	ctx := testContext(t)
	var servers, clients []*Conn
	open := func(n int) {
		for range n {
			c, err := ce.Dial(ctx, se.LocalAddr(), ccfg)
			if err != nil {
				t.Fatal(err)
			}
			s, err := se.Accept(ctx)
			if err != nil {
				t.Fatal(err)
			}
			clients, servers = append(clients, c), append(servers, s)
		}
		for _, c := range clients {
			awaitIdle(t, c)
		}
		for _, c := range servers {
			awaitIdle(t, c)
		}
	}
	open(20) // pools and tables exist from here on
	before := heapInUse()
	open(conns)
	each := (heapInUse() - before) / (2 * conns)
	t.Logf("%d bytes for each end of a connection", each)
	if each > limit {
		t.Errorf("an idle connection keeps %d bytes, limit %d", each, limit)
	}
	runtime.KeepAlive(servers)
	runtime.KeepAlive(clients)
}

// awaitIdle waits until a connection has confirmed its handshake and waits for nothing.
func awaitIdle(t *testing.T, c *Conn) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		c.lock()
		ok := c.confirmed && !c.mayRest() && c.loss.InFlight() == 0
		c.unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection does not come to rest")
		}
		time.Sleep(time.Millisecond)
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // pools forget in two steps
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
