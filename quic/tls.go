package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"sync"
)

// TLS returns a Handshaker that runs crypto/tls in this process, with keys and
// all. It is for tests, benchmarks and programs that do not want a helper
// process. cfg is cloned; ServerName and NextProtos come from each request.
//
// A server's 0-RTT needs cfg without GetConfigForClient, WrapSession and
// UnwrapSession. A ticket is good for it once, within ten minutes, and at the
// Handshaker that made it; afterwards it is good for resumption.
func TLS(cfg *tls.Config) Handshaker {
	return &localTLS{cfg: cfg.Clone(), servers: make(map[string]*tls.Config), seen: newSpentTickets()}
}

type localTLS struct {
	cfg  *tls.Config
	seen *spentTickets

	mu      sync.Mutex
	servers map[string]*tls.Config // by NextProtos, of which a Config has one list
}

// serverConfig returns the configuration of all handshakes with these
// protocols. They share it because a tls.Config makes its own ticket keys when
// none are set, and a clone would make others: no session could be resumed.
func (l *localTLS) serverConfig(protos []string) *tls.Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := strings.Join(protos, "\x00")
	cfg := l.servers[key]
	if cfg == nil {
		cfg = l.cfg.Clone()
		// RFC 9001, Section 4.2: "An endpoint MUST terminate the connection if
		// a version of TLS older than 1.3 is negotiated."
		cfg.MinVersion = tls.VersionTLS13
		cfg.NextProtos = slices.Clone(protos)
		l.servers[key] = cfg
	}
	return cfg
}

// RFC 9001, Section 4.2: "Clients MUST NOT offer TLS versions older than 1.3."
func (l *localTLS) clientConfig(req *HandshakeRequest, h *localHandshake) *tls.Config {
	cfg := l.cfg.Clone()
	cfg.MinVersion = tls.VersionTLS13
	cfg.NextProtos = req.NextProtos
	if cfg.ServerName == "" {
		cfg.ServerName = req.ServerName
	}
	if cfg.ClientSessionCache != nil {
		cfg.ClientSessionCache = &sessionsOf{cfg.ClientSessionCache, h}
	}
	return cfg
}

type localHandshake struct {
	sink   func(HandshakeEvent)
	cancel context.CancelFunc
	ticket bool
	early  bool // client: 0-RTT may be offered; server: tickets allow it

	mu      sync.Mutex // one call into the QUICConn at a time
	conn    *tls.QUICConn
	over    bool
	version Version // of sessions
	params  []byte  // client: for sessions to come
	offered []byte  // client: what was kept with the session that is offered
}

func (l *localTLS) Handshake(req *HandshakeRequest, sink func(HandshakeEvent)) Handshake {
	ctx, cancel := context.WithTimeout(context.Background(), max(req.Timeout, 1))
	h := &localHandshake{sink: sink, cancel: cancel, version: req.Version, early: req.EarlyData}
	if req.Server {
		cfg := l.serverConfig(req.NextProtos)
		h.early = h.early && cfg.GetConfigForClient == nil && cfg.WrapSession == nil && cfg.UnwrapSession == nil
		if cfg.WrapSession == nil && cfg.UnwrapSession == nil {
			cfg = l.boundTickets(cfg, h, req.EarlyLimits)
		}
		h.conn = tls.QUICServer(&tls.QUICConfig{TLSConfig: cfg})
		// RFC 8446, Section 4.2.9: "Servers SHOULD NOT send NewSessionTicket with
		// tickets that are not compatible with the advertised modes". TLS 1.3 needs no
		// session_ticket extension, and not every client sends one.
		h.ticket = !cfg.SessionTicketsDisabled && (req.ClientHello == nil || req.ClientHello.PSKModes)
	} else {
		h.conn = tls.QUICClient(&tls.QUICConfig{TLSConfig: l.clientConfig(req, h), EnableSessionEvents: true})
	}
	if req.TransportParams != nil {
		h.conn.SetTransportParameters(req.TransportParams)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.conn.Start(ctx); err != nil {
		h.fail(err)
		return h
	}
	if len(req.Crypto) > 0 {
		h.crypto(LevelInitial, req.Crypto)
		return h
	}
	h.events()
	return h
}

func (h *localHandshake) Crypto(level Level, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.crypto(level, data)
}

func (h *localHandshake) crypto(level Level, data []byte) {
	if h.over {
		return
	}
	if err := h.conn.HandleData(tlsLevel(level), data); err != nil {
		h.fail(err)
		return
	}
	h.events()
}

func (h *localHandshake) TransportParams(b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return
	}
	h.conn.SetTransportParameters(b)
	h.events()
}

