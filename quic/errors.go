package quic

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
)

// TransportErrorCode is a QUIC transport error code (RFC 9000, Section 20.1).
type TransportErrorCode uint64

// Transport error codes of RFC 9000, Section 20.1 and RFC 9368, Section 10.
const (
	NoError                 TransportErrorCode = 0x00
	InternalError           TransportErrorCode = 0x01
	ConnectionRefused       TransportErrorCode = 0x02
	FlowControlError        TransportErrorCode = 0x03
	StreamLimitError        TransportErrorCode = 0x04
	StreamStateError        TransportErrorCode = 0x05
	FinalSizeError          TransportErrorCode = 0x06
	FrameEncodingError      TransportErrorCode = 0x07
	TransportParameterError TransportErrorCode = 0x08
	ConnectionIDLimitError  TransportErrorCode = 0x09
	ProtocolViolation       TransportErrorCode = 0x0a
	InvalidToken            TransportErrorCode = 0x0b
	ApplicationErrorCode    TransportErrorCode = 0x0c
	CryptoBufferExceeded    TransportErrorCode = 0x0d
	KeyUpdateError          TransportErrorCode = 0x0e
	AEADLimitReached        TransportErrorCode = 0x0f
	NoViablePath            TransportErrorCode = 0x10
	VersionNegotiationError TransportErrorCode = 0x11
	CryptoErrorBase         TransportErrorCode = 0x100
)

// TLS alerts this package names itself (RFC 8446, Section 6).
const (
	AlertUnexpectedMessage     uint8 = 10
	AlertHandshakeFailure      uint8 = 40
	AlertAccessDenied          uint8 = 49
	AlertInternalError         uint8 = 80
	AlertMissingExtension      uint8 = 109
	AlertUnrecognizedName      uint8 = 112
	AlertCertificateRequired   uint8 = 116
	AlertNoApplicationProtocol uint8 = 120
)

var transportErrorNames = map[TransportErrorCode]string{
	NoError: "NO_ERROR", InternalError: "INTERNAL_ERROR", ConnectionRefused: "CONNECTION_REFUSED",
	FlowControlError: "FLOW_CONTROL_ERROR", StreamLimitError: "STREAM_LIMIT_ERROR", StreamStateError: "STREAM_STATE_ERROR",
	FinalSizeError: "FINAL_SIZE_ERROR", FrameEncodingError: "FRAME_ENCODING_ERROR", TransportParameterError: "TRANSPORT_PARAMETER_ERROR",
	ConnectionIDLimitError: "CONNECTION_ID_LIMIT_ERROR", ProtocolViolation: "PROTOCOL_VIOLATION", InvalidToken: "INVALID_TOKEN",
	ApplicationErrorCode: "APPLICATION_ERROR", CryptoBufferExceeded: "CRYPTO_BUFFER_EXCEEDED", KeyUpdateError: "KEY_UPDATE_ERROR",
	AEADLimitReached: "AEAD_LIMIT_REACHED", NoViablePath: "NO_VIABLE_PATH", VersionNegotiationError: "VERSION_NEGOTIATION_ERROR",
}

func (c TransportErrorCode) String() string {
	if n, ok := transportErrorNames[c]; ok {
		return n
	}
	if c >= CryptoErrorBase && c < CryptoErrorBase+0x100 {
		alert := tls.AlertError(c - CryptoErrorBase) // knows the names
		return fmt.Sprintf("CRYPTO_ERROR 0x%x: %s", uint64(c), strings.TrimPrefix(alert.Error(), "tls: "))
	}
	return fmt.Sprintf("0x%x", uint64(c))
}

// TransportError says that the connection was closed with a transport error code,
// by this end or, if Remote, by the peer.
type TransportError struct {
	Code      TransportErrorCode
	FrameType uint64 // the frame that caused it, 0 if unknown
	Reason    string // as received, at most 1 KiB: escape it when logging
	Remote    bool
}

func (e *TransportError) Error() string {
	return fmt.Sprintf("quic: connection closed %s: %s%s", by(e.Remote), e.Code, because(e.Reason))
}

// ApplicationError says that the connection was closed with an application error code.
type ApplicationError struct {
	Code   uint64
	Reason string
	Remote bool
}

func (e *ApplicationError) Error() string {
	return fmt.Sprintf("quic: connection closed %s: application code 0x%x%s", by(e.Remote), e.Code, because(e.Reason))
}

// StreamError says that one direction of a stream was reset or stopped.
type StreamError struct {
	StreamID uint64
	Code     uint64
	Remote   bool
}

func (e *StreamError) Error() string {
	return fmt.Sprintf("quic: stream %d reset %s: code 0x%x", e.StreamID, by(e.Remote), e.Code)
}

// IdleTimeoutError says that nothing was heard from the peer for the idle timeout (RFC 9000, Section 10.1).
type IdleTimeoutError struct{}

func (*IdleTimeoutError) Error() string   { return "quic: idle timeout: no packet from the peer" }
func (*IdleTimeoutError) Timeout() bool   { return true }
func (*IdleTimeoutError) Temporary() bool { return false }

// HandshakeTimeoutError says that the handshake did not finish in time.
type HandshakeTimeoutError struct{}

func (*HandshakeTimeoutError) Error() string {
	return "quic: handshake timeout: the peer did not answer in time (is UDP open to it?)"
}
func (*HandshakeTimeoutError) Timeout() bool   { return true }
func (*HandshakeTimeoutError) Temporary() bool { return false }

// StatelessResetError says that the peer has lost the connection's state (RFC 9000, Section 10.3).
type StatelessResetError struct{}

func (*StatelessResetError) Error() string {
	return "quic: stateless reset: the peer no longer knows this connection"
}

// VersionError says that the server speaks none of our versions (RFC 9000, Section 6).
type VersionError struct{ Versions []uint32 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("quic: no version in common: the server offers %#x", e.Versions)
}

// AlertError, returned from Config.GetConfigForClient, refuses a client with that TLS alert.
type AlertError struct {
	Alert  uint8
	Reason string // sent to the peer
}

func (e *AlertError) Error() string {
	return fmt.Sprintf("quic: handshake refused: alert %d%s", e.Alert, because(e.Reason))
}

// HandshakeError wraps the Handshaker's reason for a handshake that failed on this side.
type HandshakeError struct {
	Alert uint8
	Err   error
}

func (e *HandshakeError) Error() string { return fmt.Sprintf("quic: handshake failed: %v", e.Err) }
func (e *HandshakeError) Unwrap() error { return e.Err }

// ErrEndpointClosed is returned by methods of a closed Endpoint.
var ErrEndpointClosed = errors.New("quic: endpoint closed")

// errDeadline is what net.Conn asks for when a deadline passes.
var errDeadline = os.ErrDeadlineExceeded

func by(remote bool) string {
	if remote {
		return "by peer"
	}
	return "locally"
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return fmt.Sprintf(" (%q)", reason)
}
