// Package simnet is a network for tests: endpoints that satisfy udp.PacketConn,
// joined by links that delay, lose, reorder, duplicate, corrupt, mark and queue
// datagrams, and by NATs that change their mind.
//
// It uses the time and channels of the process and no sockets, so inside a
// testing/synctest bubble an hour of traffic takes a moment. Every decision
// comes from one seed: each direction of each link draws from generators of its
// own, one for each impairment, so that a run repeats itself whatever other
// links do and whichever impairments are switched on beside.
//
// A datagram goes this way:
//
//  1. Endpoint.Send cuts a batch into datagrams and asks the NAT, if there is
//     one, for the source address.
//  2. The link from host to host decides its fate (link.go, in the order of the
//     comment at Link.send) and when it arrives.
//  3. At that time the NAT of the receiver, if there is one, is asked for the
//     destination, and the endpoint there gets it into its queue.
//  4. Endpoint.Recv returns it, with others like it where it does GRO.
package simnet

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Limits of a Net.
const (
	// maxInFlight bounds the bytes under way in all links together.
	maxInFlight = 64 << 20
	// maxEndpoints bounds the addresses that can be bound.
	maxEndpoints = 1 << 14
	// firstPort is where the search for a free port begins.
	firstPort = 49152
)

// ErrAddrInUse: another endpoint has the address.
var ErrAddrInUse = errors.New("simnet: address in use")

// Net is a simulated network. Its methods and those of what it hands out may be
// called from any goroutine. Inside a synctest bubble everything must be called
// from goroutines of that bubble, and Close before it ends.
type Net struct {
	mu        sync.Mutex
	seed      uint64
	start     time.Time
	defaults  Params
	links     map[linkKey]*Link
	endpoints map[netip.AddrPort]*Endpoint
	open      map[*Endpoint]bool // with or without an address
	nats      []*NAT
	events    eventQueue
	timer     *time.Timer
	armed     time.Time // when the timer fires; zero: it does not
	inFlight  int       // bytes in events
	trace     trace
	closed    bool
}

// New returns a network whose links have the given parameters until they are
// given others.
func New(seed uint64, defaults Params) *Net {
	n := &Net{
		seed:      seed,
		start:     time.Now(),
		defaults:  defaults,
		links:     map[linkKey]*Link{},
		endpoints: map[netip.AddrPort]*Endpoint{},
		open:      map[*Endpoint]bool{},
	}
	return n
}

// Listen binds an endpoint to addr. Port 0 takes a free one. The address must
// be specified: an endpoint has the addresses it is given, see AddAddr.
func (n *Net) Listen(addr netip.AddrPort, opt Options) (*Endpoint, error) {
	if !addr.Addr().IsValid() || addr.Addr().IsUnspecified() {
		return nil, fmt.Errorf("simnet: listen on %v: an address is needed", addr)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed("listen", addr)
	}
	if addr.Port() == 0 {
		port := n.freePort(addr.Addr())
		if port == 0 {
			return nil, fmt.Errorf("simnet: listen on %v: no port is free: %w", addr, ErrAddrInUse)
		}
		addr = netip.AddrPortFrom(addr.Addr(), port)
	}
	e := newEndpoint(n, addr, opt)
	if err := n.bind(addr, e); err != nil {
		return nil, err
	}
	n.open[e] = true
	return e, nil
}

func (n *Net) bind(addr netip.AddrPort, e *Endpoint) error {
	if n.endpoints[addr] != nil {
		return fmt.Errorf("simnet: listen on %v: %w", addr, ErrAddrInUse)
	}
	if len(n.endpoints) >= maxEndpoints {
		return fmt.Errorf("simnet: listen on %v: more than %d endpoints", addr, maxEndpoints)
	}
	n.endpoints[addr] = e
	return nil
}

// freePort returns a port nobody has, 0 if there is none.
func (n *Net) freePort(a netip.Addr) uint16 {
	for p := uint16(firstPort); p != 0; p++ {
		if n.endpoints[netip.AddrPortFrom(a, p)] == nil {
			return p
		}
	}
	return 0
}

// Link returns the direction from one host to another, for setting its
// parameters. A host behind a NAT is named by its inside address.
func (n *Net) Link(from, to netip.Addr) *Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.link(from, to)
}

func (n *Net) link(from, to netip.Addr) *Link {
	key := linkKey{from, to}
	l := n.links[key]
	if l == nil {
		l = newLink(n, key)
		n.links[key] = l
	}
	return l
}

