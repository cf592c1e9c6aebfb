package quic

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/qlog"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// connState is where a connection stands in its life (RFC 9000, Sections 7 and 10).
type connState uint8

const (
	stateHandshake connState = iota
	stateOpen                // TLS is complete
	stateClosing             // CONNECTION_CLOSE was sent
	stateDraining            // CONNECTION_CLOSE or a stateless reset was received
	stateDone                // nothing is left
)

// A Conn is one QUIC connection. It has no goroutine of its own: the reader
// of its socket, its timer and the application run it inline, one at a time.
type Conn struct {
	ep      *Endpoint
	server  bool
	home    atomic.Pointer[shard] // its socket
	id      string
	inbox   inbox
	ctx     context.Context
	cancel  context.CancelCauseFunc
	ready   chan struct{} // closed when TLS is complete or the connection is over
	wanted  atomic.Int32  // those who wait for mu
	inTurns atomic.Bool   // see turns
	earlyUp chan struct{} // closed when a client may send 0-RTT; nil: it was not asked for

	mu sync.Mutex // guards everything below
	connGuarded
}

type connGuarded struct {
	clock     time.Time // see now
	timed     bool      // clock is that of the one who has the lock
	cfg       *Config
	version   wire.Version
	ver       versionState
	greases   bool // the peer takes packets whose QUIC bit is 0
	state     connState
	dirty     bool // there may be something to send
	late      bool // the socket's reader is going to send it, and to wake whom there is to wake
	turns     turns
	path      path
	prev      *path // validated path to return to while the new one is unproven
	subs      []*subscriber
	eventMask EventMask // of all of them
	probe     *probe    // path that a client is about to move to
	probed    probedPath
	heardOn   wire.ConnID // of ours, where the newest packet was sent to
	paths     uint8       // path ids given out

	hs            Handshake
	hsEpoch       uint8 // of the handshake under way: late events of another do not count
	hello         *ClientHelloInfo
	tls           *TLSState // set when the handshake is complete
	pendingTLS    *TLSState
	level         Level // highest level with send keys
	admitted      bool
	confirmed     bool // RFC 9001, Section 4.1.2
	leftHandshake bool // no longer counted by the endpoint
	hsDone        bool // server: HANDSHAKE_DONE is due
	sentParams    bool
	originalDst   wire.ConnID // what the client chose first
	firstDst      wire.ConnID // server: what the Initials of this connection are sent to
	retrySrc      wire.ConnID
	retried       bool
	dialAddr      netip.AddrPort        // client: the address that Dial was given
	token         []byte                // client: of Retry or of an earlier connection, for Initials
	tokenDue      bool                  // server: NEW_TOKEN is due
	peerParams    *wire.TransportParams // never changed, only replaced
	haveParams    bool
	helloParams   []byte // server: as routing read them, until TLS has said the same
	peerVerified  bool   // client: the server has validated our address: it acknowledged a Handshake packet

	ids    connIDs
	keys   [2]spaceKeys // Initial, Handshake
	app    appKeys
	early  earlyState
	ahead  []earlyPacket    // packets before their keys
	hsp    *handshakeSpaces // nil: forgotten
	crypto cryptoStream     // AppData
	recv   recovery.Received
	loss   recovery.Loss
	probes [recovery.NumSpaces]int
	freq   ackFrequency

	*ackWork // nil while the connection rests: call needAckWork before use
	acct     accounts
	sendMem  sendMemory
	flow     connFlow
	streams  streamTable
	dg       *datagrams // nil: none were sent or received
	toWake   wakeList

	largestPN       int64 // largest 1-RTT packet number received
	lastHeard       time.Time
	lastSent        time.Time // of an ack-eliciting packet, since lastHeard
	started         time.Time
	idle            time.Duration
	restedAt        time.Time // see rest
	restedBytes     uint64    // of streams, when it last left something behind
	ping            bool
	lastPing        time.Time   // of a keepalive
	blocked         *outBatch   // sealed packets the socket did not take
	line            []*outBatch // WithSealers: built, and sent after blocked, see sendLine
	sealedInLine    int
	pacedUntil      time.Time
	closing         *closeState // nil: it is open
	timer           *time.Timer
	timerAt         time.Time
	stats           ConnStats
	batchNearlyFull bool
	probing         bool        // a path MTU probe is being sealed
	trace           *qlog.Trace // nil: none
	marking         bool        // what is being sealed will carry ECT(0)
	batched         bool        // what is being sealed is not the first datagram of its send
}

