package gateway

import (
	"sync"

	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
	"github.com/quic-fsgw/quic-fsgw/internal/backend"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// metrics are what the gateway counts itself; the rest is read from the
// endpoints, services and sockets when somebody asks.
type metrics struct {
	connections admin.Counters
	ends        admin.Counters
	verdicts    admin.Counters

	mu    sync.Mutex
	bytes map[string]*[2]uint64 // of ended sessions, by route: in, out
}

func newMetrics(reg *admin.Registry, g *Gateway) *metrics {
	m := &metrics{
		connections: reg.Counters("quicfsgw_connections_total", "Connections by route and result: admitted, or why not.", "route", "result"),
		ends:        reg.Counters("quicfsgw_sessions_ended_total", "Sessions that ended, by route and reason.", "route", "reason"),
		verdicts:    reg.Counters("quicfsgw_access_verdicts_total", "Access verdicts by rule and reason.", "rule", "reason"),
		bytes:       make(map[string]*[2]uint64),
	}
	reg.PullGauge("quicfsgw_connections", "Connections at present, by route.", func(emit func(float64, ...string)) {
		n := map[string]int{}
		for _, s := range g.live() {
			n[s.route.name]++
		}
		for _, r := range g.table.Load().routes {
			emit(float64(n[r.name]), r.name)
		}
	}, "route")
	reg.PullCounter("quicfsgw_bytes_total", "Stream bytes by route and direction, seen from the gateway.", m.pullBytes(g), "route", "direction")
	pullTransport(reg, g)
	pullBackends(reg, g)
	return m
}

func (g *Gateway) live() []*session {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*session, 0, len(g.sessions))
	for s := range g.sessions {
		out = append(out, s)
	}
	return out
}

// retire adds an ended session's bytes.
func (m *metrics) retire(route string, st *quic.ConnStats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.bytes[route]
	if b == nil {
		b = new([2]uint64)
		m.bytes[route] = b
	}
	b[0] += st.StreamBytesReceived
	b[1] += st.StreamBytesSent
}

func (m *metrics) pullBytes(g *Gateway) admin.PullFunc {
	return func(emit func(float64, ...string)) {
		sum := map[string][2]uint64{}
		m.mu.Lock()
		for r, b := range m.bytes {
			sum[r] = *b
		}
		m.mu.Unlock()
		for _, s := range g.live() {
			st := s.conn.Stats()
			b := sum[s.route.name]
			b[0] += st.StreamBytesReceived
			b[1] += st.StreamBytesSent
			sum[s.route.name] = b
		}
		for r, b := range sum {
			emit(float64(b[0]), r, "in")
			emit(float64(b[1]), r, "out")
		}
	}
}

