package quic

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A testConn drives one real Conn, server or client, against a peer that a
// test scripts frame by frame, inside a synctest bubble. The peer holds real
// keys: its TLS is a tls.QUICConn. It does nothing by itself, no
// acknowledgment, no retransmission, unless the test says so.
type testConn struct {
	testing.TB
	server    bool                          // the Conn under test is the server
	version   wire.Version                  // of the peer's packets
	initialRx map[wire.Version]*protect.Key // open the Conn's Initials
	wire      *scriptWire
	ep        *Endpoint
	conn      *Conn
	dialed    chan error // client: what Dial returned

	remote  netip.AddrPort // where the peer sends from
	local   netip.Addr     // and to; invalid: the endpoint's address
	odcid   wire.ConnID    // the client's first Destination Connection ID
	peerID  wire.ConnID    // what the Conn sends to
	dst     wire.ConnID    // what the peer sends to
	params  wire.TransportParams
	rawTP   []byte // instead of params, if not nil
	theirs  wire.TransportParams
	token   []byte // for Initials
	tls     *tls.QUICConn
	tlsDone bool
	tlsErr  error
	spaces  [recovery.NumSpaces]testSpace
	txPhase bool
	rxPhase bool

	queue     []packet      // read and not yet looked at
	sent      int           // bytes of all datagrams from the Conn
	fed       int           // bytes of all datagrams to the Conn
	shared    bool          // the endpoint is another testConn's
	delay     time.Duration // before each datagram to the Conn
	ecn       bool          // acknowledgements report the marks that came
	congested bool          // what carries a mark comes with CE
}

// testSpace is the peer's state of one packet number space.
type testSpace struct {
	rx, tx  *protect.Key
	next    uint64
	largest int64
	got     []uint64  // packet numbers received
	marks   [3]uint64 // of them with ECT(0), ECT(1), CE
	raw     map[uint64]string
	in      cryptoStream
	out     []byte // CRYPTO bytes TLS wants to send
	outOff  uint64
}

// A packet is one packet from the Conn, opened and taken apart.
type packet struct {
	typ      wire.PacketType
	version  wire.Version // of a long header
	dst, src wire.ConnID
	token    []byte
	pn       uint64
	phase    bool
	frames   []frame
	size     int // of the datagram
	length   int // of the packet
	remote   netip.AddrPort
	at       time.Time
	raw      []byte // the datagram
	ecn      uint8
}

// A frame is one frame; which fields count depends on typ.
type frame struct {
	typ                uint64
	id, off, max, code uint64
	final, seq, prior  uint64
	data               []byte
	fin, uni, app      bool
	cid                wire.ConnID
	token              [16]byte
	path               [8]byte
	ack                wire.Ack
	packet             *packet
	space              recovery.Space
	closeFrame         uint64
	n                  int
}

var (
	serverAddr = netip.MustParseAddrPort("10.0.0.1:443")
	clientAddr = netip.MustParseAddrPort("10.0.0.2:4000")
)

func connID(s string) wire.ConnID {
	id, ok := wire.MakeConnID([]byte(s))
	if !ok {
		panic("connection id too long")
	}
	return id
}

// bubble runs f in a synctest bubble.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	testPKI() // made outside: it is shared
	synctest.Test(t, f)
}

// newTestServer returns a server Conn's testConn before any packet.
func newTestServer(t testing.TB, cfg *Config, opts ...EndpointOption) *testConn {
	t.Helper()
	tc := newTestConn(t, true)
	if cfg == nil {
		cfg = serverConfig()
	}
	tc.wire = newScriptWire(serverAddr)
	tc.remote = clientAddr
	tc.ep = NewEndpoint([]udp.PacketConn{tc.wire}, cfg, opts...)
	tc.odcid, tc.peerID = connID("original"), connID("client")
	tc.dst = tc.odcid
	tc.initialKeys()
	tc.params.InitialSrc, tc.params.HasInitialSrc = tc.peerID, true
	tc.tls = newPeerClient()
	return tc
}

func newPeerClient() *tls.QUICConn {
	return tls.QUICClient(&tls.QUICConfig{TLSConfig: &tls.Config{
		RootCAs: testPKI().roots, ServerName: "localhost", NextProtos: []string{"test"}, MinVersion: tls.VersionTLS13,
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}})
}

