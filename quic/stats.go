package quic

import (
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
)

// endpointStats are counters of an Endpoint. They only grow.
type endpointStats struct {
	Started, Handshakes, HandshakesFailed, Refused, Retries, VersionNegotiations, ResetsSent, PathsValidated, TokensRefused atomic.Int64

	DropHeader, DropDecrypt, DropDuplicate, DropNoKeys, DropUnknown, DropVersion, DropSmallInitial, Drop0RTT, DropBudget, DropBusy, DropFlood, DropFrame, DropEncrypt atomic.Int64

	Established, Dialed, ClosesSent, ClosesReceived, ReceivedLater, OpenedLater atomic.Int64

	InitialNanos atomic.Int64

	SendErrors, RecvErrors, CopiedBytes atomic.Int64

	closedConns counters
}

// counters sums what closed connections counted.
type counters struct {
	DatagramsSent, DatagramsReceived, BytesSent, BytesReceived, PacketsSent, PacketsReceived, PacketsLost, BytesRetransmitted, Batches, PTOs, BytesLost, SpuriousLosses, GSOFallbacks, BlackHoles, CEReports, FramesRetransmitted, BatchesSealedAside atomic.Uint64
}

// Stats is a snapshot of an Endpoint's counters. Drop reasons: header (not a
// QUIC packet of ours), decrypt (authentication failed), duplicate, no-keys
// (too many packets ahead of their keys), unknown (no such connection),
// version, small-initial, 0rtt, budget (memory), busy (connection's inbox full; in
// datagrams), flood (first packets, beyond the time that they may take), frame (its
// frames ended the connection with an error); and of packets to be sent, encrypt (not
// sealed, and so not sent).
//
// docs/quic.md has the names that the kernel's implementation counts by.
type Stats struct {
	Connections, Handshaking                                                             int
	Established                                                                          int   // connections whose handshake is complete, and that are not closed
	Dialed                                                                               int64 // connections that this end began and whose handshake was completed; Handshakes are those of peers
	ClosesSent, ClosesReceived                                                           int64 // connections (and attempts, of those sent) that CONNECTION_CLOSE ended, by who sent it first
	ReceivedLater, OpenedLater                                                           int64 // datagrams that waited for a busy connection, packets that waited for their keys
	Started, Handshakes, HandshakesFailed, Refused, Retries, VersionNegotiations, Resets int64
	TokensRefused                                                                        int64 // of Retry or NEW_TOKEN: forged, late, used before, from elsewhere
	Drops                                                                                map[string]int64
	SendErrors, RecvErrors                                                               int64
	InitialTime                                                                          time.Duration // of the sockets' readers, for packets that begin connections
	CopiedBytes                                                                          int64         // stream bytes copied in user space, and datagrams that were copied to wait
	HeldBytes                                                                            int64         // capacity of buffers that hold received data
	SendHeldBytes                                                                        int64         // capacity of buffers that hold data until it is acknowledged
	DatagramsSent, DatagramsReceived, BytesSent, BytesReceived                           uint64
	PacketsSent, PacketsReceived, PacketsLost, BytesRetransmitted, Batches, PTOs         uint64
	BytesLost, SpuriousLosses                                                            uint64 // of packets declared lost; packets of those that had arrived
	GSOFallbacks, BlackHoles, CEReports                                                  uint64
	FramesRetransmitted                                                                  uint64              // frames of lost packets, which are sent again where they still matter
	BatchesSealedAside                                                                   uint64              // of Batches, see WithSealers
	Sealer                                                                               protect.SealerStats // of batches of 1-RTT packets
}

// ConnStats is a snapshot of one connection's counters.
type ConnStats struct {
	DatagramsSent, DatagramsReceived uint64
	BytesSent, BytesReceived         uint64 // UDP payload
	PacketsSent, PacketsReceived     uint64
	PacketsLost, BytesRetransmitted  uint64
	FramesRetransmitted              uint64 // frames of lost packets, which are sent again where they still matter
	Batches                          uint64 // sends, of one or more datagrams
	BatchesSealedAside               uint64 // of which another goroutine sealed, see WithSealers
	PTOs, KeyUpdates, PathChanges    uint64
	DatagramFramesSent               uint64 // DATAGRAM frames (RFC 9221)
	DatagramFramesReceived           uint64 // of which some may have been dropped
	DatagramFramesDropped            uint64 // both ways: a queue was full, or the path shrank
	EventsDropped                    uint64 // that a subscriber was too slow for
	BlackHoles                       uint64 // falls back to the smallest datagram
	MTUProbes                        uint64
	GSOFallbacks                     uint64 // paths on which batches were given up
	CEReports                        uint64 // rises of the peer's count of CE marks that were acted on
	ECN                              string // off, testing, unknown, capable or failed
	SmoothedRTT, MinRTT              time.Duration
	CongestionWindow, BytesInFlight  int
	CongestionControl                string // newreno, cubic, bbr
	CongestionState                  string // for example "slow start"
	SlowStartThreshold               int    // bytes; 0: none yet
	PacingRate, DeliveryRate         int64  // bytes per second; DeliveryRate 0: not yet known
	BytesLost                        uint64 // of packets declared lost
	SpuriousLosses                   uint64 // packets declared lost that had arrived
	ReductionsUndone                 uint64 // of the window, after spurious losses; of the current path
	MTU                              int
	HeldBytes                        int // capacity of buffers that hold received data
	SendHeldBytes                    int // capacity of buffers that hold data until it is acknowledged
	StreamBytesCopied                int64
	StreamBytesSent                  uint64 // first transmissions
	StreamBytesReceived              uint64 // up to the highest offsets
}

