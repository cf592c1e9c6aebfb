//go:build !linux

package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
)

// Socket is a UDP socket. On this system it sends and receives one datagram a
// call, without ECN and without the address a packet came to.
type Socket struct {
	conn  *net.UDPConn
	local netip.AddrPort
	df    bool
	stats Stats
}

// ListenOne opens one socket: the zero AddrPort is a port of the system's
// choice on all addresses.
func ListenOne(addr netip.AddrPort, cfg Config) (*Socket, error) {
	network, ip := "udp", addr.Addr().Unmap()
	switch {
	case ip.Is4():
		network = "udp4"
	case !ip.IsValid():
		ip = netip.IPv6Unspecified()
	case !ip.IsUnspecified():
		network = "udp6"
	}
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), network, netip.AddrPortFrom(ip, addr.Port()).String())
	if err != nil {
		return nil, fmt.Errorf("udp: listen on %s: %w", addr, err)
	}
	return newSocket(pc, cfg)
}

// FromFile makes a socket of a descriptor inherited from another process. It
// works on a duplicate: the caller closes f.
func FromFile(f *os.File, cfg Config) (*Socket, error) {
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("udp: inherited descriptor %s: %w", f.Name(), err)
	}
	return newSocket(pc, cfg)
}

// File duplicates the descriptor; the caller closes it.
func (s *Socket) File() (*os.File, error) { return s.conn.File() }

func newSocket(pc net.PacketConn, cfg Config) (*Socket, error) {
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return nil, fmt.Errorf("udp: descriptor is a %s socket, want UDP", pc.LocalAddr().Network())
	}
	if cfg.GSO == On || cfg.GRO == On {
		conn.Close()
		return nil, fmt.Errorf("gso or gro is on: %w (use auto)", ErrNotSupported)
	}
	s := &Socket{conn: conn}
	if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		ap := a.AddrPort()
		s.local = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	// RFC 9000, Section 14: "In IPv4 [IPv4], the Don't Fragment (DF) bit MUST be set if possible, to prevent
	// fragmentation on the path."
	if rc, err := conn.SyscallConn(); err == nil {
		six := s.local.Addr().Is6()
		four := !six || s.local.Addr().IsUnspecified()
		_ = rc.Control(func(fd uintptr) { s.df = dontFragment(fd, four, six) })
	}
	// A refusal leaves the system's default in force.
	const want = 2 << 20
	_ = conn.SetReadBuffer(orDefault(cfg.RecvBuffer, want))
	_ = conn.SetWriteBuffer(orDefault(cfg.SendBuffer, want))
	return s, nil
}

func orDefault(n, standard int) int {
	if n <= 0 {
		return standard
	}
	return n
}

// Recv blocks until a datagram arrived. See PacketConn.
func (s *Socket) Recv(m *RecvMsg) error {
	if len(m.Buf) < MinRecvBuffer {
		return ErrShortBuffer
	}
	quiet := 0
	for {
		if m.Idle != nil {
			m.Idle() // whether there is anything to receive cannot be told here
		}
		n, _, _, remote, err := s.conn.ReadMsgUDPAddrPort(m.Buf, nil)
		switch {
		case errors.Is(err, net.ErrClosed):
			return net.ErrClosed
		case err != nil:
			// Windows reports the fate of earlier sends here. A socket that
			// only fails must not spin.
			s.stats.RecvErrors.Add(1)
			if quiet++; quiet > 1000 {
				return fmt.Errorf("udp: receive on %s: %w", s.local, err)
			}
			continue
		}
		quiet = 0
		if n == 0 {
			s.stats.RecvCalls.Add(1)
			s.stats.EmptyDatagrams.Add(1)
			continue
		}
		m.N, m.SegmentSize = n, n
		m.Remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
		m.Local, m.IfIndex, m.ECN = netip.Addr{}, 0, 0
		s.stats.received(1, n)
		return nil
	}
}