// An earlyPacket came before its keys.
type earlyPacket struct {
	data    []byte
	remote  netip.AddrPort
	local   netip.Addr
	ifIndex int
	ecn     uint8
}

func newConn(ep *Endpoint, sh *shard, cfg *Config, server bool, v wire.Version) *Conn {
	c := &Conn{ep: ep, server: server, ready: make(chan struct{})}
	c.home.Store(sh)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	now := time.Now()
	c.cfg, c.version, c.started, c.lastHeard = cfg, v, now, now
	c.ver.original = v
	c.largestPN = -1
	c.idle = cfg.handshakeTimeout()
	c.level = LevelInitial
	c.peerParams = &noParams
	c.loss.Init(0)
	c.loss.UseECN(&c.path.ecn)
	c.recv.Init(recovery.AppData, localMaxAckDelay)
	c.cryptoOf(recovery.Initial).limit = maxCryptoBuffer / 4
	c.cryptoOf(recovery.Handshake).limit = maxCryptoBuffer
	c.crypto.limit = maxCryptoPost
	c.acct.lateMax = cfg.outOfOrder(false)
	return c
}

// setID names the connection in logs by the first connection ID the client chose.
func (c *Conn) setID(odcid wire.ConnID) {
	c.originalDst = odcid
	c.id = hex.EncodeToString(odcid.Append(nil))
}

// log is made when there is something to say: most connections never have.
func (c *Conn) log() *slog.Logger { return c.cfg.logger().With("conn", c.id) }

// lock takes the connection for the application.
func (c *Conn) lock() {
	if !c.mu.TryLock() {
		c.wanted.Add(1)
		c.mu.Lock()
		c.wanted.Add(-1)
	}
	c.timed = false
}

// unlock does the work that others left meanwhile, sends what is due and gives
// the connection back. Work comes first: TLS answers a packet through the inbox,
// and an acknowledgement alone would cost a datagram before that answer.
func (c *Conn) unlock() {
	for {
		if c.inbox.work() {
			c.timed = false
			c.drain()
		}
		c.late = false
		c.flush()
		c.chargeMemory()
		c.wake()
		c.mu.Unlock()
		if !c.inbox.work() || !c.mu.TryLock() {
			return
		}
	}
}

// unlockQuiet gives the connection back and leaves to the reader what that has
// put off (see late), unless there is more to send than acknowledgements.
func (c *Conn) unlockQuiet() {
	if !c.late || c.appDue() {
		c.unlock()
		return
	}
	c.chargeMemory()
	c.mu.Unlock()
	c.pump()
}

// pump does the work in the inbox unless somebody else is at it.
func (c *Conn) pump() {
	if c.inbox.work() && c.mu.TryLock() {
		c.timed = false
		c.unlock()
	}
}

// now is the time at which the one who has the lock first asked for it: many only
// take something out or put it in, and looking at the clock would cost them as much
// again.
func (c *Conn) now() time.Time {
	if !c.timed {
		c.clock, c.timed = time.Now(), true
	}
	return c.clock
}

