package gateway_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/client"
	"github.com/quic-fsgw/quic-fsgw/gateway/reason"
	"github.com/quic-fsgw/quic-fsgw/nfs"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/smb"
	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// A drain refuses who is new, closes what is idle with a code that sends its
// client elsewhere, and lets what is under way come to its end before.
func TestDrainCodes(t *testing.T) {
	release := make(chan struct{})
	s := newRPCSite(t, inProcessConfig{}, func(w io.Writer, msg []byte) {
		if word(msg, 5) == 7 {
			<-release
		}
		echoArgs(w, msg)
	})
	idle, busy := s.dial(nil), s.dial(func(cfg *quic.Config) { cfg.KeepAlive = time.Second })
	s.null("before", s.open(idle))
	call := s.open(busy)
	s.send(call, rpcCall(1, nfs.ProgNFS, 3, 7, 0, nil))
	for word(receive(t, s.server.calls), 5) != 7 {
	}
	drained := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	go func() { drained <- s.Drain(ctx) }()
	awaitEnd(t, idle, reason.Drained)
	if _, err := s.try(nil); transportCode(err) != reason.Draining.Code {
		t.Errorf("a new client: %v, want %s", err, reason.Draining.Word)
	}
	close(release)
	if msg, err := readRPC(call); err != nil || word(msg, 0) != 1 {
		t.Errorf("the call under way: %x, %v", msg, err)
	}
	awaitEnd(t, busy, reason.Drained)
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// awaitEnd waits for the end of a connection by an application code.
func awaitEnd(t *testing.T, c *quic.Conn, want reason.Reason) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(40 * time.Second):
		t.Fatal("the connection has not ended")
	}
	var ae *quic.ApplicationError
	if err := c.Err(); !errors.As(err, &ae) || !ae.Remote || ae.Code != want.Code || ae.Reason != want.Name {
		t.Errorf("the connection ended with %v, want code %d, %s", err, want.Code, want.Name)
	}
}

// An SMB session is its client's to end, until shortly before the end of the drain.
func TestDrainCodesSMB(t *testing.T) {
	server := sambatest.Start(t, sambatest.Options{})
	base := newInProcess(t, "127.0.0.1:1", "1")
	closeGateway(t, base.Gateway)
	var log syncBuffer
	g := startServing(t, quic.TLS(base.server), server.Addr, &log)
	d := &client.Dialer{Handshaker: quic.TLS(base.client), ServerName: testName}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := d.DialConn(ctx, "smb", "127.0.0.1", g.addr.Port())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	session, err := smb.NewClient(ctx, stream, smb.ClientConfig{Host: sambatest.Host, User: sambatest.User, Password: sambatest.Password})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(ctx)
	dctx, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	start := time.Now()
	if err := g.Drain(dctx); err != nil {
		t.Error(err)
	}
	awaitEnd(t, c, reason.DrainedSMB)
	if took := time.Since(start); took < 6*time.Second {
		t.Errorf("closed after %s, long before the end of the drain", took)
	}
}
