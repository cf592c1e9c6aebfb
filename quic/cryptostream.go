package quic

import "github.com/quic-fsgw/quic-fsgw/quic/recovery"

// A cryptoStream carries TLS messages of one encryption level in CRYPTO
// frames, both ways (RFC 9000, Section 7.5).
type cryptoStream struct {
	limit int // bytes that may wait for earlier ones

	// Receiving: in holds the bytes from taken on, have tells which are there.
	taken uint64
	in    []byte
	have  rangeset

	// Sending: out holds everything of this level; it is small.
	out   []byte
	next  uint64
	acked rangeset
	lost  rangeset
}

// handshakeSpaces are the parts of the Initial and the Handshake space that an open
// connection does not need: most of what it has been through is forgotten when it
// rests.
type handshakeSpaces struct {
	crypto [recovery.AppData]cryptoStream
	recv   [recovery.AppData]recovery.Received
}

func (c *Conn) spaces() *handshakeSpaces {
	if c.hsp == nil {
		c.hsp = new(handshakeSpaces)
		for i := range c.hsp.recv {
			c.hsp.recv[i].Init(recovery.Space(i), localMaxAckDelay)
		}
	}
	return c.hsp
}

// cryptoOf is a space's stream of TLS messages. One that was forgotten takes and
// has none.
func (c *Conn) cryptoOf(space recovery.Space) *cryptoStream {
	if space == recovery.AppData {
		return &c.crypto
	}
	return &c.spaces().crypto[space]
}

// recvOf is what was received in a space.
func (c *Conn) recvOf(space recovery.Space) *recovery.Received {
	if space == recovery.AppData {
		return &c.recv
	}
	return &c.spaces().recv[space]
}

// handshakeWants tells whether there are TLS messages of the handshake to send.
func (c *Conn) handshakeWants() bool {
	return c.hsp != nil && (c.hsp.crypto[recovery.Initial].wants() || c.hsp.crypto[recovery.Handshake].wants())
}

// dropCrypto forgets all TLS messages.
func (c *Conn) dropCrypto() {
	c.crypto = cryptoStream{}
	if c.hsp != nil {
		c.hsp.crypto = [recovery.AppData]cryptoStream{}
	}
}

// receive takes a CRYPTO frame's bytes. It reports false when they lie
// further ahead than may be buffered.
//
// RFC 9000, Section 7.5: "Implementations MUST support buffering at least 4096
// bytes of data received in out-of-order CRYPTO frames."
//
// RFC 9000, Section 7.5: "If an endpoint does not expand its buffer, it MUST
// close the connection with a CRYPTO_BUFFER_EXCEEDED error code."
func (s *cryptoStream) receive(off uint64, data []byte) bool {
	end := off + uint64(len(data))
	if end <= s.taken {
		return true
	}
	if end-s.taken > uint64(s.limit) {
		return false
	}
	if off < s.taken {
		data = data[s.taken-off:]
		off = s.taken
	}
	if need := int(end - s.taken); len(s.in) < need {
		s.in = append(s.in, make([]byte, need-len(s.in))...)
	}
	copy(s.in[off-s.taken:], data)
	s.have.add(off, end)
	return true
}

// ready returns the bytes that are contiguous from the last take on.
func (s *cryptoStream) ready() []byte {
	if len(s.have) == 0 || s.have[0].start > s.taken {
		return nil
	}
	return s.in[:s.have[0].end-s.taken]
}

// take drops n bytes that ready returned.
func (s *cryptoStream) take(n int) {
	s.taken += uint64(n)
	s.have.sub(0, s.taken)
	s.in = s.in[n:]
	if len(s.in) == 0 {
		s.in = nil
	}
}

func (s *cryptoStream) write(b []byte) { s.out = append(s.out, b...) }

// pending returns the next span to send.
func (s *cryptoStream) pending() span {
	if len(s.lost) > 0 {
		return s.lost[0]
	}
	return span{s.next, uint64(len(s.out))}
}

func (s *cryptoStream) wants() bool { return len(s.lost) > 0 || s.next < uint64(len(s.out)) }

func (s *cryptoStream) sent(start, end uint64) {
	s.next = max(s.next, end)
	s.lost.sub(start, end)
}

func (s *cryptoStream) ack(start, end uint64) {
	s.acked.add(start, end)
	s.lost.sub(start, end)
}

func (s *cryptoStream) markLost(start, end uint64) {
	s.lost.add(start, end)
	s.lost.subAll(s.acked, start, end)
}

// rewind makes everything unacknowledged due again, as after a Retry.
func (s *cryptoStream) rewind() { s.markLost(0, s.next) }
