package forward

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

const (
	// flowIdle is how long a flow without a datagram is kept. The end of its
	// connections is encrypted; QUIC's idle timeouts are shorter.
	flowIdle = 3 * time.Minute
	// flowUnproven is the same for one whose client has not been heard of again
	// since the other process answered: its address may be a lie.
	flowUnproven = 10 * time.Second
	// maxDatagram is the largest answer passed on. Longer ones are probes for a
	// path that loopback has and the client has not.
	maxDatagram = 4 << 10
	maxFlowIDs  = 64 // connection IDs remembered of one flow
)

// flow is one client address and the process that its connections were given to.
type flow struct {
	f      *Forwarder
	target netip.AddrPort
	conn   *net.UDPConn // connected to target
	via    *Conn        // where the client's datagrams come in
	reply  udp.SendMsg  // without data

	answered atomic.Bool
	proven   atomic.Bool
	last     atomic.Int64 // unix nanoseconds

	mu  sync.Mutex
	ids map[wire.ConnID]struct{} // Destination Connection IDs of Initials that are its own
}

func (w *flow) owns(id wire.ConnID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.ids[id]
	return ok
}

func (w *flow) own(id wire.ConnID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.ids) >= maxFlowIDs {
		clear(w.ids) // of connections long past, most of them
	}
	w.ids[id] = struct{}{}
}

// send passes a client's datagram on. What the other process does not take is
// lost, as on any path.
func (w *flow) send(b []byte) {
	w.last.Store(time.Now().UnixNano())
	if w.answered.Load() {
		w.proven.Store(true)
	}
	if _, err := w.conn.Write(b); err != nil {
		w.f.stats.Dropped.Add(1)
		return
	}
	w.f.stats.ToTarget.Add(1)
}

// answers passes the other process's datagrams on until the flow is idle or
// the forwarder is closed.
func (w *flow) answers() {
	defer w.f.flows.Done()
	defer w.f.forget(w)
	buf := make([]byte, maxDatagram)
	for {
		limit := flowUnproven
		if w.proven.Load() {
			limit = flowIdle
		}
		until := time.Unix(0, w.last.Load()).Add(limit)
		_ = w.conn.SetReadDeadline(until)
		n, _, flags, _, err := w.conn.ReadMsgUDPAddrPort(buf, nil)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil && !time.Now().Before(time.Unix(0, w.last.Load()).Add(limit)):
			return
		case err != nil || n == 0:
			// Nobody listens there (ICMP), or the flow was used meanwhile.
			if err != nil && !isTimeout(err) {
				w.f.stats.Refused.Add(1)
				if !w.answered.Load() && !w.f.pause() {
					return
				}
			}
			continue
		case truncated(flags):
			w.f.stats.Dropped.Add(1)
			continue
		}
		w.answer(buf[:n])
	}
}

func (w *flow) answer(b []byte) {
	w.answered.Store(true)
	if wire.IsLong(b[0]) {
		// What the client's next Initials and Handshake packets are addressed to.
		if _, _, src, _, ok := wire.ParseInvariant(b); ok {
			if id, ok := wire.MakeConnID(src); ok {
				w.own(id)
			}
		}
	}
	m := w.reply
	m.Data = b
	if err := w.via.PacketConn.Send(&m); err != nil {
		w.f.stats.Dropped.Add(1)
		return
	}
	w.f.stats.ToClient.Add(1)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
