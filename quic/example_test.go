package quic_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// listen makes an endpoint on a free port of the loopback address; cfg nil: for clients only.
func listen(cfg *quic.Config) *quic.Endpoint {
	socket, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		panic(err)
	}
	return quic.NewEndpoint([]udp.PacketConn{socket}, cfg)
}

// pair is a connection over loopback, and what closes both ends.
func pair(ctx context.Context) (client, server *quic.Conn, done func()) {
	cert, roots := exampleCertificate()
	se := listen(&quic.Config{Handshaker: quic.TLS(&tls.Config{Certificates: []tls.Certificate{cert}}), NextProtos: []string{"example"}, MaxDatagramFrame: 1200})
	ce := listen(nil)
	client, err := ce.Dial(ctx, se.LocalAddr(), &quic.Config{
		Handshaker: quic.TLS(&tls.Config{RootCAs: roots}), ServerName: "localhost", NextProtos: []string{"example"}, MaxDatagramFrame: 1200,
	})
	if err != nil {
		panic(err)
	}
	if server, err = se.Accept(ctx); err != nil {
		panic(err)
	}
	return client, server, func() {
		_ = ce.Close(ctx)
		_ = se.Close(ctx)
	}
}

// A server that answers each stream, and a client.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cert, roots := exampleCertificate()

	server := listen(&quic.Config{
		Handshaker: quic.TLS(&tls.Config{Certificates: []tls.Certificate{cert}}), // TLS in this process
		NextProtos: []string{"example"},
	})
	defer server.Close(ctx)
	go func() {
		conn, err := server.Accept(ctx) // TLS is complete
		if err != nil {
			return
		}
		for {
			s, err := conn.AcceptStream(ctx)
			if err != nil {
				return
			}
			go func() {
				request, _ := io.ReadAll(s)
				_, _ = fmt.Fprintf(s, "you said %q", request)
				_ = s.CloseWrite()
			}()
		}
	}()

	client := listen(nil)
	defer client.Close(ctx)
	conn, err := client.Dial(ctx, server.LocalAddr(), &quic.Config{
		Handshaker: quic.TLS(&tls.Config{RootCAs: roots}),
		ServerName: "localhost",
		NextProtos: []string{"example"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := conn.OpenStream(ctx) // waits while the server allows no more
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = io.WriteString(s, "hello")
	_ = s.CloseWrite() // FIN: the end of the request
	answer, err := io.ReadAll(s)
	fmt.Println(string(answer), err)
	fmt.Println(conn.TLS().ALPN, conn.Version())
	// Output:
	// you said "hello" <nil>
	// example v1
}

// Datagrams arrive once or not at all.
func ExampleConn_SendDatagram() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, server, done := pair(ctx)
	defer done()
	if err := client.SendDatagram([]byte("now or never")); err != nil {
		fmt.Println(err)
		return
	}
	b, err := server.ReceiveDatagram(ctx)
	fmt.Printf("%s, %v\n", b, err)

	var size *quic.DatagramSizeError
	err = client.SendDatagram(make([]byte, 64<<10))
	fmt.Println(errors.As(err, &size))
	// Output:
	// now or never, <nil>
	// true
}

// A subscriber hears of what it asked for, and of the end last.
func ExampleConn_Subscribe() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, server, done := pair(ctx)
	defer done()
	events, stop := client.Subscribe(quic.EventStreamUpdate | quic.EventClose)
	defer stop()
	s, err := client.OpenUniStream(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = io.WriteString(s, "12345")
	_ = s.CloseWrite()
	_ = s.Flush(ctx) // until everything was acknowledged
	_ = server.CloseWithError(7, "enough")
	for e := range events { // closed behind EventClose
		switch e.Kind {
		case quic.EventStreamUpdate:
			fmt.Println("stream", e.StreamID, e.State)
		case quic.EventClose:
			info, _ := quic.CloseInfoOf(e.Err)
			fmt.Println("closed by the peer:", info.Remote, "code", info.Code, info.Reason)
		}
	}
	// Output:
	// stream 2 ready
	// stream 2 send
	// stream 2 sent
	// stream 2 data_received
	// closed by the peer: true code 7 enough
}

// Errors have types: who ended what, and why.
func ExampleStreamError() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, server, done := pair(ctx)
	defer done()
	s, _ := client.OpenStream(ctx)
	_, _ = io.WriteString(s, "never mind")
	in, _ := server.AcceptStream(ctx)
	in.CancelWrite(42) // RESET_STREAM
	_, err := io.ReadAll(s)
	var reset *quic.StreamError
	if errors.As(err, &reset) {
		fmt.Println("stream", reset.StreamID, "by the peer:", reset.Remote, "code", reset.Code)
	}

	_ = client.CloseWithError(3, "bye")
	<-server.Done()
	var app *quic.ApplicationError
	if errors.As(server.Err(), &app) {
		fmt.Println("connection, by the peer:", app.Remote, "code", app.Code, app.Reason)
	}
	// Output:
	// stream 0 by the peer: true code 42
	// connection, by the peer: true code 3 bye
}

// A part of a file, from the file to sealed packets without a copy in between.
func ExampleStream_SendFile() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, server, done := pair(ctx)
	defer done()
	dir, err := os.MkdirTemp("", "sendfile")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "data")
	if err := os.WriteFile(name, []byte("0123456789"), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	f, err := os.Open(name)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	s, _ := client.OpenUniStream(ctx)
	n, err := s.SendFile(f, 2, 5)
	fmt.Println(n, err)
	_ = s.CloseWrite()
	in, _ := server.AcceptUniStream(ctx)
	b, _ := io.ReadAll(in)
	fmt.Printf("%s\n", b)
	_, err = s.SendFile(f, 0, 5) // the stream has ended
	fmt.Println(err != nil)
	// Output:
	// 5 <nil>
	// 23456
	// true
}
