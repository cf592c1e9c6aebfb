// Package https is the process that ends TLS on TCP: it answers the challenges
// of a certificate authority (ACME, TLS-ALPN-01) and writes what that issues as
// files, which the handshake helper picks up; and it is the server around the
// KDC proxy. Beside the helper it is the only process that reads private keys.
package https

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/quic-fsgw/quic-fsgw/gateway/kdcproxy"
)

// Config is what the process is told; it travels as JSON.
type Config struct {
	ACME  *ACME  // nil: no certificates are fetched
	KDC   *KDC   // nil: no KDC proxy
	Ready func() `json:"-"` // called when the files that the helper needs are there
}

// KDC is the KDC proxy.
type KDC struct {
	Realms    []kdcproxy.Realm
	Timeout   time.Duration
	Limit     int
	Cert, Key string // PEM files; "": a certificate of ACME's
}

// Bounds of what strangers on TCP can take.
const (
	maxConns      = 512
	headerTimeout = 10 * time.Second // the TLS handshake included
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 30 * time.Second
	maxHeader     = 16 << 10
	endTimeout    = 5 * time.Second
)

// Serve takes connections from l until ctx ends. l belongs to it.
func Serve(ctx context.Context, l net.Listener, cfg Config, log *slog.Logger) error {
	s := &server{log: log}
	if cfg.ACME != nil {
		var err error
		if s.acme, err = newIssuer(cfg.ACME, log); err != nil {
			_ = l.Close()
			return err
		}
	}
	if err := s.kdc(cfg.KDC); err != nil {
		_ = l.Close()
		return err
	}
	if cfg.Ready != nil {
		cfg.Ready()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var work sync.WaitGroup
	defer work.Wait()
	if s.acme != nil {
		work.Go(func() { s.acme.run(ctx) })
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, WriteTimeout: 2 * bodyTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// RFC 8737, Section 3: "Once the TLS handshake is completed, the connection
		// MUST NOT transmit any data" beyond it: a challenge ends here.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){acme.ALPNProto: func(*http.Server, *tls.Conn, http.Handler) {}},
	}
	defer context.AfterFunc(ctx, func() {
		end, stop := context.WithTimeout(context.Background(), endTimeout)
		defer stop()
		if srv.Shutdown(end) != nil {
			_ = srv.Close()
		}
	})()
	err := srv.Serve(tls.NewListener(newLimited(l, maxConns), s.tlsConfig()))
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("https: %w", err)
}

type server struct {
	log   *slog.Logger
	acme  *issuer
	proxy http.Handler // nil: challenges only
	cert  *keyPair     // nil: those of acme
}

func (s *server) kdc(k *KDC) error {
	if k == nil {
		return nil
	}
	p, err := kdcproxy.New(kdcproxy.Config{Realms: k.Realms, Timeout: k.Timeout, Limit: k.Limit, Logger: s.log})
	if err != nil {
		return err
	}
	if k.Cert != "" {
		if s.cert, err = newKeyPair(k.Cert, k.Key, s.log); err != nil {
			return err
		}
	} else if s.acme == nil {
		return errors.New("https: the KDC proxy has no certificate")
	}
	s.proxy = p
	return nil
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	if s.proxy == nil {
		http.Error(w, http.StatusText(http.StatusNotFound), http.StatusNotFound)
		return
	}
	s.proxy.ServeHTTP(w, r)
}

func (s *server) tlsConfig() *tls.Config {
	protos := []string{"http/1.1"}
	if s.acme != nil {
		protos = append(protos, acme.ALPNProto)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protos, GetCertificate: s.certificate, SessionTicketsDisabled: true}
}

var errNoService = errors.New("nothing is served to this client")

func (s *server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	// RFC 8737, Section 3: the client "MUST include" exactly this protocol.
	if slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto}) {
		if s.acme == nil {
			return nil, errNoService
		}
		return s.acme.challenges.GetCertificate(hello)
	}
	switch {
	case s.proxy == nil:
		return nil, errNoService
	case s.cert != nil:
		return s.cert.get(), nil
	}
	return s.acme.published(hello)
}

// limited takes at most so many connections at a time.
type limited struct {
	net.Listener
	slots chan struct{}
}

func newLimited(l net.Listener, n int) net.Listener { return &limited{l, make(chan struct{}, n)} }

func (l *limited) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

type limitedConn struct {
	net.Conn
	free func()
}

func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
