package interop

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// faults is what a proxy does to datagrams, in each direction. Rates are
// probabilities in [0, 1].
type faults struct {
	delay                             time.Duration // one way
	loss, duplicate, corrupt, reorder float64
	burst                             int // at most so many datagrams in a row are lost or damaged; 0: any number
	seed                              uint64
	rate                              int // bits per second of the link; 0: no limit
	queue                             int // full-sized datagrams that wait for a link with a rate; more are dropped
	dropToClient, dropToServer        int // drop the first so many datagrams of a direction
	passToServer                      int // but let so many pass before them
}

// A proxy forwards datagrams between clients and a server, as a bad network
// with a NAT in it would: all share a link, each has an address of its own at
// the server.
type proxy struct {
	server   netip.AddrPort // set before the first datagram comes
	front    *net.UDPConn
	up, down *line
	black    atomic.Bool // drop everything
	wg       sync.WaitGroup

	mu      sync.Mutex
	flows   map[netip.AddrPort]*flow
	last    *flow // the newest
	closed  bool
	retries atomic.Int64 // Retry packets seen
	bytes   atomic.Int64 // that the server has sent
	sights  sights
}

// A flow is what belongs to one client.
type flow struct {
	client netip.AddrPort
	backs  []*net.UDPConn // the last one sends
	watched
}

func newProxy(t testing.TB, server netip.AddrPort, f faults) *proxy {
	t.Helper()
	at := loopback
	if server.IsValid() {
		at = netip.AddrPortFrom(server.Addr(), 0)
	}
	p := &proxy{server: server, front: listenUDP(t, at), flows: map[netip.AddrPort]*flow{}}
	p.up = newLine(&p.wg, f, 1)
	p.up.drop, p.up.pass = f.dropToServer, f.passToServer
	p.down = newLine(&p.wg, f, 2)
	p.down.drop = f.dropToClient
	p.wg.Add(1)
	go p.readFront()
	t.Cleanup(p.close)
	return p
}

func (p *proxy) Addr() netip.AddrPort { return p.front.LocalAddr().(*net.UDPAddr).AddrPort() }

// aim says where a server is that was not known before.
func (p *proxy) aim(server netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = server
}

// Rebind changes the port the server sees. What the server sends to the old
// one still reaches the client, until Cut.
func (p *proxy) Rebind(t testing.TB) { t.Helper(); p.RebindTo(t, p.server.Addr()) }

// RebindTo changes the address and the port the server sees.
func (p *proxy) RebindTo(t testing.TB, to netip.Addr) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fl := range p.flows {
		p.addBack(fl, listenUDP(t, netip.AddrPortFrom(to, 0)))
	}
}

// addBack gives a flow a new address at the server. The caller holds p.mu.
func (p *proxy) addBack(fl *flow, b *net.UDPConn) {
	fl.backs = append(fl.backs, b)
	p.wg.Add(1)
	go p.readBack(fl, b)
}

// Cut closes the addresses that Rebind has replaced, as a NAT that has
// forgotten them.
func (p *proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fl := range p.flows {
		for _, b := range fl.backs[:len(fl.backs)-1] {
			_ = b.Close()
		}
		fl.backs = fl.backs[len(fl.backs)-1:]
	}
}

// back is the address that the server should see now.
func (p *proxy) back() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last.backs[len(p.last.backs)-1].LocalAddr().(*net.UDPAddr).AddrPort()
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	_ = p.front.Close()
	for _, fl := range p.flows {
		for _, b := range fl.backs {
			_ = b.Close()
		}
	}
	p.mu.Unlock()
	p.up.close()
	p.down.close()
	p.wg.Wait()
}

// flow is the flow of a client, made if it is new; nil when the proxy closes.
func (p *proxy) flow(client netip.AddrPort) *flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	fl := p.flows[client]
	if fl != nil || p.closed {
		return fl
	}
	b, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.server.Addr(), 0)))
	if err != nil {
		return nil
	}
	_ = b.SetReadBuffer(4 << 20)
	fl = &flow{client: client}
	p.flows[client], p.last = fl, fl
	p.addBack(fl, b)
	return fl
}

func (p *proxy) readFront() {
	defer p.wg.Done()
	buf := make([]byte, 1<<16)
	for {
		n, from, err := p.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		fl := p.flow(from)
		if fl == nil || p.black.Load() {
			continue
		}
		p.sights.up(&fl.watched, buf[:n])
		p.up.put(append([]byte(nil), buf[:n]...), func(b []byte) { p.toServer(fl, b) })
	}
}

