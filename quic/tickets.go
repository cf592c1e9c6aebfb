package quic

import "github.com/quic-fsgw/quic-fsgw/quic/wire"

// msgNewSessionTicket is the one TLS message that may follow the handshake.
const (
	msgNewSessionTicket   = 4
	msgCertificateRequest = 13
)

// ticketMessages returns the whole messages at the start of b. RFC 9001,
// Section 6: "Endpoints MUST treat the receipt of a TLS KeyUpdate message as a
// connection error of type 0x010a". No other message is expected either.
// Section 4.4: "servers MUST NOT send post-handshake TLS CertificateRequest
// messages, and clients MUST treat receipt of such messages as a connection
// error of type PROTOCOL_VIOLATION."
//
// RFC 9001, Section 4.6.1: "A client MUST treat receipt of a NewSessionTicket
// that contains an early_data extension with any other value as a connection
// error of type PROTOCOL_VIOLATION."
func (c *Conn) ticketMessages(b []byte) []byte {
	n := 0
	for len(b)-n >= 4 {
		typ, size := b[n], 4+int(b[n+1])<<16+int(b[n+2])<<8+int(b[n+3])
		switch {
		case typ == msgCertificateRequest:
			_ = c.fail(ProtocolViolation, wire.FrameCrypto, "TLS CertificateRequest after the handshake")
			return nil
		case typ != msgNewSessionTicket:
			_ = c.fail(CryptoErrorBase+TransportErrorCode(AlertUnexpectedMessage), wire.FrameCrypto, "unexpected TLS message after the handshake")
			return nil
		case size > len(b)-n:
			return b[:n]
		case !earlyDataAllowed(b[n+4 : n+size]):
			_ = c.fail(ProtocolViolation, wire.FrameCrypto, "session ticket with another max_early_data_size than 0xffffffff")
			return nil
		}
		n += size
	}
	return b[:n]
}

// earlyDataAllowed reports that the early_data extension of a NewSessionTicket
// message, if it has one, allows any amount (RFC 8446, Section 4.6.1). Of a
// malformed message TLS makes an error of its own.
func earlyDataAllowed(msg []byte) bool {
	max, ok := wire.TicketEarlyData(msg)
	return !ok || max == 1<<32-1
}
