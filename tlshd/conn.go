package tlshd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// writeTimeout is how long the other process may leave the socket full before
// it counts as hanging.
const writeTimeout = 5 * time.Second

// socket reads and writes messages on one end of the socket. One goroutine
// reads; any may write. SOCK_SEQPACKET gives a frame per datagram; where the
// system has no such sockets a stream carries the same frames.
type socket struct {
	c      *net.UnixConn
	packet bool
	takeFD bool // accept descriptors: the supervisor's socket only

	rbuf []byte // one frame, and one byte to tell an oversize one
	used int    // of rbuf, to be wiped
	acc  []byte // frames of a message in parts
	fds  []int  // that came with the last message

	wmu  sync.Mutex
	wbuf []byte
}

func newSocket(c *net.UnixConn) *socket {
	return &socket{
		c:      c,
		packet: c.LocalAddr().Network() == "unixpacket",
		rbuf:   make([]byte, headerLen+maxFrame+1),
		wbuf:   make([]byte, headerLen+maxFrame),
	}
}

// read returns the next message. Its body is wiped by the next call.
func (s *socket) read() (message, error) {
	s.wipe()
	var first header
	for parts := 0; ; parts++ {
		h, b, err := s.readFrame()
		if err != nil {
			return message{}, err
		}
		if parts == 0 {
			first = h
		} else if h.typ != first.typ || h.request != first.request {
			return message{}, protocolError("%v in the middle of %v", h.typ, first.typ)
		}
		if h.flags&flagMore == 0 && parts == 0 {
			return message{typ: h.typ, final: h.flags&flagFinal != 0, request: h.request, body: b}, nil
		}
		if h.flags&flagMore != 0 && len(b) == 0 {
			return message{}, protocolError("%v: an empty part", h.typ)
		}
		if len(s.acc)+len(b) > maxMessage {
			return message{}, protocolError("%v: more than %d bytes", h.typ, maxMessage)
		}
		s.accumulate(b)
		if h.flags&flagMore == 0 {
			return message{typ: h.typ, final: h.flags&flagFinal != 0, request: h.request, body: s.acc}, nil
		}
	}
}

// accumulate appends without leaving a copy of a secret in an outgrown array.
func (s *socket) accumulate(b []byte) {
	if n := len(s.acc) + len(b); n > cap(s.acc) {
		grown := make([]byte, len(s.acc), max(n, 2*cap(s.acc)))
		copy(grown, s.acc)
		clear(s.acc)
		s.acc = grown
	}
	s.acc = append(s.acc, b...)
}

func (s *socket) wipe() {
	clear(s.rbuf[:s.used])
	s.used = 0
	clear(s.acc)
	s.acc = s.acc[:0]
	if cap(s.acc) > 4*maxFrame {
		s.acc = nil
	}
}

func (s *socket) readFrame() (header, []byte, error) {
	n, err := s.readBytes()
	s.used = max(s.used, n)
	if err != nil {
		return header{}, nil, err
	}
	h, err := parseHeader(s.rbuf[:n])
	if err != nil {
		return header{}, nil, err
	}
	if n-headerLen != h.length {
		return header{}, nil, protocolError("%v: the header says %d bytes, %d came", h.typ, h.length, n-headerLen)
	}
	return h, s.rbuf[headerLen:n], nil
}

func (s *socket) readBytes() (int, error) {
	if !s.packet {
		return s.readStream()
	}
	if !s.takeFD {
		// Without room for control data the kernel drops descriptors that a
		// confused peer sends along.
		n, _, _, _, err := s.c.ReadMsgUnix(s.rbuf, nil)
		return n, err
	}
	oob := make([]byte, fdSpace)
	n, oobn, _, _, err := s.c.ReadMsgUnix(s.rbuf, oob)
	if oobn > 0 {
		s.fds = append(s.fds, parseFDs(oob[:oobn])...)
	}
	return n, err
}

func (s *socket) readStream() (int, error) {
	if n, err := io.ReadFull(s.c, s.rbuf[:headerLen]); err != nil {
		return n, err
	}
	h, err := parseHeader(s.rbuf[:headerLen])
	if err != nil {
		return headerLen, err
	}
	n, err := io.ReadFull(s.c, s.rbuf[headerLen:headerLen+h.length])
	return headerLen + n, err
}

// takeFDs returns the descriptors that have come, which are the caller's to
// close.
func (s *socket) takeFDs() []int {
	fds := s.fds
	s.fds = nil
	return fds
}

// write sends a message and wipes the buffer it went through. The body stays
// the caller's.
func (s *socket) write(t msgType, request uint64, final bool, b []byte) error {
	return s.writeFDs(t, request, final, b, nil)
}

func (s *socket) writeFDs(t msgType, request uint64, final bool, b, oob []byte) error {
	if len(b) > maxMessage {
		return fmt.Errorf("tlshd: %v: %d bytes, at most %d fit", t, len(b), maxMessage)
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if err := s.c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	for {
		part := b[:min(len(b), maxFrame)]
		b = b[len(part):]
		h := header{typ: t, length: len(part), request: request}
		if len(b) > 0 {
			h.flags |= flagMore
		} else if final {
			h.flags |= flagFinal
		}
		h.put(s.wbuf)
		n := headerLen + copy(s.wbuf[headerLen:], part)
		err := s.writeFrame(s.wbuf[:n], oob)
		clear(s.wbuf[:n])
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return nil
		}
		oob = nil
	}
}

func (s *socket) writeFrame(b, oob []byte) error {
	var n int
	var err error
	if len(oob) > 0 {
		n, _, err = s.c.WriteMsgUnix(b, oob, nil)
	} else {
		n, err = s.c.Write(b)
	}
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

func (s *socket) close() error {
	err := s.c.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
