package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/tcpio"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// A Forwarder carries local TCP connections to a gateway, for clients that
// speak no QUIC. Each TCP connection to an SMB gateway gets a QUIC connection
// of its own, because SMB over QUIC has one stream a connection; those to an
// NFS gateway share one QUIC connection and get a stream each.
type Forwarder struct {
	Dialer *Dialer
	URL    *RemoteURL
	Logger *slog.Logger

	mu     sync.Mutex
	shared *quic.Conn // nfs
	conns  sync.WaitGroup
}

// Bounds of a forwarder.
const (
	forwardDialTimeout  = 15 * time.Second
	forwardFlushTimeout = 5 * time.Second
	maxForwarded        = 4096 // TCP connections at once
)

// ALPN returns the protocol of the URL's scheme.
func (r *RemoteURL) ALPN() string {
	if r.Scheme == "smb" {
		return "smb"
	}
	return "sunrpc"
}

// Serve carries the connections that l accepts until ctx ends.
func (f *Forwarder) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	slots := make(chan struct{}, maxForwarded)
	defer func() {
		cancel()
		f.conns.Wait()
		f.closeShared()
	}()
	for {
		tcp, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			f.Logger.Warn("too many connections", "limit", maxForwarded)
			_ = tcp.Close()
			continue
		}
		f.conns.Add(1)
		go func() {
			defer f.conns.Done()
			defer func() { <-slots }()
			f.forward(ctx, tcpio.Wrap(tcp))
		}()
	}
}

func (f *Forwarder) forward(ctx context.Context, tcp net.Conn) {
	defer tcp.Close()
	start := time.Now()
	conn, stream, err := f.open(ctx)
	if err != nil {
		f.Logger.Error("connect", "gateway", f.URL.String(), "error", err)
		return
	}
	up, down, err := splice(ctx, tcp, stream)
	if f.URL.Scheme == "smb" {
		_ = conn.CloseWithError(0, "")
	}
	f.Logger.Info("connection ended", "conn", conn.ID(), "stream", stream.ID(), "client", tcp.RemoteAddr().String(), "bytes_up", up, "bytes_down", down,
		"duration", time.Since(start), "error", errText(err))
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// open opens a stream to the gateway.
func (f *Forwarder) open(ctx context.Context) (*quic.Conn, *quic.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, forwardDialTimeout)
	defer cancel()
	if f.URL.Scheme == "smb" {
		conn, err := f.Dialer.DialConn(ctx, f.URL.ALPN(), f.URL.Host, f.URL.Port)
		if err != nil {
			return nil, nil, err
		}
		s, err := conn.OpenStream(ctx)
		if err != nil {
			_ = conn.CloseWithError(0, "")
		}
		return conn, s, err
	}
	conn, err := f.share(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, err := conn.OpenStream(ctx)
	return conn, s, err
}

// share returns the one connection of NFS, making it (again) where needed.
func (f *Forwarder) share(ctx context.Context) (*quic.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shared != nil && f.shared.Err() == nil {
		return f.shared, nil
	}
	conn, err := f.Dialer.DialConn(ctx, f.URL.ALPN(), f.URL.Host, f.URL.Port)
	if err == nil {
		f.shared = conn
	}
	return conn, err
}

func (f *Forwarder) closeShared() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shared != nil {
		_ = f.shared.CloseWithError(0, "")
	}
}

// splice copies both ways until both are done, or one fails, or ctx ends.
func splice(ctx context.Context, tcp net.Conn, s *quic.Stream) (up, down int64, err error) {
	stop := context.AfterFunc(ctx, func() {
		_ = tcp.Close()
		s.CancelRead(0)
		s.CancelWrite(0)
	})
	defer stop()
	upErr := make(chan error, 1)
	go func() {
		var err error
		up, err = s.ReadFrom(tcp)
		if err == nil {
			err = s.CloseWrite()
		} else {
			s.CancelWrite(0)
		}
		upErr <- err
	}()
	down, err = s.WriteTo(tcp)
	if err == nil {
		if tc, ok := tcp.(interface{ CloseWrite() error }); ok {
			_ = tc.CloseWrite()
		}
		// The gateway's side has ended: what the client still says has nowhere to
		// go for long.
		_ = tcp.SetReadDeadline(time.Now().Add(forwardFlushTimeout))
	} else {
		s.CancelRead(0)
		_ = tcp.Close()
	}
	err = errors.Join(err, <-upErr)
	if err == nil {
		fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forwardFlushTimeout)
		defer cancel()
		err = s.Flush(fctx)
	}
	return up, down, err
}
