package quic

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// A datagram is one UDP payload on a scriptWire.
type datagram struct {
	data   []byte
	remote netip.AddrPort // the scripted peer's address
	at     time.Time
	ecn    uint8
	local  netip.Addr // the Conn's; invalid when it comes: the wire's
}

// A scriptWire is an in-memory udp.PacketConn whose other end is a test.
type scriptWire struct {
	local  netip.AddrPort
	in     chan datagram
	closed chan struct{}
	once   sync.Once

	mu       sync.Mutex
	out      []datagram
	segments int                      // what Caps reports
	refuse   func(*udp.SendMsg) error // non-nil: what Send returns instead of sending, if not nil
	writable []func()
	held     chan struct{} // non-nil: Recv waits until it is closed
}

var _ udp.PacketConn = (*scriptWire)(nil)

func newScriptWire(local netip.AddrPort) *scriptWire {
	return &scriptWire{local: local, in: make(chan datagram, 1<<14), closed: make(chan struct{}), segments: 16}
}

func (w *scriptWire) Recv(m *udp.RecvMsg) error {
	w.mu.Lock()
	held := w.held
	w.mu.Unlock()
	if held != nil {
		<-held
	}
	if len(w.in) == 0 && m.Idle != nil {
		m.Idle()
	}
	select {
	case d := <-w.in:
		m.N = copy(m.Buf, d.data)
		m.SegmentSize, m.Remote, m.Local, m.ECN = m.N, d.remote, w.local.Addr(), d.ecn
		if d.local.IsValid() {
			m.Local = d.local
		}
		return nil
	case <-w.closed:
		return net.ErrClosed
	}
}

func (w *scriptWire) Send(m *udp.SendMsg) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m.Sent = 0
	if isClosed(w.closed) {
		return net.ErrClosed
	}
	if w.refuse != nil {
		if err := w.refuse(m); err != nil {
			return err
		}
	}
	size := m.SegmentSize
	if size <= 0 {
		size = len(m.Data)
	}
	now := time.Now()
	for b := m.Data; len(b) > 0; {
		n := min(size, len(b))
		w.out = append(w.out, datagram{data: bytes.Clone(b[:n]), remote: m.Remote, at: now, ecn: m.ECN, local: m.Local})
		b = b[n:]
	}
	m.Sent = len(m.Data)
	return nil
}

// setRefuse makes Send ask f first.
func (w *scriptWire) setRefuse(f func(*udp.SendMsg) error) {
	w.mu.Lock()
	w.refuse = f
	w.mu.Unlock()
}

// hold stops the reader before its next Recv; release lets it go on.
func (w *scriptWire) hold() (release func()) {
	held := make(chan struct{})
	w.mu.Lock()
	w.held = held
	w.mu.Unlock()
	return func() {
		w.mu.Lock()
		w.held = nil
		w.mu.Unlock()
		close(held)
	}
}

func (w *scriptWire) OnWritable(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writable = append(w.writable, f)
}

// wake calls what waits for the socket to be writable.
func (w *scriptWire) wake() {
	w.mu.Lock()
	fs := w.writable
	w.writable = nil
	w.mu.Unlock()
	for _, f := range fs {
		f()
	}
}

func (w *scriptWire) LocalAddr() netip.AddrPort { return w.local }

func (w *scriptWire) Caps() udp.Caps { return udp.Caps{MaxSegments: w.segments, ECN: true, DF: true} }

func (w *scriptWire) Close() error {
	w.once.Do(func() { close(w.closed) })
	w.wake()
	return nil
}

// take returns what was sent since the last take.
func (w *scriptWire) take() []datagram {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.out
	w.out = nil
	return out
}

func packetConns(w *scriptWire) []udp.PacketConn { return []udp.PacketConn{w} }

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func wouldBlock(*udp.SendMsg) error { return udp.ErrWouldBlock }

// batchOf is one receive call of n equal datagrams with stream data.
func batchOf(tc *testConn, n int) rxBatch {
	buf := udp.NewBuffer()
	used, segment := 0, 0
	for i := range n {
		// fixed-width offsets keep the datagrams equal
		off := uint64(1<<16 + 500*i)
		d := tc.build(wire.Packet1RTT, streamFrame(tc.peerStream(0, false), off, pattern(off, 500), false))
		segment = len(d)
		used += copy(buf.Bytes()[used:], d)
	}
	return rxBatch{buf: buf, data: buf.Bytes()[:used], segment: segment, total: used, remote: tc.remote, local: tc.wire.local.Addr()}
}