// newTestClient returns a client Conn's testConn; its Dial is under way.
func newTestClient(t testing.TB, cfg *Config, opts ...EndpointOption) *testConn {
	t.Helper()
	tc := newTestConn(t, false)
	if cfg == nil {
		cfg = clientConfig()
	}
	tc.wire = newScriptWire(clientAddr)
	tc.remote = serverAddr
	tc.ep = NewEndpoint([]udp.PacketConn{tc.wire}, nil, opts...)
	tc.peerID = connID("server-id")
	tc.dialed = make(chan error, 1)
	go func() {
		_, err := tc.ep.Dial(context.Background(), serverAddr, cfg)
		tc.dialed <- err
	}()
	synctest.Wait()
	conns := tc.ep.Conns()
	if len(conns) != 1 {
		t.Fatalf("%d connections after Dial", len(conns))
	}
	tc.conn = conns[0]
	// The first Initial tells both connection IDs; it is read again with keys.
	out := tc.wire.take()
	if len(out) == 0 {
		t.Fatal("the client sends nothing")
	}
	h, err := wire.ParseLong(out[0].data)
	if err != nil {
		t.Fatal(err)
	}
	tc.odcid, tc.dst = h.Dst, h.Src
	tc.initialKeys()
	for _, d := range out {
		tc.open(d)
	}
	tc.params.InitialSrc, tc.params.HasInitialSrc = tc.peerID, true
	tc.params.OriginalDst, tc.params.HasOriginalDst = tc.odcid, true
	tc.tls = tls.QUICServer(&tls.QUICConfig{TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{testPKI().cert}, NextProtos: []string{"test"}, MinVersion: tls.VersionTLS13,
	}})
	return tc
}

func newTestConn(t testing.TB, server bool) *testConn {
	tc := &testConn{TB: t, server: server, version: wire.Version1}
	for i := range tc.spaces {
		tc.spaces[i].largest = -1
		tc.spaces[i].in.limit = 1 << 20
	}
	tc.params = wire.TransportParams{
		MaxIdleTimeout: 30 * time.Second, InitialMaxData: 1 << 20, InitialMaxStreamDataBidiLocal: 1 << 18,
		InitialMaxStreamDataBidiRemote: 1 << 18, InitialMaxStreamDataUni: 1 << 18,
		InitialMaxStreamsBidi: 100, InitialMaxStreamsUni: 100, ActiveConnIDLimit: 4,
	}
	before := udp.Outstanding()
	t.Cleanup(func() {
		tc.close()
		if n := udp.Outstanding(); n != before && !tc.shared {
			t.Errorf("%d buffers were not given back", n-before)
		}
	})
	return tc
}

// initialKeys sets the Initial keys that go with tc.odcid (after Retry, the new one).
func (tc *testConn) initialKeys() {
	dst := tc.odcid
	if !tc.server && tc.params.HasRetrySrc {
		dst = tc.params.RetrySrc
	}
	if tc.server {
		dst = tc.dst
	}
	s := &tc.spaces[recovery.Initial]
	if tc.version == 0 {
		tc.version = wire.Version1
	}
	tc.initialRx = make(map[wire.Version]*protect.Key)
	for _, v := range defaultVersions {
		tx, rx := protect.InitialKeys(v, dst.Append(nil))
		if !tc.server {
			tx, rx = rx, tx
		}
		tc.initialRx[v] = rx
		if v == tc.version {
			s.tx, s.rx = tx, rx
		}
	}
}

// close ends everything in the bubble and checks that nothing is held.
func (tc *testConn) close() {
	if tc.tls != nil {
		_ = tc.tls.Close()
	}
	_ = tc.ep.Close(context.Background())
	if tc.conn == nil {
		return
	}
	if held := tc.ep.held.Load(); held != 0 {
		tc.Errorf("the endpoint still holds %d bytes", held)
	}
	if tc.conn.acct.held != 0 || tc.conn.acct.late != 0 {
		tc.Errorf("the connection still holds %d bytes, %d of them out of order", tc.conn.acct.held, tc.conn.acct.late)
	}
}

