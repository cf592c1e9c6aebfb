package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/client"
	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// limited is a gateway with limits in front of a real server.
func limited(t *testing.T, limits, backend string) *inProcess {
	t.Helper()
	server := ganeshatest.Start(t)
	_, mount, _ := strings.Cut(server.Mount, ":")
	c := inProcessConfig{backends: `"` + server.NFS + `"`, mount: mount, limits: limits}
	if backend != "" {
		c.nfs = "      limits: {" + backend + "}\n"
	}
	g := newInProcessConfig(t, c)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return g
}

// Limits on bytes hold, for a client and for a backend, and what comes through
// is whole. A limit is a lower bound of time, so a slow machine changes nothing.
func TestBytesPerSecond(t *testing.T) {
	const size, rate = 1 << 20, 1 << 20
	for _, l := range [][2]string{{fmt.Sprintf("  bytes_per_second_per_client: %d\n", rate), ""}, {"", fmt.Sprintf("bytes_per_second: %d", rate)}} {
		g := limited(t, l[0], l[1])
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		start := time.Now()
		if err := g.copyBothWays(ctx, "f", size); err != nil {
			t.Fatal(err)
		}
		cancel()
		// Both directions count; the first 50 ms are free, and what is paid for last is not waited for.
		if took, least := time.Since(start), time.Second; took < least {
			t.Errorf("%q: %d bytes in %s", l, 2*size, took)
		}
	}
}

// Limits on requests count calls, however small.
func TestRequestsPerSecond(t *testing.T) {
	g := limited(t, "", "requests_per_second: 20")
	d := &client.Dialer{Handshaker: quic.TLS(g.client), ServerName: testName}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := d.DialConn(ctx, "sunrpc", "127.0.0.1", g.addr.Port())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	for range 30 {
		null(t, conn)
	}
	if took := time.Since(start); took < time.Second {
		t.Errorf("30 calls in %s at 20 a second", took)
	}
}

// A client has so many streams, over all its connections, and a backend so many
// connections; one more is told that the server is busy, and those before it go on.
func TestStreamLimits(t *testing.T) {
	for _, l := range [][2]string{{"  streams_per_client: 2\n", ""}, {"", "connections: 2"}} {
		g := limited(t, l[0], l[1])
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		open := func() *quic.Stream {
			d := &client.Dialer{Handshaker: quic.TLS(g.client), ServerName: testName}
			t.Cleanup(func() { d.Close() })
			c, err := d.DialConn(ctx, "sunrpc", "127.0.0.1", g.addr.Port())
			if err != nil {
				t.Fatal(err)
			}
			s, err := c.OpenStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		first, second := open(), open()
		null(t, first)
		null(t, second)
		third := open()
		if _, err := third.Write(nullCall); err == nil {
			_, err = third.Read(make([]byte, 1))
			if code, ok := resetCode(err); !ok || code != nfs.CodeServerBusy {
				t.Errorf("%q: the third stream ended with %v", l, err)
			}
		}
		null(t, first)
		first.Close()
		second.Close()
		cancel()
	}
}

// nullCall calls procedure 0 of NFSv3.
var nullCall = append([]byte{0x80, 0, 0, 40, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0x86, 0xa3, 0, 0, 0, 3, 0, 0, 0, 0}, make([]byte, 16)...)

// null calls it and reads the answer.
func null(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write(nullCall); err != nil {
		t.Fatal(err)
	}
	var answer [28]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil || answer[7] != 7 || answer[27] != 0 {
		t.Fatalf("NULL: %x, %v", answer, err)
	}
}

// resetCode is the code that the peer has reset a stream with.
func resetCode(err error) (uint64, bool) {
	var e *quic.StreamError
	if !errors.As(err, &e) || !e.Remote {
		return 0, false
	}
	return e.Code, true
}
