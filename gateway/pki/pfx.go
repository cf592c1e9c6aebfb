package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"unicode/utf16"
)

// PKCS #12 (RFC 7292) as Windows 10 and Server 2019 take it: the key under PBES2
// with AES-256 and HMAC-SHA256, the certificates, which are public, as they are,
// and a MAC over all of it with SHA-256.

const pfxIterations = 100_000

var (
	oidData            = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidShroudedKeyBag  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 2}
	oidCertBag         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}
	oidX509Certificate = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}
	oidLocalKeyID      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 21}
	oidPBES2           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidHMACSHA256      = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES256CBC       = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
	oidSHA256          = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
)

type (
	pfxContent struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue // [0] EXPLICIT OCTET STRING
	}
	pfxBag struct {
		ID         asn1.ObjectIdentifier
		Value      asn1.RawValue  // [0] EXPLICIT
		Attributes []pfxAttribute `asn1:"set,omitempty"`
	}
	pfxAttribute struct {
		ID     asn1.ObjectIdentifier
		Values [][]byte `asn1:"set"`
	}
	pfxCertBag struct {
		ID   asn1.ObjectIdentifier
		Cert []byte `asn1:"tag:0,explicit"`
	}
	pfxShrouded struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	pfxDigest struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
	pfxMAC struct {
		MAC        pfxDigest
		Salt       []byte
		Iterations int
	}
	pfxFile struct {
		Version int
		Safe    pfxContent
		MAC     pfxMAC
	}
	pbkdf2Params struct {
		Salt       []byte
		Iterations int
		PRF        pkix.AlgorithmIdentifier
	}
	pbes2Params struct {
		KDF, Cipher pkix.AlgorithmIdentifier
	}
)

// PFX puts the pair and the CA's certificate into a PKCS #12 file, for Windows.
func (p *Pair) PFX(ca *CA, password string) ([]byte, error) {
	cert, _ := pem.Decode(p.Cert)
	key, _ := pem.Decode(p.Key)
	if cert == nil || key == nil {
		return nil, errors.New("pfx: certificate and key are not PEM")
	}
	bmp, err := bmpString(password)
	if err != nil {
		return nil, err
	}
	shrouded, err := shroud(key.Bytes, password)
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum(cert.Bytes) // how Windows numbers keys; it protects nothing
	// The attribute says which certificate is the key's.
	local := []pfxAttribute{{ID: oidLocalKeyID, Values: [][]byte{sum[:]}}}
	bags := []pfxBag{{ID: oidShroudedKeyBag, Value: explicit(shrouded), Attributes: local}}
	for i, der := range [][]byte{cert.Bytes, ca.Cert.Raw} {
		bag, err := asn1.Marshal(pfxCertBag{oidX509Certificate, der})
		if err != nil {
			return nil, err
		}
		b := pfxBag{ID: oidCertBag, Value: explicit(bag)}
		if i == 0 {
			b.Attributes = local
		}
		bags = append(bags, b)
	}
	contents, err := asn1.Marshal(bags)
	if err != nil {
		return nil, err
	}
	inner, err := data(contents)
	if err != nil {
		return nil, err
	}
	safe, err := asn1.Marshal([]pfxContent{inner})
	if err != nil {
		return nil, err
	}
	outer, err := data(safe)
	if err != nil {
		return nil, err
	}
	salt := random(16)
	mac := hmac.New(sha256.New, macKey(bmp, salt, pfxIterations))
	mac.Write(safe)
	return asn1.Marshal(pfxFile{Version: 3, Safe: outer, MAC: pfxMAC{
		MAC:  pfxDigest{pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}, mac.Sum(nil)},
		Salt: salt, Iterations: pfxIterations,
	}})
}

func explicit(der []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: der}
}

func data(b []byte) (pfxContent, error) {
	octets, err := asn1.Marshal(b)
	return pfxContent{oidData, explicit(octets)}, err
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// shroud encrypts a PKCS #8 key.
func shroud(key []byte, password string) ([]byte, error) {
	salt, iv := random(16), random(aes.BlockSize)
	k, err := pbkdf2.Key(sha256.New, password, salt, pfxIterations, 32)
	if err != nil {
		return nil, fmt.Errorf("pfx: %w", err)
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, fmt.Errorf("pfx: %w", err)
	}
	pad := aes.BlockSize - len(key)%aes.BlockSize
	plain := append([]byte(nil), key...)
	for range pad {
		plain = append(plain, byte(pad))
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(plain, plain)
	kdf, err := asn1.Marshal(pbkdf2Params{salt, pfxIterations, pkix.AlgorithmIdentifier{Algorithm: oidHMACSHA256, Parameters: asn1.NullRawValue}})
	if err != nil {
		return nil, err
	}
	ivDER, err := asn1.Marshal(iv)
	if err != nil {
		return nil, err
	}
	params, err := asn1.Marshal(pbes2Params{
		KDF:    pkix.AlgorithmIdentifier{Algorithm: oidPBKDF2, Parameters: asn1.RawValue{FullBytes: kdf}},
		Cipher: pkix.AlgorithmIdentifier{Algorithm: oidAES256CBC, Parameters: asn1.RawValue{FullBytes: ivDER}},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(pfxShrouded{pkix.AlgorithmIdentifier{Algorithm: oidPBES2, Parameters: asn1.RawValue{FullBytes: params}}, plain})
}

// bmpString is a password as the MAC takes it: UTF-16, big-endian, with a zero
// at the end.
func bmpString(s string) ([]byte, error) {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		if u == 0 {
			return nil, errors.New("pfx: a password with a zero in it")
		}
		out = append(out, byte(u>>8), byte(u))
	}
	return append(out, 0, 0), nil
}

// macKey is the key derivation of RFC 7292, Appendix B.2, for a MAC key with
// SHA-256, whose one block of output is enough.
func macKey(password, salt []byte, iterations int) []byte {
	const v = 64 // block size of SHA-256
	in := make([]byte, 0, 3*v)
	for range v {
		in = append(in, 3) // ID of MAC keys
	}
	for _, part := range [][]byte{salt, password} {
		n := (len(part) + v - 1) / v * v
		for i := range n {
			in = append(in, part[i%len(part)])
		}
	}
	sum := sha256.Sum256(in)
	for range iterations - 1 {
		sum = sha256.Sum256(sum[:])
	}
	return sum[:]
}
