package forward

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Bounds of what clients can make a Forwarder keep.
const (
	maxPending  = 1024             // ClientHellos being gathered
	pendingLife = 10 * time.Second // of one
	maxQueue    = 1024             // datagrams waiting to be handed to the endpoint
)

// Hello is what a route is picked by.
type Hello struct {
	ServerName string
	ALPN       []string
	Remote     netip.AddrPort
}

// Route says where a connection goes: to another process if the address is
// valid, otherwise to the endpoint, which also refuses.
type Route func(*Hello) netip.AddrPort

// Stats counts; fields only grow.
type Stats struct {
	Flows    atomic.Int64 // flows begun
	ToTarget atomic.Int64 // datagrams
	ToClient atomic.Int64
	Dropped  atomic.Int64 // not passed on: no room, too long, a send that failed
	Refused  atomic.Int64 // reported unreachable by the other process's host
}

// Forwarder is what the Conns of one address share. Safe for use by many goroutines.
type Forwarder struct {
	route    Route
	maxFlows int
	knows    atomic.Pointer[func(datagram []byte) bool]
	stats    Stats
	closed   chan struct{}
	flows    sync.WaitGroup

	mu      sync.RWMutex
	by      map[netip.AddrPort]*flow // by client
	pending map[pendingKey]*pending
	ended   bool
}

type pendingKey struct {
	remote netip.AddrPort
	id     wire.ConnID
}

// pending is a connection whose ClientHello is not whole.
type pending struct {
	hello
	began     time.Time
	datagrams []udp.RecvMsg
}

// New makes a Forwarder of at most maxFlows client addresses.
func New(route Route, maxFlows int) *Forwarder {
	return &Forwarder{route: route, maxFlows: maxFlows, closed: make(chan struct{}),
		by: make(map[netip.AddrPort]*flow), pending: make(map[pendingKey]*pending)}
}

// SetEndpoint says how to tell the endpoint's own datagrams. Until then none
// is taken for one.
func (f *Forwarder) SetEndpoint(knows func(datagram []byte) bool) { f.knows.Store(&knows) }

// Stats returns the counters.
func (f *Forwarder) Stats() *Stats { return &f.stats }

// Close ends all flows and waits for their goroutines.
func (f *Forwarder) Close() {
	f.mu.Lock()
	if !f.ended {
		f.ended = true
		close(f.closed)
	}
	for _, w := range f.by {
		_ = w.conn.Close()
	}
	f.mu.Unlock()
	f.flows.Wait()
}

// Conn is a socket whose datagrams pass through the Forwarder.
type Conn struct {
	udp.PacketConn
	f *Forwarder

	mu    sync.Mutex
	queue []udp.RecvMsg // for the endpoint, before what the socket has
}

// Wrap puts the Forwarder before a socket.
func (f *Forwarder) Wrap(pc udp.PacketConn) *Conn { return &Conn{PacketConn: pc, f: f} }

// Recv returns the next datagrams that are for the endpoint.
func (c *Conn) Recv(m *udp.RecvMsg) error {
	for {
		if c.pop(m) {
			return nil
		}
		if err := c.PacketConn.Recv(m); err != nil {
			return err
		}
		if !c.take(m) {
			return nil
		}
	}
}

func (c *Conn) pop(m *udp.RecvMsg) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return false
	}
	q := c.queue[0]
	c.queue = c.queue[1:]
	m.N = copy(m.Buf, q.Buf)
	m.SegmentSize, m.Remote, m.Local, m.IfIndex, m.ECN = m.N, q.Remote, q.Local, q.IfIndex, q.ECN
	return true
}

func (c *Conn) push(msgs ...udp.RecvMsg) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range msgs {
		if len(c.queue) >= maxQueue {
			c.f.stats.Dropped.Add(1)
			continue
		}
		c.queue = append(c.queue, m)
	}
}

// copyOf keeps one datagram of a batch.
func copyOf(m *udp.RecvMsg, b []byte) udp.RecvMsg {
	out := *m
	out.Buf, out.Idle = append([]byte(nil), b...), nil
	out.N, out.SegmentSize = len(b), len(b)
	return out
}

// take reports whether it has dealt with a batch. The usual one, of a
// connection of the endpoint's, costs a look at its first octet and the
// address's place in a table.
func (c *Conn) take(m *udp.RecvMsg) bool {
	f := c.f
	f.mu.RLock()
	w := f.by[m.Remote]
	f.mu.RUnlock()
	long := wire.IsLong(m.Buf[0])
	if w == nil && !long {
		return false
	}
	seg := m.SegmentSize
	if seg <= 0 || seg > m.N {
		seg = m.N
	}
	if f.isKnown(m.Buf[:seg]) {
		return false // one client's batch: the others are of the same connection
	}
	alone, taken := seg == m.N, false
	for data := m.Buf[:m.N]; len(data) > 0; {
		b := data[:min(seg, len(data))]
		data = data[len(b):]
		if c.one(w, m, b) {
			taken = true
			continue
		}
		if alone {
			return false
		}
		c.push(copyOf(m, b))
		taken = true
	}
	return taken
}

