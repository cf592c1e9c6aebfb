package tlshd

import (
	"errors"
	"fmt"
)

// Status is how a handshake ended: 0, or one of the errno values that
// net/handshake's consumers know, always with Linux's numbers.
type Status uint32

// The statuses a helper reports.
const (
	StatusOK           Status = 0
	StatusEIO          Status = 5   // the helper failed, or broke the protocol
	StatusENOMEM       Status = 12  // too many handshakes at once, or a queue is full
	StatusEACCES       Status = 13  // TLS failed, or the peer may not ask this
	StatusEINVAL       Status = 22  // the request makes no sense to this helper
	StatusEOPNOTSUPP   Status = 95  // no common application protocol or TLS version
	StatusETIMEDOUT    Status = 110 // the handshake's deadline passed
	StatusECANCELED    Status = 125 // the packet process gave up
	StatusENOKEY       Status = 126 // no certificate for the server name asked for
	StatusEKEYREJECTED Status = 129 // the peer's certificate was refused
)

// String returns the errno's name.
func (s Status) String() string {
	switch s {
	case StatusOK:
		return "OK"
	case StatusEIO:
		return "EIO"
	case StatusENOMEM:
		return "ENOMEM"
	case StatusEACCES:
		return "EACCES"
	case StatusEINVAL:
		return "EINVAL"
	case StatusEOPNOTSUPP:
		return "EOPNOTSUPP"
	case StatusETIMEDOUT:
		return "ETIMEDOUT"
	case StatusECANCELED:
		return "ECANCELED"
	case StatusENOKEY:
		return "ENOKEY"
	case StatusEKEYREJECTED:
		return "EKEYREJECTED"
	}
	return fmt.Sprintf("status %d", uint32(s))
}

// Reason names why a handshake ended as it did. Reasons are fixed words, fit
// for a metric label and an audit line; they never contain a peer's bytes.
type Reason string

// The reasons. Those that begin with "client_cert" and "crl" are verdicts on a
// client's certificate, those with "server_cert" on a server's.
const (
	ReasonOK Reason = "ok"

	ReasonNoServerName     Reason = "no_server_name"    // no SNI, and no certificate is the default
	ReasonUnrecognizedName Reason = "unrecognized_name" // no certificate for this name
	ReasonNameMismatch     Reason = "name_mismatch"     // crypto/tls read another name than the router did
	ReasonALPN             Reason = "no_application_protocol"
	ReasonTLS              Reason = "tls"                // any other TLS failure: the alert says which
	ReasonUnexpected       Reason = "unexpected_message" // a TLS message that has no place here, KeyUpdate for one
	ReasonCryptoExceeded   Reason = "crypto_exceeded"    // more handshake bytes than anyone needs

	ReasonNoClientCert       Reason = "client_cert_missing"
	ReasonClientCertCA       Reason = "client_cert_unknown_ca"
	ReasonClientCertExpired  Reason = "client_cert_expired"
	ReasonClientCertFuture   Reason = "client_cert_not_yet_valid"
	ReasonClientCertRevoked  Reason = "client_cert_revoked"
	ReasonClientCertEKU      Reason = "client_cert_wrong_eku"
	ReasonClientCertKeyUsage Reason = "client_cert_wrong_key_usage"
	ReasonClientCertKey      Reason = "client_cert_unsupported_key"
	ReasonClientCertParse    Reason = "client_cert_malformed"
	ReasonClientCertProof    Reason = "client_cert_bad_signature" // the client could not prove that it has the key
	ReasonClientCertChain    Reason = "client_cert_bad_chain"     // constraints, path length, too many certificates
	ReasonCRLExpired         Reason = "crl_expired"
	ReasonCRLInvalid         Reason = "crl_invalid" // names the issuer, is not signed by it

	ReasonServerCertCA       Reason = "server_cert_unknown_ca"
	ReasonServerCertExpired  Reason = "server_cert_expired"
	ReasonServerCertFuture   Reason = "server_cert_not_yet_valid"
	ReasonServerCertRevoked  Reason = "server_cert_revoked"
	ReasonServerCertEKU      Reason = "server_cert_wrong_eku"
	ReasonServerCertKeyUsage Reason = "server_cert_wrong_key_usage"
	ReasonServerCertName     Reason = "server_cert_wrong_name"
	ReasonServerCertKey      Reason = "server_cert_unsupported_key"
	ReasonServerCertParse    Reason = "server_cert_malformed"
	ReasonServerCertProof    Reason = "server_cert_bad_signature"
	ReasonServerCertChain    Reason = "server_cert_bad_chain"

	ReasonTimeout    Reason = "timeout"
	ReasonCanceled   Reason = "canceled"
	ReasonOverload   Reason = "overload"        // more handshakes at once than the helper takes
	ReasonPolicy     Reason = "unknown_policy"  // the request names a set of CAs the helper does not have
	ReasonNoClient   Reason = "no_client_role"  // the helper has no client configuration
	ReasonHelperGone Reason = "helper_gone"     // the helper died or was replaced during the handshake
	ReasonProtocol   Reason = "helper_protocol" // the helper's answer broke the protocol
	ReasonInternal   Reason = "internal"
)

