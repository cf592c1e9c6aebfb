package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiver is the memory of recvmsg. It lives as long as the socket, so that a
// receive allocates nothing; mu lends it to one Recv at a time.
type receiver struct {
	mu    sync.Mutex
	sock  *Socket
	hdr   unix.Msghdr
	iov   unix.Iovec
	name  unix.RawSockaddrInet6 // large enough for both families
	ctl   [32]uint64            // control data, aligned as the kernel wants it
	n     int
	errno unix.Errno
	ovfl  uint32 // last SO_RXQ_OVFL seen, counts modulo 2^32
	watch watch
	run   int                   // results since the reader last had to wait
	read  func(fd uintptr) bool // these two are made once
	now   func(fd uintptr)
	idle  func() // of the Recv under way
	fails error  // of read
}

// busyRun is how many receives in a row make a reader busy. While it is,
// arriving datagrams need not be events: they would wake a thread that finds
// nobody waiting.
const busyRun = 3

// maxQuiet bounds how many useless results (empty datagrams, ICMP errors) are
// passed over before the poller is asked again whether the socket is closed:
// a flood of them must not make Close wait.
const maxQuiet = 64

func (r *receiver) init(s *Socket) {
	r.sock = s
	r.hdr.Name = (*byte)(unsafe.Pointer(&r.name))
	r.hdr.Control = (*byte)(unsafe.Pointer(&r.ctl))
	r.hdr.Iov = &r.iov
	r.hdr.SetIovlen(1)
	r.watch.init(s, unix.EPOLLIN)
	r.read = func(uintptr) bool {
		if r.fails = s.rc.Control(r.now); r.fails != nil || r.errno != unix.EAGAIN {
			return true
		}
		// What arrives from here on is an event.
		if !r.watch.on {
			if r.fails = r.watch.ask(true); r.fails != nil {
				return true
			}
			r.run = 0
			// What has arrived in between need not be one, see ask.
			if r.fails = s.rc.Control(r.now); r.fails != nil || r.errno != unix.EAGAIN {
				return true
			}
		}
		r.run = 0
		if s.zc.held.Load() > 0 {
			_ = s.rc.Control(s.zc.reaper) // completions are events, too
		}
		if r.idle != nil {
			r.idle()
		}
		return false
	}
	r.now = r.receive
}

// wait receives, waiting until there is something.
func (r *receiver) wait() error {
	r.fails = nil
	if err := r.watch.wait(r.read); err != nil {
		return err
	}
	if r.fails != nil {
		return r.fails
	}
	return r.counted()
}

// counted counts a receive.
func (r *receiver) counted() error {
	if r.run++; r.run == busyRun {
		return r.watch.ask(false)
	}
	return nil
}

// Recv blocks until something arrived. See PacketConn.
func (s *Socket) Recv(m *RecvMsg) error {
	if len(m.Buf) < MinRecvBuffer {
		return ErrShortBuffer
	}
	r := &s.recv
	r.mu.Lock()
	defer r.mu.Unlock()
	r.iov.Base = &m.Buf[0]
	r.iov.SetLen(len(m.Buf))
	r.idle = m.Idle
	defer func() { r.iov.Base, r.idle = nil, nil }() // the buffer goes back to its pool
	if err := r.watch.open(); err != nil {
		return s.recvError(err)
	}
	for failed := 0; ; {
		draining := s.drain.active.Load()
		var err error
		if draining {
			// The deadline has passed, so the watch would not even try.
			err = s.rc.Control(r.now)
		} else {
			err = r.wait()
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && s.drain.active.Load():
			continue
		case err != nil:
			return s.recvError(err)
		case r.errno == unix.EAGAIN: // only while draining: empty, and nothing will come
			s.drain.finish()
			return net.ErrClosed
		case r.errno != 0:
			// A socket that only ever fails must not spin.
			if failed++; failed > maxQuiet || !transient(r.errno) {
				return s.recvError(r.errno)
			}
			continue
		case r.n == 0: // passed over maxQuiet times
			continue
		}
		return r.fill(m)
	}
}

func (s *Socket) recvError(err error) error {
	if s.closed.Load() || errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	return fmt.Errorf("udp: receive on %s: %w", s.local, err)
}

