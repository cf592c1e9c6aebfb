package quic

import (
	"context"
	"errors"
	"testing"
)

// TestOpenStreamEndsWithConnection: all who wait for the peer to allow more
// streams must hear of the connection's end, not only the first.
func TestOpenStreamEndsWithConnection(t *testing.T) {
	scfg := serverConfig()
	scfg.MaxStreamsBidi = -1
	client, _ := connect(t, scfg, clientConfig())
	ctx := testContext(t)
	const waiters = 5
	errc := make(chan error, waiters)
	for range waiters {
		go func() {
			_, err := client.OpenStream(ctx)
			errc <- err
		}()
	}
	_ = client.CloseWithError(3, "")
	for range waiters {
		var ae *ApplicationError
		if err := <-errc; !errors.As(err, &ae) || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("OpenStream: %v", err)
		}
	}
}