// pullTransport registers what the QUIC endpoints and their sockets count.
func pullTransport(reg *admin.Registry, g *Gateway) {
	sum := func(pick func(*quic.Stats) float64) admin.PullFunc {
		return func(emit func(float64, ...string)) {
			total := 0.0
			for _, e := range g.endpoints {
				st := e.Stats()
				total += pick(&st)
			}
			emit(total)
		}
	}
	count := func(name, help string, pick func(*quic.Stats) float64) { reg.PullCounter(name, help, sum(pick)) }
	count("quicfsgw_packets_sent_total", "QUIC packets sent.", func(s *quic.Stats) float64 { return float64(s.PacketsSent) })
	count("quicfsgw_packets_received_total", "QUIC packets received.", func(s *quic.Stats) float64 { return float64(s.PacketsReceived) })
	count("quicfsgw_packets_lost_total", "QUIC packets declared lost.", func(s *quic.Stats) float64 { return float64(s.PacketsLost) })
	count("quicfsgw_retransmitted_bytes_total", "Stream bytes sent again.", func(s *quic.Stats) float64 { return float64(s.BytesRetransmitted) })
	count("quicfsgw_lost_bytes_total", "Bytes of packets declared lost.", func(s *quic.Stats) float64 { return float64(s.BytesLost) })
	count("quicfsgw_spurious_losses_total", "Packets declared lost that had arrived, late.", func(s *quic.Stats) float64 { return float64(s.SpuriousLosses) })
	count("quicfsgw_copied_bytes_total", "Stream bytes copied in user space.", func(s *quic.Stats) float64 { return float64(s.CopiedBytes) })
	count("quicfsgw_send_batches_total", "Sends of one or more datagrams (GSO).", func(s *quic.Stats) float64 { return float64(s.Batches) })
	count("quicfsgw_datagrams_sent_total", "UDP datagrams sent.", func(s *quic.Stats) float64 { return float64(s.DatagramsSent) })
	reg.PullGauge("quicfsgw_tx_flows", "Flows whose batches of packets are sealed in software (QuicCurrTxSw of the kernel's offload series).",
		sum(func(s *quic.Stats) float64 { return float64(s.Sealer.CurrTxSw) }))
	count("quicfsgw_tx_flows_total", "Flows that ever were (QuicTxSw).", func(s *quic.Stats) float64 { return float64(s.Sealer.TxSw) })
	count("quicfsgw_tx_errors_total", "Batches that were dropped because they could not be sealed (QuicTxSwError).", func(s *quic.Stats) float64 { return float64(s.Sealer.TxSwError) })
	count("quicfsgw_path_gso_fallbacks_total", "Paths on which batches were given up because only they got lost.", func(s *quic.Stats) float64 { return float64(s.GSOFallbacks) })
	count("quicfsgw_mtu_black_holes_total", "Times a path stopped carrying large datagrams.", func(s *quic.Stats) float64 { return float64(s.BlackHoles) })
	count("quicfsgw_ecn_reports_total", "Rises of a peer's count of ECN-CE marks.", func(s *quic.Stats) float64 { return float64(s.CEReports) })
	count("quicfsgw_retransmitted_frames_total", "Frames of lost packets, which are sent again where they still matter.", func(s *quic.Stats) float64 { return float64(s.FramesRetransmitted) })
	count("quicfsgw_closes_sent_total", "Connections that a CONNECTION_CLOSE of this end ended.", func(s *quic.Stats) float64 { return float64(s.ClosesSent) })
	count("quicfsgw_closes_received_total", "Connections that a client's CONNECTION_CLOSE ended.", func(s *quic.Stats) float64 { return float64(s.ClosesReceived) })
	count("quicfsgw_datagrams_queued_total", "Datagrams that waited for a busy connection.", func(s *quic.Stats) float64 { return float64(s.ReceivedLater) })
	reg.PullGauge("quicfsgw_transport_connections", "QUIC connections whose handshake is complete, admitted or not.", sum(func(s *quic.Stats) float64 { return float64(s.Established) }))
	count("quicfsgw_retries_total", "Retry packets sent.", func(s *quic.Stats) float64 { return float64(s.Retries) })
	count("quicfsgw_first_packets_seconds_total", "Time that the sockets' readers took for packets that begin connections.", func(s *quic.Stats) float64 { return s.InitialTime.Seconds() })
	reg.PullGauge("quicfsgw_buffer_bytes", "Capacity of buffers that hold received data.", sum(func(s *quic.Stats) float64 { return float64(s.HeldBytes) }))
	reg.PullGauge("quicfsgw_send_buffer_bytes", "Capacity of buffers that hold data until clients have acknowledged it.", sum(func(s *quic.Stats) float64 { return float64(s.SendHeldBytes) }))
	reg.PullCounter("quicfsgw_handshakes_total", "Handshakes by outcome.", func(emit func(float64, ...string)) {
		var ok, failed, refused int64
		for _, e := range g.endpoints {
			st := e.Stats()
			ok, failed, refused = ok+st.Handshakes, failed+st.HandshakesFailed, refused+st.Refused
		}
		emit(float64(ok), "done")
		emit(float64(failed), "failed")
		emit(float64(refused), "refused")
	}, "outcome")
	reg.PullCounter("quicfsgw_packets_dropped_total", "Packets dropped, by reason.", func(emit func(float64, ...string)) {
		drops := map[string]int64{}
		for _, e := range g.endpoints {
			for k, v := range e.Stats().Drops {
				drops[k] += v
			}
		}
		for k, v := range drops {
			emit(float64(v), k)
		}
	}, "reason")
	pullTraces(reg, g.traces)
	reg.PullCounter("quicfsgw_forwarded_datagrams_total", "Datagrams of connections that belong to other processes, by direction, or dropped.", func(emit func(float64, ...string)) {
		var in, out, dropped int64
		for _, e := range g.endpoints {
			if e.forward != nil {
				st := e.forward.Stats()
				in, out, dropped = in+st.ToTarget.Load(), out+st.ToClient.Load(), dropped+st.Dropped.Load()
			}
		}
		emit(float64(in), "in")
		emit(float64(out), "out")
		emit(float64(dropped), "dropped")
	}, "direction")
	pullConns(reg, g)
	pullSockets(reg, g)
}

// pullConns registers gauges over the live connections.
func pullConns(reg *admin.Registry, g *Gateway) {
	extreme := func(pick func(*quic.ConnStats) float64) admin.PullFunc {
		return func(emit func(float64, ...string)) {
			sum, most, n := 0.0, 0.0, 0.0
			for _, s := range g.live() {
				st := s.conn.Stats()
				v := pick(&st)
				sum, most, n = sum+v, max(most, v), n+1
			}
			emit(sum/max(n, 1), "mean")
			emit(most, "max")
		}
	}
	reg.PullGauge("quicfsgw_rtt_seconds", "Smoothed round-trip time of live connections.",
		extreme(func(s *quic.ConnStats) float64 { return s.SmoothedRTT.Seconds() }), "of")
	reg.PullGauge("quicfsgw_congestion_window_bytes", "Congestion window of live connections.",
		extreme(func(s *quic.ConnStats) float64 { return float64(s.CongestionWindow) }), "of")
	reg.PullGauge("quicfsgw_delivery_rate_bytes", "Bytes per second that live connections lately delivered, as congestion control sees it.",
		extreme(func(s *quic.ConnStats) float64 { return float64(s.DeliveryRate) }), "of")
	reg.PullGauge("quicfsgw_congestion_control", "Live connections by congestion control algorithm.", func(emit func(float64, ...string)) {
		count := map[string]float64{}
		for _, s := range g.live() {
			st := s.conn.Stats()
			count[st.CongestionControl]++
		}
		for _, a := range []quic.Congestion{quic.CUBIC, quic.NewReno, quic.BBR} {
			emit(count[a.String()], a.String())
		}
	}, "algorithm")
}

