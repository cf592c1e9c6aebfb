package gateway

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
)

func TestHandshakeLimits(t *testing.T) {
	l := newLimiter(&config.Limits{Connections: 10, ConnectionsPerClient: 2, HandshakesPerSecond: 5, HandshakesPerSecondPerAddress: 2})
	now := time.Unix(1000, 0)
	one, mapped := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.1")
	for i, a := range []netip.Addr{one, mapped} {
		if err := l.handshake(a, now); err != nil {
			t.Fatalf("handshake %d: %v", i, err)
		}
	}
	if err := l.handshake(one, now); err == nil {
		t.Error("a third handshake from one address in a second")
	}
	// Loopback has no limit of its own, but counts for all together.
	for i := range 3 {
		if err := l.handshake(netip.MustParseAddr("127.0.0.1"), now); err != nil {
			t.Fatalf("loopback %d: %v", i, err)
		}
	}
	if err := l.handshake(netip.MustParseAddr("192.0.2.2"), now); err == nil {
		t.Error("a sixth handshake in a second")
	}
	if err := l.handshake(one, now.Add(time.Second)); err != nil {
		t.Errorf("the next second: %v", err)
	}
}

// Who has a network of IPv6 addresses is one client, not as many as he likes.
func TestSource(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
		name string // of a
	}{
		{"192.0.2.1", "::ffff:192.0.2.1", true, "192.0.2.1"},
		{"192.0.2.1", "192.0.2.2", false, "192.0.2.1"},
		{"2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true, "2001:db8:0:1::/64"},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false, "2001:db8:0:1::/64"},
		{"::1", "::2", false, "::1"},
		{"fe80::1%eth0", "fe80::2%eth0", false, "fe80::1"},
	} {
		a, b := netip.MustParseAddr(tt.a), netip.MustParseAddr(tt.b)
		if same := source(a) == source(b); same != tt.same || sourceName(a) != tt.name || (clientKey(&access.Verdict{}, a) == clientKey(&access.Verdict{}, b)) != tt.same {
			t.Errorf("%s (%s) and %s: the same %v", a, sourceName(a), b, same)
		}
	}
	l := newLimiter(&config.Limits{Connections: 10, ConnectionsPerClient: 2, HandshakesPerSecond: 5, HandshakesPerSecondPerAddress: 2})
	now := time.Unix(1000, 0)
	for i, a := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3"} {
		if err := l.handshake(netip.MustParseAddr(a), now); (err == nil) != (i < 2) {
			t.Errorf("handshake %d of a network: %v", i, err)
		}
	}
}

func TestConnectionLimits(t *testing.T) {
	l := newLimiter(&config.Limits{Connections: 3, ConnectionsPerClient: 2, HandshakesPerSecond: 100, HandshakesPerSecondPerAddress: 100})
	for _, step := range []struct {
		client string
		ok     bool
	}{{"a", true}, {"a", true}, {"a", false}, {"b", true}, {"b", false}} {
		if ok := l.enter(step.client); ok != step.ok {
			t.Errorf("enter %s: %v", step.client, ok)
		}
	}
	if err := l.handshake(netip.MustParseAddr("127.0.0.1"), time.Unix(1, 0)); err == nil {
		t.Error("a handshake although no connection is free")
	}
	l.leave("a")
	if !l.enter("b") {
		t.Error("a place that was given back is not free")
	}
	l.leave("a")
	l.leave("b")
	l.leave("b")
	if l.total != 0 || len(l.perClient) != 0 {
		t.Errorf("left behind: %d, %v", l.total, l.perClient)
	}
	l.configure(&config.Limits{Connections: 0})
	if l.enter("a") {
		t.Error("the new limit does not hold")
	}
	if errors.Is(l.handshake(netip.MustParseAddr("127.0.0.1"), time.Unix(1, 0)), nil) {
		t.Error("the new limit does not hold for handshakes")
	}
}
