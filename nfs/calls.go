package nfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
)

// callSink takes the client's bytes and moves the calls in them to where they
// belong. It is the io.Writer at the end of io.Copy from the stream, so that the stream can hand
// out its receive buffers; bodies go on from there by writev.
//
// When a write to it returns, nothing is kept of what was written but a
// partial mark, header, or small MOUNT or portmapper call.
type callSink struct {
	s     *stream
	frame framer
	state callState
	mark  [markLen]byte
	nmark int
	head  []byte // header bytes collected so far, then those of a small call
	need  int    // length of head that the next step of the parser needs
	call  Call   // the call whose arguments are collected; its bodies alias head
	auth  []byte // what replaces its credential
	to    *backendConn
	held  *backendConn // its sending half is this sink's until the end of the message
}

type callState uint8

const (
	stateHeader   callState = iota // collecting until the verifier ends
	stateForward                   // moving the body to a backend
	stateDiscard                   // dropping the rest of the message
	stateCollect                   // keeping the arguments of a small call
	stateCompound                  // keeping the beginning of a COMPOUND's arguments
)

// maxSmallCall caps a MOUNT or portmapper call with its header; their longest arguments are a path of
// 1024 bytes, or a netid, an address and an owner.
const maxSmallCall = 4096

// streamError carries the code that a failure ends the stream with.
type streamError struct {
	code uint64
	err  error
}

func (e *streamError) Error() string { return e.err.Error() }
func (e *streamError) Unwrap() error { return e.err }

func violation(err error) error { return &streamError{CodeProtocolViolation, err} }

// reason tells the sink's own errors, which carry a code, from those of the stream.
func (k *callSink) reason(err error) (uint64, error) {
	var e *streamError
	if errors.As(err, &e) {
		return e.code, err
	}
	return CodeNoError, fmt.Errorf("%w: %w", ErrClientGone, err)
}

// partial reports whether the stream ended inside a message.
func (k *callSink) partial() bool { return k.frame.open || k.nmark > 0 }

