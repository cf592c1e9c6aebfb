package quic

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// TestRememberedParams: all of a server's parameters come back but those that must
// not be used again (RFC 9000, Section 7.4.1), those that are another connection's,
// and what asks for acknowledgements or versions.
func TestRememberedParams(t *testing.T) {
	forgotten := map[string]any{
		"AckDelayExponent": uint64(wire.DefaultAckDelayExponent), "MaxAckDelay": wire.DefaultMaxAckDelay,
		"InitialSrc": wire.ConnID{}, "HasInitialSrc": false, "OriginalDst": wire.ConnID{}, "HasOriginalDst": false,
		"RetrySrc": wire.ConnID{}, "HasRetrySrc": false, "PreferredAddress": (*wire.PreferredAddress)(nil),
		"ResetToken": [16]byte{}, "HasResetToken": false,
		"MinAckDelay": time.Duration(0), "VersionInfo": []byte(nil), "GreaseID": uint64(0), "GreaseData": []byte(nil),
	}
	p := wire.TransportParams{
		OriginalDst: connID("original"), HasOriginalDst: true, InitialSrc: connID("source"), HasInitialSrc: true, RetrySrc: connID("retry"), HasRetrySrc: true,
		MaxIdleTimeout: 7 * time.Second, ResetToken: [16]byte{1}, HasResetToken: true, MaxUDPPayload: 1300,
		InitialMaxData: 11, InitialMaxStreamDataBidiLocal: 12, InitialMaxStreamDataBidiRemote: 13, InitialMaxStreamDataUni: 14,
		InitialMaxStreamsBidi: 15, InitialMaxStreamsUni: 16, AckDelayExponent: 5, MaxAckDelay: 40 * time.Millisecond, MinAckDelay: time.Millisecond,
		DisableActiveMigration: true, ActiveConnIDLimit: 6, MaxDatagram: 1200, GreaseBit: true, VersionInfo: []byte{0, 0, 0, 1},
		PreferredAddress: &wire.PreferredAddress{IPv4: addrPort("192.0.2.1:1"), ID: connID("preferred")}, GreaseID: 3, GreaseData: []byte("x"),
	}
	got, err := wire.ParseTransportParams(rememberedParams(&p), true)
	if err != nil {
		t.Fatal(err)
	}
	was, is := reflect.ValueOf(p), reflect.ValueOf(got)
	for i := range was.NumField() {
		name := was.Type().Field(i).Name
		if was.Field(i).IsZero() {
			t.Errorf("%s is not set: the test says nothing of it", name)
		}
		want, ok := forgotten[name]
		if !ok {
			want = was.Field(i).Interface()
		}
		if x := is.Field(i).Interface(); !reflect.DeepEqual(x, want) {
			t.Errorf("%s: %v comes back of %v, want %v", name, x, was.Field(i), want)
		}
	}
}

// A forgetful Handshaker takes 0-RTT whatever was promised.
type forgetful struct {
	Handshaker
	limits []uint64
}

func (f *forgetful) Handshake(req *HandshakeRequest, sink func(HandshakeEvent)) Handshake {
	req.EarlyLimits = f.limits
	return f.Handshaker.Handshake(req, sink)
}

// TestEarlyLimitsReduced: a client ends a connection whose server has accepted 0-RTT
// and gives less than it had promised for it.
//
// RFC 9221, Section 3: "if not, the client MUST terminate the connection with error
// PROTOCOL_VIOLATION."
func TestEarlyLimitsReduced(t *testing.T) {
	for _, one := range []struct {
		name string
		f    func(*Config)
		ok   bool
	}{
		{"nothing", func(*Config) {}, true},
		{"connection window", func(c *Config) { c.ConnWindow = 20_000 }, false},
		{"stream window", func(c *Config) { c.StreamWindow = 3000 }, false},
		{"bidirectional streams", func(c *Config) { c.MaxStreamsBidi = 2 }, false},
		{"unidirectional streams", func(c *Config) { c.MaxStreamsUni = 1 }, false},
		{"datagrams", func(c *Config) { c.MaxDatagramFrame = 1000 }, false},
	} {
		t.Run(one.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := new(forgetful)
				ep := newEarlyPair(t, 20, simnet.Params{Delay: earlyDelay}, func(s, _ *Config) {
					s.MaxDatagramFrame, s.MaxStreamsUni = 1200, 5
					f.Handshaker, s.Handshaker = s.Handshaker, f
					f.limits = earlyLimits(&wire.TransportParams{})
				})
				scfg := *ep.scfg
				one.f(&scfg)
				ep.server.SetConfig(&scfg)
				c := ep.dialEarly()
				ep.send(c, pattern(0, 2000))
				err := c.Wait(ep.ctx())
				var te *TransportError
				if one.ok != (err == nil) || err != nil && (!errors.As(err, &te) || te.Remote || te.Code != ProtocolViolation) {
					t.Errorf("the client ends with %v", err)
				}
				if one.ok && !c.TLS().EarlyData {
					t.Error("0-RTT was not accepted: the test shows nothing")
				}
			})
		})
	}
}

