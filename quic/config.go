package quic

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/qlog"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
)

// RetryMode says when a server validates addresses with Retry packets (RFC 9000, Section 8.1.2).
type RetryMode uint8

// Retry modes.
const (
	RetryNever RetryMode = iota
	RetryAlways
	RetryAuto // while a quarter of MaxHandshakes are under way, or more than RetryAbove begin in a second
)

// Congestion is a congestion control algorithm.
type Congestion = recovery.Algorithm

// Congestion control algorithms (docs/quic-recovery.md).
const (
	CUBIC   = recovery.CUBIC
	NewReno = recovery.NewReno
	BBR     = recovery.BBR
)

// ParseCongestion returns the algorithm of that name: newreno, cubic or bbr.
func ParseCongestion(name string) (Congestion, error) { return recovery.ParseAlgorithm(name) }

// Config configures the connections of an Endpoint. The zero value of each
// field is its default. A Config must not be changed once in use.
type Config struct {
	Handshaker       Handshaker // required
	HandshakeOptions any        // handed to the Handshaker as it is
	ServerName       string     // client: the name in SNI and to be verified
	NextProtos       []string   // ALPN protocols: offered, or accepted
	Tag              any        // the owner's own, for example its route

	// Versions are the QUIC versions to use, best first; nil: Version1, Version2. A
	// client begins with the first and offers all. A server takes its own best of
	// what the client offers (RFC 9368); those of the Config that the ClientHello
	// chose count, if they are among those of the endpoint's.
	Versions []Version

	// FirstVersion is what a client begins with, one of Versions: an older one
	// reaches every server, and those that know better go on in that (RFC 9368). 0: the
	// first of Versions.
	FirstVersion Version

	// NoGrease leaves out what exercises the peer: reserved versions and transport
	// parameters stay, but the QUIC bit is always 1 and must be (RFC 9287).
	NoGrease bool

	// GetConfigForClient chooses the Config of one client by its ClientHello.
	// It runs under the connection's lock: it must be quick and do no I/O.
	// An *AlertError refuses with that alert, a *TransportError with that code,
	// any other error with no_application_protocol.
	GetConfigForClient func(*ClientHelloInfo) (*Config, error)

	// ManualAdmit holds a server's connection after TLS: HANDSHAKE_DONE,
	// session tickets and incoming streams wait for Conn.Admit.
	ManualAdmit bool

	// EarlyData lets a server accept 0-RTT: for protocols only that can bear requests
	// that are repeated, because what arrives that way is handed out before the
	// client has shown that it is there now. Accept then returns a connection before
	// its handshake is complete, and Conn.TLS is nil until it is (Conn.Wait). With
	// ManualAdmit the data waits for Admit instead. Both the endpoint's Config and
	// the one that GetConfigForClient chose need to have it.
	EarlyData bool

	// PreferredAddress is where a server asks its clients to go after the handshake;
	// its socket must receive what is sent there. A family that is not used is left
	// zero.
	PreferredAddress struct{ IPv4, IPv6 netip.AddrPort }

	// DisableActiveMigration tells clients not to change their address, and drops
	// what they send from another one. A NAT may still give them another port.
	DisableActiveMigration bool

	// StayAtAddress has a client ignore a server's preferred address.
	StayAtAddress bool

	MaxIdleTimeout   time.Duration // default 30 s
	KeepAlive        time.Duration // send PING when idle for so long; 0: never
	HandshakeTimeout time.Duration // default 10 s
	InitialRTT       time.Duration // default 333 ms (RFC 9002, Section 6.2.2)

	Congestion Congestion // congestion control; default CUBIC

	StreamWindow    int64 // initial receive window of a stream, default 512 KiB
	MaxStreamWindow int64 // auto-tuned up to this, default 16 MiB
	ConnWindow      int64 // initial receive window of a connection, default 1 MiB
	MaxConnWindow   int64 // auto-tuned up to this, default 32 MiB
	MaxStreamsBidi  int64 // streams the peer may have open, default 100; negative: none
	MaxStreamsUni   int64 // default 100; negative: none

	// MaxDatagramFrame is the largest DATAGRAM frame the peer may send, in bytes with
	// its type and length (RFC 9221); 0: none. Every peer that takes any gets some.
	MaxDatagramFrame int

	// OutOfOrderPending and OutOfOrder cap the bytes held behind a gap, by
	// capacity of the buffers: before the connection is admitted (default
	// 1 MiB), and after (default 4 MiB).
	OutOfOrderPending int
	OutOfOrder        int

	// MaxUDPPayload is the largest datagram to send, and the largest the peer
	// is asked to send, in bytes. 0 tries 1452 and keeps to 1200 where that
	// does not pass, and takes from the peer whatever it sends.
	MaxUDPPayload int

	Retry         RetryMode
	MaxHandshakes int // handshakes under way at once on a server, default 1024
	AcceptBacklog int // connections waiting for Accept, default 1024
	RetryAbove    int // handshakes a second; 0: their rate does not matter

	// AddressKeys seal the tokens of Retry packets and NEW_TOKEN frames: the first
	// makes them, all open them. Nodes that share an address share the keys. nil:
	// made at start and changed every 12 hours. NEW_TOKEN is sent unless Retry is
	// RetryNever.
	AddressKeys [][32]byte

	// ResetKey is what stateless reset tokens are derived from; nil: the last of
	// AddressKeys, or made at start. It counts when the Endpoint is made.
	ResetKey *[32]byte

	// Tokens keeps a client's NEW_TOKEN tokens for its next connection to the same
	// ServerName; nil: they are not kept.
	Tokens *TokenStore

	Logger *slog.Logger // nil: silent

	// Qlog makes a trace of each connection, or of some. nil: of none. Whoever
	// opened it closes it, after the Endpoint.
	Qlog *qlog.Tracer
}

