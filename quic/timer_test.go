package quic

import (
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
)

// TestMaySendAck: an ACK that cannot be sent, because its keys are gone or the
// path takes no more, must not keep the timer firing.
func TestMaySendAck(t *testing.T) {
	_, server := connect(t, serverConfig(), clientConfig())
	server.lock()
	defer server.mu.Unlock()
	if !server.maySendAck(recovery.AppData) {
		t.Error("1-RTT ACKs are not possible")
	}
	if server.maySendAck(recovery.Handshake) {
		t.Error("an ACK is awaited in a space without keys")
	}
	server.path.validated = false
	server.path.received, server.path.sent = 100, 300
	if server.maySendAck(recovery.AppData) {
		t.Error("an ACK is awaited on a path that may take no more")
	}
}
