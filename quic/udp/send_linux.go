package udp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sender is the memory of one sendmsg. Senders are lent from a bounded list,
// because connections send on one socket from their own goroutines.
type sender struct {
	sock  *Socket
	hdr   unix.Msghdr
	iov   unix.Iovec
	sa4   unix.RawSockaddrInet4
	sa6   unix.RawSockaddrInet6
	ctl   [16]uint64 // control data: segment size, traffic class, source
	used  int        // bytes of ctl in use
	pin   *Buffer    // holds the data of the send under way, to be sent without a copy
	n     int
	errno unix.Errno
	call  func(fd uintptr) // made once
}

type senders struct {
	mu   sync.Mutex
	free [16]*sender
	n    int
}

func (l *senders) get(s *Socket) *sender {
	l.mu.Lock()
	if l.n > 0 {
		l.n--
		w := l.free[l.n]
		l.mu.Unlock()
		return w
	}
	l.mu.Unlock()
	w := &sender{sock: s}
	w.hdr.Iov = &w.iov
	w.hdr.SetIovlen(1)
	w.call = func(fd uintptr) {
		for {
			if w.pin != nil {
				s.zc.send(w, fd)
			} else {
				w.n, w.errno = s.sendmsg(fd, &w.hdr, 0)
			}
			if w.errno != unix.EINTR {
				return
			}
		}
	}
	return w
}

func (l *senders) put(w *sender) {
	w.iov.Base, w.pin = nil, nil
	l.mu.Lock()
	if l.n < len(l.free) {
		l.free[l.n] = w
		l.n++
	}
	l.mu.Unlock()
}

func sendmsg(fd uintptr, h *unix.Msghdr, flags uintptr) (int, unix.Errno) {
	// Raw: the call does not block. Announced to the scheduler as if it might, one
	// that takes longer than 20 us costs thread switches (see internal/tcpio).
	n, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(h)), flags|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return int(n), errno
}

// Send sends a datagram or a batch. See PacketConn. It goes
//
//  1. addresses and control data are laid out once,
//  2. the batch goes out in as few calls as the limits allow,
//  3. a batch that GSO cannot send goes out datagram by datagram, and if that
//     works GSO is off for this socket from then on.
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
	w := s.senders.get(s)
	defer s.senders.put(w)
	if err := w.address(m); err != nil {
		return err
	}
	for m.Sent < len(m.Data) {
		rest := m.Data[m.Sent:]
		rest = rest[:s.batch(len(rest), size)]
		w.pin = nil
		if m.Buf != nil && len(rest) >= s.zc.least && s.zc.on.Load() {
			w.pin = m.Buf
		}
		errno, err := w.send(rest, size)
		w.pin = nil
		if errno != 0 && len(rest) > size && gsoFailure(errno) {
			errno, err = w.singly(m, rest, size)
		} else if errno == 0 && err == nil {
			m.Sent += len(rest)
		}
		if err != nil {
			return err
		}
		if errno != 0 {
			return s.sendError(m, errno)
		}
	}
	return nil
}

// batch is how many of n bytes the next call can take in segments of size.
func (s *Socket) batch(n, size int) int {
	most := 1
	if s.gso.Load() {
		most = s.caps.MaxSegments
	}
	if n <= MaxPayload && segments(n, size) <= most {
		return n
	}
	return min(n, min(most, MaxPayload/size)*size)
}

// segments is the number of datagrams in n bytes cut at size.
func segments(n, size int) int {
	if size <= 0 || size >= n {
		return 1
	}
	return (n + size - 1) / size
}

// gsoFailure says whether errno may mean that this kernel, route or device
// cannot segment: EIO comes from devices without checksum offload and from
// IPsec routes, EINVAL from a segment size the kernel does not take.
func gsoFailure(errno unix.Errno) bool {
	return errno == unix.EIO || errno == unix.EINVAL || errno == unix.EOPNOTSUPP || errno == unix.ENOPROTOOPT
}

// singly sends what GSO refused, one datagram a call. Only if that works was
// GSO the culprit: EINVAL is also the answer to segments over the MTU and to a
// source address that is not ours.
func (w *sender) singly(m *SendMsg, batch []byte, size int) (unix.Errno, error) {
	s := w.sock
	first := true
	for len(batch) > 0 {
		one := batch[:min(size, len(batch))]
		if errno, err := w.send(one, size); errno != 0 || err != nil {
			return errno, err
		}
		if first {
			first = false
			s.stats.GSOFallbacks.Add(1)
			s.gso.Store(false)
		}
		m.Sent += len(one)
		batch = batch[len(one):]
	}
	return 0, nil
}

