package quic

import "testing"

// TestRetryKeepsID: both ends name a connection alike, also after a Retry.
func TestRetryKeepsID(t *testing.T) {
	cfg := serverConfig()
	cfg.Retry = RetryAlways
	client, server := connect(t, cfg, clientConfig())
	if client.ID() != server.ID() {
		t.Errorf("client calls it %s, server %s", client.ID(), server.ID())
	}
	if n := server.ep.Stats().Retries; n == 0 {
		t.Error("no Retry was sent")
	}
}
