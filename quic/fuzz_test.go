package quic

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/quic-fsgw/quic-fsgw/quic/qlog"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Fuzzing drives an established Conn without a bubble: the fuzzer's own
// goroutines could not be in one. Nothing here waits for time to pass.

// A fuzzServer is a server Conn with keys, made without a handshake.
type fuzzServer struct {
	*testConn
}

func newFuzzServer(t testing.TB) *fuzzServer {
	tc := newTestConn(t, true)
	cfg := serverConfig()
	cfg.ConnWindow, cfg.StreamWindow = 64<<10, 32<<10
	// Whatever comes is traced, too: HOSTILE 21.
	tracer, err := qlog.Open(qlog.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tracer.Close() })
	cfg.Qlog = tracer
	tc.wire = newScriptWire(serverAddr)
	tc.remote = clientAddr
	tc.ep = NewEndpoint([]udp.PacketConn{tc.wire}, cfg)
	tc.odcid, tc.peerID = connID("original"), connID("client")
	c := newConn(tc.ep, tc.ep.shards[0], cfg, true, wire.Version1)
	c.lock()
	c.setID(tc.odcid)
	id, _ := tc.ep.newConnID(c.shard(), c)
	c.ids.local, c.ids.nextLocal, c.ids.peerLimit = []localID{{id: id}}, 1, 2
	c.ids.remote = []remoteID{{id: tc.peerID}}
	c.path.init(0, tc.remote, serverAddr.Addr(), 0, cfg)
	c.path.validated = true
	c.startTrace()
	tc.ep.addLive(c)
	c.initFlow()
	params := wire.DefaultTransportParams()
	c.peerParams, c.haveParams = &params, true
	c.flow.sendMax, c.streams.max = 1<<20, [2]uint64{10, 10}
	c.hs = noHandshake{}
	c.keys[recovery.Initial].drop()
	for _, write := range []bool{false, true} {
		secret := make([]byte, 32)
		secret[0] = 1
		if write {
			secret[0] = 2
		}
		c.onSecret(&HandshakeEvent{Kind: EventSecret, Level: LevelApp, Write: write, Suite: 0x1301, Data: secret})
	}
	c.pendingTLS = &TLSState{ALPN: "test"}
	c.maybeComplete()
	c.unlock()
	tc.conn, tc.dst = c, id
	// the peer's side of the same secrets
	sp := &tc.spaces[recovery.AppData]
	peer := newConn(tc.ep, tc.ep.shards[0], cfg, false, wire.Version1)
	for _, write := range []bool{false, true} {
		secret := make([]byte, 32)
		secret[0] = 2
		if write {
			secret[0] = 1
		}
		peer.onSecret(&HandshakeEvent{Kind: EventSecret, Level: LevelApp, Write: write, Suite: 0x1301, Data: secret})
	}
	sp.rx, sp.tx = peer.app.rx, peer.app.tx
	return &fuzzServer{tc}
}

type noHandshake struct{}

func (noHandshake) Crypto(Level, []byte)     {}
func (noHandshake) TransportParams([]byte)   {}
func (noHandshake) Ticket()                  {}
func (noHandshake) Remember(Version, []byte) {}
func (noHandshake) Close()                   {}

// deliver hands a datagram to the endpoint, as its reader does.
func (f *fuzzServer) deliver(b []byte) {
	if len(b) == 0 || len(b) > 65000 {
		return
	}
	buf := udp.NewBuffer()
	n := copy(buf.Bytes(), b)
	r := socketReader{buf: buf, msg: udp.RecvMsg{Buf: buf.Bytes(), N: n, SegmentSize: n, Remote: f.remote, Local: serverAddr.Addr()}}
	f.ep.dispatch(f.ep.shards[0], &r)
	r.late.flush()
	buf.Release()
}

// check looks for what must hold whatever came.
func (f *fuzzServer) check() {
	f.Helper()
	c := f.conn
	c.lock()
	if c.acct.late < 0 || c.acct.held < 0 || c.acct.late > c.acct.lateMax {
		f.Errorf("late %d, held %d", c.acct.late, c.acct.held)
	}
	if c.flow.received > c.flow.max || c.flow.consumed > c.flow.received {
		f.Errorf("received %d, consumed %d, limit %d", c.flow.received, c.flow.consumed, c.flow.max)
	}
	if len(c.streams.all) > 200+20 || len(c.ids.remote) > localConnIDLimit {
		f.Errorf("%d streams, %d connection ids", len(c.streams.all), len(c.ids.remote))
	}
	err := c.closeErr()
	c.unlock()
	var te *TransportError
	if errors.As(err, &te) && !te.Remote && te.Code == InternalError {
		f.Errorf("internal error: %v", err)
	}
}

