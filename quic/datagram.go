package quic

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/quic-fsgw/quic-fsgw/quic/protect"
	"github.com/quic-fsgw/quic-fsgw/quic/recovery"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// Unreliable datagrams (RFC 9221): what is sent arrives once or not at all. They
// count for congestion control and pacing, but not for flow control, and are not
// sent again.

// Bounds of the queues of datagrams, each way.
const (
	maxDatagrams     = 128
	maxDatagramBytes = 256 << 10
)

// datagrams are those that wait, both ways.
type datagrams struct {
	in, out           [][]byte
	inBytes, outBytes int
	arrived           gate
	yield             bool // streams that wait come first, once
}

// Errors of SendDatagram.
var (
	ErrNoDatagrams   = errors.New("quic: datagram: the peer takes none (max_datagram_frame_size is 0)")
	ErrDatagramQueue = errors.New("quic: datagram: the queue is full (send less, or later)")
)

// DatagramSizeError says that a datagram does not fit: into the peer's
// max_datagram_frame_size, or into what the path carries now.
type DatagramSizeError struct {
	Size, Max int // bytes
}

func (e *DatagramSizeError) Error() string {
	return fmt.Sprintf("quic: datagram: %d bytes, at most %d fit now", e.Size, e.Max)
}

func (c *Conn) dgrams() *datagrams {
	if c.dg == nil {
		c.dg = new(datagrams)
	}
	return c.dg
}

// MaxDatagramSize returns how many bytes a datagram may have now; 0: none can be
// sent. It changes with the path.
func (c *Conn) MaxDatagramSize() int {
	c.lock()
	defer c.unlock()
	return c.maxDatagramData()
}

// RFC 9221, Section 3: "An endpoint MUST NOT send DATAGRAM frames that are
// larger than the max_datagram_frame_size value it has received from its peer."
func (c *Conn) maxDatagramData() int {
	if !c.haveParams || c.peerParams.MaxDatagram == 0 {
		return 0
	}
	// RFC 9221, Section 3: max_datagram_frame_size is "the maximum size of a DATAGRAM
	// frame (including the frame type, length, and payload) the endpoint is willing to
	// receive, in bytes." Section 5: "DATAGRAM frames cannot be fragmented".
	path := c.path.mtu - 1 - c.dst().Len() - 4 - protect.TagLen
	frame := int(min(c.peerParams.MaxDatagram, math.MaxInt32, uint64(max(path, 0))))
	n := frame - wire.DatagramHeaderLen(frame)
	if n >= 0 && n+1+wire.DatagramHeaderLen(n+1) <= frame {
		n++ // its length takes fewer bytes than that of the whole frame
	}
	return max(n, 0)
}

// SendDatagram queues one datagram. It does not wait: it fails when the queue is
// full, which counts as a drop. b may be reused at once.
func (c *Conn) SendDatagram(b []byte) error {
	c.lock()
	defer c.unlock()
	if err := c.closeErr(); err != nil {
		return err
	}
	if !c.haveParams || c.peerParams.MaxDatagram == 0 || c.tls == nil {
		// RFC 9221, Section 3: "An endpoint MUST NOT send DATAGRAM frames until it has
		// received the max_datagram_frame_size transport parameter with a non-zero value
		// during the handshake".
		return ErrNoDatagrams
	}
	if most := c.maxDatagramData(); len(b) > most {
		return &DatagramSizeError{Size: len(b), Max: most}
	}
	d := c.dgrams()
	if len(d.out) >= maxDatagrams || d.outBytes+len(b) > maxDatagramBytes {
		c.stats.DatagramFramesDropped++
		return ErrDatagramQueue
	}
	d.out = append(d.out, slices.Clone(b))
	d.outBytes += len(b)
	c.dirty = true
	return nil
}

// ReceiveDatagram waits for the next datagram. Those that nobody takes in time are
// dropped, the newest first.
func (c *Conn) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	for {
		c.lock()
		d := c.dgrams()
		err := c.closeErr()
		var b []byte
		if err == nil && c.admitted && len(d.in) > 0 {
			b = d.in[0]
			d.in = slices.Delete(d.in, 0, 1)
			c.releaseDatagram(b)
			if len(d.in) > 0 {
				d.arrived.open() // for somebody else that waits
			}
		}
		c.unlock()
		if b != nil || err != nil {
			return b, err
		}
		select {
		case <-d.arrived.wait():
		case <-c.Done():
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (c *Conn) releaseDatagram(b []byte) {
	c.dg.inBytes -= len(b)
	c.acct.held -= cap(b)
}

// onDatagram takes a DATAGRAM frame of size bytes.
func (c *Conn) onDatagram(data []byte, size int) error {
	// RFC 9221, Section 3: "An endpoint that receives a DATAGRAM frame when it has not
	// indicated support via the transport parameter MUST terminate the connection with
	// an error of type PROTOCOL_VIOLATION. Similarly, an endpoint that receives a
	// DATAGRAM frame that is larger than the value it sent in its
	// max_datagram_frame_size transport parameter MUST terminate the connection with an
	// error of type PROTOCOL_VIOLATION."
	if uint64(size) > c.cfg.maxDatagramFrame() {
		return c.fail(ProtocolViolation, wire.FrameDatagram, "DATAGRAM is larger than allowed, or not allowed")
	}
	c.stats.DatagramFramesReceived++
	d := c.dgrams()
	if len(d.in) >= maxDatagrams || d.inBytes+len(data) > maxDatagramBytes || c.acct.held+len(data) > c.acct.heldMax {
		// Section 5.3: "If the receiver's buffers are full, it may drop the frame." It is
		// acknowledged all the same.
		c.stats.DatagramFramesDropped++
		return nil
	}
	b := append(make([]byte, 0, len(data)), data...) // never nil
	d.in = append(d.in, b)
	d.inBytes += len(b)
	c.acct.held += cap(b)
	d.arrived.open()
	return nil
}

// appendDatagrams appends as many waiting datagrams as fit. Streams that wait, too,
// get every second packet.
func (c *Conn) appendDatagrams(b []byte, room int, pkt *recovery.SentPacket) []byte {
	d := c.dg
	if d == nil || len(d.out) == 0 {
		return b
	}
	if d.yield && len(c.streams.sendQueue) > 0 {
		d.yield = false
		return b
	}
	for len(d.out) > 0 {
		data := d.out[0]
		if room-len(b) < wire.DatagramHeaderLen(len(data))+len(data) {
			if len(b) > 0 || len(data) <= c.maxDatagramData() {
				break // it goes into the next packet
			}
			c.stats.DatagramFramesDropped++ // the path carries less than when it was queued
		} else {
			b = wire.AppendDatagramHeader(b, len(data))
			b = append(b, data...)
			pkt.AckEliciting = true
			d.yield = true
			c.stats.DatagramFramesSent++
		}
		d.out[0] = nil
		d.out = slices.Delete(d.out, 0, 1)
		d.outBytes -= len(data)
	}
	return b
}

// wantsDatagrams tells whether datagrams wait to be sent.
func (c *Conn) wantsDatagrams() bool { return c.dg != nil && len(c.dg.out) > 0 }

// freeDatagrams drops what waits.
func (c *Conn) freeDatagrams() {
	if d := c.dg; d != nil {
		for _, b := range d.in {
			c.releaseDatagram(b)
		}
		d.in, d.out, d.outBytes = nil, nil, 0
	}
}

func (c *Config) maxDatagramFrame() uint64 {
	return uint64(min(max(c.MaxDatagramFrame, 0), maxDatagramSize))
}
