package tlshd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"sync"
	"time"
)

// ticketWait is how long a server's handshake is kept for its ticket request.
const ticketWait = 30 * time.Second

// serverHandshake is one handshake in the helper:
//
//  1. START makes it; run owns the QUICConn from then on.
//  2. CRYPTO_IN and LOCAL_TP reach run through inbox.
//  3. pump sends what crypto/tls has to say, in its order.
//  4. The verdict goes out as DONE once crypto/tls has nothing more to say.
//  5. A server then waits for TICKET, a client for tickets to store; after that,
//     or if there is nothing to wait for, the last message has the final flag.
type serverHandshake struct {
	ses     *session
	st      *state
	id      uint64
	began   time.Time
	server  bool
	name    string // that the packet process asks for or routed by
	protos  []string
	localTP []byte
	remote  string
	logID   string
	opts    Options
	timeout time.Duration
	set     *caSet
	version uint32 // QUIC version of sessions
	early   earlyHandshake

	inbox inbox

	qc     *tls.QUICConn
	unsent []byte            // frames for the packet process
	out    [numLevels]uint64 // CRYPTO offsets sent
	in     [numLevels]uint64
	gate   postGate
	done   bool     // TLS is complete
	wiping [][]byte // secrets that crypto/tls still needs until then

	// What the callbacks of crypto/tls have found out.
	sni        string // normalized
	ticketOK   bool   // the client can use a ticket
	chain      []*x509.Certificate
	peer       *x509.Certificate // verified or not, for the audit line
	refusal    string            // why a ticket was not good here
	serverCert *tls.Certificate
	binding    ticketBinding
}

// input is something for run.
type input struct {
	typ   msgType
	level Level
	off   uint64
	data  []byte

	version uint32 // not 0: of sessions from here on
	session []byte // and what is kept with them
}

// inbox is a bounded queue with one reader.
type inbox struct {
	mu    sync.Mutex
	list  []input
	bytes int
	total int
	wake  chan struct{}
}

// put reports whether there was room.
func (b *inbox) put(in input) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes+len(in.data) > maxCryptoIn || len(b.list) >= 4*maxEvents {
		return false
	}
	b.list = append(b.list, in)
	b.bytes += len(in.data)
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

func (b *inbox) take() (input, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.list) == 0 {
		return input{}, false
	}
	in := b.list[0]
	b.list[0] = input{}
	if b.list = b.list[1:]; len(b.list) == 0 {
		b.list = nil
	}
	b.bytes -= len(in.data)
	return in, true
}

// newServerHandshake checks a START. The handshake is good for an audit line
// even if it is refused.
func newServerHandshake(ses *session, st *state, id uint64, as attributes) (*serverHandshake, *Error) {
	h := &serverHandshake{
		ses: ses, st: st, id: id, began: time.Now(),
		server:  MessageType(as.u8(attrMessageType)) == MessageServerHello,
		name:    as.str(attrPeerName),
		localTP: clone(as.bytes(attrLocalTP)),
		remote:  printable(as.str(attrRemote)), logID: printable(as.str(attrID)),
		opts: Options{Route: as.str(attrRoute), Policy: as.str(attrPolicy), CASet: as.str(attrCASet),
			ClientCert: ClientCertMode(as.u8(attrClientCert))},
		timeout: min(time.Duration(as.u32(attrTimeout))*time.Millisecond, st.cfg.maxTimeout()),
		version: as.u32(attrQUICVersion),
		inbox:   inbox{wake: make(chan struct{}, 1)},
	}
	for _, p := range as.all(attrALPN) {
		h.protos = append(h.protos, string(p))
	}
	if bad := h.checkStart(as); bad != nil {
		return h, bad
	}
	return h, h.early.init(h, as)
}

func (h *serverHandshake) checkStart(as attributes) *Error {
	auth, typ := AuthMode(as.u8(attrAuthMode)), MessageType(as.u8(attrMessageType))
	switch {
	case HandlerClass(as.u8(attrHandlerClass)) != HandlerTLSHD:
		return badRequest("handler class %d, want %d", as.u8(attrHandlerClass), HandlerTLSHD)
	case typ != MessageServerHello && typ != MessageClientHello:
		return badRequest("message type %d", typ)
	case auth != AuthUnauth && auth != AuthX509:
		return badRequest("authentication mode %d (there is %d and %d)", auth, AuthUnauth, AuthX509)
	}
	if !h.server {
		switch {
		case h.st.client == nil:
			return &Error{Status: StatusEINVAL, Alert: alertInternalError, Reason: ReasonNoClient, Detail: "this helper has no client configuration"}
		case len(h.localTP) == 0:
			return badRequest("a client without transport parameters")
		case h.name == "" && !h.st.client.insecure:
			return badRequest("a client needs the server's name to verify it")
		}
		return nil
	}
	if h.opts.ClientCert > ClientCertNone || (h.opts.ClientCert == ClientCertNone) != (auth == AuthUnauth) {
		return badRequest("client certificate mode %d with authentication mode %d", h.opts.ClientCert, auth)
	}
	if h.set = h.st.caSets[h.opts.CASet]; h.set == nil {
		return &Error{Status: StatusEINVAL, Alert: alertInternalError, Reason: ReasonPolicy,
			Detail: fmt.Sprintf("there is no set of client CAs called %q", h.opts.CASet)}
	}
	return nil
}