func (h *localHandshake) Remember(v Version, params []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.version, h.params = v, params
}

func (h *localHandshake) Ticket() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || !h.ticket {
		return
	}
	if err := h.conn.SendSessionTicket(tls.QUICSessionTicketOptions{EarlyData: h.early}); err == nil {
		h.events()
	}
}

func (h *localHandshake) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	h.cancel()
	_ = h.conn.Close()
}

func (h *localHandshake) fail(err error) {
	h.over = true
	var alert tls.AlertError
	a := AlertInternalError
	if errors.As(err, &alert) {
		a = uint8(alert)
	}
	h.sink(HandshakeEvent{Kind: EventFailed, Alert: a, Err: err})
}

// events passes on what TLS wants, until it waits.
func (h *localHandshake) events() {
	for !h.over {
		e := h.conn.NextEvent()
		switch e.Kind {
		case tls.QUICNoEvent:
			return
		case tls.QUICWriteData:
			h.sink(HandshakeEvent{Kind: EventCrypto, Level: levelFromTLS(e.Level), Data: clone(e.Data)})
		case tls.QUICResumeSession:
			h.resume(e.SessionState)
		case tls.QUICStoreSession:
			h.store(e.SessionState)
		case tls.QUICRejectedEarlyData:
			h.sink(HandshakeEvent{Kind: EventEarlyRejected})
		case tls.QUICSetReadSecret, tls.QUICSetWriteSecret:
			if e.Level == tls.QUICEncryptionLevelEarly && h.offered != nil {
				h.sink(HandshakeEvent{Kind: EventEarlyParams, Data: h.offered})
			}
			h.sink(HandshakeEvent{Kind: EventSecret, Level: levelFromTLS(e.Level), Write: e.Kind == tls.QUICSetWriteSecret, Suite: e.Suite, Data: clone(e.Data)})
		case tls.QUICTransportParameters:
			h.sink(HandshakeEvent{Kind: EventPeerTransportParams, Data: clone(e.Data)})
		case tls.QUICTransportParametersRequired:
			return
		case tls.QUICHandshakeDone:
			h.done()
		}
	}
}

func (h *localHandshake) done() {
	cs := h.conn.ConnectionState()
	state := &TLSState{ServerName: cs.ServerName, ALPN: cs.NegotiatedProtocol, Version: cs.Version, Suite: cs.CipherSuite, Resumed: cs.DidResume}
	for _, c := range cs.PeerCertificates {
		state.Chain = append(state.Chain, c.Raw)
	}
	var err error
	if state.Exporter, err = cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32); err != nil {
		h.fail(err)
		return
	}
	h.sink(HandshakeEvent{Kind: EventDone, TLS: state})
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

func tlsLevel(l Level) tls.QUICEncryptionLevel {
	switch l {
	case LevelInitial:
		return tls.QUICEncryptionLevelInitial
	case LevelEarly:
		return tls.QUICEncryptionLevelEarly
	case LevelHandshake:
		return tls.QUICEncryptionLevelHandshake
	default:
		return tls.QUICEncryptionLevelApplication
	}
}

func levelFromTLS(l tls.QUICEncryptionLevel) Level {
	switch l {
	case tls.QUICEncryptionLevelInitial:
		return LevelInitial
	case tls.QUICEncryptionLevelEarly:
		return LevelEarly
	case tls.QUICEncryptionLevelHandshake:
		return LevelHandshake
	default:
		return LevelApp
	}
}
