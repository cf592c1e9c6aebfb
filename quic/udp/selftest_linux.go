package udp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Some kernels corrupt batches: Linux 7.0 and 7.1 with certain drivers, and
// whatever comes next. A batch whose contents or boundaries are wrong costs the
// connection every packet in it. So the first socket of each type tries batches
// of several shapes over loopback, in both ways of receiving them, and compares
// what comes out with what went in. What only shows on a path is noticed by
// the transport (quic/fault.go).

// batchShapes are the batches that are tried: bytes and segment size.
var batchShapes = [...]struct{ total, segment int }{
	{2 * 1200, 1200},         // the least there is
	{2*1200 + 1, 1200},       // with a short last datagram
	{46 * 1400, 1400},        // 64 KiB of Ethernet's datagrams
	{44*1452 + 700, 1452},    // and of full ones
	{MaxSegments * 500, 500}, // as many as a batch may have
	{7 * 8952, 8952},         // jumbo frames
	{3*16000 + 9000, 16000},
}

// selfTestWait bounds the wait for a datagram that was sent over loopback.
const selfTestWait = time.Second

// errCorrupted: a batch arrived otherwise than it was sent.
var errCorrupted = errors.New("udp: batches are corrupted")

// batchResult is what trying batches found.
type batchResult struct {
	err    error // nil: all of them arrived as they were sent
	broken bool  // err is about contents; otherwise they could not be tried
}

// tryBatches sends each shape from one socket to another and compares. It may
// be that a batch arrives in pieces, or joined; what counts is each datagram's
// contents and size, in order.
func tryBatches(from, to PacketConn, remote netip.AddrPort) batchResult {
	if from.Caps().MaxSegments < 2 {
		return batchResult{err: ErrNotSupported}
	}
	stop := time.AfterFunc(selfTestWait*time.Duration(len(batchShapes)), func() { to.Close() })
	defer stop.Stop()
	m := RecvMsg{Buf: make([]byte, MinRecvBuffer)}
	for n, shape := range batchShapes {
		sent := make([]byte, shape.total)
		for i := range sent {
			sent[i] = byte(i>>8) ^ byte(i*7) ^ byte(n*31)
		}
		if err := from.Send(&SendMsg{Data: sent, SegmentSize: shape.segment, Remote: remote, DontFragment: true}); err != nil {
			return batchResult{err: err}
		}
		if from.Caps().MaxSegments < 2 {
			return batchResult{err: ErrNotSupported} // found out meanwhile: it was sent one by one
		}
		wait := time.AfterFunc(selfTestWait, func() { to.Close() })
		err := receiveBatch(from, to, &m, sent, shape.segment)
		wait.Stop()
		if err != nil {
			return batchResult{err: fmt.Errorf("a batch of %d bytes in datagrams of %d: %w", shape.total, shape.segment, err), broken: true}
		}
	}
	return batchResult{}
}

// receiveBatch receives what was sent and compares it, datagram by datagram.
func receiveBatch(from, to PacketConn, m *RecvMsg, want []byte, segment int) error {
	for at := 0; len(want) > 0; {
		if err := to.Recv(m); errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("datagram %d did not arrive: %w", at, errCorrupted)
		} else if err != nil {
			return err
		}
		if m.Remote != from.LocalAddr() {
			continue // anybody may send to an open port
		}
		for got := m.Buf[:m.N]; len(got) > 0; at++ {
			n := min(m.SegmentSize, len(got))
			if n != min(segment, len(want)) {
				return fmt.Errorf("datagram %d arrived with %d bytes: %w", at, n, errCorrupted)
			}
			if !bytes.Equal(got[:n], want[:n]) {
				return fmt.Errorf("datagram %d arrived with other contents: %w", at, errCorrupted)
			}
			got, want = got[n:], want[n:]
		}
	}
	return nil
}

// An Offload is what a self-test found of one socket type.
type Offload struct {
	GSO, GRO error // why it must not be used; nil: it works, or nothing is known
	said     sync.Once
}

// judge tries batches with and without GRO at the receiving end: what is wrong
// without is the sender's fault.
func judge(open func(gro bool) (from, to PacketConn, remote netip.AddrPort, err error)) *Offload {
	o := &Offload{}
	try := func(gro bool) batchResult {
		from, to, remote, err := open(gro)
		if err != nil {
			return batchResult{err: err}
		}
		defer from.Close()
		defer to.Close()
		return tryBatches(from, to, remote)
	}
	if r := try(true); !r.broken {
		return o
	} else if plain := try(false); plain.broken {
		o.GSO = plain.err
	} else {
		o.GRO = r.err
	}
	return o
}