// Both applies f to the parameters of the two directions between a and b.
func (n *Net) Both(a, b netip.Addr, f func(*Params)) {
	n.Link(a, b).Update(f)
	n.Link(b, a).Update(f)
}

// Inject puts a datagram on the link to a host as somebody on the path or off
// it would, under any source address. It suffers what the link does to all.
func (n *Net) Inject(from, to netip.AddrPort, data []byte, ecn uint8) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.route(from.Addr(), from, to, bytes.Clone(data), ecn, true, nil)
	}
}

// route sends one datagram of host on its way. from is what the receiver will
// see; data is the network's from here on. What waits in the link's queue counts
// for owner.
func (n *Net) route(host netip.Addr, from, to netip.AddrPort, data []byte, ecn uint8, df bool, owner *Endpoint) {
	l := n.link(host, n.hostOf(to))
	l.send(&datagram{from: from, to: to, data: data, ecn: ecn, df: df, owner: owner})
}

// hostOf is the host that an address on the wire leads to.
func (n *Net) hostOf(to netip.AddrPort) netip.Addr {
	for _, t := range n.nats {
		if t.owns(to.Addr()) {
			return t.inside
		}
	}
	return to.Addr()
}

// deliver hands a datagram that has arrived to its endpoint.
func (n *Net) deliver(d *datagram) {
	to := d.to
	for _, t := range n.nats {
		if t.owns(to.Addr()) {
			inside, ok := t.in(to)
			if !ok {
				n.note(d, Dropped, "no NAT mapping")
				return
			}
			to = inside
			break
		}
	}
	e := n.endpoints[to]
	if e == nil {
		n.note(d, Dropped, "nobody there")
		return
	}
	e.enqueue(d, to.Addr())
}

// schedule arms the timer for the earliest event.
func (n *Net) schedule() {
	if n.closed || len(n.events) == 0 {
		return
	}
	at := n.events[0].at
	if !n.armed.IsZero() && !at.Before(n.armed) {
		return
	}
	n.armed = at
	wait := max(time.Until(at), 0)
	if n.timer == nil {
		n.timer = time.AfterFunc(wait, n.run)
		return
	}
	n.timer.Reset(wait)
}

// run carries out what is due.
func (n *Net) run() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed = time.Time{}
	for !n.closed && len(n.events) > 0 && !n.events[0].at.After(time.Now()) {
		ev := heap.Pop(&n.events).(event)
		if ev.leaves {
			ev.d.link.left(ev.d)
			continue
		}
		n.inFlight -= len(ev.d.data)
		n.deliver(ev.d)
	}
	n.schedule()
}

func (n *Net) push(ev event) {
	heap.Push(&n.events, ev)
	n.schedule()
}

// InFlight is the number of bytes under way.
func (n *Net) InFlight() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.inFlight
}

// Close closes every endpoint and forgets what is under way.
func (n *Net) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	if n.timer != nil {
		n.timer.Stop()
	}
	n.events, n.inFlight = nil, 0
	all := slices.Collect(maps.Keys(n.open))
	n.mu.Unlock()
	for _, e := range all {
		e.Close()
	}
	return nil
}

// datagram is one datagram under way.
type datagram struct {
	from, to netip.AddrPort // as on the wire
	data     []byte
	ecn      uint8
	df       bool
	link     *Link
	index    int
	owner    *Endpoint // whose send buffer it fills while it waits, or nil
}

// event is a datagram that leaves a link's queue or arrives.
type event struct {
	at     time.Time
	leaves bool
	seq    uint64 // in its link
	d      *datagram
}

// eventQueue is a heap, ordered by time. Events of one moment come in an order
// that does not depend on which goroutine was first.
type eventQueue []event

func (q eventQueue) Len() int { return len(q) }

func (q eventQueue) Less(i, j int) bool {
	a, b := &q[i], &q[j]
	if c := a.at.Compare(b.at); c != 0 {
		return c < 0
	}
	if c := a.d.link.key.compare(b.d.link.key); c != 0 {
		return c < 0
	}
	return a.seq < b.seq
}

func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

func (q *eventQueue) Push(x any) { *q = append(*q, x.(event)) }

func (q *eventQueue) Pop() any {
	old := *q
	last := len(old) - 1
	ev := old[last]
	old[last] = event{}
	*q = old[:last]
	return ev
}
