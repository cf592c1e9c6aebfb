package interop

import (
	"sync"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// sights is what anybody between the ends can see of connections: long
// headers, and the contents of Initial packets, whose keys are no secret.
type sights struct {
	mu           sync.Mutex
	packets      map[sight]int
	clientHellos int             // Initial packets that begin a ClientHello
	afterRetry   []uint64        // packet numbers of Initial packets with a token, as they are truncated
	late         bool            // the server fell back to version 1
	amplified    float64         // the most that a server sent to an address that it had not validated, of what it got
	ids          map[string]bool // first bytes of the destination of clients' short headers
}

// A sight is a packet with a long header.
type sight struct {
	up      bool // to the server
	typ     wire.PacketType
	version wire.Version
}

// watched is what must be remembered of one client.
type watched struct {
	dst            wire.ConnID // of the keys of its Initial packets
	known, retried bool
	got, sent      int // bytes that the server got and sent before the address was validated
	validated      bool
}

func (s *sights) count(up bool, h *wire.LongHeader) {
	if s.packets == nil {
		s.packets = map[sight]int{}
	}
	s.packets[sight{up, h.Type, h.Version}]++
	s.late = s.late || !up && h.Version == wire.Version1 && s.packets[sight{false, h.Type, wire.Version2}] > 0
}

// up sees a datagram that a client has sent.
func (s *sights) up(w *watched, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b) > 8 && !wire.IsLong(b[0]) {
		if s.ids == nil {
			s.ids = map[string]bool{}
		}
		s.ids[string(b[1:9])] = true
	}
	for len(b) > 0 && wire.IsLong(b[0]) {
		h, err := wire.ParseLong(b)
		if err != nil {
			return
		}
		s.count(true, &h)
		if h.Type == wire.PacketInitial {
			if !w.known {
				w.dst, w.known = h.Dst, true
			}
			s.initial(w, &h, b[:h.Len])
		}
		b = b[h.Len:]
	}
}

// initial reads a client's Initial packet.
func (s *sights) initial(w *watched, h *wire.LongHeader, packet []byte) {
	client, _ := protect.InitialKeys(h.Version, w.dst.Append(nil))
	b := append([]byte(nil), packet...)
	n, pn, ok := client.UnprotectHeader(b, h.PNOffset)
	if !ok {
		return
	}
	at := h.PNOffset + n
	frames, err := client.Open(nil, b[at:], b[:at], pn)
	if err != nil {
		return
	}
	if len(h.Token) > 0 {
		s.afterRetry = append(s.afterRetry, pn)
	}
	for len(frames) > 0 {
		n := 0
		switch wire.FrameType(frames) {
		case wire.FramePadding:
			n = wire.ConsumePadding(frames)
		case wire.FramePing:
			n = wire.ConsumePing(frames)
		case wire.FrameCrypto:
			var off uint64
			if off, _, n = wire.ConsumeCrypto(frames); off == 0 && n > 0 {
				s.clientHellos++
			}
		}
		if n <= 0 {
			return // ACK and what comes after a ClientHello
		}
		frames = frames[n:]
	}
}

// down sees a datagram that the server has sent, and tells whether it is a Retry packet.
func (s *sights) down(w *watched, b []byte) (retry bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.sent += len(b); !w.validated {
		s.amplified = max(s.amplified, float64(w.sent)/float64(w.got))
	}
	for len(b) > 0 && wire.IsLong(b[0]) {
		h, err := wire.ParseLong(b)
		if err != nil {
			return retry
		}
		s.count(false, &h)
		if h.Type == wire.PacketRetry {
			// RFC 9000, Section 17.2.5.2: the new Destination Connection ID changes
			// the keys of Initial packets, too.
			if retry = true; !w.retried { // a client takes the first
				w.dst, w.retried = h.Src, true
			}
		}
		b = b[h.Len:]
	}
	return retry
}

// delivered sees a datagram that goes on to the server.
func (s *sights) delivered(w *watched, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.got += len(b)
	for len(b) > 0 && wire.IsLong(b[0]) {
		h, err := wire.ParseLong(b)
		if err != nil {
			return
		}
		// RFC 9000, Section 8.1: a packet with Handshake keys shows that the peer has
		// processed an Initial packet. So does a token that came back.
		w.validated = w.validated || h.Type == wire.PacketHandshake || h.Type == wire.PacketInitial && len(h.Token) > 0
		b = b[h.Len:]
	}
}

// idsSeen returns the first bytes of the connection IDs of a client's short headers.
func (s *sights) idsSeen() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids
}

// number returns how many packets of a kind were seen.
func (s *sights) number(up bool, typ wire.PacketType, v wire.Version) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.packets[sight{up, typ, v}]
}