// read opens what the Conn has sent meanwhile.
func (tc *testConn) read() {
	tc.Helper()
	synctest.Wait()
	if tc.conn == nil && tc.server {
		if conns := tc.ep.Conns(); len(conns) > 0 {
			tc.conn = conns[0]
		}
	}
	for _, d := range tc.wire.take() {
		tc.open(d)
	}
}

// open takes a datagram apart. What it cannot open it keeps as a packet
// without frames, so that a later key does not help.
func (tc *testConn) open(d datagram) {
	tc.Helper()
	tc.sent += len(d.data)
	b := bytes.Clone(d.data)
	for len(b) > 0 {
		p := packet{size: len(d.data), remote: d.remote, at: d.at, raw: d.data, ecn: d.ecn}
		n := tc.openPacket(b, &p)
		for i := range p.frames {
			p.frames[i].packet = &p
		}
		tc.queue = append(tc.queue, p)
		for i := range tc.queue[len(tc.queue)-1].frames {
			tc.queue[len(tc.queue)-1].frames[i].packet = &tc.queue[len(tc.queue)-1]
		}
		b = b[n:]
	}
}

func (tc *testConn) openPacket(b []byte, p *packet) int {
	tc.Helper()
	length, pnAt, space := len(b), 1+tc.peerID.Len(), recovery.AppData
	p.typ = wire.Packet1RTT
	if wire.IsLong(b[0]) {
		h, err := wire.ParseLong(b)
		if err != nil {
			tc.Fatalf("the Conn sent %x: %v", b[:min(len(b), 32)], err)
		}
		p.typ, p.dst, p.src, p.token, p.version = h.Type, h.Dst, h.Src, bytes.Clone(h.Token), h.Version
		length, pnAt = h.Len, h.PNOffset
		switch h.Type {
		case wire.PacketInitial:
			space = recovery.Initial
		case wire.PacketHandshake:
			space = recovery.Handshake
		default:
			return length
		}
	}
	p.length = length
	s := &tc.spaces[space]
	key := s.rx
	if space == recovery.Initial {
		key = tc.initialRx[p.version]
	}
	b = b[:length]
	if key == nil || len(b) < pnAt+20 {
		return length
	}
	pnLen, truncated, ok := key.UnprotectHeader(b, pnAt)
	if !ok {
		return length
	}
	p.pn = wire.DecodePacketNumber(s.largest, truncated, pnLen)
	hdr := pnAt + pnLen
	if space == recovery.AppData {
		p.dst, _ = wire.MakeConnID(b[1:pnAt])
		if p.phase = wire.KeyPhase(b[0]); p.phase != tc.rxPhase {
			next, err := key.Next()
			if err != nil {
				tc.Fatal(err)
			}
			if plain, err := next.Open(nil, b[hdr:], b[:hdr], p.pn); err == nil {
				s.rx, tc.rxPhase = next, p.phase
				tc.opened(s, p, space, plain)
			}
			return length
		}
	}
	plain, err := key.Open(nil, b[hdr:], b[:hdr], p.pn)
	if err != nil {
		return length
	}
	tc.opened(s, p, space, plain)
	return length
}

func (tc *testConn) opened(s *testSpace, p *packet, space recovery.Space, plain []byte) {
	tc.Helper()
	if s.raw == nil {
		s.raw = make(map[uint64]string)
	}
	if before, ok := s.raw[p.pn]; !ok {
		s.raw[p.pn] = string(plain)
		s.got = append(s.got, p.pn)
		if p.ecn != udp.NotECT && tc.congested {
			s.marks[2]++
		} else if p.ecn == udp.ECT0 {
			s.marks[0]++
		}
	} else if before != string(plain) {
		// The closing state repeats a datagram as it was (RFC 9000, Section 10.2.1).
		tc.Fatalf("packet number %d was used twice", p.pn)
	}
	s.largest = max(s.largest, int64(p.pn))
	for len(plain) > 0 {
		f := parseFrame(tc, plain)
		f.space = space
		p.frames = append(p.frames, f)
		plain = plain[f.n:]
	}
}

