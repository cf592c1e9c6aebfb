package perf

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
)

// Result is what one end of a run measured, the object of --json. Bytes are
// payload, both directions together; cpu is user and system time of this
// process; packets are UDP datagrams, both directions together.
type Result struct {
	Role       string  `json:"role"` // client | server
	Bytes      uint64  `json:"bytes"`
	Seconds    float64 `json:"seconds"`
	Gbps       float64 `json:"gbps"`
	CPUSeconds float64 `json:"cpu_seconds"`
	CPUPerGiB  float64 `json:"cpu_s_per_gib"` // 0 if no byte moved

	Packets         uint64 `json:"packets"`
	PacketsSent     uint64 `json:"packets_sent"`
	PacketsReceived uint64 `json:"packets_received"`
	PacketsLost     uint64 `json:"packets_lost"`
	Retransmitted   uint64 `json:"bytes_retransmitted"`
	// Drops are datagrams received and thrown away, by reason; none are left out.
	Drops        map[string]int64 `json:"drops,omitempty"`
	PerBatch     float64          `json:"datagrams_per_send"` // average of a system call
	DatagramSize int              `json:"datagram_size"`      // largest sent, bytes of UDP payload
	UserCopies   float64          `json:"user_copies_per_byte"`
	Allocs       float64          `json:"allocs_per_packet"`
	GSO          bool             `json:"gso"`
	GRO          bool             `json:"gro"`
	Connections  int              `json:"connections"`
	Streams      int              `json:"streams,omitempty"`

	// Request and response.
	Requests int     `json:"requests,omitempty"`
	P50us    float64 `json:"p50_us,omitempty"`
	P99us    float64 `json:"p99_us,omitempty"`
	PerSec   float64 `json:"requests_per_second,omitempty"`

	// Handshakes and idle connections.
	Handshakes       int     `json:"handshakes,omitempty"`
	HandshakesPerCPU float64 `json:"handshakes_per_cpu_second,omitempty"`
	Resident         int64   `json:"resident_bytes,omitempty"` // of the process, with all connections open
}

// Write writes r to w: one line of JSON, or a table.
func (r *Result) Write(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	row := func(name, format string, a ...any) {
		fmt.Fprintf(w, "%-22s "+format+"\n", append([]any{name}, a...)...)
	}
	row("role", "%s, %d connections", r.Role, r.Connections)
	row("bytes", "%d in %.3f s, %.2f Gbit/s", r.Bytes, r.Seconds, r.Gbps)
	row("CPU", "%.3f s, %.3f s/GiB", r.CPUSeconds, r.CPUPerGiB)
	row("datagrams", "%d sent, %d received, %d lost, up to %d bytes, %.1f a send", r.PacketsSent, r.PacketsReceived, r.PacketsLost, r.DatagramSize, r.PerBatch)
	for _, reason := range slices.Sorted(maps.Keys(r.Drops)) {
		row("dropped, "+reason, "%d", r.Drops[reason])
	}
	row("copies per byte", "%.4f", r.UserCopies)
	row("allocations per packet", "%.4f", r.Allocs)
	row("offload", "GSO %t, GRO %t", r.GSO, r.GRO)
	if r.Requests > 0 {
		row("requests", "%d, %.0f/s, p50 %.1f us, p99 %.1f us", r.Requests, r.PerSec, r.P50us, r.P99us)
	}
	if r.Handshakes > 0 {
		row("handshakes", "%d, %.0f per CPU second of this process", r.Handshakes, r.HandshakesPerCPU)
	}
	if r.Resident > 0 {
		row("resident memory", "%d bytes", r.Resident)
	}
	return nil
}

// latencies fills in the distribution of request times; it sorts them.
func (r *Result) latencies(d []time.Duration) {
	if len(d) == 0 {
		return
	}
	slices.Sort(d)
	at := func(q float64) float64 {
		return float64(d[min(int(q*float64(len(d))), len(d)-1)]) / float64(time.Microsecond)
	}
	r.Requests, r.P50us, r.P99us = len(d), at(0.50), at(0.99)
	r.PerSec = float64(len(d)) / r.Seconds
}

// SetLatencies is latencies for other programs that report a Result.
func (r *Result) SetLatencies(d []time.Duration) { r.latencies(d) }

// A Meter measures from Start to Stop. Its zero value is ready for use.
type Meter struct {
	began   time.Time
	cpu     float64
	mallocs uint64
	stats   quic.Stats
}

// Start begins. With ep nil there are no packet counters.
func (m *Meter) Start(ep *quic.Endpoint) {
	if ep != nil {
		m.stats = ep.Stats()
	}
	m.mallocs = mallocs()
	m.cpu = CPUSeconds()
	m.began = time.Now()
}

// Stop ends and reports what it cost to move so many bytes. A since that is
// not zero is when time began to count, if not at Start.
func (m *Meter) Stop(ep *quic.Endpoint, role string, bytes uint64, since time.Time) *Result {
	if since.IsZero() {
		since = m.began
	}
	r := &Result{Role: role, Bytes: bytes, Seconds: time.Since(since).Seconds(), CPUSeconds: CPUSeconds() - m.cpu}
	allocs := mallocs() - m.mallocs
	if r.Seconds > 0 {
		r.Gbps = float64(bytes) * 8 / r.Seconds / 1e9
	}
	if bytes > 0 {
		r.CPUPerGiB = r.CPUSeconds / float64(bytes) * (1 << 30)
	}
	if ep == nil {
		return r
	}
	s, old := ep.Stats(), &m.stats
	r.PacketsSent, r.PacketsReceived = more(s.DatagramsSent, old.DatagramsSent), more(s.DatagramsReceived, old.DatagramsReceived)
	r.Packets, r.PacketsLost = r.PacketsSent+r.PacketsReceived, more(s.PacketsLost, old.PacketsLost)
	r.Retransmitted = more(s.BytesRetransmitted, old.BytesRetransmitted)
	for reason, n := range s.Drops {
		if n -= old.Drops[reason]; n > 0 {
			if r.Drops == nil {
				r.Drops = make(map[string]int64)
			}
			r.Drops[reason] = n
		}
	}
	if n := more(s.Batches, old.Batches); n > 0 {
		r.PerBatch = float64(r.PacketsSent) / float64(n)
	}
	if bytes > 0 {
		r.UserCopies = float64(s.CopiedBytes-old.CopiedBytes) / float64(bytes)
	}
	if r.Packets > 0 {
		r.Allocs = float64(allocs) / float64(r.Packets)
	}
	return r
}

// more is how much a counter grew. Snapshots while connections close may miss
// one that moves from the live to the closed: that is no negative growth.
func more(now, before uint64) uint64 { return max(now, before) - before }

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
