package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/flight"
)

// flood sends them to an endpoint as fast as it can, until ctx ends.
func flood(ctx context.Context, t testing.TB, e *Endpoint, flights [][]byte) (sent int) {
	t.Helper()
	u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(e.LocalAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for ctx.Err() == nil {
		for _, b := range flights {
			if _, err := u.Write(b); err == nil { // a full buffer is no reason to stop
				sent++
			}
			if sent%64 == 0 && ctx.Err() != nil {
				break
			}
		}
	}
	return sent
}

// In a flood of first flights Retry goes on, a transfer goes on, what is held stays
// bounded; afterwards Retry goes off.
func TestFloodOfInitials(t *testing.T) {
	scfg := serverConfig()
	scfg.Retry, scfg.RetryAbove, scfg.MaxHandshakes, scfg.HandshakeTimeout = RetryAuto, 500, 512, 3*time.Second
	scfg.MaxIdleTimeout = time.Minute
	const memory = 64 << 20
	server := newLoopback(t, scfg, WithMemory(memory))
	ctx := testContext(t)
	ccfg := clientConfig()
	ccfg.MaxIdleTimeout = time.Minute
	c, err := newLoopback(t, nil).Dial(ctx, server.LocalAddr(), ccfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// The transfer: the client sends for as long as it lasts.
	var moved atomic.Int64
	done := make(chan error, 1)
	go func() {
		st, err := s.AcceptStream(ctx)
		if err == nil {
			_, err = io.Copy(writerFunc(func(b []byte) (int, error) { moved.Add(int64(len(b))); return len(b), nil }), st)
		}
		done <- err
	}()
	st, err := c.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	flights := flight.Initials(t, 2000, &tls.Config{RootCAs: testPKI().roots, ServerName: "localhost", NextProtos: []string{"test"}, MinVersion: tls.VersionTLS13})
	over, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	sending := make(chan error, 1)
	go func() {
		var err error
		for b := make([]byte, 64<<10); over.Err() == nil && err == nil; {
			_, err = st.Write(b)
		}
		sending <- errors.Join(err, st.CloseWrite())
	}()
	before := moved.Load()
	most := 0
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for over.Err() == nil {
			x := server.Stats()
			most = max(most, x.Handshaking)
			if x.HeldBytes > memory {
				t.Errorf("%d bytes are held, at most %d may be", x.HeldBytes, memory)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	sent := flood(over, t, server, flights)
	<-watched
	if err := errors.Join(<-sending, <-done); err != nil {
		t.Fatalf("the transfer: %v", err)
	}
	if moved.Load() == before {
		t.Error("the transfer stood still")
	}
	x := server.Stats()
	t.Logf("%d datagrams sent, %d Retries, %d connections begun, at most %d at once, dropped: %v; %v of the reader's time; %d bytes moved", sent, x.Retries, x.Started, most, x.Drops, x.InitialTime, moved.Load())
	if x.Retries == 0 {
		t.Error("Retry did not go on")
	}
	if most > 512 {
		t.Errorf("%d handshakes at once", most)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		n := server.Stats().Retries
		c, err := newLoopback(t, nil).Dial(ctx, server.LocalAddr(), clientConfig())
		if err != nil {
			t.Fatalf("after the flood: %v", err)
		}
		_ = c.CloseWithError(0, "")
		if server.Stats().Retries == n {
			break
		}
		if time.Now().After(end) {
			t.Fatal("Retry does not go off")
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func TestInitialsBudget(t *testing.T) {
	var b initialsBudget
	now := time.Unix(1000, 0)
	spend := func(token, flood bool, d time.Duration) bool {
		if !b.begin(now, token, flood) {
			return false
		}
		b.end(now, now.Add(d), token)
		return true
	}
	for i := range 100 {
		if !spend(false, false, time.Millisecond) {
			t.Fatalf("packet %d was dropped without a flood", i)
		}
	}
	if spend(false, true, 0) {
		t.Error("the time is spent")
	}
	n := 0
	for spend(true, true, initialsShare/10) {
		n++
	}
	if n < 10 || n > 11 {
		t.Errorf("%d packets with a token, want ten times a tenth of the share", n)
	}
	now = now.Add(initialsWindow)
	if !spend(false, true, time.Millisecond) || !spend(true, true, time.Millisecond) {
		t.Error("no time in the next window")
	}
}