func parseFrame(t testing.TB, b []byte) (f frame) {
	t.Helper()
	f.typ = uint64(b[0])
	switch typ := f.typ; {
	case typ == wire.FramePadding:
		f.n = wire.ConsumePadding(b)
	case typ == wire.FrameAck, typ == wire.FrameAckECN:
		f.n = wire.ConsumeAck(b, &f.ack)
	case typ == wire.FrameResetStream:
		f.id, f.code, f.final, f.n = wire.ConsumeResetStream(b)
	case typ == wire.FrameStopSending:
		f.id, f.code, f.n = wire.ConsumeStopSending(b)
	case typ == wire.FrameCrypto:
		f.off, f.data, f.n = wire.ConsumeCrypto(b)
	case typ >= wire.FrameStream && typ <= wire.FrameStreamLast:
		var sf wire.StreamFrame
		f.n = wire.ConsumeStream(b, &sf)
		f.typ, f.id, f.off, f.data, f.fin = wire.FrameStream, sf.ID, sf.Off, sf.Data, sf.Fin
	case typ == wire.FrameNewToken:
		f.data, f.n = wire.ConsumeNewToken(b)
	case typ == wire.FrameMaxData:
		f.max, f.n = wire.ConsumeMaxData(b)
	case typ == wire.FrameMaxStreamData:
		f.id, f.max, f.n = wire.ConsumeMaxStreamData(b)
	case typ == wire.FrameMaxStreamsBidi, typ == wire.FrameMaxStreamsUni:
		f.uni, f.max, f.n = wire.ConsumeMaxStreams(b)
	case typ == wire.FrameDataBlocked:
		f.max, f.n = wire.ConsumeDataBlocked(b)
	case typ == wire.FrameStreamDataBlocked:
		f.id, f.max, f.n = wire.ConsumeStreamDataBlocked(b)
	case typ == wire.FrameStreamsBlockedBidi, typ == wire.FrameStreamsBlockedUni:
		f.uni, f.max, f.n = wire.ConsumeStreamsBlocked(b)
	case typ == wire.FrameNewConnectionID:
		f.seq, f.prior, f.cid, f.token, f.n = wire.ConsumeNewConnectionID(b)
	case typ == wire.FrameRetireConnectionID:
		f.seq, f.n = wire.ConsumeRetireConnectionID(b)
	case typ == wire.FramePathChallenge:
		f.path, f.n = wire.ConsumePathChallenge(b)
	case typ == wire.FramePathResponse:
		f.path, f.n = wire.ConsumePathResponse(b)
	case typ == wire.FrameConnectionClose, typ == wire.FrameConnectionCloseApp:
		f.app, f.code, f.closeFrame, f.data, f.n = wire.ConsumeConnectionClose(b)
	case typ == wire.FrameDatagram, typ == wire.FrameDatagramLen:
		f.data, f.n = wire.ConsumeDatagram(b)
	case typ == wire.FramePing, typ == wire.FrameHandshakeDone, typ == wire.FrameImmediateAck:
		f.n = 1
	default:
		t.Fatalf("the Conn sent frame type %#x", f.typ)
	}
	if f.n <= 0 {
		t.Fatalf("the Conn sent a malformed frame: %x", b[:min(len(b), 32)])
	}
	f.data = bytes.Clone(f.data)
	return f
}

// packets returns everything the Conn has sent that no test has looked at.
func (tc *testConn) packets() []packet {
	tc.Helper()
	tc.read()
	q := tc.queue
	tc.queue = nil
	return q
}

// frames returns the frames of packets(), without PADDING.
func (tc *testConn) frames() []frame {
	tc.Helper()
	var out []frame
	for _, p := range tc.packets() {
		for _, f := range p.frames {
			if f.typ != wire.FramePadding {
				out = append(out, f)
			}
		}
	}
	return out
}

func (p packet) String() string {
	return fmt.Sprintf("%v pn %d to %v, %d bytes: %v", p.typ, p.pn, p.remote, p.size, p.frames)
}

func (f frame) String() string {
	return fmt.Sprintf("frame %#x id %d off %d len %d max %d code %d", f.typ, f.id, f.off, len(f.data), f.max, f.code)
}