// drain empties the inbox.
func (c *Conn) drain() {
	for c.inbox.some.Load() {
		w := c.inbox.take()
		c.acct.copied += w.copied
		for i := range w.batches {
			c.processBatch(&w.batches[i])
			w.batches[i].buf.Release()
		}
		w.release()
		if w.overflow {
			_ = c.fail(InternalError, 0, "handshake events overflow")
		}
		for i := range w.events {
			c.onHandshakeEvent(&w.events[i])
		}
		if w.timer {
			c.onTimer()
		}
		if w.writable {
			c.sendBlocked()
		}
		if c.inbox.mine.Load() {
			return // the reader sees to what came meanwhile
		}
	}
}

// receive processes a batch at once if the connection is free, or leaves it. It
// reports whether flushLate has to be called soon.
func (c *Conn) receive(r *rxBatch) (late bool) {
	// Who waits for the connection comes first. It wakes up too slowly to get hold
	// of it between two batches, and would have to be woken after each.
	if (c.wanted.Load() > 0 || !c.mu.TryLock()) && !c.leave(r) {
		if r.total >= viewThreshold {
			// The reader comes back to it. Left to the one who has the connection, it
			// would keep him from his own work for as long as more arrives.
			c.inbox.mine.Store(true)
			return true
		}
		c.pump()
		return false
	}
	c.timed = false
	c.drain()
	c.processBatch(r)
	// Handshakes and endings are in no need of batching.
	if !c.confirmed || c.state != stateOpen || c.awaitAnswer(r.total) {
		c.unlock()
		return false
	}
	late = c.dirty
	if r.total < viewThreshold {
		c.wake()
	} else {
		late = late || len(c.toWake) > 0
	}
	c.late = late
	c.mu.Unlock()
	c.pump()
	return late
}

// leave leaves a batch to whoever has the connection, or drops it. It reports
// that it got hold of the connection instead.
//
// A full inbox is no congestion: whoever has the connection lost the processor,
// and a drop would cost the peer half its congestion window. A reader waits that
// out for a moment, but only where no other connection waits for that reader.
func (c *Conn) leave(r *rxBatch) (locked bool) {
	for {
		if c.inbox.pushBatch(*r) {
			c.ep.stats.ReceivedLater.Add(r.datagrams())
			return false
		}
		if !c.ep.alone() || !c.inbox.mayWait() {
			c.ep.stats.DropBusy.Add(r.datagrams())
			return false
		}
		time.Sleep(busyWait)
		if c.mu.TryLock() {
			return true
		}
	}
}

// flushLate sends what receive has put off, or has whoever has the connection
// now do so.
func (c *Conn) flushLate() {
	c.inbox.mine.Store(false)
	if c.mu.TryLock() {
		c.timed = false
		c.unlock()
		return
	}
	c.inbox.pushFlag(&c.inbox.late)
	c.pump()
}

// sink takes the Handshaker's events, from any goroutine.
func (c *Conn) sink(e HandshakeEvent) {
	c.inbox.pushEvent(e)
	if !e.More {
		c.pump()
	}
}

// ID returns the connection's name in logs: the first Destination Connection
// ID of the client, in hex. It is known to both ends.
func (c *Conn) ID() string { return c.id }

// Context is cancelled when the connection is closed; its cause says why.
func (c *Conn) Context() context.Context { return c.ctx }

// Done is closed when the connection is closed.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }

// Err returns why the connection was closed, or nil.
func (c *Conn) Err() error { return context.Cause(c.ctx) }

// TLS returns what the handshake found out, or nil before it is complete.
func (c *Conn) TLS() *TLSState {
	c.lock()
	defer c.unlock()
	return c.tls
}

// Hello returns what a server's routing saw of the client, or nil.
func (c *Conn) Hello() *ClientHelloInfo {
	c.lock()
	defer c.unlock()
	return c.hello
}

// Config returns the configuration in force, on a server the one that
// GetConfigForClient chose.
func (c *Conn) Config() *Config {
	c.lock()
	defer c.unlock()
	return c.cfg
}

// RemoteAddr returns the peer's current address, a *net.UDPAddr.
func (c *Conn) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(c.RemoteAddrPort()) }