// receive calls recvmsg until there is data or nothing to read, at most
// maxQuiet times.
func (r *receiver) receive(fd uintptr) {
	for range maxQuiet {
		r.hdr.Namelen = uint32(unsafe.Sizeof(r.name))
		r.hdr.SetControllen(int(unsafe.Sizeof(r.ctl)))
		r.hdr.Flags = 0
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.hdr)), unix.MSG_DONTWAIT)
		r.n, r.errno = int(n), errno
		st := &r.sock.stats
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			if !transient(errno) {
				return
			}
			st.RecvErrors.Add(1)
		case n == 0:
			// A zero-length datagram is legal UDP and never QUIC. It was taken
			// off the queue, so the next call sees the next one.
			st.RecvCalls.Add(1)
			st.EmptyDatagrams.Add(1)
		case r.hdr.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
			// Without all control data the segment size would be a guess.
			st.RecvCalls.Add(1)
			st.Truncated.Add(1)
			r.n = 0
		default:
			return
		}
	}
}

// transient says whether errno is the fate of something sent earlier (an ICMP
// error the kernel kept for us) or a passing shortage, not of the socket.
func transient(errno unix.Errno) bool {
	switch errno {
	case unix.ECONNREFUSED, unix.ECONNRESET, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN,
		unix.ENONET, unix.EPROTO, unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EMSGSIZE, unix.ETIMEDOUT, unix.EACCES,
		unix.EPERM, unix.ENOMEM, unix.ENOBUFS, unix.EINTR:
		return true
	}
	return false
}

// fill tells m what came.
func (r *receiver) fill(m *RecvMsg) error {
	s := r.sock
	m.N, m.SegmentSize = r.n, r.n
	m.Local, m.IfIndex, m.ECN = netip.Addr{}, 0, 0
	r.control(m)
	m.Remote = r.remote()
	s.stats.received(segments(m.N, m.SegmentSize), m.N)
	return nil
}

func (r *receiver) remote() netip.AddrPort {
	port := (*[2]byte)(unsafe.Pointer(&r.name.Port))
	p := binary.BigEndian.Uint16(port[:])
	if r.name.Family == unix.AF_INET {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.name))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), p)
	}
	a := netip.AddrFrom16(r.name.Addr).Unmap()
	if r.name.Scope_id != 0 && a.Is6() {
		a = a.WithZone(r.sock.zones.name(r.name.Scope_id))
	}
	return netip.AddrPortFrom(a, p)
}

// control reads the control messages.
func (r *receiver) control(m *RecvMsg) {
	all := (*[unsafe.Sizeof(r.ctl)]byte)(unsafe.Pointer(&r.ctl))[:]
	eachControl(all[:min(uint64(r.hdr.Controllen), uint64(len(all)))], func(level, typ int32, d []byte) {
		r.controlMessage(m, level, typ, d)
	})
}

// eachControl calls f for each control message in b. The kernel wrote them; the
// bounds are checked all the same.
func eachControl(b []byte, f func(level, typ int32, d []byte)) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		size := uint64(h.Len)
		if size < uint64(unix.CmsgLen(0)) || size > uint64(len(b)) {
			return
		}
		f(h.Level, h.Type, b[unix.CmsgLen(0):size])
		step := unix.CmsgSpace(int(size) - unix.CmsgLen(0))
		if step >= len(b) {
			return
		}
		b = b[step:]
	}
}

func (r *receiver) controlMessage(m *RecvMsg, level, typ int32, d []byte) {
	switch {
	case level == unix.IPPROTO_IP && typ == unix.IP_TOS && len(d) >= 1:
		m.ECN = d[0] & 3
	case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_TCLASS && len(d) >= 4:
		m.ECN = uint8(binary.NativeEndian.Uint32(d)) & 3
	case level == unix.IPPROTO_IP && typ == unix.IP_PKTINFO && len(d) >= unix.SizeofInet4Pktinfo:
		m.IfIndex = int(int32(binary.NativeEndian.Uint32(d)))
		m.Local = netip.AddrFrom4([4]byte(d[4:8])) // ipi_spec_dst: ours, also for a broadcast
	case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_PKTINFO && len(d) >= unix.SizeofInet6Pktinfo:
		if m.Local.IsValid() {
			return // IPv4 on a dual-stack socket comes with both
		}
		m.Local = netip.AddrFrom16([16]byte(d[:16])).Unmap()
		m.IfIndex = int(int32(binary.NativeEndian.Uint32(d[16:])))
	case level == unix.SOL_UDP && typ == unix.UDP_GRO && len(d) >= 4:
		if size := int(int32(binary.NativeEndian.Uint32(d))); size > 0 && size < m.N {
			m.SegmentSize = size
		}
	case level == unix.SOL_SOCKET && typ == unix.SO_RXQ_OVFL && len(d) >= 4:
		total := binary.NativeEndian.Uint32(d)
		r.sock.stats.RxQueueOverflow.Add(uint64(total - r.ovfl))
		r.ovfl = total
	}
}
