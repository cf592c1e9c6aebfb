package quic

import (
	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// onRetry starts over with the server's token (RFC 9000, Section 17.2.5).
//
// RFC 9000, Section 7.2: "A client MUST change the Destination Connection ID it
// uses for sending packets in response to only the first received Initial or
// Retry packet."
//
// RFC 9000, Section 17.2.5.1: "A client MUST discard a Retry packet that
// contains a Source Connection ID field that is identical to the Destination
// Connection ID field of its Initial packet."
//
// RFC 9000, Section 17.2.5.2: "A client MUST accept and process at most one
// Retry packet for each connection attempt."
//
// RFC 9000, Section 17.2.5.2: "After the client has received and processed an
// Initial or Retry packet from the server, it MUST discard any subsequent Retry
// packets that it receives."
//
// RFC 9000, Section 17.2.5.2: "The client MUST NOT change the Source Connection
// ID because the server could include the connection ID as part of its token
// validation logic; see Section 8.1.4."
//
// RFC 9369, Section 4.1: "The client MUST NOT use a different version in the
// subsequent Initial packet that contains the Retry token."
func (c *Conn) onRetry(b []byte, h *wire.LongHeader) {
	// "A client MUST accept and process at most one Retry packet for each
	// connection attempt. After the client has received and processed an Initial
	// or Retry packet from the server, it MUST discard any subsequent Retry
	// packets that it receives."
	if c.server || c.retried || len(c.ids.remote) > 0 || h.Version != c.version || !c.ownDst(h.Dst) || h.Src == c.ids.initial {
		return
	}
	tag := protect.RetryTag(c.version, c.ids.initial, b[:len(b)-16])
	if !constantTimeEqual(tag, [16]byte(h.RetryTag)) {
		c.ep.stats.DropDecrypt.Add(1)
		return
	}
	c.retried = true
	// RFC 9000, Section 17.2.5.1: "The client MUST use the value from the
	// Source Connection ID field of the Retry packet in the Destination
	// Connection ID field of subsequent packets that it sends."
	c.retrySrc = h.Src
	c.ids.initial = h.Src
	// RFC 9000, Section 8.1.3: "The client MUST NOT use the token provided in a
	// Retry for future connections."
	//
	// RFC 9000, Section 8.1.3: "In comparison, a token obtained in a Retry
	// packet MUST be used immediately during the connection attempt and cannot
	// be used in subsequent connection attempts."
	c.token = append([]byte(nil), h.Token...)
	c.keys[recovery.Initial] = initialKeys(c.version, h.Src, false)
	// RFC 9000, Section 17.2.3: "A client SHOULD attempt to resend data in 0-RTT
	// packets after it sends a new Initial packet."
	c.loss.OnRetry(c.requeue)
	// RFC 9000, Section 17.2.5.3: "A client MUST use the same cryptographic
	// handshake message it included in this packet."
	c.cryptoOf(recovery.Initial).rewind()
	c.lastHeard = c.now()
	c.dirty = true
}