func (f *Forwarder) isKnown(b []byte) bool {
	knows := f.knows.Load()
	return knows != nil && (*knows)(b)
}

// one deals with a datagram, or returns false if it is for the endpoint.
func (c *Conn) one(w *flow, m *udp.RecvMsg, b []byte) bool {
	if !wire.IsLong(b[0]) {
		if w == nil {
			return false
		}
		w.send(b)
		return true
	}
	h, err := wire.ParseLong(b)
	if w != nil && (err != nil || h.Type != wire.PacketInitial || w.owns(h.Dst)) {
		w.send(b)
		return true
	}
	// RFC 9000, Sections 7.2 and 14.1: anything less is no first Initial. The
	// endpoint drops it, and answers versions that it does not know.
	if err != nil || h.Type != wire.PacketInitial || !h.Version.Known() || len(b) < 1200 || h.Dst.Len() < 8 {
		return false
	}
	return c.initial(m, b, &h)
}

// initial gathers the ClientHello of a new connection.
func (c *Conn) initial(m *udp.RecvMsg, b []byte, h *wire.LongHeader) bool {
	f := c.f
	key := pendingKey{m.Remote, h.Dst}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pending[key]
	if p == nil {
		p = &pending{began: time.Now()}
	}
	ok := p.add(b, h)
	ch, complete, err := p.parse()
	if ok && err == nil && !complete {
		if len(p.datagrams) < maxHelloDatagrams && f.room(key) {
			p.datagrams = append(p.datagrams, copyOf(m, b))
			f.pending[key] = p
			return true
		}
		ok = false
	}
	delete(f.pending, key)
	if ok && err == nil {
		if to := f.route(&Hello{ServerName: ch.ServerName, ALPN: ch.ALPN, Remote: m.Remote}); to.IsValid() {
			c.give(to, m, h.Dst, append(p.datagrams, copyOf(m, b)))
			return true
		}
	}
	if len(p.datagrams) == 0 {
		return false
	}
	c.push(append(p.datagrams, copyOf(m, b))...)
	return true
}

// room makes room for one more ClientHello, if those begun long ago leave some.
func (f *Forwarder) room(key pendingKey) bool {
	if _, there := f.pending[key]; there || len(f.pending) < maxPending {
		return true
	}
	for k, p := range f.pending {
		if time.Since(p.began) > pendingLife {
			delete(f.pending, k)
		}
	}
	return len(f.pending) < maxPending
}

// give hands a connection to another process.
func (c *Conn) give(to netip.AddrPort, m *udp.RecvMsg, id wire.ConnID, datagrams []udp.RecvMsg) {
	w := c.f.flowTo(c, to, m)
	if w == nil {
		c.f.stats.Dropped.Add(int64(len(datagrams)))
		return
	}
	w.own(id)
	for i := range datagrams {
		w.send(datagrams[i].Buf)
	}
}

// flowTo finds or makes the client's flow.
func (f *Forwarder) flowTo(c *Conn, to netip.AddrPort, m *udp.RecvMsg) *flow {
	if w := f.by[m.Remote]; w != nil {
		if w.target == to {
			return w
		}
		// One address, two processes: the newer connection has it. Which of them a
		// short header is for, nothing in it tells.
		delete(f.by, m.Remote)
		_ = w.conn.Close()
	}
	if f.ended || len(f.by) >= f.maxFlows {
		return nil
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil
	}
	w := &flow{f: f, target: to, conn: conn, via: c, ids: make(map[wire.ConnID]struct{}),
		reply: udp.SendMsg{Remote: m.Remote, Local: m.Local, IfIndex: m.IfIndex, DontFragment: true}}
	w.last.Store(time.Now().UnixNano())
	f.by[m.Remote] = w
	f.stats.Flows.Add(1)
	f.flows.Add(1)
	go w.answers()
	return w
}

// forget ends a flow.
func (f *Forwarder) forget(w *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by[w.reply.Remote] == w {
		delete(f.by, w.reply.Remote)
	}
	_ = w.conn.Close()
}

// pause keeps a process that is not there from costing a loop; false: closed.
func (f *Forwarder) pause() bool {
	select {
	case <-time.After(100 * time.Millisecond):
		return true
	case <-f.closed:
		return false
	}
}
