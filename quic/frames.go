package quic

import (
	"crypto/subtle"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

var zeroTime time.Time

func constantTimeEqual(a, b [16]byte) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }

// frameInfo is the packet that frames are in, and what was found in it.
type frameInfo struct {
	space        recovery.Space
	packet       wire.PacketType
	dst          *wire.ConnID // not to be kept: the next packet may have another
	src          *packetSource
	ackEliciting bool
	nonProbing   bool
}

// processFrames acts on all frames of a packet. It returns errOverBudget when
// the packet must be dropped as if it had not arrived, and another error when
// the connection was closed.
//
// RFC 9000, Section 5.2: "An endpoint MUST generate a connection error if
// processing the contents of these packets prior to discovering an error, or
// fully revert any changes made during that processing."
func (c *Conn) processFrames(f *frameInfo, b []byte) error {
	if len(b) == 0 {
		// RFC 9000, Section 12.4: "An endpoint MUST treat receipt of a packet
		// containing no frames as a connection error of type PROTOCOL_VIOLATION."
		return c.fail(ProtocolViolation, 0, "packet without frames")
	}
	for len(b) > 0 {
		if b[0]&^7 == wire.FrameStream && f.space == recovery.AppData {
			// Nearly all there is, and allowed: no need to look it up.
			f.ackEliciting, f.nonProbing = true, true
			n, err := c.processStream(b)
			if err != nil {
				return err
			}
			b = b[n:]
			continue
		}
		typ := wire.FrameType(b)
		if !wire.FrameKnown(typ) {
			return c.fail(FrameEncodingError, typ, "unknown frame type")
		}
		// RFC 9000, Section 17.2.4: "Endpoints MUST treat receipt of Handshake
		// packets with other frames as a connection error of type
		// PROTOCOL_VIOLATION."
		if !wire.FrameAllowed(typ, f.packet) {
			return c.fail(ProtocolViolation, typ, "frame is not permitted in this packet type")
		}
		f.ackEliciting = f.ackEliciting || wire.FrameAckEliciting(typ)
		f.nonProbing = f.nonProbing || !wire.FrameProbing(typ)
		n, err := c.processFrame(f, typ, b)
		if err != nil {
			return err
		}
		if n < 0 {
			return c.fail(FrameEncodingError, typ, "malformed frame")
		}
		if c.state >= stateClosing {
			return c.closeErr()
		}
		b = b[n:]
	}
	return nil
}

// badFrames tells whether processFrames has closed the connection for what was in
// the packet, rather than for what TLS or a route says to it.
func badFrames(err error) bool {
	te, ok := err.(*TransportError)
	if !ok || te.Remote {
		return false
	}
	switch te.Code {
	case FlowControlError, StreamLimitError, StreamStateError, FinalSizeError, FrameEncodingError, ConnectionIDLimitError, ProtocolViolation, CryptoBufferExceeded:
		return true
	}
	return false
}

// processStream acts on the STREAM frame at the start of b.
func (c *Conn) processStream(b []byte) (n int, err error) {
	var f wire.StreamFrame
	if n = wire.ConsumeStream(b, &f); n < 0 {
		return 0, c.fail(FrameEncodingError, uint64(b[0]), "malformed frame")
	}
	if err := c.onStream(&f); err != nil {
		return 0, err
	}
	if c.state >= stateClosing {
		return 0, c.closeErr()
	}
	return n, nil
}

