package quic

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// earlyPair is a simPair whose client has a session for 0-RTT.
type earlyPair struct {
	*simPair
	scfg, ccfg *Config
	sessions   ticketCache
}

const earlyDelay = 20 * time.Millisecond

func newEarlyPair(t testing.TB, seed uint64, p simnet.Params, change ...func(scfg, ccfg *Config)) *earlyPair {
	t.Helper()
	ep := &earlyPair{scfg: serverConfig(), sessions: ticketCache{tls.NewLRUClientSessionCache(4), make(chan struct{}, 64)}}
	ep.scfg.EarlyData = true
	ep.ccfg = clientConfig()
	ep.ccfg.Handshaker = TLS(&tls.Config{RootCAs: testPKI().roots, ClientSessionCache: ep.sessions})
	for _, f := range change {
		f(ep.scfg, ep.ccfg)
	}
	ep.simPair = newSimPair(t, seed, p, ep.scfg)
	ep.session()
	return ep
}

// session connects once, for the ticket.
func (ep *earlyPair) session() {
	ep.Helper()
	c, s := ep.dial(ep.ccfg)
	<-ep.sessions.got
	_ = c.CloseWithError(0, "")
	<-s.Done()
	time.Sleep(time.Second) // both forget it
}

func (ep *earlyPair) dialEarly() *Conn {
	ep.Helper()
	c, err := ep.client.DialEarly(ep.ctx(), netip.AddrPortFrom(serverHost, 443), ep.ccfg)
	if err != nil {
		ep.Fatalf("DialEarly: %v", err)
	}
	return c
}

func (ep *earlyPair) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	ep.Cleanup(cancel)
	return ctx
}

func (ep *earlyPair) accept() *Conn {
	ep.Helper()
	s, err := ep.server.Accept(ep.ctx())
	if err != nil {
		ep.Fatalf("Accept: %v", err)
	}
	return s
}

// send writes b and FIN on a stream of its own.
func (ep *earlyPair) send(c *Conn, b []byte) *Stream {
	ep.Helper()
	s, err := c.OpenStream(ep.ctx())
	if err == nil {
		_, err = s.Write(b)
	}
	if err == nil {
		err = s.CloseWrite()
	}
	if err != nil {
		ep.Fatal(err)
	}
	return s
}

// echo answers every stream with what comes on it and returns, when the
// connection ends, what came by stream.
func (ep *earlyPair) echo(c *Conn) <-chan map[uint64][]byte {
	out := make(chan map[uint64][]byte, 1)
	go func() {
		got := map[uint64][]byte{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for {
			s, err := c.AcceptStream(context.Background())
			if err != nil {
				break
			}
			wg.Go(func() {
				b, err := io.ReadAll(s)
				if err == nil {
					_, err = s.Write(b)
				}
				if err != nil {
					return // whoever waits for it says so
				}
				_ = s.CloseWrite()
				mu.Lock()
				got[s.ID()] = append(got[s.ID()], b...)
				mu.Unlock()
			})
		}
		wg.Wait()
		out <- got
	}()
	return out
}

func (ep *earlyPair) wantEcho(s *Stream, want []byte) {
	ep.Helper()
	_ = s.SetReadDeadline(time.Now().Add(4 * time.Minute))
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, want) {
		ep.Fatalf("%d bytes came back, %v; %d were sent", len(got), err, len(want))
	}
}

// wantEarly checks what became of 0-RTT.
func (ep *earlyPair) wantEarly(c *Conn, want bool) {
	ep.Helper()
	if err := c.Wait(ep.ctx()); err != nil {
		ep.Fatalf("handshake: %v", err)
	}
	if got := c.TLS().EarlyData; got != want {
		ep.Fatalf("0-RTT accepted: %v, want %v (resumed %v)", got, want, c.TLS().Resumed)
	}
}

