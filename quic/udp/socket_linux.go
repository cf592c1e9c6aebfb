package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socket is a UDP socket, waited for by watches. Its methods may be called by
// any number of goroutines; calls of Recv wait for each other.
type Socket struct {
	file  *os.File // unknown to the runtime's poller
	rc    syscall.RawConn
	local netip.AddrPort
	v6    bool // an AF_INET6 socket, perhaps dual-stack
	dual  bool // and it carries IPv4 as well
	group *Group
	shard int
	// shared: another process may hold a duplicate of the descriptor, so that
	// closing ours does not take the socket out of its group.
	shared atomic.Bool
	caps   Caps
	gso    atomic.Bool // still believed in
	stats  Stats
	// sendmsg is the system call; tests put a broken device in its place.
	sendmsg func(fd uintptr, h *unix.Msghdr, flags uintptr) (int, unix.Errno)

	closed atomic.Bool

	recv     receiver
	senders  senders
	zones    zones
	writable writable
	drain    drain
	direct   direct
	zc       zerocopy
}

// How much to ask for when Config leaves it open. The receive buffer holds
// what arrives while the reader is not scheduled: 8 MiB is 64 ms at 1 Gbit/s.
const (
	wantRecvBuffer = 8 << 20
	wantSendBuffer = 4 << 20
)

// ListenOne opens one socket, as a client does: the zero AddrPort is a port of
// the kernel's choice on all addresses of both families. An IPv4 address makes
// an IPv4 socket, the IPv6 wildcard a dual-stack one where IPv6 is available.
func ListenOne(addr netip.AddrPort, cfg Config) (*Socket, error) {
	return open(addr, cfg, false)
}

// open binds a socket, with SO_REUSEPORT set before that if reuse.
func open(addr netip.AddrPort, cfg Config, reuse bool) (*Socket, error) {
	ip := addr.Addr().Unmap()
	network := "udp6"
	switch {
	case ip.Is4():
		network = "udp4"
	case !ip.IsValid() || ip.IsUnspecified():
		network = "udp" // both families
		ip = netip.IPv6Unspecified()
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		if !reuse {
			return nil
		}
		return control(rc, func(fd int) error {
			return reusePort(fd)
		})
	}}
	pc, err := lc.ListenPacket(context.Background(), network, netip.AddrPortFrom(ip, addr.Port()).String())
	if network == "udp" && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
		// No IPv6 on this machine: the wildcard means what there is.
		pc, err = lc.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()).String())
	}
	if err != nil {
		return nil, fmt.Errorf("udp: listen on %s: %w", addr, err)
	}
	return newSocket(pc, cfg)
}

func reusePort(fd int) error {
	return os.NewSyscallError("SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
}

// FromFile makes a socket of a descriptor inherited from another process. It
// works on a duplicate: the caller closes f.
func FromFile(f *os.File, cfg Config) (*Socket, error) {
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("udp: inherited descriptor %s: %w", f.Name(), err)
	}
	s, err := newSocket(pc, cfg)
	if err != nil {
		return nil, err
	}
	s.shared.Store(true)
	return s, nil
}

// File duplicates the descriptor, to be passed to another process; the caller
// closes it. The socket stays bound until every duplicate is closed. This
// process is not woken for what arrives: the file is none for the poller.
func (s *Socket) File() (*os.File, error) {
	dup, err := duplicate(s.rc)
	if err != nil {
		return nil, fmt.Errorf("udp: duplicate the descriptor of %s: %w", s.local, err)
	}
	s.shared.Store(true)
	return unpolledFile(dup, s.local.String()), nil
}

// unpolledFile makes a file of a descriptor that the runtime's poller does not
// watch. os.NewFile gives it those that do not block, so for a moment this one
// does; all calls on it say MSG_DONTWAIT for themselves.
func unpolledFile(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, false)
	f := os.NewFile(uintptr(fd), name)
	_ = unix.SetNonblock(fd, true) // whoever has a duplicate counts on it
	return f
}

func duplicate(rc syscall.RawConn) (dup int, err error) {
	err = control(rc, func(fd int) (err error) {
		dup, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return os.NewSyscallError("fcntl", err)
	})
	return dup, err
}

// unpolled moves a socket out of the runtime's poller. It closes conn.
func unpolled(conn *net.UDPConn) (*os.File, error) {
	rc, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	fd, err := duplicate(rc)
	if err = errors.Join(err, conn.Close()); err != nil {
		return nil, err
	}
	return unpolledFile(fd, "udp"), nil
}

// newSocket owns pc and closes it on an error.
func newSocket(pc net.PacketConn, cfg Config) (*Socket, error) {
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return nil, fmt.Errorf("udp: descriptor is a %s socket, want UDP", pc.LocalAddr().Network())
	}
	s := &Socket{sendmsg: sendmsg}
	if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		ap := a.AddrPort()
		s.local = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	var err error
	if s.file, err = unpolled(conn); err == nil {
		if s.rc, err = s.file.SyscallConn(); err == nil {
			err = control(s.rc, func(fd int) error { return s.configure(fd, cfg) })
		}
		if err != nil {
			s.file.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("udp: set up socket %s: %w", s.local, err)
	}
	s.recv.init(s)
	s.writable.init(s)
	s.drain.init()
	return s, nil
}

// control runs f on the descriptor and returns its error.
func control(rc syscall.RawConn, f func(fd int) error) error {
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Close closes the socket. Recv returns net.ErrClosed, functions given to
// OnWritable are called. The other sockets of a group keep their shards.
func (s *Socket) Close() error {
	if s.group != nil {
		return s.group.leave(s)
	}
	return s.close()
}

func (s *Socket) close() error {
	if s.closed.Swap(true) {
		return fmt.Errorf("udp: close %s: %w", s.local, net.ErrClosed)
	}
	s.recv.watch.close()
	s.writable.watch.close()
	s.Interrupt()
	s.zc.finish(s)
	err := s.file.Close()
	s.recv.mu.Lock() // whoever was receiving has left
	s.direct.close()
	s.recv.mu.Unlock()
	s.drain.finish()
	return err
}

// LocalAddr is the bound address.
func (s *Socket) LocalAddr() netip.AddrPort { return s.local }

// Shard is the socket's place in its group, 0 outside a group.
func (s *Socket) Shard() int { return s.shard }

// Stats are the live counters.
func (s *Socket) Stats() *Stats { return &s.stats }

// Caps is what the kernel grants. MaxSegments is 1 once GSO failed.
func (s *Socket) Caps() Caps {
	c := s.caps
	if !s.gso.Load() {
		c.MaxSegments = 1
	}
	c.Zerocopy = s.zc.on.Load()
	return c
}