// Send sends a datagram, or the datagrams of a batch one by one. It waits for
// the poller where the send buffer is full, which Linux never does.
func (s *Socket) Send(m *SendMsg) error {
	m.Sent = 0
	if len(m.Data) == 0 {
		return errEmpty
	}
	size := m.SegmentSize
	if size <= 0 || size > len(m.Data) {
		size = len(m.Data)
	}
	if size > MaxPayload {
		s.stats.TooLong.Add(1)
		return ErrMessageTooLong
	}
	for m.Sent < len(m.Data) {
		one := m.Data[m.Sent:min(m.Sent+size, len(m.Data))]
		if _, _, err := s.conn.WriteMsgUDPAddrPort(one, nil, m.Remote); err != nil {
			return s.sendError(m, err)
		}
		s.stats.sent(1, len(one))
		m.Sent += len(one)
	}
	return nil
}

func (s *Socket) sendError(m *SendMsg, err error) error {
	switch {
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, errTooLong):
		s.stats.TooLong.Add(1)
		return ErrMessageTooLong
	case errors.Is(err, errNoBuffers):
		s.stats.NoBufs.Add(1)
		return ErrNoBuffers
	}
	return fmt.Errorf("udp: send %d bytes to %s: %w", len(m.Data), m.Remote, err)
}

// OnWritable calls f from another goroutine: Send here never reports a full
// buffer.
func (s *Socket) OnWritable(f func()) { go f() }

// LocalAddr is the bound address.
func (s *Socket) LocalAddr() netip.AddrPort { return s.local }

// Shard is 0: there are no groups here.
func (s *Socket) Shard() int { return 0 }

// Stats are the live counters.
func (s *Socket) Stats() *Stats { return &s.stats }

// Caps says that there is no offload.
func (s *Socket) Caps() Caps { return Caps{MaxSegments: 1, DF: s.df} }

// Close closes the socket; Recv returns net.ErrClosed.
func (s *Socket) Close() error { return s.conn.Close() }

// Group is a single socket: this system does not steer.
type Group struct {
	socket *Socket
	layout Layout
}

// Listen opens one socket whatever shards (1 to 255) says.
func Listen(addr netip.AddrPort, shards int, cfg Config) ([]*Socket, error) {
	g, err := ListenGroup(addr, shards, cfg)
	if err != nil {
		return nil, err
	}
	return g.Sockets(), nil
}

// ListenGroup opens a group of one socket whatever shards (1 to 255) says.
func ListenGroup(addr netip.AddrPort, shards int, cfg Config) (*Group, error) {
	if shards < 1 || shards > MaxShards {
		return nil, fmt.Errorf("udp: %d shards on %s: want 1 to %d", shards, addr, MaxShards)
	}
	s, err := ListenOne(addr, cfg)
	if err != nil {
		return nil, err
	}
	return &Group{socket: s, layout: cfg.Layout}, nil
}

// GroupFromFiles takes one inherited descriptor; the caller closes the file.
func GroupFromFiles(files []*os.File, cfg Config) (*Group, error) {
	if len(files) != 1 {
		return nil, fmt.Errorf("udp: group of %d inherited descriptors: %w (one on this system)", len(files), ErrNotSupported)
	}
	s, err := FromFile(files[0], cfg)
	if err != nil {
		return nil, err
	}
	return &Group{socket: s, layout: cfg.Layout}, nil
}

// Sockets is the one socket.
func (g *Group) Sockets() []*Socket { return []*Socket{g.socket} }

// Shards is 1.
func (g *Group) Shards() int { return 1 }

// Layout is the layout the group was made with.
func (g *Group) Layout() Layout { return g.layout }

// Close closes the socket.
func (g *Group) Close() error { return g.socket.Close() }

// Replace is not supported here.
func (g *Group) Replace(context.Context, int, func(*Socket)) (*Socket, error) {
	return nil, fmt.Errorf("udp: replace a shard: %w", ErrNotSupported)
}