// A request goes with the first flight, and its answer is back in one round trip.
func TestEarlyData(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 1, simnet.Params{Delay: earlyDelay})
		began := time.Now()
		c := ep.dialEarly()
		if d := time.Since(began); d != 0 {
			t.Errorf("DialEarly took %v", d)
		}
		if c.TLS() != nil {
			t.Error("the handshake can't be complete yet")
		}
		request := pattern(0, 5000)
		st := ep.send(c, request)
		s := ep.accept()
		if d := time.Since(began); d != earlyDelay {
			t.Errorf("the server has the connection after %v, want %v", d, earlyDelay)
		}
		ep.echo(s)
		ep.wantEcho(st, request)
		if d := time.Since(began); d > 2*earlyDelay+5*time.Millisecond {
			t.Errorf("the answer came after %v, want one round trip of %v", d, 2*earlyDelay)
		}
		ep.wantEarly(c, true)
		ep.wantEarly(s, true)
		if n := c.Stats().BytesRetransmitted; n != 0 {
			t.Errorf("%d bytes were sent twice", n)
		}
		time.Sleep(5 * time.Second)
		for _, x := range []*Conn{c, s} {
			x.lock()
			if x.early.rx != nil || x.early.tx != nil || !x.early.until.IsZero() {
				t.Errorf("server %v: keys of 0-RTT are still there", x.server)
			}
			x.unlock()
		}
		ep.wantEcho(ep.send(c, pattern(3, 100_000)), pattern(3, 100_000))
	})
}

// Acknowledgements of 0-RTT come in 1-RTT packets, and count neither as such of
// this key phase (RFC 9001, Sections 5.6 and 6.1).
func TestEarlyAcknowledged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 2, simnet.Params{Delay: earlyDelay})
		var types []wire.PacketType
		ep.net.Link(clientHost, serverHost).Script(func(p *simnet.Packet) {
			for b := p.Data; len(b) > 0 && wire.IsLong(b[0]); {
				h, err := wire.ParseLong(b)
				if err != nil {
					break
				}
				types = append(types, h.Type)
				b = b[h.Len:]
			}
		})
		c := ep.dialEarly()
		st := ep.send(c, pattern(0, 3000))
		s := ep.accept()
		ep.echo(s)
		if err := st.Flush(ep.ctx()); err != nil {
			t.Fatal(err)
		}
		if n := slices.Index(types, wire.Packet0RTT); n < 0 {
			t.Fatalf("no 0-RTT packets: %v", types)
		}
		c.lock()
		acked := c.app.acked
		confirmed := c.confirmed
		c.unlock()
		if acked && !confirmed {
			t.Error("the acknowledgement of a 0-RTT packet counts for the key phase")
		}
		_ = c.Wait(ep.ctx())
		time.Sleep(time.Second)
		for range 3 {
			err := c.UpdateKeys()
			time.Sleep(time.Second)
			if err == nil {
				ep.wantEcho(ep.send(c, pattern(3, 1000)), pattern(3, 1000))
				return
			}
		}
		t.Error("no key update was possible")
	})
}

// A server that does not accept gets everything behind the handshake, once.
func TestEarlyRejected(t *testing.T) {
	for _, change := range []struct {
		name string
		f    func(*Config)
	}{
		{"switched off", func(c *Config) { c.EarlyData = false }},
		{"smaller connection window", func(c *Config) { c.ConnWindow = 20_000 }},
		{"smaller stream window", func(c *Config) { c.StreamWindow = 3_000 }},
		{"fewer streams", func(c *Config) { c.MaxStreamsBidi = 2 }},
		{"fewer unidirectional streams", func(c *Config) { c.MaxStreamsUni = 1 }},
		{"smaller datagrams", func(c *Config) { c.MaxDatagramFrame = 1000 }},
		{"other handshaker", func(c *Config) { c.Handshaker = serverConfig().Handshaker }},
	} {
		t.Run(change.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ep := newEarlyPair(t, 3, simnet.Params{Delay: earlyDelay}, func(s, _ *Config) { s.MaxDatagramFrame = 1200 })
				scfg := *ep.scfg
				change.f(&scfg)
				ep.server.SetConfig(&scfg)
				c := ep.dialEarly()
				var streams []*Stream
				for i := range 6 {
					streams = append(streams, ep.send(c, pattern(uint64(i), 4000+i)))
				}
				reset, err := c.OpenStream(ep.ctx())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := reset.Write([]byte("never mind")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
				reset.CancelWrite(5)
				s := ep.accept()
				got := ep.echo(s)
				for i, st := range streams {
					ep.wantEcho(st, pattern(uint64(i), 4000+i))
				}
				ep.wantEarly(c, false)
				ep.wantEarly(s, false)
				_ = c.CloseWithError(0, "")
				all := <-got
				for i, st := range streams {
					if want := pattern(uint64(i), 4000+i); !bytes.Equal(all[st.ID()], want) {
						t.Errorf("stream %d: %d bytes came, want %d", st.ID(), len(all[st.ID()]), len(want))
					}
				}
				if ep.server.Stats().Drops["0rtt"] == 0 {
					t.Error("no 0-RTT packet was refused")
				}
			})
		})
	}
}

