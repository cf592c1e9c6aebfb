package quic

import (
	"context"
	"io"
	"testing"
)

// move sends size bytes on a stream of its own, from memory to nowhere.
func move(t testing.TB, ctx context.Context, from, to *Conn, size int64) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		s, err := to.AcceptStream(ctx)
		if err != nil {
			done <- err
			return
		}
		n, err := io.Copy(io.Discard, s)
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
		_ = s.Close()
		done <- err
	}()
	s, err := from.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SendAll(&zeros{size}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
