package quic

// Memory for what is sent. A chunk lives until all of it is acknowledged, and how
// soon that is the peer decides: it may read nothing, or leave out one packet in
// its acknowledgements for good. So chunks are counted by their capacity, as
// receive buffers are, for the connection and for all of them:
//
//  1. sendBuf counts each chunk in the connection's sendMemory.
//  2. Stream.room, which every writer asks, gives no more than memory allows.
//  3. chargeSent tells the endpoint, and wakes writers that waited for memory, when
//     acknowledgements have freed some. No writer need be woken for what other
//     connections have freed: see smallHold.
//
// Data to be sent takes at most half of the endpoint's memory, so that slow readers
// do not keep what arrives from being taken.

const (
	// maxSendHeld bounds the chunks of one connection: 100 ms at 5 Gbit/s.
	maxSendHeld = 64 << 20

	// smallStreams is what a connection may hold when memory is short, as far as
	// each of its streams holds no more than a chunk: one that the peer does not read
	// must not keep the others from going on.
	smallStreams = 1 << 20
)

// sendMemory is what the chunks of a connection take.
type sendMemory struct {
	held    int
	charged int64 // of held, told to the endpoint
	short   bool  // a writer got less than it would have without a limit
}

// charge counts n bytes of chunks, taken or given back.
func (b *sendBuf) charge(n int) {
	if b.mem != nil {
		b.mem.held += n
	}
}

// sendRoom is how many of n bytes memory allows a stream to take. What holds
// little may always go on: it will be acknowledged, and then hold nothing.
func (c *Conn) sendRoom(s *Stream, n int) int {
	m := &c.sendMem
	sending := c.ep.sending.Load()
	free := min(int64(maxSendHeld-m.held), c.ep.memory/2-sending, c.ep.memory-sending-c.ep.held.Load())
	if int64(n) <= free {
		return n
	}
	m.short = true
	if m.held < smallHold || m.held < smallStreams && len(s.snd.buf.chunks) == 0 {
		free = max(free, smallChunkSize)
	}
	return int(min(int64(n), max(free, 0)))
}

// chargeSent tells the endpoint what this connection holds to be sent.
func (c *Conn) chargeSent() {
	m := &c.sendMem
	if d := int64(m.held) - m.charged; d != 0 {
		c.ep.sending.Add(d)
		m.charged += d
	}
	if !m.short {
		return
	}
	m.short = false // room says so again
	for _, s := range c.streams.all {
		if s.snd.waiter && !s.snd.inLine && !s.snd.fin && s.room() > 0 {
			s.snd.waiter = false
			c.wakeWriter(s)
		}
	}
}
