package nfs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/quic-fsgw/quic-fsgw/internal/backend"
	"github.com/quic-fsgw/quic-fsgw/internal/tcpio"
)

// backendConn is the TCP connection to one service for one stream. The goroutine that feeds calls
// owns its sending half, its pump (replies.go) the other.
type backendConn struct {
	s    *stream
	svc  service
	to   *target
	conn net.Conn
	gone atomic.Bool // the pump has ended
	due  atomic.Int64

	small []byte      // headers and small pieces queued, in an array that is never grown
	vec   net.Buffers // all that is queued, in order; aliases small and the stream's buffers
	tail  bool        // the last piece of vec is the end of small
	going net.Buffers // what of vec a write has not taken yet
	fresh int         // calls queued since the last flush

	sending sync.Mutex // held from a call's first octet to its last: nothing else may be written in between
	calls   callbacks  // that the backend makes
}

const (
	// smallQueue holds queued headers and small bodies; the calls of a busy moment go out in one write.
	smallQueue = 4096
	// copyBelow is the size up to which copying a piece is cheaper than a vector entry of its own.
	copyBelow = 512
	// maxVec bounds the vector of one writev.
	maxVec = 64
)

// connection returns the stream's connection to the service, dialling it at the first call for it.
func (s *stream) connection(svc service) (*backendConn, error) {
	s.mu.Lock()
	b := s.conns[svc]
	s.mu.Unlock()
	if b != nil && !b.gone.Load() {
		return b, nil
	}
	server, conn, err := s.dial(svc)
	if err != nil {
		if errors.Is(err, backend.ErrNotTried) {
			return nil, &streamError{CodeServerBusy, fmt.Errorf("%w: %w", ErrBusy, err)}
		}
		return nil, &streamError{CodeUnspecifiedError, fmt.Errorf("%w: %w", ErrBackendLost, err)}
	}
	b = &backendConn{s: s, svc: svc, conn: conn, to: server}
	b.calls.b = b
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		s.r.svc.hangUp(server, conn, &s.r.client)
		return nil, &streamError{s.code, s.err}
	}
	s.backend, s.conns[svc] = server, b
	s.pumps.Add(1)
	go b.pump()
	return b, nil
}

// begin waits until the client may move anything on a new connection.
func (b *backendConn) begin() error {
	if meter := b.s.r.client.Meter; meter != nil {
		return meter(b.s.ctx, b.to.addr, 0, 0)
	}
	return nil
}

// dial picks the backend: the stream's own, else the connection's, else the first that answers.
func (s *stream) dial(svc service) (*target, net.Conn, error) {
	r := s.r
	if s.backend != nil {
		return r.svc.dialAny(s.ctx, s.backend, svc, &r.client)
	}
	pin := r.pin.Load()
	if pin != nil {
		b, conn, err := r.svc.dialAny(s.ctx, pin, svc, &r.client)
		if err == nil || len(r.svc.targets) == 1 || s.ctx.Err() != nil {
			return b, conn, err
		}
		r.svc.log.Warn("nfs connection moves to another backend", "from", pin.String())
	}
	b, conn, err := r.svc.dialAny(s.ctx, nil, svc, &r.client)
	if err != nil {
		return nil, nil, err
	}
	r.pin.CompareAndSwap(pin, b)
	return b, conn, nil
}

// queueHead begins a call.
func (b *backendConn) queueHead(mark uint32, head []byte) error {
	b.due.Add(1)
	b.fresh++
	b.s.due.Add(1)
	b.s.r.due.Add(1)
	b.s.calls.Add(1)
	if b.gone.Load() { // the pump did not see this call when it ended
		return &streamError{CodeUnspecifiedError, fmt.Errorf("%w: %s service hung up", ErrBackendLost, b.svc)}
	}
	if err := b.queueMark(mark); err != nil {
		return err
	}
	return b.queueSmall(head)
}

