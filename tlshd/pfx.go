package tlshd

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
	"unicode/utf16"

	"golang.org/x/crypto/pkcs12"
)

// PKCS #12 as Windows and OpenSSL write it today: PBES2 with AES-CBC or the
// triple DES of RFC 7292, Appendix C, a MAC over SHA-1 or SHA-2. Files with RC2
// go through golang.org/x/crypto/pkcs12, which knows only the old algorithms.

// maxPFXIterations bounds the work a file may ask for; common are 2,000 to
// 600,000. A variable for the fuzz test, which has no time.
var maxPFXIterations = 10_000_000

var (
	oidDataContent      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidEncryptedContent = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 6}
	oidKeyBag           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 1}
	oidShroudedKeyBag   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 2}
	oidCertBag          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}
	oidX509Cert         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}
	oidPBE3DES          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1, 3}
	oidPBES2            = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
)

var (
	errPFXAlgorithm = errors.New("an algorithm that is not supported")
	errPFXPassword  = errors.New("the password is wrong or the file is damaged (pfx_password_file names the file with the password)")
)

type pfxPDU struct {
	Version  int
	AuthSafe contentInfo
	MacData  macData `asn1:"optional"`
}

type contentInfo struct {
	ContentType asn1.ObjectIdentifier
	Content     asn1.RawValue `asn1:"tag:0,explicit,optional"`
}

type macData struct {
	Mac struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
	Salt       []byte
	Iterations int `asn1:"optional,default:1"`
}

type encryptedData struct {
	Version int
	Info    struct {
		ContentType asn1.ObjectIdentifier
		Algorithm   pkix.AlgorithmIdentifier
		Content     []byte `asn1:"tag:0,optional"`
	}
}

type safeBag struct {
	ID         asn1.ObjectIdentifier
	Value      asn1.RawValue   `asn1:"tag:0,explicit"`
	Attributes []asn1.RawValue `asn1:"set,optional"`
}

type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type certBag struct {
	ID   asn1.ObjectIdentifier
	Data []byte `asn1:"tag:0,explicit"`
}

type pbeParams struct {
	Salt       []byte
	Iterations int
}

