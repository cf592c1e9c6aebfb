package quic

import (
	"errors"
	"net/netip"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Datagram packetization layer path MTU discovery (RFC 8899, RFC 9000 Section
// 14.3). A path begins with 1200 bytes, which every path of QUIC carries.
//
//  1. raiseMTU begins a search once the handshake is over, or the path validated.
//  2. sendMTUProbe sends a PING padded to the size in question, now and then
//     and beside the data; what arrives becomes the path's datagram size.
//  3. The search goes up the sizes that are common, then halves what is left
//     between the largest that passed and the smallest that did not.
//  4. A search that ended below what both ends would take begins anew after
//     ten minutes.
//  5. When full-size datagrams only get lost (a black hole), the path falls
//     back to 1200 and the search begins below the size that failed.
//
// RFC 9000, Section 14.2.1: "An endpoint MUST NOT increase the PMTU based on
// ICMP messages; see Item 6 in Section 3 of [DPLPMTUD]."
//
// ICMP messages are not listened to: RFC 8899, Section 4.6.1 would have their
// contents validated, and probing alone finds the same.

// The search's numbers, named as in RFC 8899.
const (
	maxMTUProbes   = 3                 // MAX_PROBES: losses of one size that mean it does not pass
	mtuRaiseTimer  = 600 * time.Second // PMTU_RAISE_TIMER
	mtuGranularity = 64                // the search ends when less than this part of the size is open
	ordinaryMTU    = 1500              // datagrams up to this size are probed for at once
	mtuProbeShare  = 32                // larger ones once the path has carried so many times their size
	maxRefusals    = 16                // sizes that the interface refuses in a row: more than halving takes
	nearlyFull     = 64                // bytes that a datagram may be short of full size
)

// Payloads worth a probe of their own: Ethernet (less the IPv6 header, and what
// PPPoE and tunnels take), and jumbo frames of 9000 bytes.
var mtuSteps = [...]int{defaultMaxDatagram, jumboDatagram}

const (
	jumboDatagram   = 8952  // 9000 less IPv6 and UDP headers
	maxDatagramIPv6 = 65488 // what the loopback interface's 65536 leave
)

// An mtuSearch looks for the largest datagram that a path carries.
type mtuSearch struct {
	limit   int // largest size that both ends, and the address family, take
	ceiling int // smallest size known not to pass; 0: none
	size    int // to be probed for; 0: the search is over
	tries   int // probes of this size that were lost
	pending bool
	reserve int // bytes of the congestion window kept free for a probe
	carried int // bytes sent since the last probe
	again   time.Time
	hole    faultPattern // full-size datagrams only get lost
}

// next is the size to probe for above mtu, 0 if there is nothing to gain.
func (s *mtuSearch) next(mtu int) int {
	top := s.limit
	if s.ceiling > 0 {
		top = min(top, s.ceiling-1)
	}
	for _, n := range mtuSteps {
		if n > mtu && n <= top {
			return n
		}
	}
	switch {
	case top <= mtu:
		return 0
	case s.ceiling == 0 || s.ceiling > s.limit:
		return top
	case top-mtu <= mtu/mtuGranularity:
		return 0
	}
	return mtu + (top-mtu+1)/2
}

// advance goes to the next size. A search that ends early is repeated later.
func (s *mtuSearch) advance(mtu int, now time.Time) {
	s.size, s.tries, s.reserve, s.again = s.next(mtu), 0, 0, zeroTime
	if s.size == 0 && mtu < s.limit {
		s.again = now.Add(mtuRaiseTimer)
	}
}

// due tells whether a probe is to be sent.
func (s *mtuSearch) due(mtu int, now time.Time) bool {
	if s.size == 0 && !s.again.IsZero() && !now.Before(s.again) {
		s.ceiling = 0
		s.advance(mtu, now)
	}
	return s.size > mtu && !s.pending && (s.size <= ordinaryMTU || s.carried/mtuProbeShare >= s.size)
}

// mtuLimit is the largest datagram that may ever be sent on a path.
func (c *Conn) mtuLimit(remote netip.AddrPort) int {
	limit := maxDatagramSize
	if remote.Addr().Is6() && !remote.Addr().Is4In6() {
		limit = maxDatagramIPv6
	}
	if c.cfg.MaxUDPPayload != 0 {
		limit = min(limit, c.cfg.maxDatagram())
	}
	if c.haveParams {
		// RFC 9000, Section 18.2: "The maximum UDP payload size parameter is an
		// integer value that limits the size of UDP payloads that the endpoint is
		// willing to receive."
		limit = int(min(uint64(limit), c.peerParams.MaxUDPPayload))
	}
	return max(limit, minDatagram)
}

// raiseMTU begins the search on the path. RFC 9000, Section 14.3: "Endpoints
// SHOULD set the initial value of BASE_PLPMTU [...] to be consistent with
// QUIC's smallest allowed maximum datagram size."
func (c *Conn) raiseMTU() {
	p := &c.path
	p.search.limit = c.mtuLimit(p.remote)
	if p.search.size == 0 && !p.search.pending {
		p.search.advance(p.mtu, c.now())
	}
}

// sendMTUProbe sends a probe if one is due. RFC 9000, Section 14.4: "Endpoints
// could limit the content of PMTU probes to PING and PADDING frames, since
// packets that are larger than the current maximum datagram size are more
// likely to be dropped by the network."
func (c *Conn) sendMTUProbe() {
	p := &c.path
	s := &p.search
	if !c.confirmed || !p.validated || c.loss.PTOCount() > 0 {
		return
	}
	for range maxRefusals {
		if !s.due(p.mtu, c.now()) {
			return
		}
		if window := p.cc.Window(); window-c.loss.InFlight() < s.size {
			// RFC 9002, Section 7 counts probes like everything else: room is made by
			// sending less, where the window has it.
			s.reserve = 0
			if window >= 2*s.size {
				s.reserve = s.size
			}
			return
		}
		if !c.tryMTU(s.size) {
			return
		}
	}
}

// tryMTU sends one probe. It reports whether the interface refused the size, so
// that another can be tried at once.
func (c *Conn) tryMTU(size int) (refused bool) {
	p := &c.path
	s := &p.search
	buf, plain := udp.NewBatch(), udp.NewBatch()
	defer buf.Release()
	defer plain.Release()
	room := size - 1 - c.dst().Len() - 4 - 16
	frames := wire.AppendPadding(c.appendElicit(plain.Bytes()[:0:room]), room-1)
	pn := c.loss.NextPN(recovery.AppData)
	c.probing = true
	b := c.sealSmall(buf.Bytes()[:0:size], LevelApp, frames)
	c.probing = false
	s.reserve = 0
	m := udp.SendMsg{Data: b, Remote: p.remote, Local: p.local, IfIndex: p.ifIndex, DontFragment: true}
	switch err := c.sockOf(p).Send(&m); {
	case err == nil:
		s.pending, s.carried = true, 0
		c.stats.DatagramsSent++
		c.stats.BytesSent += uint64(len(b))
		c.stats.MTUProbes++
		return false
	case errors.Is(err, udp.ErrMessageTooLong):
		s.ceiling = size
		s.advance(p.mtu, c.now())
		refused = true
	}
	// It never left: nothing is in flight, and nothing is lost.
	c.loss.Unsent(recovery.AppData, pn)
	p.pacer.Sent(c.now(), -len(b))
	return refused
}

// onMTUProbe takes note of a probe's fate. RFC 9000, Section 14.4: "Loss of a
// QUIC packet that is carried in a PMTU probe is therefore not a reliable
// indication of congestion and SHOULD NOT trigger a congestion control
// reaction".
func (c *Conn) onMTUProbe(p *recovery.SentPacket, arrived bool) {
	q := &c.path
	s := &q.search
	if p.Path != q.id || !s.pending {
		return
	}
	s.pending = false
	size := int(p.Size)
	switch {
	case arrived && size > q.mtu && size <= s.limit:
		c.trace.MTU(c.now(), q.mtu, size)
		q.setMTU(size)
		s.hole.reset()
		s.advance(q.mtu, c.now())
	case arrived || size != s.size:
		// of a search that is over
	default:
		if s.tries++; s.tries >= maxMTUProbes {
			s.ceiling = size
			s.advance(q.mtu, c.now())
		}
	}
}

// lowerMTU falls back to what every path carries, and looks again below the
// size that has failed. RFC 8899, Section 4.3: "Black Hole Detection is
// triggered by an indication that the network path could be unable to support
// the current PLPMTU size."
//
// RFC 9000, Section 14.2.1: "An endpoint MUST ignore an ICMP message that claims
// the PMTU has decreased below QUIC's smallest allowed maximum datagram size."
// Nothing goes below it.
func (c *Conn) lowerMTU(failed int) {
	p := &c.path
	p.search.ceiling = failed
	p.search.pending = false
	p.search.hole.reset()
	p.gsoFault.reset()
	c.trace.MTU(c.now(), p.mtu, minDatagram)
	p.setMTU(minDatagram)
	p.search.advance(minDatagram, c.now())
	c.dirty = true
}

// checkBlackHole falls back when nothing at all is acknowledged any more.
func (c *Conn) checkBlackHole() {
	if p := &c.path; p.mtu > minDatagram && c.loss.PTOCount() > maxMTUProbes {
		c.blackHole()
	}
}

func (c *Conn) blackHole() {
	c.stats.BlackHoles++
	c.log().Debug("datagrams of this size only get lost", "bytes", c.path.mtu)
	c.lowerMTU(c.path.mtu)
}
