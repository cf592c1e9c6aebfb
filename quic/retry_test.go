package quic

import (
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

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

// RFC 9000, Section 7.3: "An endpoint MUST treat the following as a connection error
// of type TRANSPORT_PARAMETER_ERROR or PROTOCOL_VIOLATION:" among others the absence
// of retry_source_connection_id after a Retry, or another value than that had.
func TestRetrySourceConnectionID(t *testing.T) {
	for name, edit := range map[string]func(p *wire.TransportParams){
		"right":   nil,
		"missing": func(p *wire.TransportParams) { p.HasRetrySrc = false },
		"another": func(p *wire.TransportParams) { p.RetrySrc = connID("retry-ie") },
		"the ID of the Retry as the original one": func(p *wire.TransportParams) { p.OriginalDst = connID("retry-id") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				tc := newTestClient(t, nil)
				tc.frames() // of before the Retry
				b := wire.AppendRetry(nil, wire.Version1, tc.dst, connID("retry-id"), []byte("token"), 5)
				tag := protect.RetryTag(wire.Version1, tc.odcid, b)
				tc.params.RetrySrc, tc.params.HasRetrySrc = connID("retry-id"), true
				tc.initialKeys()
				tc.sendRaw(append(b, tag[:]...))
				if edit != nil {
					edit(&tc.params)
				}
				tc.startTLS()
				for range 4 {
					tc.flushCrypto()
					tc.feedTLS()
				}
				if edit != nil {
					tc.wantClose(TransportParameterError)
				} else if !tc.tlsDone {
					t.Errorf("the handshake did not end: %v", tc.connErr())
				}
			})
		})
	}
}
