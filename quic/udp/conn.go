// Package udp is the boundary between QUIC and the kernel: UDP sockets that
// send and receive whole batches (GSO, GRO), report and set ECN, answer from
// the address a packet came to, and form groups in which every packet of a
// connection reaches the same socket.
//
// Nothing here blocks a sender. A receiver blocks in the runtime's poller.
package udp

import (
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
)

// Limits of one batch.
const (
	// MaxSegments is the largest number of datagrams in one GSO send. Newer
	// kernels take 128; 64 is what every kernel with GSO takes.
	MaxSegments = 64
	// MaxPayload is the largest payload of one send in bytes, all segments
	// together: an IPv4 packet of 65535 bytes without its two headers.
	MaxPayload = 65507
	// MinRecvBuffer is the room Recv needs in RecvMsg.Buf: with GRO the kernel
	// hands over up to 64 KiB and cuts what does not fit.
	MinRecvBuffer = 1 << 16
)

// ECN codepoints as they stand in the two low bits of the IP header's traffic
// class (RFC 3168, Section 5).
const (
	NotECT uint8 = 0
	ECT1   uint8 = 1
	ECT0   uint8 = 2
	CE     uint8 = 3
)

// Errors of Send. All are values: they are returned on the hot path and cost
// nothing.
var (
	// ErrWouldBlock: the socket's send buffer is full. SendMsg.Sent bytes were
	// taken (0 unless a batch had to be sent in pieces); call OnWritable.
	ErrWouldBlock = errors.New("udp: send buffer is full")
	// ErrNoBuffers: the kernel or the device had no room for the packet.
	// Nobody will say when there is room again: treat it as loss.
	ErrNoBuffers = errors.New("udp: no buffer space in the kernel or the device queue")
	// ErrMessageTooLong: a datagram does not fit the interface's MTU (or
	// MaxPayload) and must not be fragmented.
	ErrMessageTooLong = errors.New("udp: datagram is larger than the interface allows")
	// ErrInterrupted: Interrupt was called.
	ErrInterrupted = errors.New("udp: receive was interrupted")
	// ErrShortBuffer: RecvMsg.Buf has less than MinRecvBuffer bytes.
	ErrShortBuffer = errors.New("udp: receive buffer is smaller than 64 KiB")
	errEmpty       = errors.New("udp: nothing to send: empty datagram")
	// ErrNotSupported: an option set to On is not offered by this kernel.
	ErrNotSupported = errors.New("udp: not supported by this system")
)

// Mode says whether an offload is used.
type Mode uint8

// Modes of an offload.
const (
	Auto Mode = iota // use it where the kernel offers it
	On               // fail to open the socket without it
	Off              // never use it
)

// String returns "auto", "on" or "off".
func (m Mode) String() string {
	switch m {
	case On:
		return "on"
	case Off:
		return "off"
	}
	return "auto"
}

// Config configures a socket. The zero value is the default.
type Config struct {
	GSO, GRO Mode
	// Zerocopy is MSG_ZEROCOPY for sends of 32 KiB and more from a Buffer
	// (SendMsg.Buf), given up when the kernel copies all the same. It pays where
	// memory bandwidth is short; Auto does without.
	Zerocopy Mode
	// RecvBuffer and SendBuffer are sizes in bytes; 0 is as large as allowed.
	// The kernel may grant less (or book twice the size): Caps has its answer.
	RecvBuffer, SendBuffer int
	// MaxSegments bounds one GSO send: 1 to 64, 0 is 64.
	MaxSegments int
	// Logger hears of offloads that are switched off because a self-test found
	// them broken; nil: nobody does.
	Logger *slog.Logger
	// untested: no self-test, this socket is part of one.
	untested bool
	// Layout is the connection-ID layout a group steers by. The zero value is
	// the default layout.
	Layout Layout
}

// Caps is what a socket can do, as found by asking the kernel.
type Caps struct {
	MaxSegments int  // datagrams a send may carry; 1: no GSO (or it was found broken)
	GRO         bool // Recv may return several datagrams at once
	ECN         bool // codepoints are reported and can be set
	DF          bool // datagrams are never fragmented
	Zerocopy    bool // large sends are not copied (as far as was found out)
	RecvBuffer  int  // bytes, as read back from the kernel; 0 unknown
	SendBuffer  int  // bytes, as read back from the kernel; 0 unknown
}

