package simnet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

const (
	// defaultRecvBuffer is what an endpoint holds for its reader, in bytes.
	defaultRecvBuffer = 4 << 20
	// defaultMTU is Ethernet's 1500 bytes less the headers of IPv6 and UDP.
	defaultMTU = 1452
	// maxQueued bounds the datagrams it holds, however small.
	maxQueued = 1 << 14
	// maxWaiters bounds the callbacks of OnWritable.
	maxWaiters = 1 << 12
	// maxAddrs bounds the addresses of an endpoint.
	maxAddrs = 64
)

// Options are the properties of an endpoint. The zero value is a plain socket:
// no GSO, no GRO, no ECN, sends never block.
type Options struct {
	MaxSegments int  // datagrams a Send may carry in one call, 0: 1, at most 64
	GRO         bool // Recv joins datagrams
	ECN         bool
	MTU         int // bytes of UDP payload the interface takes, else ErrMessageTooLong; 0: 1452, Ethernet's
	RecvBuffer  int // bytes that wait for Recv, 0: 4 MiB; more are dropped
	// SendBuffer is the bytes that may wait in a link's queue before Send says
	// ErrWouldBlock; 0: it never does. It needs a link with a Rate.
	SendBuffer int
}

// Endpoint is a simulated UDP socket. It satisfies udp.PacketConn.
type Endpoint struct {
	net     *Net
	opt     Options
	addr    netip.AddrPort
	ready   sync.Cond // on net.mu: something to receive, or closed
	queue   []arrived
	held    int // bytes in queue
	addrs   []netip.Addr
	sending int // bytes that wait in links' queues
	waiters []func()
	onSend  func(*udp.SendMsg) error
	closed  bool
	dropped int
}

var _ udp.PacketConn = (*Endpoint)(nil)

// arrived is a datagram that waits for Recv.
type arrived struct {
	d  *datagram
	to netip.Addr
}

func newEndpoint(n *Net, addr netip.AddrPort, opt Options) *Endpoint {
	opt.MaxSegments = min(max(opt.MaxSegments, 1), udp.MaxSegments)
	if opt.MTU <= 0 {
		opt.MTU = defaultMTU
	}
	opt.MTU = min(opt.MTU, udp.MaxPayload)
	if opt.RecvBuffer <= 0 {
		opt.RecvBuffer = defaultRecvBuffer
	}
	e := &Endpoint{net: n, addr: addr, opt: opt, addrs: []netip.Addr{addr.Addr()}}
	e.ready.L = &n.mu
	return e
}

func errClosed(op string, addr netip.AddrPort) error {
	return fmt.Errorf("simnet: %s %v: %w", op, addr, net.ErrClosed)
}

// AddAddr gives the endpoint another address, with the same port: it receives
// what is sent there, and may send from there with SendMsg.Local. Its links are
// links of their own.
func (e *Endpoint) AddAddr(a netip.Addr) error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	if e.closed {
		return errClosed("add address to", e.addr)
	}
	if len(e.addrs) >= maxAddrs {
		return fmt.Errorf("simnet: %v has %d addresses already", e.addr, maxAddrs)
	}
	if err := e.net.bind(netip.AddrPortFrom(a, e.addr.Port()), e); err != nil {
		return err
	}
	e.addrs = append(e.addrs, a)
	return nil
}

// RemoveAddr takes an address away again, as when an interface goes down.
func (e *Endpoint) RemoveAddr(a netip.Addr) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	i := slices.Index(e.addrs, a)
	if i < 0 {
		return
	}
	e.addrs = slices.Delete(e.addrs, i, i+1)
	delete(e.net.endpoints, netip.AddrPortFrom(a, e.addr.Port()))
}

// OnSend has f see every Send first. What it returns, unless nil, is what Send
// returns, with nothing sent. It runs under the network's lock and must not
// call it. Nil ends it.
func (e *Endpoint) OnSend(f func(*udp.SendMsg) error) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.onSend = f
}

// Overflows is the number of datagrams dropped because nobody received.
func (e *Endpoint) Overflows() int {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	return e.dropped
}

// Send puts the datagrams of m on their links.
func (e *Endpoint) Send(m *udp.SendMsg) error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	m.Sent = 0
	if e.closed {
		return errClosed("send from", e.addr)
	}
	if e.onSend != nil {
		if err := e.onSend(m); err != nil {
			return err
		}
	}
	local := m.Local
	if !local.IsValid() {
		if len(e.addrs) == 0 {
			return fmt.Errorf("simnet: send from %v: it has no address left", e.addr)
		}
		local = e.addrs[0]
	}
	if !slices.Contains(e.addrs, local) {
		return fmt.Errorf("simnet: send from %v: not an address of %v", local, e.addr)
	}
	if len(m.Data) == 0 {
		return fmt.Errorf("simnet: send from %v: empty datagram", e.addr)
	}
	size := m.SegmentSize
	if size <= 0 || size > len(m.Data) {
		size = len(m.Data)
	}
	if size > e.opt.MTU {
		return udp.ErrMessageTooLong
	}
	return e.sendAll(m, local, size)
}

