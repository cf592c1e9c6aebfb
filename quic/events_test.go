package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/simnet"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// got returns the events that are there, without waiting for more.
func got(ch <-chan Event) (events []Event) {
	synctest.Wait()
	for {
		select {
		case e, ok := <-ch:
			if !ok {
				return events
			}
			events = append(events, e)
		default:
			return events
		}
	}
}

// states are the states that events tell of one stream.
func states(events []Event, id uint64) (out []StreamState) {
	for _, e := range events {
		if e.Kind == EventStreamUpdate && e.StreamID == id {
			out = append(out, e.State)
		}
	}
	return out
}

func TestEventStreamUpdate(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		events, cancel := tc.conn.Subscribe(EventStreamUpdate)
		defer cancel()
		// a stream of ours, to its end
		s := tc.openStream()
		tc.write(s, []byte("hello"))
		_ = s.CloseWrite()
		tc.read()
		all := got(events)
		if want := []StreamState{SendReady, RecvRecv, SendSend, SendSent}; !slices.Equal(states(all, s.ID()), want) {
			t.Errorf("sending: %v, want %v", states(all, s.ID()), want)
		}
		tc.ack(wire.Packet1RTT)
		tc.ack(wire.Packet1RTT)
		// FIN acknowledged: one event
		all = got(events)
		if len(all) != 1 || all[0].State != SendRecvd || all[0].FinalSize != 5 {
			t.Errorf("acknowledged: %+v", all)
		}
		tc.send(wire.Packet1RTT, streamFrame(s.ID(), 2, []byte("ck"), true))
		tc.send(wire.Packet1RTT, streamFrame(s.ID(), 0, []byte("ba"), false))
		tc.send(wire.Packet1RTT, streamFrame(s.ID(), 0, []byte("ba"), false))
		if _, err := io.ReadAll(s); err != nil {
			t.Fatal(err)
		}
		all = got(events)
		if want := []StreamState{RecvSizeKnown, RecvRecvd, RecvRead}; !slices.Equal(states(all, s.ID()), want) || all[0].FinalSize != 4 {
			t.Errorf("receiving: %+v, want %v", all, want)
		}
		// a stream of the peer's that both ends reset
		id := tc.peerStream(0, false)
		tc.send(wire.Packet1RTT, streamFrame(id, 0, []byte("x"), false))
		p := tc.acceptStream()
		p.CancelWrite(7)
		tc.read()
		tc.ack(wire.Packet1RTT)
		tc.send(wire.Packet1RTT, wire.AppendResetStream(nil, id, 9, 3))
		if _, err := io.ReadAll(p); err == nil {
			t.Error("no error")
		}
		all = got(events)
		if want := []StreamState{SendReady, RecvRecv, SendResetSent, SendResetRecvd, RecvResetRecvd, RecvResetRead}; !slices.Equal(states(all, id), want) {
			t.Errorf("reset: %v, want %v", states(all, id), want)
		}
		for _, e := range all {
			if e.State == SendResetSent && e.Code != 7 || e.State == RecvResetRecvd && (e.Code != 9 || e.FinalSize != 3) {
				t.Errorf("%+v", e)
			}
		}
	})
}

func TestEventLimits(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		events, cancel := tc.conn.Subscribe(EventMaxData | EventMaxStreams)
		defer cancel()
		s := tc.openStream()
		done := make(chan error, 1)
		go func() {
			_, err := s.Write(make([]byte, 1<<19+1000)) // beyond the stream's limit and what waits to be sent
			done <- err
		}()
		for range 200 {
			tc.read()
			tc.ack(wire.Packet1RTT)
			tc.wait(time.Millisecond)
		}
		if len(done) > 0 {
			t.Fatal("the writer was not blocked")
		}
		tc.send(wire.Packet1RTT, wire.AppendMaxStreamData(nil, s.ID(), 1<<20), wire.AppendMaxData(nil, 1<<22), wire.AppendMaxStreams(nil, true, 300))
		tc.send(wire.Packet1RTT, wire.AppendMaxStreamData(nil, s.ID(), 1<<19), wire.AppendMaxData(nil, 1<<20), wire.AppendMaxStreams(nil, true, 200)) // late ones
		for range 400 {
			tc.read()
			tc.ack(wire.Packet1RTT)
			tc.wait(time.Millisecond)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := []Event{{Kind: EventMaxData, StreamID: s.ID(), Max: 1 << 20}, {Kind: EventMaxData, Whole: true, Max: 1 << 22}, {Kind: EventMaxStreams, Uni: true, Max: 300}}
		if all := got(events); fmt.Sprint(all) != fmt.Sprint(want) {
			t.Errorf("got %+v, want %+v", all, want)
		}
	})
}

