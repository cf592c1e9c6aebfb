//go:build !race

package quic

import (
	"runtime"
	"testing"
	"time"
)

// TestIdleConnectionMemory bounds what an idle connection costs a server, on the
// heap and in stacks, and that no goroutine waits for it where the application uses
// NotifyStream. Ten thousand of them must be no matter.
func TestIdleConnectionMemory(t *testing.T) {
	const (
		conns      = 2000
		limit      = 10 << 10
		goroutines = 20 // in all
	)
	scfg, ccfg := serverConfig(), clientConfig()
	scfg.MaxIdleTimeout, ccfg.MaxIdleTimeout = 10*time.Minute, 10*time.Minute
	se, ce := newLoopback(t, scfg), newLoopback(t, nil)
	var servers []*Conn
	servers = append(servers, openIdle(t, se, ce, ccfg, 20)...) // pools and tables exist from here on
	memory, running := memoryInUse(), runtime.NumGoroutine()
	servers = append(servers, openIdle(t, se, ce, ccfg, conns)...)
	each := (memoryInUse() - memory) / conns
	t.Logf("%d bytes for each connection", each)
	if each > limit {
		t.Errorf("an idle connection keeps %d bytes, limit %d", each, limit)
	}
	if more := runtime.NumGoroutine() - running; more > goroutines {
		t.Errorf("%d goroutines for %d idle connections", more, conns)
	}
	runtime.KeepAlive(servers)
}

// openIdle returns the servers' ends of n idle connections. Their clients are gone,
// without a word.
func openIdle(t *testing.T, se, ce *Endpoint, cfg *Config, n int) (servers []*Conn) {
	t.Helper()
	ctx := testContext(t)
	var clients []*Conn
	for range n {
		c, err := ce.Dial(ctx, se.LocalAddr(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := se.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		s.NotifyStream(func() {})
		clients, servers = append(clients, c), append(servers, s)
	}
	for range 2 { // one end may wake the other
		for i := range servers {
			awaitRest(t, clients[i])
			awaitRest(t, servers[i])
		}
	}
	for _, c := range clients {
		c.lock()
		c.abandon(ErrEndpointClosed)
		c.unlock()
	}
	return servers
}

// awaitRest waits until a connection rests.
func awaitRest(t *testing.T, c *Conn) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		c.lock()
		ok := c.app.resting
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

// memoryInUse is what lives on the heap and in stacks.
func memoryInUse() int64 {
	for range 4 { // pools forget in two steps, stacks shrink by half in each
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