func (e *Endpoint) sendAll(m *udp.SendMsg, local netip.Addr, size int) error {
	n := e.net
	inside := netip.AddrPortFrom(local, e.addr.Port())
	ecn := m.ECN
	if !e.opt.ECN {
		ecn = udp.NotECT
	}
	for m.Sent < len(m.Data) {
		if e.opt.SendBuffer > 0 && e.sending >= e.opt.SendBuffer {
			return udp.ErrWouldBlock
		}
		from := inside
		for _, t := range n.nats {
			if t.inside == local {
				from = t.translate(inside)
				break
			}
		}
		data := m.Data[m.Sent:min(m.Sent+size, len(m.Data))]
		n.route(local, from, m.Remote, slices.Clone(data), ecn, m.DontFragment, e)
		m.Sent += len(data)
	}
	return nil
}

// sent takes n bytes off the send buffer and wakes those who wait for it.
func (e *Endpoint) sent(n int) {
	e.sending -= n
	if e.sending <= e.opt.SendBuffer/2 {
		e.wake()
	}
}

func (e *Endpoint) wake() {
	for _, f := range e.waiters {
		go f()
	}
	e.waiters = nil
}

// OnWritable calls f once when half of the send buffer is free, at once if it
// is, or when the endpoint is closed.
func (e *Endpoint) OnWritable(f func()) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	if e.closed || e.sending <= e.opt.SendBuffer/2 || len(e.waiters) >= maxWaiters {
		go f()
		return
	}
	e.waiters = append(e.waiters, f)
}

// enqueue takes a datagram that came to the address to.
func (e *Endpoint) enqueue(d *datagram, to netip.Addr) {
	if len(d.data) == 0 || len(d.data) > udp.MaxPayload {
		e.net.note(d, Dropped, "no valid size")
		return
	}
	if e.held+len(d.data) > e.opt.RecvBuffer || len(e.queue) >= maxQueued {
		e.dropped++
		e.net.note(d, Dropped, "receive buffer is full")
		return
	}
	e.net.note(d, Delivered, "")
	e.queue = append(e.queue, arrived{d, to})
	e.held += len(d.data)
	e.ready.Signal()
}

// Recv waits for a datagram, or a run of them.
func (e *Endpoint) Recv(m *udp.RecvMsg) error {
	if len(m.Buf) < udp.MinRecvBuffer {
		return udp.ErrShortBuffer
	}
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	for len(e.queue) == 0 && !e.closed {
		if m.Idle != nil {
			e.net.mu.Unlock()
			m.Idle()
			e.net.mu.Lock()
			if len(e.queue) > 0 || e.closed {
				break
			}
		}
		e.ready.Wait()
	}
	if e.closed {
		return net.ErrClosed
	}
	first := e.queue[0]
	m.N, m.SegmentSize = 0, len(first.d.data)
	m.Remote, m.Local, m.IfIndex, m.ECN = first.d.from, first.to, 0, udp.NotECT
	if e.opt.ECN {
		m.ECN = first.d.ecn
	}
	taken := 0
	for taken < len(e.queue) && e.joins(m, first, e.queue[taken], taken) {
		m.N += copy(m.Buf[m.N:], e.queue[taken].d.data)
		taken++
		if m.N < taken*m.SegmentSize {
			break // a shorter one ends the run
		}
	}
	e.held -= m.N
	clear(e.queue[:taken])
	e.queue = e.queue[taken:]
	if len(e.queue) > 0 {
		e.ready.Signal()
	}
	return nil
}

// joins reports whether GRO puts a into the run that began with first.
func (e *Endpoint) joins(m *udp.RecvMsg, first, a arrived, taken int) bool {
	if taken == 0 {
		return true
	}
	return e.opt.GRO && taken < udp.MaxSegments && m.N+len(a.d.data) <= udp.MaxPayload &&
		a.d.from == first.d.from && a.to == first.to && a.d.ecn == first.d.ecn &&
		len(a.d.data) <= m.SegmentSize
}

// LocalAddr is the address given to Listen.
func (e *Endpoint) LocalAddr() netip.AddrPort { return e.addr }

// Caps says what Options say.
func (e *Endpoint) Caps() udp.Caps {
	return udp.Caps{
		MaxSegments: e.opt.MaxSegments, GRO: e.opt.GRO, ECN: e.opt.ECN, DF: true,
		RecvBuffer: e.opt.RecvBuffer, SendBuffer: e.opt.SendBuffer,
	}
}

// Close frees the addresses and ends Recv. What the endpoint sent goes on.
func (e *Endpoint) Close() error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	delete(e.net.open, e)
	for _, a := range e.addrs {
		delete(e.net.endpoints, netip.AddrPortFrom(a, e.addr.Port()))
	}
	e.queue, e.held = nil, 0
	e.wake()
	e.ready.Broadcast()
	return nil
}
