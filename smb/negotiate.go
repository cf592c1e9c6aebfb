package smb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Dialect is an SMB2 dialect revision, MS-SMB2 2.2.3: 0x0202 to 0x0311. 0 means
// not known.
type Dialect uint16

// The dialects.
const (
	Dialect202 Dialect = 0x0202
	Dialect210 Dialect = 0x0210
	Dialect300 Dialect = 0x0300
	Dialect302 Dialect = 0x0302
	Dialect311 Dialect = 0x0311
)

var dialectNames = map[Dialect]string{
	Dialect202: "2.0.2", Dialect210: "2.1", Dialect300: "3.0", Dialect302: "3.0.2", Dialect311: "3.1.1",
}

// String returns "3.1.1" and the like.
func (d Dialect) String() string {
	if s, ok := dialectNames[d]; ok {
		return s
	}
	return fmt.Sprintf("0x%04x", uint16(d))
}

// ParseDialect reads what String writes for the five dialects.
func ParseDialect(s string) (Dialect, error) {
	for d, name := range dialectNames {
		if s == name {
			return d, nil
		}
	}
	return 0, fmt.Errorf("smb: dialect %q: not one of 2.0.2, 2.1, 3.0, 3.0.2, 3.1.1", s)
}

// Negotiate context types, MS-SMB2 2.2.3.1.
const (
	ctxPreauthIntegrity = 0x0001
	ctxEncryption       = 0x0002
	ctxNetname          = 0x0005
	ctxTransport        = 0x0006
	ctxSigning          = 0x0008
)

const (
	transportSecurity = 0x1 // SMB2_ACCEPT_TRANSPORT_LEVEL_SECURITY
	signingRequired   = 0x2 // SMB2_NEGOTIATE_SIGNING_REQUIRED
	maxDialects       = 64  // offered in one request; there are five
	maxContexts       = 32  // in one message; some ten are defined
	maxNegotiate      = 1 << 14
)

// NegotiateRequest is what a relay reads of a client's NEGOTIATE, MS-SMB2 2.2.3.
type NegotiateRequest struct {
	Dialects          []Dialect // as offered
	SigningRequired   bool
	ClientGUID        [16]byte
	NetName           string // context 0x0005: the server as the client calls it; "" if absent
	TransportSecurity bool   // context 0x0006: offers to do without encryption on a secure transport
}

// Highest returns the highest dialect offered.
func (r *NegotiateRequest) Highest() Dialect { return slices.Max(r.Dialects) }

// NegotiateResponse is what a relay reads of a server's NEGOTIATE answer, MS-SMB2 2.2.4.
type NegotiateResponse struct {
	Status            uint32 // NTSTATUS; the rest is only set for 0
	Dialect           Dialect
	SigningRequired   bool
	ServerGUID        [16]byte
	Capabilities      uint32
	MaxTransact       uint32 // bytes, likewise below
	MaxRead           uint32
	MaxWrite          uint32
	Cipher            uint16 // context 0x0002: 1 AES-128-CCM, 2 AES-128-GCM, 3 and 4 the same with 256; 0: none
	Signing           uint16 // context 0x0008: 0 HMAC-SHA256, 1 AES-CMAC, 2 AES-GMAC
	TransportSecurity bool   // context 0x0006: takes the transport for secure
}

var errNotNegotiate = errors.New("smb: the first message is not an SMB2 NEGOTIATE request")

