package quic

import (
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Datagrams for no connection we know (RFC 9000, Section 5.2):
//
//   - an Initial starts a connection, is answered with Retry, or is refused;
//   - a version we do not speak is answered with Version Negotiation;
//   - the end of a stateless reset is looked for;
//   - anything else is answered with a stateless reset, not too often.
//
// Nothing here keeps state for an address that was not validated but the
// connection that an authentic Initial starts, and those are bounded.

func (e *Endpoint) unknown(s *shard, r *rxBatch, id wire.ConnID) {
	for data := r.data; len(data) > 0; {
		n := min(r.segment, len(data))
		b := data[:n:n]
		data = data[n:]
		if e.hasResets() && e.reset(b, r) {
			continue
		}
		if !wire.IsLong(b[0]) {
			e.unknownShort(s, b, r, id)
			continue
		}
		v, dst, src, _, ok := wire.ParseInvariant(b)
		if !ok {
			e.stats.DropHeader.Add(1)
			continue
		}
		cfg := e.cfg.Load()
		if cfg == nil || e.closing.Load() {
			e.stats.DropUnknown.Add(1)
			continue
		}
		// RFC 9000, Section 17.2.1: "Version-specific rules for the connection
		// ID therefore MUST NOT influence a decision about whether to send a
		// Version Negotiation packet."
		if !slices.Contains(cfg.versions(), v) || !v.Known() {
			e.negotiate(s, cfg, b, r, v, dst, src)
			continue
		}
		h, err := wire.ParseLong(b)
		if err == nil && h.Type == wire.Packet0RTT && cfg.EarlyData {
			// While addresses are validated there will be no such connection.
			if cfg.Retry == RetryAlways || !e.waiting.put(b, h.Dst, r, time.Now()) {
				e.stats.Drop0RTT.Add(1)
			}
			continue
		}
		// RFC 9000, Section 5.2.2: "Servers MUST drop incoming packets under
		// all other circumstances."
		if err != nil || h.Type != wire.PacketInitial || cfg.NoGrease && !wire.HasFixedBit(b[0]) {
			e.stats.DropUnknown.Add(1)
			continue
		}
		rest := *r
		rest.data = r.data[len(r.data)-len(data)-n:]
		e.initial(s, cfg, b, &h, &rest)
		return
	}
}

// initial handles the first Initial of a connection.
func (e *Endpoint) initial(s *shard, cfg *Config, b []byte, h *wire.LongHeader, r *rxBatch) {
	// RFC 9000, Section 14.1: too small a datagram is discarded. Section 7.2: "This
	// Destination Connection ID MUST be at least 8 bytes in length."
	if len(b) < minDatagram || h.Dst.Len() < 8 {
		e.stats.DropSmallInitial.Add(1)
		return
	}
	e.mu.RLock()
	under := e.handshaking
	e.mu.RUnlock()
	now := time.Now()
	pressed := e.arrivals.add(now, cfg.RetryAbove)
	if !e.initials.begin(now, len(h.Token) > 0, e.arrivals.above(now, floodAbove)) {
		e.stats.DropFlood.Add(1)
		return
	}
	defer func() { e.stats.InitialNanos.Add(int64(e.initials.end(now, time.Now(), len(h.Token) > 0))) }()
	// RFC 9000, Section 8.1.3: "When a server receives an Initial packet with
	// an address validation token, it MUST attempt to validate the token,
	// unless it has already completed address validation."
	tok, valid := e.tokens.open(h, r.remote.Addr(), now)
	if !valid && isRetryToken(h.Token) {
		// Section 8.1.2: "the server SHOULD immediately close the connection with an
		// INVALID_TOKEN error" for a Retry token that is not valid.
		e.stats.TokensRefused.Add(1)
		e.refuse(s, h, r, InvalidToken)
		return
	}
	if valid && e.tokens.spentBefore(&tok) || !valid && len(h.Token) > 0 {
		// Section 8.1.3: "If the token is invalid, then the server SHOULD proceed as if
		// the client did not have a validated address, including potentially sending a
		// Retry packet." Whoever repeats a Retry token is not the client: its
		// connection has had what there was to have.
		e.stats.TokensRefused.Add(1)
		if valid = false; tok.retry {
			return
		}
	}
	if !valid && (cfg.Retry == RetryAlways || cfg.Retry == RetryAuto && (pressed || under >= cfg.maxHandshakes()/4)) {
		e.sendRetry(s, h, r)
		return
	}
	if under >= cfg.maxHandshakes() {
		e.stats.Refused.Add(1)
		e.refuse(s, h, r, ConnectionRefused)
		return
	}
	keys := initialKeys(h.Version, h.Dst, true)
	if !authentic(b, h, keys.rx) {
		e.stats.DropDecrypt.Add(1)
		return
	}
	if !valid {
		tok = addressToken{}
	}
	e.start(s, cfg, h, r, &tok, keys)
}

// start begins a server's connection with its first authentic Initial.
func (e *Endpoint) start(s *shard, cfg *Config, h *wire.LongHeader, r *rxBatch, tok *addressToken, keys spaceKeys) {
	c := newConn(e, s, cfg, true, h.Version)
	c.lock()
	c.ids.initial = h.Src
	c.ids.peerLimit = 2
	if tok.retry {
		c.setID(tok.originalDst)
		c.retrySrc, c.retried = h.Dst, true
	} else {
		c.setID(h.Dst)
	}
	c.path.init(0, r.remote, r.local, r.ifIndex, cfg)
	c.testECN()
	// RFC 9000, Section 8.1.4: "If the client IP address has changed, the
	// server MUST adhere to the anti-amplification limit; see Section 8."
	c.path.validated = !tok.issued.IsZero()
	c.keys[recovery.Initial] = keys
	c.firstDst = h.Dst
	id, ok := e.newConnID(s, c)
	if !ok {
		c.mu.Unlock()
		return
	}
	c.ids.local = []localID{{id: id}}
	c.ids.nextLocal = 1
	c.startTrace()
	if other := e.register(h.Dst, c); other != nil {
		// Another shard's reader was quicker.
		e.unregister(id, c)
		c.mu.Unlock()
		if other.receive(r) {
			other.flushLate()
		}
		return
	}
	if c.path.validated {
		e.tokens.spend(tok)
	}
	e.addLive(c)
	e.stats.Started.Add(1)
	c.processBatch(r)
	if cfg.EarlyData {
		c.receiveWaiting(e.waiting.take(h.Dst, r, c.now()))
	}
	c.dirty = true
	c.setTimer()
	c.unlock()
	c.pump()
}

// initials are buffers for authentic.
var initials = sync.Pool{New: func() any { return new([]byte) }}

// authentic tells whether an Initial can be opened. It is looked at in a copy, so
// that a forged one costs no more than that.
func authentic(b []byte, h *wire.LongHeader, rx *protect.Key) bool {
	if rx == nil {
		return false
	}
	buf := initials.Get().(*[]byte)
	defer initials.Put(buf)
	pkt := append((*buf)[:0], b[:h.Len]...)
	*buf = pkt
	pnLen, truncated, ok := rx.UnprotectHeader(pkt, h.PNOffset)
	if !ok {
		return false
	}
	hdr := h.PNOffset + pnLen
	pn := wire.DecodePacketNumber(-1, truncated, pnLen)
	_, err := rx.Open(pkt[hdr:hdr], pkt[hdr:], pkt[:hdr], pn)
	return err == nil
}

// sendRetry answers an Initial with a Retry (RFC 9000, Section 8.1.2).
//
// RFC 9000, Section 17.2.5.1: "This value MUST NOT be equal to the Destination
// Connection ID field of the packet sent by the client."
//
// RFC 9000, Section 17.2.5.1: "A server MUST NOT send more than one Retry
// packet in response to a single UDP datagram."
func (e *Endpoint) sendRetry(s *shard, h *wire.LongHeader, r *rxBatch) {
	var first [1]byte
	_, _ = rand.Read(first[:])
	id, err := e.layout.Append(nil, s.index, s.gen, rand.Reader)
	if err != nil {
		return
	}
	scid, _ := wire.MakeConnID(id)
	token := e.tokens.retry(h.Dst, scid, h.Version, r.remote.Addr(), time.Now())
	// RFC 9369, Section 4.1: "If the server sends a Retry packet, it MUST use
	// the original version."
	b := wire.AppendRetry(make([]byte, 0, 256), h.Version, h.Src, scid, token, first[0])
	tag := protect.RetryTag(h.Version, h.Dst, b)
	b = append(b, tag[:]...)
	e.stats.Retries.Add(1)
	e.reply(s, r, b)
}

// refuse answers an Initial with CONNECTION_CLOSE, keeping nothing.
func (e *Endpoint) refuse(s *shard, h *wire.LongHeader, r *rxBatch, code TransportErrorCode) {
	_, tx := protect.InitialKeys(h.Version, h.Dst.Append(nil))
	id, err := e.layout.Append(nil, s.index, s.gen, rand.Reader)
	if err != nil {
		return
	}
	scid, _ := wire.MakeConnID(id)
	b, lengthAt := wire.AppendLong(make([]byte, 0, 256), wire.PacketInitial, h.Version, h.Src, scid, nil, 0, 2)
	hdr := len(b)
	b = wire.AppendConnectionClose(b, false, uint64(code), 0, nil)
	wire.SetLength(b, lengthAt, 2+len(b)-hdr+protect.TagLen)
	b = tx.Seal(b[:hdr], b[hdr:], b[:hdr], 0)
	tx.ProtectHeader(b, hdr-2, 2)
	e.stats.ClosesSent.Add(1)
	e.reply(s, r, b)
}

// negotiate answers a version we do not speak. RFC 9000, Section 17.2.1: "A
// server MUST NOT send more than one Version Negotiation packet in response to
// a single UDP datagram", and only to one large enough to start a connection.
func (e *Endpoint) negotiate(s *shard, cfg *Config, b []byte, r *rxBatch, v wire.Version, dst, src []byte) {
	// RFC 9000, Section 5.2.2: "Servers MUST drop smaller packets that specify
	// unsupported versions."
	//
	// RFC 9000, Section 6.1: "An endpoint MUST NOT send a Version Negotiation
	// packet in response to receiving a Version Negotiation packet."
	if v == 0 || len(b) < minDatagram {
		e.stats.DropVersion.Add(1)
		return
	}
	var random [5]byte
	_, _ = rand.Read(random[:])
	grease := wire.ReservedVersion(uint32(random[1])<<24 | uint32(random[2])<<16 | uint32(random[3])<<8 | uint32(random[4]))
	// RFC 9000, Section 17.2.1: "The server MUST include the value from the
	// Source Connection ID field of the packet it receives in the Destination
	// Connection ID field."
	//
	// RFC 9000, Section 17.2.1: "The value for Source Connection ID MUST be
	// copied from the Destination Connection ID of the received packet, which
	// is initially randomly selected by a client."
	//
	// RFC 9368, Section 2.1: "This packet SHALL include each entry from the
	// server's set of Offered Versions (see Section 5) in a Supported Version
	// field."
	out := wire.AppendVersionNegotiation(make([]byte, 0, 64), src, dst, append(slices.Clone(cfg.versions()), grease), random[0])
	e.stats.VersionNegotiations.Add(1)
	e.reply(s, r, out)
}

// Sizes of a Stateless Reset (RFC 9000, Section 10.3). A shorter one is not
// recognised, a longer one serves nothing.
const (
	minResetLen = 21
	maxResetLen = 42
)

// reset hands a datagram that ends in the token of a connection's to that
// connection, which compares it with the tokens of its addresses. It reports
// whether there is one.
//
// RFC 9000, Section 10.3.1: "However, the comparison MUST be performed when the
// first packet in an incoming datagram either cannot be associated with a
// connection or cannot be decrypted."
func (e *Endpoint) reset(b []byte, r *rxBatch) bool {
	if len(b) < minResetLen {
		return false
	}
	i := e.resetIndex([16]byte(b[len(b)-16:]))
	e.mu.RLock()
	c := e.resets[i]
	e.mu.RUnlock()
	if c == nil {
		return false
	}
	one := *r
	one.data = b
	if c.receive(&one) {
		c.flushLate()
	}
	return true
}

// unknownShort answers with a stateless reset.
//
// RFC 9000, Section 11: "A stateless reset MUST NOT be used by an endpoint that
// has the state necessary to send a frame on the connection."
func (e *Endpoint) unknownShort(s *shard, b []byte, r *rxBatch, id wire.ConnID) {
	e.stats.DropUnknown.Add(1)
	// RFC 9000, Section 10.3.3: "An endpoint MUST ensure that every
	// Stateless Reset that it sends is smaller than the packet that
	// triggered it", and Section 10.3: "An endpoint that sends a Stateless
	// Reset in response to a packet that is 43 bytes or shorter SHOULD send
	// a Stateless Reset that is one byte shorter than the packet it
	// responds to."
	//
	// RFC 9000, Section 10.3: "An endpoint MUST NOT send a Stateless Reset that
	// is three times or more larger than the packet it receives to avoid being
	// used for amplification."
	size := min(len(b)-1, maxResetLen)
	if e.cfg.Load() == nil || size < minResetLen || !e.resetsSent.allow(time.Now(), 100) {
		return
	}
	out := make([]byte, size)
	_, _ = rand.Read(out)
	// RFC 9000, Section 10.3: "Endpoints MUST send Stateless Resets formatted
	// as a packet with a short header."
	out[0] = out[0]&0x3f | 0x40
	t := resetToken(e.resetKey, id)
	copy(out[size-len(t):], t[:])
	e.stats.ResetsSent.Add(1)
	e.reply(s, r, out)
}

// reply sends one datagram back to where r came from.
func (e *Endpoint) reply(s *shard, r *rxBatch, b []byte) {
	m := udp.SendMsg{Data: b, Remote: r.remote, Local: r.local, IfIndex: r.ifIndex}
	if err := s.conn().Send(&m); err != nil {
		e.stats.SendErrors.Add(1)
	}
}

// A rateLimit allows n events a second.
type rateLimit struct {
	mu    sync.Mutex
	start time.Time
	count int
}

func (l *rateLimit) allow(now time.Time, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.start) >= time.Second {
		l.start, l.count = now, 0
	}
	l.count++
	return l.count <= n
}