// More than before is no reason to refuse.
func TestEarlyHigherLimits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 4, simnet.Params{Delay: earlyDelay}, func(s, _ *Config) { s.StreamWindow, s.MaxStreamsBidi = 2000, 3 })
		scfg := *ep.scfg
		scfg.StreamWindow, scfg.MaxStreamsBidi = 0, 0
		ep.server.SetConfig(&scfg)
		var early int // bytes in 0-RTT packets
		ep.net.Link(clientHost, serverHost).Script(func(p *simnet.Packet) {
			if h, err := wire.ParseLong(p.Data); err == nil && h.Type == wire.Packet0RTT {
				early += len(p.Data)
			}
		})
		c := ep.dialEarly()
		st := ep.send(c, pattern(0, 100_000))
		ep.echo(ep.accept())
		ep.wantEcho(st, pattern(0, 100_000))
		ep.wantEarly(c, true)
		if early < 2000 || early > 2500 {
			t.Errorf("%d bytes of 0-RTT packets, the stream window remembered is 2000", early)
		}
	})
}

// The first flight of a connection, sent again, starts nothing.
func TestEarlyReplayed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 5, simnet.Params{Delay: earlyDelay})
		var flight [][]byte
		began := time.Now()
		ep.net.Link(clientHost, serverHost).Script(func(p *simnet.Packet) {
			if time.Since(began) < earlyDelay {
				flight = append(flight, bytes.Clone(p.Data))
			}
		})
		c := ep.dialEarly()
		st := ep.send(c, []byte("pay 100"))
		s := ep.accept()
		ep.echo(s)
		ep.wantEcho(st, []byte("pay 100"))
		ep.wantEarly(c, true)
		_ = c.CloseWithError(0, "")
		<-s.Done()
		time.Sleep(time.Second)
		for i := range 3 {
			if i > 0 {
				time.Sleep(30 * time.Second)
			}
			started := ep.server.Stats().Started
			for _, b := range flight {
				ep.net.Inject(netip.AddrPortFrom(clientHost, uint16(6000+i)), netip.AddrPortFrom(serverHost, 443), bytes.Clone(b), 0)
			}
			time.Sleep(time.Second)
			if ep.server.Stats().Started == started {
				t.Fatal("the replayed flight began no connection: the test shows nothing")
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if x, err := ep.server.Accept(ctx); err == nil {
				t.Errorf("replay %d was accepted: %v", i, x.ID())
			}
			cancel()
		}
		if ep.server.Stats().Drops["0rtt"] == 0 {
			t.Error("no 0-RTT packet was refused")
		}
	})
}

// An old ticket resumes, and no more.
func TestEarlyAged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 6, simnet.Params{Delay: earlyDelay})
		time.Sleep(earlyLife + time.Second)
		c := ep.dialEarly()
		st := ep.send(c, []byte("late"))
		ep.echo(ep.accept())
		ep.wantEcho(st, []byte("late"))
		ep.wantEarly(c, false)
		if !c.TLS().Resumed {
			t.Error("not resumed")
		}
	})
}

// What is lost of the first flight comes again behind the handshake.
func TestEarlyLost(t *testing.T) {
	is0RTT := func(b []byte) bool {
		h, err := wire.ParseLong(b)
		return err == nil && h.Type == wire.Packet0RTT
	}
	for name, lose := range map[string]func(*simnet.Packet, int) bool{
		"all 0-RTT":        func(p *simnet.Packet, _ int) bool { return is0RTT(p.Data) },
		"every other":      func(p *simnet.Packet, n int) bool { return is0RTT(p.Data) && n%2 == 0 },
		"first Initial":    func(p *simnet.Packet, n int) bool { return n == 0 },
		"the first flight": func(p *simnet.Packet, n int) bool { return n < 8 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ep := newEarlyPair(t, 7, simnet.Params{Delay: earlyDelay})
				n, lost := 0, 0
				ep.net.Link(clientHost, serverHost).Script(func(p *simnet.Packet) {
					if p.Drop = lose(p, n); p.Drop {
						lost++
					}
					n++
				})
				c := ep.dialEarly()
				st := ep.send(c, pattern(0, 9000))
				ep.echo(ep.accept())
				ep.wantEcho(st, pattern(0, 9000))
				if lost == 0 {
					t.Error("nothing was lost")
				}
				ep.wantEarly(c, true)
			})
		})
	}
}

