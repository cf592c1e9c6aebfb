package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
)

// meters hold the limits on bytes and requests in time: of each client over
// all its connections, and of each backend over all its clients.
type meters struct {
	mu       sync.Mutex
	conf     config.Limits
	clients  map[string]*clientMeter
	swept    time.Time            // when those that have left were last looked for
	backends map[[2]string]*meter // by route and address
}

// meter is a limit on bytes and one on requests.
type meter struct{ bytes, requests shaper }

func (m *meter) configure(bytes config.Size, requests int) {
	now := time.Now()
	m.bytes.setRate(float64(bytes), now)
	m.requests.setRate(float64(requests), now)
}

func (m *meter) take(ctx context.Context, client string, bytes, requests int) error {
	if err := m.requests.take(ctx, client, requests); err != nil {
		return err
	}
	return m.bytes.take(ctx, client, bytes)
}

// clientMeter is a client's, for as long as it has connections, and meterLife longer:
// who comes back owes what it owed.
type clientMeter struct {
	meter
	sessions int
	streams  int
	left     time.Time // when its last session ended
}

const meterLife = 10 * time.Second

// configure sets the limits of a table. Backends that it has not are forgotten.
func (m *meters) configure(t *table) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conf = t.cfg.Limits
	for _, c := range m.clients {
		c.configure(m.conf.BytesPerSecondPerClient, m.conf.RequestsPerSecondPerClient)
	}
	old := m.backends
	m.backends = make(map[[2]string]*meter)
	for _, r := range t.routes {
		l := r.limits()
		for _, b := range r.backends() {
			key := [2]string{r.name, b.Addr}
			bm := old[key]
			if bm == nil {
				bm = new(meter)
			}
			bm.configure(l.BytesPerSecond, l.RequestsPerSecond)
			m.backends[key] = bm
		}
	}
}

// limits are those of each backend of a route.
func (r *route) limits() config.BackendLimits {
	switch {
	case r.smb != nil:
		return r.conf.SMB.Limits
	case r.nfs != nil:
		return r.conf.NFS.Limits
	}
	return config.BackendLimits{}
}

// enter begins a client's session; leave must follow.
func (m *meters) enter(client string) *clientMeter {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(time.Now())
	c := m.clients[client]
	if c == nil {
		c = new(clientMeter)
		c.configure(m.conf.BytesPerSecondPerClient, m.conf.RequestsPerSecondPerClient)
		if m.clients == nil {
			m.clients = make(map[string]*clientMeter)
		}
		m.clients[client] = c
	}
	c.sessions++
	return c
}

func (m *meters) leave(client string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.clients[client]; c != nil {
		c.sessions--
		c.left = time.Now()
	}
}

// sweep forgets the clients that have left, now and then.
func (m *meters) sweep(now time.Time) {
	if now.Sub(m.swept) < meterLife {
		return
	}
	m.swept = now
	for name, c := range m.clients {
		if c.sessions == 0 && now.Sub(c.left) >= meterLife && c.bytes.settled() && c.requests.settled() {
			delete(m.clients, name)
		}
	}
}

// openStream counts a stream of a client; closeStream must follow if it returns true.
func (m *meters) openStream(c *clientMeter) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if limit := m.conf.StreamsPerClient; limit > 0 && c.streams >= limit {
		return false
	}
	c.streams++
	return true
}

func (m *meters) closeStream(c *clientMeter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.streams--
}

// of returns what a relay calls with all that it moves for a session: nil where
// nothing is limited, so that it costs nothing.
func (m *meters) of(s *session) func(ctx context.Context, backend string, bytes, requests int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	perClient := m.conf.BytesPerSecondPerClient > 0 || m.conf.RequestsPerSecondPerClient > 0
	l := s.route.limits()
	perBackend := l.BytesPerSecond > 0 || l.RequestsPerSecond > 0
	if !perClient && !perBackend {
		return nil
	}
	return func(ctx context.Context, backend string, bytes, requests int) error {
		if err := s.meter.take(ctx, "", bytes, requests); err != nil {
			return err
		}
		m.mu.Lock()
		b := m.backends[[2]string{s.route.name, backend}]
		m.mu.Unlock()
		if b == nil { // a reload took the backend from the route
			return nil
		}
		return b.take(ctx, s.client, bytes, requests)
	}
}
