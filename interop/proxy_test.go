package interop

import (
	"container/heap"
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
	seed                              uint64
	dropToClient, dropToServer        int // drop the first so many datagrams of a direction
}

// A proxy forwards datagrams between one client and a server, as a bad
// network with a NAT in it would.
type proxy struct {
	server   netip.AddrPort
	front    *net.UDPConn
	f        faults
	up, down *line
	black    atomic.Bool // drop everything
	wg       sync.WaitGroup

	mu      sync.Mutex
	client  netip.AddrPort
	backs   []*net.UDPConn // the last one sends
	retries atomic.Int64   // Retry packets of version 1 seen
}

func newProxy(t testing.TB, server netip.AddrPort, f faults) *proxy {
	t.Helper()
	p := &proxy{server: server, front: listenUDP(t, loopback), f: f}
	p.up = newLine(&p.wg, f, f.dropToServer, p.toServer)
	p.down = newLine(&p.wg, f, f.dropToClient, p.toClient)
	p.down.rng = rand.New(rand.NewPCG(f.seed, 2))
	p.Rebind(t)
	p.wg.Add(1)
	go p.readFront()
	t.Cleanup(p.close)
	return p
}

func (p *proxy) Addr() netip.AddrPort { return p.front.LocalAddr().(*net.UDPAddr).AddrPort() }

// Rebind changes the address the server sees. What the server sends to the
// old one still reaches the client, until Cut.
func (p *proxy) Rebind(t testing.TB) {
	t.Helper()
	b := listenUDP(t, loopback)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backs = append(p.backs, b)
	p.wg.Add(1)
	go p.readBack(b)
}

// Cut closes the addresses that Rebind has replaced, as a NAT that has
// forgotten them.
func (p *proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.backs[:len(p.backs)-1] {
		_ = b.Close()
	}
	p.backs = p.backs[len(p.backs)-1:]
}

// back is the address that the server should see now.
func (p *proxy) back() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.backs[len(p.backs)-1].LocalAddr().(*net.UDPAddr).AddrPort()
}

func (p *proxy) close() {
	p.mu.Lock()
	_ = p.front.Close()
	for _, b := range p.backs {
		_ = b.Close()
	}
	p.mu.Unlock()
	p.up.close()
	p.down.close()
	p.wg.Wait()
}

func (p *proxy) readFront() {
	defer p.wg.Done()
	buf := make([]byte, 1<<16)
	for {
		n, from, err := p.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.client = from
		p.mu.Unlock()
		p.forward(p.up, buf[:n])
	}
}

func (p *proxy) readBack(b *net.UDPConn) {
	defer p.wg.Done()
	buf := make([]byte, 1<<16)
	for {
		n, from, err := b.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if from == p.server {
			if n > 5 && buf[0]&0xf0 == 0xf0 && buf[4] == 1 {
				p.retries.Add(1)
			}
			p.forward(p.down, buf[:n])
		}
	}
}

func (p *proxy) forward(l *line, b []byte) {
	if !p.black.Load() {
		l.put(append([]byte(nil), b...))
	}
}

func (p *proxy) toServer(b []byte) {
	p.mu.Lock()
	back := p.backs[len(p.backs)-1]
	p.mu.Unlock()
	_, _ = back.WriteToUDPAddrPort(b, p.server)
}

func (p *proxy) toClient(b []byte) {
	p.mu.Lock()
	to := p.client
	p.mu.Unlock()
	_, _ = p.front.WriteToUDPAddrPort(b, to)
}

// A line delivers datagrams of one direction when they are due.
type line struct {
	f     faults
	drop  int
	send  func([]byte)
	wake  chan struct{}
	stop  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	rng   *rand.Rand
	queue dueQueue
	n     uint64
}

type dueDatagram struct {
	due time.Time
	n   uint64
	b   []byte
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

func newLine(wg *sync.WaitGroup, f faults, drop int, send func([]byte)) *line {
	l := &line{f: f, drop: drop, send: send, wake: make(chan struct{}, 1), stop: make(chan struct{}), rng: rand.New(rand.NewPCG(f.seed, 1))}
	wg.Add(1)
	go func() {
		defer wg.Done()
		l.run()
	}()
	return l
}

func (l *line) close() { l.once.Do(func() { close(l.stop) }) }

// put does to a datagram what faults say and queues what is left of it.
func (l *line) put(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.drop > 0 {
		l.drop--
		return
	}
	due := time.Now().Add(l.f.delay)
	hit := func(rate float64) bool { return rate > 0 && l.rng.Float64() < rate }
	if hit(l.f.loss) {
		return
	}
	if hit(l.f.corrupt) {
		b[l.rng.IntN(len(b))] ^= byte(1 << l.rng.IntN(8))
	}
	if hit(l.f.duplicate) {
		l.add(due.Add(l.f.delay/4), append([]byte(nil), b...))
	}
	if hit(l.f.reorder) {
		due = due.Add(time.Duration(l.rng.Int64N(int64(l.f.delay + 4*time.Millisecond))))
	}
	l.add(due, b)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *line) add(due time.Time, b []byte) {
	l.n++
	heap.Push(&l.queue, dueDatagram{due, l.n, b})
}

// next returns a datagram that is due, or how long to wait for one.
func (l *line) next() (b []byte, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil, time.Hour
	}
	if wait = time.Until(l.queue[0].due); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&l.queue).(dueDatagram).b, 0
}

func (l *line) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		b, wait := l.next()
		if b != nil {
			l.send(b)
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