func (b *backendConn) queueMark(mark uint32) error {
	return b.queueSmall([]byte{byte(mark >> 24), byte(mark >> 16), byte(mark >> 8), byte(mark)})
}

// queue takes a piece of a body. It is referred to until flush.
func (b *backendConn) queue(p []byte) error {
	if len(p) <= copyBelow {
		return b.queueSmall(p)
	}
	if len(b.vec) >= maxVec {
		if err := b.flush(); err != nil {
			return err
		}
	}
	b.vec, b.tail = append(b.vec, p), false
	return nil
}

func (b *backendConn) queueSmall(p []byte) error {
	if b.small == nil {
		b.small = make([]byte, 0, smallQueue)
	}
	if len(b.small)+len(p) > cap(b.small) || len(b.vec) >= maxVec {
		if err := b.flush(); err != nil {
			return err
		}
	}
	start := len(b.small)
	b.small = append(b.small, p...)
	piece := b.small[start:]
	if b.tail { // neighbours in small are one piece of the vector
		last := &b.vec[len(b.vec)-1]
		*last = (*last)[:len(*last)+len(piece)]
		return nil
	}
	b.vec, b.tail = append(b.vec, piece), true
	return nil
}

// flush writes what is queued. It blocks while the backend does not read, which is how its
// backpressure reaches the client.
func (b *backendConn) flush() error {
	if len(b.vec) == 0 {
		return nil
	}
	b.going = b.vec
	n, err := tcpio.WriteBuffers(b.conn, &b.going)
	b.s.up.Add(uint64(n))
	clear(b.vec)
	b.vec, b.small, b.tail = b.vec[:0], b.small[:0], false
	b.s.touch()
	if err != nil {
		return &streamError{CodeUnspecifiedError, fmt.Errorf("%w: write to %s service: %w", ErrBackendLost, b.svc, err)}
	}
	calls := b.fresh
	b.fresh = 0
	return b.pace(int(n), calls)
}

// pace tells the client's meter of what was moved and waits until more may be.
func (b *backendConn) pace(bytes, calls int) error {
	meter := b.s.r.client.Meter
	if meter == nil || bytes+calls == 0 {
		return nil
	}
	err := meter(b.s.ctx, b.to.addr, bytes, calls)
	b.s.touch() // the wait was none of the peers' making
	return err
}

// portmapper answers with the address that the client knows the gateway by.
func (s *stream) portmapper() *portmapper {
	local := s.r.client.Advertise
	if !local.IsValid() {
		local, _ = netip.ParseAddrPort(s.conn.LocalAddr().String())
	}
	return &portmapper{programs: s.r.svc.programs, local: local}
}

// mountList asks the backend for its EXPORT or DUMP list, on a connection of its own so that
// no reply can pass unfiltered, and makes the reply of what may be shown.
func (s *stream) mountList(c *Call, auth []byte) []byte {
	ctx, cancel := context.WithTimeout(s.ctx, listTimeout)
	defer cancel()
	results, err := s.askMount(ctx, c, auth)
	if err == nil {
		results, err = s.r.exports().filterList(c.Procedure, results)
	}
	if err != nil {
		s.r.svc.log.Warn("nfs MOUNT list failed", "procedure", c.Procedure, "err", err)
		return AppendAcceptError(nil, c.XID, AcceptSystemErr)
	}
	return AppendSuccess(nil, c.XID, results)
}

func (s *stream) askMount(ctx context.Context, c *Call, auth []byte) ([]byte, error) {
	server, conn, err := s.dial(serviceMount)
	if err != nil {
		return nil, err
	}
	defer s.r.svc.hangUp(server, conn, &s.r.client)
	s.mu.Lock()
	s.backend = server
	s.mu.Unlock()
	call := appendCall(nil, rand.Uint32(), c.Program, c.Version, c.Procedure, auth, nil)
	msg, err := roundTrip(ctx, conn, call, maxMountList)
	if err != nil {
		return nil, fmt.Errorf("nfs: mount service of %s: %w", server, err)
	}
	return successResults(msg)
}
