package tlshd

import (
	"encoding/hex"
	"fmt"
	"time"
)

type phase uint8

const (
	phaseRunning  phase = iota
	phaseDone           // the verdict was good; the helper still knows the request
	phaseReleased       // done, and the helper has forgotten it
	phaseOver           // failed or closed
)

// Handshake is one handshake in the packet process. Its methods do not block
// and may be called from any goroutine, also from its sink.
type Handshake struct {
	c      *Client
	id     uint64
	server bool
	sink   func(Event)
	timer  *time.Timer

	// Guarded by c.mu.
	phase      phase
	sent       bool // START went to a helper
	gotPeerTP  bool
	gaveTP     bool
	ticketed   bool
	closed     bool
	early      bool // 0-RTT was asked for
	offered    bool // and was offered
	rejected   bool
	version    uint32 // QUIC version of sessions; 0: not told
	session    []byte // to be kept with them
	secrets    uint8  // bit per level and direction
	inOff      [numLevels]uint64
	outOff     [numLevels]uint64
	inBytes    int
	gate       postGate
	events     []Event
	delivering bool
}

// Start asks for a handshake. The sink gets its events in order, one at a time,
// from any goroutine and possibly before Start returns; it must not block. It
// always gets EventDone or EventFailed unless the Handshake is closed before.
// req is not kept.
func (c *Client) Start(req *Request, sink func(Event)) *Handshake {
	h := &Handshake{c: c, server: req.Server, sink: sink, early: req.EarlyData}
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	b, bad := encodeStart(req, timeout)
	c.mu.Lock()
	c.next++
	h.id = c.next
	c.stats.Started++
	c.handshakes[h.id] = h
	switch {
	case c.closed:
		bad = goneError(ErrClosed)
	case bad != nil:
	case len(c.handshakes) > maxInFlight:
		bad = overload("handshakes in flight")
	case !c.enqueueLocked(outgoing{h: h, typ: msgStart, request: h.id, body: b}):
		bad = overload("bytes queued for the helper")
	default:
		bad = h.beginLocked(req)
	}
	if bad != nil {
		c.failLocked(h, bad)
	} else {
		h.timer = time.AfterFunc(timeout, func() { h.expire(timeout) })
	}
	c.mu.Unlock()
	if bad != nil {
		c.deliver(h)
	}
	c.flush()
	return h
}

// beginLocked hands over what a server knows at the start.
func (h *Handshake) beginLocked(req *Request) *Error {
	if !h.server {
		return nil
	}
	if req.TransportParams != nil {
		if err := h.paramsLocked(req.TransportParams); err != nil {
			return err
		}
	}
	return h.cryptoLocked(LevelInitial, req.Crypto)
}

func encodeStart(req *Request, timeout time.Duration) ([]byte, *Error) {
	switch {
	case len(req.NextProtos) == 0 || len(req.NextProtos) > maxALPNs:
		return nil, badRequest("%d application protocols, want 1 to %d", len(req.NextProtos), maxALPNs)
	case len(req.TransportParams) > maxTP:
		return nil, badRequest("%d bytes of transport parameters, at most %d", len(req.TransportParams), maxTP)
	case len(req.EarlyLimits) > maxEarlyLimits:
		return nil, badRequest("%d limits for 0-RTT, at most %d", len(req.EarlyLimits), maxEarlyLimits)
	case !req.Server && len(req.TransportParams) == 0:
		return nil, badRequest("a client needs its transport parameters at the start")
	}
	o := req.Options
	for _, s := range []string{req.ServerName, o.Route, o.Policy, o.CASet} {
		if len(s) > maxLabel {
			return nil, badRequest("a name of %d bytes, at most %d", len(s), maxLabel)
		}
	}
	var b body
	b.u8(attrHandlerClass, uint8(HandlerTLSHD))
	if req.Server {
		b.u8(attrMessageType, uint8(MessageServerHello))
		auth := AuthX509
		if o.ClientCert == ClientCertNone {
			auth = AuthUnauth
		}
		b.u8(attrAuthMode, uint8(auth))
		b.u8(attrClientCert, uint8(o.ClientCert))
	} else {
		b.u8(attrMessageType, uint8(MessageClientHello))
		b.u8(attrAuthMode, uint8(AuthX509))
		b.bytes(attrLocalTP, req.TransportParams)
	}
	b.u32(attrTimeout, uint32(min(max(timeout.Milliseconds(), 1), 1<<31)))
	b.str(attrPeerName, req.ServerName)
	for _, p := range req.NextProtos {
		if len(p) == 0 || len(p) > 255 {
			return nil, badRequest("an application protocol of %d bytes, want 1 to 255", len(p))
		}
		b.str(attrALPN, p)
	}
	if req.Remote.IsValid() {
		b.str(attrRemote, req.Remote.String())
	}
	b.str(attrID, req.ID[:min(len(req.ID), maxIDLen)])
	b.str(attrRoute, o.Route)
	b.str(attrPolicy, o.Policy)
	b.str(attrCASet, o.CASet)
	if req.Version != 0 {
		b.u32(attrQUICVersion, req.Version)
	}
	if req.EarlyData {
		b.flag(attrEarlyData, true)
		b.bytes(attrEarlyLimits, encodeLimits(req.EarlyLimits))
	}
	return b, nil
}

