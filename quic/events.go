package quic

import (
	"errors"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Events tell a program what happens on a connection. All are off until somebody
// subscribes, and then cost one comparison where they are not asked for.

// EventMask selects kinds of events.
type EventMask uint16

// The kinds of events.
const (
	EventStreamUpdate EventMask = 1 << iota
	EventMaxData                // the peer lets us send more on a stream, or in all
	EventMaxStreams             // the peer lets us open more streams
	EventConnectionID           // a connection ID was retired
	EventClose                  // the last event of every connection
	EventMigration              // one end has moved, and was found at its new address
	EventKeyUpdate
	EventNewToken      // client: for a later connection
	EventSessionTicket // client: for a later connection

	EventAll EventMask = 1<<iota - 1
)

// StreamState is a state of a stream's half (RFC 9000, Sections 3.1 and 3.2).
type StreamState uint8

// The states of a stream's sending half, and of its receiving half. A half is in
// its first state, Ready or Recv, when the stream is opened.
const (
	SendReady StreamState = iota
	SendSend
	SendSent
	SendRecvd
	SendResetSent
	SendResetRecvd
	RecvRecv
	RecvSizeKnown
	RecvRecvd
	RecvRead
	RecvResetRecvd
	RecvResetRead
)

var streamStateNames = [...]string{"ready", "send", "sent", "data_received", "reset_sent", "reset_received",
	"receive", "size_known", "data_received", "data_read", "reset_received", "reset_read"}

func (s StreamState) String() string {
	if int(s) < len(streamStateNames) {
		return streamStateNames[s]
	}
	return "unknown"
}

// An Event is one event. Which fields count depends on Kind.
type Event struct {
	Kind EventMask

	StreamID  uint64      // StreamUpdate, MaxData
	State     StreamState // StreamUpdate
	Code      uint64      // StreamUpdate: of a reset
	FinalSize uint64      // StreamUpdate: bytes, where it is known

	Whole bool   // MaxData: of the connection, not of StreamID
	Uni   bool   // MaxStreams: of unidirectional streams
	Max   uint64 // MaxData: bytes; MaxStreams: a count since the beginning

	Local   bool   // ConnectionID: an ID of ours, that the peer retired; Migration: this end moved
	Retired uint64 // ConnectionID: sequence number
	Active  uint64 // ConnectionID: of the one that is used instead; 0 and Local: any of those not retired
	Phase   bool   // KeyUpdate: the key phase bit from now on

	Data []byte // NewToken: the token; SessionTicket: the TLS message
	Err  error  // Close: see CloseInfoOf
}

// eventBuffer is how many events wait for a subscriber.
const eventBuffer = 64

type subscriber struct {
	mask EventMask
	ch   chan Event
}

// Subscribe has events of these kinds sent to the channel from now on. A
// subscriber that does not keep up loses events, which ConnStats.EventsDropped
// counts, but never EventClose. The channel is closed behind that, or by cancel.
func (c *Conn) Subscribe(mask EventMask) (events <-chan Event, cancel func()) {
	s := &subscriber{mask: mask, ch: make(chan Event, eventBuffer)}
	c.lock()
	defer c.unlock()
	if err := c.closeErr(); err != nil {
		if mask&EventClose != 0 {
			s.ch <- Event{Kind: EventClose, Err: err}
		}
		close(s.ch)
		return s.ch, func() {}
	}
	c.subs = append(c.subs, s)
	c.eventMask |= mask
	return s.ch, func() { c.unsubscribe(s) }
}

func (c *Conn) unsubscribe(s *subscriber) {
	c.lock()
	defer c.unlock()
	c.eventMask = 0
	kept := c.subs[:0]
	for _, x := range c.subs {
		if x == s {
			close(s.ch)
			continue
		}
		kept = append(kept, x)
		c.eventMask |= x.mask
	}
	c.subs = kept
}

// emit sends an event to those who asked for it.
func (c *Conn) emit(e Event) {
	for _, s := range c.subs {
		if s.mask&e.Kind == 0 {
			continue
		}
		select {
		case s.ch <- e:
			continue
		default:
		}
		c.stats.EventsDropped++
		if e.Kind == EventClose {
			// Somebody waits for it: the oldest goes instead.
			select {
			case <-s.ch:
			default:
			}
			s.ch <- e
		}
	}
}

// emitClose sends the last event.
func (c *Conn) emitClose(err error) {
	if c.eventMask == 0 {
		return
	}
	c.emit(Event{Kind: EventClose, Err: err})
	for _, s := range c.subs {
		close(s.ch)
	}
	c.subs, c.eventMask = nil, 0
}

// emitStream tells that a half of a stream has changed its state.
func (c *Conn) emitStream(s *Stream, state StreamState) {
	if c.eventMask&EventStreamUpdate == 0 {
		return
	}
	e := Event{Kind: EventStreamUpdate, StreamID: s.id, State: state}
	switch state {
	case SendSent, SendRecvd:
		e.FinalSize = s.snd.buf.end
	case SendResetSent, SendResetRecvd:
		e.Code, e.FinalSize = s.snd.resetCode, s.snd.buf.end
	case RecvSizeKnown, RecvRecvd, RecvRead:
		e.FinalSize = s.rcv.buf.final
	case RecvResetRecvd, RecvResetRead:
		e.Code, e.FinalSize = s.rcv.resetCode, s.rcv.buf.final
	}
	c.emit(e)
}

// emitRetired tells that a connection ID is no longer good.
func (c *Conn) emitRetired(local bool, seq uint64) {
	if c.eventMask&EventConnectionID == 0 {
		return
	}
	e := Event{Kind: EventConnectionID, Local: local, Retired: seq}
	if !local {
		e.Active = c.path.peerSeq
	}
	c.emit(e)
}

// CloseCause says what ended a connection.
type CloseCause uint8

// Causes of a connection's end.
const (
	ClosedByApplication  CloseCause = iota + 1 // with an application error code
	ClosedByTransport                          // with a transport error code, which may be that of a TLS alert
	ClosedIdle                                 // nothing was heard for the idle timeout; nobody said anything
	ClosedHandshakeTime                        // the handshake took too long
	ClosedStatelessReset                       // the peer has forgotten the connection
	ClosedVersion                              // no version in common
	ClosedHandshake                            // this end's TLS failed
	ClosedEndpoint                             // the Endpoint was closed
)

// CloseInfo is what is known of a connection's end.
type CloseInfo struct {
	Cause  CloseCause
	Remote bool   // the peer closed it, or has forgotten it
	Code   uint64 // as sent or received, application or transport
	Frame  uint64 // type of the frame that caused it, 0: unknown
	Reason string // as sent or received: escape it when logging
}

// CloseInfoOf takes apart an error of Conn.Err. ok is false if it is not one.
func CloseInfoOf(err error) (info CloseInfo, ok bool) {
	var app *ApplicationError
	var tr *TransportError
	var hs *HandshakeError
	var idle *IdleTimeoutError
	var late *HandshakeTimeoutError
	var reset *StatelessResetError
	var version *VersionError
	switch {
	case errors.As(err, &app):
		return CloseInfo{Cause: ClosedByApplication, Remote: app.Remote, Code: app.Code, Reason: app.Reason}, true
	case errors.As(err, &hs):
		return CloseInfo{Cause: ClosedHandshake, Code: uint64(CryptoErrorBase) + uint64(hs.Alert), Frame: wire.FrameCrypto, Reason: hs.Err.Error()}, true
	case errors.As(err, &tr):
		return CloseInfo{Cause: ClosedByTransport, Remote: tr.Remote, Code: uint64(tr.Code), Frame: tr.FrameType, Reason: tr.Reason}, true
	case errors.As(err, &idle):
		return CloseInfo{Cause: ClosedIdle}, true
	case errors.As(err, &late):
		return CloseInfo{Cause: ClosedHandshakeTime}, true
	case errors.As(err, &reset):
		return CloseInfo{Cause: ClosedStatelessReset, Remote: true}, true
	case errors.As(err, &version):
		return CloseInfo{Cause: ClosedVersion, Remote: true}, true
	case errors.Is(err, ErrEndpointClosed):
		return CloseInfo{Cause: ClosedEndpoint}, true
	}
	return info, false
}
