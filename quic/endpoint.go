package quic

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// An Endpoint is one or more UDP sockets and the connections on them. Several
// sockets are shards of one address: each has a reader, and a connection
// belongs to the shard that its connection IDs name.
type Endpoint struct {
	cfg      atomic.Pointer[Config] // for new incoming connections; nil: client only
	shards   []*shard
	layout   udp.Layout
	resetKey *[32]byte
	tokens   *tokenMaker
	memory   int64        // bytes that buffers of all connections may take
	held     atomic.Int64 // by what was received
	sending  atomic.Int64 // by what is sent
	stats    endpointStats
	sealer   protect.Sealer
	sealers  int
	sealJobs chan sealJob // nil: batches are sealed where they are built
	accepted chan *Conn
	failures chan HandshakeFailure
	readers  sync.WaitGroup
	closed   chan struct{}
	closing  atomic.Bool
	rests    restWave

	lastParams atomic.Pointer[wire.TransportParams] // see shareParams

	mu          sync.RWMutex
	conns       map[wire.ConnID]*Conn
	resets      map[[16]byte]*Conn // by resetIndex
	resetSalt   [32]byte
	live        map[*Conn]struct{}
	moved       map[*shard]*Conn // sockets of one connection's own (move.go)
	handshaking int
	resetsSent  rateLimit
	arrivals    arrivalRate
	initials    initialsBudget
	waiting     waitingPackets
	none        chan struct{} // closed when live is empty and the endpoint is closing
}

// A shard is one socket of an endpoint.
type shard struct {
	index uint8
	gen   uint8
	sock  atomic.Pointer[sockBox]
	seat  atomic.Pointer[seat] // of the reader of sock
}

type sockBox struct{ udp.PacketConn }

func (s *shard) conn() udp.PacketConn { return s.sock.Load().PacketConn }

// EndpointOption changes an endpoint's defaults.
type EndpointOption func(*Endpoint)

// WithMemory bounds the bytes of stream data that all connections together may
// hold, counted by the capacity of the buffers: received, and in its half not yet
// acknowledged by those it was sent to. Default 1 GiB.
func WithMemory(bytes int64) EndpointOption {
	return func(e *Endpoint) { e.memory = bytes }
}

// WithRest has f called, from a goroutine of its own, when many connections have
// come to rest, and no more follow: what they needed while they were busy is
// garbage then. A process that holds many idle ones may give it back to the
// system: debug.FreeOSMemory does.
func WithRest(f func()) EndpointOption {
	return func(e *Endpoint) { e.rests.call = f }
}

// WithLayout sets the layout of connection IDs; it must be the one the sockets steer by.
func WithLayout(l udp.Layout) EndpointOption {
	return func(e *Endpoint) { e.layout = l }
}

// NewEndpoint starts a reader on each socket. The sockets must be bound to the
// same address; they belong to the Endpoint from now on. cfg is for incoming
// connections; with nil, none are accepted.
func NewEndpoint(conns []udp.PacketConn, cfg *Config, opts ...EndpointOption) *Endpoint {
	e := &Endpoint{
		memory: 1 << 30,
		conns:  make(map[wire.ConnID]*Conn), resets: make(map[[16]byte]*Conn), live: make(map[*Conn]struct{}),
		closed: make(chan struct{}), none: make(chan struct{}),
	}
	for _, o := range opts {
		o(e)
	}
	e.cfg.Store(cfg)
	backlog := 0
	if cfg != nil {
		backlog = cfg.acceptBacklog()
		e.resetKey = cfg.resetKeyOf()
	}
	e.accepted = make(chan *Conn, backlog)
	e.failures = make(chan HandshakeFailure, maxFailures)
	if e.resetKey == nil {
		e.resetKey = new([32]byte)
		_, _ = rand.Read(e.resetKey[:]) // never fails
	}
	_, _ = rand.Read(e.resetSalt[:]) // never fails
	e.tokens = newTokenMaker(cfg)
	e.startSealers()
	for i, pc := range conns {
		s := &shard{index: uint8(i)}
		s.sock.Store(&sockBox{pc})
		e.shards = append(e.shards, s)
		e.startReader(s, pc)
	}
	return e
}

