package gateway

import (
	"errors"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/smb"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// The table of reasons has those of package smb, with its codes and words.
func TestReasonsOfSMB(t *testing.T) {
	have := map[string]uint64{}
	for _, r := range reason.All() {
		if r.Layer == reason.SMB {
			have[r.Name] = r.Code
		}
	}
	for _, want := range smb.Reasons() {
		if want.Reason == smb.ReasonNone {
			continue
		}
		if code, ok := have[want.Label]; !ok || code != want.Code {
			t.Errorf("%s has code %d in package smb, and %d (%v) in the table", want.Label, want.Code, code, ok)
		}
		delete(have, want.Label)
	}
	delete(have, reason.NoStream.Name) // these are for the gateway to say
	delete(have, reason.DrainedSMB.Name)
	for name := range have {
		t.Errorf("the table has %s, package smb has not", name)
	}
}

func TestFailureReason(t *testing.T) {
	helper := func(r tlshd.Reason, alert uint8) error {
		return &quic.HandshakeError{Alert: alert, Err: &tlshd.Error{Status: tlshd.StatusEKEYREJECTED, Reason: r, Alert: alert}}
	}
	local := func(code quic.TransportErrorCode, phrase string) error {
		return &quic.TransportError{Code: code, Reason: phrase}
	}
	remote := func(code quic.TransportErrorCode) error { return &quic.TransportError{Code: code, Remote: true} }
	for _, tt := range []struct {
		err  error
		want reason.Reason
	}{
		{&quic.HandshakeTimeoutError{}, reason.HandshakeTimeout},
		{helper(tlshd.ReasonTimeout, 80), reason.HandshakeTimeout},
		{helper(tlshd.ReasonNoClientCert, 116), reason.NoClientCertificate},
		{helper(tlshd.ReasonClientCertCA, 48), reason.UnknownCA},
		{helper(tlshd.ReasonClientCertExpired, 45), reason.ExpiredCertificate},
		{helper(tlshd.ReasonClientCertRevoked, 44), reason.RevokedCertificate},
		{helper(tlshd.ReasonCRLExpired, 46), reason.RevocationUnknown},
		{helper(tlshd.ReasonClientCertEKU, 43), reason.UnsupportedCert},
		{helper(tlshd.ReasonHelperGone, 80), reason.HelperUnavailable},
		{helper(tlshd.ReasonTLS, 47), reason.TLSError},
		{local(quic.CryptoErrorBase+120, "no_application_protocol"), reason.NoApplicationProtocol},
		{local(quic.CryptoErrorBase+112, "unrecognized_name"), reason.UnrecognizedName},
		{local(quic.CryptoErrorBase+109, ""), reason.TLSError},
		{local(quic.ConnectionRefused, "rate_limit"), reason.RateLimit},
		{local(quic.ConnectionRefused, "draining"), reason.Draining},
		{local(quic.FrameEncodingError, "draining"), reason.Protocol},
		{remote(quic.CryptoErrorBase + 42), reason.ClientAlert},
		{remote(quic.NoError), reason.ClientClosed},
		{remote(quic.ProtocolViolation), reason.ClientError},
		{errors.New("another"), reason.ClientClosed},
	} {
		if got := failureReason(tt.err); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got.Name, tt.want.Name)
		}
	}
}

// The codes of RPC streams are those of package nfs.
func TestReasonsOfRPC(t *testing.T) {
	for code, want := range map[uint64]reason.Reason{
		nfs.CodeNoError: reason.RPCDone, nfs.CodeProtocolViolation: reason.RPCProtocol, nfs.CodeServerBusy: reason.RPCBusy,
		nfs.CodeRequestDropped: reason.RPCDropped, nfs.CodeUnspecifiedError: reason.RPCBackendLost,
	} {
		if got := reason.OfStream(code); got != want || got.Code != code {
			t.Errorf("code %d: %s with code %d, want %s", code, got.Name, got.Code, want.Name)
		}
	}
}
