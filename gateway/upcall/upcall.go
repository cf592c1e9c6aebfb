// Package upcall lets QUIC connections shake hands in the helper process: it
// is the seam between package quic, which knows no helper, and package tlshd,
// which knows no QUIC. The name is net/handshake's.
package upcall

import (
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

type handshaker struct{ client *tlshd.Client }

type handshake struct {
	*tlshd.Handshake
}

func (h handshake) Crypto(level quic.Level, data []byte) {
	h.Handshake.Crypto(tlshd.Level(level), data)
}

// Handshake implements quic.Handshaker.
func (h handshaker) Handshake(req *quic.HandshakeRequest, sink func(quic.HandshakeEvent)) quic.Handshake {
	r := &tlshd.Request{
		ID: req.ID, Server: req.Server, ServerName: req.ServerName, NextProtos: req.NextProtos,
		TransportParams: req.TransportParams, Remote: req.Remote, Timeout: req.Timeout,
	}
	if p, ok := req.Options.(*Policy); ok {
		r.Options = tlshd.Options{Route: p.Route, Policy: p.Rules, ClientCert: certMode(p.Mode), CASet: p.CASet}
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
	out := quic.HandshakeEvent{Level: quic.Level(e.Level), Write: e.Write, Suite: e.Suite, Data: e.Data, Alert: e.Alert, Err: e.Err}
	switch e.Kind {
	case tlshd.EventCrypto:
		out.Kind = quic.EventCrypto
	case tlshd.EventSecret:
		out.Kind = quic.EventSecret
	case tlshd.EventPeerTransportParams:
		out.Kind = quic.EventPeerTransportParams
	case tlshd.EventDone:
		out.Kind = quic.EventDone
		out.TLS = &quic.TLSState{
			ServerName: e.State.ServerName, ALPN: e.State.ALPN, Version: e.State.Version, Suite: e.State.Suite,
			Chain: e.State.Chain, Resumed: e.State.Resumed, Exporter: e.State.Exporter,
		}
	default:
		out.Kind = quic.EventFailed
		if out.Err == nil {
			out.Err = errors.New("the helper gave no reason")
		}
	}
	return out
}
