package simnet

import "net/netip"

// maxMappings bounds the mappings of a NAT; with more, the oldest go.
const maxMappings = 1024

// NAT translates the addresses of one inside host: its source ports become
// ports of an outside address, and what comes to those goes back. Anybody may
// send to a mapping (RFC 4787: endpoint-independent).
type NAT struct {
	net     *Net
	inside  netip.Addr
	outside netip.Addr
	old     map[netip.Addr]bool // outside addresses of before; nothing behind them
	next    uint16
	out     map[netip.AddrPort]netip.AddrPort // inside to outside
	back    map[netip.AddrPort]netip.AddrPort
	order   []netip.AddrPort // inside, oldest first
}

// NAT puts host behind a NAT with the given outside address, from now on:
// to peers it already talked to this looks like a rebinding.
func (n *Net) NAT(host, outside netip.Addr) *NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := &NAT{net: n, inside: host, outside: outside, old: map[netip.Addr]bool{}, next: firstPort}
	t.clear()
	n.nats = append(n.nats, t)
	return t
}

func (t *NAT) clear() {
	t.out = map[netip.AddrPort]netip.AddrPort{}
	t.back = map[netip.AddrPort]netip.AddrPort{}
	t.order = nil
}

// Rebind forgets all mappings, as a NAT that lost its power does. The next
// datagram of each inside port gets a port never used before, and what was sent
// to the old ones goes nowhere.
func (t *NAT) Rebind() {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	t.clear()
}

// Move is Rebind with another outside address.
func (t *NAT) Move(outside netip.Addr) {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	t.old[t.outside] = true
	delete(t.old, outside)
	t.outside = outside
	t.clear()
}

// Outside is the address that peers see for an inside address, invalid if there
// is no mapping.
func (t *NAT) Outside(inside netip.AddrPort) netip.AddrPort {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	return t.out[inside]
}

// owns reports whether datagrams to a come to this NAT.
func (t *NAT) owns(a netip.Addr) bool { return a == t.outside || t.old[a] }

// translate is the source address for a datagram from inside.
func (t *NAT) translate(inside netip.AddrPort) netip.AddrPort {
	if out, ok := t.out[inside]; ok {
		return out
	}
	if len(t.order) >= maxMappings {
		oldest := t.order[0]
		t.order = t.order[1:]
		delete(t.back, t.out[oldest])
		delete(t.out, oldest)
	}
	out := netip.AddrPortFrom(t.outside, t.next)
	t.next++
	if t.next == 0 {
		t.next = firstPort
	}
	t.out[inside], t.back[out] = out, inside
	t.order = append(t.order, inside)
	return out
}

// in is the inside address for a datagram to the outside address to.
func (t *NAT) in(to netip.AddrPort) (netip.AddrPort, bool) {
	inside, ok := t.back[to]
	return inside, ok
}
