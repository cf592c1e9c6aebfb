//go:build amd64 && !purego

package gcm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
)

func pair(t testing.TB, key []byte) (ours, std cipher.AEAD) {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	if std, err = cipher.NewGCM(block); err != nil {
		t.Fatal(err)
	}
	ours, ok := New(key)
	if !ok {
		t.Skip("this processor has no AVX-512 with VAES and VPCLMULQDQ: the standard library's is used")
	}
	return ours, std
}

func random(r *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// compare seals and opens with both.
func compare(t *testing.T, ours, std cipher.AEAD, nonce, text, ad []byte) {
	t.Helper()
	want := std.Seal(nil, nonce, text, ad)
	guard := []byte("guard")
	room := make([]byte, len(guard)+len(want)+64)
	for i := range room {
		room[i] = 0xa5
	}
	copy(room, guard)
	got := ours.Seal(room[:len(guard)], nonce, text, ad)
	if !bytes.Equal(got[len(guard):], want) || !bytes.Equal(got[:len(guard)], guard) {
		t.Fatalf("%d bytes, %d additional: sealed\n%x, want\n%x", len(text), len(ad), got[len(guard):], want)
	}
	for i, b := range room[len(got):] {
		if b != 0xa5 {
			t.Fatalf("%d bytes: byte %d behind the tag was written to", len(text), i)
		}
	}
	inPlace := append(make([]byte, 0, len(want)), text...)
	if ours.Seal(inPlace[:0], nonce, inPlace, ad); !bytes.Equal(inPlace[:len(want)], want) {
		t.Fatalf("%d bytes: sealed in place otherwise", len(text))
	}
	open, err := ours.Open(nil, nonce, want, ad)
	if err != nil || !bytes.Equal(open, text) {
		t.Fatalf("%d bytes, %d additional: opened %x, %v", len(text), len(ad), open, err)
	}
	sealed := bytes.Clone(want)
	if open, err = ours.Open(sealed[:0], nonce, sealed, ad); err != nil || !bytes.Equal(open, text) {
		t.Fatalf("%d bytes: opened in place: %v", len(text), err)
	}
	if !bytes.Equal(sealed[len(text):], want[len(text):]) {
		t.Fatalf("%d bytes: Open wrote over the tag", len(text))
	}
}

// All lengths up to a few rounds of the loop, and some beyond, seal and open as
// the standard library does, with any additional data.
func TestLikeStandard(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	n := rand.New(r)
	for _, size := range []int{16, 32} {
		for length := range 1100 {
			key := random(r, size)
			ours, std := pair(t, key)
			for _, ad := range []int{0, 1 + length%64, n.IntN(300)} {
				compare(t, ours, std, random(r, nonceSize), random(r, length), random(r, ad))
			}
		}
		for range 200 {
			ours, std := pair(t, random(r, size))
			compare(t, ours, std, random(r, nonceSize), random(r, n.IntN(70000)), random(r, n.IntN(2000)))
		}
	}
}

// Extreme keys and texts: of zeros, of ones, and hash keys with either first bit.
func TestExtremes(t *testing.T) {
	for _, size := range []int{16, 32} {
		for k := range 64 {
			key := bytes.Repeat([]byte{byte(k * 0x55)}, size)
			key[k%size] ^= byte(k)
			ours, std := pair(t, key)
			for _, fill := range []byte{0, 0xff, 0x80, 0x01} {
				for _, n := range []int{0, 1, 16, 255, 256, 257, 1372, 4096} {
					compare(t, ours, std, bytes.Repeat([]byte{fill}, nonceSize), bytes.Repeat([]byte{fill}, n), bytes.Repeat([]byte{fill}, n%70))
				}
			}
		}
	}
}

// Test cases 1 to 4 of the specification that GCM was submitted with to NIST
// (McGrew and Viega, "The Galois/Counter Mode of Operation", Appendix B), which
// have keys of 128 bits, and 13 to 16, which have 256.
func TestVectors(t *testing.T) {
	const (
		key   = "feffe9928665731c6d6a8f9467308308"
		nonce = "cafebabefacedbaddecaf888"
		text  = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
		ad    = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
		out1  = "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985"
		out2  = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
		zero  = "00000000000000000000000000000000"
	)
	for i, v := range []struct{ key, nonce, text, ad, out, tag string }{
		{zero, zero[:24], "", "", "", "58e2fccefa7e3061367f1d57a4e7455a"},
		{zero, zero[:24], zero, "", "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf"},
		{key, nonce, text, "", out1, "4d5c2af327cd64a62cf35abd2ba6fab4"},
		{key, nonce, text[:120], ad, out1[:120], "5bc94fbc3221a5db94fae95ae7121a47"},
		{zero + zero, zero[:24], "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"},
		{zero + zero, zero[:24], zero, "", "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
		{key + key, nonce, text, "", out2, "b094dac5d93471bdec1a502270e3cc6c"},
		{key + key, nonce, text[:120], ad, out2[:120], "76fc6ece0f4e1768cddf8853bb2d551b"},
	} {
		b := func(s string) []byte {
			b, err := hex.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		ours, _ := pair(t, b(v.key))
		if got := ours.Seal(nil, b(v.nonce), b(v.text), b(v.ad)); !bytes.Equal(got, b(v.out+v.tag)) {
			t.Errorf("%d: %x, want %s %s", i, got, v.out, v.tag)
		}
	}
}

// Nothing that was changed opens, and nothing of it is given out.
func TestForged(t *testing.T) {
	r := rand.NewChaCha8([32]byte{2})
	ours, _ := pair(t, random(r, 16))
	nonce, text, ad := random(r, nonceSize), random(r, 300), random(r, 25)
	sealed := ours.Seal(nil, nonce, text, ad)
	refuse := func(what string, nonce, sealed, ad []byte) {
		t.Helper()
		room := bytes.Repeat([]byte{1}, len(sealed))
		if out, err := ours.Open(room[:0], nonce, sealed, ad); err == nil || out != nil {
			t.Errorf("%s: opened", what)
		}
		if n := len(sealed) - tagSize; n > 0 && !bytes.Equal(room[:n], make([]byte, n)) {
			t.Errorf("%s: what could not be opened was left in place", what)
		}
	}
	flip := func(b []byte, bit int) []byte {
		b = bytes.Clone(b)
		b[bit/8] ^= 1 << (bit % 8)
		return b
	}
	for bit := range 8 * len(sealed) {
		refuse(fmt.Sprintf("bit %d", bit), nonce, flip(sealed, bit), ad)
	}
	for bit := range 8 * len(ad) {
		refuse(fmt.Sprintf("bit %d of the additional data", bit), nonce, sealed, flip(ad, bit))
	}
	for bit := range 8 * nonceSize {
		refuse(fmt.Sprintf("bit %d of the nonce", bit), flip(nonce, bit), sealed, ad)
	}
	for n := range len(sealed) {
		refuse(fmt.Sprintf("%d bytes", n), nonce, sealed[:n], ad)
	}
	refuse("less additional data", nonce, sealed, ad[:len(ad)-1])
	refuse("a zero more of additional data", nonce, sealed, append(bytes.Clone(ad), 0))
}

func TestAllocatesNothing(t *testing.T) {
	ours, _ := pair(t, make([]byte, 16))
	b := make([]byte, 1400)
	nonce := make([]byte, nonceSize)
	if n := testing.AllocsPerRun(100, func() {
		ours.Seal(b[25:25], nonce, b[25:1384], b[:25])
		if _, err := ours.Open(b[25:25], nonce, b[25:], b[:25]); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzLikeStandard(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte("nonce nonce."), []byte("text"), []byte("additional"))
	f.Fuzz(func(t *testing.T, key, nonce, text, ad []byte) {
		if len(key) < 16 || len(nonce) < nonceSize {
			return
		}
		for _, key := range [][]byte{key[:16], bytes.Repeat(key[:16], 2), append(key[:16:16], key[len(key)-16:]...)} {
			ours, std := pair(t, key)
			compare(t, ours, std, nonce[:nonceSize], text, ad)
			if out, err := ours.Open(nil, nonce[:nonceSize], text, ad); err == nil {
				if want, err := std.Open(nil, nonce[:nonceSize], text, ad); err != nil || !bytes.Equal(out, want) {
					t.Fatal("opens what the standard library does not")
				}
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) { benchmark(b, false) }
func BenchmarkOpen(b *testing.B) { benchmark(b, true) }

func benchmark(b *testing.B, open bool) {
	ours, std := pair(b, make([]byte, 16))
	for _, size := range []int{64, 512, 1372, 8192} {
		for name, a := range map[string]cipher.AEAD{"ours": ours, "std": std} {
			b.Run(fmt.Sprintf("%d/%s", size, name), func(b *testing.B) {
				text, ad, nonce := make([]byte, size), make([]byte, 11), make([]byte, nonceSize)
				sealed := a.Seal(nil, nonce, text, ad)
				out := make([]byte, 0, len(sealed))
				b.SetBytes(int64(size))
				for b.Loop() {
					if !open {
						a.Seal(out, nonce, text, ad)
					} else if _, err := a.Open(out, nonce, sealed, ad); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
