package tlshd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A message is one or more frames:
//
//	version u8 | type u8 | flags u16 | length u32 | request u64 | body
//
// all big-endian. A datagram on the socket is a frame, or several where the
// other end has named the feature "gather". The bodies of a message's frames, joined, are attributes:
//
//	attribute u16 | zero u16 | length u32 | value
const (
	protoVersion = 1
	headerLen    = 16
	attrLen      = 8

	// maxFrame bounds a frame's body, maxMessage that of a message.
	maxFrame   = 16 << 10
	maxMessage = 256 << 10
	maxAttrs   = 128
)

// Header flags.
const (
	flagMore   = 1 << 0 // the next frame goes on with this message
	flagFinal  = 1 << 1 // the helper has forgotten this request
	flagsKnown = flagMore | flagFinal
)

type msgType uint8

const (
	msgHello     msgType = 1  // packet process or supervisor: first message
	msgCaps      msgType = 2  // helper: its answer
	msgStart     msgType = 3  // request a handshake
	msgCryptoIn  msgType = 4  // CRYPTO data from the peer
	msgCryptoOut msgType = 5  // CRYPTO data for the peer
	msgSecret    msgType = 6  // a traffic secret
	msgPeerTP    msgType = 7  // the peer's transport parameters
	msgLocalTP   msgType = 8  // a server's own
	msgTicket    msgType = 9  // the client was admitted: issue a ticket
	msgDone      msgType = 10 // verdict
	msgCancel    msgType = 11 // forget the request
	msgReload    msgType = 12 // supervisor: new configuration; helper: its answer
	msgStats     msgType = 13 // counters
	msgAttach    msgType = 14 // supervisor: a descriptor, the end of a new packet process; helper: its answer
	msgChanged   msgType = 15 // helper: trust is another than before
	msgVerify    msgType = 16 // judge a chain again; helper: its answer
	msgEarly     msgType = 17 // 0-RTT is offered, or was rejected
	numMsgTypes          = 18
)

var msgNames = [numMsgTypes]string{"", "HELLO", "CAPS", "START", "CRYPTO_IN", "CRYPTO_OUT", "SECRET", "PEER_TP",
	"LOCAL_TP", "TICKET", "DONE", "CANCEL", "RELOAD", "STATS", "ATTACH", "CHANGED", "VERIFY", "EARLY"}

func (t msgType) String() string {
	if t > 0 && t < numMsgTypes {
		return msgNames[t]
	}
	return fmt.Sprintf("message type %d", uint8(t))
}

type attr uint16

const (
	attrVersion      attr = 1
	attrRole         attr = 2
	attrFeature      attr = 3
	attrHandlerClass attr = 4
	attrMessageType  attr = 5
	attrAuthMode     attr = 6
	attrTimeout      attr = 7 // milliseconds
	attrPeerName     attr = 8
	attrALPN         attr = 9
	attrLocalTP      attr = 10
	attrPeerTP       attr = 11
	attrRemote       attr = 12
	attrID           attr = 13
	attrRoute        attr = 14
	attrPolicy       attr = 15
	attrClientCert   attr = 16
	attrCASet        attr = 17
	attrLevel        attr = 18
	attrOffset       attr = 19
	attrData         attr = 20
	attrWrite        attr = 21
	attrSuite        attr = 22
	attrStatus       attr = 23
	attrAlert        attr = 24
	attrReason       attr = 25
	attrDetail       attr = 26
	attrTLSVersion   attr = 27
	attrRemoteAuth   attr = 28
	attrResumed      attr = 29
	attrExporter     attr = 30
	attrGroup        attr = 31
	attrJSON         attr = 32
	attrGeneration   attr = 33
	attrPeerHash     attr = 34
	attrEarlyState   attr = 35

	// attrOptional and above may be ignored by a receiver that does not know
	// them, in any message.
	attrOptional attr = 0x8000

	// Of feature "early_data": a helper without it offers and accepts no 0-RTT.
	attrEarlyData   attr = 0x8001 // wanted
	attrEarlyLimits attr = 0x8002 // a server's, 8 bytes each
	attrQUICVersion attr = 0x8003 // that sessions are good for
	attrSession     attr = 0x8004 // a client's, to be kept with sessions

	// Of the certificate of a client that was refused, for people.
	attrPeerSubject attr = 0x8005
	attrPeerIssuer  attr = 0x8006
	attrPeerSerial  attr = 0x8007 // hexadecimal digits
)

// rule says how often and how long an attribute may be in a message.
type rule struct {
	attr     attr
	min, max int // bytes
	many     int // at most; 0: once
	required bool
}

const (
	maxCertLen  = 64 << 10
	maxChainLen = 16
	maxALPNs    = 16
	maxTP       = 8 << 10
	maxDetail   = 1024
	maxIDLen    = 128
	maxLabel    = 255

	maxEarlyLimits = 16
)

// What EARLY says.
const (
	earlyOffered  = 1 // with what was kept with the session
	earlyRejected = 2
)

