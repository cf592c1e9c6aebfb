// Package pki makes the certificates of tests and small sites: one CA, server
// certificates and client certificates, all ECDSA on P-256. It is no
// replacement for a certificate authority that revokes and renews by itself.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"net/url"
	"os"
	"time"
)

// Extended key usages of RFC 9289, Section 5.2.1, for RPC over TLS and QUIC.
var (
	oidRPCTLSClient = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 33}
	oidRPCTLSServer = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 34}
	oidSAN          = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidUPN          = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
)

// backdate lets a certificate be used at once on machines whose clock is late.
const backdate = time.Hour

// CA signs certificates.
type CA struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Pair is a certificate and its key, PEM.
type Pair struct{ Cert, Key []byte }

// NewCA makes a CA whose certificate is valid for life from now.
func NewCA(now time.Time, name string, life time.Duration) (*CA, *Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make CA key: %w", err)
	}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	pair, cert, err := sign(tmpl, tmpl, key, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make CA certificate: %w", err)
	}
	return &CA{Cert: cert, key: key}, pair, nil
}

// LoadCA reads what NewCA wrote.
func LoadCA(certFile, keyFile string) (*CA, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("CA key: %w", err)
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, fmt.Errorf("CA in %s and %s: not PEM", certFile, keyFile)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("CA certificate %s: %w", certFile, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("CA key %s: %w", keyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !cert.IsCA || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s and %s are not the certificate and the ECDSA key of one CA", certFile, keyFile)
	}
	return &CA{Cert: cert, key: key}, nil
}

// Request describes a certificate. Server and Client choose its usage; at
// least one name is needed beside Name.
type Request struct {
	Name   string // common name
	Server bool
	Client bool
	RPC    bool // also the usages of RFC 9289
	DNS    []string
	IPs    []netip.Addr
	Emails []string
	UPN    string // user principal name, for Windows
	URIs   []string
	Others [][]byte // further names, DER: otherNames
	Life   time.Duration
}

// Issue signs a certificate with a key of its own. A certificate never
// outlives the CA's.
func (ca *CA) Issue(now time.Time, r Request) (*Pair, error) {
	if !r.Server && !r.Client {
		return nil, errors.New("a certificate needs a use: server or client")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: r.Name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(r.Life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	if tmpl.NotAfter.After(ca.Cert.NotAfter) {
		tmpl.NotAfter = ca.Cert.NotAfter
	}
	if tmpl.NotBefore.Before(ca.Cert.NotBefore) {
		tmpl.NotBefore = ca.Cert.NotBefore
	}
	if !tmpl.NotAfter.After(now) {
		return nil, errors.New("the certificate would be expired already: the CA is, or the lifetime is not positive")
	}
	for _, use := range []struct {
		on  bool
		eku x509.ExtKeyUsage
		rpc asn1.ObjectIdentifier
	}{{r.Server, x509.ExtKeyUsageServerAuth, oidRPCTLSServer}, {r.Client, x509.ExtKeyUsageClientAuth, oidRPCTLSClient}} {
		if !use.on {
			continue
		}
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, use.eku)
		if r.RPC {
			tmpl.UnknownExtKeyUsage = append(tmpl.UnknownExtKeyUsage, use.rpc)
		}
	}
	san, err := alternativeNames(r)
	if err != nil {
		return nil, err
	}
	tmpl.ExtraExtensions = []pkix.Extension{san}
	pair, _, err := sign(tmpl, ca.Cert, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate for %s: %w", r.Name, err)
	}
	return pair, nil
}

// alternativeNames writes the extension itself: crypto/x509 has no otherName,
// which is where Windows looks for the user principal name.
func alternativeNames(r Request) (pkix.Extension, error) {
	var names []asn1.RawValue
	add := func(tag int, b []byte) {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: b})
	}
	ia5 := func(tag int, values ...string) error {
		for _, v := range values {
			for _, c := range []byte(v) {
				if c <= ' ' || c >= 0x7f {
					return fmt.Errorf("name %q has characters a certificate can't hold", v)
				}
			}
			add(tag, []byte(v))
		}
		return nil
	}
	for _, u := range r.URIs {
		if parsed, err := url.Parse(u); err != nil || parsed.Scheme == "" {
			return pkix.Extension{}, fmt.Errorf("%q is not a URI", u)
		}
	}
	if err := errors.Join(ia5(2, r.DNS...), ia5(1, r.Emails...), ia5(6, r.URIs...)); err != nil {
		return pkix.Extension{}, err
	}
	for _, ip := range r.IPs {
		add(7, ip.Unmap().AsSlice())
	}
	if r.UPN != "" {
		type otherName struct {
			ID    asn1.ObjectIdentifier
			Value string `asn1:"utf8,explicit,tag:0"`
		}
		der, err := asn1.MarshalWithParams(otherName{oidUPN, r.UPN}, "tag:0")
		if err != nil {
			return pkix.Extension{}, fmt.Errorf("user principal name %q: %w", r.UPN, err)
		}
		names = append(names, asn1.RawValue{FullBytes: der})
	}
	for _, der := range r.Others {
		names = append(names, asn1.RawValue{FullBytes: der})
	}
	if len(names) == 0 {
		return pkix.Extension{}, errors.New("a certificate needs at least one name: DNS, IP, email, UPN or URI")
	}
	der, err := asn1.Marshal(names)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("write names: %w", err)
	}
	return pkix.Extension{Id: oidSAN, Value: der}, nil
}

// sign fills in the serial number, signs, and reads its own work back.
func sign(tmpl, parent *x509.Certificate, key *ecdsa.PrivateKey, signer crypto.Signer) (*Pair, *x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	tmpl.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return &Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, cert, nil
}

// Write makes both files, the key with mode 0600. It never replaces a file:
// the error is then fs.ErrExist, and nothing was written.
func (p *Pair) Write(certFile, keyFile string) error {
	if _, err := os.Lstat(certFile); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return fmt.Errorf("certificate %s: %w", certFile, err)
	}
	if err := WriteNew(keyFile, p.Key, 0o600); err != nil {
		return err
	}
	if err := WriteNew(certFile, p.Cert, 0o644); err != nil {
		return errors.Join(err, os.Remove(keyFile))
	}
	return nil
}

// WriteNew makes a file that must not exist, whole or not at all.
func WriteNew(name string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write: %w", err), os.Remove(name))
	}
	return nil
}
