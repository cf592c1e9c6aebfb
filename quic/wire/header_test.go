package wire

import (
	"bytes"
	"errors"
	"testing"
)

func connID(n int, fill byte) ConnID {
	c, ok := MakeConnID(bytes.Repeat([]byte{fill}, n))
	if !ok {
		panic("connection ID too long")
	}
	return c
}

// longPacket makes a packet with payload bytes after its packet number.
func longPacket(typ PacketType, v Version, dst, src ConnID, token []byte, pnLen, payload int) []byte {
	b, lengthAt := AppendLong(nil, typ, v, dst, src, token, 0x01020304, pnLen)
	b = append(b, bytes.Repeat([]byte{0xab}, payload)...)
	SetLength(b, lengthAt, pnLen+payload)
	return b
}

// longSample is a packet of each kind and version with its parsed form.
type longSample struct {
	name string
	b    []byte
	want LongHeader
}

func longSamples() (all []longSample) {
	dst, src := connID(8, 0xd5), connID(20, 0x5c)
	token := []byte("token")
	for _, v := range []Version{Version1, Version2} {
		for typ := PacketInitial; typ <= PacketHandshake; typ++ {
			for pnLen := 1; pnLen <= 4; pnLen++ {
				s := longSample{name: v.String() + " " + typ.String(), b: longPacket(typ, v, dst, src, token, pnLen, 40)}
				s.want = LongHeader{Type: typ, Version: v, Dst: dst, Src: src, PNOffset: len(s.b) - 40 - pnLen, Len: len(s.b)}
				if typ == PacketInitial {
					s.want.Token = token
				}
				all = append(all, s)
			}
		}
		retry := AppendRetry(nil, v, dst, src, token, 0xff)
		tag := bytes.Repeat([]byte{7}, 16)
		retry = append(retry, tag...)
		all = append(all, longSample{v.String() + " retry", retry,
			LongHeader{Type: PacketRetry, Version: v, Dst: dst, Src: src, Token: token, RetryTag: tag, Len: len(retry)}})
	}
	none := longPacket(PacketInitial, Version1, ConnID{}, ConnID{}, nil, 1, 20)
	all = append(all, longSample{"empty", none,
		LongHeader{Type: PacketInitial, Version: Version1, Token: []byte{}, PNOffset: len(none) - 21, Len: len(none)}})
	vn := AppendVersionNegotiation(nil, dst.Append(nil), src.Append(nil), []Version{Version2, Version1}, 0xff)
	all = append(all, longSample{"version negotiation", vn,
		LongHeader{Type: PacketVersionNegotiation, Dst: dst, Src: src, Len: len(vn), VersionList: vn[len(vn)-8:]}})
	return all
}

func sameHeader(a, b LongHeader) bool {
	return a.Type == b.Type && a.Version == b.Version && a.Dst == b.Dst && a.Src == b.Src &&
		bytes.Equal(a.Token, b.Token) && bytes.Equal(a.VersionList, b.VersionList) &&
		bytes.Equal(a.RetryTag, b.RetryTag) && a.PNOffset == b.PNOffset && a.Len == b.Len
}

func TestParseLong(t *testing.T) {
	for _, s := range longSamples() {
		h, err := ParseLong(s.b)
		if err != nil || !sameHeader(h, s.want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", s.name, h, err, s.want)
		}
		if !IsLong(s.b[0]) || !HasFixedBit(s.b[0]) {
			t.Errorf("%s: first byte %#x", s.name, s.b[0])
		}
		if h.PNOffset != 0 {
			if n := LongHeaderLen(h.Type, h.Dst, h.Src, len(h.Token), 3); n != h.PNOffset+3 {
				t.Errorf("%s: LongHeaderLen = %d, want %d", s.name, n, h.PNOffset+3)
			}
		}
	}
}

// Every truncation of a packet has to be noticed, except those that shorten
// what runs to the end of the datagram: they yield a shorter packet.
func TestParseLongTruncated(t *testing.T) {
	for _, s := range longSamples() {
		for n := range s.b {
			h, err := ParseLong(s.b[:n:n])
			if err != nil {
				continue
			}
			switch {
			case h.Type == PacketRetry && h.Len == n && len(h.Token) < len(s.want.Token):
			case h.Type == PacketVersionNegotiation && h.Len == n && h.NumVersions() == 1:
			default:
				t.Errorf("%s: %d of %d bytes parse as %+v", s.name, n, len(s.b), h)
			}
		}
	}
}

