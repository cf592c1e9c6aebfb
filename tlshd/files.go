package tlshd

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Bounds of the files a configuration names.
const (
	maxCertFile = 4 << 20
	maxCRLFile  = 64 << 20
	maxKeyFile  = 1 << 20
)

// fileSet reads files and remembers what they looked like, so that a change can
// be noticed. A symbolic link is followed: exchanging it is a change.
type fileSet struct {
	seen     []fileMark
	expiries []Expiry // of what was used of them
}

type fileMark struct {
	path string
	info os.FileInfo // nil: could not be read
}

func (f *fileSet) read(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		f.seen = append(f.seen, fileMark{path: path})
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	f.seen = append(f.seen, fileMark{path, info})
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read", path, info.Size(), limit)
	}
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, err
}

// changed reports whether any of the files is another one than it was.
func (f *fileSet) changed() bool {
	for _, m := range f.seen {
		info, err := os.Stat(m.path)
		switch {
		case err != nil:
			if m.info != nil {
				return true
			}
		case m.info == nil, !os.SameFile(info, m.info), !info.ModTime().Equal(m.info.ModTime()), info.Size() != m.info.Size():
			return true
		}
	}
	return false
}

// readCertificates reads a PEM file with any number of certificates, or one DER
// certificate.
func (f *fileSet) readCertificates(path string) ([]*x509.Certificate, error) {
	b, err := f.read(path, maxCertFile)
	if err != nil {
		return nil, err
	}
	return parseCertificates(path, b)
}

func parseCertificates(path string, b []byte) (certs []*x509.Certificate, err error) {
	if !looksPEM(b) {
		cert, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, fmt.Errorf("%s: neither PEM nor a DER certificate: %w", path, err)
		}
		return []*x509.Certificate{cert}, nil
	}
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" && block.Type != "TRUSTED CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return certs, nil
}

func looksPEM(b []byte) bool { return bytes.Contains(b, []byte("-----BEGIN ")) }

// parseKey finds the private key in a PEM or DER file.
func parseKey(path string, b []byte) (crypto.Signer, error) {
	if !looksPEM(b) {
		key, err := parseKeyDER(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return key, nil
	}
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("%s: no private key in it", path)
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return nil, fmt.Errorf("%s: the private key is encrypted (decrypt it with openssl pkey, or use pfx with pfx_password_file)", path)
		}
		key, err := parseKeyDER(block.Bytes)
		clear(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return key, nil
	}
}

func parseKeyDER(b []byte) (crypto.Signer, error) {
	var key any
	var err error
	if key, err = x509.ParsePKCS8PrivateKey(b); err != nil {
		if rsaKey, rsaErr := x509.ParsePKCS1PrivateKey(b); rsaErr == nil {
			key = rsaKey
		} else if ecKey, ecErr := x509.ParseECPrivateKey(b); ecErr == nil {
			key = ecKey
		} else {
			return nil, fmt.Errorf("no PKCS #8, PKCS #1 or SEC 1 private key: %w", err)
		}
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a private key of type %T cannot sign", key)
	}
	return signer, nil
}

// readFirstLine reads a password file.
func (f *fileSet) readFirstLine(path string) (string, error) {
	b, err := f.read(path, 4096)
	if err != nil {
		return "", err
	}
	defer clear(b)
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(bytes.TrimSuffix(line, []byte("\r"))), nil
}

var errKeyMismatch = errors.New("the private key does not belong to the certificate")