// end closes everything at once.
func (f *fuzzServer) end() {
	for _, c := range f.ep.Conns() {
		c.stop()
	}
	f.conn.stop()
}

// FuzzFrames gives an established connection packets that are authentic and
// hold any frames. The input is a list of payloads, each behind its length.
func FuzzFrames(f *testing.F) {
	add := func(payloads ...[]byte) {
		var b []byte
		for _, p := range payloads {
			b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
			b = append(b, p...)
		}
		f.Add(b)
	}
	add(ping(), streamFrame(0, 0, []byte("hello"), true))
	add(streamFrame(4, 100, []byte("late"), false), streamFrame(4, 0, pattern(0, 100), true), wire.AppendResetStream(nil, 4, 1, 104))
	add(wire.AppendStopSending(nil, 0, 1), wire.AppendMaxStreamData(nil, 0, 1<<20), wire.AppendMaxData(nil, 1<<30), wire.AppendMaxStreams(nil, true, 100))
	add(wire.AppendNewConnectionID(nil, 1, 0, connID("abcdef"), [16]byte{1}), wire.AppendNewConnectionID(nil, 2, 1, connID("ghijkl"), [16]byte{2}), wire.AppendRetireConnectionID(nil, 1))
	add(wire.AppendPathChallenge(nil, [8]byte{1}), wire.AppendPathResponse(nil, [8]byte{1}), ackOf(0, 1, 3), ackOf(0))
	add(wire.AppendConnectionClose(nil, true, 1, 0, []byte("bye")), ping())
	add(wire.AppendDataBlocked(nil, 5), wire.AppendStreamDataBlocked(nil, 0, 5), wire.AppendStreamsBlocked(nil, false, 5), cryptoFrame(0, []byte{24, 0, 0, 1, 0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newFuzzServer(t)
		own := s.openStream()
		_, _ = own.Write(pattern(0, 3000))
		for i := 0; len(b) >= 2 && i < 64; i++ {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2, 1400)
			payload := b[2 : 2+n]
			b = b[2+n:]
			for len(payload) < 4 {
				payload = append([]byte{wire.FramePadding}, payload...)
			}
			s.deliver(s.sealPacket(wire.Packet1RTT, payload))
			s.check()
			s.conn.lock() // the timer may fire at any time
			s.conn.onTimer()
			s.conn.unlock()
		}
		s.end()
	})
}

// FuzzConnDatagrams gives arbitrary datagrams to an endpoint with an
// established connection. 0xff 0xff stands for the connection's ID, and the
// input is cut at 0xfe 0xfe.
func FuzzConnDatagrams(f *testing.F) {
	odcid := connID("original")
	tc := &testConn{TB: f, server: true, odcid: odcid, dst: odcid, peerID: connID("client")}
	tc.initialKeys()
	tc.spaces[recovery.Initial].largest = -1
	initial := tc.build(wire.PacketInitial, cryptoFrame(0, []byte{1, 0, 0, 4, 3, 3, 0, 0}))
	f.Add(initial)
	f.Add(append(initial, 0x40, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22))
	f.Add([]byte{0x40, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22})
	f.Add(wire.AppendVersionNegotiation(nil, []byte("client"), []byte("original"), []wire.Version{1}, 3))
	f.Add(append(wire.AppendRetry(nil, wire.Version1, connID("client"), odcid, []byte("token"), 1), make([]byte, 16)...))
	f.Add([]byte{0xc0, 0, 0, 0, 2, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0xfe, 0xfe, 0x80, 0xfe, 0xfe, 0xc0, 0, 0, 0, 1, 21})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newFuzzServer(t)
		id := s.dst.Append(nil)
		var d []byte
		for i := 0; i < len(b); i++ {
			switch {
			case i+1 < len(b) && b[i] == 0xff && b[i+1] == 0xff:
				d = append(d, id...)
				i++
			case i+1 < len(b) && b[i] == 0xfe && b[i+1] == 0xfe:
				s.deliver(d)
				d = d[:0]
				i++
			default:
				d = append(d, b[i])
			}
		}
		s.deliver(d)
		s.deliver(append(d, make([]byte, 1200)...)) // large enough to start a connection
		s.check()
		if s.conn.Err() != nil {
			t.Errorf("a forged datagram ended the connection: %v", s.conn.Err())
		}
		// it still works
		s.deliver(s.sealPacket(wire.Packet1RTT, streamFrame(0, 0, []byte("fine"), true)))
		if n := len(s.conn.streams.all); n != 1 {
			t.Errorf("%d streams", n)
		}
		s.end()
	})
}
