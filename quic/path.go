package quic

import (
	"math"
	"net/netip"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
)

// A path is one pair of addresses and all that is known of it: whether the
// peer was shown to be there, how far it is, how much it carries.
type path struct {
	id      uint8  // counts up with every new path of a connection
	peerSeq uint64 // of the peer's connection ID in use here
	remote  netip.AddrPort
	local   netip.Addr // source address to send from; invalid: the socket's own
	ifIndex int
	via     *shard // while it is probed: the socket to send from; nil: the connection's

	validated bool
	received  uint64 // bytes, counted until validated
	sent      uint64

	rtt   recovery.RTT
	cc    recovery.Controller
	pacer recovery.Pacer
	ecn   recovery.ECN

	mtu      int // largest datagram that may be sent
	search   mtuSearch
	gsoFault faultPattern // batches only get lost
	noGSO    bool

	challenge      [8]byte
	challenging    bool // challenge is out and unanswered
	needChallenge  bool
	challengeSmall bool // a challenge of this round went out in less than 1200 bytes
	challengeSent  time.Time
	challengeUntil time.Time
	response       [8]byte
	needResponse   bool
}

func (p *path) init(id uint8, remote netip.AddrPort, local netip.Addr, ifIndex int, cfg *Config) {
	*p = path{id: id, remote: remote, local: local, ifIndex: ifIndex, mtu: minDatagram}
	p.rtt.Init(cfg.initialRTT())
	p.cc = recovery.NewController(cfg.Congestion, minDatagram)
	p.pacer.Init(minDatagram)
}

// RFC 9000, Section 8.1: "Prior to validating the client address, servers MUST
// NOT send more than three times as many bytes as the number of bytes they have
// received."
func (p *path) amplificationCredit() int {
	if p.validated {
		return math.MaxInt32
	}
	if 3*p.received <= p.sent {
		return 0
	}
	return int(min(3*p.received-p.sent, maxDatagramSize))
}

func (p *path) onReceived(n int) {
	if !p.validated {
		p.received += uint64(n)
	}
}

func (p *path) onSent(n int) {
	if !p.validated {
		p.sent += uint64(n)
	}
}

// setMTU changes the datagram size of the path and of what depends on it.
func (p *path) setMTU(n int) {
	p.mtu = n
	p.cc.SetMaxDatagram(n)
	p.pacer.SetMaxDatagram(n)
}