// receive queues a message for run. It runs on the session's reader.
func (h *serverHandshake) receive(m message, as attributes) error {
	in := input{typ: m.typ}
	switch m.typ {
	case msgCryptoIn:
		in.level, in.off, in.data = Level(as.u8(attrLevel)), as.u64(attrOffset), clone(as.bytes(attrData))
		if in.level >= numLevels {
			return protocolError("CRYPTO_IN of level %d", in.level)
		}
		in.version, in.session = as.u32(attrQUICVersion), clone(as.bytes(attrSession))
	case msgTicket:
		in.version = as.u32(attrQUICVersion)
	case msgLocalTP:
		in.data = clone(as.bytes(attrLocalTP))
	}
	if !h.inbox.put(in) {
		return protocolError("more than %d bytes or %d messages wait in one handshake", maxCryptoIn, 4*maxEvents)
	}
	return nil
}

// run is the handshake's goroutine.
func (h *serverHandshake) run() {
	defer h.ses.wg.Done()
	ctx, cancel := context.WithTimeout(h.ses.ctx, h.timeout)
	defer cancel()
	err := h.shake(ctx)
	h.ses.s.running.Add(-1)
	if err == nil {
		h.after()
	} else if h.fail(err) {
		h.sendFinal(msgDone, encodeFailure(err))
	}
	h.flush()
	h.ses.forget(h)
	_ = h.qc.Close() // frees the goroutine of crypto/tls; its error was seen
	h.wipe()
}

// fail writes the audit line and reports whether the other end wants to know.
func (h *serverHandshake) fail(err *Error) bool {
	h.ses.s.count.failed.Add(1)
	h.audit(err)
	if h.server && h.peer != nil && err.Reason != ReasonClientCertProof {
		sum := sha256.Sum256(h.peer.Raw)
		err.Peer = hex.EncodeToString(sum[:])
		err.PeerSubject, err.PeerIssuer, err.PeerSerial = printableName(&h.peer.Subject), printableName(&h.peer.Issuer), serialDigits(h.peer)
	}
	return err.Reason != ReasonCanceled
}

func (h *serverHandshake) sendFinal(t msgType, b body) {
	h.ses.forget(h)
	h.send(t, true, b)
}

// send makes a message one of those that the next flush writes.
func (h *serverHandshake) send(t msgType, final bool, b body) {
	h.unsent = appendFrames(h.unsent, t, h.id, final, b)
}

// flush writes what was sent; a socket that does not take it is the end of the
// session.
func (h *serverHandshake) flush() {
	if len(h.unsent) == 0 {
		return
	}
	if err := h.ses.sock.writeFrames(h.unsent); err != nil {
		h.ses.cancel()
	}
	clear(h.unsent)
	h.unsent = nil // the next flush may be hours away, if there is one
}

// shake runs until the verdict. nil: DONE is out.
func (h *serverHandshake) shake(ctx context.Context) *Error {
	conf := &tls.QUICConfig{TLSConfig: h.tlsConfig(), EnableSessionEvents: !h.server}
	if h.server {
		h.qc = tls.QUICServer(conf)
	} else {
		h.qc = tls.QUICClient(conf)
		h.qc.SetTransportParameters(h.localTP)
	}
	if err := h.qc.Start(ctx); err != nil {
		return h.explain(err)
	}
	for {
		if err := h.pump(); err != nil {
			return h.explain(err)
		}
		if h.done {
			h.wipe()
			return h.verdict()
		}
		in, err := h.next(ctx)
		if err != nil {
			return err
		}
		if err := h.handle(in); err != nil {
			return err
		}
	}
}

// next waits for an input.
func (h *serverHandshake) next(ctx context.Context) (input, *Error) {
	for {
		if in, ok := h.inbox.take(); ok {
			return in, nil
		}
		h.flush()
		select {
		case <-h.inbox.wake:
		case <-ctx.Done():
			if h.ses.ctx.Err() != nil {
				return input{}, canceled("the packet process is gone")
			}
			return input{}, &Error{Status: StatusETIMEDOUT, Alert: alertInternalError, Reason: ReasonTimeout,
				Detail: fmt.Sprintf("not done within %v", h.timeout)}
		}
	}
}

