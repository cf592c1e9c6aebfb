package tlshd

import (
	"context"
	"crypto/sha1" // Windows' thumbprint, for people to find a certificate by
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"net"
	"slices"
	"strings"
	"time"
)

// explain names an error of crypto/tls.
func (h *serverHandshake) explain(err error) *Error {
	if own, ok := errors.AsType[*Error](err); ok {
		return own
	}
	alert := uint8(alertInternalError)
	if a, ok := errors.AsType[tls.AlertError](err); ok {
		alert = uint8(a)
	}
	e := &Error{Status: StatusEACCES, Alert: alert, Reason: ReasonTLS, Detail: printable(err.Error())}
	w := &serverVerdicts
	if h.server {
		w = &clientVerdicts
	}
	// crypto/tls has no error values for what it finds in certificates.
	certificate := strings.Contains(e.Detail, "certificate")
	switch {
	case strings.Contains(e.Detail, "at wrong level"):
		e.Alert, e.Reason = alertUnexpectedMessage, ReasonUnexpected
	case alert == alertNoApplicationProtocol:
		e.Status, e.Reason = StatusEOPNOTSUPP, ReasonALPN
	case alert == alertProtocolVersion:
		e.Status = StatusEOPNOTSUPP
	case certificate && strings.Contains(e.Detail, "failed to parse"):
		e.Status, e.Reason = StatusEKEYREJECTED, w.parse
	case certificate && strings.Contains(e.Detail, "unsupported public key"),
		certificate && strings.Contains(e.Detail, "unsupported type of public key"),
		certificate && strings.Contains(e.Detail, "RSA key larger"),
		certificate && strings.Contains(e.Detail, "invalid signature algorithm"):
		e.Status, e.Reason = StatusEKEYREJECTED, w.key
	case certificate && alert == alertDecryptError:
		e.Status, e.Reason = StatusEKEYREJECTED, w.proof
	case errors.Is(err, context.DeadlineExceeded):
		e.Status, e.Reason = StatusETIMEDOUT, ReasonTimeout
	case errors.Is(err, context.Canceled):
		e.Status, e.Reason = StatusECANCELED, ReasonCanceled
	}
	return e
}

// tlsConfig makes the configuration of one handshake.
func (h *serverHandshake) tlsConfig() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: h.protos, VerifyConnection: h.verifyConnection, CurvePreferences: h.st.cfg.curves()}
	if k := h.ses.s.keyLog; k != nil {
		c.KeyLogWriter = k
	}
	if !h.server {
		h.clientConfig(c)
		return c
	}
	c.GetConfigForClient = h.inspectHello
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.serverCert, nil }
	if h.opts.ClientCert != ClientCertNone {
		// Requested only: verifyConnection does the rest, see verification.
		c.ClientAuth = tls.RequestClientCert
		c.ClientCAs = h.set.pool // their names go to the client
	}
	if h.st.tickets == nil {
		c.SessionTicketsDisabled = true
		return c
	}
	c.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		h.bind(cs.NegotiatedProtocol)
		if ss.EarlyData {
			h.binding.early = h.early.stamp(h.ses.s.spent.Load())
		}
		return h.st.tickets.wrap(&h.binding, ss, time.Now())
	}
	c.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		h.bind(cs.NegotiatedProtocol)
		ss, early, why := h.st.tickets.unwrap(&h.binding, ticket, time.Now())
		h.refusal = why
		if ss != nil {
			// crypto/tls checks neither the age of a ticket nor whether it was used before.
			ss.EarlyData = ss.EarlyData && h.acceptsEarly(cs.NegotiatedProtocol, ticket, early)
		}
		return ss, nil // none: a full handshake
	}
	return c
}

func (h *serverHandshake) bind(alpn string) {
	h.binding = bindTicket(h.opts.Route, h.sni, alpn, h.st.policy(h.set, &h.opts))
	h.binding.version = h.version
}

func (h *serverHandshake) clientConfig(c *tls.Config) {
	cl := h.st.client
	c.ServerName = strings.TrimSuffix(h.name, ".")
	// verifyConnection does it, on resumed sessions too, see verification.
	c.InsecureSkipVerify = true
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cl.cert == nil {
			return &tls.Certificate{}, nil
		}
		return cl.cert, nil
	}
	if cl.sessions != nil {
		c.ClientSessionCache = cl.sessions.scoped(h)
	}
}

// Extensions of a ClientHello.
const (
	extSessionTicket = 35
	extPSKModes      = 45
)

