package nfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Callbacks of NFSv4.1: calls that a server makes on the connection that a
// client has bound to its session's back channel.
//
// On QUIC they cannot share the client's stream: its opener alone makes calls
// there. They go out on a stream that the gateway opens, one for each backend
// connection that makes any, if the client lets it open streams; the answers
// come back on it. Otherwise, and when that stream fails, the server is told at
// once that nobody answers, and tells the client in its next SEQUENCE reply
// (SEQ4_STATUS_CB_PATH_DOWN), which then does without delegations.

const (
	// maxCallback is the largest callback and the largest answer passed on, held whole.
	maxCallback = 64 << 10
	// callbackQueue bounds the callbacks that are read and not sent yet. More are dropped: the
	// server notices by its own timeout.
	callbackQueue = 16
	// maxCallbacks bounds the callbacks of one connection that wait for answers.
	maxCallbacks = 64
)

// callbacks is the back channel of one backend connection.
type callbacks struct {
	b *backendConn

	queue chan []byte // calls read and not dealt with: the pump never waits for either side
	start sync.Once

	mu      sync.Mutex
	stream  net.Conn            // to the client; nil: none yet
	failed  bool                // it cannot be opened, or has ended
	waiting map[uint32]struct{} // XIDs that the server waits for
	done    sync.WaitGroup
}

// take queues a server's call, a message without its mark.
func (c *callbacks) take(msg []byte) {
	c.b.s.r.svc.stats.callbacks.Add(1)
	c.start.Do(func() {
		c.queue = make(chan []byte, callbackQueue)
		c.done.Add(1)
		go c.work()
	})
	select {
	case c.queue <- msg:
	default:
		c.b.s.discarded.Add(1)
	}
}

// work deals with calls until the connection has ended.
func (c *callbacks) work() {
	defer c.done.Done()
	for msg := range c.queue {
		if len(msg) > maxCallback {
			c.refuse(binary.BigEndian.Uint32(msg))
			continue
		}
		c.call(msg)
	}
}

// call sends a call to the client.
func (c *callbacks) call(msg []byte) {
	xid := binary.BigEndian.Uint32(msg)
	conn, err := c.open(xid)
	if err == nil {
		record := append(be32(nil, uint32(len(msg))|lastFrag), msg...)
		if _, err = conn.Write(record); err == nil {
			return
		}
		c.fail()
		return // which has answered it
	}
	c.b.s.r.svc.log.Debug("nfs callback dropped", "backend", c.b.to.String(), "err", err)
	c.refuse(xid)
}

// refuse tells the server that a call will not be answered by the client.
func (c *callbacks) refuse(xid uint32) {
	c.b.s.discarded.Add(1)
	_ = c.b.answer(AppendAcceptError(nil, xid, AcceptProgUnavail)) // a broken connection is the pump's to notice
}

var (
	errNoCallbacks      = errors.New("nfs: the client takes no streams of the gateway's")
	errTooManyCallbacks = errors.New("nfs: too many callbacks without an answer")
)

// open returns the stream to the client and notes that xid is under way on it.
func (c *callbacks) open(xid uint32) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dial := c.b.s.r.client.Callbacks
	switch {
	case c.failed || dial == nil:
		return nil, errNoCallbacks
	case len(c.waiting) >= maxCallbacks:
		return nil, errTooManyCallbacks
	}
	if c.stream == nil {
		conn, err := dial()
		if err != nil {
			c.failed = true
			return nil, fmt.Errorf("%w: %w", errNoCallbacks, err)
		}
		c.stream, c.waiting = conn, make(map[uint32]struct{})
		c.done.Add(1)
		go c.answers(conn)
	}
	c.waiting[xid] = struct{}{}
	return c.stream, nil
}

// answers passes the client's replies on.
func (c *callbacks) answers(conn net.Conn) {
	defer c.done.Done()
	defer c.fail()
	for {
		msg, err := readMessage(conn, maxCallback)
		if err != nil || len(msg) < 8 {
			return
		}
		xid := binary.BigEndian.Uint32(msg)
		reply := binary.BigEndian.Uint32(msg[4:]) == msgReply
		c.mu.Lock()
		_, due := c.waiting[xid]
		if reply {
			delete(c.waiting, xid)
		}
		c.mu.Unlock()
		// draft-cel-nfsv4-rpc-over-quicv1, Section 3.4: "Receivers MUST silently discard RPC messages
		// whose direction field does not match their Requester or Responder role."
		if !reply || !due {
			c.b.s.discarded.Add(1)
			continue
		}
		if c.b.answer(append(be32(nil, uint32(len(msg))|lastFrag), msg...)) != nil {
			return
		}
	}
}

// fail ends the back channel: what the server still waits for is answered in the client's place.
func (c *callbacks) fail() {
	c.mu.Lock()
	c.failed = true
	conn, waiting := c.stream, c.waiting
	c.waiting = nil
	c.mu.Unlock()
	if conn != nil {
		interrupt(conn, CodeNoError, errNoCallbacks)
		conn.Close()
	}
	for xid := range waiting {
		c.refuse(xid)
	}
}

// close ends the back channel with its connection; the pump, which alone
// calls take, has ended.
func (c *callbacks) close() {
	c.start.Do(func() {})
	if c.queue != nil {
		close(c.queue)
	}
	c.mu.Lock()
	c.failed, c.waiting = true, nil
	conn := c.stream
	c.mu.Unlock()
	if conn != nil {
		interrupt(conn, CodeNoError, errNoCallbacks)
		conn.Close()
	}
	c.done.Wait()
}

// answer writes a record to the backend between two calls of the client's.
func (b *backendConn) answer(record []byte) error {
	b.sending.Lock()
	defer b.sending.Unlock()
	_, err := b.conn.Write(record)
	return err
}

// callback reads the rest of a call that begins with head and hands it on.
func (p *replyPump) callback(head []byte) error {
	msg := append([]byte(nil), head...)
	for {
		if room := maxCallback - len(msg); int(p.frame.rem) > room {
			if err := p.discard(); err != nil {
				return err
			}
			p.b.calls.take(append(msg[:8:8], make([]byte, maxCallback)...)) // too long to be passed on
			return nil
		}
		piece := make([]byte, p.frame.rem)
		n, err := io.ReadFull(p.in, piece)
		p.frame.take(n)
		if err != nil {
			return noEOF(err)
		}
		msg = append(msg, piece...)
		if p.frame.last {
			break
		}
		if err := p.mark(); err != nil {
			return noEOF(err)
		}
	}
	p.frame.open = false
	p.b.calls.take(msg)
	return nil
}