// TLS alerts (RFC 8446, Section 6) that this package sends by number.
const (
	alertUnexpectedMessage     = 10
	alertHandshakeFailure      = 40
	alertBadCertificate        = 42
	alertUnsupportedCert       = 43
	alertCertificateRevoked    = 44
	alertCertificateExpired    = 45
	alertCertificateUnknown    = 46
	alertIllegalParameter      = 47
	alertUnknownCA             = 48
	alertAccessDenied          = 49
	alertDecodeError           = 50
	alertDecryptError          = 51
	alertProtocolVersion       = 70
	alertInternalError         = 80
	alertMissingExtension      = 109
	alertUnrecognizedName      = 112
	alertCertificateRequired   = 116
	alertNoApplicationProtocol = 120
)

// Error is a handshake that failed, on either side of the socket.
type Error struct {
	Status Status // never StatusOK
	Alert  uint8  // TLS alert to close the connection with, CRYPTO_ERROR 0x0100+Alert
	Reason Reason
	Detail string // for people: what, where, why; peer bytes are escaped
	// Peer is the SHA-256, in hexadecimal digits, of the certificate that a
	// client showed and that was refused; "": none, or it has not the key. A
	// certificate is refused before its key was asked for.
	Peer string
	// PeerSubject, PeerIssuer and PeerSerial (hexadecimal) are that certificate's.
	PeerSubject, PeerIssuer, PeerSerial string

	cause error
}

// Unwrap returns the cause: ErrHelperGone, ErrPostHandshakeAuth, ErrClosed or
// nil.
func (e *Error) Unwrap() error { return e.cause }

// Timeout reports whether the handshake was not done in time.
func (e *Error) Timeout() bool { return e.Status == StatusETIMEDOUT }

// Error returns "tls handshake: detail (reason, status, alert n)".
func (e *Error) Error() string {
	return fmt.Sprintf("tls handshake: %s (%s, %s, alert %d)", e.Detail, e.Reason, e.Status, e.Alert)
}

// ErrPostHandshakeAuth is wrapped by the error of a client whose server asked
// for a certificate after the handshake, which QUIC answers with
// PROTOCOL_VIOLATION rather than an alert (RFC 9001, Section 4.4).
var ErrPostHandshakeAuth = errors.New("the server asked for a certificate after the handshake")

// ErrHelperGone is wrapped by the error of a handshake whose helper went away.
var ErrHelperGone = errors.New("the handshake helper is gone")

// ErrClosed is returned by a Client or Server that was closed.
var ErrClosed = errors.New("tlshd: closed")

// ConfigError is a configuration that a helper can't use: a file that is not
// there, a key of another certificate.
type ConfigError struct{ err error }

func (e *ConfigError) Error() string { return e.err.Error() }

// Unwrap returns what is wrong, where this process has found it itself.
func (e *ConfigError) Unwrap() error { return e.err }
