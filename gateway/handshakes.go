package gateway

import (
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
	"github.com/quic-fsgw/quic-fsgw/quic"
)

// handshakeBounds are the buckets of handshake times, in seconds: from a
// neighbour's to one that times out.
var handshakeBounds = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// timedHandshaker measures handshakes.
type timedHandshaker struct {
	quic.Handshaker
	seconds admin.Histograms
}

func timed(h quic.Handshaker, reg *admin.Registry) quic.Handshaker {
	return timedHandshaker{h, reg.Histograms("quicfsgw_handshake_seconds",
		"Time from a complete ClientHello to the end of TLS, the client's round trip included.", handshakeBounds, "outcome")}
}

// Handshake implements quic.Handshaker.
func (t timedHandshaker) Handshake(req *quic.HandshakeRequest, sink func(quic.HandshakeEvent)) quic.Handshake {
	started := time.Now()
	return t.Handshaker.Handshake(req, func(e quic.HandshakeEvent) {
		switch e.Kind {
		case quic.EventDone:
			t.seconds.With("done").Observe(time.Since(started).Seconds())
		case quic.EventFailed:
			t.seconds.With("failed").Observe(time.Since(started).Seconds())
		}
		sink(e)
	})
}