// sealEarly seals frames in a 0-RTT packet of a client, as nothing here would.
func sealEarly(c *Conn, pn uint64, frames []byte) []byte {
	c.lock()
	defer c.unlock()
	hdr, at := wire.AppendLong(nil, wire.Packet0RTT, c.ver.original, c.dst(), c.ids.local[0].id, nil, pn, 4)
	wire.SetLength(hdr, at, 4+len(frames)+16)
	out := c.early.tx.Seal(slices.Clone(hdr), frames, hdr, pn)
	c.early.tx.ProtectHeader(out, len(hdr)-4, 4)
	return out
}

// TestFramesInEarlyPackets: what must not be in a 0-RTT packet ends the connection.
//
// RFC 9001, Section 8.3: "A server MUST treat receipt of a CRYPTO frame in a 0-RTT
// packet as a connection error of type PROTOCOL_VIOLATION."
func TestFramesInEarlyPackets(t *testing.T) {
	for name, frames := range map[string][]byte{
		"CRYPTO":               append(wire.AppendCryptoHeader(nil, 0, 14), "EndOfEarlyData"...),
		"ACK":                  {wire.FrameAck, 0, 0, 0, 0},
		"NEW_TOKEN":            wire.AppendNewToken(nil, []byte("token")),
		"HANDSHAKE_DONE":       wire.AppendHandshakeDone(nil),
		"PATH_RESPONSE":        wire.AppendPathResponse(nil, [8]byte{}),
		"RETIRE_CONNECTION_ID": wire.AppendRetireConnectionID(nil, 0),
		"PING":                 wire.AppendPing(nil),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ep := newEarlyPair(t, 21, simnet.Params{Delay: earlyDelay})
				c := ep.dialEarly()
				ep.send(c, []byte("hello"))
				ep.net.Inject(netip.AddrPortFrom(clientHost, 5000), netip.AddrPortFrom(serverHost, 443), sealEarly(c, 100, append(frames, 0, 0, 0, 0)), 0)
				s := ep.accept()
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				err := s.Wait(ctx)
				var te *TransportError
				// The client does not know what was sent in its name, and minds that
				// it is acknowledged.
				if bad := name != "PING"; bad != (errors.As(err, &te) && !te.Remote && te.Code == ProtocolViolation) {
					t.Errorf("the server ends with %v", err)
				}
			})
		})
	}
}

