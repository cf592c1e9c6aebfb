package tlshd

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The extended key usages of RPC-with-TLS peers (RFC 9289): id-kp-rpcTLSClient
// and id-kp-rpcTLSServer.
var (
	oidRPCClient = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 33}
	oidRPCServer = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 34}
)

// alpnRPC is the application protocol whose peers may use the EKUs of RFC 9289.
const alpnRPC = "sunrpc"

// alpnSMB is the one whose clients get no ticket unless they ask in the old way.
const alpnSMB = "smb"

// verdicts are the names of the same failures of a client and of a server.
type verdicts struct {
	who                                                                         string
	ca, expired, future, revoked, eku, keyUsage, name, chain, key, parse, proof Reason
}

var (
	clientVerdicts = verdicts{who: "client", ca: ReasonClientCertCA, expired: ReasonClientCertExpired, future: ReasonClientCertFuture,
		revoked: ReasonClientCertRevoked, eku: ReasonClientCertEKU, keyUsage: ReasonClientCertKeyUsage, name: ReasonClientCertChain,
		chain: ReasonClientCertChain, key: ReasonClientCertKey, parse: ReasonClientCertParse, proof: ReasonClientCertProof}
	serverVerdicts = verdicts{who: "server", ca: ReasonServerCertCA, expired: ReasonServerCertExpired, future: ReasonServerCertFuture,
		revoked: ReasonServerCertRevoked, eku: ReasonServerCertEKU, keyUsage: ReasonServerCertKeyUsage, name: ReasonServerCertName,
		chain: ReasonServerCertChain, key: ReasonServerCertKey, parse: ReasonServerCertParse, proof: ReasonServerCertProof}
)

// verification is what a peer's certificates are held against. crypto/tls would
// refuse a certificate that bears only the RPC usages before we see it, and
// does not look at today's CAs when a session is resumed: so it verifies
// nothing, and this does, on every handshake.
type verification struct {
	server   bool // the peer is a server
	roots    *x509.CertPool
	crls     *revocations
	dnsName  string // a server's, or IP address
	alpn     string
	now      time.Time
	warn     func(crlPath string)
	verdicts *verdicts
}

// verify returns the first chain that passes, leaf first, root last.
func (v *verification) verify(certs []*x509.Certificate) ([]*x509.Certificate, *Error) {
	w := v.verdicts
	if len(certs) > maxChainLen {
		return nil, refused(alertBadCertificate, w.chain, "the %s sent %d certificates, at most %d are looked at", w.who, len(certs), maxChainLen)
	}
	leaf := certs[0]
	opts := x509.VerifyOptions{Roots: v.roots, Intermediates: x509.NewCertPool(), CurrentTime: v.now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, DNSName: v.dnsName}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return nil, v.explain(leaf, err)
	}
	// RFC 8446, Section 4.4.2.2: "the digitalSignature bit MUST be set if the
	// Key Usage extension is present".
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, refused(alertUnsupportedCert, w.keyUsage, "the %s's certificate may not sign (key usage without digitalSignature)", w.who)
	}
	var last *Error
	for _, chain := range chains {
		if last = v.judge(chain); last == nil {
			return chain, nil
		}
	}
	return nil, last
}

// judge applies what x509 does not know to one chain.
func (v *verification) judge(chain []*x509.Certificate) *Error {
	w := v.verdicts
	if !slices.ContainsFunc(v.usages(), func(u usage) bool { return u.in(chain) }) {
		return refused(alertUnsupportedCert, w.eku, "the %s's certificate is for another use (extended key usage)", w.who)
	}
	cert, reason := v.crls.check(chain, v.now, v.warn)
	switch reason {
	case crlRevoked:
		return refused(alertCertificateRevoked, w.revoked, "certificate %v of %q is revoked", cert.SerialNumber, cert.Subject.String())
	case crlOutdated:
		return refused(alertCertificateUnknown, ReasonCRLExpired, "the revocation list of %q is past its next update (renew it, or crl_expired: warn)", cert.Issuer.String())
	case crlBad:
		return refused(alertCertificateUnknown, ReasonCRLInvalid, "the revocation list of %q is not signed by it", cert.Issuer.String())
	}
	return nil
}

// usage is an extended key usage, one of those x509 has a name for or another.
type usage struct {
	known x509.ExtKeyUsage
	oid   asn1.ObjectIdentifier
}

func (v *verification) usages() []usage {
	known, rpc := x509.ExtKeyUsageClientAuth, oidRPCClient
	if v.server {
		known, rpc = x509.ExtKeyUsageServerAuth, oidRPCServer
	}
	if v.alpn == alpnRPC {
		return []usage{{known: known}, {oid: rpc}}
	}
	return []usage{{known: known}}
}

// in reports whether each certificate of the chain but the root either does not
// restrict its uses or names this one.
func (u usage) in(chain []*x509.Certificate) bool {
	for i, c := range chain {
		if i > 0 && i == len(chain)-1 {
			break
		}
		if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
			continue
		}
		if slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
			continue
		}
		if u.oid == nil && slices.Contains(c.ExtKeyUsage, u.known) {
			continue
		}
		if u.oid != nil && slices.ContainsFunc(c.UnknownExtKeyUsage, u.oid.Equal) {
			continue
		}
		return false
	}
	return true
}

// explain names an error of x509.
func (v *verification) explain(leaf *x509.Certificate, err error) *Error {
	w := v.verdicts
	detail := printable(err.Error())
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return refused(alertUnknownCA, w.ca, "the %s's certificate is from no CA that is trusted here: issuer %q", w.who, leaf.Issuer.String())
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return refused(alertBadCertificate, w.name, "%s", detail)
	}
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired {
		if bad.Cert != nil && v.now.Before(bad.Cert.NotBefore) {
			return refused(alertBadCertificate, w.future, "the certificate of %q is not valid before %v", bad.Cert.Subject.String(), bad.Cert.NotBefore.UTC())
		}
		return refused(alertCertificateExpired, w.expired, "%s", detail)
	}
	if _, ok := errors.AsType[x509.SystemRootsError](err); ok {
		return refused(alertUnknownCA, w.ca, "%s", detail)
	}
	return refused(alertBadCertificate, w.chain, "%s", detail)
}

func refused(alert uint8, reason Reason, format string, args ...any) *Error {
	return &Error{Status: StatusEKEYREJECTED, Alert: alert, Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// printable makes text that a peer may have had a part in safe for a log and a
// terminal, and short.
func printable(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most]
	}
	b := []byte(nil)
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 0x20 && c < 0x7f {
			b = append(b, c)
		} else {
			b = fmt.Appendf(b, `\x%02x`, c)
		}
	}
	return string(b)
}
