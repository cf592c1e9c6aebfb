package gateway

import (
	"net/netip"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// limiter bounds what clients can take: connections in all and for each
// client, and handshakes in time.
type limiter struct {
	mu        sync.Mutex
	conf      config.Limits
	total     int
	perClient map[string]int
	window    time.Time
	count     int
	perAddr   map[netip.Prefix]int
}

// maxLimiterAddrs bounds the table of addresses of one second. Beyond it only
// the limit for all together holds.
const maxLimiterAddrs = 65536

func newLimiter(c *config.Limits) *limiter {
	return &limiter{conf: *c, perClient: make(map[string]int), perAddr: make(map[netip.Prefix]int)}
}

func (l *limiter) configure(c *config.Limits) {
	l.mu.Lock()
	l.conf = *c
	l.mu.Unlock()
}

// handshake counts a handshake that is about to cost a signature.
func (l *limiter) handshake(a netip.Addr, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.window) >= time.Second {
		l.window, l.count = now, 0
		clear(l.perAddr)
	}
	if l.total >= l.conf.Connections {
		return refused(reason.ConnectionLimit)
	}
	if l.count >= l.conf.HandshakesPerSecond {
		return refused(reason.RateLimit)
	}
	if from := source(a); !from.Addr().IsLoopback() {
		n, seen := l.perAddr[from]
		if n >= l.conf.HandshakesPerSecondPerAddress {
			return refused(reason.RateLimit)
		}
		if seen || len(l.perAddr) < maxLimiterAddrs {
			l.perAddr[from] = n + 1
		}
	}
	l.count++
	return nil
}

// source is what limits count an address by: itself, or of IPv6 its /64, of which
// one machine may use any address and as many as it likes.
func source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	if a.Is6() && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
		return netip.PrefixFrom(a, 64).Masked()
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// sourceName is source in a log, without the length where that says nothing.
func sourceName(a netip.Addr) string {
	p := source(a)
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func refused(r reason.Reason) error {
	return &quic.TransportError{Code: quic.TransportErrorCode(r.Code), Reason: r.Name}
}

// enter counts a session of a client; leave must follow if it returns true.
func (l *limiter) enter(client string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.conf.Connections || l.perClient[client] >= l.conf.ConnectionsPerClient {
		return false
	}
	l.total++
	l.perClient[client]++
	return true
}

func (l *limiter) leave(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.perClient[client]--; l.perClient[client] <= 0 {
		delete(l.perClient, client)
	}
}