// want returns the next frame of a type that the Conn has sent; frames before it are passed over.
func (tc *testConn) want(typ uint64) frame {
	tc.Helper()
	all := tc.frames()
	for i, f := range all {
		if f.typ == typ {
			if rest := all[i+1:]; len(rest) > 0 {
				p := packet{frames: rest, typ: f.packet.typ, size: f.packet.size, at: f.packet.at, remote: f.packet.remote, dst: f.packet.dst, pn: f.packet.pn}
				tc.queue = append([]packet{p}, tc.queue...)
			}
			return f
		}
	}
	tc.Fatalf("no frame of type %#x, but %v (connection: %v)", typ, all, tc.connErr())
	return frame{}
}

func (tc *testConn) connErr() error {
	if tc.conn == nil {
		return errors.New("none")
	}
	return tc.conn.Err()
}

// wantNone checks that no frame of the type was sent; it looks at everything.
func (tc *testConn) wantNone(typ uint64) {
	tc.Helper()
	for _, f := range tc.frames() {
		if f.typ == typ {
			tc.Fatalf("unexpected %v", f)
		}
	}
}

// wantIdle checks that nothing was sent at all.
func (tc *testConn) wantIdle() {
	tc.Helper()
	if p := tc.packets(); len(p) > 0 {
		tc.Fatalf("unexpected packets: %v", p)
	}
}

// wantClose checks that the Conn was closed with a transport error.
func (tc *testConn) wantClose(code TransportErrorCode) frame {
	tc.Helper()
	f := tc.want(wire.FrameConnectionClose)
	if f.code != uint64(code) {
		tc.Fatalf("closed with %v (%q), want %v", TransportErrorCode(f.code), f.data, code)
	}
	var te *TransportError
	if err := tc.conn.Err(); !errors.As(err, &te) || te.Code != code || te.Remote {
		tc.Fatalf("Err() = %v, want local %v", err, code)
	}
	return f
}

// wantOpen checks that the Conn lives.
func (tc *testConn) wantOpen() {
	tc.Helper()
	synctest.Wait()
	if err := tc.conn.Err(); err != nil {
		tc.Fatalf("the connection ended: %v", err)
	}
}

// sealPacket builds one packet of the peer's.
func (tc *testConn) sealPacket(t wire.PacketType, payload []byte) []byte {
	return tc.sealPN(t, tc.spaces[spaceOfPacket(t)].next, payload, nil)
}

func spaceOfPacket(t wire.PacketType) recovery.Space {
	switch t {
	case wire.PacketInitial:
		return recovery.Initial
	case wire.PacketHandshake:
		return recovery.Handshake
	}
	return recovery.AppData
}

// sealPN builds a packet with the given number; edit may change the header before it is protected.
func (tc *testConn) sealPN(t wire.PacketType, pn uint64, payload []byte, edit func(hdr []byte)) []byte {
	tc.Helper()
	s := &tc.spaces[spaceOfPacket(t)]
	if s.tx == nil {
		tc.Fatalf("no keys to send in %v", spaceOfPacket(t))
	}
	const pnLen = 4
	var b []byte
	lengthAt := 0
	if t == wire.Packet1RTT {
		b = wire.AppendShort(nil, tc.dst, pn, pnLen, tc.txPhase, false)
	} else {
		b, lengthAt = wire.AppendLong(nil, t, tc.version, tc.dst, tc.peerID, tc.token, pn, pnLen)
		wire.SetLength(b, lengthAt, pnLen+len(payload)+protect.TagLen)
	}
	if edit != nil {
		edit(b)
	}
	s.next = max(s.next, pn+1)
	hdr := len(b)
	b = append(b, payload...)
	b = s.tx.Seal(b[:hdr], b[hdr:], b[:hdr], pn)
	s.tx.ProtectHeader(b, hdr-pnLen, pnLen)
	return b
}

// send sends one datagram with one packet of the given frames. Initials are padded.
func (tc *testConn) send(t wire.PacketType, frames ...[]byte) {
	tc.Helper()
	tc.sendRaw(tc.build(t, frames...))
}

// build seals a packet with the given frames.
func (tc *testConn) build(t wire.PacketType, frames ...[]byte) []byte {
	tc.Helper()
	payload := slices.Concat(frames...)
	if t == wire.PacketInitial {
		payload = wire.AppendPadding(payload, minDatagram-100-len(payload)+60)
	}
	return tc.sealPacket(t, payload)
}

