package tlshd

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
)

// certificates finds the certificate for a server name. It is immutable.
type certificates struct {
	exact  map[string][]*tls.Certificate
	suffix map[string][]*tls.Certificate // "*.example.com" is under "example.com"
	any    []*tls.Certificate
}

// loadServerCertificates reads every certificate of a configuration.
func loadServerCertificates(f *fileSet, list []Certificate) (*certificates, error) {
	cs := &certificates{exact: map[string][]*tls.Certificate{}, suffix: map[string][]*tls.Certificate{}}
	for i := range list {
		cert, err := loadCertificate(f, &list[i])
		if err != nil {
			return nil, fmt.Errorf("tlshd: certificates[%d]: %w", i, err)
		}
		names := list[i].Names
		if len(names) == 0 {
			names = cert.Leaf.DNSNames
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("tlshd: certificates[%d]: no names are given and the certificate has no DNS name", i)
		}
		for _, n := range names {
			if err := cs.add(n, cert); err != nil {
				return nil, fmt.Errorf("tlshd: certificates[%d]: %w", i, err)
			}
		}
	}
	return cs, nil
}

func (cs *certificates) add(pattern string, cert *tls.Certificate) error {
	if err := checkNamePattern(pattern); err != nil {
		return err
	}
	if pattern == "*" {
		cs.any = append(cs.any, cert)
		return nil
	}
	suffix, wild := strings.CutPrefix(pattern, "*.")
	name, _ := normalizeName(suffix)
	if wild {
		cs.suffix[name] = append(cs.suffix[name], cert)
	} else {
		cs.exact[name] = append(cs.exact[name], cert)
	}
	return nil
}

// find returns the certificates for a normalized name, "" for a client that
// sent none: those for exactly this name, else those of the longest suffix, else
// the default ones, else none.
func (cs *certificates) find(name string) []*tls.Certificate {
	if name != "" {
		if found := cs.exact[name]; len(found) > 0 {
			return found
		}
		for rest := name; ; {
			_, parent, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			if found := cs.suffix[parent]; len(found) > 0 {
				return found
			}
			rest = parent
		}
	}
	return cs.any
}

// choose picks the certificate for a ClientHello.
func (cs *certificates) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, *Error) {
	name := ""
	if hello.ServerName != "" {
		var ok bool
		if name, ok = normalizeName(hello.ServerName); !ok {
			return nil, nameError(hello.ServerName)
		}
	}
	found := cs.find(name)
	switch {
	case len(found) > 0:
	case name == "":
		// RFC 8446, Section 9.2: "Servers requiring this extension SHOULD
		// respond to a ClientHello lacking a "server_name" extension by
		// terminating the connection with a "missing_extension" alert."
		return nil, &Error{Status: StatusENOKEY, Alert: alertMissingExtension, Reason: ReasonNoServerName,
			Detail: "the client sent no server name and no certificate is the default"}
	default:
		return nil, nameError(hello.ServerName)
	}
	for _, cert := range found {
		if hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return found[0], nil
}

func nameError(name string) *Error {
	return &Error{Status: StatusENOKEY, Alert: alertUnrecognizedName, Reason: ReasonUnrecognizedName,
		Detail: fmt.Sprintf("no certificate for the server name %q", name)}
}

// loadCertificate reads a chain and its key.
func loadCertificate(f *fileSet, c *Certificate) (*tls.Certificate, error) {
	chain, key, err := readPair(f, c)
	if err != nil {
		return nil, err
	}
	if len(chain) > maxChainLen {
		return nil, fmt.Errorf("a chain of %d certificates, at most %d are sent", len(chain), maxChainLen)
	}
	pub, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(key.Public()) {
		// Exported from AD CS, the CA may stand first.
		if ordered, err := orderChain(chain, key); err == nil {
			chain, ok, pub = ordered, true, ordered[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		}
	}
	if !ok || !pub.Equal(key.Public()) {
		return nil, fmt.Errorf("%s: %w", c.Cert+c.PFX, errKeyMismatch)
	}
	f.expires("certificate", c.Cert+c.PFX, chain...)
	cert := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, x := range chain {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	return cert, nil
}

func readPair(f *fileSet, c *Certificate) ([]*x509.Certificate, crypto.Signer, error) {
	if c.PFX != "" {
		return readPFX(f, c)
	}
	b, err := f.read(c.Cert, maxCertFile)
	if err != nil {
		return nil, nil, err
	}
	defer clear(b) // it may hold the key
	chain, err := parseCertificates(c.Cert, b)
	if err != nil {
		return nil, nil, err
	}
	if open, name := signerFor(c.Key); open != nil {
		key, err := open(name, chain[0].PublicKey)
		if err != nil {
			return nil, nil, fmt.Errorf("key %s: %w", c.Key, err)
		}
		return chain, key, nil
	}
	path, kb := c.Cert, b
	if c.Key != "" {
		path = c.Key
		if kb, err = f.read(c.Key, maxKeyFile); err != nil {
			return nil, nil, err
		}
		defer clear(kb)
	}
	key, err := parseKey(path, kb)
	if err != nil && chain[0].PublicKeyAlgorithm == x509.UnknownPublicKeyAlgorithm {
		err = fmt.Errorf("%w (the certificate's key is of a kind that Go's crypto/tls can't sign with, such as ML-DSA: give one for an ECDSA, RSA or Ed25519 key)", err)
	}
	return chain, key, err
}

func readPFX(f *fileSet, c *Certificate) ([]*x509.Certificate, crypto.Signer, error) {
	b, err := f.read(c.PFX, maxKeyFile)
	if err != nil {
		return nil, nil, err
	}
	defer clear(b)
	password := ""
	if c.PFXPassword != "" {
		if password, err = f.readFirstLine(c.PFXPassword); err != nil {
			return nil, nil, err
		}
	}
	chain, key, err := parsePFX(b, password)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.PFX, err)
	}
	return chain, key, nil
}
