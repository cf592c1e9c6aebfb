package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/quic-go/quic-go"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
)

// The pair that quic-fsgw's relay is held against: a plain TCP forwarder on
// quic-go at each end. A TCP connection is a QUIC connection with one stream, as
// SMB over QUIC has it. Nothing is looked at, verified, logged or limited.

const forwardALPN = "smb"

// forwardBuffer is what each direction copies with, bytes. quic-go's streams
// neither lend buffers nor take them; larger ones changed nothing here.
const forwardBuffer = 128 << 10

func runForward(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("forward", flag.ContinueOnError)
	end := fs.String("end", "", "client: from TCP to QUIC; server: from QUIC to TCP")
	listen := fs.String("listen", "127.0.0.1:0", "`address` to listen on")
	to := fs.String("to", "", "`address` to carry connections to")
	o := options{}
	fs.IntVar(&o.payload, "udp-payload", 1400, "datagram size")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch *end {
	case "client":
		return forwardClient(ctx, *listen, *to, &o)
	case "server":
		return forwardServer(ctx, *listen, *to, &o)
	}
	return fmt.Errorf("%q is neither server nor client", *end)
}

// forwardClient carries TCP connections to a QUIC server.
func forwardClient(ctx context.Context, listen, to string, o *options) error {
	addr, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return err
	}
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4zero})
	if err != nil {
		return err
	}
	tr := &quic.Transport{Conn: pc}
	defer tr.Close()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	ready(l.Addr())
	for {
		tcp, err := l.Accept()
		if err != nil {
			return ctx.Err()
		}
		go func() {
			defer tcp.Close()
			c, err := tr.Dial(ctx, addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{forwardALPN}, ServerName: "localhost"}, quicgoConfig(o))
			if err != nil {
				return
			}
			defer c.CloseWithError(0, "")
			if s, err := c.OpenStreamSync(ctx); err == nil {
				forwardBoth(tcp.(*net.TCPConn), s)
				<-s.Context().Done()
			}
		}()
	}
}

// forwardServer carries the stream of each QUIC connection to a TCP server.
func forwardServer(ctx context.Context, listen, to string, o *options) error {
	cert, err := perf.Certificate()
	if err != nil {
		return err
	}
	l, err := quic.ListenAddr(listen, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{forwardALPN}}, quicgoConfig(o))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	ready(l.Addr())
	for {
		c, err := l.Accept(ctx)
		if err != nil {
			return ctx.Err()
		}
		go func() {
			s, err := c.AcceptStream(ctx)
			if err != nil {
				return
			}
			tcp, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.CloseWithError(1, err.Error())
				return
			}
			defer tcp.Close()
			forwardBoth(tcp.(*net.TCPConn), s)
		}()
	}
}

// onlyWriter and onlyReader hide what would make io.CopyBuffer use a smaller
// buffer of its own.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

// forwardBoth copies both ways until both have ended.
func forwardBoth(tcp *net.TCPConn, s *quic.Stream) {
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := io.CopyBuffer(onlyWriter{s}, onlyReader{tcp}, make([]byte, forwardBuffer))
		if err != nil && !errors.Is(err, net.ErrClosed) {
			s.CancelWrite(0)
		}
		_ = s.Close()
	})
	_, err := io.CopyBuffer(onlyWriter{tcp}, onlyReader{s}, make([]byte, forwardBuffer))
	if err != nil {
		s.CancelRead(0)
		_ = tcp.Close()
	}
	_ = tcp.CloseWrite()
	wg.Wait()
}