func badRequest(format string, args ...any) *Error {
	return &Error{Status: StatusEINVAL, Alert: alertInternalError, Reason: ReasonInternal,
		Detail: "request: " + fmt.Sprintf(format, args...)}
}

func overload(what string) *Error {
	return &Error{Status: StatusENOMEM, Alert: alertInternalError, Reason: ReasonOverload,
		Detail: "too many " + what + " (try again later)"}
}

// Crypto hands over the next bytes of the peer's CRYPTO stream at a level, in
// order and without gaps. data is copied.
func (h *Handshake) Crypto(level Level, data []byte) {
	if len(data) == 0 {
		return
	}
	c := h.c
	c.mu.Lock()
	if err := h.cryptoLocked(level, data); err != nil {
		c.failLocked(h, err)
	}
	c.mu.Unlock()
	c.flush()
	c.deliver(h)
}

func (h *Handshake) cryptoLocked(level Level, data []byte) *Error {
	switch h.phase {
	case phaseOver:
		return nil
	case phaseDone, phaseReleased:
		if h.server || level != LevelApp {
			// A client has nothing to say in TLS once the handshake is over.
			return unexpectedMessage(data[0])
		}
		if err := h.gate.check(data); err != nil || h.phase == phaseReleased {
			return err
		}
	default:
		if h.inBytes += len(data); h.inBytes > maxCryptoIn || level >= numLevels {
			return &Error{Status: StatusEACCES, Alert: alertIllegalParameter, Reason: ReasonCryptoExceeded,
				Detail: fmt.Sprintf("more than %d bytes of handshake", maxCryptoIn)}
		}
	}
	for len(data) > 0 {
		part := data[:min(len(data), maxFrame-256)]
		data = data[len(part):]
		b := make(body, 0, len(part)+64)
		b.u8(attrLevel, uint8(level))
		b.u64(attrOffset, h.inOff[level])
		b.bytes(attrData, part)
		if h.version != 0 && level == LevelApp {
			b.u32(attrQUICVersion, h.version)
			b.bytes(attrSession, h.session)
			h.version, h.session = 0, nil // once is enough
		}
		h.inOff[level] += uint64(len(part))
		if !h.c.enqueueLocked(outgoing{h: h, typ: msgCryptoIn, request: h.id, body: b}) {
			return overload("bytes queued for the helper")
		}
	}
	return nil
}

// TransportParams answers EventPeerTransportParams on a server, once. b is
// copied and at most 8 KiB.
func (h *Handshake) TransportParams(tp []byte) {
	c := h.c
	c.mu.Lock()
	if h.server && h.phase == phaseRunning && !h.gaveTP {
		if err := h.paramsLocked(tp); err != nil {
			c.failLocked(h, err)
		}
	}
	c.mu.Unlock()
	c.flush()
	c.deliver(h)
}

func (h *Handshake) paramsLocked(tp []byte) *Error {
	if len(tp) > maxTP {
		return badRequest("%d bytes of transport parameters, at most %d", len(tp), maxTP)
	}
	h.gaveTP = true
	var b body
	b.bytes(attrLocalTP, tp)
	if !h.c.enqueueLocked(outgoing{h: h, typ: msgLocalTP, request: h.id, body: b}) {
		return overload("bytes queued for the helper")
	}
	return nil
}

