package quic

import (
	"io"
	"testing"
)

// TestStreamCreditWithLongLivedStreams: streams that stay open must not keep
// back the places of those that are over.
func TestStreamCreditWithLongLivedStreams(t *testing.T) {
	scfg := serverConfig()
	scfg.MaxStreamsBidi = 20
	client, server := connect(t, scfg, clientConfig())
	ctx := testContext(t)
	open := func(hold bool) {
		s, err := client.OpenStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		r, err := server.AcceptStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if hold {
			return
		}
		_ = s.CloseWrite()
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		if _, err := io.Copy(io.Discard, s); err != nil {
			t.Fatal(err)
		}
	}
	// Three places come back, too few for a lot, while others are still free.
	for range 3 {
		open(false)
	}
	for range 20 {
		open(true)
	}
}