func canceled(why string) *Error {
	return &Error{Status: StatusECANCELED, Alert: alertInternalError, Reason: ReasonCanceled, Detail: why}
}

func (h *serverHandshake) handle(in input) *Error {
	switch in.typ {
	case msgCancel:
		return canceled("the packet process gave up")
	case msgTicket:
		return badRequest("TICKET before DONE")
	case msgLocalTP:
		if !h.server || h.localTP != nil {
			return badRequest("LOCAL_TP that nobody asked for")
		}
		// crypto/tls waits for them, and goes on inside this call.
		h.localTP = in.data
		h.qc.SetTransportParameters(in.data)
		return nil
	}
	if err := h.continuous(in); err != nil {
		return err
	}
	if h.inbox.total += len(in.data); h.inbox.total > maxCryptoIn {
		return &Error{Status: StatusEACCES, Alert: alertIllegalParameter, Reason: ReasonCryptoExceeded,
			Detail: fmt.Sprintf("more than %d bytes of handshake", maxCryptoIn)}
	}
	if in.level == LevelInitial {
		h.early.hear(in.data)
	}
	if err := h.qc.HandleData(tls.QUICEncryptionLevel(in.level), in.data); err != nil {
		return h.explain(err)
	}
	return nil
}

func (h *serverHandshake) continuous(in input) *Error {
	if in.off != h.in[in.level] {
		return badRequest("CRYPTO_IN at offset %d, want %d", in.off, h.in[in.level])
	}
	h.in[in.level] += uint64(len(in.data))
	return nil
}

// pump sends what crypto/tls has to say. Its order is kept: CRYPTO data that
// comes before a key is on its way before the key.
func (h *serverHandshake) pump() error {
	for {
		e := h.qc.NextEvent()
		switch e.Kind {
		case tls.QUICNoEvent:
			return nil
		case tls.QUICErrorEvent:
			return e.Err
		case tls.QUICResumeSession:
			h.resumeSession(e.SessionState)
		case tls.QUICRejectedEarlyData:
			h.sendEarly(earlyRejected, nil)
		case tls.QUICSetReadSecret, tls.QUICSetWriteSecret:
			if e.Level == tls.QUICEncryptionLevelEarly && !h.server {
				h.sendEarly(earlyOffered, h.early.offered)
			}
			h.sendSecret(&e)
		case tls.QUICWriteData:
			h.sendCrypto(Level(e.Level), e.Data, false)
		case tls.QUICTransportParameters:
			if len(e.Data) > maxTP {
				return refusedTP(len(e.Data))
			}
			var b body
			b.bytes(attrPeerTP, e.Data)
			h.send(msgPeerTP, false, b)
		case tls.QUICHandshakeDone:
			// The secret to read with follows it.
			h.done = true
		}
	}
}

func refusedTP(n int) error {
	return &Error{Status: StatusEACCES, Alert: alertIllegalParameter, Reason: ReasonTLS,
		Detail: fmt.Sprintf("the peer's transport parameters have %d bytes, at most %d are read", n, maxTP)}
}

func (h *serverHandshake) sendSecret(e *tls.QUICEvent) {
	b := make(body, 0, 4*attrLen+4+len(e.Data))
	b.u8(attrLevel, uint8(e.Level))
	b.flag(attrWrite, e.Kind == tls.QUICSetWriteSecret)
	b.u16(attrSuite, e.Suite)
	b.bytes(attrData, e.Data)
	h.send(msgSecret, false, b)
	clear(b)
	// crypto/tls derives Finished from these: they are wiped when it is done.
	h.wiping = append(h.wiping, e.Data)
}

func (h *serverHandshake) wipe() {
	for _, s := range h.wiping {
		clear(s)
	}
	h.wiping = nil
}

func (h *serverHandshake) sendCrypto(level Level, data []byte, final bool) {
	for {
		part := data[:min(len(data), maxMessage/2)]
		data = data[len(part):]
		b := make(body, 0, len(part)+64)
		b.u8(attrLevel, uint8(level))
		b.u64(attrOffset, h.out[level])
		b.bytes(attrData, part)
		h.out[level] += uint64(len(part))
		last := len(data) == 0
		if final && last {
			h.sendFinal(msgCryptoOut, b)
		} else {
			h.send(msgCryptoOut, false, b)
		}
		if last {
			return
		}
	}
}

