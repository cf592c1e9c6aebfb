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

	// writing: somebody is between taking messages from the queue and having
	// written them; the others leave the queue to him. Guarded by Client.mu.
	writing bool
	batch   []outgoing // his
	wbuf    []byte

	undelivered *Handshake // the reader's: it has events

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
	hello.str(attrFeature, featureGather)
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
	c.flush()
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
// room. The caller flushes when it has unlocked, or wakes the writer.
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
	return true
}

// dequeueLocked takes the next message, past those of handshakes that are over,
// if it has at most room bytes with its header.
func (c *Client) dequeueLocked(room int) (outgoing, bool) {
	for len(c.queue) > 0 {
		o := c.queue[0]
		over := o.h != nil && c.handshakes[o.request] != o.h
		n := len(o.body) + headerLen
		if !over && n > room {
			break
		}
		c.queue[0] = outgoing{}
		if c.queue = c.queue[1:]; len(c.queue) == 0 {
			c.queue = nil
		}
		c.queued -= n
		if over {
			continue
		}
		if o.typ == msgStart {
			o.h.sent = true
		}
		return o, true
	}
	return outgoing{}, false
}

// batchLocked takes what goes out next: a message of any size, and what follows
// as long as it fits into the same datagram.
func (c *Client) batchLocked(cc *clientConn) []outgoing {
	cc.batch = cc.batch[:0]
	for room := 2 * maxMessage; ; {
		o, ok := c.dequeueLocked(room)
		if !ok {
			return cc.batch
		}
		if len(cc.batch) == 0 {
			room = maxDatagram
		}
		room -= len(o.body) + headerLen
		if cc.batch = append(cc.batch, o); !cc.s.gather.Load() {
			return cc.batch
		}
	}
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

// flush writes a datagram from the queue where that can be done without waiting,
// which saves a change of goroutines, and leaves the rest to the writer.
func (c *Client) flush() {
	c.mu.Lock()
	cc := c.conn
	c.mu.Unlock()
	if cc != nil && c.writeNext(cc, false) {
		cc.wakeWriter()
	}
}

// wakeLocked leaves the queue to the writer.
func (c *Client) wakeLocked() {
	if c.conn != nil {
		c.conn.wakeWriter()
	}
}

func (cc *clientConn) wakeWriter() {
	select {
	case cc.wake <- struct{}{}:
	default:
	}
}

func (c *Client) writer(cc *clientConn) {
	defer c.wg.Done()
	for {
		if c.writeNext(cc, true) {
			continue
		}
		select {
		case <-cc.wake:
		case <-cc.gone:
			return
		}
	}
}

// writeNext writes a datagram from the queue, unless somebody else is at it. It
// reports whether there is more to write.
func (c *Client) writeNext(cc *clientConn, wait bool) (more bool) {
	c.mu.Lock()
	if c.conn != cc || cc.writing {
		c.mu.Unlock()
		return false
	}
	batch := c.batchLocked(cc)
	if len(batch) == 0 {
		c.mu.Unlock()
		return false
	}
	cc.writing = true
	c.mu.Unlock()
	cc.wbuf = cc.wbuf[:0]
	for _, o := range batch {
		cc.wbuf = appendFrames(cc.wbuf, o.typ, o.request, false, o.body)
	}
	written, err := true, error(nil)
	if wait {
		err = cc.s.writeFrames(cc.wbuf)
	} else if written = cc.s.datagram(cc.wbuf) == len(cc.wbuf); written {
		written, err = cc.s.tryWrite(cc.wbuf)
	}
	if cap(cc.wbuf) > 2*maxDatagram {
		cc.wbuf = nil
	}
	c.mu.Lock()
	if err != nil || !written {
		c.putBackLocked(batch, err == nil)
	}
	clear(batch)
	cc.writing = false
	more = c.conn == cc && len(c.queue) > 0
	if c.conn != cc {
		c.wakeLocked() // what was put back is the next helper's
	}
	c.mu.Unlock()
	if err != nil {
		c.lost(cc, fmt.Errorf("write: %w", err))
		return false
	}
	return more
}

// putBackLocked puts messages back to the front of the queue that did not reach
// a helper: all of them if this helper can still have them, otherwise the whole
// requests, which are for the next one.
func (c *Client) putBackLocked(batch []outgoing, all bool) {
	var back []outgoing
	for _, o := range batch {
		known := o.h != nil && c.handshakes[o.request] == o.h
		if known && o.typ == msgStart {
			o.h.sent = false
		}
		if all || known && !o.h.sent {
			back = append(back, o)
			c.queued += len(o.body) + headerLen
		}
	}
	c.queue = append(back, c.queue...)
}

func (c *Client) reader(cc *clientConn) {
	defer c.wg.Done()
	for {
		m, err := cc.s.read()
		if err == nil {
			err = c.receive(cc, m)
		}
		// Events that came together are delivered together.
		if h := cc.undelivered; h != nil && (err != nil || !cc.s.more()) {
			cc.undelivered = nil
			c.deliver(h)
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
			cc.s.gatherIf(as)
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
	if before := cc.undelivered; before != nil && before != h {
		c.deliver(before)
	}
	cc.undelivered = h
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
