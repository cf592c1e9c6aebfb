//go:build linux

package supervise

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// HelperConfig is what the handshake helper is told of a configuration.
func HelperConfig(cfg *config.Config) tlshd.Config {
	t := &cfg.Tlshd
	out := tlshd.Config{
		ClientCA: names(t.ClientCA), CRL: names(t.CRL), CRLExpired: t.CRLExpired, TicketKeys: string(t.TicketKeys),
		Groups: t.Groups, User: t.User, Group: t.Group, UnsafeKeyLog: string(t.UnsafeKeyLog),
	}
	for _, c := range t.Certificates {
		out.Certificates = append(out.Certificates, tlshd.Certificate{Names: c.Names, Cert: string(c.Cert), Key: string(c.Key), PFX: string(c.PFX), PFXPassword: string(c.PFXPassword)})
	}
	out.Certificates = append(out.Certificates, fetched(cfg)...)
	for name, a := range cfg.Access {
		if !a.OwnTrust() {
			continue
		}
		if out.ClientCASets == nil {
			out.ClientCASets, out.ClientCRLSets = make(map[string][]string), make(map[string][]string)
		}
		out.ClientCASets[name] = names(a.ClientCA)
		if len(a.ClientCA) == 0 {
			out.ClientCASets[name] = out.ClientCA
		}
		if len(a.CRL) > 0 {
			out.ClientCRLSets[name] = names(a.CRL)
		}
	}
	return out
}

func names(ps []config.Path) []string {
	var out []string
	for _, p := range ps {
		out = append(out, string(p))
	}
	return out
}

// helperSource gives out connections to a helper, and keeps one running.
type helperSource interface {
	Reload(ctx context.Context, cfg tlshd.Config) error
	Close() error
}

// serviceHelper is a helper that is a service of its own (tlshd.mode socket).
// It rereads its files itself.
type serviceHelper struct {
	path   string
	cancel context.CancelFunc
	done   chan struct{}
}

// helperRetry is how long a service that is back may go unnoticed at most.
const helperRetry = 500 * time.Millisecond

// watchService keeps a connection to the service open and hands each new one to up.
func watchService(ctx context.Context, path string, log *slog.Logger, up func(*net.UnixConn) error, lost <-chan struct{}) *serviceHelper {
	ctx, cancel := context.WithCancel(ctx)
	s := &serviceHelper{path: path, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		b := backoff{most: helperRetry}
		for b.wait(ctx); ctx.Err() == nil; b.wait(ctx) {
			conn, err := tlshd.Dial(ctx, path)
			if err == nil {
				err = up(conn)
			}
			if err != nil {
				log.Warn("handshake helper not reached", "socket", path, "error", err)
				continue
			}
			began := time.Now()
			select {
			case <-lost:
			case <-ctx.Done():
			}
			if time.Since(began) > time.Second { // not one that is lost as soon as it is there
				b.reset()
			}
		}
	}()
	return s
}

func (s *serviceHelper) Reload(context.Context, tlshd.Config) error { return nil }

func (s *serviceHelper) Close() error {
	s.cancel()
	<-s.done
	return nil
}