// TestEarlyPacketsOnTheWire: which of the packets are 0-RTT ones. A server sends
// none, and acknowledges with 1-RTT packets; a client sends none behind its first
// 1-RTT packet, and all with the version that it began with.
//
// RFC 9001, Section 5.6: "A server MUST NOT use 0-RTT keys to protect packets". "Once
// a client has installed 1-RTT keys, it MUST NOT send any more 0-RTT packets."
//
// RFC 9369, Section 4.1: "The client MUST NOT send 0-RTT packets using the negotiated
// version, even after processing a packet of that version from the server."
func TestEarlyPacketsOnTheWire(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// The session is of version 1; then version 2 is negotiated.
		ep := newEarlyPair(t, 22, simnet.Params{Delay: earlyDelay}, func(s, c *Config) { s.Versions, c.Versions = []Version{Version1}, []Version{Version1, Version2} })
		scfg := *ep.scfg
		scfg.Versions = []Version{Version2, Version1}
		ep.server.SetConfig(&scfg)
		walk := func(p *simnet.Packet, f func(h *wire.LongHeader)) {
			for b := p.Data; len(b) > 0; {
				if !wire.IsLong(b[0]) {
					f(nil)
					return
				}
				h, err := wire.ParseLong(b)
				if err != nil {
					t.Error(err)
					return
				}
				f(&h)
				b = b[h.Len:]
			}
		}
		early, short, second, answers := 0, 0, 0, 0
		ep.net.Link(clientHost, serverHost).Script(func(p *simnet.Packet) {
			walk(p, func(h *wire.LongHeader) {
				switch {
				case h == nil:
					short++
				case h.Type != wire.Packet0RTT:
					if h.Version == Version2 {
						second++
					}
				case short > 0:
					t.Error("a 0-RTT packet behind a 1-RTT packet")
				case h.Version != Version1:
					t.Errorf("a 0-RTT packet of %v", h.Version)
				default:
					early++
				}
			})
		})
		ep.net.Link(serverHost, clientHost).Script(func(p *simnet.Packet) {
			walk(p, func(h *wire.LongHeader) {
				if h == nil {
					answers++
				} else if h.Type == wire.Packet0RTT {
					t.Error("the server sends a 0-RTT packet")
				}
			})
		})
		c := ep.dialEarly()
		st := ep.send(c, pattern(0, 60_000)) // more than the first flight holds
		s := ep.accept()
		ep.echo(s)
		ep.wantEcho(st, pattern(0, 60_000))
		ep.wantEarly(c, true)
		if early < 5 || short == 0 || second == 0 || answers == 0 {
			t.Errorf("%d 0-RTT, %d 1-RTT packets, %d of version 2; %d answers", early, short, second, answers)
		}
		if err := st.Flush(ep.ctx()); err != nil {
			t.Errorf("not all was acknowledged: %v", err)
		}
		if n := c.Stats().PacketsLost; n != 0 {
			t.Errorf("%d packets were not acknowledged; %v; %+v", n, ep.server.Stats().Drops, c.Stats())
		}
	})
}

// TestRejectedEarlyAcknowledged: RFC 9001, Section 4.6.2: "When 0-RTT was rejected, a
// client SHOULD treat receipt of an acknowledgment for a 0-RTT packet as a connection
// error of type PROTOCOL_VIOLATION, if it is able to detect the condition."
func TestRejectedEarlyAcknowledged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 23, simnet.Params{Delay: earlyDelay})
		scfg := *ep.scfg
		scfg.EarlyData = false
		ep.server.SetConfig(&scfg)
		c := ep.dialEarly()
		st := ep.send(c, []byte("hello"))
		s := ep.accept()
		ep.echo(s)
		ep.wantEcho(st, []byte("hello"))
		ep.wantEarly(c, false)
		s.lock()
		s.recv.Add(time.Now(), 0, true, 0) // it claims to have read it
		s.dirty = true
		s.unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		select {
		case <-c.Done():
		case <-ctx.Done():
		}
		var te *TransportError
		if err := c.Err(); !errors.As(err, &te) || te.Remote || te.Code != ProtocolViolation {
			t.Errorf("the client ends with %v", err)
		}
	})
}

// TestEarlyVersion: once the server has chosen another version, and no more is known of
// it, 0-RTT packets go on in the first one.
//
// RFC 9369, Section 4.1: "The client MUST NOT send 0-RTT packets using the negotiated
// version, even after processing a packet of that version from the server."
func TestEarlyVersion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 24, simnet.Params{Delay: earlyDelay}, func(s, c *Config) { s.Versions, c.Versions = []Version{Version1}, []Version{Version1, Version2} })
		scfg := *ep.scfg
		scfg.Versions = []Version{Version2, Version1}
		ep.server.SetConfig(&scfg)
		began, after := time.Now(), 0
		ep.net.Link(clientHost, serverHost).Script(func(p *simnet.Packet) {
			if h, err := wire.ParseLong(p.Data); wire.IsLong(p.Data[0]) && err == nil && h.Type == wire.Packet0RTT {
				if h.Version != Version1 {
					t.Errorf("a 0-RTT packet of %v", h.Version)
				}
				if time.Since(began) >= 2*earlyDelay {
					after++
				}
			}
		})
		ep.net.Link(serverHost, clientHost).Script(func(p *simnet.Packet) {
			h, err := wire.ParseLong(p.Data) // a whole Initial comes through, the Handshake packets are late
			p.Drop = time.Since(began) < 50*time.Millisecond && (err != nil || h.Type != wire.PacketInitial || h.Len < len(p.Data))
		})
		c := ep.dialEarly()
		st := ep.send(c, pattern(0, 60_000))
		ep.echo(ep.accept())
		ep.wantEcho(st, pattern(0, 60_000))
		ep.wantEarly(c, true)
		if c.Version() != Version2 || after == 0 {
			t.Errorf("%v, %d 0-RTT packets behind the server's first: the test shows nothing", c.Version(), after)
		}
	})
}
