package forward

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// initial builds an authentic Initial of 1200 octets around frames.
func initial(dst []byte, pn uint64, frames []byte) []byte {
	id, _ := wire.MakeConnID(dst)
	src, _ := wire.MakeConnID([]byte("client"))
	b, lengthAt := wire.AppendLong(nil, wire.PacketInitial, wire.Version1, id, src, nil, pn, 4)
	hdr := len(b)
	b = append(b, frames...)
	if pad := 1200 - protect.TagLen - len(b); pad > 0 {
		b = wire.AppendPadding(b, pad)
	}
	wire.SetLength(b, lengthAt, 4+len(b)-hdr+protect.TagLen)
	key, _ := protect.InitialKeys(wire.Version1, dst)
	b = key.Seal(b[:hdr], b[hdr:], b[:hdr], pn)
	key.ProtectHeader(b, hdr-4, 4)
	return b
}

func message(b []byte, port int) *udp.RecvMsg {
	return &udp.RecvMsg{Buf: b, N: len(b), SegmentSize: len(b), Remote: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(port))}
}

// Clients that begin and never end a ClientHello cost a bounded amount, and
// once there is no room the endpoint judges.
func TestPendingBound(t *testing.T) {
	f := New(func(*Hello) netip.AddrPort { return netip.AddrPort{} }, 10)
	defer f.Close()
	c := f.Wrap(nil)
	// The beginning of a ClientHello of 1000 octets.
	part := crypto(0, []byte{1, 0, 3, 0xe8, 3, 3})
	for i := range 2 * maxPending {
		dst := binary.BigEndian.AppendUint64(nil, uint64(i))
		if held := c.take(message(initial(dst, 0, part), i+1)); held != (i < maxPending) {
			t.Fatalf("connection %d: held %v", i, held)
		}
	}
	if len(f.pending) != maxPending {
		t.Errorf("%d are pending", len(f.pending))
	}
	// One of them goes on without end.
	dst := binary.BigEndian.AppendUint64(nil, 0)
	for i := 1; i < maxHelloDatagrams; i++ {
		if !c.take(message(initial(dst, uint64(i), wire.AppendPing(nil)), 1)) {
			t.Fatalf("datagram %d was not held", i)
		}
	}
	if !c.take(message(initial(dst, 99, wire.AppendPing(nil)), 1)) || len(c.queue) != maxHelloDatagrams+1 {
		t.Errorf("after too many datagrams %d go to the endpoint", len(c.queue))
	}
}

// What cannot be opened, or holds frames that no first flight has, is the endpoint's.
func TestNotForwarded(t *testing.T) {
	f := New(func(*Hello) netip.AddrPort { t.Error("routed"); return netip.AddrPort{} }, 10)
	defer f.Close()
	c := f.Wrap(nil)
	dst := []byte("12345678")
	good := initial(dst, 0, crypto(0, []byte{1, 0, 3, 0xe8}))
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-1] ^= 1
	for name, b := range map[string][]byte{
		"tag":        flipped,
		"short":      good[:1199],
		"no client":  initial(dst, 0, crypto(0, []byte{2, 0, 0, 1, 0})),
		"far crypto": initial(dst, 0, crypto(1<<20, []byte{1})),
		"stream":     initial(dst, 0, []byte{0x08, 0, 0}),
		"short id":   initial([]byte("1234"), 0, crypto(0, []byte{1, 0, 3, 0xe8})),
		"version":    append([]byte{0xc0, 1, 2, 3, 4, 8}, make([]byte, 1300)...),
		"1-RTT":      append([]byte{0x40}, make([]byte, 100)...),
	} {
		if c.take(message(append([]byte(nil), b...), 1)) {
			t.Errorf("%s: it was held back", name)
		}
	}
	if len(f.pending) != 0 {
		t.Errorf("%d are pending", len(f.pending))
	}
}

// Whatever arrives, nothing panics and what is kept stays bounded.
func FuzzTake(f *testing.F) {
	f.Add(initial([]byte("12345678"), 0, crypto(0, []byte{1, 0, 3, 0xe8})), []byte{1, 0, 0, 2, 3, 3}, uint16(1200))
	f.Add([]byte{0x40, 1}, []byte{6, 0, 1, 1}, uint16(1))
	f.Fuzz(func(t *testing.T, datagram, frames []byte, segment uint16) {
		fw := New(func(h *Hello) netip.AddrPort { _ = fmt.Sprint(h.ALPN, h.ServerName); return netip.AddrPort{} }, 1)
		defer fw.Close()
		c := fw.Wrap(nil)
		for i, b := range [][]byte{datagram, initial([]byte("abcdefgh"), 0, frames), initial([]byte("abcdefgh"), 1, datagram[:min(len(datagram), 1000)])} {
			if len(b) == 0 {
				continue
			}
			m := message(append([]byte(nil), b...), i+1)
			m.SegmentSize = int(segment)
			c.take(m)
		}
		if len(fw.pending) > 3 || len(c.queue) > maxQueue {
			t.Errorf("%d pending, %d queued", len(fw.pending), len(c.queue))
		}
	})
}

// crypto is a CRYPTO frame.
func crypto(off uint64, data []byte) []byte {
	b := append(wire.AppendVarint([]byte{wire.FrameCrypto}, off), wire.AppendVarint(nil, uint64(len(data)))...)
	return append(b, data...)
}