// processFrame acts on the frame at the start of b and returns its length, or
// a negative number if it is malformed.
func (c *Conn) processFrame(f *frameInfo, typ uint64, b []byte) (n int, err error) {
	switch typ {
	case wire.FramePadding:
		return wire.ConsumePadding(b), nil
	case wire.FramePing:
		return wire.ConsumePing(b), nil
	case wire.FrameAck, wire.FrameAckECN:
		c.needAckWork()
		if n = wire.ConsumeAck(b, &c.ack); n >= 0 {
			err = c.onAck(f.space)
		}
	case wire.FrameAckFrequency, wire.FrameImmediateAck:
		return c.processAckFrequency(typ, b)
	case wire.FrameCrypto:
		var off uint64
		var data []byte
		if off, data, n = wire.ConsumeCrypto(b); n >= 0 {
			err = c.onCrypto(f.space, off, data)
		}
	case wire.FrameConnectionClose, wire.FrameConnectionCloseApp:
		app, code, ft, reason, k := wire.ConsumeConnectionClose(b)
		if n = k; n >= 0 {
			c.onConnectionClose(app, code, ft, reason)
		}
	case wire.FrameNewToken:
		var token []byte
		if token, n = wire.ConsumeNewToken(b); n >= 0 {
			err = c.onNewToken(token)
		}
	case wire.FrameDatagram, wire.FrameDatagramLen:
		var data []byte
		if data, n = wire.ConsumeDatagram(b); n >= 0 {
			err = c.onDatagram(data, n)
		}
	case wire.FrameHandshakeDone:
		n = wire.ConsumeHandshakeDone(b)
		err = c.onHandshakeDone()
	case wire.FrameNewConnectionID, wire.FrameRetireConnectionID, wire.FramePathChallenge, wire.FramePathResponse:
		return c.processPathFrame(f, typ, b)
	default:
		return c.processFlowFrame(typ, b)
	}
	return n, err
}

func (c *Conn) processPathFrame(f *frameInfo, typ uint64, b []byte) (n int, err error) {
	switch typ {
	case wire.FrameNewConnectionID:
		seq, prior, id, token, k := wire.ConsumeNewConnectionID(b)
		if n = k; n >= 0 {
			err = c.addRemote(seq, prior, id, token)
		}
	case wire.FrameRetireConnectionID:
		var seq uint64
		if seq, n = wire.ConsumeRetireConnectionID(b); n >= 0 {
			err = c.retireLocal(seq, *f.dst)
		}
	case wire.FramePathChallenge:
		var data [8]byte
		if data, n = wire.ConsumePathChallenge(b); n >= 0 {
			c.onPathChallenge(f.src, data)
		}
	case wire.FramePathResponse:
		var data [8]byte
		if data, n = wire.ConsumePathResponse(b); n >= 0 {
			c.onPathResponse(data)
		}
	}
	return n, err
}

func (c *Conn) processFlowFrame(typ uint64, b []byte) (n int, err error) {
	var id, v, w uint64
	var uni bool
	switch typ {
	case wire.FrameResetStream:
		if id, v, w, n = wire.ConsumeResetStream(b); n >= 0 {
			err = c.onResetStream(id, v, w)
		}
	case wire.FrameStopSending:
		if id, v, n = wire.ConsumeStopSending(b); n >= 0 {
			err = c.onStopSending(id, v)
		}
	case wire.FrameMaxData:
		if v, n = wire.ConsumeMaxData(b); n >= 0 {
			c.onMaxData(v)
		}
	case wire.FrameMaxStreamData:
		if id, v, n = wire.ConsumeMaxStreamData(b); n >= 0 {
			err = c.onMaxStreamData(id, v)
		}
	case wire.FrameMaxStreamsBidi, wire.FrameMaxStreamsUni:
		if uni, v, n = wire.ConsumeMaxStreams(b); n >= 0 {
			err = c.onMaxStreams(uni, v)
		}
	case wire.FrameDataBlocked:
		_, n = wire.ConsumeDataBlocked(b)
	case wire.FrameStreamDataBlocked:
		if id, _, n = wire.ConsumeStreamDataBlocked(b); n >= 0 {
			_, err = c.streamFor(id, typ, true)
		}
	case wire.FrameStreamsBlockedBidi, wire.FrameStreamsBlockedUni:
		if _, v, n = wire.ConsumeStreamsBlocked(b); n >= 0 && v > 1<<60 {
			n = -1
		}
	default:
		n = -1
	}
	return n, err
}