// sendRaw sends a datagram as it is.
func (tc *testConn) sendRaw(b []byte) {
	if tc.delay > 0 {
		time.Sleep(tc.delay)
	}
	tc.fed += len(b)
	tc.wire.in <- datagram{data: bytes.Clone(b), remote: tc.remote, local: tc.local}
	synctest.Wait()
}

// ackFrame acknowledges all packets of a space that were read.
func (tc *testConn) ackFrame(space recovery.Space) []byte {
	s := &tc.spaces[space]
	pns := slices.Clone(s.got)
	if len(pns) == 0 {
		return nil
	}
	if tc.ecn {
		return wire.AppendAck(nil, ackRanges(pns), 0, &s.marks, 4096)
	}
	return ackOf(pns...)
}

// ackOf is an ACK frame of exactly these packet numbers.
func ackOf(pns ...uint64) []byte { return wire.AppendAck(nil, ackRanges(pns), 0, nil, 4096) }

func ackRanges(pns []uint64) []wire.AckRange {
	pns = slices.Clone(pns)
	slices.Sort(pns)
	var ranges []wire.AckRange
	for i := len(pns) - 1; i >= 0; i-- {
		if n := len(ranges); n > 0 && ranges[n-1].Smallest == pns[i]+1 {
			ranges[n-1].Smallest = pns[i]
		} else {
			ranges = append(ranges, wire.AckRange{Smallest: pns[i], Largest: pns[i]})
		}
	}
	return ranges
}

// ack acknowledges everything read in a space.
func (tc *testConn) ack(t wire.PacketType) {
	tc.Helper()
	if f := tc.ackFrame(spaceOfPacket(t)); f != nil {
		tc.send(t, f)
	}
}

// tlsEvents takes TLS's events of the peer.
func (tc *testConn) tlsEvents() {
	for {
		e := tc.tls.NextEvent()
		switch e.Kind {
		case tls.QUICNoEvent:
			return
		case tls.QUICWriteData:
			s := &tc.spaces[spaceOf(levelFromTLS(e.Level))]
			s.out = append(s.out, e.Data...)
		case tls.QUICSetReadSecret, tls.QUICSetWriteSecret:
			if levelFromTLS(e.Level) == LevelEarly {
				continue
			}
			k, err := protect.NewKey(tc.version, e.Suite, e.Data)
			if err != nil {
				tc.Fatal(err)
			}
			s := &tc.spaces[spaceOf(levelFromTLS(e.Level))]
			if e.Kind == tls.QUICSetReadSecret {
				s.rx = k
			} else {
				s.tx = k
			}
		case tls.QUICTransportParameters:
			p, err := wire.ParseTransportParams(e.Data, tc.server)
			if err != nil {
				tc.Errorf("the Conn's transport parameters: %v", err)
			}
			tc.theirs = p
		case tls.QUICTransportParametersRequired:
			tc.tls.SetTransportParameters(tc.encodedParams())
		case tls.QUICHandshakeDone:
			tc.tlsDone = true
		}
	}
}

func (tc *testConn) encodedParams() []byte {
	if tc.rawTP != nil {
		return tc.rawTP
	}
	return tc.params.Append(nil, !tc.server)
}

// startTLS starts the peer's TLS. A client's ClientHello is then in spaces[Initial].out.
func (tc *testConn) startTLS() {
	tc.Helper()
	if tc.server {
		tc.tls.SetTransportParameters(tc.encodedParams())
	}
	if err := tc.tls.Start(context.Background()); err != nil {
		tc.Fatal(err)
	}
	tc.tlsEvents()
}

