package quic

// Waking readers and writers. Who is woken takes the connection first thing,
// so there is no use in it before the one who has the connection gives it back;
// and after a large batch not before the socket's reader has gone through what
// else waits in the socket: a wake-up for each batch would cost more than to
// put its data in order. In order:
//
//  1. wakeReader and wakeWriter note whom there is something for.
//  2. wake wakes them, when the connection is given back.

// A wakeList is the streams whose reader or writer is to be woken.
type wakeList []*Stream

// wakeReader notes that a stream has something to read.
func (c *Conn) wakeReader(s *Stream) {
	if !s.wakeRead {
		c.noteWake(s)
		s.wakeRead = true
	}
}

// wakeWriter notes that a stream has room, or that its Flush is done.
func (c *Conn) wakeWriter(s *Stream) {
	if !s.wakeWrite {
		c.noteWake(s)
		s.wakeWrite = true
	}
}

func (c *Conn) noteWake(s *Stream) {
	if !s.wakeRead && !s.wakeWrite {
		c.toWake = append(c.toWake, s)
	}
}

// wake wakes all that are noted.
func (c *Conn) wake() {
	if len(c.toWake) == 0 {
		return
	}
	for i, s := range c.toWake {
		if s.wakeRead {
			s.rgate.open()
		}
		if s.wakeWrite {
			s.wgate.open()
		}
		s.wakeRead, s.wakeWrite = false, false
		c.toWake[i] = nil
	}
	c.toWake = c.toWake[:0]
	if cap(c.toWake) > keptStreams {
		c.toWake = nil
	}
}