// Limits and defaults that are not configuration.
const (
	minDatagram        = 1200      // RFC 9000, Section 14.1
	defaultMaxDatagram = 1452      // Ethernet's 1500 less IPv6 and UDP headers
	maxDatagramSize    = 65507     // what IPv4 UDP carries
	maxCryptoBuffer    = 64 << 10  // CRYPTO bytes ahead of what TLS has taken
	maxCryptoPost      = 64 << 10  // CRYPTO bytes after the handshake, in all
	maxEarlyPackets    = 32        // packets waiting for their keys
	maxEarlyBytes      = 64 << 10  // and their bytes
	maxReasonLen       = 1 << 10   // of a peer's reason phrase kept
	localConnIDLimit   = 4         // active_connection_id_limit we offer
	maxUnsent          = 256 << 10 // stream bytes written and not yet sent
	localMaxAckDelay   = 25 * time.Millisecond
)

func orDefault[T int | int64 | time.Duration](v, d T) T {
	if v == 0 {
		return d
	}
	return v
}

func (c *Config) idleTimeout() time.Duration { return orDefault(c.MaxIdleTimeout, 30*time.Second) }
func (c *Config) handshakeTimeout() time.Duration {
	return orDefault(c.HandshakeTimeout, 10*time.Second)
}
func (c *Config) initialRTT() time.Duration { return orDefault(c.InitialRTT, 333*time.Millisecond) }
func (c *Config) streamWindow() int64       { return orDefault(c.StreamWindow, 512<<10) }
func (c *Config) maxStreamWindow() int64 {
	return max(orDefault(c.MaxStreamWindow, 16<<20), c.streamWindow())
}
func (c *Config) connWindow() int64 { return orDefault(c.ConnWindow, 1<<20) }
func (c *Config) maxConnWindow() int64 {
	return max(orDefault(c.MaxConnWindow, 32<<20), c.connWindow())
}
func (c *Config) streamsBidi() int64 { return max(orDefault(c.MaxStreamsBidi, 100), 0) }
func (c *Config) streamsUni() int64  { return max(orDefault(c.MaxStreamsUni, 100), 0) }
func (c *Config) outOfOrder(admitted bool) int {
	if admitted {
		return orDefault(c.OutOfOrder, 4<<20)
	}
	return orDefault(c.OutOfOrderPending, 1<<20)
}
func (c *Config) maxHandshakes() int { return orDefault(c.MaxHandshakes, 1024) }
func (c *Config) acceptBacklog() int { return orDefault(c.AcceptBacklog, 1024) }
func (c *Config) maxDatagram() int {
	return min(max(orDefault(c.MaxUDPPayload, defaultMaxDatagram), minDatagram), maxDatagramSize)
}

// maxReceived is the max_udp_payload_size transport parameter.
func (c *Config) maxReceived() uint64 {
	if c.MaxUDPPayload == 0 {
		return maxDatagramSize
	}
	return uint64(c.maxDatagram())
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}