// TestEventsOfAConnection: connection IDs, key updates and migration, at both ends.
func TestEventsOfAConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sp, _ := movingPair(t, serverConfig())
		c, s := sp.dial(clientConfig())
		time.Sleep(time.Second)
		const mask = EventConnectionID | EventKeyUpdate | EventMigration | EventClose
		ce, _ := c.Subscribe(mask)
		se, _ := s.Subscribe(mask)
		sp.exchange(c, s, 1, 100)
		if err := c.UpdateKeys(); err != nil {
			t.Fatal(err)
		}
		sp.exchange(c, s, 1, 100)
		if err := s.UpdateKeys(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for name, ch := range map[string]<-chan Event{"client": ce, "server": se} {
			all := got(ch)
			if len(all) != 2 || all[0].Kind != EventKeyUpdate || !all[0].Phase || all[1].Phase {
				t.Errorf("%s, key updates: %+v", name, all)
			}
		}
		if err := c.Migrate(context.Background(), addrPort("10.0.0.22:0").Addr()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		for name, ch := range map[string]<-chan Event{"client": ce, "server": se} {
			moves, retired := 0, map[bool]int{}
			for _, e := range got(ch) {
				switch e.Kind {
				case EventMigration:
					moves++
					if e.Local != (name == "client") {
						t.Errorf("%s: %+v", name, e)
					}
				case EventConnectionID:
					retired[e.Local]++
					if !e.Local && e.Active == e.Retired {
						t.Errorf("%s: %+v", name, e)
					}
				}
			}
			// each end has given one ID back
			if moves != 1 || retired[true] != 1 || retired[false] != 1 {
				t.Errorf("%s: %d migrations, retired %v", name, moves, retired)
			}
		}
	})
}

// TestEventNewTokenAndTicket: both can be used for the next connection.
func TestEventNewTokenAndTicket(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.Retry = RetryAuto
		sp := newSimPair(t, 1, simnet.Params{Delay: 50 * time.Millisecond}, cfg)
		ccfg := clientConfig()
		ccfg.Tokens = new(TokenStore)
		ccfg.Handshaker = TLS(&tls.Config{RootCAs: testPKI().roots, ClientSessionCache: tls.NewLRUClientSessionCache(1)})
		c, _ := sp.dial(ccfg)
		events, _ := c.Subscribe(EventNewToken | EventSessionTicket)
		time.Sleep(time.Second)
		var kinds EventMask
		for _, e := range got(events) {
			kinds |= e.Kind
			if e.Kind == EventNewToken && string(ccfg.Tokens.take("localhost", Version1)) != string(e.Data) {
				t.Error("another token than is kept")
			}
			if e.Kind == EventSessionTicket && (len(e.Data) < 8 || e.Data[0] != msgNewSessionTicket) {
				t.Errorf("ticket %x", e.Data)
			}
		}
		if kinds != EventNewToken|EventSessionTicket {
			t.Errorf("kinds %b", kinds)
		}
	})
}

