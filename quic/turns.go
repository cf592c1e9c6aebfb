package quic

import (
	"time"
)

// Taking turns. Where one end asks and the other answers, an acknowledgement of
// its own costs either end a datagram, two system calls and a wake-up for each
// exchange, all of which the next question or answer would have saved. So once
// an application is seen to answer what it receives, acknowledgements due for
// nothing but the number of packets wait a moment for it. TCP stacks know this
// as interactive or ping-pong mode.

const (
	// turnsToTrust is how many batches in a row must have been answered.
	turnsToTrust = 3
	// turnPatience is how long an acknowledgement waits for the answer. Then
	// turns must be earned anew.
	turnPatience = 5 * time.Millisecond
)

// turns watches how receiving and sending stream data alternate.
type turns struct {
	score uint8 // batches answered in a row, up to turnsToTrust
	fresh bool  // the batch being processed brought stream data in order
	open  bool  // stream data came, and nothing was sent since
}

// heard ends a batch.
func (t *turns) heard() {
	if t.fresh && t.open {
		t.score = 0 // two without an answer
	}
	t.open = t.open || t.fresh
	t.fresh = false
}

// answered notes that new stream data is sent.
func (c *Conn) answered() {
	t := &c.turns
	if !t.open {
		return
	}
	t.open = false
	t.score = min(t.score+1, turnsToTrust)
	if st := c.shard().seat.Load(); st != nil && c.inTurns.Load() {
		st.answered()
	}
}

// awaitAnswer decides, after a batch of total bytes, whether the application's
// answer is worth waiting for with the acknowledgement.
func (c *Conn) awaitAnswer(total int) bool {
	ok := c.turns.score >= turnsToTrust && total < viewThreshold && c.recv.PutOff(turnPatience)
	if ok != c.inTurns.Load() {
		c.inTurns.Store(ok)
	}
	return ok
}