func TestParseLongCoalesced(t *testing.T) {
	dst, src := connID(8, 1), connID(4, 2)
	first := longPacket(PacketInitial, Version1, dst, src, nil, 2, 100)
	second := longPacket(PacketHandshake, Version1, dst, src, nil, 1, 50)
	datagram := append(append(append([]byte(nil), first...), second...), 0x40, 1, 2, 3)
	h, err := ParseLong(datagram)
	if err != nil || h.Len != len(first) {
		t.Fatalf("first: %+v, %v; want %d bytes", h, err, len(first))
	}
	rest := datagram[h.Len:]
	h, err = ParseLong(rest)
	if err != nil || h.Type != PacketHandshake || h.Len != len(second) {
		t.Fatalf("second: %+v, %v; want %d bytes", h, err, len(second))
	}
	if rest = rest[h.Len:]; IsLong(rest[0]) || len(rest) != 4 {
		t.Errorf("third: %x", rest)
	}
}

// RFC 9369, Section 3.2: "Initial: 0b01", "0-RTT: 0b10", "Handshake: 0b11",
// "Retry: 0b00"
func TestTypeBits(t *testing.T) {
	for _, c := range []struct {
		v    Version
		t    PacketType
		bits byte
	}{
		{Version1, PacketInitial, 0}, {Version1, Packet0RTT, 1}, {Version1, PacketHandshake, 2}, {Version1, PacketRetry, 3},
		{Version2, PacketInitial, 1}, {Version2, Packet0RTT, 2}, {Version2, PacketHandshake, 3}, {Version2, PacketRetry, 0},
	} {
		if got := typeBits(c.t, c.v) >> 4; got != c.bits {
			t.Errorf("%v of %v has type bits %#b, want %#b", c.t, c.v, got, c.bits)
		}
	}
}

func TestParseLongErrors(t *testing.T) {
	dst := bytes.Repeat([]byte{1}, 8)
	numbered := func(v Version, dst, src []byte) []byte {
		b := appendInvariant(nil, 0xc0, v, dst, src)
		return append(append(b, 0, 0x14), make([]byte, 20)...)
	}
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"short header", []byte{0x40, 1, 2, 3, 4, 5, 6, 7, 8}, ErrHeader},
		{"nothing", nil, ErrTruncated},
		{"unknown version", numbered(5, dst, dst), ErrVersion},
		{"unknown version with long IDs", numbered(5, make([]byte, 255), make([]byte, 255)), ErrVersion},
		{"destination of 21 bytes", numbered(Version1, make([]byte, 21), dst), ErrConnIDLen},
		{"source of 21 bytes", numbered(Version2, dst, make([]byte, 21)), ErrConnIDLen},
		{"negotiation without versions", appendInvariant(nil, 0x80, 0, dst, dst), ErrTruncated},
		{"negotiation with half a version", append(appendInvariant(nil, 0x80, 0, dst, dst), 1, 2), ErrHeader},
		{"retry without token", append(appendInvariant(nil, 0xf0, 1, dst, dst), make([]byte, 16)...), ErrHeader},
		{"token longer than packet", append(appendInvariant(nil, 0xc0, 1, dst, dst), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1), ErrTruncated},
		{"length longer than packet", append(appendInvariant(nil, 0xe0, 1, dst, dst), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1), ErrTruncated},
	} {
		h, err := ParseLong(c.b)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if c.name == "unknown version" && (h.Version != 5 || !h.Dst.Equal(dst) || !h.Src.Equal(dst)) {
			t.Errorf("%s: %+v", c.name, h)
		}
	}
	v, d, s, rest, ok := ParseInvariant(numbered(5, make([]byte, 255), make([]byte, 254)))
	if !ok || v != 5 || len(d) != 255 || len(s) != 254 || rest != 1+4+1+255+1+254 {
		t.Errorf("ParseInvariant = %v, %d, %d, %d, %v", v, len(d), len(s), rest, ok)
	}
}

