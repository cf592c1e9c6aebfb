// Package reason is the table of why connections and streams end: the cause,
// the code the peer sees, and the one word used for it in logs and metrics.
// docs/close-codes.md is written from it, and a test holds the two together.
package reason

import (
	"fmt"
	"strings"
)

// Layer says in which code space a Code lives.
type Layer uint8

const (
	Silent    Layer = iota // nothing is sent
	Alert                  // CONNECTION_CLOSE 0x1c with CRYPTO_ERROR, 0x100 + TLS alert (RFC 9001, Section 4.8)
	Transport              // CONNECTION_CLOSE 0x1c with a code of RFC 9000, Section 20.1
	SMB                    // application code on ALPN smb
	RPC                    // application code on ALPN sunrpc (draft-cel-nfsv4-rpc-over-quicv1, Section 3.5)
)

func (l Layer) String() string {
	return [...]string{"none", "TLS alert", "transport", "application, smb", "application, sunrpc"}[l]
}

// Reason is one row.
type Reason struct {
	Name  string // log field reason and metric label reason
	Layer Layer
	Code  uint64 // as it stands on the wire; CRYPTO_ERROR included
	Word  string // what the specification calls the code
	Cause string // for people
}

// TLS alerts, as CRYPTO_ERROR codes.
const (
	alertBadCertificate        = 0x100 + 42
	alertUnsupportedCert       = 0x100 + 43
	alertCertificateRevoked    = 0x100 + 44
	alertCertificateExpired    = 0x100 + 45
	alertIllegalParameter      = 0x100 + 47
	alertCertificateUnknown    = 0x100 + 46
	alertUnknownCA             = 0x100 + 48
	alertAccessDenied          = 0x100 + 49
	alertInternalError         = 0x100 + 80
	alertUnrecognizedName      = 0x100 + 112
	alertCertificateRequired   = 0x100 + 116
	alertNoApplicationProtocol = 0x100 + 120
)

// Transport codes of RFC 9000, Section 20.1.
const (
	transportNoError           = 0x00
	transportConnectionRefused = 0x02
	transportProtocolViolation = 0x0a
)

// Application codes of sunrpc, as the draft has them. MS-SMB2 has none for smb:
// those are this project's, in package smb.
const (
	CodeNoError           = 0x0
	CodeProtocolViolation = 0x1
	CodeServerBusy        = 0x2
	CodeRequestDropped    = 0x3
	CodeUnspecified       = 0x4
)

