//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// peer is a QUIC client of our own for what other clients cannot offer. TLS
// runs in this process, so that a test decides on every detail.
type peer struct {
	ALPN       []string
	ServerName string
	CA         string // file; "": any server is trusted
	Cert, Key  string // files; "": none
	TLS        func(*tls.Config)
	QUIC       func(*quic.Config)
}

// dial connects to a gateway. The connection is closed at the end of the test.
func (p peer) dial(t testing.TB, addr string) (*quic.Conn, error) {
	t.Helper()
	tc := &tls.Config{ServerName: p.ServerName, InsecureSkipVerify: p.CA == ""}
	if p.CA != "" {
		pem, err := os.ReadFile(p.CA)
		if err != nil {
			t.Fatal(err)
		}
		tc.RootCAs = x509.NewCertPool()
		tc.RootCAs.AppendCertsFromPEM(pem)
	}
	if p.Cert != "" {
		c, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		if err != nil {
			t.Fatal(err)
		}
		// Unlike Certificates, this shows it whatever CAs the server names.
		tc.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	}
	if p.TLS != nil {
		p.TLS(tc)
	}
	if len(p.ALPN) == 0 {
		p.ALPN = []string{"smb"}
	}
	qc := &quic.Config{Handshaker: quic.TLS(tc), ServerName: p.ServerName, NextProtos: p.ALPN}
	if p.QUIC != nil {
		p.QUIC(qc)
	}
	sock, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	e := quic.NewEndpoint([]udp.PacketConn{sock}, nil)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		e.Close(ctx)
	})
	ctx, cancel := context.WithTimeout(t.Context(), e2eDeadline)
	defer cancel()
	return e.Dial(ctx, netip.MustParseAddrPort(addr), qc)
}

// mustDial is dial, and fails the test where it does.
func (p peer) mustDial(t testing.TB, addr string) *quic.Conn {
	t.Helper()
	c, err := p.dial(t, addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stream opens a stream with a deadline for all that is done on it.
func stream(t testing.TB, c *quic.Conn) *quic.Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), e2eDeadline)
	defer cancel()
	s, err := c.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(e2eDeadline))
	return s
}

// ended waits until a connection is closed and returns why.
func ended(t testing.TB, c *quic.Conn) error {
	t.Helper()
	select {
	case <-c.Done():
		return c.Err()
	case <-time.After(e2eDeadline):
		t.Fatalf("the connection is still open after %s", e2eDeadline)
	}
	return nil
}

// remoteCode returns the code that the gateway closed a connection with, and
// whether it is an application's.
func remoteCode(err error) (code uint64, app, ok bool) {
	var te *quic.TransportError
	var ae *quic.ApplicationError
	switch {
	case errors.As(err, &te) && te.Remote:
		return uint64(te.Code), false, true
	case errors.As(err, &ae) && ae.Remote:
		return ae.Code, true, true
	}
	return 0, false, false
}

// countingBackend accepts TCP connections, counts and keeps them.
type countingBackend struct {
	Addr  string
	count atomic.Int64
	conns chan net.Conn
}

func startCounting(t testing.TB) *countingBackend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &countingBackend{Addr: l.Addr().String(), conns: make(chan net.Conn, 64)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.count.Add(1)
			select {
			case b.conns <- c:
			default:
				c.Close()
			}
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for len(b.conns) > 0 {
			(<-b.conns).Close()
		}
	})
	return b
}

// negotiate is an SMB2 NEGOTIATE request for dialect 3.0.2 in its frame.
func negotiate() []byte {
	b := make([]byte, 4+64+36+2)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	copy(b[4:], "\xfeSMB")
	binary.LittleEndian.PutUint16(b[8:], 64)
	body := b[4+64:]
	binary.LittleEndian.PutUint16(body, 36)
	binary.LittleEndian.PutUint16(body[2:], 1) // dialects
	binary.LittleEndian.PutUint16(body[4:], 1) // signing enabled
	binary.LittleEndian.PutUint16(body[36:], 0x0302)
	return b
}
