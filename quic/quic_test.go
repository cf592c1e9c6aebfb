package quic

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// testPKI is one throwaway CA with one certificate for "localhost".
var testPKI = sync.OnceValue(func() (p struct {
	cert  tls.Certificate
	roots *x509.CertPool
}) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	p.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	p.roots = x509.NewCertPool()
	p.roots.AddCert(leaf)
	return p
})

func serverConfig() *Config {
	return &Config{Handshaker: TLS(&tls.Config{Certificates: []tls.Certificate{testPKI().cert}}), NextProtos: []string{"test"}}
}

func clientConfig() *Config {
	return &Config{Handshaker: TLS(&tls.Config{RootCAs: testPKI().roots}), ServerName: "localhost", NextProtos: []string{"test"}}
}

// newLoopback returns an endpoint on a loopback socket.
func newLoopback(t testing.TB, cfg *Config, opts ...EndpointOption) *Endpoint {
	t.Helper()
	s, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	e := NewEndpoint([]udp.PacketConn{s}, cfg, opts...)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = e.Close(ctx)
	})
	return e
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect returns both ends of a connection over loopback.
func connect(t testing.TB, scfg, ccfg *Config) (client, server *Conn) {
	t.Helper()
	se, ce := newLoopback(t, scfg), newLoopback(t, nil)
	ctx := testContext(t)
	client, err := ce.Dial(ctx, se.LocalAddr(), ccfg)
	if err != nil {
		t.Fatal(err)
	}
	server, err = se.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestHandshakeAndEcho(t *testing.T) {
	client, server := connect(t, serverConfig(), clientConfig())
	ctx := testContext(t)
	if got := client.TLS().ALPN; got != "test" {
		t.Errorf("ALPN = %q", got)
	}
	if !bytes.Equal(client.TLS().Exporter, server.TLS().Exporter) {
		t.Error("exporters differ")
	}
	go func() {
		s, err := server.AcceptStream(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		_, err = io.Copy(s, s)
		if err != nil {
			t.Error(err)
		}
		_ = s.CloseWrite()
	}()
	s, err := client.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 5<<20)
	_, _ = rand.Read(want)
	go func() {
		if _, err := s.Write(want); err != nil {
			t.Error(err)
		}
		_ = s.CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(want) {
		t.Fatal("echo differs")
	}
}

func TestCloseReachesPeer(t *testing.T) {
	client, server := connect(t, serverConfig(), clientConfig())
	_ = client.CloseWithError(7, "bye")
	select {
	case <-server.Done():
	case <-testContext(t).Done():
		t.Fatal("server did not notice")
	}
	var ae *ApplicationError
	if err := server.Err(); !errors.As(err, &ae) || ae.Code != 7 || ae.Reason != "bye" || !ae.Remote {
		t.Fatalf("server saw %v", err)
	}
}

// A connection that closes right behind a stream's last byte loses nothing that
// has arrived, and what has not arrived whole does not look whole.
func TestReadBehindClose(t *testing.T) {
	for _, fin := range []bool{true, false} {
		client, server := connect(t, serverConfig(), clientConfig())
		ctx := testContext(t)
		s, err := client.OpenStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		const size = 100000
		if _, err := s.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		peer, err := server.AcceptStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if fin {
			_ = s.CloseWrite()
		}
		if err := s.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		_ = client.CloseWithError(9, "done")
		<-server.Done()
		_ = peer.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := io.Copy(io.Discard, peer)
		var ae *ApplicationError
		if fin && (n != size || err != nil) {
			t.Errorf("with FIN: %d bytes, %v", n, err)
		}
		if !fin && (!errors.As(err, &ae) || ae.Code != 9) {
			t.Errorf("without FIN: %d bytes, %v", n, err)
		}
	}
}

// move sends size bytes on a stream of its own, from memory to nowhere.
func move(t testing.TB, ctx context.Context, from, to *Conn, size int64) {
	t.Helper()
	moveThrough(t, ctx, from, to, &zeros{size}, io.Discard, size)
}

// moveThrough is move of the size bytes of a source into a sink.
func moveThrough(t testing.TB, ctx context.Context, from, to *Conn, source io.Reader, sink io.Writer, size int64) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		s, err := to.AcceptStream(ctx)
		if err != nil {
			done <- err
			return
		}
		n, err := io.Copy(sink, s)
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
		_ = s.Close()
		done <- err
	}()
	s, err := from.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SendAll(source); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