// The reasons. Before the handshake is through, the peer sees alerts and
// transport codes; after it, application codes.
var (
	NoApplicationProtocol = Reason{"no_application_protocol", Alert, alertNoApplicationProtocol, "no_application_protocol", "No route takes any protocol the client offers"}
	UnrecognizedName      = Reason{"unrecognized_name", Alert, alertUnrecognizedName, "unrecognized_name", "No route takes this protocol under the server name asked for, or none was given"}
	RouteMismatch         = Reason{"route_mismatch", Alert, alertIllegalParameter, "illegal_parameter", "The handshake ended with another name or protocol than the ClientHello was routed by"}
	NoClientCertificate   = Reason{"no_certificate", Alert, alertCertificateRequired, "certificate_required", "The access rule requires a client certificate, and none was given"}
	BadClientCertificate  = Reason{"bad_certificate", Alert, alertBadCertificate, "bad_certificate", "The client certificate does not verify or can't be understood"}
	ExpiredCertificate    = Reason{"expired_certificate", Alert, alertCertificateExpired, "certificate_expired", "The client certificate, or one above it, is outside its dates"}
	UnsupportedCert       = Reason{"unsupported_certificate", Alert, alertUnsupportedCert, "unsupported_certificate", "The client certificate is for another use, by its key usages"}
	RevocationUnknown     = Reason{"certificate_unknown", Alert, alertCertificateUnknown, "certificate_unknown", "The revocation list that the client certificate needs is expired or not its CA's"}
	RevokedCertificate    = Reason{"revoked_certificate", Alert, alertCertificateRevoked, "certificate_revoked", "A revocation list names the client certificate"}
	UnknownCA             = Reason{"unknown_ca", Alert, alertUnknownCA, "unknown_ca", "The client certificate does not chain to client_ca"}
	AccessDenied          = Reason{"denied", Alert, alertAccessDenied, "access_denied", "A deny entry of the access rule matched"}
	AccessNotAllowed      = Reason{"not_allowed", Alert, alertAccessDenied, "access_denied", "No allow entry of the access rule matched"}
	Identity              = Reason{"identity", Alert, alertAccessDenied, "access_denied", "The Unix identity that the client's certificate maps to cannot be used; the log says why"}
	RouteRemoved          = Reason{"route_removed", Alert, alertUnrecognizedName, "unrecognized_name", "A reload took the route away"}
	IdentityChanged       = Reason{"identity_changed", Transport, transportNoError, "NO_ERROR", "A reload gave the client another Unix identity; connecting again takes it up"}
	PolicyChanged         = Reason{"policy_changed", Transport, transportNoError, "NO_ERROR", "A reload forbids something that the client might do in its session; connecting again takes it up"}
	AccessRevoked         = Reason{"access_revoked", Alert, alertAccessDenied, "access_denied", "A reload took the client's access away"}
	Reloaded              = Reason{"reloaded", Alert, alertAccessDenied, "access_denied", "The configuration changed during the handshake; connecting again is enough"}
	TLSError              = Reason{"tls", Alert, 0x100, "0x100 + alert", "TLS failed in another way; the log has the alert"}
	HelperUnavailable     = Reason{"helper_unavailable", Alert, alertInternalError, "internal_error", "The handshake helper is not there or did not answer"}
	HandshakeTimeout      = Reason{"handshake_timeout", Silent, 0, "", "The handshake did not end in time"}
	ConnectionLimit       = Reason{"connection_limit", Transport, transportConnectionRefused, "CONNECTION_REFUSED", "limits.connections is reached"}
	ClientLimit           = Reason{"client_limit", Transport, transportConnectionRefused, "CONNECTION_REFUSED", "limits.connections_per_client is reached"}
	RateLimit             = Reason{"rate_limit", Transport, transportConnectionRefused, "CONNECTION_REFUSED", "A limit on handshakes per second is reached"}
	Draining              = Reason{"draining", Transport, transportConnectionRefused, "CONNECTION_REFUSED", "The gateway drains and takes no new connections"}
	Drained               = Reason{"drained", RPC, CodeNoError, "RPC_NO_ERROR", "The gateway drains, and the connection had nothing under way"}
	DrainedSMB            = Reason{"drained", SMB, 0x6, "shutdown", "The gateway drains, and the session had nothing under way shortly before the end"}
	Shutdown              = Reason{"shutdown", Transport, transportNoError, "NO_ERROR", "The gateway ends"}
	Protocol              = Reason{"protocol", Transport, transportProtocolViolation, "a code of RFC 9000, 20.1", "The client broke QUIC; the code says how"}
	IdleTimeout           = Reason{"idle_timeout", Silent, 0, "", "Nothing came from the peer for quic.idle_timeout"}
	StatelessReset        = Reason{"stateless_reset", Silent, 0, "", "The client no longer knew the connection"}
	ClientAlert           = Reason{"client_alert", Silent, 0, "", "The client ended the handshake by a TLS alert, which the log has: it distrusts the certificate, say"}
	ClientError           = Reason{"client_error", Silent, 0, "", "The client closed the connection with a transport error code"}
	ClientClosed          = Reason{"client_closed", Silent, 0, "", "The client closed the connection"}
	NoStream              = Reason{"no_stream", SMB, 0x5, "timeout", "The client opened no stream in time"}

	// Of package smb, in its order; a test holds the two together.
	smbReasons = []Reason{
		{"client_closed", SMB, 0x0, "none", "The client ended its side between messages"},
		{"backend_closed", SMB, 0x0, "none", "The backend ended its side between messages"},
		{"client_reset", SMB, 0x0, "none", "The client reset the stream or its connection was lost"},
		{"client_truncated", SMB, 0x1, "protocol", "The client ended its side inside a message"},
		{"client_framing", SMB, 0x1, "protocol", "Length 0, too long, first octet not 0, SMB1, or no SMB2 header"},
		{"not_negotiate", SMB, 0x1, "protocol", "The first message is not an SMB2 NEGOTIATE request"},
		{"dialect", SMB, 0x2, "policy", "No dialect of at least min_dialect was offered or chosen"},
		{"named_pipe", SMB, 0x2, "policy", "A named pipe was opened where named_pipes is deny"},
		{"share", SMB, 0x2, "policy", "A share outside the route's shares was connected"},
		{"logons", SMB, 0x2, "policy", "Too many refused logons are waiting for their delay"},
		{"ntlm", SMB, 0x2, "policy", "A logon other than by Kerberos where ntlm is deny"},
		{"protection", SMB, 0x2, "policy", "Less signing or encryption than protection asks for"},
		{"backend_limit", SMB, 0x3, "backend unreachable", "The backends have as many connections as limits.connections lets them have"},
		{"backend_unreachable", SMB, 0x3, "backend unreachable", "No backend could be dialed and answered NEGOTIATE in time"},
		{"backend_reset", SMB, 0x4, "backend lost", "The connection to the backend broke"},
		{"backend_truncated", SMB, 0x4, "backend lost", "The backend ended its side inside a message"},
		{"backend_framing", SMB, 0x4, "backend lost", "The backend sent what is not SMB2"},
		{"transport_security", SMB, 0x4, "backend lost", "The backend took plain TCP for a secure transport, which would bare the network behind the gateway"},
		{"first_message_timeout", SMB, 0x5, "timeout", "The client sent no complete first message in time"},
		{"idle_timeout", SMB, 0x5, "timeout", "No byte went either way for idle_timeout"},
		{"client_message_timeout", SMB, 0x5, "timeout", "The client left a message incomplete"},
		{"backend_message_timeout", SMB, 0x5, "timeout", "The backend left a message incomplete"},
		{"client_stalled", SMB, 0x5, "timeout", "The client took no bytes for stall_timeout"},
		{"backend_stalled", SMB, 0x5, "timeout", "The backend took no bytes for stall_timeout"},
		{"shutdown", SMB, 0x6, "shutdown", "The gateway ended the session"},
	}
	RPCDone        = Reason{"rpc_done", RPC, CodeNoError, "RPC_NO_ERROR", "Orderly end, by either side or by a drain"}
	RPCProtocol    = Reason{"rpc_protocol", RPC, CodeProtocolViolation, "RPC_PROTOCOL_VIOLATION", "Not RPC records, a record above the limit, or a message in the wrong direction"}
	RPCBusy        = Reason{"rpc_busy", RPC, CodeServerBusy, "RPC_SERVER_BUSY", "Too many streams, or too many connections to the backend"}
	RPCDropped     = Reason{"rpc_dropped", RPC, CodeRequestDropped, "RPC_REQUEST_DROPPED", "A call was taken and gets no reply"}
	RPCBackendLost = Reason{"rpc_backend_lost", RPC, CodeUnspecified, "RPC_UNSPECIFIED_ERROR", "The backend can't be reached, or its connection broke; the client sends its calls again on a new stream"}
)