// PacketConn is the process/kernel boundary: a *Socket, or a simulated one.
// All methods may be called at the same time.
type PacketConn interface {
	// Recv blocks until a datagram, or a run of them with equal size, is in m.
	// It returns net.ErrClosed after Close and when a replaced socket is empty.
	Recv(m *RecvMsg) error
	// Send never blocks and never keeps m or its data, except as SendMsg.Buf says.
	Send(m *SendMsg) error
	// OnWritable calls f once from another goroutine when Send may succeed
	// again, or when the socket is closed. f must not block.
	OnWritable(f func())
	// LocalAddr is the bound address; unspecified for a wildcard socket.
	LocalAddr() netip.AddrPort
	// Caps can change once: MaxSegments falls to 1 when GSO proves broken.
	Caps() Caps
	// Close closes the socket. Recv, and who waits to send, return net.ErrClosed.
	Close() error
}

var _ PacketConn = (*Socket)(nil)

// RecvMsg is one receive. Buf is the caller's, the rest is filled in.
type RecvMsg struct {
	Buf []byte // in: at least MinRecvBuffer bytes
	// Idle, if set, is called when there is nothing to receive, before Recv
	// waits, perhaps more than once. It may send on the same socket. It must
	// not receive on it or close it.
	Idle func()
	N    int // bytes received, > 0
	// SegmentSize is the size of each datagram in Buf[:N]; the last may be
	// shorter. It equals N for a lone datagram.
	SegmentSize int
	Remote      netip.AddrPort // sender; IPv4-mapped addresses are unmapped
	Local       netip.Addr     // address the packet came to; zero if unknown
	IfIndex     int            // interface it came in on; 0 if unknown
	ECN         uint8          // NotECT, ECT1, ECT0 or CE
}

// SendMsg is one send: a datagram, or a batch of equal datagrams.
type SendMsg struct {
	Data []byte
	// SegmentSize cuts Data into datagrams of this size, the last may be
	// shorter. 0 or >= len(Data): one datagram. Batches over the limits are
	// sent in several system calls.
	SegmentSize int
	Remote      netip.AddrPort
	// Local is the source address, normally RecvMsg.Local of the path; the
	// zero Addr lets routing choose.
	Local netip.Addr
	// IfIndex is the interface for link-local remotes without a zone. Other
	// remotes are routed: a reply need not leave where its packet came in.
	IfIndex int
	ECN     uint8 // NotECT, ECT1 or ECT0
	// Buf, if not nil, holds Data and a reference of the caller's. Then Data may
	// be sent later than Send returns, from where it lies: the socket retains
	// Buf until it is sent, and nobody may write to it before.
	Buf *Buffer
	// DontFragment is what QUIC always wants. Kernel sockets set DF on all
	// they send; a simulated network may look at it.
	DontFragment bool
	// Sent is set by Send: the bytes of Data the kernel has taken. On an error
	// Data[Sent:] was not sent. It is 0 or len(Data) unless a batch went out in
	// several system calls.
	Sent int
}

// Stats counts what a socket did. Fields only grow; read them at any time.
type Stats struct {
	SendCalls        atomic.Uint64 // sendmsg calls that sent something
	SendDatagrams    atomic.Uint64
	SendBytes        atomic.Uint64
	RecvCalls        atomic.Uint64 // recvmsg calls that returned something
	RecvDatagrams    atomic.Uint64
	RecvBytes        atomic.Uint64
	EmptyDatagrams   atomic.Uint64 // zero-length datagrams, dropped
	Truncated        atomic.Uint64 // datagrams or control data cut, dropped
	RecvErrors       atomic.Uint64 // ICMP and other transient errors, ignored
	SelfTestFailures atomic.Uint64 // offloads switched off because batches were corrupted over loopback
	GSOFallbacks     atomic.Uint64 // batches sent one by one because GSO failed
	RxQueueOverflow  atomic.Uint64 // datagrams the kernel dropped: queue full (SO_RXQ_OVFL)
	WouldBlock       atomic.Uint64
	NoBufs           atomic.Uint64
	TooLong          atomic.Uint64

	ZerocopySends     atomic.Uint64 // sends with MSG_ZEROCOPY
	ZerocopyCopied    atomic.Uint64 // of which the kernel copied after all
	ZerocopyAbandoned atomic.Uint64 // of which were not complete long after the socket was closed
}

// work is what Work returns.
var work atomic.Uint64

// Work grows with what all sockets of this process have sent and received: by its
// bytes, and by 1024 for each datagram. It serves to compare rates.
func Work() uint64 { return work.Load() }

func (s *Stats) sent(datagrams, bytes int) {
	s.SendCalls.Add(1)
	s.SendDatagrams.Add(uint64(datagrams))
	s.SendBytes.Add(uint64(bytes))
	work.Add(uint64(bytes) + 1024*uint64(datagrams))
}

func (s *Stats) received(datagrams, bytes int) {
	s.RecvCalls.Add(1)
	s.RecvDatagrams.Add(uint64(datagrams))
	s.RecvBytes.Add(uint64(bytes))
	work.Add(uint64(bytes) + 1024*uint64(datagrams))
}
