package tlshd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"
)

// Bounds of a Client's queues.
const (
	maxQueued       = 16 << 20  // bytes on their way to the helper
	maxInFlight     = 16 << 10  // handshakes not yet done
	maxCryptoIn     = 256 << 10 // bytes of CRYPTO data a peer may send in a handshake
	maxEvents       = 64        // events of one handshake waiting for its sink
	defaultTimeout  = 10 * time.Second
	capsTimeout     = 5 * time.Second
	reattachBackoff = 500 * time.Millisecond
)

// ClientOptions configures a Client.
type ClientOptions struct {
	Logger *slog.Logger // nil: no log
	// Changed is called when the helper's CAs or revocation lists may be others
	// than before: chains of live connections have to pass Verify again. It must
	// not block. nil: nobody wants to know.
	Changed func()
}

// Client is the packet process' end of the socket: it asks a helper for
// handshakes, any number at a time. It outlives the helper. While none is
// attached, new handshakes wait for one until their timeout.
type Client struct {
	log     *slog.Logger
	changed func()

	// mu guards everything below and the fields of every Handshake. Sinks are
	// never called with it held.
	mu         sync.Mutex
	closed     bool
	next       uint64
	epoch      uint64      // see Epoch
	conn       *clientConn // nil: no helper
	detached   chan struct{}
	handshakes map[uint64]*Handshake
	waiters    map[uint64]chan message
	queue      []outgoing
	queued     int
	stats      ClientStats
	wg         sync.WaitGroup
}

// ClientStats counts since NewClient.
type ClientStats struct {
	Started, Done, Failed uint64
	// Ignored counts messages for handshakes that are over or never were.
	Ignored uint64
	// Attached counts helpers, Lost those that went away on their own.
	Attached, Lost uint64
	// Outcomes counts the ends of handshakes by Reason.
	Outcomes map[Reason]uint64
	InFlight int // begun and not done
	Queued   int // bytes waiting for the helper
}

// clientConn is one helper, from Attach until it is lost.
type clientConn struct {
	s    *socket
	wake chan struct{} // the queue is not empty; capacity 1
	gone chan struct{} // closed when lost
	caps *time.Timer   // the helper has to say what it is

	generation uint64 // of its trust, as far as it has said; guarded by Client.mu
}

// outgoing is a message in the queue.
type outgoing struct {
	h       *Handshake // nil: the Client's own
	typ     msgType
	request uint64
	body    []byte
}

// NewClient returns a Client that no helper is attached to yet.
func NewClient(o ClientOptions) *Client {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	detached := make(chan struct{})
	close(detached)
	if o.Changed == nil {
		o.Changed = func() {}
	}
	return &Client{log: o.Logger, changed: o.Changed, handshakes: map[uint64]*Handshake{}, waiters: map[uint64]chan message{}, detached: detached}
}

// Attach makes conn, from Process.Connect, RecvConn or Dial, the way to the
// helper and takes it over. A helper that was attached before is let go, and
// its handshakes in flight fail.
func (c *Client) Attach(conn *net.UnixConn) error {
	cc := &clientConn{s: newSocket(conn), wake: make(chan struct{}, 1), gone: make(chan struct{})}
	var hello body
	hello.u8(attrVersion, protoVersion)
	hello.u8(attrRole, rolePacket)
	if err := cc.s.write(msgHello, 0, false, hello); err != nil {
		_ = conn.Close()
		return fmt.Errorf("tlshd: greet the helper: %w", err)
	}
	c.mu.Lock()
	old := c.conn
	c.mu.Unlock()
	if old != nil {
		c.lost(old, fmt.Errorf("another helper was attached"))
	}
	c.mu.Lock()
	if c.closed || c.conn != nil {
		c.mu.Unlock()
		_ = conn.Close()
		return ErrClosed
	}
	c.conn, c.detached = cc, cc.gone
	c.epoch++
	first := c.stats.Attached == 0
	c.stats.Attached++
	cc.caps = time.AfterFunc(capsTimeout, func() {
		c.lost(cc, fmt.Errorf("no CAPS within %v", capsTimeout))
	})
	c.wg.Add(2)
	c.mu.Unlock()
	go c.writer(cc)
	go c.reader(cc)
	if !first {
		c.changed() // another helper may have read other files
	}
	return nil
}

// Detached returns a channel that is closed when the helper attached now is
// lost; it is closed already when there is none.
func (c *Client) Detached() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.detached
}

