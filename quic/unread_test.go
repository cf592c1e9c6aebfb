package quic

import (
	"errors"
	"io"
	"testing"
	"time"
)

// TestCloseWithUnreadData: a reader that had data waiting when the connection
// closed is told, and does not wait for ever for what was discarded.
func TestCloseWithUnreadData(t *testing.T) {
	reads := map[string]func(*Stream) error{
		"Read":    func(s *Stream) error { _, err := s.Read(make([]byte, 1)); return err },
		"WriteTo": func(s *Stream) error { _, err := s.WriteTo(io.Discard); return err },
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			client, server := connect(t, serverConfig(), clientConfig())
			ctx := testContext(t)
			s, err := client.OpenStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write([]byte("unread")); err != nil {
				t.Fatal(err)
			}
			if err := s.Flush(ctx); err != nil { // it has arrived
				t.Fatal(err)
			}
			r, err := server.AcceptStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_ = client.CloseWithError(7, "gone")
			<-server.Done()
			done := make(chan error, 1)
			go func() { done <- read(r) }()
			select {
			case err := <-done:
				var ae *ApplicationError
				if !errors.As(err, &ae) || ae.Code != 7 {
					t.Errorf("%v, want the peer's code 7", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the reader waits for data that is gone")
			}
		})
	}
}