// feedTLS hands the CRYPTO frames read so far to the peer's TLS. Frames other
// than CRYPTO stay in the queue.
func (tc *testConn) feedTLS() {
	tc.Helper()
	tc.read()
	for i := range tc.queue {
		p := &tc.queue[i]
		if p.typ == wire.PacketInitial && p.src.Len() > 0 && tc.server {
			tc.dst = p.src
		}
		p.frames = slices.DeleteFunc(p.frames, func(f frame) bool {
			if f.typ != wire.FrameCrypto {
				return false
			}
			tc.spaces[f.space].in.receive(f.off, f.data)
			return true
		})
	}
	for space := range tc.spaces {
		s := &tc.spaces[space]
		if b := s.in.ready(); len(b) > 0 {
			if err := tc.tls.HandleData(tlsLevel(levelOf(recovery.Space(space))), b); err != nil && tc.tlsErr == nil {
				tc.tlsErr = err
			}
			s.in.take(len(b))
			tc.tlsEvents()
		}
	}
	// A packet that came before its key: open it again.
	if tc.reopen() {
		tc.feedTLS()
	}
}

// reopen tries packets again that could not be opened when they came.
func (tc *testConn) reopen() (some bool) {
	var again []datagram
	tc.queue = slices.DeleteFunc(tc.queue, func(p packet) bool {
		if p.frames != nil || p.typ == wire.PacketRetry || p.typ == wire.PacketVersionNegotiation {
			return false
		}
		if s := tc.spaces[spaceOfPacket(p.typ)]; s.rx == nil {
			return false
		}
		again = append(again, datagram{data: p.raw, remote: p.remote, at: p.at, ecn: p.ecn})
		return true
	})
	for _, d := range again {
		b := bytes.Clone(d.data)
		for len(b) > 0 {
			p := packet{size: len(d.data), remote: d.remote, at: d.at, raw: d.data, ecn: d.ecn}
			before := len(tc.spaces[0].got) + len(tc.spaces[1].got) + len(tc.spaces[2].got)
			n := tc.openFresh(b, &p)
			if after := len(tc.spaces[0].got) + len(tc.spaces[1].got) + len(tc.spaces[2].got); after > before {
				some = true
				tc.queue = append(tc.queue, p)
				q := &tc.queue[len(tc.queue)-1]
				for i := range q.frames {
					q.frames[i].packet = q
				}
			}
			b = b[n:]
		}
	}
	return some
}

// openFresh opens a packet of a datagram of which others may have been opened before.
func (tc *testConn) openFresh(b []byte, p *packet) int {
	if wire.IsLong(b[0]) {
		h, err := wire.ParseLong(b)
		if err != nil {
			return len(b)
		}
		s := &tc.spaces[spaceOfPacket(h.Type)]
		if s.rx != nil && h.PNOffset+20 <= h.Len {
			c := bytes.Clone(b[:h.Len])
			if l, tr, ok := s.rx.UnprotectHeader(c, h.PNOffset); ok && slices.Contains(s.got, wire.DecodePacketNumber(s.largest, tr, l)) {
				return h.Len
			}
		}
	}
	return tc.openPacket(b, p)
}

// takeCrypto is a CRYPTO frame of up to n bytes that TLS wants to send in a space, nil for none.
func (tc *testConn) takeCrypto(space recovery.Space, n int) []byte {
	s := &tc.spaces[space]
	n = min(n, len(s.out))
	if n == 0 {
		return nil
	}
	b := cryptoFrame(s.outOff, s.out[:n])
	s.out = s.out[n:]
	s.outOff += uint64(n)
	return b
}

func cryptoFrame(off uint64, data []byte) []byte {
	return append(wire.AppendCryptoHeader(nil, off, len(data)), data...)
}

// flushCrypto sends what TLS has to send, with acknowledgments, in Initial and Handshake packets.
func (tc *testConn) flushCrypto() {
	tc.Helper()
	for _, t := range []wire.PacketType{wire.PacketInitial, wire.PacketHandshake, wire.Packet1RTT} {
		space := spaceOfPacket(t)
		for len(tc.spaces[space].out) > 0 {
			var frames [][]byte
			if a := tc.ackFrame(space); a != nil {
				frames = append(frames, a)
			}
			tc.send(t, append(frames, tc.takeCrypto(space, 1000))...)
		}
	}
}

