package protect

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// every calls f with a key of each version and suite, and with the secret.
func every(tb testing.TB, f func(name string, v wire.Version, suite uint16, secret []byte)) {
	tb.Helper()
	for _, v := range []wire.Version{wire.Version1, wire.Version2} {
		for _, suite := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256} {
			s, err := suiteOf(suite)
			if err != nil {
				tb.Fatal(err)
			}
			secret := make([]byte, s.hashLen)
			for i := range secret {
				secret[i] = byte(i) ^ byte(suite)
			}
			f(fmt.Sprintf("%v/%s", v, tls.CipherSuiteName(suite)), v, suite, secret)
		}
	}
}

func mustKey(tb testing.TB, v wire.Version, suite uint16, secret []byte) *Key {
	tb.Helper()
	k, err := NewKey(v, suite, secret)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// payload returns n bytes that differ from each other and from their place.
func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	dst, _ := wire.MakeConnID([]byte{1, 2, 3, 4, 5, 6, 7, 8})
	every(t, func(name string, v wire.Version, suite uint16, secret []byte) {
		send, recv := mustKey(t, v, suite, secret), mustKey(t, v, suite, secret)
		clear(secret) // a Key keeps its own copy
		for pnLen := 1; pnLen <= 4; pnLen++ {
			for _, size := range []int{MinPayload(pnLen), 20, 1400} {
				for _, pn := range []uint64{0, 1, 1<<32 + 5, wire.MaxPacketNumber} {
					plain := payload(size)
					pkt := wire.AppendShort(nil, dst, pn, pnLen, true, false)
					hdr := len(pkt)
					pkt = send.Seal(pkt, plain, pkt, pn)
					if len(pkt) != hdr+size+TagLen {
						t.Fatalf("%s: sealed %d bytes into %d", name, size, len(pkt)-hdr)
					}
					send.ProtectHeader(pkt, 9, pnLen)
					n, truncated, ok := recv.UnprotectHeader(pkt, 9)
					if !ok || n != pnLen || wire.DecodePacketNumber(int64(pn)-1, truncated, n) != pn {
						t.Fatalf("%s: packet number %d of %d bytes came back as %d of %d", name, pn, pnLen, truncated, n)
					}
					got, err := recv.Open(pkt[hdr:hdr], pkt[hdr:], pkt[:hdr], pn)
					if err != nil || !bytes.Equal(got, plain) {
						t.Fatalf("%s: Open: %v", name, err)
					}
				}
			}
		}
	})
}

// Any changed byte, missing byte or wrong packet number has to be noticed.
func TestOpenRefuses(t *testing.T) {
	every(t, func(name string, v wire.Version, suite uint16, secret []byte) {
		k := mustKey(t, v, suite, secret)
		header := []byte("header")
		sealed := k.Seal(nil, payload(30), header, 7)
		refused := func(what string, ciphertext, ad []byte, pn uint64) {
			t.Helper()
			if _, err := k.Open(nil, ciphertext, ad, pn); !errors.Is(err, ErrOpen) {
				t.Errorf("%s: %s: error %v, want ErrOpen", name, what, err)
			}
		}
		for i := range sealed {
			bad := append([]byte(nil), sealed...)
			bad[i] ^= 1
			refused("changed", bad, header, 7)
			refused("truncated", sealed[:i], header, 7)
		}
		refused("other header", sealed, header[1:], 7)
		refused("other number", sealed, header, 8)
	})
}

func TestUnprotectHeaderTruncated(t *testing.T) {
	every(t, func(name string, v wire.Version, suite uint16, secret []byte) {
		k := mustKey(t, v, suite, secret)
		pkt := wire.AppendShort(nil, wire.ConnID{}, 1, 2, false, false)
		pkt = k.Seal(pkt, payload(MinPayload(2)), pkt, 1)
		k.ProtectHeader(pkt, 1, 2)
		for n := range pkt {
			before := append([]byte(nil), pkt[:n]...)
			if _, _, ok := k.UnprotectHeader(pkt[:n], 1); ok {
				t.Errorf("%s: %d of %d bytes are enough", name, n, len(pkt))
			}
			if !bytes.Equal(before, pkt[:n]) {
				t.Errorf("%s: a refused packet was changed", name)
			}
		}
		if _, _, ok := k.UnprotectHeader(pkt, 0); ok {
			t.Errorf("%s: a packet number at offset 0 is taken", name)
		}
		if _, _, ok := k.UnprotectHeader(pkt, 1); !ok {
			t.Errorf("%s: the whole packet is refused", name)
		}
	})
}