// ParseNegotiateRequest reads a whole message (without the frame header) that
// should be a client's first.
func ParseNegotiateRequest(b []byte) (NegotiateRequest, error) {
	var r NegotiateRequest
	if len(b) < headerLen+36 || b[0] != protocolPlain {
		return r, errNotNegotiate
	}
	h := parseHeader(b)
	if h.command != cmdNegotiate || h.flags&flagResponse != 0 || h.next != 0 {
		return r, errNotNegotiate
	}
	le, body := binary.LittleEndian, b[headerLen:]
	count := int(le.Uint16(body[2:]))
	if count == 0 || count > maxDialects || len(body) < 36+2*count {
		return r, fmt.Errorf("smb: NEGOTIATE request with %d dialects in %d octets", count, len(body))
	}
	r.SigningRequired = body[4]&signingRequired != 0
	copy(r.ClientGUID[:], body[12:28])
	for i := range count {
		r.Dialects = append(r.Dialects, Dialect(le.Uint16(body[36+2*i:])))
	}
	if !slices.Contains(r.Dialects, Dialect311) {
		return r, nil // the octets of the context fields mean something else
	}
	off, n := le.Uint32(body[28:]), int(le.Uint16(body[32:]))
	err := eachContext(b, off, n, func(kind uint16, data []byte) error {
		switch kind {
		case ctxNetname:
			r.NetName = decodeUTF16(data)
		case ctxTransport:
			if len(data) != 4 {
				return fmt.Errorf("smb: transport capabilities of %d octets", len(data))
			}
			r.TransportSecurity = le.Uint32(data)&transportSecurity != 0
		}
		return nil
	})
	return r, err
}

// ParseNegotiateResponse reads a whole message (without the frame header) that
// should answer a NEGOTIATE.
func ParseNegotiateResponse(b []byte) (NegotiateResponse, error) {
	var r NegotiateResponse
	if len(b) < headerLen || b[0] != protocolPlain {
		return r, errors.New("smb: the answer to NEGOTIATE is no plain SMB2 message")
	}
	h := parseHeader(b)
	if h.command != cmdNegotiate || h.flags&flagResponse == 0 || h.next != 0 {
		return r, fmt.Errorf("smb: the answer to NEGOTIATE has command %d, flags 0x%x", h.command, h.flags)
	}
	if r.Status = h.status; r.Status != 0 {
		return r, nil
	}
	if len(b) < headerLen+64 {
		return r, fmt.Errorf("smb: NEGOTIATE response of %d octets", len(b))
	}
	le, body := binary.LittleEndian, b[headerLen:]
	r.SigningRequired = body[2]&signingRequired != 0
	r.Dialect = Dialect(le.Uint16(body[4:]))
	copy(r.ServerGUID[:], body[8:24])
	r.Capabilities = le.Uint32(body[24:])
	r.MaxTransact, r.MaxRead, r.MaxWrite = le.Uint32(body[28:]), le.Uint32(body[32:]), le.Uint32(body[36:])
	if r.Dialect != Dialect311 {
		return r, nil
	}
	err := eachContext(b, le.Uint32(body[60:]), int(le.Uint16(body[6:])), func(kind uint16, data []byte) error {
		switch {
		case kind == ctxEncryption && len(data) >= 4:
			r.Cipher = le.Uint16(data[2:])
		case kind == ctxSigning && len(data) >= 4:
			r.Signing = le.Uint16(data[2:])
		case kind == ctxTransport && len(data) >= 4:
			r.TransportSecurity = le.Uint32(data)&transportSecurity != 0
		}
		return nil
	})
	return r, err
}

// eachContext calls f for the n negotiate contexts that begin at off of the message b.
func eachContext(b []byte, off uint32, n int, f func(kind uint16, data []byte) error) error {
	if n > maxContexts {
		return fmt.Errorf("smb: %d negotiate contexts", n)
	}
	le := binary.LittleEndian
	at := uint64(off)
	for i := range n {
		at = (at + 7) &^ 7 // each is 8-byte aligned
		if at < headerLen || at+8 > uint64(len(b)) {
			return fmt.Errorf("smb: negotiate context %d at %d of %d octets", i, at, len(b))
		}
		kind, size := le.Uint16(b[at:]), uint64(le.Uint16(b[at+2:]))
		if at+8+size > uint64(len(b)) {
			return fmt.Errorf("smb: negotiate context 0x%04x of %d octets at %d of %d", kind, size, at, len(b))
		}
		if err := f(kind, b[at+8:at+8+size]); err != nil {
			return err
		}
		at += 8 + size
	}
	return nil
}

// dialectList writes dialects for an error or a log.
func dialectList(ds []Dialect) string {
	names := make([]string, len(ds))
	for i, d := range ds {
		names[i] = d.String()
	}
	return strings.Join(names, ", ")
}