// Write takes the next bytes of the stream.
func (k *callSink) Write(p []byte) (int, error) {
	err := k.feed(p)
	if err == nil {
		err = k.flush()
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteBuffers takes several pieces at once, which end up in one writev.
func (k *callSink) WriteBuffers(bufs *net.Buffers) (int64, error) {
	var n int64
	for _, p := range *bufs {
		if err := k.feed(p); err != nil {
			return 0, err
		}
		n += int64(len(p))
	}
	if err := k.flush(); err != nil {
		return 0, err
	}
	*bufs = (*bufs)[:0]
	return n, nil
}

// flush hands over what was queued for backends; afterwards nothing refers to the bytes fed.
func (k *callSink) flush() error {
	if k.to == nil {
		return nil
	}
	err := k.to.flush()
	if !k.frame.open {
		k.letGo()
	}
	return err
}

// hold keeps others from writing to the backend until letGo.
func (k *callSink) hold() {
	if k.held != k.to {
		k.letGo()
		k.to.sending.Lock()
		k.held = k.to
	}
}

func (k *callSink) letGo() {
	if k.held != nil {
		k.held.sending.Unlock()
		k.held = nil
	}
}

func (k *callSink) feed(p []byte) error {
	k.s.touch()
	for len(p) > 0 {
		if k.frame.rem == 0 {
			n := copy(k.mark[k.nmark:], p)
			k.nmark += n
			p = p[n:]
			if k.nmark < markLen {
				return nil
			}
			k.nmark = 0
			if err := k.beginFragment(binary.BigEndian.Uint32(k.mark[:])); err != nil {
				return err
			}
		} else {
			n := min(len(p), int(k.frame.rem))
			if k.state == stateHeader || k.state == stateCompound {
				n = min(n, k.need-len(k.head))
			}
			k.frame.take(n)
			if err := k.body(p[:n]); err != nil {
				return err
			}
			p = p[n:]
		}
		if k.frame.atEnd() {
			if err := k.endMessage(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *callSink) beginFragment(mark uint32) error {
	if !k.frame.open {
		k.state, k.head, k.need = stateHeader, k.head[:0], 8
	}
	if err := k.frame.mark(mark); err != nil {
		return violation(err)
	}
	// An empty fragment means nothing but, in the end, that this was the last.
	if k.state == stateForward && (k.frame.rem > 0 || k.frame.last) {
		return k.to.queueMark(mark)
	}
	return nil
}

// body takes bytes of the current fragment.
func (k *callSink) body(p []byte) error {
	switch k.state {
	case stateForward:
		return k.to.queue(p)
	case stateCompound:
		return k.compound(p)
	case stateCollect:
		if len(k.head)+len(p) > maxSmallCall {
			return k.refuse(AppendAcceptError(nil, k.call.XID, AcceptGarbageArgs))
		}
		k.head = append(k.head, p...)
	case stateHeader:
		k.head = append(k.head, p...)
		if len(k.head) == k.need {
			return k.header()
		}
	}
	return nil
}

// header goes on when the bytes that the parser asked for have arrived.
func (k *callSink) header() error {
	c, need, err := ParseCall(k.head)
	if err == nil && need > 0 {
		k.need = need
		return nil
	}
	switch {
	case err == nil:
		return k.route(c)
	case errors.Is(err, ErrWrongDirection):
		// draft-cel-nfsv4-rpc-over-quicv1, Section 3.4: "Receivers MUST silently discard RPC messages
		// whose direction field does not match their Requester or Responder role."
		k.s.discarded.Add(1)
		k.state = stateDiscard
		return nil
	case errors.Is(err, ErrRPCVersion):
		return k.refuse(AppendRPCMismatch(nil, c.XID))
	case errors.Is(err, ErrBadCredential):
		return k.refuse(AppendAuthError(nil, c.XID, AuthBadCred))
	case errors.Is(err, ErrBadVerifier):
		return k.refuse(AppendAuthError(nil, c.XID, AuthBadVerf))
	}
	return violation(err)
}

// refuse answers the call with an error and drops the rest of it.
func (k *callSink) refuse(reply []byte) error {
	k.s.refused.Add(1)
	k.state = stateDiscard
	return k.reply(reply)
}

// reply writes a reply made here. What is queued goes first: the client may
// stop sending until it has read, and the backend must not wait for that.
func (k *callSink) reply(record []byte) error {
	if err := k.flush(); err != nil {
		return err
	}
	return k.s.writeRecord(record)
}

// route decides what becomes of the call whose header is complete.
func (k *callSink) route(c Call) error {
	k.call = c
	auth, refused := k.s.r.authorize(&k.call)
	if refused != 0 {
		return k.refuse(AppendAuthError(nil, c.XID, refused))
	}
	k.auth = auth
	if c.Program == ProgPortmap {
		k.state = stateCollect
		return nil
	}
	p, ok := k.s.r.svc.program(c.Program)
	switch {
	case !ok:
		return k.refuse(AppendAcceptError(nil, c.XID, AcceptProgUnavail))
	case c.Version < p.low || c.Version > p.high:
		return k.refuse(AppendProgMismatch(nil, c.XID, p.low, p.high))
	case c.Program == ProgMount:
		k.state = stateCollect
		return nil
	}
	if err := k.connect(p.service); err != nil {
		return err
	}
	k.hold()
	k.state = stateForward
	if k.auth == nil {
		return k.to.queueHead(k.frame.markValue(len(k.head)+int(k.frame.rem)), k.head)
	}
	limited := k.limited(&c)
	k.head = appendCallHeader(k.head[:0], &k.call, k.auth) // the old one is not needed any more
	if limited {
		k.state, k.need = stateCompound, len(k.head)+maxPathCall
		if k.frame.rem > 0 {
			return nil
		}
		return k.endWalk()
	}
	return k.to.queueHead(k.frame.markValue(len(k.head)+int(k.frame.rem)), k.head)
}

// connect makes the service's connection the one that calls go to.
func (k *callSink) connect(svc service) error {
	to, err := k.s.connection(svc)
	if err != nil || to == k.to {
		return err
	}
	if err := k.flush(); err != nil {
		return err
	}
	k.to = to
	return to.begin()
}

// endMessage runs after the last byte of a message.
func (k *callSink) endMessage() error {
	k.frame.open = false
	switch k.state {
	case stateHeader:
		return violation(fmt.Errorf("%w: message ended inside the call header", ErrTruncated))
	case stateCollect:
		return k.small(k.head[k.call.Len:])
	}
	return nil
}

// small answers or forwards a MOUNT or portmapper call whose arguments are complete.
func (k *callSink) small(args []byte) error {
	c := &k.call
	if c.Program == ProgPortmap {
		return k.answer(k.s.portmapper().answer(nil, c, args))
	}
	action, data := k.s.r.exports().mountCall(c, args)
	switch action {
	case mountAnswer:
		return k.answer(data)
	case mountList:
		return k.answer(k.s.mountList(c, k.auth))
	}
	if err := k.connect(serviceMount); err != nil {
		return err
	}
	if c.Procedure == mountMNT {
		d := decoder{b: data}
		k.s.r.noteMount(string(d.opaque(maxMountPath)))
	}
	k.hold()
	head := append(appendCallHeader(nil, c, k.auth), data...)
	return k.to.queueHead(uint32(len(head))|lastFrag, head)
}

// answer writes the reply to a call that was answered here, and counts it by what it says.
func (k *callSink) answer(record []byte) error {
	if _, err := successResults(record[markLen:]); err != nil {
		k.s.refused.Add(1)
	} else {
		k.s.answered.Add(1)
	}
	return k.reply(record)
}