// TestEventClose: one, the last, with who closed and why; idle differs from a peer's close.
func TestEventClose(t *testing.T) {
	for name, x := range map[string]struct {
		f    func(tc *testConn)
		want CloseInfo
	}{
		"idle": {func(tc *testConn) { tc.wait(time.Minute) }, CloseInfo{Cause: ClosedIdle}},
		"peer, application": {func(tc *testConn) {
			tc.send(wire.Packet1RTT, wire.AppendConnectionClose(nil, true, 7, 0, []byte("bye")))
		}, CloseInfo{Cause: ClosedByApplication, Remote: true, Code: 7, Reason: "bye"}},
		"peer, transport": {func(tc *testConn) {
			tc.send(wire.Packet1RTT, wire.AppendConnectionClose(nil, false, 5, 8, []byte("no")))
		}, CloseInfo{Cause: ClosedByTransport, Remote: true, Code: 5, Frame: 8, Reason: "no"}},
		"local, application": {func(tc *testConn) { _ = tc.conn.CloseWithError(3, "done") }, CloseInfo{Cause: ClosedByApplication, Code: 3, Reason: "done"}},
		"local, transport":   {func(tc *testConn) { tc.send(wire.Packet1RTT, []byte{0x21}) }, CloseInfo{Cause: ClosedByTransport, Code: uint64(FrameEncodingError), Frame: 0x21, Reason: "unknown frame type"}},
		"endpoint":           {func(tc *testConn) { tc.conn.stop() }, CloseInfo{Cause: ClosedEndpoint}},
	} {
		t.Run(name, func(t *testing.T) {
			either(t, func(t *testing.T, tc *testConn) {
				events, cancel := tc.conn.Subscribe(EventClose)
				x.f(tc)
				e, ok := <-events
				info, known := CloseInfoOf(e.Err)
				if !ok || e.Kind != EventClose || e.Err != tc.conn.Err() || !known || info != x.want {
					t.Errorf("got %+v %v, %+v, want %+v", e, ok, info, x.want)
				}
				if _, ok := <-events; ok {
					t.Error("an event behind the last")
				}
				cancel() // does no harm
				late, _ := tc.conn.Subscribe(EventAll)
				if e := <-late; e.Err != tc.conn.Err() {
					t.Errorf("who comes late gets %+v", e)
				}
			})
		})
	}
	for _, x := range []struct {
		err  error
		want CloseInfo
	}{
		{&HandshakeTimeoutError{}, CloseInfo{Cause: ClosedHandshakeTime}}, {&StatelessResetError{}, CloseInfo{Cause: ClosedStatelessReset, Remote: true}},
		{&VersionError{}, CloseInfo{Cause: ClosedVersion, Remote: true}},
		{&HandshakeError{Alert: 42, Err: errors.New("bad")}, CloseInfo{Cause: ClosedHandshake, Code: 0x12a, Frame: wire.FrameCrypto, Reason: "bad"}},
	} {
		if info, ok := CloseInfoOf(fmt.Errorf("wrapped: %w", x.err)); !ok || info != x.want {
			t.Errorf("%v: %+v", x.err, info)
		}
	}
	if _, ok := CloseInfoOf(io.EOF); ok {
		t.Error("any error will do")
	}
}

// TestEventsAreBounded: who does not listen loses events, not the last; who has not
// asked gets none and pays nothing.
func TestEventsAreBounded(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		slow, _ := tc.conn.Subscribe(EventAll)
		gone, cancel := tc.conn.Subscribe(EventAll)
		none, _ := tc.conn.Subscribe(0)
		cancel()
		if _, ok := <-gone; ok {
			t.Error("an event behind cancel")
		}
		for i := range 3 * eventBuffer {
			tc.send(wire.Packet1RTT, wire.AppendMaxData(nil, 1<<30+uint64(i)))
		}
		if n := tc.conn.Stats().EventsDropped; n != 2*eventBuffer {
			t.Errorf("%d events were dropped", n)
		}
		_ = tc.conn.CloseWithError(1, "")
		all := got(slow)
		if len(all) != eventBuffer || all[len(all)-1].Kind != EventClose {
			t.Errorf("%d events, the last %+v", len(all), all[len(all)-1])
		}
		if all := got(none); len(all) != 0 {
			t.Errorf("not asked for: %+v", all)
		}
	})
	either(t, func(t *testing.T, tc *testConn) {
		tc.conn.lock()
		defer tc.conn.unlock()
		s := &Stream{conn: tc.conn}
		if n := testing.AllocsPerRun(100, func() { tc.conn.emitStream(s, SendRecvd) }); n != 0 {
			t.Errorf("%v allocations while nobody listens", n)
		}
	})
}

