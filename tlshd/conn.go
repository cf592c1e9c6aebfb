package tlshd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// writeTimeout is how long the other process may leave the socket full before
// it counts as hanging.
const writeTimeout = 10 * time.Second

// maxDatagram is what one read or write moves at most, in bytes.
const maxDatagram = headerLen + maxFrame

// socket reads and writes messages on one end of the socket. One goroutine
// reads; any may write. SOCK_SEQPACKET gives one or several whole frames per
// datagram; where the system has no such sockets a stream carries the same frames.
type socket struct {
	c      *net.UnixConn
	fast   *fast // nil: there is none
	packet bool
	takeFD bool // accept descriptors: the supervisor's socket only

	rbuf []byte // one datagram, and one byte to tell an oversize one
	used int    // of rbuf
	kept int    // where in rbuf what was read and not wiped begins
	next int    // where in rbuf the next frame begins
	acc  []byte // frames of a message in parts
	fds  []int  // that came with the last message

	wmu    sync.Mutex
	wbuf   []byte
	gather atomic.Bool // the other end reads datagrams of several frames
}

func newSocket(c *net.UnixConn) *socket {
	return &socket{
		c:      c,
		fast:   newFast(c),
		packet: c.LocalAddr().Network() == "unixpacket",
		rbuf:   make([]byte, maxDatagram+1),
		wbuf:   make([]byte, 0, maxDatagram),
	}
}

// gatherIf takes note of whether the other end, by its HELLO or CAPS, reads
// datagrams of several frames.
func (s *socket) gatherIf(as attributes) {
	for _, f := range as.all(attrFeature) {
		if string(f) == featureGather {
			s.gather.Store(true)
		}
	}
}

// more reports whether the next message, or a part of it, is here already.
func (s *socket) more() bool { return s.next < s.used }

// read returns the next message. Its body is wiped by the next call.
func (s *socket) read() (message, error) {
	s.wipeRead()
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

// wipe clears whatever was read, frames that nobody has asked for included.
func (s *socket) wipe() {
	s.next = s.used
	s.wipeRead()
}

// wipeRead clears what was taken out by read.
func (s *socket) wipeRead() {
	clear(s.rbuf[s.kept:s.next])
	s.kept = s.next
	clear(s.acc)
	s.acc = s.acc[:0]
	if cap(s.acc) > 4*maxFrame {
		s.acc = nil
	}
}

func (s *socket) readFrame() (header, []byte, error) {
	if !s.more() {
		clear(s.rbuf[s.kept:s.used])
		n, err := s.readBytes()
		s.kept, s.next, s.used = 0, 0, n
		if err != nil {
			return header{}, nil, err
		}
	}
	b := s.rbuf[s.next:s.used]
	h, err := parseHeader(b)
	if err != nil {
		return header{}, nil, err
	}
	if len(b)-headerLen < h.length {
		return header{}, nil, protocolError("%v: the header says %d bytes, %d came", h.typ, h.length, len(b)-headerLen)
	}
	s.next += headerLen + h.length
	return h, b[headerLen : headerLen+h.length], nil
}

func (s *socket) readBytes() (int, error) {
	if !s.packet {
		return s.readStream()
	}
	if !s.takeFD && s.fast != nil {
		return s.fast.read(s.rbuf)
	}
	if !s.takeFD {
		// Without room for control data the kernel drops descriptors that a
		// confused peer sends along.
		return s.c.Read(s.rbuf)
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

// appendFrames appends a message to b, in as many frames as it takes. It leaves
// no copy of a secret in an outgrown array.
func appendFrames(b []byte, t msgType, request uint64, final bool, body []byte) []byte {
	if n := len(b) + len(body) + headerLen*(1+len(body)/maxFrame); n > cap(b) {
		grown := append(make([]byte, 0, max(n, 2*cap(b), 4<<10)), b...)
		clear(b)
		b = grown
	}
	for {
		part := body[:min(len(body), maxFrame)]
		body = body[len(part):]
		h := header{typ: t, length: len(part), request: request}
		if len(body) > 0 {
			h.flags |= flagMore
		} else if final {
			h.flags |= flagFinal
		}
		b = h.append(b)
		b = append(b, part...)
		if len(body) == 0 {
			return b
		}
	}
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
	s.wbuf = appendFrames(s.wbuf[:0], t, request, final, b)
	defer s.wipeWritten()
	return s.writeLocked(s.wbuf, oob)
}

func (s *socket) wipeWritten() {
	clear(s.wbuf)
	if s.wbuf = s.wbuf[:0]; cap(s.wbuf) > 2*maxDatagram {
		s.wbuf = make([]byte, 0, maxDatagram)
	}
}

// writeFrames sends whole frames, which stay the caller's to wipe.
func (s *socket) writeFrames(b []byte) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	return s.writeLocked(b, nil)
}

// writeLocked sends frames in as few datagrams as the other end takes.
func (s *socket) writeLocked(b, oob []byte) error {
	for len(b) > 0 {
		n := s.datagram(b)
		if err := s.writeDatagram(b[:n], oob); err != nil {
			return err
		}
		b, oob = b[n:], nil
	}
	return nil
}

// datagram is how many bytes of b, which begins with a frame, the next datagram
// holds.
func (s *socket) datagram(b []byte) (n int) {
	for n < len(b) {
		frame := headerLen + int(binary.BigEndian.Uint32(b[n+4:]))
		if n > 0 && (n+frame > maxDatagram || !s.gather.Load()) {
			return n
		}
		n += frame
	}
	return n
}

// tryWrite sends frames that fit in a datagram if the socket takes them at once;
// ok is false when it does not.
func (s *socket) tryWrite(b []byte) (ok bool, err error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	return s.tryLocked(b)
}

func (s *socket) tryLocked(b []byte) (ok bool, err error) {
	if s.fast == nil {
		return false, nil
	}
	n, ok, err := s.fast.tryWrite(b)
	if ok && err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return ok, err
}

func (s *socket) writeDatagram(b, oob []byte) error {
	if len(oob) == 0 {
		if ok, err := s.tryLocked(b); ok {
			return err
		}
	}
	if err := s.c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
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
	return errors.Join(err, s.c.SetWriteDeadline(time.Time{}))
}

func (s *socket) close() error {
	err := s.c.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
