package perf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/netip"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// Certificate makes the throwaway certificate of a benchmark's server. Nobody
// can verify it, and nothing that is worth verifying is sent.
func Certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a throwaway key: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "quic-fsgw bench"}, DNSNames: []string{"localhost"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a throwaway certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// config is what both ends have in common.
func config(t *tls.Config, payload int, cc quic.Congestion) *quic.Config {
	// Full handshakes are what is measured; nothing here resumes.
	t.SessionTicketsDisabled = true
	return &quic.Config{
		Handshaker: quic.TLS(t), NextProtos: []string{ALPN}, MaxUDPPayload: payload, Congestion: cc,
		MaxIdleTimeout: idleTimeout, MaxStreamsBidi: 1024, MaxStreamsUni: 1024,
	}
}

func clientConfig(payload int, cc quic.Congestion) *quic.Config {
	c := config(&tls.Config{InsecureSkipVerify: true}, payload, cc)
	c.ServerName = "localhost"
	return c
}

// ReleaseMemory gives back what a wave of connections has left behind: garbage,
// and the stacks of goroutines that wait now. Each collection halves a stack.
func ReleaseMemory() {
	runtime.GC()
	runtime.GC()
	debug.FreeOSMemory()
}

// open binds a socket and starts an endpoint on it. cfg nil: a client's.
func open(addr netip.AddrPort, u udp.Config, cfg *quic.Config) (*quic.Endpoint, udp.Caps, error) {
	s, err := udp.ListenOne(addr, u)
	if err != nil {
		return nil, udp.Caps{}, err
	}
	return quic.NewEndpoint([]udp.PacketConn{s}, cfg, quic.WithRest(ReleaseMemory)), s.Caps(), nil
}

// offload fills in what the socket could do at its opening.
func (r *Result) offload(c udp.Caps) { r.GSO, r.GRO = c.MaxSegments > 1, c.GRO }
