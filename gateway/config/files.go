package config

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
)

// soon is when the end of a certificate is worth a warning.
const soon = 14 * 24 * time.Hour

const maxKeyFile = 1 << 20

// CheckFiles reads what the configuration points at, private keys included,
// and says what is missing, expired or does not fit together. It is for
// quic-fsgw check, run by a person who may read those files; the packet
// process never calls it. Call it on what Load returned.
func (c *Config) CheckFiles(now time.Time) (problems, warnings Problems) {
	d := *c.dec
	d.problems, d.warnings = nil, nil
	for i, cert := range c.Tlshd.Certificates {
		d.checkPair(fmt.Sprintf("tlshd.certificates[%d]", i), cert, now)
	}
	d.checkCAs("tlshd.client_ca", c.Tlshd.ClientCA, now)
	for name, r := range c.Access {
		d.checkCAs("access."+name+".client_ca", r.ClientCA, now)
		for i, f := range r.CRL {
			d.checkCRL(fmt.Sprintf("access.%s.crl[%d]", name, i), f, c.Tlshd.CRLExpired, now)
		}
	}
	for i, f := range c.Tlshd.CRL {
		d.checkCRL(fmt.Sprintf("tlshd.crl[%d]", i), f, c.Tlshd.CRLExpired, now)
	}
	if h := c.HTTPS; h != nil {
		if h.ACME != nil && h.ACME.CA != "" {
			d.checkCAs("https.acme.ca", []Path{h.ACME.CA}, now)
		}
		if k := h.KDCProxy; k != nil && k.Cert != "" {
			d.checkPair("https.kdc_proxy", Certificate{Cert: k.Cert, Key: k.Key}, now)
		}
	}
	if d.checkReadable("tlshd.ticket_keys", c.Tlshd.TicketKeys) {
		d.checkSecret("tlshd.ticket_keys", c.Tlshd.TicketKeys)
	}
	if name := c.QUIC.AddressKeys; d.checkReadable("quic.address_keys", name) {
		d.checkSecret("quic.address_keys", name)
		if _, err := LoadAddressKeys(string(name)); name != "" && err != nil {
			d.errorAt("quic.address_keys", "openssl rand -hex 32", "%v", err)
		}
	}
	for i := range c.Routes {
		path := fmt.Sprintf("routes[%d]", i)
		if s := c.Routes[i].SMB; s != nil {
			d.checkReadable(path+".smb.probe.password_file", s.Probe.PasswordFile)
		}
		if n := c.Routes[i].NFS; n != nil {
			d.checkReadable(path+".nfs.identity.map_file", n.Identity.MapFile)
		}
	}
	if cl := c.Client; cl != nil {
		if cl.CA != "" {
			d.checkCAs("client.ca", []Path{cl.CA}, now)
		}
		if cl.CRL != "" {
			d.checkCRL("client.crl", cl.CRL, "refuse", now)
		}
		if cl.Cert != "" {
			d.checkPair("client", Certificate{Cert: cl.Cert, Key: cl.Key}, now)
		}
	}
	return sorted(d.problems), sorted(d.warnings)
}

// checkReadable complains about a named file that can't be read.
func (d *decoder) checkReadable(path string, f Path) bool {
	if f == "" {
		return false
	}
	fh, err := os.Open(string(f))
	if err != nil {
		d.errorAt(path, "", "%v", err)
		return false
	}
	if err := fh.Close(); err != nil {
		d.errorAt(path, "", "%v", err)
	}
	return true
}

// checkPair checks one certificate with its key.
func (d *decoder) checkPair(path string, c Certificate, now time.Time) {
	if c.PFX != "" {
		if data, err := readBounded(string(c.PFX), maxKeyFile); err != nil {
			d.errorAt(path+".pfx", "", "%v", err)
		} else if len(data) == 0 || data[0] != 0x30 {
			d.errorAt(path+".pfx", "", "%s is not PKCS #12", c.PFX)
		}
		d.checkSecret(path+".pfx", c.PFX)
		return
	}
	certs, err := readCertificates(c.Cert)
	if err != nil {
		d.errorAt(path+".cert", "quic-fsgw cert server makes one", "%v", err)
	}
	key, err := readKey(c.Key)
	if err != nil {
		d.errorAt(path+".key", "", "%v", err)
	}
	d.checkSecret(path+".key", c.Key)
	if len(certs) == 0 {
		return
	}
	leaf := certs[0]
	if key != nil {
		// As the helper does: exported from AD CS, the CA may stand first.
		pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
		n := slices.IndexFunc(certs, func(x *x509.Certificate) bool { return ok && pub.Equal(x.PublicKey) })
		if n < 0 {
			d.errorAt(path+".key", "", "%s is not the key of %s", c.Key, c.Cert)
		} else {
			leaf = certs[n]
		}
	}
	d.checkDates(path+".cert", "certificate "+string(c.Cert), leaf, now)
	for _, name := range c.Names {
		if !leafCovers(leaf, name) {
			d.errorAt(path+".names", "", "%s is not for %s; it is for %q", c.Cert, name, leaf.DNSNames)
		}
	}
}