// send makes one call. errno is the kernel's answer, err is about the socket.
func (w *sender) send(data []byte, size int) (unix.Errno, error) {
	w.iov.Base = &data[0]
	w.iov.SetLen(len(data))
	used := w.used
	if len(data) > size {
		w.putSegment(size)
	}
	w.hdr.SetControllen(w.used)
	w.hdr.Control = nil
	if w.used > 0 {
		w.hdr.Control = (*byte)(unsafe.Pointer(&w.ctl))
	}
	w.used = used // the next call may be of another shape
	if err := w.sock.rc.Control(w.call); err != nil {
		if w.sock.closed.Load() {
			return 0, net.ErrClosed
		}
		return 0, fmt.Errorf("udp: send on %s: %w", w.sock.local, err)
	}
	if w.errno == 0 {
		w.sock.stats.sent(segments(len(data), size), len(data))
	}
	return w.errno, nil
}

func (s *Socket) sendError(m *SendMsg, errno unix.Errno) error {
	switch errno {
	case unix.EAGAIN:
		s.stats.WouldBlock.Add(1)
		return ErrWouldBlock
	case unix.ENOBUFS, unix.ENOMEM:
		s.stats.NoBufs.Add(1)
		return ErrNoBuffers
	case unix.EMSGSIZE:
		s.stats.TooLong.Add(1)
		return ErrMessageTooLong
	}
	return fmt.Errorf("udp: send %d bytes from %s to %s: %w", len(m.Data), m.Local, m.Remote, errno)
}

// address fills in destination, source and traffic class.
func (w *sender) address(m *SendMsg) error {
	s := w.sock
	w.used = 0
	ip := m.Remote.Addr().Unmap()
	local := m.Local.Unmap()
	if local.IsUnspecified() {
		local = netip.Addr{}
	}
	if local.IsValid() && local.Is4() != ip.Is4() {
		return fmt.Errorf("udp: send to %s from %s: the addresses are of different families", m.Remote, m.Local)
	}
	switch {
	case !ip.IsValid() || m.Remote.Port() == 0:
		return fmt.Errorf("udp: send to %s: not a complete address", m.Remote)
	case ip.Is4() && s.v6 && !s.dual:
		return fmt.Errorf("udp: send to %s: the socket %s is IPv6 only: %w", m.Remote, s.local, unix.EAFNOSUPPORT)
	case ip.Is6() && !s.v6:
		return fmt.Errorf("udp: send to %s: the socket %s is IPv4 only: %w", m.Remote, s.local, unix.EAFNOSUPPORT)
	}
	var scope uint32
	if ip.Is6() && (ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast()) {
		scope = uint32(max(m.IfIndex, 0))
		if z := ip.Zone(); z != "" {
			var err error
			if scope, err = s.zones.index(z); err != nil {
				return fmt.Errorf("udp: send to %s: %w", m.Remote, err)
			}
		}
	}
	w.name(ip, m.Remote.Port(), scope)
	if ip.Is4() {
		w.putInet4(local, m.ECN&3)
	} else {
		w.putInet6(local, scope, m.ECN&3)
	}
	return nil
}

// name writes the destination; IPv4 is mapped on a dual-stack socket.
func (w *sender) name(ip netip.Addr, port uint16, scope uint32) {
	if !w.sock.v6 {
		w.sa4.Family = unix.AF_INET
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&w.sa4.Port))[:], port)
		w.sa4.Addr = ip.As4()
		w.hdr.Name = (*byte)(unsafe.Pointer(&w.sa4))
		w.hdr.Namelen = unix.SizeofSockaddrInet4
		return
	}
	w.sa6.Family = unix.AF_INET6
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&w.sa6.Port))[:], port)
	w.sa6.Addr = ip.As16()
	w.sa6.Scope_id = scope
	w.hdr.Name = (*byte)(unsafe.Pointer(&w.sa6))
	w.hdr.Namelen = unix.SizeofSockaddrInet6
}

// put appends a control message of n bytes and returns its data, zeroed.
func (w *sender) put(level, typ, n int) []byte {
	all := (*[unsafe.Sizeof(w.ctl)]byte)(unsafe.Pointer(&w.ctl))[:]
	b := all[w.used : w.used+unix.CmsgSpace(n)]
	clear(b)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = int32(level), int32(typ)
	h.SetLen(unix.CmsgLen(n))
	w.used += len(b)
	return b[unix.CmsgLen(0):][:n]
}

func (w *sender) putSegment(size int) {
	binary.NativeEndian.PutUint16(w.put(unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(size))
}

func (w *sender) putInet4(local netip.Addr, ecn uint8) {
	if ecn != 0 {
		binary.NativeEndian.PutUint32(w.put(unix.IPPROTO_IP, unix.IP_TOS, 4), uint32(ecn))
	}
	if local.IsValid() {
		d := w.put(unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		a := local.As4()
		copy(d[4:8], a[:])
	}
}

func (w *sender) putInet6(local netip.Addr, scope uint32, ecn uint8) {
	if ecn != 0 {
		binary.NativeEndian.PutUint32(w.put(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4), uint32(ecn))
	}
	if local.IsValid() {
		d := w.put(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		a := local.As16()
		copy(d[:16], a[:])
		binary.NativeEndian.PutUint32(d[16:], scope)
	}
}