// Remember says what belongs to the sessions to come: the QUIC version they are
// good for, and at a client what EventEarlyParams is to bring back, at most 8 KiB.
func (h *Handshake) Remember(version uint32, params []byte) {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	if len(params) <= maxTP {
		h.version, h.session = version, clone(params)
	}
}

// Ticket says that a server's client was admitted: the helper issues a session
// ticket, where its policy lets it, as EventCrypto at LevelApp, and forgets the
// handshake. Only the first call after EventDone counts.
func (h *Handshake) Ticket() {
	c := h.c
	c.mu.Lock()
	if h.server && h.phase == phaseDone && !h.ticketed {
		h.ticketed = true
		var b body
		if h.version != 0 {
			b.u32(attrQUICVersion, h.version)
		}
		c.enqueueLocked(outgoing{h: h, typ: msgTicket, request: h.id, body: b}) // no room: no ticket
	}
	c.mu.Unlock()
	c.flush()
}

// Close ends the handshake. No event follows but the one being delivered.
func (h *Handshake) Close() {
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	h.closed = true
	h.endLocked()
	h.dropEventsLocked()
}

// endLocked forgets the handshake here and in the helper.
func (h *Handshake) endLocked() {
	if h.timer != nil {
		h.timer.Stop()
	}
	if h.c.handshakes[h.id] == h {
		delete(h.c.handshakes, h.id)
		if h.sent && h.c.conn != nil {
			// No room: the helper's own deadline ends it.
			h.c.enqueueLocked(outgoing{typ: msgCancel, request: h.id})
			h.c.wakeLocked()
		}
	}
	h.phase = phaseOver
}

func (h *Handshake) dropEventsLocked() {
	for _, e := range h.events {
		clear(e.Data)
	}
	h.events = nil
}

func (h *Handshake) expire(timeout time.Duration) {
	c := h.c
	c.mu.Lock()
	if h.phase == phaseRunning {
		detail := fmt.Sprintf("not done within %v", timeout)
		if !h.sent {
			detail += ", no helper took it"
		}
		c.failLocked(h, &Error{Status: StatusETIMEDOUT, Alert: alertInternalError, Reason: ReasonTimeout, Detail: detail})
	}
	c.mu.Unlock()
	c.deliver(h)
}

// failLocked makes err the handshake's end, unless it has ended before.
func (c *Client) failLocked(h *Handshake, err *Error) bool {
	if h.phase == phaseOver {
		return false
	}
	if h.phase == phaseRunning {
		c.stats.Failed++
		c.countLocked(err.Reason)
	}
	h.endLocked()
	h.dropEventsLocked()
	h.events = append(h.events, Event{Kind: EventFailed, Alert: err.Alert, Err: err})
	return true
}

// deliver calls the sink for what is in the queue, unless another goroutine is
// at it, which then does it.
func (c *Client) deliver(h *Handshake) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.delivering {
		return
	}
	h.delivering = true
	for len(h.events) > 0 && !h.closed {
		e := h.events[0]
		h.events[0] = Event{}
		h.events = h.events[1:]
		e.More = len(h.events) > 0
		c.mu.Unlock()
		h.sink(e)
		c.mu.Lock()
	}
	h.delivering = false
	if len(h.events) == 0 {
		h.events = nil
	}
}

// receiveLocked turns a message of the helper into an event.
func (h *Handshake) receiveLocked(m message, as attributes) {
	c := h.c
	if h.phase != phaseRunning && (m.typ != msgCryptoOut || Level(as.u8(attrLevel)) != LevelApp) {
		// A second verdict, or a key for a connection that has its keys.
		c.stats.Ignored++
		return
	}
	var err *Error
	switch m.typ {
	case msgCryptoOut:
		err = h.receiveCrypto(as)
	case msgSecret:
		err = h.receiveSecret(as)
	case msgEarly:
		err = h.receiveEarly(as)
	case msgPeerTP:
		if h.gotPeerTP {
			err = helperError("the peer's transport parameters came twice")
			break
		}
		h.gotPeerTP = true
		h.events = append(h.events, Event{Kind: EventPeerTransportParams, Data: clone(as.bytes(attrPeerTP))})
	case msgDone:
		err = h.receiveDone(as)
	}
	if err == nil && len(h.events) > maxEvents {
		err = helperError("more than %d events wait", maxEvents)
	}
	if m.final && h.phase != phaseOver {
		delete(c.handshakes, h.id)
		if h.phase == phaseDone {
			h.phase = phaseReleased
		} else if err == nil {
			err = helperError("%v: the helper let go of a handshake without a verdict", m.typ)
		}
	}
	if err != nil {
		c.failLocked(h, err)
	}
}

