package tlshd

import (
	"crypto"
	"fmt"
	"strings"
	"sync"
)

// Keys that are not in a file: in a PKCS #11 token, a TPM, another process. The
// helper needs no more of them than crypto.Signer. What opens them belongs into
// the program that runs the helper: it has to be registered in that process,
// before RunHelper or NewServer.

// A SignerFunc opens the key that a Certificate's Key names after the scheme.
// public is the certificate's key. It is called at the start and at every
// reload; from a spawned helper's sandbox nothing new can be connected to, so it
// keeps what it has opened. Sign is called by many goroutines at once, and holds
// up one handshake each.
type SignerFunc func(name string, public crypto.PublicKey) (crypto.Signer, error)

var signers struct {
	mu sync.Mutex
	by map[string]SignerFunc
}

// RegisterSigner makes keys called scheme:name, such as pkcs11:..., come from
// open. It panics if the scheme is taken.
func RegisterSigner(scheme string, open SignerFunc) {
	signers.mu.Lock()
	defer signers.mu.Unlock()
	if signers.by == nil {
		signers.by = map[string]SignerFunc{}
	}
	if _, taken := signers.by[scheme]; taken || scheme == "" || strings.ContainsAny(scheme, ":/\\") {
		panic(fmt.Sprintf("tlshd: signer scheme %q is taken or no scheme", scheme))
	}
	signers.by[scheme] = open
}

// signerFor finds what opens a key; nil: it is a file.
func signerFor(key string) (open SignerFunc, name string) {
	scheme, name, ok := strings.Cut(key, ":")
	if !ok {
		return nil, ""
	}
	signers.mu.Lock()
	defer signers.mu.Unlock()
	return signers.by[scheme], name
}