// order has streams written to while nothing can be sent, and returns in which
// order their last bytes come when it can.
func order(t *testing.T, tc *testConn, streams []*Stream, size int) (first, last []uint64) {
	t.Helper()
	tc.wire.setRefuse(wouldBlock)
	for _, s := range streams {
		if _, err := s.Write(pattern(0, size)); err != nil {
			t.Fatal(err)
		}
		_ = s.CloseWrite()
	}
	tc.wire.setRefuse(nil)
	tc.wire.wake()
	begun, ended := map[uint64]bool{}, map[uint64]bool{}
	for range 200 {
		for _, f := range tc.frames() {
			if f.typ == wire.FrameStream && !begun[f.id] {
				begun[f.id] = true
				first = append(first, f.id)
			}
			if f.typ == wire.FrameStream && f.fin && !ended[f.id] {
				ended[f.id] = true
				last = append(last, f.id)
			}
		}
		tc.ack(wire.Packet1RTT)
		tc.wait(time.Millisecond)
	}
	return first, last
}

func TestStreamPriorities(t *testing.T) {
	run := func(name string, set func(s []*Stream), check func(t *testing.T, s []*Stream, first, last []uint64)) {
		t.Run(name, func(t *testing.T) {
			either(t, func(t *testing.T, tc *testConn) {
				var s []*Stream
				for range 4 {
					s = append(s, tc.openStream())
				}
				tc.spaces[recovery.AppData].next++
				set(s)
				first, last := order(t, tc, s, 50<<10)
				if len(last) != 4 {
					t.Fatalf("ended: %v", last)
				}
				check(t, s, first, last)
			})
		})
	}
	run("urgency", func(s []*Stream) {
		s[0].SetPriority(7, true)
		s[1].SetPriority(200, true) // counts as 7
		s[3].SetPriority(0, true)
	}, func(t *testing.T, s []*Stream, first, last []uint64) {
		// what was written first may have gone out before the rest was there
		if pos := slices.Index(last, s[3].ID()); pos > 1 {
			t.Errorf("the most urgent ended as number %d: %v", pos, last)
		}
		if slices.Index(last, s[2].ID()) > 2 || slices.Index(last, s[1].ID()) < 2 {
			t.Errorf("ended: %v", last)
		}
	})
	run("one after the other", func(s []*Stream) {
		for _, x := range s {
			x.SetPriority(DefaultUrgency, false)
		}
	}, func(t *testing.T, s []*Stream, first, last []uint64) {
		if want := []uint64{s[0].ID(), s[1].ID(), s[2].ID(), s[3].ID()}; !slices.Equal(last, want) || !slices.Equal(first, want) {
			t.Errorf("begun %v, ended %v, want %v", first, last, want)
		}
	})
	run("while they wait", func(s []*Stream) {}, func(t *testing.T, s []*Stream, first, last []uint64) {
		var q streamTable
		for _, x := range s {
			x.queued = true
			q.enqueue(x)
		}
		ids := func() (out []uint64) {
			for _, x := range q.sendQueue {
				out = append(out, x.id)
			}
			return out
		}
		a, b, c, d := s[0].id, s[1].id, s[2].id, s[3].id
		q.rotate()
		if want := []uint64{b, c, d, a}; !slices.Equal(ids(), want) {
			t.Errorf("turns: %v, want %v", ids(), want)
		}
		q.sendQueue[3].urgency = 1
		q.rotate() // a is of another class
		if want := []uint64{c, d, b, a}; !slices.Equal(ids(), want) {
			t.Errorf("turns of a class: %v, want %v", ids(), want)
		}
		q.sendQueue[0].whole = true
		q.rotate()
		if want := []uint64{c, d, b, a}; !slices.Equal(ids(), want) {
			t.Errorf("one that is not incremental: %v, want %v", ids(), want)
		}
		for _, x := range s {
			x.queued = false
		}
	})
}