type pbes2Params struct {
	KDF    pkix.AlgorithmIdentifier
	Scheme pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

// parsePFX returns the chain, leaf first, and the key of a PKCS #12 file.
func parsePFX(der []byte, password string) ([]*x509.Certificate, crypto.Signer, error) {
	certs, key, err := decodePFX(der, password)
	if errors.Is(err, errPFXAlgorithm) {
		if oldCerts, oldKey, oldErr := decodeOldPFX(der, password); oldErr == nil {
			certs, key, err = oldCerts, oldKey, nil
		} else if errors.Is(oldErr, pkcs12.ErrIncorrectPassword) {
			err = errPFXPassword
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("PKCS #12: %w", err)
	}
	chain, err := orderChain(certs, key)
	if err != nil {
		return nil, nil, fmt.Errorf("PKCS #12: %w", err)
	}
	return chain, key, nil
}

func decodeOldPFX(der []byte, password string) (certs []*x509.Certificate, key crypto.Signer, err error) {
	blocks, err := pkcs12.ToPEM(der, password)
	if err != nil {
		return nil, nil, err
	}
	for _, b := range blocks {
		if b.Type == "CERTIFICATE" {
			cert, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, cert)
			continue
		}
		if key, err = parseKeyDER(b.Bytes); err != nil {
			return nil, nil, err
		}
		clear(b.Bytes)
	}
	return certs, key, nil
}

// orderChain puts the key's certificate first and its issuers after it.
func orderChain(certs []*x509.Certificate, key crypto.Signer) ([]*x509.Certificate, error) {
	if key == nil {
		return nil, errors.New("no private key in it")
	}
	var chain []*x509.Certificate
	for _, c := range certs {
		if pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && pub.Equal(key.Public()) {
			chain = append(chain, c)
			break
		}
	}
	if len(chain) == 0 {
		return nil, errKeyMismatch
	}
	for len(chain) <= len(certs) {
		last := chain[len(chain)-1]
		if bytes.Equal(last.RawIssuer, last.RawSubject) {
			break
		}
		var next *x509.Certificate
		for _, c := range certs {
			if bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil {
				next = c
				break
			}
		}
		if next == nil {
			break
		}
		chain = append(chain, next)
	}
	return chain, nil
}

func decodePFX(der []byte, password string) (certs []*x509.Certificate, key crypto.Signer, err error) {
	var pfx pfxPDU
	if err := unmarshal(der, &pfx); err != nil {
		return nil, nil, fmt.Errorf("not a PKCS #12 file: %w", err)
	}
	if pfx.Version != 3 || !pfx.AuthSafe.ContentType.Equal(oidDataContent) {
		return nil, nil, errPFXAlgorithm
	}
	var safe []byte
	if err := unmarshal(pfx.AuthSafe.Content.Bytes, &safe); err != nil {
		return nil, nil, err
	}
	if len(pfx.MacData.Mac.Digest) > 0 {
		if err := checkMAC(&pfx.MacData, safe, password); err != nil {
			return nil, nil, err
		}
	}
	var contents []contentInfo
	if err := unmarshal(safe, &contents); err != nil {
		return nil, nil, err
	}
	for _, ci := range contents {
		bags, err := openContent(&ci, password)
		if err != nil {
			return nil, nil, err
		}
		for i := range bags {
			if err := readBag(&bags[i], password, &certs, &key); err != nil {
				return nil, nil, err
			}
		}
	}
	return certs, key, nil
}

func openContent(ci *contentInfo, password string) (bags []safeBag, err error) {
	var plain []byte
	switch {
	case ci.ContentType.Equal(oidDataContent):
		err = unmarshal(ci.Content.Bytes, &plain)
	case ci.ContentType.Equal(oidEncryptedContent):
		var enc encryptedData
		if err = unmarshal(ci.Content.Bytes, &enc); err == nil {
			plain, err = pfxDecrypt(enc.Info.Algorithm, enc.Info.Content, password)
		}
	default:
		return nil, errPFXAlgorithm
	}
	if err != nil {
		return nil, err
	}
	return bags, unmarshal(plain, &bags)
}

func readBag(bag *safeBag, password string, certs *[]*x509.Certificate, key *crypto.Signer) error {
	plain := bag.Value.Bytes
	switch {
	case bag.ID.Equal(oidCertBag):
		var cb certBag
		if err := unmarshal(plain, &cb); err != nil {
			return err
		}
		if !cb.ID.Equal(oidX509Cert) {
			return nil
		}
		cert, err := x509.ParseCertificate(cb.Data)
		if err == nil {
			*certs = append(*certs, cert)
		}
		return err
	case bag.ID.Equal(oidShroudedKeyBag):
		var ek encryptedKey
		if err := unmarshal(plain, &ek); err != nil {
			return err
		}
		var err error
		if plain, err = pfxDecrypt(ek.Algorithm, ek.Data, password); err != nil {
			return err
		}
		defer clear(plain)
	case bag.ID.Equal(oidKeyBag):
	default:
		return nil // revocation lists, secrets: not ours
	}
	if *key != nil {
		return errors.New("more than one private key in it")
	}
	k, err := parseKeyDER(plain)
	*key = k
	return err
}

func unmarshal(b []byte, v any) error {
	rest, err := asn1.Unmarshal(b, v)
	if err == nil && len(rest) > 0 {
		err = errors.New("trailing data")
	}
	return err
}

// hashes by the OIDs of digests and of HMACs.
var pfxHashes = map[string]func() hash.Hash{
	"1.3.14.3.2.26":          sha1.New,
	"2.16.840.1.101.3.4.2.1": sha256.New,
	"2.16.840.1.101.3.4.2.2": sha512.New384,
	"2.16.840.1.101.3.4.2.3": sha512.New,
	"1.2.840.113549.2.7":     sha1.New,
	"1.2.840.113549.2.9":     sha256.New,
	"1.2.840.113549.2.10":    sha512.New384,
	"1.2.840.113549.2.11":    sha512.New,
}

func checkMAC(m *macData, safe []byte, password string) error {
	h := pfxHashes[m.Mac.Algorithm.Algorithm.String()]
	if h == nil {
		return errPFXAlgorithm
	}
	if err := checkIterations(m.Iterations); err != nil {
		return err
	}
	// No password is written as no bytes by some and as an empty BMPString by
	// others.
	for _, p := range pfxPasswords(password) {
		mac := hmac.New(h, pfxKDF(h, m.Salt, p, m.Iterations, 3, h().Size()))
		mac.Write(safe)
		if hmac.Equal(mac.Sum(nil), m.Mac.Digest) {
			return nil
		}
	}
	return errPFXPassword
}

func checkIterations(n int) error {
	if n < 1 || n > maxPFXIterations {
		return fmt.Errorf("%d iterations, want 1 to %d", n, maxPFXIterations)
	}
	return nil
}

func pfxPasswords(password string) [][]byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(password)) {
		b = append(b, byte(u>>8), byte(u))
	}
	b = append(b, 0, 0)
	if password == "" {
		return [][]byte{b, nil}
	}
	return [][]byte{b}
}

