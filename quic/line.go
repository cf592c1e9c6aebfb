package quic

import "slices"

// The line of sources. Where many streams have something to send, each waits for
// the others after each batch, and what its source put into a chunk meanwhile is no
// longer in the processor's cache when it is sealed. So no more streams than
// maxFilled are filled ahead. In order:
//
//  1. ReadFrom asks whether its stream would be one of the next to send. If not, it
//     stands in line.
//  2. When a stream has nothing left to send it leaves the queue of those that have,
//     and the first in line is called.
//  3. Who was called calls the next one, if there is room for both, before it reads
//     from its source, which may take any time.
//
// A Write does not stand in line: its bytes are here, and are mostly few. Nor does a
// stream that is to be sent to its end before others.

// maxFilled is how many streams that have something to send are enough.
const maxFilled = 8

// mayFill tells whether a source may put more into its stream. If not, the stream is
// in line.
func (c *Conn) mayFill(s *Stream) bool {
	t := &c.streams
	switch {
	case s.snd.inLine:
		return false
	case s.whole || t.soon(s, 0) && (s.snd.called || len(t.line) == 0 || s.urgency < t.line[0].urgency):
		s.snd.called = false
		c.callNext(1)
		return true
	}
	t.standInLine(s)
	return false
}

// soon tells whether a stream that is queued now, behind others that are about to be,
// would be among the first maxFilled. Those that wait for the connection's credit will
// be there before it.
func (t *streamTable) soon(s *Stream, others int) bool {
	n := len(t.sendQueue)
	return n+len(t.waiting)+others < maxFilled || n >= maxFilled && s.urgency < t.sendQueue[maxFilled-1].urgency
}

// standInLine puts a stream behind all in line that are as urgent, or before them if
// it was called and another was faster.
func (t *streamTable) standInLine(s *Stream) {
	line := append(t.line, s)
	first := s.snd.called
	for i := len(line) - 1; i > 0 && (line[i-1].urgency > s.urgency || first && line[i-1].urgency == s.urgency); i-- {
		line[i], line[i-1] = line[i-1], line[i]
	}
	t.line = line
	s.snd.inLine, s.snd.called = true, false
}

// leaveLine takes a stream that will not be filled out of the line. If it was called,
// the next one is.
func (c *Conn) leaveLine(s *Stream) {
	t := &c.streams
	if s.snd.inLine {
		t.line = slices.DeleteFunc(t.line, func(x *Stream) bool { return x == s })
		s.snd.inLine = false
	}
	s.snd.called = false
	c.callNext(0)
}

// callNext calls the first in line if it would be among the next to send, with so many
// others that are about to be filled.
func (c *Conn) callNext(others int) {
	t := &c.streams
	if len(t.line) == 0 || !t.soon(t.line[0], others) {
		return
	}
	s := t.line[0]
	t.line = withoutFirst(t.line)
	s.snd.inLine, s.snd.called, s.snd.waiter = false, true, false
	c.wakeWriter(s)
}

// endTurn ends the turn of the stream that a batch was made of.
func (c *Conn) endTurn() {
	t := &c.streams
	if len(t.sendQueue) == 0 {
		return
	}
	if _, _, more := c.nextSpan(t.sendQueue[0]); !more {
		c.popStream()
		return
	}
	t.rotate()
}

// unqueue takes a stream that will send nothing more out of the queue.
func (c *Conn) unqueue(s *Stream) {
	if s.queued {
		s.queued = false
		c.streams.sendQueue = slices.DeleteFunc(c.streams.sendQueue, func(x *Stream) bool { return x == s })
		c.callNext(0)
	}
}

// popStream takes the first stream, which has nothing to send now, out of the queue.
func (c *Conn) popStream() {
	t := &c.streams
	t.sendQueue[0].queued = false
	t.sendQueue = withoutFirst(t.sendQueue)
	c.callNext(0)
}
