package gateway

import (
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/backend"
	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// Status is a snapshot for people and programs.
type Status struct {
	Uptime      string             `json:"uptime"`
	Generation  uint64             `json:"config_generation"`
	Draining    bool               `json:"draining"`
	Listeners   []ListenerStatus   `json:"listeners"`
	Routes      []RouteStatus      `json:"routes"`
	Connections []ConnectionStatus `json:"connections"`
}

// ListenerStatus is one address.
type ListenerStatus struct {
	Address   string     `json:"address"`
	Shards    int        `json:"shards"`
	Transport quic.Stats `json:"transport"`
}

// RouteStatus is one route and its backends.
type RouteStatus struct {
	Name     string          `json:"name"`
	Kind     string          `json:"kind"`
	Sessions int             `json:"sessions"`
	Backends []BackendStatus `json:"backends,omitempty"`
	NFS      *nfs.Stats      `json:"nfs,omitempty"`
}

// BackendStatus is what is known of one server behind a route.
type BackendStatus struct {
	Address    string  `json:"address"`
	Up         bool    `json:"up"`
	Sessions   int     `json:"sessions"` // connections whose last backend it is
	Failures   int     `json:"failures"` // in a row
	LastError  string  `json:"last_error,omitempty"`
	Dials      int64   `json:"dials"`
	DialErrors int64   `json:"dial_errors"`
	DialMs     float64 `json:"dial_ms"` // of the last that succeeded
	Checks     int64   `json:"checks"`
	BadChecks  int64   `json:"bad_checks"`
	CheckMs    float64 `json:"check_ms"` // of the last that succeeded
	CheckedAgo string  `json:"checked_ago,omitempty"`
}

func backendStatus(b *backend.State, sessions int) BackendStatus {
	st := BackendStatus{
		Address: b.Addr, Up: b.Up, Sessions: sessions, Failures: b.Failures, LastError: b.LastError, Dials: b.Dials, DialErrors: b.Failed,
		DialMs: float64(b.DialTime) / 1e6, Checks: b.Probes, BadChecks: b.BadProbes, CheckMs: float64(b.ProbeTime) / 1e6,
	}
	if !b.Probed.IsZero() {
		st.CheckedAgo = time.Since(b.Probed).Round(time.Millisecond).String()
	}
	return st
}

// ConnectionStatus is one live connection.
type ConnectionStatus struct {
	ID       string  `json:"id"`
	Route    string  `json:"route"`
	Remote   string  `json:"remote"`
	Client   string  `json:"client,omitempty"` // certificate subject
	Backend  string  `json:"backend,omitempty"`
	Age      string  `json:"age"`
	BytesIn  uint64  `json:"bytes_in"`
	BytesOut uint64  `json:"bytes_out"`
	RTTms    float64 `json:"rtt_ms"`
	Window   int     `json:"congestion_window"`
	CC       string  `json:"congestion_control"` // with its state
	Pacing   int64   `json:"pacing_bytes_per_second"`
	Delivery int64   `json:"delivery_bytes_per_second"` // 0: not yet known
	Lost     uint64  `json:"bytes_lost"`
	Spurious uint64  `json:"spurious_losses"`
	Held     int     `json:"held_bytes"`
}

// maxStatusConns bounds the connections that a status lists.
const maxStatusConns = 10000

// Status returns a snapshot.
func (g *Gateway) Status() *Status {
	t := g.table.Load()
	st := &Status{Uptime: time.Since(g.started).Round(time.Second).String(), Generation: t.generation, Draining: g.draining.Load()}
	for _, e := range g.endpoints {
		st.Listeners = append(st.Listeners, ListenerStatus{Address: e.LocalAddr().String(), Shards: len(e.sockets()), Transport: e.Stats()})
	}
	live := g.live()
	count := map[string]int{}
	on := map[[2]string]int{} // route and backend
	for _, s := range live {
		count[s.route.name]++
		if b := s.backend.Load(); b != nil {
			on[[2]string{s.route.name, *b}]++
		}
		if len(st.Connections) < maxStatusConns {
			st.Connections = append(st.Connections, s.status())
		}
	}
	for i := range t.cfg.Routes {
		r := t.routes[&t.cfg.Routes[i]]
		rs := RouteStatus{Name: r.name, Kind: r.kind, Sessions: count[r.name]}
		for _, b := range r.backends() {
			rs.Backends = append(rs.Backends, backendStatus(&b, on[[2]string{r.name, b.Addr}]))
		}
		if r.nfs != nil {
			n := r.nfs.Stats()
			rs.NFS = &n
		}
		st.Routes = append(st.Routes, rs)
	}
	return st
}

func (s *session) status() ConnectionStatus {
	cs := s.conn.Stats()
	out := ConnectionStatus{
		ID: s.conn.ID(), Route: s.route.name, Remote: s.conn.RemoteAddrPort().String(), Age: time.Since(s.started).Round(time.Second).String(),
		BytesIn: cs.StreamBytesReceived, BytesOut: cs.StreamBytesSent, RTTms: float64(cs.SmoothedRTT) / 1e6, Window: cs.CongestionWindow, Held: cs.HeldBytes,
		CC: cs.CongestionControl + ": " + cs.CongestionState, Pacing: cs.PacingRate, Delivery: cs.DeliveryRate, Lost: cs.BytesLost, Spurious: cs.SpuriousLosses,
	}
	if v := s.verdict.Load(); v != nil && v.Chain != nil {
		out.Client = v.Chain.Subject
	}
	if b := s.backend.Load(); b != nil {
		out.Backend = *b
	}
	return out
}