func TestShort(t *testing.T) {
	dst := connID(10, 3)
	for _, keyPhase := range []bool{false, true} {
		for _, spin := range []bool{false, true} {
			for pnLen := 1; pnLen <= 4; pnLen++ {
				b := AppendShort([]byte{9}, dst, 0x01020304, pnLen, keyPhase, spin)[1:]
				if IsLong(b[0]) || !HasFixedBit(b[0]) || KeyPhase(b[0]) != keyPhase || Spin(b[0]) != spin || ReservedBits(b[0]) || int(b[0]&3)+1 != pnLen {
					t.Errorf("first byte %#x", b[0])
				}
				if got, ok := ShortDst(b, 10); !ok || !dst.Equal(got) {
					t.Errorf("ShortDst = %x, %v", got, ok)
				}
				if want := []byte{1, 2, 3, 4}[4-pnLen:]; !bytes.Equal(b[11:], want) {
					t.Errorf("packet number %x, want %x", b[11:], want)
				}
				for n := range 11 {
					if _, ok := ShortDst(b[:n], 10); ok {
						t.Errorf("%d bytes hold a connection ID of 10", n)
					}
				}
			}
		}
	}
	if !ReservedBits(0x48) || !ReservedBits(0x50) || !ReservedBits(0xc4) || !ReservedBits(0xc8) || ReservedBits(0xf3) || ReservedBits(0x67) {
		t.Error("wrong reserved bits")
	}
	if _, ok := ShortDst([]byte{0xc0, 1, 2}, 1); ok {
		t.Error("a long header has a short destination")
	}
}

func TestVersionString(t *testing.T) {
	for v, want := range map[Version]string{Version1: "v1", Version2: "v2", 0x1a2a3a4a: "0x1a2a3a4a"} {
		if v.String() != want {
			t.Errorf("%q, want %q", v.String(), want)
		}
	}
	if Version(0x1a2a3a4b).Reserved() || !ReservedVersion(0x12345678).Reserved() || ReservedVersion(0).Known() {
		t.Error("wrong reserved versions")
	}
	if PacketRetry.String() != "retry" || PacketType(99).String() != "unknown" {
		t.Error("wrong packet names")
	}
}

func FuzzHeader(f *testing.F) {
	for _, s := range longSamples() {
		f.Add(s.b)
	}
	f.Add([]byte{0x40, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, dst, src, rest, ok := ParseInvariant(b)
		if ok && (rest > len(b) || rest != 7+len(dst)+len(src)) {
			t.Fatalf("rest %d of %d bytes", rest, len(b))
		}
		ShortDst(b, 10)
		h, err := ParseLong(b)
		if err != nil {
			return
		}
		if !ok || h.Version != v || !h.Dst.Equal(dst) || !h.Src.Equal(src) {
			t.Fatalf("%+v does not agree with the invariants", h)
		}
		if h.Len <= 0 || h.Len > len(b) || h.PNOffset > h.Len {
			t.Fatalf("%+v of %d bytes", h, len(b))
		}
		remake(t, b, h)
	})
}

// remake writes the packet anew from its parsed form. The bits that a version
// leaves free and integers in a longer form than needed may differ, so the
// comparison is of the parsed forms.
func remake(t *testing.T, b []byte, h LongHeader) {
	var again []byte
	switch h.Type {
	case PacketVersionNegotiation:
		var list []Version
		for i := range h.NumVersions() {
			list = append(list, h.VersionAt(i))
		}
		again = AppendVersionNegotiation(nil, h.Dst.Append(nil), h.Src.Append(nil), list, b[0])
	case PacketRetry:
		again = append(AppendRetry(nil, h.Version, h.Dst, h.Src, h.Token, b[0]), h.RetryTag...)
	default:
		n := h.Len - h.PNOffset
		if n < 1 || n > 16383 {
			return
		}
		var at int
		again, at = AppendLong(nil, h.Type, h.Version, h.Dst, h.Src, h.Token, 0, 1)
		again = append(again, b[h.PNOffset+1:h.Len]...)
		SetLength(again, at, n)
	}
	g, err := ParseLong(again)
	if err != nil {
		t.Fatalf("%+v does not parse when written again: %v", h, err)
	}
	if g.Len-g.PNOffset != h.Len-h.PNOffset && h.PNOffset != 0 {
		t.Fatalf("%d bytes after the header became %d", h.Len-h.PNOffset, g.Len-g.PNOffset)
	}
	g.Len, g.PNOffset = h.Len, h.PNOffset
	if !sameHeader(g, h) {
		t.Fatalf("%+v became %+v", h, g)
	}
}

func BenchmarkParseLong(b *testing.B) {
	pkt := longPacket(PacketInitial, Version1, connID(8, 1), connID(8, 2), nil, 2, 1150)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseLong(pkt); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendShort(b *testing.B) {
	dst, buf := connID(10, 1), make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		AppendShort(buf, dst, 1234, 2, false, false)
	}
}