// Maintain keeps a helper attached until ctx ends: it calls dial, attaches what
// it returns, and does so again when the helper is lost, at most every 500 ms.
// It returns ctx's error or ErrClosed.
func (c *Client) Maintain(ctx context.Context, dial func(context.Context) (*net.UnixConn, error)) error {
	const first = 10 * time.Millisecond
	for wait := first; ; wait = min(2*wait, reattachBackoff) {
		began := time.Now()
		conn, err := dial(ctx)
		if err == nil {
			err = c.Attach(conn)
		}
		if err == nil {
			select {
			case <-c.Detached():
			case <-ctx.Done():
				return ctx.Err()
			}
			if time.Since(began) > reattachBackoff {
				wait = first
			}
		} else {
			c.log.Warn("handshake helper not reached", "error", err, "again_in", wait)
		}
		c.mu.Lock()
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return ErrClosed
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// Close fails the handshakes in flight and lets the helper go.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	cc := c.conn
	c.mu.Unlock()
	if cc != nil {
		c.lost(cc, ErrClosed)
	}
	c.mu.Lock()
	var failed []*Handshake
	for _, h := range c.handshakes {
		if c.failLocked(h, goneError(ErrClosed)) {
			failed = append(failed, h)
		}
	}
	c.mu.Unlock()
	for _, h := range failed {
		c.deliver(h)
	}
	c.wg.Wait()
	return nil
}

// Stats returns the counters.
func (c *Client) Stats() ClientStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.stats
	st.Queued = c.queued
	st.Outcomes = maps.Clone(c.stats.Outcomes)
	for _, h := range c.handshakes {
		if h.phase < phaseDone {
			st.InFlight++
		}
	}
	return st
}

// ServerStats asks the helper for its counters.
func (c *Client) ServerStats(ctx context.Context) (ServerStats, error) {
	var st ServerStats
	m, err := c.ask(ctx, msgStats, nil)
	if err != nil {
		return st, err
	}
	as, err := parseAttributes(m.typ, m.body)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(as.bytes(attrJSON), &st); err != nil {
		return st, fmt.Errorf("tlshd: counters: %w", err)
	}
	return st, nil
}

// ask sends a question that is no handshake and waits for the answer.
func (c *Client) ask(ctx context.Context, typ msgType, b []byte) (message, error) {
	reply := make(chan message, 1)
	c.mu.Lock()
	if c.closed || c.conn == nil {
		c.mu.Unlock()
		return message{}, ErrHelperGone
	}
	c.next++
	id, gone := c.next, c.conn.gone
	if !c.enqueueLocked(outgoing{typ: typ, request: id, body: b}) {
		c.mu.Unlock()
		return message{}, overload("bytes queued for the helper")
	}
	c.waiters[id] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiters, id)
		c.mu.Unlock()
	}()
	select {
	case m := <-reply:
		if m.typ != typ {
			return m, protocolError("%v is answered with %v", typ, m.typ)
		}
		return m, nil
	case <-gone:
		return message{}, ErrHelperGone
	case <-ctx.Done():
		return message{}, ctx.Err()
	}
}

// maxOutcomes is more than there are reasons: a helper that invents some fills
// no memory.
const maxOutcomes = 128

func (c *Client) countLocked(r Reason) {
	if c.stats.Outcomes == nil {
		c.stats.Outcomes = map[Reason]uint64{}
	}
	if _, known := c.stats.Outcomes[r]; known || len(c.stats.Outcomes) < maxOutcomes {
		c.stats.Outcomes[r]++
	}
}

