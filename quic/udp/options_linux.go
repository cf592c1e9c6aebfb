package udp

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// option is a socket option to be set.
type option struct {
	name             string
	level, opt, want int
}

// configure probes and sets every option and records what was granted.
func (s *Socket) configure(fd int, cfg Config) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return os.NewSyscallError("SO_DOMAIN", err)
	}
	s.v6 = domain == unix.AF_INET6
	if s.v6 {
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return os.NewSyscallError("IPV6_V6ONLY", err)
		}
		s.dual = only == 0
	}
	if err := s.configureIP(fd); err != nil {
		return err
	}
	// The counter of dropped datagrams is a report, not a need.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	s.caps.RecvBuffer = setBuffer(fd, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, cfg.RecvBuffer, wantRecvBuffer)
	s.caps.SendBuffer = setBuffer(fd, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, cfg.SendBuffer, wantSendBuffer)
	if err := s.zc.configure(s, fd, cfg.Zerocopy); err != nil {
		return err
	}
	return s.configureOffload(fd, cfg)
}

// configureIP asks for the destination address and ECN of what comes in and
// for DF on what goes out. A dual-stack socket takes the IPv4 options too.
//
// RFC 9000, Section 14: "UDP datagrams MUST NOT be fragmented at the IP layer."
func (s *Socket) configureIP(fd int) error {
	v4 := []option{
		{"IP_PKTINFO", unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
		// RFC 9000, Section 13.4.1: "Even if an endpoint does not set an ECT field in packets it sends, the endpoint
		// MUST provide feedback about ECN markings it receives, if these are accessible."
		{"IP_RECVTOS", unix.IPPROTO_IP, unix.IP_RECVTOS, 1},
		// RFC 9000, Section 14: "In IPv4 [IPv4], the Don't Fragment (DF) bit MUST be set if possible, to prevent
		// fragmentation on the path." PROBE sets DF and leaves the path MTU to us.
		{"IP_MTU_DISCOVER", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE},
	}
	v6 := []option{
		{"IPV6_RECVPKTINFO", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
		{"IPV6_RECVTCLASS", unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1},
		{"IPV6_MTU_DISCOVER", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE},
	}
	var opts []option
	if !s.v6 || s.dual {
		opts = append(opts, v4...)
	}
	if s.v6 {
		opts = append(opts, v6...)
	}
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.want); err != nil {
			return os.NewSyscallError(o.name, err)
		}
	}
	s.caps.ECN, s.caps.DF = true, true
	return nil
}

func (s *Socket) configureOffload(fd int, cfg Config) error {
	s.caps.MaxSegments = 1
	if cfg.GSO != Off {
		_, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
		if err == nil {
			s.caps.MaxSegments = cfg.maxSegments()
			s.gso.Store(s.caps.MaxSegments > 1)
		} else if cfg.GSO == On {
			return fmt.Errorf("gso is on, but UDP_SEGMENT: %w (%w; Linux 4.18 has it, or use gso: auto)", ErrNotSupported, err)
		}
	}
	// An inherited socket may carry the other setting: GRO off is set as well.
	want := 1
	if cfg.GRO == Off {
		want = 0
	}
	err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, want)
	if err != nil && cfg.GRO == On {
		return fmt.Errorf("gro is on, but UDP_GRO: %w (%w; Linux 5.0 has it, or use gro: auto)", ErrNotSupported, err)
	}
	s.caps.GRO = err == nil && want == 1
	if cfg.untested {
		return nil
	}
	if err := s.trust(testedOffload(s.v6), cfg); err != nil {
		return err
	}
	if want == 1 && !s.caps.GRO {
		_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 0)
	}
	return nil
}

// setBuffer sets a buffer size, past the system's limit if we may, and returns
// what the kernel made of it. A refusal is not an error: the socket works with
// the default, and the report shows it.
func setBuffer(fd, opt, force, size, standard int) int {
	if size <= 0 {
		size = standard
	}
	// An inherited socket may have more than this process may ask for. The kernel
	// doubles what it is told.
	if had, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt); err == nil && had == 2*size {
		return had
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, size)
	}
	got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt)
	if err != nil {
		return 0
	}
	return got
}

func (c Config) maxSegments() int {
	if c.MaxSegments < 1 || c.MaxSegments > MaxSegments {
		return MaxSegments
	}
	return c.MaxSegments
}