func (e *Endpoint) startReader(s *shard, pc udp.PacketConn) {
	st := newSeat(s, pc)
	s.seat.Store(st)
	e.readers.Add(1)
	go func() {
		defer e.readers.Done()
		e.readLoop(st)
	}()
}

// ReplaceSocket puts a new socket in the place of a shard's. Its connections
// go on through the new one; the old one is left to its owner to close.
func (e *Endpoint) ReplaceSocket(index int, pc udp.PacketConn) {
	s := e.shards[index]
	s.sock.Store(&sockBox{pc})
	e.startReader(s, pc)
}

// SetConfig changes the configuration of connections that arrive from now on.
func (e *Endpoint) SetConfig(cfg *Config) {
	e.tokens.configure(cfg)
	e.cfg.Store(cfg)
}

// LocalAddr returns the address the endpoint is bound to.
func (e *Endpoint) LocalAddr() netip.AddrPort { return e.shards[0].conn().LocalAddr() }

func (e *Endpoint) localAddr(a netip.Addr) netip.AddrPort {
	l := e.LocalAddr()
	if a.IsValid() {
		return netip.AddrPortFrom(a, l.Port())
	}
	return l
}

// Accept waits for the next connection whose TLS handshake is complete, or where
// Config.EarlyData is set whose client sends 0-RTT.
func (e *Endpoint) Accept(ctx context.Context) (*Conn, error) {
	select {
	case c := <-e.accepted:
		return c, nil
	case <-e.closed:
		return nil, ErrEndpointClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Dial connects to a server. It returns when the handshake is complete.
func (e *Endpoint) Dial(ctx context.Context, remote netip.AddrPort, cfg *Config) (*Conn, error) {
	c, err := e.dial(remote, cfg, false)
	if err != nil {
		return nil, err
	}
	return c.waitDialed(ctx)
}

// waitDialed waits for a client's handshake, and closes what came to nothing.
func (c *Conn) waitDialed(ctx context.Context) (*Conn, error) {
	if err := c.wait(ctx); err != nil {
		c.CloseTransport(NoError, "")
		return nil, err
	}
	return c, nil
}

// dial starts a client's handshake.
func (e *Endpoint) dial(remote netip.AddrPort, cfg *Config, early bool) (*Conn, error) {
	if cfg.Handshaker == nil {
		return nil, errors.New("quic: dial: no Handshaker in the Config")
	}
	first, ok := cfg.firstVersion()
	if !ok {
		return nil, fmt.Errorf("quic: dial: FirstVersion %v is not among the Config's Versions %v", first, cfg.versions())
	}
	if e.closing.Load() {
		return nil, ErrEndpointClosed
	}
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()) // as sockets report it
	c := newConn(e, e.shards[0], cfg, false, first)
	if c.early.wanted = early; early {
		c.earlyUp = make(chan struct{})
	}
	c.lock()
	// RFC 9000, Section 7.2: "This Destination Connection ID MUST be at least 8
	// bytes in length."
	var odcid [12]byte
	_, _ = rand.Read(odcid[:])
	dst, _ := wire.MakeConnID(odcid[:])
	c.setID(dst)
	c.ids.initial = dst
	id, ok := e.newConnID(c.shard(), c)
	if !ok {
		c.abandon(ErrEndpointClosed)
		c.unlock()
		return nil, ErrEndpointClosed
	}
	c.ids.local = []localID{{id: id}}
	c.ids.nextLocal = 1
	c.ids.peerLimit = 2
	c.path.init(0, remote, netip.Addr{}, 0, cfg)
	c.dialAddr = remote
	c.testECN()
	c.path.validated = true // the limit is the server's (RFC 9000, Section 8.1)
	c.startTrace()
	c.keys[recovery.Initial] = initialKeys(c.version, dst, false)
	c.token = cfg.Tokens.take(c.tokenServer(), c.version)
	e.addLive(c)
	c.startClient()
	c.dirty = true
	c.setTimer()
	c.unlock()
	c.pump()
	return c, nil
}

// Conns returns the live connections.
func (e *Endpoint) Conns() []*Conn {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make([]*Conn, 0, len(e.live))
	for c := range e.live {
		out = append(out, c)
	}
	return out
}

// alone tells whether there is one connection only.
func (e *Endpoint) alone() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.live) == 1
}