// grammar is every message this version knows. What is not in it is refused.
var grammar = [numMsgTypes][]rule{
	msgHello: {{attr: attrVersion, min: 1, max: 1, required: true}, {attr: attrRole, min: 1, max: 1, required: true},
		{attr: attrFeature, min: 1, max: 32, many: 32}},
	msgCaps: {{attr: attrVersion, min: 1, max: 1, required: true}, {attr: attrFeature, min: 1, max: 32, many: 32}},
	msgStart: {{attr: attrHandlerClass, min: 1, max: 1, required: true}, {attr: attrMessageType, min: 1, max: 1, required: true},
		{attr: attrAuthMode, min: 1, max: 1, required: true}, {attr: attrTimeout, min: 4, max: 4, required: true},
		{attr: attrPeerName, max: maxLabel}, {attr: attrALPN, min: 1, max: 255, many: maxALPNs, required: true},
		{attr: attrLocalTP, max: maxTP}, {attr: attrRemote, max: 64}, {attr: attrID, max: maxIDLen},
		{attr: attrRoute, max: maxLabel}, {attr: attrPolicy, max: maxLabel}, {attr: attrClientCert, min: 1, max: 1},
		{attr: attrCASet, max: maxLabel}, {attr: attrEarlyData, min: 1, max: 1}, {attr: attrEarlyLimits, max: 8 * maxEarlyLimits},
		{attr: attrQUICVersion, min: 4, max: 4}},
	msgCryptoIn: {{attr: attrLevel, min: 1, max: 1, required: true}, {attr: attrOffset, min: 8, max: 8, required: true}, {attr: attrData, min: 1, max: maxMessage, required: true},
		{attr: attrQUICVersion, min: 4, max: 4}, {attr: attrSession, max: maxTP}},
	msgCryptoOut: {{attr: attrLevel, min: 1, max: 1, required: true}, {attr: attrOffset, min: 8, max: 8, required: true}, {attr: attrData, max: maxMessage, required: true}},
	msgSecret: {{attr: attrLevel, min: 1, max: 1, required: true}, {attr: attrWrite, min: 1, max: 1, required: true},
		{attr: attrSuite, min: 2, max: 2, required: true}, {attr: attrData, min: 32, max: 64, required: true}},
	msgPeerTP:  {{attr: attrPeerTP, max: maxTP, required: true}},
	msgLocalTP: {{attr: attrLocalTP, max: maxTP, required: true}},
	msgTicket:  {{attr: attrQUICVersion, min: 4, max: 4}},
	msgEarly:   {{attr: attrEarlyState, min: 1, max: 1, required: true}, {attr: attrPeerTP, max: maxTP}},
	msgDone: {{attr: attrStatus, min: 4, max: 4, required: true}, {attr: attrReason, min: 1, max: 64, required: true},
		{attr: attrAlert, min: 1, max: 1}, {attr: attrDetail, max: maxDetail}, {attr: attrTLSVersion, min: 2, max: 2},
		{attr: attrSuite, min: 2, max: 2}, {attr: attrGroup, min: 2, max: 2}, {attr: attrPeerName, max: maxLabel},
		{attr: attrALPN, max: 255}, {attr: attrAuthMode, min: 1, max: 1},
		{attr: attrRemoteAuth, min: 1, max: maxCertLen, many: maxChainLen}, {attr: attrResumed, min: 1, max: 1},
		{attr: attrExporter, min: 32, max: 32}, {attr: attrGeneration, min: 8, max: 8}, {attr: attrPeerHash, min: 32, max: 32},
		{attr: attrPeerSubject, max: maxDetail}, {attr: attrPeerIssuer, max: maxDetail}, {attr: attrPeerSerial, max: 64}},
	msgCancel:  {},
	msgReload:  {{attr: attrJSON, max: maxMessage}, {attr: attrStatus, min: 4, max: 4}, {attr: attrDetail, max: maxDetail}},
	msgStats:   {{attr: attrJSON, max: maxMessage}},
	msgAttach:  {{attr: attrStatus, min: 4, max: 4}, {attr: attrDetail, max: maxDetail}},
	msgChanged: {{attr: attrGeneration, min: 8, max: 8, required: true}},
	msgVerify: {{attr: attrRemoteAuth, min: 1, max: maxCertLen, many: maxChainLen}, {attr: attrALPN, max: 255}, {attr: attrCASet, max: maxLabel},
		{attr: attrStatus, min: 4, max: 4}, {attr: attrReason, min: 1, max: 64}, {attr: attrAlert, min: 1, max: 1},
		{attr: attrDetail, max: maxDetail}, {attr: attrGeneration, min: 8, max: 8}},
}

// featureGather: datagrams of several frames are read.
const featureGather = "gather"

// Roles in a HELLO.
const (
	rolePacket  = 1
	roleControl = 2
)

type header struct {
	typ     msgType
	flags   uint16
	length  int
	request uint64
}

var errProtocol = errors.New("tlshd: protocol error")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

func (h header) append(b []byte) []byte {
	b = append(b, protoVersion, byte(h.typ))
	b = binary.BigEndian.AppendUint16(b, h.flags)
	b = binary.BigEndian.AppendUint32(b, uint32(h.length))
	return binary.BigEndian.AppendUint64(b, h.request)
}