// RFC 9000, Section 4.1: "A sender MUST ignore any MAX_STREAM_DATA or MAX_DATA
// frames that do not increase flow control limits."
//
// RFC 9000, Section 13.3: "A receiver MUST accept packets containing an
// outdated frame, such as a MAX_DATA frame carrying a smaller maximum data
// value than one found in an older packet."
func (c *Conn) onMaxData(v uint64) {
	if v > c.flow.sendMax {
		c.flow.sendMax = v
		if c.eventMask&EventMaxData != 0 {
			c.emit(Event{Kind: EventMaxData, Whole: true, Max: v})
		}
		for _, s := range c.streams.waiting {
			s.waits = false
			c.queueSend(s)
		}
		c.streams.waiting = nil
		c.callNext(0) // some of them may be gone
		c.dirty = true
	}
}

func (c *Conn) onConnectionClose(app bool, code, frame uint64, reason []byte) {
	c.ep.stats.ClosesReceived.Add(1)
	if len(reason) > maxReasonLen {
		reason = reason[:maxReasonLen]
	}
	if app {
		c.onPeerClose(&ApplicationError{Code: code, Reason: string(reason), Remote: true})
		return
	}
	c.onPeerClose(&TransportError{Code: TransportErrorCode(code), FrameType: frame, Reason: string(reason), Remote: true})
}

func (c *Conn) onNewToken(token []byte) error {
	// RFC 9000, Section 19.7: "A server MUST treat receipt of a NEW_TOKEN frame as
	// a connection error of type PROTOCOL_VIOLATION."
	if c.server {
		return c.fail(ProtocolViolation, wire.FrameNewToken, "NEW_TOKEN from a client")
	}
	if c.cfg.Tokens != nil && len(token) <= maxTokenLen {
		c.cfg.Tokens.put(c.tokenServer(), c.version, token)
	}
	if c.eventMask&EventNewToken != 0 {
		c.emit(Event{Kind: EventNewToken, Data: clone(token)})
	}
	return nil
}

func (c *Conn) onHandshakeDone() error {
	// RFC 9000, Section 19.20: "A server MUST treat receipt of a HANDSHAKE_DONE
	// frame as a connection error of type PROTOCOL_VIOLATION."
	if c.server {
		return c.fail(ProtocolViolation, wire.FrameHandshakeDone, "HANDSHAKE_DONE from a client")
	}
	if hs := c.cryptoOf(recovery.Handshake); hs.next < uint64(len(hs.out)) {
		return c.fail(ProtocolViolation, wire.FrameHandshakeDone, "HANDSHAKE_DONE before our Finished was sent")
	}
	c.confirm()
	return nil
}

// onAck handles the ACK frame in c.ack.
func (c *Conn) onAck(space recovery.Space) error {
	delay := time.Duration(0)
	if space == recovery.AppData && c.haveParams {
		d := c.ack.Delay << min(c.peerParams.AckDelayExponent, 20)
		if d>>min(c.peerParams.AckDelayExponent, 20) != c.ack.Delay || d > uint64(time.Hour/time.Microsecond) {
			d = uint64(time.Hour / time.Microsecond)
		}
		delay = time.Duration(d) * time.Microsecond
	}
	if space == recovery.AppData && c.early.rejected && len(c.ack.Ranges) > 0 && c.ack.Ranges[len(c.ack.Ranges)-1].Smallest < c.early.end {
		// RFC 9001, Section 4.6.2: "When 0-RTT was rejected, a client SHOULD treat receipt
		// of an acknowledgment for a 0-RTT packet as a connection error of type
		// PROTOCOL_VIOLATION, if it is able to detect the condition."
		return c.fail(ProtocolViolation, wire.FrameAck, "acknowledgement of 0-RTT that was rejected")
	}
	res, err := c.ackSpace(space, delay)
	if err != nil {
		return c.fail(ProtocolViolation, wire.FrameAck, err.Error())
	}
	if res.NewlyAcked > 0 {
		c.dirty = true
		if space == recovery.AppData {
			c.askFrequency()
		}
	}
	// RFC 9002, Section 6.2.2.1: any acknowledgment of a Handshake packet shows
	// that the server has validated the client's address.
	if space == recovery.Handshake && !c.server {
		c.peerVerified = true
	}
	return nil
}