// Close closes all connections with NO_ERROR, waits until ctx is done for
// what they still have to say, and closes the sockets.
func (e *Endpoint) Close(ctx context.Context) error {
	if e.closing.Swap(true) {
		return nil
	}
	for _, c := range e.Conns() {
		c.CloseTransport(NoError, "")
	}
	close(e.closed)
	e.mu.Lock()
	e.checkEmpty()
	e.mu.Unlock()
	select {
	case <-e.none:
	case <-ctx.Done():
	}
	var err error
	e.mu.Lock()
	e.leaveMoved(nil)
	e.mu.Unlock()
	for _, s := range e.shards {
		err = errors.Join(err, s.conn().Close())
	}
	e.readers.Wait()
	for _, c := range e.Conns() {
		c.stop()
	}
	return err
}

// stop ends a closing connection before its time.
func (c *Conn) stop() {
	c.lock()
	defer c.unlock()
	if c.state < stateClosing {
		c.abandon(ErrEndpointClosed)
		return
	}
	c.state = stateDone
	if c.timer != nil {
		c.timer.Stop()
	}
	c.ep.forget(c)
}

// Knows reports whether a datagram is addressed to one of the endpoint's
// connections, for those who look at datagrams before the endpoint does.
func (e *Endpoint) Knows(b []byte) bool {
	id, ok := e.dstOf(b)
	if !ok {
		return false
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.conns[id] != nil
}

// dstOf returns the Destination Connection ID of a datagram's first packet.
func (e *Endpoint) dstOf(b []byte) (wire.ConnID, bool) {
	if len(b) == 0 {
		return wire.ConnID{}, false
	}
	if wire.IsLong(b[0]) {
		_, dst, _, _, ok := wire.ParseInvariant(b)
		if !ok {
			return wire.ConnID{}, false
		}
		id, ok := wire.MakeConnID(dst)
		if !ok {
			// A version with longer IDs than ours: only version negotiation can follow.
			return wire.ConnID{}, true
		}
		return id, true
	}
	n := e.layout.Size()
	if len(b) < 1+n {
		return wire.ConnID{}, false
	}
	return wire.MakeConnID(b[1 : 1+n])
}

// newConnID makes a connection ID of c on a shard and registers it.
//
// RFC 9000, Section 5.1: "As a trivial example, this means the same connection
// ID MUST NOT be issued more than once on the same connection."
func (e *Endpoint) newConnID(s *shard, c *Conn) (wire.ConnID, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for range 4 {
		b, err := e.layout.Append(nil, s.index, s.gen, rand.Reader)
		if err != nil {
			break
		}
		id, _ := wire.MakeConnID(b)
		if _, taken := e.conns[id]; !taken {
			e.conns[id] = c
			return id, true
		}
	}
	return wire.ConnID{}, false
}

// register leads id to c, unless another connection has it: that one is returned.
func (e *Endpoint) register(id wire.ConnID, c *Conn) *Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	if other := e.conns[id]; other != nil {
		return other
	}
	e.conns[id] = c
	return nil
}

func (e *Endpoint) unregister(id wire.ConnID, c *Conn) {
	e.mu.Lock()
	if e.conns[id] == c {
		delete(e.conns, id)
	}
	e.mu.Unlock()
}

// resetIndex is what a stateless reset token is looked up by: the time that a map
// takes says nothing of a token then.
//
// RFC 9000, Section 10.3.1: "When comparing a datagram to stateless reset token
// values, endpoints MUST perform the comparison without leaking information
// about the value of the token."
func (e *Endpoint) resetIndex(t [16]byte) [16]byte {
	var b [32 + 16]byte
	copy(b[:], e.resetSalt[:])
	copy(b[32:], t[:])
	sum := sha256.Sum256(b[:])
	return [16]byte(sum[:])
}

