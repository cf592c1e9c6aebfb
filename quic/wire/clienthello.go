package wire

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// TLS numbers that routing needs (RFC 8446; RFC 6066; RFC 7301; RFC 9001).
const (
	tlsClientHello = 1

	extServerName        = 0
	extALPN              = 16
	extSessionTicket     = 35
	extPreSharedKey      = 41
	extEarlyData         = 42
	extSupportedVersions = 43
	extPSKModes          = 45
	extTransportParams   = 0x39

	alertUnexpectedMessage = 10
	alertIllegalParameter  = 47
	alertDecodeError       = 50
	alertProtocolVersion   = 70
	alertMissingExtension  = 109
)

// MaxClientHello is the largest ClientHello in bytes, header included, that
// ParseClientHello waits for. One with post-quantum key shares has 2 KiB.
const MaxClientHello = 64 << 10

// ClientHello is what routing reads of a TLS ClientHello before the TLS
// library sees it. Whatever is decided on it has to be compared with the
// outcome of the handshake: the two read the bytes independently.
type ClientHello struct {
	// ServerName is the host name as sent: 1 to 255 printable ASCII characters
	// in any letter case, without a trailing dot. Empty unless HasSNI.
	ServerName string
	HasSNI     bool

	// ALPN lists the application protocols in the client's order, each of 1 to
	// 255 arbitrary bytes (quote them for logs); nil without the extension.
	ALPN []string

	SessionTicket bool // session_ticket (35) present, a TLS 1.2 ticket
	PSKModes      bool // psk_key_exchange_modes (45) present
	PreSharedKey  bool // pre_shared_key (41) present: the client wants to resume
	EarlyData     bool // early_data (42) present: the client sends 0-RTT

	// TransportParams is the value of quic_transport_parameters (0x39), which
	// aliases the input; nil if the extension is missing.
	TransportParams []byte

	// SupportedVersions and CipherSuites are in the client's order and may have
	// GREASE values.
	SupportedVersions []uint16
	CipherSuites      []uint16
}

// HelloError says why a ClientHello is refused and with which TLS alert.
type HelloError struct {
	Alert  uint8
	Reason string
}

// Error returns the reason; it has no bytes of the peer in it.
func (e *HelloError) Error() string { return "quic/wire: ClientHello: " + e.Reason }

func helloError(alert uint8, format string, args ...any) error {
	return &HelloError{Alert: alert, Reason: fmt.Sprintf(format, args...)}
}

// ParseClientHello reads the TLS ClientHello at the start of a CRYPTO stream,
// of which b is what has arrived so far without gaps. complete is false while
// more is needed, which is never asked for beyond MaxClientHello bytes. It is
// strict: every length has to be exact, no extension may be there twice, and
// nothing may follow the ClientHello. Errors are *HelloError.
func ParseClientHello(b []byte) (ch ClientHello, complete bool, err error) {
	if len(b) == 0 {
		return ch, false, nil
	}
	// RFC 9001, Section 8.3 and RFC 8446, Section 4: a handshake begins with a
	// ClientHello and nothing else.
	if b[0] != tlsClientHello {
		return ch, false, helloError(alertUnexpectedMessage, "handshake begins with message type %d", b[0])
	}
	if len(b) < 4 {
		return ch, false, nil
	}
	size := 4 + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
	if size > MaxClientHello {
		return ch, false, helloError(alertIllegalParameter, "%d bytes, at most %d are taken", size, MaxClientHello)
	}
	if len(b) < size {
		return ch, false, nil
	}
	if len(b) > size {
		return ch, false, helloError(alertUnexpectedMessage, "%d bytes follow it", len(b)-size)
	}
	if err := ch.parse(b[4:size:size]); err != nil {
		return ClientHello{}, false, err
	}
	return ch, true, nil
}

// reader takes fields off a TLS structure. After the first field that does
// not fit, bad is set and everything reads as empty.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) uint8() int {
	if v := r.bytes(1); len(v) == 1 {
		return int(v[0])
	}
	return 0
}

func (r *reader) uint16() int {
	if v := r.bytes(2); len(v) == 2 {
		return int(binary.BigEndian.Uint16(v))
	}
	return 0
}

// vector8 and vector16 read a vector with a length of one or two bytes.
func (r *reader) vector8() []byte  { return r.bytes(r.uint8()) }
func (r *reader) vector16() []byte { return r.bytes(r.uint16()) }

// done reports whether everything was well-formed and used up.
func (r *reader) done() bool { return !r.bad && len(r.b) == 0 }

