package quic

import (
	"crypto/rand"
	"math"
	"net/netip"
	"slices"
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

	challenges     [maxChallenges][8]byte // sent and unanswered, the newest first
	challenging    bool                   // and it is still waited for
	needChallenge  bool
	challengeSmall bool  // a challenge of this round went out in less than 1200 bytes
	challengeTries uint8 // times that it was repeated
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
//
// RFC 9000, Section 8: "Therefore, after receiving packets from an address that
// is not yet validated, an endpoint MUST limit the amount of data it sends to
// the unvalidated address to three times the amount of data received from that
// address."
func (p *path) amplificationCredit() int {
	if p.validated {
		return math.MaxInt32
	}
	if 3*p.received <= p.sent {
		return 0
	}
	return int(min(3*p.received-p.sent, maxDatagramSize))
}

// RFC 9000, Section 8.1: "For the purposes of avoiding amplification prior to
// address validation, servers MUST count all of the payload bytes received in
// datagrams that are uniquely attributed to a single connection."
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

// maxChallenges is how many PATH_CHALLENGE frames of a validation may be answered.
const maxChallenges = 8

// newChallenge makes the data of the next PATH_CHALLENGE frame. Those before it
// can still be answered.
//
// RFC 9000, Section 8.2.1: "The endpoint MUST use unpredictable data in every
// PATH_CHALLENGE frame so that it can associate the peer's response with the
// corresponding PATH_CHALLENGE."
func (p *path) newChallenge() [8]byte {
	copy(p.challenges[1:], p.challenges[:])
	_, _ = rand.Read(p.challenges[0][:]) // never fails
	return p.challenges[0]
}

// answeredBy tells whether data is that of a challenge that is waited for.
func (p *path) answeredBy(data [8]byte) bool {
	return p.challenging && data != [8]byte{} && slices.Contains(p.challenges[:], data)
}