// hasResets tells whether any tokens are known: a server knows of few.
func (e *Endpoint) hasResets() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.resets) > 0
}

func (e *Endpoint) registerReset(t [16]byte, c *Conn) {
	i := e.resetIndex(t)
	e.mu.Lock()
	e.resets[i] = c
	e.mu.Unlock()
}

func (e *Endpoint) unregisterReset(t [16]byte, c *Conn) {
	i := e.resetIndex(t)
	e.mu.Lock()
	if e.resets[i] == c {
		delete(e.resets, i)
	}
	e.mu.Unlock()
}

func (e *Endpoint) addLive(c *Conn) {
	e.mu.Lock()
	e.live[c] = struct{}{}
	if c.server {
		e.handshaking++
	}
	e.mu.Unlock()
}

// forget drops all that leads to a connection.
func (e *Endpoint) forget(c *Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range c.ids.local {
		delete(e.conns, l.id)
	}
	if c.server {
		if e.conns[c.firstDst] == c {
			delete(e.conns, c.firstDst)
		}
	}
	for _, r := range c.ids.remote {
		if !r.hasToken {
			continue
		}
		if i := e.resetIndex(r.token); e.resets[i] == c {
			delete(e.resets, i)
		}
	}
	if _, ok := e.live[c]; ok {
		e.stats.closedConns.retire(&c.stats)
	}
	delete(e.live, c)
	e.leaveMoved(c)
	e.held.Add(-c.acct.charged)
	c.acct.charged = 0
	e.sending.Add(-c.sendMem.charged)
	c.sendMem.charged = 0
	e.checkEmpty()
}

func (e *Endpoint) checkEmpty() {
	if e.closing.Load() && len(e.live) == 0 && !isClosed(e.none) {
		close(e.none)
	}
}

// onEstablished counts a connection whose handshake is complete; onConnClosed takes
// it back.
func (e *Endpoint) onEstablished(c *Conn) {
	e.stats.Established.Add(1)
	if !c.server {
		e.stats.Dialed.Add(1)
	}
}

// onHandshakeDone offers a server's connection to Accept.
func (e *Endpoint) onHandshakeDone(c *Conn) {
	e.leaveHandshake(c)
	e.stats.Handshakes.Add(1)
	if !c.early.open {
		e.offer(c)
	}
}

func (e *Endpoint) offer(c *Conn) {
	select {
	case e.accepted <- c:
	default:
		// RFC 9000, Section 5.2.2: a server that is too busy refuses.
		_ = c.fail(ConnectionRefused, 0, "the server accepts no more connections")
	}
}

func (e *Endpoint) leaveHandshake(c *Conn) {
	if c.server && !c.leftHandshake {
		c.leftHandshake = true
		e.mu.Lock()
		e.handshaking--
		e.mu.Unlock()
	}
}

// A HandshakeFailure is a server's connection that ended before TLS was complete.
type HandshakeFailure struct {
	ID     string
	Remote netip.AddrPort
	Hello  *ClientHelloInfo // nil: no whole ClientHello came
	Tag    any              // Config.Tag of the chosen Config
	Err    error
}

// maxFailures bounds the failures that wait to be looked at; more are only counted.
const maxFailures = 256

// Failures yields the handshakes that failed, for logs and audit.
func (e *Endpoint) Failures() <-chan HandshakeFailure { return e.failures }

func (e *Endpoint) onConnClosed(c *Conn, err error) {
	e.leaveHandshake(c)
	if c.tls != nil {
		e.stats.Established.Add(-1)
	}
	if c.tls != nil || c.server && len(c.ids.remote) == 0 {
		return // it was open, or it never began: nothing authentic came
	}
	e.stats.HandshakesFailed.Add(1)
	if !c.server {
		return
	}
	select {
	case e.failures <- HandshakeFailure{ID: c.id, Remote: c.path.remote, Hello: c.hello, Tag: c.cfg.Tag, Err: err}:
	default:
	}
}

func (e *Endpoint) onPathValidated(*Conn) { e.stats.PathsValidated.Add(1) }