// verdict sends DONE for a handshake that TLS calls complete.
func (h *serverHandshake) verdict() *Error {
	cs := h.qc.ConnectionState()
	exporter, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return h.explain(err)
	}
	defer clear(exporter)
	name := h.sni
	if !h.server {
		name, _ = normalizeName(h.name)
	}
	if h.server && h.name != "" {
		// Two parsers have read the ClientHello: the router's and crypto/tls'.
		if want, ok := normalizeName(h.name); !ok || want != h.sni {
			return h.mismatch()
		}
	}
	var b body
	b.u32(attrStatus, uint32(StatusOK))
	b.str(attrReason, string(ReasonOK))
	b.u16(attrTLSVersion, cs.Version)
	b.u16(attrSuite, cs.CipherSuite)
	b.u16(attrGroup, uint16(cs.CurveID))
	b.str(attrPeerName, name)
	b.str(attrALPN, cs.NegotiatedProtocol)
	b.flag(attrResumed, cs.DidResume)
	b.bytes(attrExporter, exporter)
	b.u64(attrGeneration, h.st.number)
	auth, total := AuthUnauth, 0
	for _, c := range h.chain {
		auth = AuthX509
		total += len(c.Raw) + attrLen
		b.bytes(attrRemoteAuth, c.Raw)
	}
	b.u8(attrAuthMode, uint8(auth))
	if total > maxMessage-8192 || len(h.chain) > maxChainLen {
		return refused(alertBadCertificate, clientVerdicts.chain, "the verified chain has %d certificates and %d bytes", len(h.chain), total)
	}
	h.ses.s.count.done.Add(1)
	if cs.DidResume {
		h.ses.s.count.resumed.Add(1)
	}
	h.audit(nil)
	if h.last() {
		h.sendFinal(msgDone, b)
	} else {
		h.send(msgDone, false, b)
	}
	clear(b)
	return nil
}

func (h *serverHandshake) mismatch() *Error {
	return &Error{Status: StatusEACCES, Alert: alertUnrecognizedName, Reason: ReasonNameMismatch,
		Detail: fmt.Sprintf("the route was chosen for the server name %q, TLS says %q", h.name, h.sni)}
}

// last reports whether nothing follows the verdict.
func (h *serverHandshake) last() bool {
	if h.server {
		return !h.ticketOK
	}
	return h.st.client.sessions == nil
}

// after is what follows a good verdict: one ticket on a server, any number on a
// client.
func (h *serverHandshake) after() {
	if h.last() {
		return
	}
	ctx, cancel := h.ses.ctx, context.CancelFunc(func() {})
	if h.server {
		ctx, cancel = context.WithTimeout(ctx, ticketWait)
	}
	defer cancel()
	for {
		in, err := h.next(ctx)
		if err != nil {
			if h.server && h.ses.ctx.Err() == nil {
				// Nobody has asked in time. Say that it is too late.
				h.sendCrypto(LevelApp, nil, true)
			}
			return
		}
		switch {
		case in.typ == msgTicket && h.server:
			h.version = in.version
			h.ticket()
			return
		case in.typ == msgCryptoIn && !h.server:
			if !h.store(in) {
				return
			}
		default:
			return // CANCEL, or nonsense that gets no answer
		}
	}
}

// ticket sends a session ticket, after which the QUICConn can go.
func (h *serverHandshake) ticket() {
	var data []byte
	if err := h.qc.SendSessionTicket(tls.QUICSessionTicketOptions{EarlyData: h.earlyTicket()}); err != nil {
		h.ses.s.log.Warn("no session ticket", "id", h.logID, "error", printable(err.Error()))
	} else {
		for e := h.qc.NextEvent(); e.Kind != tls.QUICNoEvent && e.Kind != tls.QUICErrorEvent; e = h.qc.NextEvent() {
			if e.Kind == tls.QUICWriteData {
				data = append(data, e.Data...)
			}
		}
		h.early.setAgeAdd(data)
		h.ses.s.count.tickets.Add(1)
	}
	h.sendCrypto(LevelApp, data, true)
}

// store lets crypto/tls read a ticket. What is none the packet process has
// refused already; if it comes nevertheless, this ends.
func (h *serverHandshake) store(in input) bool {
	if in.level != LevelApp || h.continuous(in) != nil || h.gate.check(in.data) != nil {
		return false
	}
	if in.version != 0 {
		h.version, h.early.session = in.version, in.session
	}
	if h.qc.HandleData(tls.QUICEncryptionLevelApplication, in.data) != nil {
		return false
	}
	for e := h.qc.NextEvent(); e.Kind != tls.QUICNoEvent && e.Kind != tls.QUICErrorEvent; e = h.qc.NextEvent() {
		if e.Kind == tls.QUICStoreSession {
			h.storeSession(e.SessionState)
		}
	}
	return true
}
