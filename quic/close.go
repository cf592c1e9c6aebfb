package quic

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// closeState is what a closing connection needs to answer late packets
// (RFC 9000, Section 10.2).
type closeState struct {
	err      error
	packet   []byte // the datagram with CONNECTION_CLOSE
	until    time.Time
	received int       // packets since
	credit   int       // bytes that may be sent in answer
	answerAt int       // answer when received reaches this; doubles
	repeatAt time.Time // when to send it once more
}

// CloseWithError closes the connection with an application error code
// (RFC 9000, Section 10.2). Data that was not sent yet is dropped: use
// Stream.Flush first where it matters. Reasons are cut at 256 bytes.
func (c *Conn) CloseWithError(code uint64, reason string) error {
	c.lock()
	defer c.unlock()
	c.shutdown(&ApplicationError{Code: code, Reason: reason})
	return nil
}

// CloseWithAlert closes the connection with CRYPTO_ERROR 0x100+alert, as a
// failed handshake does. It is how a client is refused before Admit.
func (c *Conn) CloseWithAlert(alert uint8, reason string) {
	c.CloseTransport(CryptoErrorBase+TransportErrorCode(alert), reason)
}

// CloseTransport closes the connection with a transport error code.
func (c *Conn) CloseTransport(code TransportErrorCode, reason string) {
	c.lock()
	defer c.unlock()
	c.shutdown(&TransportError{Code: code, Reason: reason})
}

// closeErr returns the reason of a connection that is closed, or nil.
func (c *Conn) closeErr() error {
	if c.closing == nil {
		return nil
	}
	return c.closing.err
}

// fail closes the connection because of what the peer sent. It returns the error.
//
// RFC 9000, Section 10.3: "An endpoint that wishes to communicate a fatal
// connection error MUST use a CONNECTION_CLOSE frame if it is able."
//
// RFC 9000, Section 11.1: "Errors that result in the connection being unusable,
// such as an obvious violation of protocol semantics or corruption of state
// that affects an entire connection, MUST be signaled using a CONNECTION_CLOSE
// frame (Section 19.19)."
func (c *Conn) fail(code TransportErrorCode, frame uint64, reason string) error {
	err := &TransportError{Code: code, FrameType: frame, Reason: reason}
	c.shutdown(err)
	return err
}

// shutdown enters the closing state: CONNECTION_CLOSE goes out now and
// answers late packets for three PTOs.
func (c *Conn) shutdown(err error) {
	if c.state >= stateClosing {
		return
	}
	if c.blocked != nil {
		c.blocked.release()
		c.blocked = nil
	}
	c.dropLine()
	c.closeWith(err, err)
}

// closeWith sends CONNECTION_CLOSE for one error and ends the connection with another.
func (c *Conn) closeWith(sent, err error) {
	c.closing = &closeState{packet: c.buildClose(sent), answerAt: 1}
	if len(c.closing.packet) > 0 {
		c.ep.stats.ClosesSent.Add(1)
	}
	c.finish(stateClosing, err)
	// Nothing else tells a peer that has nothing to send: once more, in case the
	// first is lost, costs less than its idle timeout.
	c.closing.repeatAt = c.now().Add(c.pto())
	c.sendClose()
	c.setTimer()
}

// abandon ends the connection without a word: idle timeout, stateless reset,
// version negotiation.
func (c *Conn) abandon(err error) {
	if c.state >= stateClosing {
		return
	}
	c.finish(stateDone, err)
	c.ep.forget(c)
}

// onPeerClose enters the draining state.
//
// RFC 9000, Section 10.2.2: "While otherwise identical to the closing state, an
// endpoint in the draining state MUST NOT send any packets."
//
// RFC 9000, Section 10.2.2: "An endpoint MUST NOT send further packets."
func (c *Conn) onPeerClose(err error) {
	if c.state >= stateDraining {
		return
	}
	if c.state == stateClosing {
		c.state = stateDraining
		return
	}
	c.finish(stateDraining, err)
}

// finish records why the connection ended and wakes everybody.
func (c *Conn) finish(s connState, err error) {
	c.state = s
	if c.closing == nil {
		c.closing = new(closeState)
	}
	c.closing.err = err
	c.closing.until = c.now().Add(3 * c.pto())
	c.cancel(err)
	c.emitClose(err)
	if !c.isReady() {
		close(c.ready) // last: who waits for it asks for the error then
	}
	c.ep.onConnClosed(c, err)
	c.endTrace(err)
	if c.cfg.logger().Enabled(context.Background(), slog.LevelDebug) {
		c.log().Debug("connection closed", "error", err, "duration", c.now().Sub(c.started))
	}
	c.free()
	if s != stateDone {
		c.setTimer()
	} else if c.timer != nil {
		c.timer.Stop() // nothing may hold on to a connection that is gone
	}
}