// All lists every reason in the order of the document. Its names bound the
// values of metric labels; the same name in two code spaces is the same cause
// seen there.
func All() []Reason {
	all := []Reason{
		NoApplicationProtocol, UnrecognizedName, RouteMismatch,
		NoClientCertificate, BadClientCertificate, UnsupportedCert, ExpiredCertificate, RevokedCertificate, RevocationUnknown, UnknownCA,
		AccessDenied, AccessNotAllowed, Identity, AccessRevoked, RouteRemoved, IdentityChanged, PolicyChanged, Reloaded, TLSError, HelperUnavailable, HandshakeTimeout,
		ConnectionLimit, ClientLimit, RateLimit, Draining, Drained, DrainedSMB, Shutdown, Protocol, IdleTimeout, StatelessReset,
		ClientAlert, ClientError, ClientClosed, NoStream,
	}
	all = append(all, smbReasons...)
	return append(all, RPCDone, RPCProtocol, RPCBusy, RPCDropped, RPCBackendLost)
}

// OfStream is the reason of an RPC stream that ended with an application code.
func OfStream(code uint64) Reason {
	for _, r := range []Reason{RPCDone, RPCProtocol, RPCBusy, RPCDropped} {
		if r.Code == code {
			return r
		}
	}
	return RPCBackendLost
}

// Word is what a code of an application is called, "" if it has no name.
func Word(layer Layer, code uint64) string {
	for _, r := range All() {
		if r.Layer == layer && r.Code == code {
			return r.Word
		}
	}
	return ""
}

// ByAlert is the reason of a handshake that ended with a TLS alert of ours.
func ByAlert(alert uint8) Reason {
	for _, r := range All() {
		if r.Layer == Alert && r.Code == 0x100+uint64(alert) {
			return r // the most general of those that share an alert comes first
		}
	}
	return TLSError
}

// ByName finds a reason that this end has given to the peer as its phrase.
func ByName(name string) (Reason, bool) {
	for _, r := range All() {
		if r.Name == name && (r.Layer == Alert || r.Layer == Transport) {
			return r, true
		}
	}
	return Reason{}, false
}

// Markdown is the table of docs/close-codes.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| Cause | Code space | Code | Name | `reason` in logs and metrics |\n|---|---|---|---|---|\n")
	for _, r := range All() {
		code, word := fmt.Sprintf("0x%x", r.Code), r.Word
		if r.Layer == Silent {
			code, word = "none", "nothing is sent"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | `%s` |\n", r.Cause, r.Layer, code, word, r.Name)
	}
	return b.String()
}