// inspectHello runs first, whether a session is resumed or not.
func (h *serverHandshake) inspectHello(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	cert, bad := h.st.certs.choose(hello)
	if bad != nil {
		return nil, bad
	}
	h.serverCert = cert
	h.sni, _ = normalizeName(hello.ServerName)
	if h.name != "" {
		if want, ok := normalizeName(h.name); !ok || want != h.sni {
			return nil, h.mismatch()
		}
	}
	// RFC 8446, Section 4.2.9: "Servers SHOULD NOT send NewSessionTicket with
	// tickets that are not compatible with the advertised modes".
	h.ticketOK = h.st.tickets != nil && slices.Contains(hello.Extensions, extPSKModes)
	if slices.Contains(h.protos, alpnSMB) && slices.Contains(hello.SupportedProtos, alpnSMB) && !slices.Contains(hello.Extensions, extSessionTicket) {
		// Samba's client lists the modes and then fails on the ticket.
		h.ticketOK = false
	}
	return nil, nil
}

// verifyConnection is called by crypto/tls on every handshake, resumed or not.
func (h *serverHandshake) verifyConnection(cs tls.ConnectionState) error {
	v := &verification{server: !h.server, alpn: cs.NegotiatedProtocol, now: time.Now(), warn: h.ses.warnCRL}
	if h.server {
		h.bind(cs.NegotiatedProtocol)
		v.verdicts, v.roots, v.crls = &clientVerdicts, h.set.pool, h.set.crls
		switch {
		case h.opts.ClientCert == ClientCertNone:
			return nil
		case len(cs.PeerCertificates) == 0 && h.opts.ClientCert == ClientCertOptional:
			return nil
		case len(cs.PeerCertificates) == 0:
			return refused(alertCertificateRequired, ReasonNoClientCert, "the client has shown no certificate")
		}
	} else {
		v.verdicts, v.roots, v.crls, v.dnsName = &serverVerdicts, h.st.client.roots, h.st.client.crls, strings.TrimSuffix(h.name, ".")
		if h.st.client.insecure {
			return nil
		}
		if len(cs.PeerCertificates) == 0 {
			return refused(alertCertificateRequired, ReasonServerCertChain, "the server has shown no certificate")
		}
		if ip := net.ParseIP(v.dnsName); ip != nil {
			v.dnsName = "[" + v.dnsName + "]"
		}
	}
	h.peer = cs.PeerCertificates[0]
	chain, bad := v.verify(cs.PeerCertificates)
	if bad != nil {
		return bad
	}
	h.chain = chain
	return nil
}

func printableName(n *pkix.Name) string { return printable(n.String()) }

// serialDigits are those of a serial number, of which RFC 5280, Section 4.1.2.2,
// allows 20 octets, and nobody has to keep to that.
func serialDigits(c *x509.Certificate) string {
	s := c.SerialNumber.Text(16)
	return s[:min(len(s), 64)]
}

// audit writes the one line of a handshake.
func (h *serverHandshake) audit(err *Error) {
	role := "client"
	if h.server {
		role = "server"
	}
	args := []any{"id", h.logID, "role", role, "remote", h.remote, "route", printable(h.opts.Route), "seconds", time.Since(h.began).Seconds()}
	name := h.sni
	if name == "" {
		name = printable(h.name)
	}
	args = append(args, "server_name", name)
	if h.qc != nil {
		cs := h.qc.ConnectionState()
		args = append(args, "alpn", printable(cs.NegotiatedProtocol), "resumed", cs.DidResume)
	}
	if h.refusal != "" {
		args = append(args, "ticket_refused", h.refusal)
	}
	if h.early.verdict != "" {
		args = append(args, "early_data", h.early.verdict)
	}
	if h.peer != nil {
		sum := sha256.Sum256(h.peer.Raw)
		thumbprint := sha1.Sum(h.peer.Raw)
		args = append(args, "peer_subject", printableName(&h.peer.Subject), "peer_issuer", printableName(&h.peer.Issuer), "peer_serial", serialDigits(h.peer),
			"peer_sha256", hex.EncodeToString(sum[:]), "peer_sha1", hex.EncodeToString(thumbprint[:]), "peer_verified", err == nil && len(h.chain) > 0)
		if n := len(h.chain); err == nil && n > 0 {
			anchor := sha256.Sum256(h.chain[n-1].Raw)
			args = append(args, "chain", n, "anchor_sha256", hex.EncodeToString(anchor[:]))
		}
	}
	if h.serverCert != nil && h.serverCert.Leaf != nil {
		own := sha256.Sum256(h.serverCert.Leaf.Raw)
		args = append(args, "own_sha256", hex.EncodeToString(own[:]))
	}
	outcome := ReasonOK
	if err != nil {
		outcome = err.Reason
	}
	h.ses.s.count.outcomes.add(role, outcome)
	if h.refusal != "" {
		h.ses.s.count.ticketRefusals.add("refused", Reason(h.refusal))
	}
	if err == nil {
		h.ses.s.log.Info("handshake", append(args, "status", StatusOK.String(), "reason", string(ReasonOK))...)
		return
	}
	h.ses.s.log.Info("handshake", append(args, "status", err.Status.String(), "reason", string(err.Reason), "alert", err.Alert, "detail", printable(err.Detail))...)
}