func (c *Conn) isReady() bool { return isClosed(c.ready) }

// buildClose seals CONNECTION_CLOSE at every level whose keys the peer may have.
//
// RFC 9000, Section 10.2.3: "After the handshake is confirmed (see Section
// 4.1.2 of [QUIC-TLS]), an endpoint MUST send any CONNECTION_CLOSE frames in a
// 1-RTT packet."
func (c *Conn) buildClose(err error) []byte {
	code, frameType, reason, app := closeFields(err)
	if len(reason) > 256 {
		reason = reason[:256]
	}
	b := make([]byte, 0, minDatagram)
	for level := LevelInitial; level <= LevelApp; level++ {
		if level == LevelEarly || !c.canSeal(level) {
			continue
		}
		if level == LevelInitial && !c.server && c.canSeal(LevelHandshake) {
			// RFC 9000, Section 10.2.3: "A client will always know
			// whether the server has Handshake keys". An Initial
			// packet of a client would also have to fill 1200 bytes
			// (Section 14.1).
			continue
		}
		a, t, r, k := app, frameType, reason, code
		if app && level != LevelApp {
			// RFC 9000, Section 10.2.3: "A CONNECTION_CLOSE of type 0x1d MUST be
			// replaced by a CONNECTION_CLOSE of type 0x1c when sending the frame in
			// Initial or Handshake packets."
			//
			// RFC 9000, Section 10.2.3: "Endpoints MUST clear the value of the
			// Reason Phrase field and SHOULD use the APPLICATION_ERROR code
			// when converting to a CONNECTION_CLOSE of type 0x1c."
			//
			// RFC 9000, Section 12.5: "CONNECTION_CLOSE frames signaling
			// application errors (type 0x1d) MUST only appear in the
			// application data packet number space."
			a, t, r, k = false, 0, "", uint64(ApplicationErrorCode)
		}
		frame := wire.AppendConnectionClose(nil, a, k, t, []byte(r))
		out := c.sealSmall(b, level, frame)
		if out == nil {
			break
		}
		b = out
	}
	return b
}

func closeFields(err error) (code, frameType uint64, reason string, app bool) {
	var ae *ApplicationError
	var te *TransportError
	switch {
	case errors.As(err, &ae):
		return ae.Code, 0, ae.Reason, true
	case errors.As(err, &te):
		return uint64(te.Code), te.FrameType, te.Reason, false
	}
	var he *HandshakeError
	if errors.As(err, &he) {
		return uint64(CryptoErrorBase) + uint64(he.Alert), wire.FrameCrypto, "", false
	}
	return uint64(InternalError), 0, "", false
}

// sendClose sends the close datagram, within the amplification limit.
func (c *Conn) sendClose() {
	if len(c.closing.packet) == 0 || c.path.amplificationCredit() < len(c.closing.packet) {
		return
	}
	c.path.onSent(len(c.closing.packet))
	c.sendDatagram(&c.path, c.closing.packet)
}

// onClosedPacket answers packets in the closing state, ever more rarely.
// RFC 9000, Section 10.2.1: "An endpoint SHOULD limit the rate at which it
// generates packets in the closing state."
//
// RFC 9000, Section 10.2.1: "To avoid being used for an amplification attack,
// such endpoints MUST limit the cumulative size of packets it sends to three
// times the cumulative size of the packets that are received and attributed to
// the connection."
//
// RFC 9000, Section 10.2.1: "An endpoint in the closing state MUST either
// discard packets received from an unvalidated address or limit the cumulative
// size of packets it sends to an unvalidated address to three times the size of
// packets it receives from that address"
func (c *Conn) onClosedPacket(n int) {
	c.path.onReceived(n)
	if c.state != stateClosing {
		return
	}
	c.closing.received++
	c.closing.credit += 3 * n
	if c.closing.received >= c.closing.answerAt && c.closing.credit >= len(c.closing.packet) {
		c.closing.answerAt = 2 * c.closing.received
		c.closing.credit -= len(c.closing.packet)
		c.sendClose()
	}
}

// wait waits until TLS is complete or the connection is over.
func (c *Conn) wait(ctx context.Context) error {
	select {
	case <-c.ready:
		if err := c.Err(); err != nil {
			return err
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
