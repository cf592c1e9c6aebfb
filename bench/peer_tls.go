package main

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
)

// TLS 1.3 over TCP as the standard library does it: 16 KiB records, one
// connection for all exchanges.

type tlsConn struct{ *tls.Conn }

func (tlsConn) sized()            {}
func (tlsConn) CloseWrite() error { return nil } // lengths are sent; the connection goes on

func (c tlsConn) open(context.Context) (stream, error) { return c, nil }
func (c tlsConn) close()                               { _ = c.Close() }

func tlsServer(ctx context.Context, o *options) error {
	cert, err := perf.Certificate()
	if err != nil {
		return err
	}
	listen := net.ListenConfig{Control: useCongestion(o.congestion)}
	tcp, err := listen.Listen(ctx, "tcp", o.addr)
	if err != nil {
		return err
	}
	l := tls.NewListener(tcp, &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
	})
	context.AfterFunc(ctx, func() { _ = l.Close() })
	ready(l.Addr())
	t := newTally()
	for {
		c, err := l.Accept()
		if err != nil {
			return ctx.Err()
		}
		t.arrive()
		go func() {
			defer t.leave()
			defer c.Close()
			s := tlsConn{c.(*tls.Conn)}
			buf := make([]byte, blockSize)
			for {
				n, err := answer(s, buf)
				if err != nil {
					return
				}
				t.count(n)
			}
		}()
	}
}

func tlsClient(ctx context.Context, o *options) (*perf.Result, error) {
	return drive(ctx, o, func(ctx context.Context) (conn, error) {
		d := tls.Dialer{NetDialer: &net.Dialer{Control: useCongestion(o.congestion)}, Config: &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: "localhost", DynamicRecordSizingDisabled: true,
		}}
		c, err := d.DialContext(ctx, "tcp", o.addr)
		if err != nil {
			return nil, err
		}
		return tlsConn{c.(*tls.Conn)}, nil
	})
}