func helperError(format string, args ...any) *Error {
	return &Error{Status: StatusEIO, Alert: alertInternalError, Reason: ReasonProtocol,
		Detail: "the helper's answer: " + fmt.Sprintf(format, args...)}
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

func (h *Handshake) receiveCrypto(as attributes) *Error {
	level, data := Level(as.u8(attrLevel)), as.bytes(attrData)
	if level >= numLevels || as.u64(attrOffset) != h.outOff[level] {
		return helperError("CRYPTO data of level %d at offset %d, want %d", level, as.u64(attrOffset), h.outOff[level%numLevels])
	}
	h.outOff[level] += uint64(len(data))
	if len(data) > 0 {
		h.events = append(h.events, Event{Kind: EventCrypto, Level: level, Data: clone(data)})
	}
	return nil
}

func (h *Handshake) receiveSecret(as attributes) *Error {
	level, write := Level(as.u8(attrLevel)), as.u8(attrWrite) == 1
	bit := uint8(1) << (2*(level%numLevels) + Level(boolByte(write)))
	if level >= numLevels || level == LevelInitial || h.secrets&bit != 0 {
		return helperError("a secret of level %d that has no place", level)
	}
	if level == LevelEarly && (!h.early || write == h.server || !h.server && !h.offered) {
		return helperError("a secret of 0-RTT that has no place")
	}
	h.secrets |= bit
	h.events = append(h.events, Event{Kind: EventSecret, Level: level, Write: write, Suite: as.u16(attrSuite), Data: clone(as.bytes(attrData))})
	return nil
}

// appSecrets are the bits of Handshake.secrets without which no connection
// works.
const appSecrets = 3<<(2*LevelHandshake) | 3<<(2*LevelApp)

func (h *Handshake) receiveDone(as attributes) *Error {
	if status := Status(as.u32(attrStatus)); status != StatusOK {
		return &Error{Status: status, Alert: as.u8(attrAlert), Reason: Reason(as.str(attrReason)), Detail: as.str(attrDetail),
			Peer:        hex.EncodeToString(as.bytes(attrPeerHash)),
			PeerSubject: as.str(attrPeerSubject), PeerIssuer: as.str(attrPeerIssuer), PeerSerial: as.str(attrPeerSerial)}
	}
	st := &State{
		Version: as.u16(attrTLSVersion), Suite: as.u16(attrSuite), Group: as.u16(attrGroup),
		ServerName: as.str(attrPeerName), ALPN: as.str(attrALPN), Auth: AuthMode(as.u8(attrAuthMode)),
		Resumed: as.u8(attrResumed) == 1, Exporter: clone(as.bytes(attrExporter)),
		Epoch: h.c.epochLocked(as.u64(attrGeneration)),
	}
	for _, der := range as.all(attrRemoteAuth) {
		st.Chain = append(st.Chain, clone(der))
	}
	// Fail closed: a good verdict without its parts is none.
	switch {
	case h.secrets&appSecrets != appSecrets:
		return helperError("a good verdict before all secrets")
	case st.ALPN == "" || len(st.Exporter) == 0 || st.Version == 0:
		return helperError("a good verdict without protocol, version or exporter value")
	case (st.Auth == AuthX509) != (len(st.Chain) > 0):
		return helperError("a good verdict with %d certificates and authentication mode %d", len(st.Chain), st.Auth)
	}
	h.timer.Stop()
	h.phase = phaseDone
	h.c.stats.Done++
	h.c.countLocked(ReasonOK)
	h.events = append(h.events, Event{Kind: EventDone, State: st})
	return nil
}
