// Package upcall lets QUIC connections shake hands in the helper process: it
// is the seam between package quic, which knows no helper, and package tlshd,
// which knows no QUIC. The name is net/handshake's.
package upcall

import (
	"context"
	"errors"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// Handshaker runs handshakes in the helper that client is attached to. The
// Config.HandshakeOptions of its connections are a *Policy on a server; a
// client has none.
func Handshaker(client *tlshd.Client) quic.Handshaker { return handshaker{client} }

// Policy is what a route asks of its clients.
type Policy struct {
	Route string      // tickets are good on the route that issued them only
	Rules string      // a hash of the rules: tickets issued under others are refused
	Mode  access.Mode // whether a client certificate is asked for
	CASet string      // which CAs verify it; "": the default set
}

// Trust judges the chains of live connections by what the helper trusts now.
type Trust struct{ client *tlshd.Client }

// NewTrust is the Trust of the helper that client is attached to.
func NewTrust(client *tlshd.Client) *Trust { return &Trust{client} }

// Epoch counts the changes of what the helper trusts. A connection whose
// TLSState.TrustEpoch it is has been judged by all of them.
func (t *Trust) Epoch() uint64 { return t.client.Epoch() }

// Verify returns the chain of a client as it is verified now, and the epoch
// that it was judged in. alert is that of a chain that was judged and refused;
// an error without one says that it was not judged.
func (t *Trust) Verify(ctx context.Context, chain [][]byte, alpn, caSet string) (verified [][]byte, epoch uint64, alert uint8, err error) {
	verified, epoch, err = t.client.Verify(ctx, chain, alpn, caSet)
	var bad *tlshd.Error
	if errors.As(err, &bad) && bad.Status == tlshd.StatusEKEYREJECTED {
		alert = bad.Alert
	}
	return verified, epoch, alert, err
}

type handshaker struct{ client *tlshd.Client }

type handshake struct {
	*tlshd.Handshake
}

func (h handshake) Crypto(level quic.Level, data []byte) {
	h.Handshake.Crypto(tlshd.Level(level), data)
}

func (h handshake) Remember(v quic.Version, params []byte) { h.Handshake.Remember(uint32(v), params) }

// Handshake implements quic.Handshaker.
func (h handshaker) Handshake(req *quic.HandshakeRequest, sink func(quic.HandshakeEvent)) quic.Handshake {
	r := &tlshd.Request{
		ID: req.ID, Server: req.Server, ServerName: req.ServerName, NextProtos: req.NextProtos,
		TransportParams: req.TransportParams, Crypto: req.Crypto, Remote: req.Remote, Timeout: req.Timeout,
		Version: uint32(req.Version), EarlyData: req.EarlyData, EarlyLimits: req.EarlyLimits,
	}
	if p, ok := req.Options.(*Policy); ok {
		// RFC 9369, Section 5: "Servers MUST validate the originating version of any
		// session ticket or token and not accept one issued from a different version."
		r.Options = tlshd.Options{Route: p.Route, Policy: p.Rules + " QUIC " + req.Version.String(), ClientCert: certMode(p.Mode), CASet: p.CASet}
	} else if !req.Server {
		// A client's sessions are kept apart by route, which has no other use there.
		r.Options.Route = "QUIC " + req.Version.String()
	}
	return handshake{h.client.Start(r, func(e tlshd.Event) { sink(event(&e)) })}
}

func certMode(m access.Mode) tlshd.ClientCertMode {
	switch m {
	case access.None:
		return tlshd.ClientCertNone
	case access.Optional:
		return tlshd.ClientCertOptional
	}
	return tlshd.ClientCertRequired
}

// event translates one step.
func event(e *tlshd.Event) quic.HandshakeEvent {
	out := quic.HandshakeEvent{Level: quic.Level(e.Level), Write: e.Write, Suite: e.Suite, Data: e.Data, Alert: e.Alert, Err: e.Err, More: e.More}
	switch e.Kind {
	case tlshd.EventCrypto:
		out.Kind = quic.EventCrypto
	case tlshd.EventSecret:
		out.Kind = quic.EventSecret
	case tlshd.EventPeerTransportParams:
		out.Kind = quic.EventPeerTransportParams
	case tlshd.EventEarlyParams:
		out.Kind = quic.EventEarlyParams
	case tlshd.EventEarlyRejected:
		out.Kind = quic.EventEarlyRejected
	case tlshd.EventDone:
		out.Kind = quic.EventDone
		out.TLS = &quic.TLSState{
			ServerName: e.State.ServerName, ALPN: e.State.ALPN, Version: e.State.Version, Suite: e.State.Suite,
			Chain: e.State.Chain, Resumed: e.State.Resumed, Exporter: e.State.Exporter, TrustEpoch: e.State.Epoch,
		}
	default:
		out.Kind = quic.EventFailed
		switch {
		case out.Err == nil:
			out.Err = errors.New("the helper gave no reason")
		case errors.Is(out.Err, tlshd.ErrPostHandshakeAuth):
			// Section 4.4 of RFC 9001 asks for PROTOCOL_VIOLATION, which no alert stands for.
			out.Err = &quic.TransportError{Code: quic.ProtocolViolation, Reason: "certificate request after the handshake"}
		}
	}
	return out
}