// pullSockets registers what the kernel sockets count.
func pullSockets(reg *admin.Registry, g *Gateway) {
	sum := func(pick func(*udp.Stats) uint64) admin.PullFunc {
		return func(emit func(float64, ...string)) {
			total := uint64(0)
			for _, e := range g.endpoints {
				for _, s := range e.sockets() {
					total += pick(s.Stats())
				}
			}
			emit(float64(total))
		}
	}
	reg.PullCounter("quicfsgw_socket_overflow_total", "Datagrams the kernel dropped because a socket's queue was full.",
		sum(func(s *udp.Stats) uint64 { return s.RxQueueOverflow.Load() }))
	reg.PullCounter("quicfsgw_gso_fallbacks_total", "Batches sent one by one because GSO failed.",
		sum(func(s *udp.Stats) uint64 { return s.GSOFallbacks.Load() }))
	reg.PullCounter("quicfsgw_offload_selftest_failures_total", "Offloads of sockets switched off because batches were corrupted over loopback.",
		sum(func(s *udp.Stats) uint64 { return s.SelfTestFailures.Load() }))
	reg.PullCounter("quicfsgw_zerocopy_sends_total", "Sends with MSG_ZEROCOPY.", sum(func(s *udp.Stats) uint64 { return s.ZerocopySends.Load() }))
	reg.PullCounter("quicfsgw_zerocopy_copied_total", "Sends with MSG_ZEROCOPY that the kernel copied after all.",
		sum(func(s *udp.Stats) uint64 { return s.ZerocopyCopied.Load() }))
	reg.PullCounter("quicfsgw_socket_would_block_total", "Sends that had to wait for the socket.",
		sum(func(s *udp.Stats) uint64 { return s.WouldBlock.Load() }))
	reg.PullGauge("quicfsgw_socket_buffer_bytes", "Kernel socket buffers as granted.", func(emit func(float64, ...string)) {
		var rcv, snd int
		for _, e := range g.endpoints {
			for _, s := range e.sockets() {
				c := s.Caps()
				rcv, snd = rcv+c.RecvBuffer, snd+c.SendBuffer
			}
		}
		emit(float64(rcv), "receive")
		emit(float64(snd), "send")
	}, "direction")
}

// pullBackends registers the state of backends.
func pullBackends(reg *admin.Registry, g *Gateway) {
	each := func(f func(route string, b *backend.State, emit func(float64, ...string))) admin.PullFunc {
		return func(emit func(float64, ...string)) {
			for _, r := range g.table.Load().routes {
				for _, b := range r.backends() {
					f(r.name, &b, emit)
				}
			}
		}
	}
	reg.PullGauge("quicfsgw_backend_up", "1 while a backend is not marked as failed.", each(func(r string, b *backend.State, emit func(float64, ...string)) {
		up := 0.0
		if b.Up {
			up = 1
		}
		emit(up, r, b.Addr)
	}), "route", "backend")
	reg.PullGauge("quicfsgw_backend_dial_seconds", "Time of the last successful dial.", each(func(r string, b *backend.State, emit func(float64, ...string)) {
		emit(b.DialTime.Seconds(), r, b.Addr)
	}), "route", "backend")
	reg.PullGauge("quicfsgw_backend_check_seconds", "Time of the last successful check.", each(func(r string, b *backend.State, emit func(float64, ...string)) {
		emit(b.ProbeTime.Seconds(), r, b.Addr)
	}), "route", "backend")
	reg.PullCounter("quicfsgw_backend_dials_total", "Attempts to reach a backend for a client, by result.", each(func(r string, b *backend.State, emit func(float64, ...string)) {
		emit(float64(b.Dials-b.Failed), r, b.Addr, "ok")
		emit(float64(b.Failed), r, b.Addr, "failed")
	}), "route", "backend", "result")
	reg.PullCounter("quicfsgw_backend_checks_total", "Checks of backends, by result.", each(func(r string, b *backend.State, emit func(float64, ...string)) {
		emit(float64(b.Probes-b.BadProbes), r, b.Addr, "ok")
		emit(float64(b.BadProbes), r, b.Addr, "failed")
	}), "route", "backend", "result")
	reg.PullCounter("quicfsgw_nfs_calls_total", "RPC calls by route and what became of them.", func(emit func(float64, ...string)) {
		for _, r := range g.table.Load().routes {
			if r.nfs != nil {
				st := r.nfs.Stats()
				emit(float64(st.Calls), r.name, "forwarded")
				emit(float64(st.Answered), r.name, "answered")
				emit(float64(st.Refused), r.name, "refused")
			}
		}
	}, "route", "result")
}
