package quic

import (
	"bytes"
	"errors"
	"reflect"
	"slices"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// The handshake, as this end sees it:
//
//	client: start -> CRYPTO out -> secrets, peer parameters, done -> HANDSHAKE_DONE
//	server: ClientHello whole -> route -> start -> peer parameters -> our
//	        parameters -> CRYPTO out, secrets -> done -> (Admit) -> HANDSHAKE_DONE
//
// TLS runs elsewhere; its steps come as events and may come late. Packets
// whose keys are not there yet wait in a bounded list.

func spaceOf(l Level) recovery.Space {
	switch l {
	case LevelInitial:
		return recovery.Initial
	case LevelHandshake:
		return recovery.Handshake
	default:
		return recovery.AppData
	}
}

func levelOf(s recovery.Space) Level {
	switch s {
	case recovery.Initial:
		return LevelInitial
	case recovery.Handshake:
		return LevelHandshake
	default:
		return LevelApp
	}
}

// startClient begins a client's handshake.
func (c *Conn) startClient() {
	c.initFlow()
	local := c.localParams()
	early := c.early.wanted
	c.trace.Parameters(c.now(), true, local)
	params := local.Append(nil, false)
	epoch := c.hsEpoch
	c.hs = c.cfg.Handshaker.Handshake(&HandshakeRequest{
		ID: c.id, ServerName: c.cfg.ServerName, NextProtos: c.cfg.NextProtos, TransportParams: params,
		Remote: c.path.remote, Timeout: c.cfg.handshakeTimeout(), Options: c.cfg.HandshakeOptions,
		Version: c.version, EarlyData: early,
	}, func(e HandshakeEvent) {
		e.epoch = epoch
		c.sink(e)
	})
	c.sentParams = true
}

// initFlow sets the receive limits that our transport parameters announce.
func (c *Conn) initFlow() {
	c.flow.window = uint64(c.cfg.connWindow())
	c.flow.max = c.flow.window
	c.streams.peerLimit = [2]uint64{uint64(c.cfg.streamsBidi()), uint64(c.cfg.streamsUni())}
	c.streams.peerMax = c.streams.peerLimit
	c.acct.lateMax = c.cfg.outOfOrder(c.admitted)
	c.acct.heldMax = int(2*c.cfg.maxConnWindow()) + c.cfg.outOfOrder(true)
}

// localParams are our transport parameters (RFC 9000, Section 18.2).
//
// RFC 9000, Section 7.3: "The values provided by a peer for these transport
// parameters MUST match the values that an endpoint used in the Destination and
// Source Connection ID fields of Initial packets that it sent (and received,
// for servers)."
func (c *Conn) localParams() *wire.TransportParams {
	cfg := c.cfg
	p := &wire.TransportParams{
		InitialSrc: c.ids.local[0].id, HasInitialSrc: true,
		MaxIdleTimeout: cfg.idleTimeout(), MaxUDPPayload: cfg.maxReceived(),
		InitialMaxData:                 uint64(cfg.connWindow()),
		InitialMaxStreamDataBidiLocal:  uint64(cfg.streamWindow()),
		InitialMaxStreamDataBidiRemote: uint64(cfg.streamWindow()),
		InitialMaxStreamDataUni:        uint64(cfg.streamWindow()),
		InitialMaxStreamsBidi:          uint64(cfg.streamsBidi()),
		InitialMaxStreamsUni:           uint64(cfg.streamsUni()),
		AckDelayExponent:               ackDelayExponent,
		MaxAckDelay:                    localMaxAckDelay,
		MinAckDelay:                    localMinAckDelay,
		ActiveConnIDLimit:              localConnIDLimit,
		GreaseBit:                      !cfg.NoGrease,
		MaxDatagram:                    cfg.maxDatagramFrame(),
		VersionInfo:                    c.versionInfo(),
	}
	greaseParams(p)
	p.DisableActiveMigration = cfg.DisableActiveMigration
	if c.server {
		p.PreferredAddress = c.preferredAddress()
		p.OriginalDst, p.HasOriginalDst = c.originalDst, true
		// RFC 9369, Section 4.1: "After switching to a negotiated version after
		// a Retry, the server MUST include the relevant transport parameters to
		// validate that the server sent the Retry and the connection IDs used
		// in the exchange, as described in Section 7.3 of [QUIC]"
		p.RetrySrc, p.HasRetrySrc = c.retrySrc, c.retried
		p.ResetToken, p.HasResetToken = resetToken(c.ep.resetKey, c.ids.local[0].id), true
	}
	return p
}

// onCrypto handles a CRYPTO frame.
//
// RFC 9001, Section 4.1.3: "If the packet is from a previously installed
// encryption level, it MUST NOT contain data that extends past the end of
// previously received data in that flow."
//
// RFC 9001, Section 4.1.3: "Implementations MUST treat any violations of this
// requirement as a connection error of type PROTOCOL_VIOLATION."
func (c *Conn) onCrypto(space recovery.Space, off uint64, data []byte) error {
	s := c.cryptoOf(space)
	if !c.server {
		c.ver.fixed = true
	}
	if c.levelOver(space) && len(data) > 0 && off+uint64(len(data)) > s.taken {
		return c.fail(ProtocolViolation, wire.FrameCrypto, "TLS bytes at a level that is over")
	}
	if space == recovery.AppData {
		// A server's TLS has nothing to receive after the handshake, and a client
		// only session tickets: endless messages end here (RFC 9000, Section 7.5).
		if c.server {
			return c.fail(CryptoErrorBase+TransportErrorCode(AlertUnexpectedMessage), wire.FrameCrypto, "TLS message after the handshake")
		}
		if off+uint64(len(data)) > maxCryptoPost {
			return c.fail(CryptoBufferExceeded, wire.FrameCrypto, "too many TLS messages after the handshake")
		}
	}
	if !s.receive(off, data) {
		return c.fail(CryptoBufferExceeded, wire.FrameCrypto, "CRYPTO data too far ahead")
	}
	c.feedCrypto(space)
	return nil
}

// levelOver tells whether keys to read a higher encryption level are there.
func (c *Conn) levelOver(space recovery.Space) bool {
	return space == recovery.Initial && c.keys[recovery.Handshake].rx != nil ||
		space == recovery.Handshake && c.app.rx != nil
}

// feedCrypto hands contiguous CRYPTO bytes to TLS, after routing where this
// end is a server that has not routed yet.
func (c *Conn) feedCrypto(space recovery.Space) {
	s := c.cryptoOf(space)
	b := s.ready()
	if len(b) == 0 {
		return
	}
	if c.hs == nil {
		if c.confirmed {
			c.afterTLS()
			return
		}
		if c.server && space == recovery.Initial && c.route(b) {
			s.take(len(b))
		}
		return
	}
	if space == recovery.AppData {
		if b = c.ticketMessages(b); len(b) == 0 {
			return
		}
		if c.eventMask&EventSessionTicket != 0 {
			c.emit(Event{Kind: EventSessionTicket, Data: clone(b)})
		}
	}
	c.hs.Crypto(levelOf(space), b)
	s.take(len(b))
}

// route chooses the configuration by the ClientHello, once it is whole, and
// starts TLS with it. It reports whether TLS was started.
func (c *Conn) route(b []byte) bool {
	ch, complete, err := wire.ParseClientHello(b)
	if err != nil {
		_ = c.fail(CryptoErrorBase+50, wire.FrameCrypto, "malformed ClientHello") // decode_error
		return false
	}
	if !complete {
		return false
	}
	c.hello = &ClientHelloInfo{ServerName: ch.ServerName, ALPN: ch.ALPN, SessionTicket: ch.SessionTicket, PSKModes: ch.PSKModes,
		Remote: c.path.remote, Local: c.ep.localAddr(c.path.local)}
	if f := c.cfg.GetConfigForClient; f != nil {
		cfg, err := f(c.hello)
		if err != nil || cfg == nil {
			c.refuse(err)
			return false
		}
		if cfg.Congestion != c.cfg.Congestion {
			c.path.cc = recovery.NewController(cfg.Congestion, c.path.mtu)
		}
		c.cfg = cfg
	}
	if !slices.ContainsFunc(ch.ALPN, func(p string) bool { return slices.Contains(c.cfg.NextProtos, p) }) {
		// RFC 9001, Section 8.1: "When using ALPN, endpoints MUST
		// immediately close a connection [...] with a
		// no_application_protocol TLS alert [...] if an application
		// protocol is not negotiated."
		//
		// RFC 9001, Section 8.1: "The server MUST treat the inability to select
		// a compatible application protocol as a connection error of type
		// 0x0178 (no_application_protocol)."
		c.refuse(&AlertError{Alert: AlertNoApplicationProtocol})
		return false
	}
	c.initFlow()
	req := &HandshakeRequest{
		ID: c.id, Server: true, ServerName: ch.ServerName, NextProtos: c.cfg.NextProtos, Crypto: b,
		Remote: c.path.remote, Timeout: c.cfg.handshakeTimeout(), Options: c.cfg.HandshakeOptions, ClientHello: c.hello,
		Version: c.version,
	}
	if ch.TransportParams != nil {
		// TLS would tell them and then wait for ours: with a helper, that takes a
		// message there and back. It does tell them, see onPeerParams.
		if !c.takePeerParams(ch.TransportParams) {
			return false
		}
		c.helloParams, req.TransportParams = clone(ch.TransportParams), c.ownParams()
	}
	if c.cfg.EarlyData {
		req.EarlyData, req.EarlyLimits = true, earlyLimits(c.localParams())
	} else {
		c.refuseEarly()
	}
	c.hs = c.cfg.Handshaker.Handshake(req, c.sink)
	return true
}

// refuse closes with the alert that routing asked for.
func (c *Conn) refuse(err error) {
	var te *TransportError
	if errors.As(err, &te) {
		_ = c.fail(te.Code, wire.FrameCrypto, te.Reason)
		return
	}
	alert, reason := AlertNoApplicationProtocol, ""
	var ae *AlertError
	if errors.As(err, &ae) {
		alert, reason = ae.Alert, ae.Reason
	}
	_ = c.fail(CryptoErrorBase+TransportErrorCode(alert), wire.FrameCrypto, reason)
}

// onHandshakeEvent takes one step of TLS.
func (c *Conn) onHandshakeEvent(e *HandshakeEvent) {
	if c.state >= stateClosing || e.epoch != c.hsEpoch {
		clear(e.Data)
		return
	}
	switch e.Kind {
	case EventCrypto:
		c.cryptoOf(spaceOf(e.Level)).write(e.Data)
		c.dirty = true
	case EventSecret:
		c.onSecret(e)
		clear(e.Data)
	case EventPeerTransportParams:
		c.onPeerParams(e.Data)
	case EventEarlyParams:
		c.onEarlyParams(e.Data)
	case EventEarlyRejected:
		c.onEarlyRejected()
	case EventDone:
		c.pendingTLS = e.TLS
		c.maybeComplete()
	case EventFailed:
		// RFC 9001, Section 4.8: "As QUIC provides alternative mechanisms for
		// connection termination and the TLS connection is only closed if an
		// error is encountered, a QUIC endpoint MUST treat any alert from TLS
		// as if it were at the "fatal" level."
		alert := e.Alert
		if alert == 0 {
			alert = AlertInternalError
		}
		err := e.Err
		if err == nil {
			err = errors.New("the handshake failed without a reason")
		}
		if late, ok := errors.AsType[interface {
			error
			Timeout() bool
		}](err); ok && late.Timeout() && c.unanswered() {
			// TLS waited for what never came, and its timer was faster than ours.
			c.abandon(&HandshakeTimeoutError{})
			return
		}
		c.shutdown(&HandshakeError{Alert: alert, Err: err})
	}
}

// RFC 9001, Section 4.1.3: "When TLS provides keys for a higher encryption
// level, if there is data from a previous encryption level that TLS has not
// consumed, this MUST be treated as a connection error of type
// PROTOCOL_VIOLATION."
func (c *Conn) onSecret(e *HandshakeEvent) {
	if e.Level == LevelInitial {
		return
	}
	v := c.version
	if e.Level == LevelEarly {
		v = c.ver.original
	}
	key, err := protect.NewKey(v, e.Suite, e.Data)
	if err != nil {
		c.shutdown(&HandshakeError{Alert: AlertHandshakeFailure, Err: err})
		return
	}
	if e.Level == LevelEarly {
		if e.Write {
			c.onEarlyKey(key)
		} else {
			c.onReadEarly(key)
		}
		c.dirty = true
		return
	}
	if e.Level == LevelApp {
		err = c.app.install(e.Write, key)
	} else {
		err = c.keys[recovery.Handshake].install(e.Write, key)
	}
	if err != nil {
		c.shutdown(&HandshakeError{Alert: AlertInternalError, Err: err})
		return
	}
	if e.Write {
		c.level = max(c.level, e.Level)
	} else if lower := spaceOf(e.Level) - 1; len(c.cryptoOf(lower).have) > 0 {
		_ = c.fail(ProtocolViolation, wire.FrameCrypto, "TLS bytes behind the last of a level")
		return
	}
	c.dirty = true
	switch {
	case !e.Write && e.Level == LevelHandshake:
		c.refuseEarly()
		c.retryEarly()
	case e.Write && e.Level == LevelApp && !c.server:
		// RFC 9001, Section 4.9.3: "Therefore, a client SHOULD discard 0-RTT
		// keys as soon as it installs 1-RTT keys as they have no use after
		// that moment."
		//
		// RFC 9001, Section 5.6: "Once a client has installed 1-RTT keys, it MUST
		// NOT send any more 0-RTT packets."
		c.early.dropKeys()
	case e.Write && e.Level == LevelApp:
		c.openEarly()
	}
	c.maybeComplete()
}

// onPeerParams takes what TLS says the peer's transport parameters are.
func (c *Conn) onPeerParams(b []byte) {
	if c.haveParams {
		if !c.server || !bytes.Equal(b, c.helloParams) {
			_ = c.fail(TransportParameterError, 0, "TLS and routing read different transport parameters")
		}
		c.helloParams = nil
		return
	}
	if c.takePeerParams(b) && c.server {
		c.hs.TransportParams(c.ownParams())
	}
}

// ownParams are what a server answers the client's parameters with, encoded.
func (c *Conn) ownParams() []byte {
	local := c.localParams()
	c.trace.Parameters(c.now(), true, local)
	c.sentParams = true
	return local.Append(nil, true)
}

// noParams is what is known of a peer's transport parameters before they come.
var noParams wire.TransportParams

// shareParams lets go of what only the handshake has use for. What is left is the
// same for all clients of a make: those in a row share it.
func (e *Endpoint) shareParams(p *wire.TransportParams) *wire.TransportParams {
	p.OriginalDst, p.InitialSrc, p.RetrySrc, p.ResetToken = wire.ConnID{}, wire.ConnID{}, wire.ConnID{}, [16]byte{}
	p.VersionInfo, p.GreaseData = nil, nil
	if last := e.lastParams.Load(); last != nil && reflect.DeepEqual(last, p) {
		return last
	}
	e.lastParams.Store(p)
	return p
}

// takePeerParams validates and applies the peer's transport parameters. It
// reports whether they were good; otherwise the connection is closing.
func (c *Conn) takePeerParams(b []byte) bool {
	p, err := wire.ParseTransportParams(b, !c.server)
	if err == nil {
		err = c.checkParams(&p)
	}
	if err == nil {
		err = c.negotiateVersion(&p)
	}
	if err != nil {
		c.closeOnParams(err)
		return false
	}
	// RFC 9000, Section 7.4.1: "The client MUST use the server's new values in the
	// handshake instead; if the server does not provide new values, the default
	// values are used." Nothing stays of what 0-RTT has used.
	c.peerParams, c.haveParams = &p, true
	// RFC 9287, Section 3.1: "A server MUST set the QUIC Bit to 0 only after
	// processing transport parameters from a client."
	//
	// RFC 9287, Section 3.1: "A server MUST NOT remember that a client
	// negotiated the extension in a previous connection and set the QUIC Bit to
	// 0 based on that information."
	c.greases = p.GreaseBit && !c.cfg.NoGrease
	c.ids.peerLimit = max(p.ActiveConnIDLimit, 2)
	c.flow.sendMax = p.InitialMaxData
	c.streams.max = [2]uint64{p.InitialMaxStreamsBidi, p.InitialMaxStreamsUni}
	for _, s := range c.streams.all {
		if s.local() && s.snd.exists {
			s.snd.max = c.initialMax(s)
			c.queueSend(s)
		}
	}
	c.resendAll()
	if p.HasResetToken && !c.server && len(c.ids.remote) > 0 {
		c.ids.remote[0].token, c.ids.remote[0].hasToken = p.ResetToken, true
		c.useRemote(&c.path, 0)
	}
	// RFC 9000, Section 9.6.2: "A client MUST NOT use these for other
	// connections, including connections that are resumed from the current
	// connection."
	if a := p.PreferredAddress; a != nil {
		c.ids.remote = append(c.ids.remote, remoteID{seq: 1, id: a.ID, token: a.ResetToken, hasToken: true})
	}
	c.trace.Parameters(c.now(), false, &p)
	c.peerParams = c.ep.shareParams(&p)
	c.loss.SetMaxAckDelay(p.MaxAckDelay)
	for i := range c.streams.opening {
		c.streams.opening[i].open()
	}
	return true
}

// checkParams authenticates connection IDs. RFC 9000, Section 7.3: "An endpoint
// MUST treat the following as a connection error of type
// TRANSPORT_PARAMETER_ERROR or PROTOCOL_VIOLATION: [...] a mismatch between
// values received from a peer in these transport parameters and the value sent
// in the corresponding Destination or Source Connection ID fields of Initial
// packets."
//
// RFC 9000, Section 7.3: "Endpoints MUST validate that received transport
// parameters match received connection ID values."
//
// RFC 9000, Section 7.3: "An endpoint MUST treat the absence of the
// initial_source_connection_id transport parameter from either endpoint"
func (c *Conn) checkParams(p *wire.TransportParams) error {
	if !p.HasInitialSrc || len(c.ids.remote) == 0 || p.InitialSrc != c.ids.remote[0].id {
		return errors.New("initial_source_connection_id does not match")
	}
	if c.server {
		return nil
	}
	if p.PreferredAddress != nil && p.InitialSrc.Len() == 0 {
		// RFC 9000, Section 18.2: "A server that chooses a zero-length connection ID MUST
		// NOT provide a preferred address."
		return errors.New("preferred_address from a server with zero-length connection IDs")
	}
	if !p.HasOriginalDst || p.OriginalDst != c.originalDst {
		return errors.New("original_destination_connection_id does not match")
	}
	if p.HasRetrySrc != c.retried || c.retried && p.RetrySrc != c.retrySrc {
		return errors.New("retry_source_connection_id does not match")
	}
	return nil
}

// maybeComplete ends the handshake once TLS is done and both 1-RTT keys are
// there; crypto/tls reports the reading one last.
//
// RFC 9000, Section 7: "Endpoints MUST explicitly negotiate an application
// protocol."
//
// RFC 9001, Section 8.1: "Unless another mechanism is used for agreeing on an
// application protocol, endpoints MUST use ALPN for this purpose."
//
// RFC 9001, Section 8.1: "While [ALPN] only specifies that servers use this
// alert, QUIC clients MUST use error 0x0178 to terminate a connection when ALPN
// negotiation fails."
//
// RFC 9001, Section 8.1: "Similarly, a client MUST treat the selection of an
// incompatible application protocol by a server as a connection error of type
// 0x0178."
func (c *Conn) maybeComplete() {
	t := c.pendingTLS
	if t == nil || c.app.rx == nil || c.app.tx == nil || c.state != stateHandshake {
		return
	}
	if !c.haveParams {
		// RFC 9001, Section 8.2: "endpoints that receive ClientHello or
		// EncryptedExtensions messages without the quic_transport_parameters extension
		// MUST close the connection with an error of type 0x016d".
		_ = c.fail(CryptoErrorBase+TransportErrorCode(AlertMissingExtension), 0, "no transport parameters")
		return
	}
	if c.helloParams != nil {
		_ = c.fail(InternalError, 0, "TLS has not said the peer's transport parameters")
		return
	}
	if !c.server && !slices.Contains(c.cfg.NextProtos, t.ALPN) { // a server has looked at what is offered, see route
		_ = c.fail(CryptoErrorBase+TransportErrorCode(AlertNoApplicationProtocol), 0, "no application protocol was agreed on")
		return
	}
	if err := c.checkEarly(); err != nil {
		_ = c.fail(ProtocolViolation, 0, err.Error())
		return
	}
	t.EarlyData = c.early.rx != nil || c.early.offered && !c.early.rejected
	c.tls = t
	c.state = stateOpen
	c.ep.onEstablished(c)
	c.trace.State(c.now(), "handshake_completed")
	c.setIdle()
	c.raiseMTU()
	c.hs.Remember(c.version, c.remembered())
	if c.server {
		if !c.cfg.ManualAdmit {
			c.admit()
		}
		c.ep.onHandshakeDone(c)
		if c.state != stateOpen {
			return // refused: nobody has room for it
		}
	} else {
		c.admit()
	}
	close(c.ready)
	c.retryEarly()
	c.dirty = true
}
