package tlshd

import (
	"net/netip"
	"time"
)

// Level is a QUIC encryption level. The numbers are those of the quic package.
type Level uint8

// The encryption levels.
const (
	LevelInitial Level = iota
	LevelEarly
	LevelHandshake
	LevelApp
	numLevels
)

// HandlerClass says which agent a request is for, as in net/handshake.
type HandlerClass uint8

// The handler classes of net/handshake.
const (
	HandlerNone  HandlerClass = 0
	HandlerTLSHD HandlerClass = 1
)

// MessageType says which side of the handshake the helper plays.
type MessageType uint8

// The message types of net/handshake.
const (
	MessageUnspec      MessageType = 0
	MessageClientHello MessageType = 1 // the helper is the client
	MessageServerHello MessageType = 2 // the helper is the server
)

// AuthMode says how the peer is authenticated. In a request to be the server it
// says whether the client is asked for a certificate, in a result whether the
// peer has shown one that was verified.
type AuthMode uint8

// The authentication modes of net/handshake. PSK with external keys does not
// exist in crypto/tls and is refused with StatusEINVAL.
const (
	AuthUnspec AuthMode = 0
	AuthUnauth AuthMode = 1
	AuthPSK    AuthMode = 2
	AuthX509   AuthMode = 3
)

// ClientCertMode is what an access rule wants of a client's certificate.
type ClientCertMode uint8

// The client certificate modes. The zero value is the strictest.
const (
	ClientCertRequired ClientCertMode = iota // none given: the handshake fails
	ClientCertOptional                       // none given: anonymous; one given must pass
	ClientCertNone                           // never asked for
)

// Options are the part of a Request that the route decides.
type Options struct {
	// Route names the route. Session tickets are good on the route that issued
	// them only.
	Route string
	// Policy identifies the owner's rules for this route, a hash of them for
	// one. Tickets issued under another value are refused. The helper adds its
	// own: CAs, revocation lists, mode.
	Policy string
	// ClientCert is for servers.
	ClientCert ClientCertMode
	// CASet names one of Config.ClientCASets; "": Config.ClientCA.
	CASet string
}

// Request asks for one handshake.
type Request struct {
	ID     string // for logs, at most 128 bytes are kept
	Server bool   // the helper plays the server
	// ServerName: a client's name to ask for and to verify. A server's is the
	// name its route was chosen by: if it is not empty and crypto/tls reads
	// another one, the handshake is refused.
	ServerName string
	// NextProtos are what a client offers, or what a server takes, in order of
	// preference. At least one.
	NextProtos []string
	// TransportParams are our own. A server that does not know the client's yet
	// has none, and gives them when it does: Handshake.TransportParams.
	TransportParams []byte
	// Crypto is what a server has of the client's CRYPTO stream at LevelInitial.
	// Handshake.Crypto goes on behind it.
	Crypto  []byte
	Remote  netip.AddrPort
	Timeout time.Duration // 0: 10 s
	Options Options

	// Version is the QUIC version of the client's first flight: sessions of others
	// are not used.
	Version uint32
	// EarlyData: a client offers 0-RTT if there is a session for it. A server's
	// tickets allow it, and it is accepted once for each. Never on "smb" and "sunrpc".
	EarlyData bool
	// EarlyLimits are a server's at present, at most 16: 0-RTT is refused to a ticket
	// that was issued under a higher one in the same place. None: it is refused.
	EarlyLimits []uint64
}

// EventKind says what an Event is.
type EventKind uint8

// The events, in the order of a handshake.
const (
	EventCrypto              EventKind = iota + 1 // Level, Data: bytes for CRYPTO frames
	EventSecret                                   // Level, Write, Suite, Data: a traffic secret
	EventPeerTransportParams                      // Data; a server then owes TransportParams, unless it gave them at the start
	EventDone                                     // State
	EventFailed                                   // Alert, Err; the last event
	EventEarlyParams                              // Data: what Remember kept; 0-RTT is offered, its key follows
	EventEarlyRejected                            // the server has refused 0-RTT
)

// Event is one thing that happened in a handshake. Events come in the order in
// which they have to be acted on: CRYPTO data that precedes a key comes before
// the key. Data belongs to the receiver, who zeroes a secret after use.
type Event struct {
	Kind  EventKind
	Level Level
	Write bool // EventSecret: the key protects what we send
	Suite uint16
	Data  []byte
	State *State
	Alert uint8
	Err   error // wraps *Error
	// More: the next event is here, too, and follows at once. It need not be
	// waited for: a handshake that is closed has no more events.
	More bool
}

// State is the result of a handshake.
type State struct {
	Version    uint16 // tls.VersionTLS13
	Suite      uint16
	ServerName string // as crypto/tls read it, lower-case, no trailing dot
	ALPN       string
	Auth       AuthMode // AuthX509: Chain was verified; AuthUnauth: the peer is anonymous
	Chain      [][]byte // DER, leaf first, root last, as verified; empty: no certificate
	Resumed    bool
	Exporter   []byte // EXPORTER-Channel-Binding (RFC 9266), 32 bytes
	// Group is the key exchange, 0 on a resumption without one.
	Group uint16
	// Epoch is Client.Epoch of the trust that the chain was verified by; 0: an
	// earlier one, and the chain has to be verified again.
	Epoch uint64
}
