package main

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
)

func quicgoConfig(o *options) *quic.Config {
	return &quic.Config{
		InitialPacketSize: uint16(o.payload), DisablePathMTUDiscovery: true, MaxIdleTimeout: 5 * time.Minute, MaxIncomingStreams: 1024,
		MaxStreamReceiveWindow: 16 << 20, MaxConnectionReceiveWindow: 32 << 20, // what quic-fsgw grows to
	}
}

type quicgoConn struct{ *quic.Conn }

func (c quicgoConn) open(ctx context.Context) (stream, error) {
	s, err := c.OpenStreamSync(ctx)
	return quicgoStream{s}, err
}
func (c quicgoConn) close() { _ = c.CloseWithError(0, "") }

type quicgoStream struct{ *quic.Stream }

func (s quicgoStream) CloseWrite() error { return s.Close() }

func quicgoServer(ctx context.Context, o *options) error {
	cert, err := perf.Certificate()
	if err != nil {
		return err
	}
	l, err := quic.ListenAddr(o.addr, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{perf.ALPN}, SessionTicketsDisabled: true}, quicgoConfig(o))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	ready(l.Addr())
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
					n, _ := answer(quicgoStream{s}, make([]byte, blockSize))
					t.count(n)
				}()
			}
		}()
	}
}

func quicgoClient(ctx context.Context, o *options) (*perf.Result, error) {
	addr, err := net.ResolveUDPAddr("udp", o.addr)
	if err != nil {
		return nil, err
	}
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4zero})
	if err != nil {
		return nil, err
	}
	tr := &quic.Transport{Conn: pc}
	defer tr.Close()
	return drive(ctx, o, func(ctx context.Context) (conn, error) {
		c, err := tr.Dial(ctx, addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{perf.ALPN}, ServerName: "localhost"}, quicgoConfig(o))
		if err != nil {
			return nil, err
		}
		return quicgoConn{c}, nil
	})
}
