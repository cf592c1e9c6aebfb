package protect

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

func equal(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if w := unhex(want); !bytes.Equal(got, w) {
		t.Errorf("%s:\n got %x\nwant %x", what, got, w)
	}
}

// RFC 9001, Appendix A.1 and RFC 9369, Appendix A.1: secrets, keys and labels.
func TestSampleKeys(t *testing.T) {
	for _, v := range samples {
		p, err := paramsOf(v.version)
		if err != nil {
			t.Fatal(err)
		}
		initial, err := hkdf.Extract(sha256.New, unhex(sampleClientDst), p.initialSalt[:])
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "initial_secret", initial, v.initialSecret)
		for _, d := range []struct {
			label string
			initialSample
		}{{"client in", v.client}, {"server in", v.server}} {
			secret := mustExpand(t, &suite128, initial, d.label, 32)
			equal(t, d.label, secret, d.secret)
			equal(t, "key", mustExpand(t, &suite128, secret, p.keyLabel, 16), d.key)
			equal(t, "iv", mustExpand(t, &suite128, secret, p.ivLabel, 12), d.iv)
			equal(t, "hp", mustExpand(t, &suite128, secret, p.hpLabel, 16), d.hp)
		}
	}
}

func mustExpand(t *testing.T, s *suiteParams, secret []byte, label string, n int) []byte {
	t.Helper()
	out, err := s.expand(secret, label, n)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// RFC 9001, Appendix A.2 and A.3; RFC 9369, Appendix A.2 and A.3: what the
// packets look like, made and taken apart.
func TestSampleInitials(t *testing.T) {
	clientPayload := make([]byte, sampleClientPayloadLen)
	copy(clientPayload, unhex(sampleClientPayload))
	for _, v := range samples {
		client, server := InitialKeys(v.version, unhex(sampleClientDst))
		testSampleInitial(t, client, v.client, clientPayload, 2, 4)
		testSampleInitial(t, server, v.server, unhex(sampleServerPayload), 1, 2)
	}
}

func testSampleInitial(t *testing.T, k *Key, s initialSample, payload []byte, pn uint64, pnLen int) {
	t.Helper()
	header := unhex(s.header)
	pnOffset := len(header) - pnLen
	equal(t, "iv", k.iv[:], s.iv)

	pkt := append([]byte(nil), header...)
	pkt = k.Seal(pkt, payload, header, pn)
	equal(t, "sample", pkt[pnOffset+4:pnOffset+4+SampleLen], s.sample)
	k.ProtectHeader(pkt, pnOffset, pnLen)
	equal(t, "mask", k.header.out[:5], s.mask)
	equal(t, "protected header", pkt[:len(header)], s.protectedHeader)
	equal(t, "packet", pkt, s.packet)

	h, err := wire.ParseLong(pkt)
	if err != nil || h.Type != wire.PacketInitial || h.PNOffset != pnOffset || h.Len != len(pkt) {
		t.Fatalf("ParseLong = %+v, %v; want an Initial of %d bytes, packet number at %d", h, err, len(pkt), pnOffset)
	}
	n, truncated, ok := k.UnprotectHeader(pkt, h.PNOffset)
	if !ok || n != pnLen || truncated != pn {
		t.Fatalf("UnprotectHeader = %d, %d, %v; want %d, %d", n, truncated, ok, pnLen, pn)
	}
	if !bytes.Equal(pkt[:len(header)], header) {
		t.Errorf("header is %x after removal of its protection, want %x", pkt[:len(header)], header)
	}
	body := pkt[len(header):]
	got, err := k.Open(body[:0], body, pkt[:len(header)], pn)
	if err != nil || !bytes.Equal(got, payload) {
		t.Errorf("Open: %v, payload %x", err, got)
	}
}

// RFC 9001, Appendix A.4 and RFC 9369, Appendix A.4.
func TestSampleRetry(t *testing.T) {
	dst, _ := wire.MakeConnID(unhex(sampleClientDst))
	src, _ := wire.MakeConnID(unhex("f067a5502a4262b5"))
	for _, v := range samples {
		pkt := wire.AppendRetry(nil, v.version, wire.ConnID{}, src, []byte("token"), 0x0f)
		tag := RetryTag(v.version, dst, pkt)
		pkt = append(pkt, tag[:]...)
		equal(t, "retry", pkt, v.retry)
		h, err := wire.ParseLong(pkt)
		if err != nil || h.Type != wire.PacketRetry || string(h.Token) != "token" || h.Src != src || !bytes.Equal(h.RetryTag, tag[:]) {
			t.Errorf("ParseLong = %+v, %v", h, err)
		}
		if !CheckRetryTag(v.version, dst, pkt) {
			t.Error("the right tag is refused")
		}
		for i := range pkt {
			bad := append([]byte(nil), pkt...)
			bad[i] ^= 0x10
			if CheckRetryTag(v.version, dst, bad) {
				t.Errorf("tag is accepted with byte %d changed", i)
			}
			if CheckRetryTag(v.version, dst, pkt[:i]) {
				t.Errorf("tag is accepted with %d of %d bytes", i, len(pkt))
			}
		}
		if CheckRetryTag(v.version, src, pkt) {
			t.Error("tag is accepted for another connection ID")
		}
	}
	if CheckRetryTag(5, dst, make([]byte, 40)) || RetryTag(5, dst, nil) != [TagLen]byte{} {
		t.Error("a version without keys has a Retry tag")
	}
}

// RFC 9001, Appendix A.5 and RFC 9369, Appendix A.5.
func TestSampleChaCha20ShortHeader(t *testing.T) {
	for _, v := range samples {
		secret := unhex(sampleSecret)
		p, err := paramsOf(v.version)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "key", mustExpand(t, &suiteChaCha, secret, p.keyLabel, 32), v.key)
		equal(t, "iv", mustExpand(t, &suiteChaCha, secret, p.ivLabel, 12), v.iv)
		equal(t, "hp", mustExpand(t, &suiteChaCha, secret, p.hpLabel, 32), v.hp)
		k, err := NewKey(v.version, suiteChaCha20Poly1305, secret)
		if err != nil {
			t.Fatal(err)
		}
		next, err := k.Next()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "ku", next.secret, v.ku)

		pkt := wire.AppendShort(nil, wire.ConnID{}, sampleNumber, 3, false, false)
		equal(t, "header", pkt, "4200bff4")
		pkt = k.Seal(pkt, []byte{wire.FramePing}, pkt, sampleNumber)
		k.ProtectHeader(pkt, 1, 3)
		equal(t, "mask", k.header.out[:5], v.mask)
		equal(t, "packet", pkt, v.packet)

		n, truncated, ok := k.UnprotectHeader(pkt, 1)
		if !ok || n != 3 || truncated != sampleNumber&0xffffff {
			t.Fatalf("UnprotectHeader = %d, %d, %v", n, truncated, ok)
		}
		if pn := wire.DecodePacketNumber(sampleNumber-1, truncated, n); pn != sampleNumber {
			t.Errorf("packet number %d, want %d", pn, sampleNumber)
		}
		got, err := k.Open(nil, pkt[4:], pkt[:4], sampleNumber)
		if err != nil || !bytes.Equal(got, []byte{wire.FramePing}) {
			t.Errorf("Open = %x, %v", got, err)
		}
	}
}
