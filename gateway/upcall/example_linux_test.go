package upcall_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/access"
	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
	"github.com/quic-fsgw/quic-fsgw/gateway/upcall"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// helperArg has this program be the helper.
const helperArg = "be-the-helper"

// A program that spawns itself as its helper looks at its arguments first.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == helperArg {
		if err := tlshd.RunHelper(context.Background(), slog.New(slog.DiscardHandler)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// throwaway writes a CA and a certificate for files.example.com into dir.
func throwaway(dir string) (ca, cert, key string, err error) {
	ca, cert, key = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	now := time.Now()
	issuer, pair, err := pki.NewCA(now, "example", time.Hour)
	if err == nil {
		err = pair.Write(ca, filepath.Join(dir, "ca.key"))
	}
	if err == nil {
		pair, err = issuer.Issue(now, pki.Request{Name: "files.example.com", Server: true, DNS: []string{"files.example.com"}, Life: time.Hour})
	}
	if err == nil {
		err = pair.Write(cert, key)
	}
	return ca, cert, key, err
}

// A server and a client whose TLS runs in a process of its own: this one has no
// private key, and reads none.
func ExampleHandshaker() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ca, cert, key, err := throwaway(dir)
	if err != nil {
		panic(err)
	}

	// The helper, and a connection to it.
	helper, err := tlshd.Spawn(ctx, tlshd.SpawnConfig{
		Args: []string{helperArg},
		Config: tlshd.Config{
			Certificates: []tlshd.Certificate{{Cert: cert, Key: key}}, // for servers
			Client:       &tlshd.ClientConfig{CA: []string{ca}},       // for clients
		},
	})
	if err != nil {
		panic(err)
	}
	defer helper.Stop(ctx)
	control, err := helper.Connect(ctx)
	if err != nil {
		panic(err)
	}
	client := tlshd.NewClient(tlshd.ClientOptions{})
	if err := client.Attach(control); err != nil {
		panic(err)
	}
	handshaker := upcall.Handshaker(client)

	server := listen(&quic.Config{
		Handshaker: handshaker, NextProtos: []string{"example"},
		HandshakeOptions: &upcall.Policy{Route: "example", Rules: "1", Mode: access.None}, // no client certificates
	})
	defer server.Close(ctx)
	go func() {
		conn, err := server.Accept(ctx)
		if err != nil {
			return
		}
		if s, err := conn.AcceptStream(ctx); err == nil {
			_, _ = io.Copy(s, s)
			_ = s.CloseWrite()
		}
	}()

	dialer := listen(nil)
	defer dialer.Close(ctx)
	conn, err := dialer.Dial(ctx, server.LocalAddr(), &quic.Config{Handshaker: handshaker, NextProtos: []string{"example"}, ServerName: "files.example.com"})
	if err != nil {
		panic(err)
	}
	s, err := conn.OpenStream(ctx)
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(s, "hello")
	_ = s.CloseWrite()
	answer, err := io.ReadAll(s)
	fmt.Printf("%s %v, verified %d certificates of %s\n", answer, err, len(conn.TLS().Chain), conn.TLS().ServerName)
	// Output: hello <nil>, verified 2 certificates of files.example.com
}

// listen makes an endpoint on a free port of the loopback address.
func listen(cfg *quic.Config) *quic.Endpoint {
	socket, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		panic(err)
	}
	return quic.NewEndpoint([]udp.PacketConn{socket}, cfg)
}
