package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Transport parameter IDs (RFC 9000, Section 18.2; RFC 9221, Section 3; RFC
// 9287, Section 3; RFC 9368, Section 3).
const (
	paramOriginalDst        = 0x00
	paramMaxIdleTimeout     = 0x01
	paramResetToken         = 0x02
	paramMaxUDPPayload      = 0x03
	paramMaxData            = 0x04
	paramMaxStreamDataBidiL = 0x05
	paramMaxStreamDataBidiR = 0x06
	paramMaxStreamDataUni   = 0x07
	paramMaxStreamsBidi     = 0x08
	paramMaxStreamsUni      = 0x09
	paramAckDelayExponent   = 0x0a
	paramMaxAckDelay        = 0x0b
	paramDisableMigration   = 0x0c
	paramPreferredAddress   = 0x0d
	paramActiveConnIDLimit  = 0x0e
	paramInitialSrc         = 0x0f
	paramRetrySrc           = 0x10
	paramVersionInfo        = 0x11
	paramMaxDatagram        = 0x20
	paramGreaseBit          = 0x2ab2
	paramMinAckDelay        = 0xff04de1b // draft-ietf-quic-ack-frequency
)

// Bounds and defaults of transport parameters (RFC 9000, Section 18.2).
const (
	DefaultMaxUDPPayload     = 65527
	MinMaxUDPPayload         = 1200
	DefaultAckDelayExponent  = 3
	MaxAckDelayExponent      = 20
	DefaultMaxAckDelay       = 25 * time.Millisecond
	DefaultActiveConnIDLimit = 2

	maxAckDelayLimit = 1 << 14 // milliseconds, exclusive
	maxParamsLen     = 1<<16 - 1
)

// TransportParams are the transport parameters of one endpoint (RFC 9000,
// Section 18.2). To send some, start from DefaultTransportParams: a zero
// AckDelayExponent or MaxAckDelay is a value of its own.
type TransportParams struct {
	// Connection IDs of the handshake, which authenticate it (RFC 9000,
	// Section 7.3). OriginalDst and RetrySrc are sent by servers only.
	OriginalDst, InitialSrc, RetrySrc          ConnID
	HasOriginalDst, HasInitialSrc, HasRetrySrc bool

	// MaxIdleTimeout is a multiple of 1 ms; 0 means no timeout.
	MaxIdleTimeout time.Duration

	// ResetToken is the stateless reset token of the connection ID that the
	// server chose in the handshake; servers only.
	ResetToken    [16]byte
	HasResetToken bool

	// MaxUDPPayload is the largest UDP payload in bytes its sender takes, at
	// least 1200; default 65527. 0 when sending: not sent.
	MaxUDPPayload uint64

	// Flow control limits in bytes, and streams per type (0 to MaxStreamCount).
	// BidiLocal is about streams that the sender of the parameters opens.
	InitialMaxData                 uint64
	InitialMaxStreamDataBidiLocal  uint64
	InitialMaxStreamDataBidiRemote uint64
	InitialMaxStreamDataUni        uint64
	InitialMaxStreamsBidi          uint64
	InitialMaxStreamsUni           uint64

	// AckDelayExponent is 0 to 20, default 3.
	AckDelayExponent uint64

	// MaxAckDelay is a multiple of 1 ms below 2^14 ms, default 25 ms.
	MaxAckDelay time.Duration

	// MinAckDelay is min_ack_delay: its sender can wait for so long before it
	// acknowledges, if it is asked to (AckFrequency); a multiple of 1 us, at most
	// MaxAckDelay. 0: it takes no such requests.
	MinAckDelay time.Duration

	DisableActiveMigration bool

	// PreferredAddress is where the server would rather be talked to; servers
	// only, nil if not sent.
	PreferredAddress *PreferredAddress

	// ActiveConnIDLimit is how many connection IDs its sender stores, at least
	// 2, which is the default. 0 when sending: not sent.
	ActiveConnIDLimit uint64

	// MaxDatagram is max_datagram_frame_size (RFC 9221): the largest DATAGRAM
	// frame in bytes its sender takes, with type and length; 0: none.
	MaxDatagram uint64

	// GreaseBit is grease_quic_bit (RFC 9287): its sender takes packets whose
	// QUIC bit is 0.
	GreaseBit bool

	// VersionInfo is the value of version_information (RFC 9368), nil if not
	// sent; see ParseVersionInfo.
	VersionInfo []byte

	// GreaseID and GreaseData make Append add the reserved parameter
	// 31*GreaseID+27, so that peers stay used to ignoring what they do not
	// know. 0: none. Parsing leaves them alone.
	GreaseID   uint64
	GreaseData []byte
}

// PreferredAddress is a server's preferred_address. An address family that is
// not given is the zero AddrPort. ID has 1 to 20 bytes.
type PreferredAddress struct {
	IPv4, IPv6 netip.AddrPort
	ID         ConnID
	ResetToken [16]byte
}

// DefaultTransportParams returns what an endpoint gets that sends an empty
// block: the defaults of RFC 9000, Section 18.2.
func DefaultTransportParams() TransportParams {
	return TransportParams{
		MaxUDPPayload:     DefaultMaxUDPPayload,
		AckDelayExponent:  DefaultAckDelayExponent,
		MaxAckDelay:       DefaultMaxAckDelay,
		ActiveConnIDLimit: DefaultActiveConnIDLimit,
	}
}

// Append appends the value of the quic_transport_parameters TLS extension.
// Parameters that equal their default are left out. isServer says who sends:
// a client's block never has the parameters that only servers may send.
//
// RFC 9000, Section 7.4: "An endpoint MUST NOT send a parameter more than once
// in a given transport parameters extension."
func (p *TransportParams) Append(b []byte, isServer bool) []byte {
	if isServer {
		b = p.appendServerOnly(b)
	}
	if p.HasInitialSrc {
		b = appendConnIDParam(b, paramInitialSrc, p.InitialSrc)
	}
	b = appendUintParam(b, paramMaxIdleTimeout, uint64(p.MaxIdleTimeout/time.Millisecond), 0)
	if p.MaxUDPPayload != 0 {
		b = appendUintParam(b, paramMaxUDPPayload, p.MaxUDPPayload, DefaultMaxUDPPayload)
	}
	b = appendUintParam(b, paramMaxData, p.InitialMaxData, 0)
	b = appendUintParam(b, paramMaxStreamDataBidiL, p.InitialMaxStreamDataBidiLocal, 0)
	b = appendUintParam(b, paramMaxStreamDataBidiR, p.InitialMaxStreamDataBidiRemote, 0)
	b = appendUintParam(b, paramMaxStreamDataUni, p.InitialMaxStreamDataUni, 0)
	b = appendUintParam(b, paramMaxStreamsBidi, p.InitialMaxStreamsBidi, 0)
	b = appendUintParam(b, paramMaxStreamsUni, p.InitialMaxStreamsUni, 0)
	b = appendUintParam(b, paramAckDelayExponent, p.AckDelayExponent, DefaultAckDelayExponent)
	b = appendUintParam(b, paramMaxAckDelay, uint64(p.MaxAckDelay/time.Millisecond), uint64(DefaultMaxAckDelay/time.Millisecond))
	b = appendUintParam(b, paramMinAckDelay, uint64(p.MinAckDelay/time.Microsecond), 0)
	if p.DisableActiveMigration {
		b = appendBytesParam(b, paramDisableMigration, nil)
	}
	if p.ActiveConnIDLimit != 0 {
		b = appendUintParam(b, paramActiveConnIDLimit, p.ActiveConnIDLimit, DefaultActiveConnIDLimit)
	}
	b = appendUintParam(b, paramMaxDatagram, p.MaxDatagram, 0)
	if p.GreaseBit {
		b = appendBytesParam(b, paramGreaseBit, nil)
	}
	if p.VersionInfo != nil {
		b = appendBytesParam(b, paramVersionInfo, p.VersionInfo)
	}
	// RFC 9000, Section 18.1: "Transport parameters with an identifier of the
	// form 31 * N + 27 for integer values of N are reserved to exercise the
	// requirement that unknown transport parameters be ignored."
	if p.GreaseID != 0 {
		b = appendBytesParam(b, 31*(p.GreaseID%(MaxVarint/31-1))+27, p.GreaseData)
	}
	return b
}

// appendServerOnly appends what clients must not send.
//
// RFC 9000, Section 18.2: "This transport parameter MUST NOT be sent by a
// client but MAY be sent by a server."
func (p *TransportParams) appendServerOnly(b []byte) []byte {
	if p.HasOriginalDst {
		b = appendConnIDParam(b, paramOriginalDst, p.OriginalDst)
	}
	if p.HasResetToken {
		b = appendBytesParam(b, paramResetToken, p.ResetToken[:])
	}
	if p.HasRetrySrc {
		b = appendConnIDParam(b, paramRetrySrc, p.RetrySrc)
	}
	if a := p.PreferredAddress; a != nil {
		b = AppendVarint(b, paramPreferredAddress)
		b = AppendVarint(b, uint64(preferredAddressFixed+a.ID.Len()))
		b = a.append(b)
	}
	return b
}

func appendUintParam(b []byte, id, v, def uint64) []byte {
	if v == def {
		return b
	}
	b = AppendVarint(b, id)
	b = AppendVarint(b, uint64(VarintLen(v)))
	return AppendVarint(b, v)
}

func appendBytesParam(b []byte, id uint64, data []byte) []byte {
	return appendVarintBytes(AppendVarint(b, id), data)
}

func appendConnIDParam(b []byte, id uint64, c ConnID) []byte {
	return appendBytesParam(b, id, c.b[:c.n])
}

// preferredAddressFixed is the length of a preferred_address without its
// connection ID: two addresses with ports, a length, a reset token.
const preferredAddressFixed = 4 + 2 + 16 + 2 + 1 + 16

func (a *PreferredAddress) append(b []byte) []byte {
	var ip4 [4]byte
	var ip6 [16]byte
	if a.IPv4.Addr().Is4() {
		ip4 = a.IPv4.Addr().As4()
	}
	if a.IPv6.Addr().Is6() {
		ip6 = a.IPv6.Addr().As16()
	}
	b = append(b, ip4[:]...)
	b = binary.BigEndian.AppendUint16(b, a.IPv4.Port())
	b = append(b, ip6[:]...)
	b = binary.BigEndian.AppendUint16(b, a.IPv6.Port())
	b = a.ID.Append(append(b, a.ID.n))
	return append(b, a.ResetToken[:]...)
}

// parsePreferredAddress reads RFC 9000, Figure 22.
func parsePreferredAddress(v []byte) (*PreferredAddress, error) {
	const idLenAt = 4 + 2 + 16 + 2
	if len(v) < preferredAddressFixed || len(v) != preferredAddressFixed+int(v[idLenAt]) {
		return nil, fmt.Errorf("wrong length %d", len(v))
	}
	a := new(PreferredAddress)
	// RFC 9000, Section 18.2: "Servers MAY choose to only send a preferred
	// address of one address family by sending an all-zero address and port
	// (0.0.0.0:0 or [::]:0) for the other family."
	ip4 := netip.AddrFrom4([4]byte(v[:4]))
	port4 := binary.BigEndian.Uint16(v[4:])
	if !ip4.IsUnspecified() || port4 != 0 {
		a.IPv4 = netip.AddrPortFrom(ip4, port4)
	}
	ip6 := netip.AddrFrom16([16]byte(v[6:22]))
	port6 := binary.BigEndian.Uint16(v[22:])
	if !ip6.IsUnspecified() || port6 != 0 {
		a.IPv6 = netip.AddrPortFrom(ip6, port6)
	}
	// RFC 9000, Section 18.2: "A server MUST NOT include a zero-length
	// connection ID in this transport parameter. A client MUST treat a
	// violation of these requirements as a connection error of type
	// TRANSPORT_PARAMETER_ERROR."
	end := idLenAt + 1 + int(v[idLenAt])
	var ok bool
	if a.ID, ok = MakeConnID(v[idLenAt+1 : end]); !ok || a.ID.Len() == 0 {
		return nil, fmt.Errorf("connection ID of %d bytes, want 1 to %d", v[idLenAt], MaxConnIDLen)
	}
	copy(a.ResetToken[:], v[end:])
	return a, nil
}

var (
	errParamTruncated  = errors.New("truncated")
	errParamServerOnly = errors.New("sent by a client, servers only")
	errParamDuplicate  = errors.New("sent twice")
)

// ParseTransportParams reads the value of the quic_transport_parameters TLS
// extension, which a server sent if fromServer. Parameters that are missing
// have their default. Any error is a TRANSPORT_PARAMETER_ERROR.
//
// RFC 9000, Section 7.4: "An endpoint MUST treat receipt of a transport
// parameter with an invalid value as a connection error of type
// TRANSPORT_PARAMETER_ERROR." "An endpoint SHOULD treat receipt of duplicate
// transport parameters as a connection error of type
// TRANSPORT_PARAMETER_ERROR."
//
// Which connection IDs must be there depends on the handshake: whoever knows it checks.
// VersionInfo is a copy; nothing in the result aliases b.
func ParseTransportParams(b []byte, fromServer bool) (TransportParams, error) {
	p := DefaultTransportParams()
	if len(b) > maxParamsLen {
		return p, fmt.Errorf("quic/wire: transport parameters of %d bytes, a TLS extension has at most %d", len(b), maxParamsLen)
	}
	var seen uint64      // a bit for each ID below 64
	var unknown []uint64 // the other IDs, which are rare
	for len(b) > 0 {
		id, n := ConsumeVarint(b)
		if n < 0 {
			return p, paramError(0, errParamTruncated)
		}
		value, m := consumeVarintBytes(b[n:])
		if m < 0 {
			return p, paramError(id, errParamTruncated)
		}
		b = b[n+m:]
		if id >= 64 {
			unknown = append(unknown, id)
		} else if seen>>id&1 != 0 {
			return p, paramError(id, errParamDuplicate)
		} else {
			seen |= 1 << id
		}
		if err := p.set(id, value, fromServer); err != nil {
			return p, paramError(id, err)
		}
	}
	// draft-ietf-quic-ack-frequency, Section 3: a min_ack_delay above max_ack_delay
	// is a TRANSPORT_PARAMETER_ERROR.
	if p.MinAckDelay > p.MaxAckDelay {
		return p, paramError(paramMinAckDelay, fmt.Errorf("%v is above max_ack_delay, %v", p.MinAckDelay, p.MaxAckDelay))
	}
	// Sorting keeps the check at n log n for a peer that sends thousands.
	slices.Sort(unknown)
	for i := 1; i < len(unknown); i++ {
		if unknown[i] == unknown[i-1] {
			return p, paramError(unknown[i], errParamDuplicate)
		}
	}
	return p, nil
}

func paramError(id uint64, err error) error {
	return fmt.Errorf("quic/wire: transport parameter 0x%02x: %w", id, err)
}

// set stores one received parameter.
func (p *TransportParams) set(id uint64, v []byte, fromServer bool) (err error) {
	switch id {
	case paramOriginalDst, paramResetToken, paramPreferredAddress, paramRetrySrc:
		// RFC 9000, Section 18.2: "A client MUST NOT include any server-only
		// transport parameter: original_destination_connection_id,
		// preferred_address, retry_source_connection_id, or
		// stateless_reset_token. A server MUST treat receipt of any of these
		// transport parameters as a connection error of type
		// TRANSPORT_PARAMETER_ERROR."
		if !fromServer {
			return errParamServerOnly
		}
		return p.setServerOnly(id, v)
	case paramInitialSrc:
		p.HasInitialSrc = true
		p.InitialSrc, err = connIDParam(v)
	case paramMaxIdleTimeout:
		var ms uint64
		ms, err = uintParam(v, 0, MaxVarint)
		// A timeout of more than 292 years is as good as 292 years.
		p.MaxIdleTimeout = time.Duration(min(ms, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
	case paramMaxUDPPayload:
		// RFC 9000, Section 18.2: "Values below 1200 are invalid."
		p.MaxUDPPayload, err = uintParam(v, MinMaxUDPPayload, MaxVarint)
	case paramMaxData:
		p.InitialMaxData, err = uintParam(v, 0, MaxVarint)
	case paramMaxStreamDataBidiL:
		p.InitialMaxStreamDataBidiLocal, err = uintParam(v, 0, MaxVarint)
	case paramMaxStreamDataBidiR:
		p.InitialMaxStreamDataBidiRemote, err = uintParam(v, 0, MaxVarint)
	case paramMaxStreamDataUni:
		p.InitialMaxStreamDataUni, err = uintParam(v, 0, MaxVarint)
	case paramMaxStreamsBidi:
		// RFC 9000, Section 4.6: "the connection MUST be closed immediately with
		// a connection error of type TRANSPORT_PARAMETER_ERROR if the offending
		// value was received in a transport parameter"
		p.InitialMaxStreamsBidi, err = uintParam(v, 0, MaxStreamCount)
	case paramMaxStreamsUni:
		p.InitialMaxStreamsUni, err = uintParam(v, 0, MaxStreamCount)
	case paramAckDelayExponent:
		// RFC 9000, Section 18.2: "Values above 20 are invalid."
		p.AckDelayExponent, err = uintParam(v, 0, MaxAckDelayExponent)
	case paramMaxAckDelay:
		// RFC 9000, Section 18.2: "Values of 2^14 or greater are invalid."
		var ms uint64
		ms, err = uintParam(v, 0, maxAckDelayLimit-1)
		p.MaxAckDelay = time.Duration(ms) * time.Millisecond
	case paramMinAckDelay:
		var us uint64
		us, err = uintParam(v, 1, 1<<24)
		p.MinAckDelay = time.Duration(us) * time.Microsecond
	case paramDisableMigration:
		p.DisableActiveMigration = true
		err = emptyParam(v)
	case paramActiveConnIDLimit:
		// RFC 9000, Section 18.2: "The value of the active_connection_id_limit
		// parameter MUST be at least 2. An endpoint that receives a value less
		// than 2 MUST close the connection with an error of type
		// TRANSPORT_PARAMETER_ERROR."
		p.ActiveConnIDLimit, err = uintParam(v, 2, MaxVarint)
	case paramMaxDatagram:
		p.MaxDatagram, err = uintParam(v, 0, MaxVarint)
	case paramGreaseBit:
		// RFC 9287, Section 3: "an endpoint that understands this transport
		// parameter MUST treat receipt of a non-empty value of the transport
		// parameter as a connection error of type TRANSPORT_PARAMETER_ERROR."
		p.GreaseBit = true
		err = emptyParam(v)
	case paramVersionInfo:
		if _, err = ParseVersionInfo(v, fromServer); err == nil {
			p.VersionInfo = append([]byte{}, v...)
		}
	}
	// RFC 9000, Section 7.4.2: "An endpoint MUST ignore transport parameters
	// that it does not support."
	return err
}

func (p *TransportParams) setServerOnly(id uint64, v []byte) (err error) {
	switch id {
	case paramOriginalDst:
		p.HasOriginalDst = true
		p.OriginalDst, err = connIDParam(v)
	case paramRetrySrc:
		p.HasRetrySrc = true
		p.RetrySrc, err = connIDParam(v)
	case paramResetToken:
		if len(v) != len(p.ResetToken) {
			return fmt.Errorf("%d bytes, want %d", len(v), len(p.ResetToken))
		}
		p.HasResetToken = true
		copy(p.ResetToken[:], v)
	case paramPreferredAddress:
		p.PreferredAddress, err = parsePreferredAddress(v)
	}
	return err
}

// uintParam reads a value that is one integer of lo to hi and nothing else.
func uintParam(v []byte, lo, hi uint64) (uint64, error) {
	x, n := ConsumeVarint(v)
	if n != len(v) {
		return 0, fmt.Errorf("value of %d bytes is not one integer", len(v))
	}
	if x < lo || x > hi {
		return 0, fmt.Errorf("value %d is not in %d to %d", x, lo, hi)
	}
	return x, nil
}

func connIDParam(v []byte) (ConnID, error) {
	c, ok := MakeConnID(v)
	if !ok {
		return c, fmt.Errorf("connection ID of %d bytes, want at most %d", len(v), MaxConnIDLen)
	}
	return c, nil
}

func emptyParam(v []byte) error {
	if len(v) != 0 {
		return fmt.Errorf("value of %d bytes, want none", len(v))
	}
	return nil
}
