package quic

import (
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A connection at rest. Ten thousand idle connections must be no matter, so one
// that has been silent for a moment gives back what only a busy one needs: the
// memory of sent packets, expanded cipher keys (the secrets stay), and on a
// server the TLS conversation, whose tickets are out. What it needs when it
// wakes is made again on the way.

const (
	// restAfter is how long a connection is silent before it rests.
	restAfter = time.Second
	// restAgain is the same of one that was woken by a keepalive alone: long enough
	// for an acknowledgement that is put off.
	restAgain = 50 * time.Millisecond
)

// restAt is when a connection that may rest does.
func (c *Conn) restAt() time.Time {
	if !c.restedAt.IsZero() && c.streamBytes() == c.restedBytes {
		return c.lastHeard.Add(restAgain)
	}
	return c.lastHeard.Add(restAfter)
}

// streamBytes are those that streams have moved so far.
func (c *Conn) streamBytes() uint64 { return c.stats.StreamBytesSent + c.stats.StreamBytesReceived }

// mayRest tells whether the connection is idle but not yet at rest.
func (c *Conn) mayRest() bool {
	return c.confirmed && c.state == stateOpen && c.restedAt.Before(c.lastHeard) && c.loss.InFlight() == 0 && c.blocked == nil && !c.wantsApp()
}

// rest gives back what an idle connection does not need.
func (c *Conn) rest() {
	// One that was woken by a keepalive alone leaves nothing behind that would be
	// worth a call, and crowds of those never end.
	moved := c.streamBytes()
	if c.restedAt.IsZero() || moved-c.restedBytes > restWorth {
		c.ep.rests.add(c.ep)
	}
	c.restedBytes = moved
	c.restedAt = c.now()
	c.loss.Rest(recovery.AppData)
	c.app.rest()
	c.ackWork = nil
	t := &c.streams
	if len(t.sendQueue) == 0 && len(t.ctrlQueue) == 0 {
		t.sendQueue, t.ctrlQueue = nil, nil
	}
	c.crypto.rest()
	if c.keys[recovery.Initial].dropped && c.keys[recovery.Handshake].dropped {
		c.hsp = nil
	}
	if c.server && c.hs != nil {
		c.hs.Close()
		c.hs = nil
	}
}

// afterTLS refuses what a client says to a server's TLS after the handshake: in
// QUIC there is no message that it may send (RFC 9001, Sections 4.4 and 6).
func (c *Conn) afterTLS() {
	_ = c.fail(CryptoErrorBase+TransportErrorCode(AlertUnexpectedMessage), wire.FrameCrypto, "unexpected TLS message after the handshake")
}

// rest lets go of expanded keys.
func (k *appKeys) rest() {
	for _, x := range [...]*protect.Key{k.rx, k.tx, k.nextRx, k.nextTx, k.prevRx} {
		if x != nil {
			x.Rest()
		}
	}
	k.resting = true
}

// wake expands the keys again, all of them: when the next ones were expanded by
// the packet that needs them, the time it takes would tell a key update from a
// forgery (RFC 9001, Section 9.5).
func (k *appKeys) wake() {
	k.rx.Wake()
	for _, x := range [...]*protect.Key{k.nextRx, k.prevRx} {
		if x != nil {
			x.WakeLike(k.rx)
		}
	}
	k.resting = false
}

// rest lets go of what was sent and acknowledged.
func (s *cryptoStream) rest() {
	if len(s.in) == 0 {
		s.in = nil
	}
}

// restWorth is how many bytes of streams make a connection leave garbage behind
// that counts.
const restWorth = 64 << 10

// restWave counts connections that come to rest, see WithRest.
type restWave struct {
	call  func()
	count atomic.Int64 // since the last call
	armed atomic.Bool
}

const (
	// restLot is how many connections at rest are worth a call.
	restLot = 256
	// restCalm is how long no others must have come to rest, and the shortest
	// time between two calls.
	restCalm = 5 * time.Second
)

func (w *restWave) add(e *Endpoint) {
	if w.call != nil && w.count.Add(1) >= restLot && w.armed.CompareAndSwap(false, true) {
		go w.settle(e)
	}
}

// settle waits until the wave is over.
func (w *restWave) settle(e *Endpoint) {
	defer w.armed.Store(false)
	t := time.NewTicker(restCalm)
	defer t.Stop()
	for seen := int64(-1); ; {
		select {
		case <-t.C:
		case <-e.closed:
			return
		}
		n := w.count.Load()
		if n == seen {
			w.count.Add(-n)
			w.call()
			return
		}
		seen = n
	}
}
