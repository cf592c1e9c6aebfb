package quic

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// A client's move to another socket: another port, or another address where its
// socket is bound to one. In order:
//
//  1. The new socket gets a reader of its own, and the path that is probed
//     (probe.go) sends through it; the connection stays in its old socket.
//  2. When the server has answered there, the new one is the connection's socket.
//  3. The old one, if it was such a socket too, is read for a while: what the
//     server had sent before it followed still arrives. Then it is closed.
//
// A socket that was moved to belongs to that connection alone and ends with it.

// MigrateTo moves a client's connection to another socket, with a new port, a
// new address, or both. The socket belongs to the Endpoint from now on, whatever
// comes of it, and to no other connection. As Migrate does, MigrateTo returns when
// the server was found to answer there and the connection has moved, or why it has
// not: then it goes on where it was.
func (c *Conn) MigrateTo(ctx context.Context, pc udp.PacketConn) error {
	c.lock()
	m, err := c.startMoving(pc)
	c.unlock()
	if err != nil {
		return err
	}
	return c.awaitProbe(ctx, m)
}

func (c *Conn) startMoving(pc udp.PacketConn) (*probe, error) {
	m, err := c.startMovingTo(pc)
	if err != nil {
		go pc.Close() // not with the lock held: it waits for what is being sent
	}
	return m, err
}

func (c *Conn) startMovingTo(pc udp.PacketConn) (*probe, error) {
	if err := c.mayMigrate(); err != nil {
		return nil, err
	}
	if a := pc.LocalAddr().Addr().Unmap(); a.Is4() != c.path.remote.Addr().Is4() && !(a.Is6() && a.IsUnspecified()) {
		return nil, fmt.Errorf("quic: migrate: from a socket at %v nothing can go to %v", pc.LocalAddr(), c.path.remote)
	}
	if _, ok := c.unusedRemote(); !ok {
		return nil, errMigrateNoID
	}
	sh := &shard{index: c.shard().index, gen: c.shard().gen}
	sh.sock.Store(&sockBox{pc})
	if !c.ep.addMoved(sh, c) {
		return nil, ErrEndpointClosed
	}
	m, err := c.startProbe(c.path.remote, netip.Addr{}, sh)
	if err != nil {
		c.ep.closeMoved(sh)
	}
	return m, err
}

// shard is the socket of the connection.
func (c *Conn) shard() *shard { return c.home.Load() }

// sockOf is the socket that a path sends through.
func (c *Conn) sockOf(p *path) udp.PacketConn {
	if p.via != nil {
		return p.via.conn()
	}
	return c.shard().conn()
}

// moveIn makes the socket of a path that was probed the connection's.
func (c *Conn) moveIn(p *path) {
	old, via := c.shard(), p.via
	if via == nil {
		return
	}
	p.via = nil
	c.home.Store(via)
	// What is on its way there arrives within a round trip; three probe timeouts are
	// what RFC 9000, Section 10.2 allows for late packets.
	time.AfterFunc(3*c.pto(), func() { c.ep.closeMoved(old) })
}

// addMoved has the endpoint read a socket of c's own, unless it is closing.
func (e *Endpoint) addMoved(s *shard, c *Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing.Load() {
		return false
	}
	if e.moved == nil {
		e.moved = make(map[*shard]*Conn)
	}
	e.moved[s] = c
	e.startReader(s, s.conn())
	return true
}

// closeMoved closes a socket if it is one that a connection moved to.
func (e *Endpoint) closeMoved(s *shard) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.moved[s]; ok {
		e.dropMoved(s)
	}
}

// dropMoved is closeMoved for who holds e.mu.
func (e *Endpoint) dropMoved(s *shard) {
	delete(e.moved, s)
	pc := s.conn()
	go pc.Close() // it waits for its reader, which may be the caller
}

// leaveMoved closes the sockets that are c's alone; nil: all of them. The caller
// holds e.mu.
func (e *Endpoint) leaveMoved(c *Conn) {
	for s, owner := range e.moved {
		if c == nil || owner == c {
			e.dropMoved(s)
		}
	}
}
