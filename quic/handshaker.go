package quic

import (
	"net/netip"
	"time"
)

// Level is a TLS encryption level as RFC 9001, Section 2.1 lists them.
type Level uint8

// The four encryption levels. LevelEarly carries 0-RTT keys.
const (
	LevelInitial Level = iota
	LevelEarly
	LevelHandshake
	LevelApp
)

func (l Level) String() string {
	switch l {
	case LevelInitial:
		return "initial"
	case LevelEarly:
		return "0-rtt"
	case LevelHandshake:
		return "handshake"
	default:
		return "1-rtt"
	}
}

// A Handshaker runs TLS 1.3 for connections. It is the process boundary of the
// design: an implementation may keep every private key in another process.
//
// Handshake must not block and must not do network or file I/O on the calling
// goroutine. It may call sink before it returns.
type Handshaker interface {
	// Handshake begins one. What comes of it arrives at sink, see HandshakeEvent.
	Handshake(req *HandshakeRequest, sink func(HandshakeEvent)) Handshake
}

// A Handshake is one TLS conversation under way. All methods return at once;
// what they cause arrives at the sink, from any goroutine, one event at a time
// and in order. CRYPTO bytes that precede a key are delivered before that key.
type Handshake interface {
	// Crypto hands over bytes of the peer's CRYPTO stream, in order and
	// without gaps. data is only valid during the call.
	Crypto(level Level, data []byte)
	// TransportParams is a server's answer to EventPeerTransportParams where the
	// request had none: its own parameters, encoded (RFC 9000, Section 18).
	TransportParams(b []byte)
	// Remember says, once the handshake is complete, what belongs to the session
	// tickets to come: the version they are good for, and at a client the server's
	// parameters, which come back with EventEarlyParams.
	Remember(version Version, params []byte)
	// Ticket tells a server's TLS that the client was admitted, so that it
	// may issue a session ticket.
	Ticket()
	// Close ends the conversation and frees what it holds. No event follows
	// that matters; late ones are ignored.
	Close()
}

// HandshakeRequest describes one handshake to a Handshaker.
type HandshakeRequest struct {
	ID              string           // connection id, for logs and audit
	Server          bool             // which side to play
	ServerName      string           // client: the name to verify; server: the name the router saw
	NextProtos      []string         // ALPN: offered by a client, accepted by a server
	TransportParams []byte           // our own, encoded; nil on a server: they follow EventPeerTransportParams
	Crypto          []byte           // server: the ClientHello, valid during the call; Handshake.Crypto goes on behind it
	Remote          netip.AddrPort   // the peer's address
	Timeout         time.Duration    // how long the handshake may take in all
	Options         any              // Config.HandshakeOptions, opaque to this package
	ClientHello     *ClientHelloInfo // server only: what the router parsed

	// Version is that of the client's first flight: sessions of others must not be
	// used (RFC 9369, Section 5).
	Version Version
	// EarlyData has a client offer 0-RTT if it has a session for it, and lets a
	// server accept it. A server must accept each ticket's once only.
	EarlyData bool
	// EarlyLimits are a server's, for its tickets: 0-RTT may only be accepted with a
	// ticket none of whose limits is higher than the one in the same place now
	// (RFC 9000, Section 7.4.1).
	EarlyLimits []uint64
}

// EventKind tells what a HandshakeEvent carries.
type EventKind uint8

// The kinds of handshake events.
const (
	EventCrypto              EventKind = iota + 1 // Level, Data: bytes to send in CRYPTO frames
	EventSecret                                   // Level, Write, Suite, Data: a traffic secret
	EventPeerTransportParams                      // Data: the peer's encoded parameters
	EventDone                                     // TLS: the handshake is complete
	EventFailed                                   // Alert, Err: the handshake failed
	EventEarlyParams                              // Data: what Remember kept; 0-RTT is offered, its key follows
	EventEarlyRejected                            // the server has refused 0-RTT
)

// HandshakeEvent is one step of a handshake, from the Handshaker to the connection.
// Data belongs to the connection once delivered.
type HandshakeEvent struct {
	Kind  EventKind
	Level Level
	Write bool   // EventSecret: true for the sending direction
	Suite uint16 // EventSecret: TLS cipher suite
	Data  []byte
	TLS   *TLSState
	Alert uint8 // EventFailed: TLS alert, 0 if there is none
	Err   error
	More  bool // another event follows at once, so that this one need not be acted on alone

	epoch uint8 // which of a connection's handshakes this belongs to
}

// TLSState is what is known of a finished handshake.
type TLSState struct {
	ServerName string   // the name the client asked for, normalised by TLS
	ALPN       string   // the negotiated protocol
	Version    uint16   // tls.VersionTLS13
	Suite      uint16   // cipher suite
	Chain      [][]byte // the peer's certificates as verified, DER, leaf first; empty: none
	Resumed    bool     // a session ticket was used
	EarlyData  bool     // 0-RTT was accepted
	Exporter   []byte   // EXPORTER-Channel-Binding, 32 bytes (RFC 9266)
	TrustEpoch uint64   // the Handshaker's own number for the trust that Chain was verified by
}

// ClientHelloInfo is what a server's routing may decide on, before TLS runs.
type ClientHelloInfo struct {
	ServerName    string   // as sent, escaped by whoever logs it
	ALPN          []string // in the client's order
	SessionTicket bool     // the hello bears the session_ticket extension (35)
	PSKModes      bool     // the hello bears psk_key_exchange_modes (45): the client can resume in TLS 1.3
	Remote        netip.AddrPort
	Local         netip.AddrPort
}