// RFC 9001, Section 5.4.2: "This results in needing at least 3 bytes of
// frames in the unprotected payload if the packet number is encoded on a single
// byte, or 2 bytes of frames for a 2-byte packet number encoding."
func TestMinPayload(t *testing.T) {
	for pnLen, want := range map[int]int{1: 3, 2: 2, 3: 1, 4: 0} {
		if got := MinPayload(pnLen); got != want {
			t.Errorf("MinPayload(%d) = %d, want %d", pnLen, got, want)
		}
	}
}

func TestNext(t *testing.T) {
	every(t, func(name string, v wire.Version, suite uint16, secret []byte) {
		k := mustKey(t, v, suite, secret)
		n1, err := k.Next()
		if err != nil {
			t.Fatal(err)
		}
		n2, err := n1.Next()
		if err != nil {
			t.Fatal(err)
		}
		again, err := k.Next()
		if err != nil {
			t.Fatal(err)
		}
		sealed := n1.Seal(nil, payload(10), nil, 1)
		if _, err := k.Open(nil, sealed, nil, 1); err == nil {
			t.Errorf("%s: the old key opens a packet of the new phase", name)
		}
		if _, err := n2.Open(nil, sealed, nil, 1); err == nil {
			t.Errorf("%s: the key after next opens a packet of the next phase", name)
		}
		if _, err := again.Open(nil, sealed, nil, 1); err != nil {
			t.Errorf("%s: Next is not the same twice: %v", name, err)
		}
		// RFC 9001, Section 6.1: "The header protection key is not updated."
		sample := payload(SampleLen)
		k.header.mask(sample)
		k.Zero()
		n1.Zero()
		n2.header.mask(sample)
		again.header.mask(sample)
		if n2.header.out != again.header.out || n2.header.out == [16]byte{} {
			t.Errorf("%s: header protection changed", name)
		}
	})
}

func TestZero(t *testing.T) {
	every(t, func(name string, v wire.Version, suite uint16, secret []byte) {
		k := mustKey(t, v, suite, secret)
		pkt := wire.AppendShort(nil, wire.ConnID{}, 1, 4, false, false)
		pkt = k.Seal(pkt, payload(10), pkt, 1)
		held := k.secret
		chacha := k.header.chacha
		k.Zero()
		if !bytes.Equal(held, make([]byte, len(held))) || k.iv != [nonceLen]byte{} {
			t.Errorf("%s: secret or IV survives", name)
		}
		if chacha != nil && *chacha != [32]byte{} {
			t.Errorf("%s: header protection key survives", name)
		}
		if _, err := k.Open(nil, pkt[5:], pkt[:5], 1); !errors.Is(err, ErrZeroed) {
			t.Errorf("%s: Open: %v, want ErrZeroed", name, err)
		}
		if _, err := k.Next(); !errors.Is(err, ErrZeroed) {
			t.Errorf("%s: Next: %v, want ErrZeroed", name, err)
		}
		if _, _, ok := k.UnprotectHeader(pkt, 1); ok {
			t.Errorf("%s: UnprotectHeader still works", name)
		}
		k.Zero()
	})
}

func TestNewKeyErrors(t *testing.T) {
	for _, c := range []struct {
		v      wire.Version
		suite  uint16
		secret int
	}{
		{0, suiteAES128GCM, 32},
		{3, suiteAES128GCM, 32},
		{wire.Version1, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 32},
		{wire.Version1, 0x1305, 32}, // TLS_AES_128_CCM_8_SHA256
		{wire.Version1, suiteAES128GCM, 0},
		{wire.Version1, suiteAES128GCM, 48},
		{wire.Version2, suiteAES256GCM, 32},
		{wire.Version2, suiteChaCha20Poly1305, 31},
	} {
		if k, err := NewKey(c.v, c.suite, make([]byte, c.secret)); err == nil || k != nil {
			t.Errorf("NewKey(%v, %#x, %d bytes) = %v, %v; want an error", c.v, c.suite, c.secret, k, err)
		}
	}
	if client, server := InitialKeys(7, []byte{1}); client != nil || server != nil {
		t.Error("InitialKeys knows version 7")
	}
}

// RFC 9001, Section 6.6.
func TestLimits(t *testing.T) {
	every(t, func(name string, v wire.Version, suite uint16, secret []byte) {
		k := mustKey(t, v, suite, secret)
		confidentiality, integrity := uint64(1<<23), uint64(1<<52)
		if suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
			confidentiality, integrity = 1<<62, 1<<36
		}
		if k.Suite() != suite || k.ConfidentialityLimit() != confidentiality || k.IntegrityLimit() != integrity {
			t.Errorf("%s: limits %d, %d", name, k.ConfidentialityLimit(), k.IntegrityLimit())
		}
	})
}