// Stats returns the connection's counters.
func (c *Conn) Stats() ConnStats {
	c.lock()
	defer c.unlock()
	s := c.stats
	s.SmoothedRTT, s.MinRTT = c.path.rtt.Smoothed(), c.path.rtt.Min()
	c.congestionStats(&s)
	s.MTU, s.HeldBytes, s.SendHeldBytes, s.StreamBytesCopied = c.path.mtu, c.acct.held, c.sendMem.held, c.acct.copied
	s.ECN = c.path.ecn.String()
	s.StreamBytesSent, s.StreamBytesReceived = c.flow.sent, c.flow.received
	return s
}

// congestionStats fills in what congestion control and loss recovery know.
func (c *Conn) congestionStats(s *ConnStats) {
	var r recovery.Report
	c.path.cc.Report(&r)
	n := c.loss.Counts()
	s.CongestionControl, s.CongestionState = r.Name, r.State
	s.CongestionWindow, s.SlowStartThreshold, s.BytesInFlight = r.Window, r.SlowStartThreshold, c.loss.InFlight()
	s.PacingRate, s.DeliveryRate = c.path.cc.PacingRate(c.path.rtt.Smoothed()), n.DeliveryRate
	if r.DeliveryRate > 0 {
		s.DeliveryRate = r.DeliveryRate
	}
	s.BytesLost, s.SpuriousLosses, s.ReductionsUndone = max(s.BytesLost, n.BytesLost), max(s.SpuriousLosses, n.Spurious), r.Undone // those of s: of a closed connection
}

// retire adds a closed connection's counters to the endpoint's.
func (s *counters) retire(c *ConnStats) {
	s.DatagramsSent.Add(c.DatagramsSent)
	s.DatagramsReceived.Add(c.DatagramsReceived)
	s.BytesSent.Add(c.BytesSent)
	s.BytesReceived.Add(c.BytesReceived)
	s.PacketsSent.Add(c.PacketsSent)
	s.PacketsReceived.Add(c.PacketsReceived)
	s.PacketsLost.Add(c.PacketsLost)
	s.BytesRetransmitted.Add(c.BytesRetransmitted)
	s.Batches.Add(c.Batches)
	s.PTOs.Add(c.PTOs)
	s.BytesLost.Add(c.BytesLost)
	s.SpuriousLosses.Add(c.SpuriousLosses)
	s.GSOFallbacks.Add(c.GSOFallbacks)
	s.BlackHoles.Add(c.BlackHoles)
	s.CEReports.Add(c.CEReports)
	s.FramesRetransmitted.Add(c.FramesRetransmitted)
	s.BatchesSealedAside.Add(c.BatchesSealedAside)
}

// Stats returns the endpoint's counters, those of closed and of live connections.
func (e *Endpoint) Stats() Stats {
	t := &e.stats
	s := Stats{
		Started: t.Started.Load(), Handshakes: t.Handshakes.Load(), HandshakesFailed: t.HandshakesFailed.Load(), Refused: t.Refused.Load(),
		Retries: t.Retries.Load(), VersionNegotiations: t.VersionNegotiations.Load(), Resets: t.ResetsSent.Load(),
		TokensRefused: t.TokensRefused.Load(),
		Established:   int(t.Established.Load()), Dialed: t.Dialed.Load(),
		ClosesSent: t.ClosesSent.Load(), ClosesReceived: t.ClosesReceived.Load(), ReceivedLater: t.ReceivedLater.Load(), OpenedLater: t.OpenedLater.Load(),
		SendErrors: t.SendErrors.Load(), RecvErrors: t.RecvErrors.Load(), CopiedBytes: t.CopiedBytes.Load(), HeldBytes: e.held.Load(), SendHeldBytes: e.sending.Load(),
		Sealer: e.sealer.Stats(),
		Drops: map[string]int64{
			"header": t.DropHeader.Load(), "decrypt": t.DropDecrypt.Load(), "duplicate": t.DropDuplicate.Load(), "no-keys": t.DropNoKeys.Load(),
			"unknown": t.DropUnknown.Load(), "version": t.DropVersion.Load(), "small-initial": t.DropSmallInitial.Load(), "0rtt": t.Drop0RTT.Load(),
			"budget": t.DropBudget.Load(), "busy": t.DropBusy.Load(), "flood": t.DropFlood.Load(),
			"frame": t.DropFrame.Load(), "encrypt": t.DropEncrypt.Load(),
		},
		InitialTime: time.Duration(t.InitialNanos.Load()),
	}
	sum := &counters{}
	for _, c := range e.Conns() {
		cs := c.Stats()
		sum.retire(&cs)
	}
	for _, k := range []*counters{sum, &t.closedConns} {
		s.DatagramsSent += k.DatagramsSent.Load()
		s.DatagramsReceived += k.DatagramsReceived.Load()
		s.BytesSent += k.BytesSent.Load()
		s.BytesReceived += k.BytesReceived.Load()
		s.PacketsSent += k.PacketsSent.Load()
		s.PacketsReceived += k.PacketsReceived.Load()
		s.PacketsLost += k.PacketsLost.Load()
		s.BytesRetransmitted += k.BytesRetransmitted.Load()
		s.Batches += k.Batches.Load()
		s.PTOs += k.PTOs.Load()
		s.BytesLost += k.BytesLost.Load()
		s.SpuriousLosses += k.SpuriousLosses.Load()
		s.GSOFallbacks += k.GSOFallbacks.Load()
		s.BlackHoles += k.BlackHoles.Load()
		s.CEReports += k.CEReports.Load()
		s.FramesRetransmitted += k.FramesRetransmitted.Load()
		s.BatchesSealedAside += k.BatchesSealedAside.Load()
	}
	e.mu.RLock()
	s.Connections, s.Handshaking = len(e.live), e.handshaking
	e.mu.RUnlock()
	return s
}
