package nfs

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
)

// TestNeverReplays: of calls under way when a backend dies, answered, taken or not
// even read, none is made again on the relay's own account, neither to the same
// backend nor to another. The client is told, and what it sends again is sent once.
func TestNeverReplays(t *testing.T) {
	checkNoLeak(t)
	var mu sync.Mutex
	seen := map[uint32][]string{} // by XID: who got it
	note := func(who string, msg []byte) uint32 {
		mu.Lock()
		defer mu.Unlock()
		xid := binary.BigEndian.Uint32(msg)
		seen[xid] = append(seen[xid], who)
		return xid
	}
	const procRemove = 12
	for _, ending := range []struct {
		name string
		end  func(c *net.TCPConn)
	}{
		{"closes", func(c *net.TCPConn) { c.Close() }},
		{"resets", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }},
		{"answers half", func(c *net.TCPConn) { c.Write(AppendSuccess(nil, 3, make([]byte, 100))[:50]); c.Close() }},
	} {
		t.Run(ending.name, func(t *testing.T) {
			clear(seen)
			first := startServer(t, func(c net.Conn) {
				for i := range 3 {
					msg, err := readMessage(c, 1<<20)
					if err != nil {
						return
					}
					if xid := note("first", msg); i == 0 {
						c.Write(AppendSuccess(nil, xid, nil))
					}
				}
				ending.end(c.(*net.TCPConn))
			})
			second := startServer(t, func(c net.Conn) {
				for {
					msg, err := readMessage(c, 1<<20)
					if err != nil {
						return
					}
					c.Write(AppendSuccess(nil, note("second", msg), nil))
				}
			})
			s := newTestService(t, Config{Backends: []string{first.addr, second.addr}})
			g := startGateway(t, s, testIdentity(t))
			c := g.dial(t)
			for xid := uint32(1); xid <= 20; xid++ {
				if _, err := c.Write(callRecord(xid, ProgNFS, 3, procRemove, "a file")); err != nil {
					break // the stream may be gone already
				}
			}
			if o := g.outcome(t); o.Code != CodeUnspecifiedError || !errors.Is(o.Err, ErrBackendLost) {
				t.Errorf("code %#x, %v", o.Code, o.Err)
			}
			mu.Lock()
			for xid, who := range seen {
				if len(who) != 1 || who[0] != "first" || xid > 3 {
					t.Errorf("call %d went to %q", xid, who)
				}
			}
			mu.Unlock()
			// What the client sends again goes out once more, and no more than that.
			c = g.dial(t)
			mustWrite(t, c, callRecord(2, ProgNFS, 3, procRemove, "a file"))
			c.CloseWrite()
			g.outcome(t)
			mu.Lock()
			defer mu.Unlock()
			if n := len(seen[2]); n != 2 {
				t.Errorf("a call sent twice went to %q", seen[2])
			}
		})
	}
}