func parseHeader(b []byte) (header, error) {
	if len(b) < headerLen {
		return header{}, protocolError("a frame of %d bytes, want at least %d", len(b), headerLen)
	}
	h := header{typ: msgType(b[1]), flags: binary.BigEndian.Uint16(b[2:]), request: binary.BigEndian.Uint64(b[8:])}
	n := binary.BigEndian.Uint32(b[4:])
	switch {
	case b[0] != protoVersion:
		return header{}, protocolError("version %d, want %d", b[0], protoVersion)
	case h.typ == 0 || h.typ >= numMsgTypes:
		return header{}, protocolError("unknown message type %d", b[1])
	case h.flags&^flagsKnown != 0:
		return header{}, protocolError("unknown flags %#x", h.flags)
	case n > maxFrame:
		return header{}, protocolError("a frame of %d bytes, at most %d are allowed", n, maxFrame)
	}
	h.length = int(n)
	return h, nil
}

// message is a whole message. body is only good until the next read.
type message struct {
	typ     msgType
	final   bool
	request uint64
	body    []byte
}

// body builds a message body.
type body []byte

func (b *body) bytes(a attr, v []byte) {
	*b = binary.BigEndian.AppendUint16(*b, uint16(a))
	*b = append(*b, 0, 0)
	*b = binary.BigEndian.AppendUint32(*b, uint32(len(v)))
	*b = append(*b, v...)
}

// number appends an attribute of n bytes.
func (b *body) number(a attr, v uint64, n int) {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], v)
	b.bytes(a, raw[8-n:])
}

func (b *body) str(a attr, v string) { b.bytes(a, []byte(v)) }
func (b *body) u8(a attr, v uint8)   { b.number(a, uint64(v), 1) }
func (b *body) u16(a attr, v uint16) { b.number(a, uint64(v), 2) }
func (b *body) u32(a attr, v uint32) { b.number(a, uint64(v), 4) }
func (b *body) u64(a attr, v uint64) { b.number(a, v, 8) }
func (b *body) flag(a attr, v bool)  { b.u8(a, boolByte(v)) }

func boolByte(v bool) uint8 {
	if v {
		return 1
	}
	return 0
}

type attribute struct {
	attr  attr
	value []byte
}

// attributes are the checked attributes of one message: a getter for an
// attribute whose rule has a fixed size needs no check of its own.
type attributes []attribute

// parseAttributes reads a message's attributes by its grammar. The values alias
// body.
func parseAttributes(t msgType, body []byte) (attributes, error) {
	if t == 0 || t >= numMsgTypes {
		return nil, protocolError("unknown message type %d", t)
	}
	rules := grammar[t]
	var counts [8 * 4]uint8
	out := make(attributes, 0, min(len(rules), len(body)/attrLen))
	for len(body) > 0 {
		if len(body) < attrLen {
			return nil, protocolError("%v: %d bytes after the last attribute", t, len(body))
		}
		a, zero, n := attr(binary.BigEndian.Uint16(body)), binary.BigEndian.Uint16(body[2:]), binary.BigEndian.Uint32(body[4:])
		body = body[attrLen:]
		if zero != 0 || uint64(n) > uint64(len(body)) {
			return nil, protocolError("%v: attribute %d: %d bytes, %d are left", t, a, n, len(body))
		}
		value := body[:n:n]
		body = body[n:]
		i := findRule(rules, a)
		if i < 0 {
			if a >= attrOptional || t == msgHello || t == msgCaps {
				continue
			}
			return nil, protocolError("%v: unknown attribute %d", t, a)
		}
		r := rules[i]
		if counts[i]++; int(counts[i]) > max(r.many, 1) || len(out) >= maxAttrs {
			return nil, protocolError("%v: attribute %d: too often", t, a)
		}
		if len(value) < r.min || len(value) > r.max {
			return nil, protocolError("%v: attribute %d: %d bytes, want %d to %d", t, a, len(value), r.min, r.max)
		}
		out = append(out, attribute{a, value})
	}
	for i, r := range rules {
		if r.required && counts[i] == 0 {
			return nil, protocolError("%v: attribute %d is missing", t, r.attr)
		}
	}
	return out, nil
}

func findRule(rules []rule, a attr) int {
	for i := range rules {
		if rules[i].attr == a {
			return i
		}
	}
	return -1
}

func (as attributes) bytes(a attr) []byte {
	for i := range as {
		if as[i].attr == a {
			return as[i].value
		}
	}
	return nil
}

func (as attributes) all(a attr) (out [][]byte) {
	for i := range as {
		if as[i].attr == a {
			out = append(out, as[i].value)
		}
	}
	return out
}

func (as attributes) str(a attr) string { return string(as.bytes(a)) }

func (as attributes) u8(a attr) uint8 {
	if v := as.bytes(a); len(v) == 1 {
		return v[0]
	}
	return 0
}

func (as attributes) u16(a attr) uint16 {
	if v := as.bytes(a); len(v) == 2 {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (as attributes) u32(a attr) uint32 {
	if v := as.bytes(a); len(v) == 4 {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (as attributes) u64(a attr) uint64 {
	if v := as.bytes(a); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}