func TestNoAllocations(t *testing.T) {
	every(t, func(name string, v wire.Version, suite uint16, secret []byte) {
		k := mustKey(t, v, suite, secret)
		plain := payload(1400)
		pkt := make([]byte, 0, 1500)
		var failed bool
		allocs := testing.AllocsPerRun(100, func() {
			out := wire.AppendShort(pkt, wire.ConnID{}, 9, 2, false, false)
			hdr := len(out)
			out = k.Seal(out, plain, out, 9)
			k.ProtectHeader(out, 1, 2)
			_, _, ok := k.UnprotectHeader(out, 1)
			_, err := k.Open(out[hdr:hdr], out[hdr:], out[:hdr], 9)
			failed = failed || !ok || err != nil
		})
		if failed {
			t.Fatalf("%s: packet did not come back", name)
		}
		if allocs != 0 {
			t.Errorf("%s: %v allocations a packet, want 0", name, allocs)
		}
	})
}

// FuzzPacket feeds datagrams to the keys a server has for a client's first
// packet. Nothing may panic, and what opens must have been sealed with the key.
func FuzzPacket(f *testing.F) {
	for _, v := range samples {
		f.Add(unhex(v.client.packet))
		f.Add(unhex(v.server.packet))
		f.Add(unhex(v.retry))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			h, err := wire.ParseLong(b)
			if err != nil {
				return
			}
			pkt := b[:h.Len:h.Len]
			b = b[h.Len:]
			if h.PNOffset == 0 {
				continue
			}
			client, _ := InitialKeys(h.Version, h.Dst.Append(nil))
			pnLen, truncated, ok := client.UnprotectHeader(pkt, h.PNOffset)
			if !ok {
				continue
			}
			pn := wire.DecodePacketNumber(-1, truncated, pnLen)
			at := h.PNOffset + pnLen
			header, sealed := append([]byte(nil), pkt[:at]...), append([]byte(nil), pkt[at:]...)
			plain, err := client.Open(pkt[at:at], pkt[at:], pkt[:at], pn)
			if err == nil && !bytes.Equal(client.Seal(nil, plain, header, pn), sealed) {
				t.Fatal("an opened packet does not seal to what it was")
			}
		}
	})
}

func benchKeys(b *testing.B, f func(b *testing.B, k *Key)) {
	every(b, func(name string, v wire.Version, suite uint16, secret []byte) {
		if v != wire.Version1 {
			return // the same code
		}
		k := mustKey(b, v, suite, secret)
		b.Run(tls.CipherSuiteName(suite), func(b *testing.B) {
			b.ReportAllocs()
			f(b, k)
		})
	})
}

func BenchmarkSeal(b *testing.B) {
	benchKeys(b, func(b *testing.B, k *Key) {
		plain, out, header := payload(1400), make([]byte, 0, 1500), payload(13)
		b.SetBytes(1400)
		for pn := uint64(0); b.Loop(); pn++ {
			k.Seal(out, plain, header, pn)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	benchKeys(b, func(b *testing.B, k *Key) {
		header := payload(13)
		sealed, out := k.Seal(nil, payload(1400), header, 1), make([]byte, 0, 1500)
		b.SetBytes(1400)
		for b.Loop() {
			if _, err := k.Open(out, sealed, header, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkProtectHeader(b *testing.B) {
	benchKeys(b, func(b *testing.B, k *Key) {
		pkt := payload(100)
		for b.Loop() {
			k.ProtectHeader(pkt, 9, 2)
		}
	})
}

func BenchmarkUnprotectHeader(b *testing.B) {
	benchKeys(b, func(b *testing.B, k *Key) {
		pkt := payload(100)
		for b.Loop() {
			k.UnprotectHeader(pkt, 9)
		}
	})
}

func BenchmarkNext(b *testing.B) {
	benchKeys(b, func(b *testing.B, k *Key) {
		for b.Loop() {
			if _, err := k.Next(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkInitialKeys(b *testing.B) {
	b.ReportAllocs()
	dst := unhex(sampleClientDst)
	for b.Loop() {
		if client, _ := InitialKeys(wire.Version1, dst); client == nil {
			b.Fatal("no keys")
		}
	}
}

func BenchmarkRetryTag(b *testing.B) {
	b.ReportAllocs()
	dst, _ := wire.MakeConnID(unhex(sampleClientDst))
	pkt := payload(100)
	for b.Loop() {
		RetryTag(wire.Version1, dst, pkt)
	}
}