// floodAbove is how many first packets a second are taken for a flood.
const floodAbove = 5000

// initialsBudget is the time that first packets may take while there is a flood of
// them: the socket's reader has the packets of live connections to see to. What is
// over it is dropped unread, which costs an honest client a retransmission. Those
// with a token, which a client gets when it answers where it says it is, have a half
// for themselves.
type initialsBudget struct {
	mu    sync.Mutex
	start time.Time
	spent [2]time.Duration // without a token, with one
}

const (
	initialsWindow = 10 * time.Millisecond
	initialsShare  = initialsWindow / 8 // each half's
)

func half(token bool) int {
	if token {
		return 1
	}
	return 0
}

// begin tells whether there is time left for a first packet.
func (b *initialsBudget) begin(now time.Time, token, flood bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := now.Sub(b.start); d >= initialsWindow || d < 0 {
		b.start, b.spent = now, [2]time.Duration{}
	}
	return !flood || b.spent[half(token)] < initialsShare
}

// end charges the time that it took, and returns it.
func (b *initialsBudget) end(from, now time.Time, token bool) time.Duration {
	d := now.Sub(from)
	b.mu.Lock()
	b.spent[half(token)] += d
	b.mu.Unlock()
	return d
}

// arrivalRate tells whether first packets arrive faster than n a second. It
// counts by seconds, and the last one in part, so that it does not forget at
// each turn.
type arrivalRate struct {
	mu          sync.Mutex
	start       time.Time
	count, last int
}

func (a *arrivalRate) add(now time.Time, n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch d := now.Sub(a.start); {
	case d >= 2*time.Second || d < 0:
		a.start, a.count, a.last = now, 0, 0
	case d >= time.Second:
		a.start, a.last, a.count = a.start.Add(time.Second), a.count, 0
	}
	a.count++
	return n > 0 && a.rate(now) > float64(n)
}

// above tells whether more than n a second have arrived.
func (a *arrivalRate) above(now time.Time, n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rate(now) > float64(n)
}

func (a *arrivalRate) rate(now time.Time) float64 {
	left := 1 - now.Sub(a.start).Seconds()
	return float64(a.count) + left*float64(a.last)
}