// parse reads the body of a ClientHello (RFC 8446, Section 4.1.2).
//
// RFC 9001, Section 5.3: "An endpoint MUST NOT reject a ClientHello that offers
// a cipher suite that it does not support, or it would be impossible to deploy
// a new cipher suite."
func (ch *ClientHello) parse(body []byte) error {
	r := reader{b: body}
	version := r.uint16()
	r.bytes(32) // random
	sessionID := r.vector8()
	suites := r.vector16()
	compression := r.vector8()
	extensions := r.vector16()
	if !r.done() {
		return helloError(alertDecodeError, "fields do not add up to its length")
	}
	// RFC 8446, Section 4.1.2: "In TLS 1.3, the client indicates its version
	// preferences in the "supported_versions" extension (Section 4.2.1) and the
	// legacy_version field MUST be set to 0x0303"
	if version != 0x0303 {
		return helloError(alertProtocolVersion, "legacy version 0x%04x", version)
	}
	// RFC 9001, Section 8.4: "A server SHOULD treat the receipt of a TLS
	// ClientHello with a non-empty legacy_session_id field as a connection
	// error of type PROTOCOL_VIOLATION."
	if len(sessionID) != 0 {
		return helloError(alertIllegalParameter, "legacy session ID is not empty")
	}
	if len(suites) == 0 || len(suites)%2 != 0 {
		return helloError(alertDecodeError, "cipher suites take %d bytes", len(suites))
	}
	// RFC 8446, Section 4.1.2: "For every TLS 1.3 ClientHello, this vector MUST
	// contain exactly one byte, set to zero, which corresponds to the "null"
	// compression method in prior versions of TLS."
	if len(compression) != 1 || compression[0] != 0 {
		return helloError(alertIllegalParameter, "compression is offered")
	}
	ch.CipherSuites = uint16s(suites)
	return ch.parseExtensions(extensions)
}

// uint16s reads big-endian numbers; len(b) is even.
func uint16s(b []byte) []uint16 {
	v := make([]uint16, len(b)/2)
	for i := range v {
		v[i] = binary.BigEndian.Uint16(b[2*i:])
	}
	return v
}

func (ch *ClientHello) parseExtensions(b []byte) error {
	r := reader{b: b}
	var types []int
	for len(r.b) > 0 {
		typ := r.uint16()
		data := r.vector16()
		if r.bad {
			return helloError(alertDecodeError, "extension %d is longer than the list", typ)
		}
		// RFC 8446, Section 4.2.11: "The "pre_shared_key" extension MUST be the
		// last extension in the ClientHello"
		if ch.PreSharedKey {
			return helloError(alertIllegalParameter, "extension %d follows pre_shared_key", typ)
		}
		types = append(types, typ)
		if err := ch.parseExtension(typ, data); err != nil {
			return err
		}
	}
	// RFC 8446, Section 4.2: "There MUST NOT be more than one extension of the
	// same type in a given extension block."
	slices.Sort(types)
	for i := 1; i < len(types); i++ {
		if types[i] == types[i-1] {
			return helloError(alertIllegalParameter, "extension %d is there twice", types[i])
		}
	}
	// RFC 8446, Section 4.2.9: "If clients offer "pre_shared_key" without a
	// "psk_key_exchange_modes" extension, servers MUST abort the handshake."
	if ch.PreSharedKey && !ch.PSKModes {
		return helloError(alertMissingExtension, "pre_shared_key without psk_key_exchange_modes")
	}
	// RFC 8446, Section 4.2.10: "When a PSK is used and early data is allowed
	// for that PSK, the client can send Application Data in its first flight of
	// messages. If the client opts to do so, it MUST supply both the
	// "pre_shared_key" and "early_data" extensions."
	if ch.EarlyData && !ch.PreSharedKey {
		return helloError(alertIllegalParameter, "early_data without pre_shared_key")
	}
	return nil
}

func (ch *ClientHello) parseExtension(typ int, data []byte) error {
	switch typ {
	case extServerName:
		return ch.parseServerName(data)
	case extALPN:
		return ch.parseALPN(data)
	case extSupportedVersions:
		r := reader{b: data}
		list := r.vector8()
		if !r.done() || len(list) == 0 || len(list)%2 != 0 {
			return helloError(alertDecodeError, "malformed supported_versions")
		}
		ch.SupportedVersions = uint16s(list)
	case extPSKModes:
		r := reader{b: data}
		if modes := r.vector8(); !r.done() || len(modes) == 0 {
			return helloError(alertDecodeError, "malformed psk_key_exchange_modes")
		}
		ch.PSKModes = true
	case extPreSharedKey:
		if !validPreSharedKey(data) {
			return helloError(alertDecodeError, "malformed pre_shared_key")
		}
		ch.PreSharedKey = true
	case extEarlyData:
		if len(data) != 0 {
			return helloError(alertDecodeError, "early_data is not empty")
		}
		ch.EarlyData = true
	case extSessionTicket:
		ch.SessionTicket = true
	case extTransportParams:
		// data is never nil here, so an empty block is told from none.
		ch.TransportParams = data
	}
	return nil
}

