package tlshd

import "fmt"

// Bounds of what a server may send a client after the handshake.
const (
	maxTicketLen   = 64 << 10
	maxPostTickets = 256
)

// TLS handshake message types (RFC 8446, Section 4).
const (
	typeNewSessionTicket   = 4
	typeCertificateRequest = 13
	typeKeyUpdate          = 24
)

// postGate watches the CRYPTO bytes that a client gets after the handshake.
// Only session tickets have a place there. It keeps four bytes, so that an
// endless or never finished message costs nothing.
type postGate struct {
	head    [4]byte
	n       int // of head
	rest    int // bytes left of the message
	tickets int
}

// check returns an error for the first message that must not be there.
func (g *postGate) check(b []byte) *Error {
	for len(b) > 0 {
		if g.rest > 0 {
			n := min(g.rest, len(b))
			g.rest -= n
			b = b[n:]
			continue
		}
		n := copy(g.head[g.n:], b)
		g.n += n
		b = b[n:]
		if g.n < len(g.head) {
			return nil
		}
		g.n = 0
		g.rest = int(g.head[1])<<16 | int(g.head[2])<<8 | int(g.head[3])
		if err := g.message(g.head[0]); err != nil {
			return err
		}
	}
	return nil
}

func (g *postGate) message(typ byte) *Error {
	switch typ {
	case typeNewSessionTicket:
		if g.tickets++; g.tickets > maxPostTickets || g.rest > maxTicketLen {
			return &Error{Status: StatusEACCES, Alert: alertUnexpectedMessage, Reason: ReasonCryptoExceeded,
				Detail: fmt.Sprintf("session ticket %d of %d bytes: more than anyone needs", g.tickets, g.rest)}
		}
		return nil
	case typeCertificateRequest:
		// RFC 9001, Section 4.4: "A server MUST NOT use post-handshake client
		// authentication (as defined in Section 4.6.2 of [TLS13])".
		return &Error{Status: StatusEACCES, Alert: alertUnexpectedMessage, Reason: ReasonUnexpected,
			Detail: ErrPostHandshakeAuth.Error(), cause: ErrPostHandshakeAuth}
	}
	// RFC 9001, Section 6: "Endpoints MUST NOT send a TLS KeyUpdate message.
	// Endpoints MUST treat the receipt of a TLS KeyUpdate message as a
	// connection error of type 0x010a".
	return unexpectedMessage(typ)
}

func unexpectedMessage(typ byte) *Error {
	return &Error{Status: StatusEACCES, Alert: alertUnexpectedMessage, Reason: ReasonUnexpected,
		Detail: fmt.Sprintf("TLS message of type %d after the handshake", typ)}
}
