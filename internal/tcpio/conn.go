// Package tcpio is TCP for relays: net.TCPConn with reads and writes that keep
// the processor.
//
// Before a system call that may block, the Go runtime prepares for another
// thread to take over, and its monitor looks every 20 microseconds whether it
// has come to that. A relay's calls never block, for its sockets do not, but they
// move up to 64 KiB and take longer than those 20 microseconds: under load
// nearly each of them was taken for blocked, which costs two thread switches,
// and the monitor never slept. So here they are made the way the runtime makes its
// own. The bytes of one call are bounded, because nothing else runs on
// that processor meanwhile.
package tcpio

import (
	"context"
	"net"
)

// maxCall is how many bytes one system call moves at most: some 100 microseconds.
const maxCall = 512 << 10

// Wrap returns a connection that reads and writes cheaply if c is TCP and the
// system is one where that is known to work, and c itself otherwise.
func Wrap(c net.Conn) net.Conn {
	if tcp, ok := c.(*net.TCPConn); ok {
		return wrap(tcp)
	}
	return c
}

// Dialer makes such connections.
type Dialer struct{ net.Dialer }

// DialContext is net.Dialer's, wrapped.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	nd := d.Dialer
	if nd.Control == nil && nd.ControlContext == nil {
		nd.Control = unpaced
	}
	c, err := nd.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return Wrap(c), nil
}

// Listen listens for connections to be wrapped.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: unpaced}
	return lc.Listen(ctx, "tcp", address)
}

// WriteBuffers writes bufs to c and consumes what it has written, with one
// system call for many of them where c is a socket.
func WriteBuffers(c net.Conn, bufs *net.Buffers) (int64, error) {
	if w, ok := c.(interface {
		WriteBuffers(*net.Buffers) (int64, error)
	}); ok {
		return w.WriteBuffers(bufs)
	}
	return bufs.WriteTo(c)
}