// RemoteAddrPort returns the peer's current address. It changes when the peer
// moves; it is the validated one where there is one.
func (c *Conn) RemoteAddrPort() netip.AddrPort {
	c.lock()
	defer c.unlock()
	if !c.path.validated && c.prev != nil {
		return c.prev.remote
	}
	return c.path.remote
}

// LocalAddr returns the local address, a *net.UDPAddr.
func (c *Conn) LocalAddr() net.Addr {
	c.lock()
	defer c.unlock()
	return net.UDPAddrFromAddrPort(c.localAddr())
}

func (c *Conn) localAddr() netip.AddrPort {
	a := c.shard().conn().LocalAddr()
	if c.path.local.IsValid() {
		a = netip.AddrPortFrom(c.path.local, a.Port())
	}
	return a
}

// Admit lets a server's connection go on that Config.ManualAdmit holds.
func (c *Conn) Admit() {
	c.lock()
	defer c.unlock()
	if c.state == stateOpen && !c.admitted {
		c.admit()
	}
}

// UpdateKeys starts a key update (RFC 9001, Section 6). It fails while the
// previous one is not acknowledged.
func (c *Conn) UpdateKeys() error {
	c.lock()
	defer c.unlock()
	if err := c.closeErr(); err != nil {
		return err
	}
	// "An endpoint MUST NOT initiate a key update prior to having confirmed the handshake"
	//
	// RFC 9001, Section 6.1: "An endpoint MUST NOT initiate a key update prior
	// to having confirmed the handshake (Section 4.1.2)."
	if !c.confirmed || !c.app.mayUpdate() {
		if c.confirmed && c.app.acked {
			c.ping, c.dirty = true, true // along with an acknowledgment, which is acknowledged then
		}
		return fmt.Errorf("quic: key update: the previous keys are not yet acknowledged (try again later)")
	}
	if err := c.updateKeys(); err != nil {
		return err
	}
	c.ping, c.dirty = true, true
	return nil
}

func (c *Conn) updateKeys() error {
	c.stats.KeyUpdates++
	if err := c.app.rotate(c.loss.NextPN(recovery.AppData)); err != nil {
		return err
	}
	c.trace.KeyUpdated(c.now(), "1rtt_secrets", c.app.generation, "quic")
	if c.eventMask&EventKeyUpdate != 0 {
		c.emit(Event{Kind: EventKeyUpdate, Phase: c.app.phase})
	}
	return nil
}

func (c *Conn) pto() time.Duration {
	return c.path.rtt.PTO(c.maxAckDelay())
}

func (c *Conn) maxAckDelay() time.Duration {
	if c.haveParams {
		return c.peerParams.MaxAckDelay
	}
	return 25 * time.Millisecond
}

// free gives back everything a closed connection holds but what answering
// late packets needs.
func (c *Conn) free() {
	for _, s := range c.streams.all {
		// What has arrived whole can still be read when it is the peer that closed:
		// it may do so right behind its last byte.
		if c.state != stateDraining || !s.rcv.buf.whole() {
			s.rcv.buf.discard(&c.acct)
		}
		s.snd.buf.discard()
		s.rgate.open()
		s.wgate.open()
	}
	c.streams.closed()
	c.freeDatagrams()
	c.ahead = nil
	c.early.dropKeys()
	c.early.held = nil
	c.dropCrypto()
	if c.blocked != nil {
		c.blocked.release()
		c.blocked = nil
	}
	c.dropLine()
	if c.hs != nil {
		c.hs.Close()
		c.hs = nil
	}
	for i := range c.keys {
		c.keys[i].drop()
	}
	c.ver.drop()
	c.app.zero()
	n := c.loss.Counts()
	c.stats.BytesLost, c.stats.SpuriousLosses = max(c.stats.BytesLost, n.BytesLost), max(c.stats.SpuriousLosses, n.Spurious)
	var none recovery.Loss
	c.loss = none
}