func TestEarlyOnBadNetwork(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ep := newEarlyPair(t, 100+seed, simnet.Params{Delay: earlyDelay}, func(s, c *Config) { patient(s); patient(c) })
				ep.net.Both(clientHost, serverHost, func(p *simnet.Params) {
					p.Loss, p.Duplicate, p.Corrupt, p.Reorder, p.ReorderBy = 0.1, 0.1, 0.02, 0.2, 15*time.Millisecond
				})
				for i := range 5 {
					c := ep.dialEarly()
					st := ep.send(c, pattern(0, 20_000))
					s := ep.accept()
					got := ep.echo(s)
					ep.wantEcho(st, pattern(0, 20_000))
					if err := c.Wait(ep.ctx()); err != nil {
						t.Fatal(i, err)
					}
					select {
					case <-ep.sessions.got:
					case <-time.After(time.Minute):
						t.Fatal("no ticket")
					}
					_ = c.CloseWithError(0, "")
					<-s.Done()
					if all := <-got; len(all) != 1 {
						t.Errorf("%d streams came", len(all))
					}
					time.Sleep(time.Minute)
				}
			})
		})
	}
}

// 0-RTT packets that overtake the Initial wait for it.
func TestEarlyBeforeInitial(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 8, simnet.Params{Delay: earlyDelay})
		ep.net.Link(clientHost, serverHost).Script(func(p *simnet.Packet) {
			if h, err := wire.ParseLong(p.Data); err == nil && h.Type == wire.PacketInitial {
				p.Delay = 5 * time.Millisecond
			}
		})
		c := ep.dialEarly()
		st := ep.send(c, pattern(0, 5000))
		ep.echo(ep.accept())
		ep.wantEcho(st, pattern(0, 5000))
		ep.wantEarly(c, true)
		if n := c.Stats().BytesRetransmitted; n != 0 {
			t.Errorf("%d bytes had to be sent again", n)
		}
		ep.server.waiting.mu.Lock()
		defer ep.server.waiting.mu.Unlock()
		if n := len(ep.server.waiting.list); n != 0 {
			t.Errorf("%d datagrams still wait", n)
		}
	})
}

// What waits is bounded, in number and in time, and goes to the address it came from.
func TestWaitingIsBounded(t *testing.T) {
	var w waitingPackets
	now := time.Unix(1000, 0)
	r := &rxBatch{remote: clientAddr}
	put := func(id string, n int) bool { return w.put(make([]byte, n), connID(id), r, now) }
	for i := range maxWaitingOfOne + 4 {
		if put("one", 1000) != (i < maxWaitingOfOne) {
			t.Fatalf("datagram %d of one connection", i)
		}
	}
	for i := range maxWaiting {
		if put(fmt.Sprint("other ", i), 1000) != (i < maxWaiting-maxWaitingOfOne) {
			t.Fatalf("datagram %d in all", i)
		}
	}
	if n := len(w.take(connID("one"), &rxBatch{remote: serverAddr}, now)); n != 0 {
		t.Errorf("%d datagrams of another address", n)
	}
	if n := len(w.take(connID("one"), r, now)); n != maxWaitingOfOne {
		t.Errorf("%d datagrams, want %d", n, maxWaitingOfOne)
	}
	now = now.Add(2 * waitForInitial)
	if n := len(w.take(connID("other 1"), r, now)); n != 0 {
		t.Errorf("%d old datagrams", n)
	}
	if len(w.list) != 0 {
		t.Errorf("%d datagrams are kept for ever", len(w.list))
	}
	if put("big", 1<<14) {
		t.Error("a datagram of 16 KiB was kept")
	}
}

