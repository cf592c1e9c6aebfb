package quic

import (
	"errors"
	"os"
	"testing"
	"time"
)

// TestBlockedStreamWaitsOnce: however often a stream is written to while the
// connection's limit holds it up, it waits in one place, and has said so.
func TestBlockedStreamWaitsOnce(t *testing.T) {
	scfg := serverConfig()
	scfg.ConnWindow, scfg.StreamWindow = 2000, 100_000
	client, _ := connect(t, scfg, clientConfig())
	s, err := client.OpenStream(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if _, err := s.Write(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	client.lock()
	defer client.unlock()
	if n := len(client.streams.waiting); n != 1 {
		t.Errorf("the stream waits in %d places", n)
	}
	if f := &client.flow; f.sent != 2000 || f.blockedAt != 2000 || f.blocked {
		t.Errorf("%d bytes sent, DATA_BLOCKED at %d, still due: %v", f.sent, f.blockedAt, f.blocked)
	}
}

// TestWriteDeadlineWhileBlocked: a blocked Write ends at its deadline.
func TestWriteDeadlineWhileBlocked(t *testing.T) {
	scfg := serverConfig()
	scfg.StreamWindow = 1000
	client, _ := connect(t, scfg, clientConfig())
	s, err := client.OpenStream(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = s.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := s.Write(make([]byte, 1<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n < 1000 || n >= 1<<20 {
		t.Errorf("wrote %d bytes: %v", n, err)
	}
}
