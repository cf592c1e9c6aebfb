package quic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
)

// A stutterer is a Handshaker that tells one secret twice: at once, or, with late,
// when the handshake is over.
type stutterer struct {
	Handshaker
	level Level
	write bool
	late  bool
}

func (s *stutterer) Handshake(req *HandshakeRequest, sink func(HandshakeEvent)) Handshake {
	var again *HandshakeEvent
	done := false
	return s.Handshaker.Handshake(req, func(e HandshakeEvent) {
		if e.Kind == EventSecret && e.Level == s.level && e.Write == s.write {
			second := e
			second.Data = bytes.Clone(e.Data)
			again = &second
		}
		sink(e)
		done = done || e.Kind == EventDone
		if again != nil && (done || !s.late) {
			sink(*again)
			again = nil
		}
	})
}

// TestSecretTwice: a secret that is told twice, or late, ends the connection, and no
// packet number is used under both keys.
func TestSecretTwice(t *testing.T) {
	for _, level := range []Level{LevelHandshake, LevelApp} {
		for _, write := range []bool{true, false} {
			for _, late := range []bool{false, true} {
				for _, server := range []bool{true, false} {
					t.Run(fmt.Sprintf("%v, write %v, late %v, server %v", level, write, late, server), func(t *testing.T) {
						bubble(t, func(t *testing.T) {
							scfg, ccfg := serverConfig(), clientConfig()
							cfg := ccfg
							if server {
								cfg = scfg
							}
							cfg.Handshaker = &stutterer{cfg.Handshaker, level, write, late}
							sp := newSimPair(t, 1, simnet.Params{Delay: time.Millisecond}, scfg)
							ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
							defer cancel()
							c, err := sp.client.Dial(ctx, netip.AddrPortFrom(serverHost, 443), ccfg)
							if err == nil {
								<-c.Done()
								err = c.Err()
							}
							var te *TransportError
							var he *HandshakeError
							if server && (!errors.As(err, &te) || te.Code != CryptoErrorBase+TransportErrorCode(AlertInternalError)) || !server && (!errors.As(err, &he) || he.Alert != AlertInternalError) {
								t.Errorf("the client ends with %v", err)
							}
						})
					})
				}
			}
		}
	}
}
