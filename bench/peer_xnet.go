package main

import (
	"context"
	"crypto/tls"
	"time"

	"golang.org/x/net/quic"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
)

// golang.org/x/net/quic always sends datagrams of 1200 bytes.

func xnetConfig(t *tls.Config) *quic.Config {
	t.MinVersion, t.NextProtos = tls.VersionTLS13, []string{perf.ALPN}
	return &quic.Config{
		TLSConfig: t, MaxBidiRemoteStreams: 1024, MaxIdleTimeout: 5 * time.Minute,
		MaxStreamReadBufferSize: 16 << 20, MaxConnReadBufferSize: 32 << 20, MaxStreamWriteBufferSize: 4 << 20,
	}
}

type xnetConn struct{ *quic.Conn }

func (c xnetConn) open(ctx context.Context) (stream, error) {
	s, err := c.NewStream(ctx)
	return xnetStream{s}, err
}
func (c xnetConn) close() { _ = c.Close() }

type xnetStream struct{ *quic.Stream }

func (s xnetStream) CloseWrite() error { s.Stream.CloseWrite(); return nil }

func xnetServer(ctx context.Context, o *options) error {
	cert, err := perf.Certificate()
	if err != nil {
		return err
	}
	l, err := quic.Listen("udp", o.addr, xnetConfig(&tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true}))
	if err != nil {
		return err
	}
	defer l.Close(context.WithoutCancel(ctx))
	ready(l.LocalAddr())
	t := newTally()
	for {
		c, err := l.Accept(ctx)
		if err != nil {
			return ctx.Err()
		}
		t.arrive()
		go func() {
			defer t.leave()
			for {
				s, err := c.AcceptStream(ctx)
				if err != nil {
					return
				}
				go func() {
					n, _ := answer(xnetStream{s}, make([]byte, blockSize))
					s.Flush()
					t.count(n)
				}()
			}
		}()
	}
}

func xnetClient(ctx context.Context, o *options) (*perf.Result, error) {
	ep, err := quic.Listen("udp", "0.0.0.0:0", nil)
	if err != nil {
		return nil, err
	}
	defer ep.Close(context.WithoutCancel(ctx))
	cfg := xnetConfig(&tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
	r, err := drive(ctx, o, func(ctx context.Context) (conn, error) {
		c, err := ep.Dial(ctx, "udp", o.addr, cfg)
		if err != nil {
			return nil, err
		}
		return xnetConn{c}, nil
	})
	if r != nil {
		r.DatagramSize = 1200
	}
	return r, err
}