// parseServerName reads RFC 6066, Section 3. Lists of several names are a
// way to have two parsers see two names, so there has to be exactly one.
//
// RFC 6066, Section 3: "The ServerNameList MUST NOT contain more than one name
// of the same name_type."
func (ch *ClientHello) parseServerName(data []byte) error {
	r := reader{b: data}
	list := reader{b: r.vector16()}
	nameType := list.uint8()
	name := list.vector16()
	if !r.done() || !list.done() {
		return helloError(alertDecodeError, "malformed server_name")
	}
	if nameType != 0 {
		return helloError(alertIllegalParameter, "server_name of type %d", nameType)
	}
	// RFC 6066, Section 3: "The hostname is represented as a byte string using
	// ASCII encoding without a trailing dot."
	if len(name) == 0 || len(name) > 255 || name[len(name)-1] == '.' {
		return helloError(alertIllegalParameter, "server_name is empty, too long or ends in a dot")
	}
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return helloError(alertIllegalParameter, "server_name has byte 0x%02x in it", c)
		}
	}
	ch.ServerName = string(name)
	ch.HasSNI = true
	return nil
}

// parseALPN reads RFC 7301, Section 3.1.
//
// RFC 7301, Section 3.1: "Empty strings MUST NOT be included and byte strings
// MUST NOT be truncated."
func (ch *ClientHello) parseALPN(data []byte) error {
	r := reader{b: data}
	list := reader{b: r.vector16()}
	if !r.done() || len(list.b) == 0 {
		return helloError(alertDecodeError, "malformed ALPN")
	}
	// One string for all names: at most two allocations, and a peer that offers
	// thousands of names costs no more than its bytes.
	all := string(list.b)
	count := 0
	for len(list.b) > 0 {
		if name := list.vector8(); list.bad || len(name) == 0 {
			return helloError(alertDecodeError, "malformed ALPN protocol name")
		}
		count++
	}
	ch.ALPN = make([]string, 0, count)
	for len(all) > 0 {
		n := 1 + int(all[0])
		ch.ALPN = append(ch.ALPN, all[1:n])
		all = all[n:]
	}
	return nil
}

// validPreSharedKey checks the lengths of RFC 8446, Section 4.2.11: a list of
// identities with their age and a list of as many binders of 32 to 255 bytes.
func validPreSharedKey(data []byte) bool {
	r := reader{b: data}
	identities := reader{b: r.vector16()}
	binders := reader{b: r.vector16()}
	if !r.done() {
		return false
	}
	offered := 0
	for ; len(identities.b) > 0; offered++ {
		if id := identities.vector16(); len(id) == 0 {
			return false
		}
		if identities.bytes(4); identities.bad {
			return false
		}
	}
	bound := 0
	for ; len(binders.b) > 0; bound++ {
		if v := binders.vector8(); len(v) < 32 {
			return false
		}
	}
	return offered > 0 && offered == bound
}

// HasALPN reports whether the client offers the protocol.
func (ch *ClientHello) HasALPN(protocol string) bool { return slices.Contains(ch.ALPN, protocol) }

// NormalizedServerName returns ServerName in lower case, as rules compare it.
func (ch *ClientHello) NormalizedServerName() string { return strings.ToLower(ch.ServerName) }

// TicketEarlyData reads the body of a TLS NewSessionTicket message (RFC 8446,
// Section 4.6.1): max_early_data_size of its early_data extension. ok is false
// if there is none, or the message is malformed.
func TicketEarlyData(body []byte) (max uint32, ok bool) {
	r := reader{b: body}
	r.bytes(4 + 4) // ticket_lifetime, ticket_age_add
	r.vector8()    // ticket_nonce
	r.vector16()   // ticket
	extensions := reader{b: r.vector16()}
	if !r.done() {
		return 0, false
	}
	for len(extensions.b) > 0 && !extensions.bad {
		typ := extensions.uint16()
		if v := extensions.vector16(); typ == extEarlyData && len(v) == 4 {
			max, ok = binary.BigEndian.Uint32(v), true
		}
	}
	return max, ok && !extensions.bad
}