func TestEarlyRetry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 9, simnet.Params{Delay: earlyDelay}, func(s, _ *Config) { s.Retry = RetryAlways })
		c := ep.dialEarly()
		began := time.Now()
		st := ep.send(c, pattern(0, 5000))
		ep.echo(ep.accept())
		if d := time.Since(began); d > 3*earlyDelay+5*time.Millisecond {
			t.Errorf("the data came after %v, want one and a half round trips", d)
		}
		ep.wantEcho(st, pattern(0, 5000))
		ep.wantEarly(c, true)
	})
}

// Sessions belong to one QUIC version (RFC 9369, Section 5).
func TestEarlyVersions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 10, simnet.Params{Delay: earlyDelay}, func(s, c *Config) {
			s.Versions, c.Versions = []Version{Version2, Version1}, []Version{Version1, Version2}
		})
		try := func(versions []Version, resumed, early bool) {
			t.Helper()
			ccfg := *ep.ccfg
			ccfg.Versions = versions
			ep.ccfg = &ccfg
			c := ep.dialEarly()
			st := ep.send(c, []byte("hello"))
			s := ep.accept()
			ep.echo(s)
			ep.wantEcho(st, []byte("hello"))
			ep.wantEarly(c, early)
			ep.wantEarly(s, early)
			if c.TLS().Resumed != resumed {
				t.Errorf("first version %v: resumed %v, want %v", versions[0], c.TLS().Resumed, resumed)
			}
			<-ep.sessions.got
			_ = c.CloseWithError(0, "")
			<-s.Done()
			time.Sleep(time.Second)
		}
		// The session that there is was negotiated as version 2.
		try([]Version{Version1, Version2}, false, false)
		try([]Version{Version2, Version1}, true, true)
		scfg := *ep.scfg
		scfg.Versions = []Version{Version1}
		ep.server.SetConfig(&scfg)
		// Version Negotiation in the middle of 0-RTT: everything begins again.
		try([]Version{Version2, Version1}, false, false)
		try([]Version{Version1, Version2}, true, true)
		// 0-RTT packets stay those of the original version.
		both := *ep.scfg // the server still reads the one before
		both.Versions = []Version{Version2, Version1}
		ep.server.SetConfig(&both)
		try([]Version{Version1, Version2}, true, true)
	})
}

// Where a server admits by hand, nothing of 0-RTT comes through before.
func TestEarlyWaitsForAdmission(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 11, simnet.Params{Delay: earlyDelay})
		scfg := *ep.scfg
		scfg.ManualAdmit = true
		ep.server.SetConfig(&scfg)
		c := ep.dialEarly()
		st := ep.send(c, []byte("hello"))
		s := ep.accept()
		ep.wantEarly(s, true)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := s.AcceptStream(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("AcceptStream before Admit: %v", err)
		}
		s.Admit()
		ep.echo(s)
		ep.wantEcho(st, []byte("hello"))
		ep.wantEarly(c, true)
	})
}

// A client that did not ask for 0-RTT sends none, and its session is good for it
// afterwards.
func TestDialSendsNothingEarly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 12, simnet.Params{Delay: earlyDelay})
		ep.net.Link(clientHost, serverHost).Script(func(p *simnet.Packet) {
			if h, err := wire.ParseLong(p.Data); err == nil && h.Type == wire.Packet0RTT {
				t.Error("a 0-RTT packet")
			}
		})
		c, s := ep.dial(ep.ccfg)
		if !c.TLS().Resumed || c.TLS().EarlyData || s.TLS().EarlyData {
			t.Errorf("%+v", c.TLS())
		}
		two := *ep.ccfg
		two.NextProtos = []string{"test", "other"}
		ep.ccfg = &two
		ep.wantEarly(ep.dialEarly(), false) // which protocol would it be?
	})
}

// A handshake that fails takes 0-RTT with it, and what waits for it.
func TestEarlyNoServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ep := newEarlyPair(t, 13, simnet.Params{Delay: earlyDelay})
		ep.net.Both(clientHost, serverHost, func(p *simnet.Params) { p.Down = true })
		c := ep.dialEarly()
		st := ep.send(c, pattern(0, 5000))
		if _, err := io.ReadAll(st); err == nil {
			t.Error("a stream ended well")
		}
		var late *HandshakeTimeoutError
		if err := c.Wait(ep.ctx()); !errors.As(err, &late) {
			t.Errorf("Wait: %v", err)
		}
	})
}