// enqueueLocked puts a message into the queue and reports whether there was
// room.
func (c *Client) enqueueLocked(o outgoing) bool {
	n := len(o.body) + headerLen
	if c.queued+n > maxQueued {
		c.compactLocked()
		if c.queued+n > maxQueued {
			return false
		}
	}
	c.queue = append(c.queue, o)
	c.queued += n
	if c.conn != nil {
		select {
		case c.conn.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// dequeue takes the next message for cc, past those of handshakes that are over.
func (c *Client) dequeue(cc *clientConn) (outgoing, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.conn == cc && len(c.queue) > 0 {
		o := c.queue[0]
		c.queue[0] = outgoing{}
		c.queue = c.queue[1:]
		if len(c.queue) == 0 {
			c.queue = nil
		}
		c.queued -= len(o.body) + headerLen
		if o.h != nil && c.handshakes[o.request] != o.h {
			continue
		}
		if o.typ == msgStart {
			o.h.sent = true
		}
		return o, true
	}
	return outgoing{}, false
}

// compactLocked removes the messages of handshakes that are over.
func (c *Client) compactLocked() {
	c.filterLocked(func(o outgoing) bool { return o.h == nil || c.handshakes[o.request] == o.h })
}

func (c *Client) filterLocked(keep func(outgoing) bool) {
	kept := c.queue[:0]
	for _, o := range c.queue {
		if keep(o) {
			kept = append(kept, o)
			continue
		}
		clear(o.body)
		c.queued -= len(o.body) + headerLen
	}
	clear(c.queue[len(kept):])
	c.queue = kept
}

func (c *Client) writer(cc *clientConn) {
	defer c.wg.Done()
	for {
		o, ok := c.dequeue(cc)
		if !ok {
			select {
			case <-cc.wake:
				continue
			case <-cc.gone:
				return
			}
		}
		err := cc.s.write(o.typ, o.request, false, o.body)
		if err != nil && o.typ == msgStart {
			c.unsend(o)
		}
		if err != nil {
			c.lost(cc, fmt.Errorf("write %v: %w", o.typ, err))
			return
		}
	}
}

// unsend puts back a request that never reached its helper: it is one for the
// next.
func (c *Client) unsend(o outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handshakes[o.request] == o.h {
		o.h.sent = false
		c.queue = append([]outgoing{o}, c.queue...)
		c.queued += len(o.body) + headerLen
	}
}

func (c *Client) reader(cc *clientConn) {
	defer c.wg.Done()
	for {
		m, err := cc.s.read()
		if err == nil {
			err = c.receive(cc, m)
		}
		if err != nil {
			cc.s.wipe()
			c.lost(cc, err)
			return
		}
	}
}

// receive handles one message from the helper. An error is the end of this
// helper: a process that holds the keys and talks nonsense is not to be trusted
// with the next handshake.
func (c *Client) receive(cc *clientConn, m message) error {
	switch m.typ {
	case msgCaps:
		as, err := parseAttributes(m.typ, m.body)
		if err == nil && as.u8(attrVersion) != protoVersion {
			err = protocolError("the helper speaks version %d, want %d", as.u8(attrVersion), protoVersion)
		}
		if err == nil {
			cc.caps.Stop()
		}
		return err
	case msgChanged:
		return c.receiveChanged(cc, m)
	case msgStats, msgVerify:
		m.body = append([]byte(nil), m.body...)
		c.mu.Lock()
		w := c.waiters[m.request]
		delete(c.waiters, m.request)
		c.mu.Unlock()
		if w != nil {
			w <- m
		}
		return nil
	case msgCryptoOut, msgSecret, msgPeerTP, msgDone, msgEarly:
		return c.receiveEvent(cc, m)
	}
	return protocolError("%v from a helper", m.typ)
}

func (c *Client) receiveEvent(cc *clientConn, m message) error {
	as, err := parseAttributes(m.typ, m.body)
	if err != nil {
		return err
	}
	c.mu.Lock()
	h := c.handshakes[m.request]
	if h == nil || c.conn != cc || !h.sent {
		c.stats.Ignored++
		c.mu.Unlock()
		return nil
	}
	h.receiveLocked(m, as)
	c.mu.Unlock()
	c.deliver(h)
	return nil
}

// lost ends a helper: handshakes that it was busy with fail, those still in the
// queue wait for the next one, connections that are done go on without.
func (c *Client) lost(cc *clientConn, why error) {
	c.mu.Lock()
	if c.conn != cc {
		c.mu.Unlock()
		return
	}
	c.conn = nil
	close(cc.gone)
	cc.caps.Stop()
	wanted := c.closed
	if !wanted {
		c.stats.Lost++
	}
	var failed []*Handshake
	for id, h := range c.handshakes {
		switch {
		case h.phase == phaseDone:
			h.phase = phaseReleased
			delete(c.handshakes, id)
		case h.sent && c.failLocked(h, goneError(why)):
			failed = append(failed, h)
		}
	}
	// What is left for the next helper are whole requests: CANCELs and
	// questions for counters were for this one.
	c.filterLocked(func(o outgoing) bool { return o.h != nil && c.handshakes[o.request] == o.h })
	c.mu.Unlock()
	_ = cc.s.close()
	if !wanted {
		c.log.Warn("handshake helper lost", "why", why.Error(), "handshakes_failed", len(failed))
	}
	for _, h := range failed {
		c.deliver(h)
	}
}

func goneError(why error) *Error {
	cause := ErrHelperGone
	if why == ErrClosed {
		cause = ErrClosed
	}
	return &Error{Status: StatusEIO, Alert: alertInternalError, Reason: ReasonHelperGone,
		Detail: fmt.Sprintf("the handshake helper went away during the handshake: %v (new handshakes work when it is back)", why), cause: cause}
}