func leafCovers(leaf *x509.Certificate, name string) bool {
	for _, n := range leaf.DNSNames {
		if norm, err := normalizePattern(n); err == nil && covered(norm, name) {
			return true
		}
	}
	return false
}

func (d *decoder) checkDates(path, what string, cert *x509.Certificate, now time.Time) {
	switch {
	case now.After(cert.NotAfter):
		d.errorAt(path, "", "%s expired on %s", what, cert.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(cert.NotBefore):
		d.errorAt(path, "is the clock right?", "%s is not valid before %s", what, cert.NotBefore.UTC().Format(time.RFC3339))
	// What is made for a shorter time is renewed in its last third.
	case cert.NotAfter.Sub(now) < min(soon, cert.NotAfter.Sub(cert.NotBefore)/3):
		d.warnAt(path, "", "%s expires on %s", what, cert.NotAfter.UTC().Format(time.DateOnly))
	}
}

// checkSecret complains about a key that everybody may read.
func (d *decoder) checkSecret(path string, f Path) {
	info, err := os.Stat(string(f))
	if err != nil || runtime.GOOS == "windows" {
		return
	}
	if info.Mode().Perm()&0o007 != 0 {
		d.warnAt(path, "chmod o= "+string(f), "everybody on this machine may use %s (mode %#o)", f, info.Mode().Perm())
	}
}

func (d *decoder) checkCAs(path string, files []Path, now time.Time) {
	for _, f := range files {
		certs, err := readCertificates(f)
		if err != nil {
			d.errorAt(path, "", "%v", err)
		}
		for _, cert := range certs {
			if !cert.IsCA {
				d.errorAt(path, "", "%s holds a certificate that is no CA's: %q", f, cert.Subject)
			}
			d.checkDates(path, "CA in "+string(f), cert, now)
		}
	}
}

func (d *decoder) checkCRL(path string, f Path, expired string, now time.Time) {
	data, err := readBounded(string(f), maxFile*16)
	if err != nil {
		d.errorAt(path, "", "%v", err)
		return
	}
	for n, rest := 0, data; ; n++ {
		der := data
		if block, more := pem.Decode(rest); block != nil {
			der, rest = block.Bytes, more
		} else if n > 0 {
			return
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			d.errorAt(path, "", "%s: %v", f, err)
			return
		}
		if !list.NextUpdate.IsZero() && now.After(list.NextUpdate) {
			d.warnAt(path, "fetch a newer one", "%s ended on %s; crl_expired is %s", f, list.NextUpdate.UTC().Format(time.RFC3339), expired)
		}
		if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----")) {
			return
		}
	}
}

// readCertificates reads one or more certificates, PEM or DER.
func readCertificates(f Path) ([]*x509.Certificate, error) {
	data, err := readBounded(string(f), maxKeyFile)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) > 0 {
		return certs, nil
	}
	certs, err = x509.ParseCertificates(data)
	if err != nil || len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no certificate, PEM or DER", f)
	}
	return certs, nil
}

// readKey reads a private key, PEM or DER, in any of the usual wrappings.
func readKey(f Path) (crypto.Signer, error) {
	data, err := readBounded(string(f), maxKeyFile)
	if err != nil {
		return nil, err
	}
	der := data
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		// OpenSSL puts a block EC PARAMETERS before the key.
		if block.Type == "PRIVATE KEY" || block.Type == "EC PRIVATE KEY" || block.Type == "RSA PRIVATE KEY" {
			der = block.Bytes
			break
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" {
			return nil, fmt.Errorf("%s is encrypted, and nobody is there to ask for its password", f)
		}
	}
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if s, ok := k.(crypto.Signer); ok {
			return s, nil
		}
		return nil, errors.New("not a key that signs")
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k, nil
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, nil
	}
	return nil, fmt.Errorf("%s holds no private key, PEM or DER", f)
}
