package upcall

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// recorder is a socket that keeps what is sent.
type recorder struct {
	udp.PacketConn
	mu   sync.Mutex
	sent [][]byte
}

func (r *recorder) Send(m *udp.SendMsg) error {
	r.mu.Lock()
	for b := m.Data; len(b) > 0; {
		n := len(b)
		if m.SegmentSize > 0 {
			n = min(n, m.SegmentSize)
		}
		r.sent = append(r.sent, bytes.Clone(b[:n]))
		b = b[n:]
	}
	r.mu.Unlock()
	return r.PacketConn.Send(m)
}

// handshakePacket is the first packet with Handshake protection.
func (r *recorder) handshakePacket() (b []byte, h wire.LongHeader, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.sent {
		for len(b) > 0 && wire.IsLong(b[0]) {
			h, err := wire.ParseLong(b)
			if err != nil {
				break
			}
			if h.Type == wire.PacketHandshake {
				return b[:h.Len], h, true
			}
			b = b[h.Len:]
		}
	}
	return nil, h, false
}

// What the key log says opens what was on the wire.
func TestKeyLogDecrypts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	l := newHelper(t, func(c *tlshd.Config) { c.UnsafeKeyLog = file })
	ctx := testContext(t)
	server := endpoint(t, "127.0.0.1:0", serverConfig(l, "perf"))
	go echo(ctx, server)
	s, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{PacketConn: s}
	e := quic.NewEndpoint([]udp.PacketConn{rec}, nil)
	defer e.Close(ctx)
	c, err := e.Dial(ctx, server.LocalAddr(), &quic.Config{Handshaker: Handshaker(l.Client), NextProtos: []string{"perf"}, ServerName: "files.example.com", NoGrease: true})
	if err != nil {
		t.Fatal(err)
	}
	ask(ctx, t, c, []byte("hello"))
	suite := c.TLS().Suite
	b, h, ok := rec.handshakePacket()
	if !ok {
		t.Fatal("no Handshake packet was sent")
	}
	log, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var secret []byte
	for line := range strings.Lines(string(log)) {
		if f := strings.Fields(line); f[0] == "CLIENT_HANDSHAKE_TRAFFIC_SECRET" {
			if secret, err = hex.DecodeString(f[2]); err != nil {
				t.Fatal(err)
			}
		}
	}
	key, err := protect.NewKey(c.Version(), suite, secret)
	if err != nil {
		t.Fatal(err)
	}
	pnLen, truncated, ok := key.UnprotectHeader(b, h.PNOffset)
	if !ok {
		t.Fatal("header protection")
	}
	hdr := h.PNOffset + pnLen
	plain, err := key.Open(nil, b[hdr:], b[:hdr], wire.DecodePacketNumber(-1, truncated, pnLen))
	if err != nil {
		t.Fatalf("the logged secret does not open the packet: %v", err)
	}
	if !wire.FrameKnown(wire.FrameType(plain)) {
		t.Errorf("no frame: %x", plain)
	}
	_ = c.CloseWithError(0, "")
}
