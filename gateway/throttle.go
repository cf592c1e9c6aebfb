package gateway

import (
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/smb"
)

// throttles keeps one logon throttle for each client, so that reconnecting
// does not make guessing passwords any faster. It is bounded: the clients seen
// longest ago are forgotten first.
type throttles struct {
	mu    sync.Mutex
	delay time.Duration
	by    map[string]*smb.LogonThrottle
	order []string
}

const maxThrottles = 8192

// configureDelays sets how long those wait who were refused.
func (g *Gateway) configureDelays(cfg *config.Config) {
	delay := time.Duration(cfg.Limits.FailureDelay)
	g.throttles.configure(delay)
	g.refusals.configure(delay)
}

// configure sets the delay. Who is being slowed already begins anew.
func (t *throttles) configure(delay time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.delay != delay {
		t.delay, t.by, t.order = delay, nil, nil
	}
}

// of returns a client's throttle; nil: it has none.
func (t *throttles) of(client string) *smb.LogonThrottle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.delay == 0 {
		return nil
	}
	if l := t.by[client]; l != nil {
		return l
	}
	if t.by == nil {
		t.by = make(map[string]*smb.LogonThrottle)
	}
	if len(t.order) >= maxThrottles {
		delete(t.by, t.order[0])
		t.order = append(t.order[:0], t.order[1:]...)
	}
	l := smb.NewLogonThrottle(t.delay)
	t.by[client] = l
	t.order = append(t.order, client)
	return l
}