// pfxKDF is the key derivation of RFC 7292, Appendix B.2.
func pfxKDF(newHash func() hash.Hash, salt, password []byte, iterations int, id byte, size int) []byte {
	h := newHash()
	u, v := h.Size(), h.BlockSize()
	fill := func(b []byte) []byte {
		if len(b) == 0 {
			return nil
		}
		n := (len(b) + v - 1) / v * v
		return bytes.Repeat(b, n/len(b)+1)[:n]
	}
	d := bytes.Repeat([]byte{id}, v)
	in := append(fill(salt), fill(password)...)
	var out []byte
	for len(out) < size {
		h.Reset()
		h.Write(d)
		h.Write(in)
		a := h.Sum(nil)
		for i := 1; i < iterations; i++ {
			h.Reset()
			h.Write(a)
			a = h.Sum(a[:0])
		}
		out = append(out, a...)
		b := bytes.Repeat(a, v/u+1)[:v]
		for j := 0; j < len(in); j += v {
			carry := uint16(1)
			for k := v - 1; k >= 0; k-- {
				carry += uint16(in[j+k]) + uint16(b[k])
				in[j+k] = byte(carry)
				carry >>= 8
			}
		}
	}
	return out[:size]
}

func pfxDecrypt(alg pkix.AlgorithmIdentifier, data []byte, password string) ([]byte, error) {
	switch {
	case alg.Algorithm.Equal(oidPBES2):
		block, iv, err := pbes2Cipher(alg.Parameters.FullBytes, password)
		if err != nil {
			return nil, err
		}
		return cbcDecrypt(block, iv, data)
	case alg.Algorithm.Equal(oidPBE3DES):
		var p pbeParams
		if err := unmarshal(alg.Parameters.FullBytes, &p); err != nil {
			return nil, err
		}
		if err := checkIterations(p.Iterations); err != nil {
			return nil, err
		}
		var plain []byte
		var err error
		for _, pw := range pfxPasswords(password) {
			var block cipher.Block
			if block, err = des.NewTripleDESCipher(pfxKDF(sha1.New, p.Salt, pw, p.Iterations, 1, 24)); err != nil {
				return nil, err
			}
			if plain, err = cbcDecrypt(block, pfxKDF(sha1.New, p.Salt, pw, p.Iterations, 2, 8), data); err == nil {
				return plain, nil
			}
		}
		return nil, err
	}
	return nil, fmt.Errorf("%w: %v", errPFXAlgorithm, alg.Algorithm)
}

var aesKeySizes = map[string]int{
	"2.16.840.1.101.3.4.1.2":  16,
	"2.16.840.1.101.3.4.1.22": 24,
	"2.16.840.1.101.3.4.1.42": 32,
}

func pbes2Cipher(params []byte, password string) (cipher.Block, []byte, error) {
	var p pbes2Params
	if err := unmarshal(params, &p); err != nil {
		return nil, nil, err
	}
	var k pbkdf2Params
	if !p.KDF.Algorithm.Equal(oidPBKDF2) {
		return nil, nil, fmt.Errorf("%w: %v", errPFXAlgorithm, p.KDF.Algorithm)
	}
	if err := unmarshal(p.KDF.Parameters.FullBytes, &k); err != nil {
		return nil, nil, err
	}
	h := sha1.New
	if len(k.PRF.Algorithm) > 0 {
		if h = pfxHashes[k.PRF.Algorithm.String()]; h == nil {
			return nil, nil, fmt.Errorf("%w: %v", errPFXAlgorithm, k.PRF.Algorithm)
		}
	}
	size := aesKeySizes[p.Scheme.Algorithm.String()]
	if size == 0 {
		return nil, nil, fmt.Errorf("%w: %v", errPFXAlgorithm, p.Scheme.Algorithm)
	}
	if err := checkIterations(k.Iterations); err != nil {
		return nil, nil, err
	}
	var iv []byte
	if err := unmarshal(p.Scheme.Parameters.FullBytes, &iv); err != nil {
		return nil, nil, err
	}
	key, err := pbkdf2.Key(h, password, k.Salt, k.Iterations, size)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(key)
	return block, iv, err
}

func cbcDecrypt(block cipher.Block, iv, data []byte) ([]byte, error) {
	n := block.BlockSize()
	if len(iv) != n || len(data) == 0 || len(data)%n != 0 {
		return nil, errPFXPassword
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > n || !bytes.Equal(plain[len(plain)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errPFXPassword
	}
	return plain[:len(plain)-pad], nil
}