// handshake runs the handshake to its end on both sides. The Conn's packets of
// the handshake are acknowledged; other frames stay to be looked at.
func (tc *testConn) handshake() {
	tc.Helper()
	tc.startTLS()
	for range 8 {
		tc.flushCrypto()
		tc.feedTLS()
		if tc.tlsErr != nil {
			tc.Fatalf("peer's TLS: %v", tc.tlsErr)
		}
		if tc.tlsDone && len(tc.spaces[recovery.Handshake].out) == 0 {
			break
		}
	}
	if !tc.tlsDone {
		tc.Fatalf("the handshake did not end (connection: %v)", tc.connErr())
	}
	tc.read()
	if tc.server {
		if tc.conn == nil {
			tc.Fatal("no connection")
		}
		return
	}
	tc.ack(wire.PacketHandshake)
	tc.read()
}

// established returns a testConn after a whole, confirmed handshake with
// everything acknowledged and nothing left to look at.
func (tc *testConn) establish() *testConn {
	tc.Helper()
	tc.handshake()
	if tc.server {
		tc.want(wire.FrameHandshakeDone)
	} else {
		tc.send(wire.Packet1RTT, wire.AppendHandshakeDone(nil))
		if err := <-tc.dialed; err != nil {
			tc.Fatalf("Dial: %v", err)
		}
	}
	tc.settle()
	return tc
}

// settle acknowledges what the Conn has sent until it is quiet, and forgets it.
func (tc *testConn) settle() {
	tc.Helper()
	for range 20 {
		tc.read()
		if len(tc.queue) == 0 {
			return
		}
		tc.queue = nil
		tc.ack(wire.Packet1RTT)
	}
}

func establishedServer(t testing.TB, cfg *Config) *testConn { return newTestServer(t, cfg).establish() }
func establishedClient(t testing.TB, cfg *Config) *testConn { return newTestClient(t, cfg).establish() }

// either runs f on an established connection of each role.
func either(t *testing.T, f func(t *testing.T, tc *testConn)) {
	t.Helper()
	t.Run("server", func(t *testing.T) { bubble(t, func(t *testing.T) { f(t, establishedServer(t, nil)) }) })
	t.Run("client", func(t *testing.T) { bubble(t, func(t *testing.T) { f(t, establishedClient(t, nil)) }) })
}

// wait lets time pass.
func (tc *testConn) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Frames.

func streamFrame(id, off uint64, data []byte, fin bool) []byte {
	return append(wire.AppendStreamHeader(nil, id, off, len(data), fin), data...)
}

func ping() []byte { return wire.AppendPing(nil) }

// pattern is n bytes of a stream from off on, that tell their place.
func pattern(off uint64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		x := off + uint64(i)
		b[i] = byte(x ^ x>>8 ^ x>>16)
	}
	return b
}

// peerStream is the id of the nth stream the peer opens.
func (tc *testConn) peerStream(n uint64, uni bool) uint64 {
	id := n << 2
	if !tc.server {
		id |= streamServerBit
	}
	if uni {
		id |= streamUniBit
	}
	return id
}

// ownStream is the id of the nth stream the Conn opens.
func (tc *testConn) ownStream(n uint64, uni bool) uint64 {
	return tc.peerStream(n, uni) ^ streamServerBit
}

// openStream has the Conn open a stream.
func (tc *testConn) openStream() *Stream {
	tc.Helper()
	s, err := tc.conn.OpenStream(context.Background())
	if err != nil {
		tc.Fatal(err)
	}
	return s
}

// acceptStream has the application take a stream of the peer's.
func (tc *testConn) acceptStream() *Stream {
	tc.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := tc.conn.AcceptStream(ctx)
	if err != nil {
		tc.Fatal(err)
	}
	return s
}

func (tc *testConn) write(s *Stream, b []byte) {
	tc.Helper()
	if n, err := s.Write(b); err != nil || n != len(b) {
		tc.Fatalf("Write = %d, %v", n, err)
	}
	synctest.Wait()
}

// spareID is the nth connection ID that giveIDs gives.
func (tc *testConn) spareID(n int) wire.ConnID {
	return connID(fmt.Sprintf("%0*d", tc.peerID.Len(), n))
}

// giveIDs gives the Conn n more connection IDs, 1 to n.
func (tc *testConn) giveIDs(n int) {
	tc.Helper()
	for i := 1; i <= n; i++ {
		tc.send(wire.Packet1RTT, wire.AppendNewConnectionID(nil, uint64(i), 0, tc.spareID(i), [16]byte{9, byte(i)}))
	}
	tc.settle()
}