func (p *proxy) readBack(fl *flow, b *net.UDPConn) {
	defer p.wg.Done()
	buf := make([]byte, 1<<16)
	for {
		n, from, err := b.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if from != p.server {
			continue
		}
		p.bytes.Add(int64(n))
		if p.sights.down(&fl.watched, buf[:n]) {
			p.retries.Add(1)
		}
		if !p.black.Load() {
			p.down.put(append([]byte(nil), buf[:n]...), func(b []byte) { _, _ = p.front.WriteToUDPAddrPort(b, fl.client) })
		}
	}
}

// passed waits until the server has sent so many bytes; false: ctx ended before.
func (p *proxy) passed(ctx context.Context, n int64) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for p.bytes.Load() < n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (p *proxy) toServer(fl *flow, b []byte) {
	p.mu.Lock()
	back := fl.backs[len(fl.backs)-1]
	p.mu.Unlock()
	p.sights.delivered(&fl.watched, b)
	_, _ = back.WriteToUDPAddrPort(b, p.server)
}

// A line delivers datagrams of one direction when they are due.
type line struct {
	f          faults
	pass, drop int
	wake       chan struct{}
	stop       chan struct{}
	once       sync.Once
	mu         sync.Mutex
	rng        *rand.Rand
	queue      dueQueue
	n          uint64
	bad        int       // datagrams lost or damaged in a row
	free       time.Time // when the link has sent what waits
}

type dueDatagram struct {
	due  time.Time
	n    uint64
	b    []byte
	send func([]byte)
}

type dueQueue []dueDatagram

func (q dueQueue) Len() int { return len(q) }
func (q dueQueue) Less(i, j int) bool {
	return q[i].due.Before(q[j].due) || q[i].due.Equal(q[j].due) && q[i].n < q[j].n
}
func (q dueQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *dueQueue) Push(x any)   { *q = append(*q, x.(dueDatagram)) }
func (q *dueQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

func newLine(wg *sync.WaitGroup, f faults, direction uint64) *line {
	l := &line{f: f, wake: make(chan struct{}, 1), stop: make(chan struct{}), rng: rand.New(rand.NewPCG(f.seed, direction))}
	wg.Add(1)
	go func() {
		defer wg.Done()
		l.run()
	}()
	return l
}

func (l *line) close() { l.once.Do(func() { close(l.stop) }) }

// hit draws whether something happens to a datagram.
func (l *line) hit(rate float64) bool { return rate > 0 && l.rng.Float64() < rate }

// spoiled draws whether a datagram is lost, or damages it.
func (l *line) spoiled(b []byte) (lost bool) {
	if l.f.burst > 0 && l.bad >= l.f.burst {
		l.bad = 0
		return false
	}
	lost = l.hit(l.f.loss)
	damaged := !lost && l.hit(l.f.corrupt)
	if damaged {
		b[l.rng.IntN(len(b))] ^= byte(1 << l.rng.IntN(8))
	}
	if l.bad++; !lost && !damaged {
		l.bad = 0
	}
	return lost
}

// put does to a datagram what faults say and queues what is left of it.
func (l *line) put(b []byte, send func([]byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pass--; l.pass < 0 && l.drop > 0 {
		l.drop--
		return
	}
	sent, ok := l.transmit(len(b))
	if !ok || l.spoiled(b) {
		return
	}
	due := sent.Add(l.f.delay)
	if l.hit(l.f.duplicate) {
		l.add(due.Add(l.f.delay/4), append([]byte(nil), b...), send)
	}
	if l.hit(l.f.reorder) {
		due = due.Add(time.Duration(l.rng.Int64N(int64(l.f.delay + 4*time.Millisecond))))
	}
	l.add(due, b, send)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// transmit returns when a datagram will have left on the link, or that its queue is full.
func (l *line) transmit(size int) (sent time.Time, ok bool) {
	now := time.Now()
	if l.f.rate == 0 {
		return now, true
	}
	takes := func(n int) time.Duration { return time.Duration(n) * 8 * time.Second / time.Duration(l.f.rate) }
	if l.free.Before(now) {
		l.free = now
	}
	if l.f.queue > 0 && l.free.Sub(now) > takes(l.f.queue*1500) {
		return now, false
	}
	l.free = l.free.Add(takes(size))
	return l.free, true
}

func (l *line) add(due time.Time, b []byte, send func([]byte)) {
	l.n++
	heap.Push(&l.queue, dueDatagram{due, l.n, b, send})
}

// next returns a datagram that is due, or how long to wait for one.
func (l *line) next() (d dueDatagram, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return d, time.Hour
	}
	if wait = time.Until(l.queue[0].due); wait > 0 {
		return d, wait
	}
	return heap.Pop(&l.queue).(dueDatagram), 0
}

func (l *line) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d, wait := l.next()
		if d.send != nil {
			d.send(d.b)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-l.wake:
		case <-l.stop:
			return
		}
	}
}
