package quic

import (
	"bytes"
	"errors"
	"net"
	"runtime"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

// The reader of a socket. What a batch makes a connection want to send
// (acknowledgements, mostly) is not sent at once: more batches may be waiting
// in the socket, and the application may be about to answer. In order:
//
//  1. Recv takes a batch, dispatch hands its runs to their connections.
//  2. A connection that wants to send something is put on the late list.
//  3. After a small batch the application gets the processor for a moment: what
//     it sends takes the acknowledgement along.
//  4. When the socket is empty, or enough has been received, the list is
//     worked off. Recv says that the socket is empty before it waits. After
//     enough, those who were woken get the processor: they take the bytes while
//     these are in its cache, and the peer gets credit before its window ends.
//
// A connection's own timer, and whoever takes its lock in between, sends as
// usual: then there is nothing left to do for it.

// Limits of what is put off.
const (
	maxLateBytes = 256 << 10 // received, by whomever, before acknowledgements go out all the same
	maxLateConns = 32
	minLateCost  = 2 << 10 // what a receive call counts at least: a flood of tiny datagrams takes time, too
)

// lateList is the connections of one reader that may have something to send.
type lateList struct {
	conns []*Conn
	bytes int
}

func (l *lateList) add(c *Conn) {
	for _, x := range l.conns {
		if x == c {
			return
		}
	}
	l.conns = append(l.conns, c)
}

func (l *lateList) full() bool { return l.bytes >= maxLateBytes || len(l.conns) >= maxLateConns }

// flush lets the connections send.
func (l *lateList) flush() {
	for i, c := range l.conns {
		c.flushLate()
		l.conns[i] = nil
	}
	l.conns, l.bytes = l.conns[:0], 0
}

// A socketReader is what it takes to read a socket.
type socketReader struct {
	buf  *udp.Buffer
	msg  udp.RecvMsg
	late lateList
	last *Conn // had the last batch, nil: it was nobody's, or several's
	run  int   // batches before that one that it had in a row

	yield yielder
}

// A yielder gives the processor to others for a moment, and the less often the
// longer they have kept it: where many have work, the reader must not stand behind
// all of them each time.
type yielder struct {
	skips, left int // times not to do it after this one, and of those still to come
}

const (
	yieldPatience = time.Millisecond
	maxYieldSkips = 1023
)

func (y *yielder) once() {
	if y.left > 0 {
		y.left--
		return
	}
	start := time.Now()
	runtime.Gosched()
	y.took(time.Since(start))
}

// took judges by how long others had the processor.
func (y *yielder) took(d time.Duration) {
	if d > yieldPatience {
		y.skips = min(2*y.skips+1, maxYieldSkips)
	} else {
		y.skips /= 2
	}
	y.left = y.skips
}

func (r *socketReader) init() {
	r.buf = udp.NewBuffer()
	r.late.conns = make([]*Conn, 0, maxLateConns)
	r.msg.Idle = r.late.flush
}

func (r *socketReader) receive(pc udp.PacketConn) error {
	r.msg.Buf = r.buf.Bytes()
	return pc.Recv(&r.msg)
}

// process dispatches what was received, and sends what was put off long enough.
func (r *socketReader) process(e *Endpoint, s *shard) {
	before, run := r.last, r.run
	r.last, r.run = nil, 0
	e.dispatch(s, r)
	if r.last != nil && r.last == before {
		r.run = run + 1
	}
	r.late.bytes += max(r.msg.N, minLateCost)
	if r.buf.Refs() > 1 {
		r.buf.Release()
		r.buf = udp.NewBuffer()
	}
	if r.late.full() {
		one := len(r.late.conns) == 1
		r.late.flush()
		if one {
			r.yield.once()
		}
	}
}

// readLoop reads a socket until it is closed.
func (e *Endpoint) readLoop(st *seat) {
	defer func() { st.buf.Release() }()
	defer st.late.flush()
	for {
		err := st.receive(st.pc)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			e.stats.RecvErrors.Add(1)
			st.late.flush()
			select { // an error that repeats must not spin
			case <-time.After(time.Millisecond):
			case <-e.closed:
				return
			}
			continue
		}
		st.process(e, st.sh)
		if len(st.late.conns) > 0 && st.msg.N < viewThreshold {
			runtime.Gosched()
		}
		if st.mayLend() {
			st.lend(e)
		}
	}
}

// dispatch hands runs of datagrams with equal connection IDs to their connections.
func (e *Endpoint) dispatch(s *shard, r *socketReader) {
	buf, m := r.buf, &r.msg
	seg := m.SegmentSize
	if seg <= 0 || seg > m.N {
		seg = m.N
	}
	data := m.Buf[:m.N]
	for len(data) > 0 {
		id, ok := e.dstOf(data[:min(seg, len(data))])
		end := e.runOf(data, seg, id, ok)
		run := data[:end]
		data = data[end:]
		if !ok {
			e.stats.DropHeader.Add(1)
			continue
		}
		e.mu.RLock()
		c := e.conns[id]
		e.mu.RUnlock()
		batch := rxBatch{buf: buf, data: run, segment: seg, total: m.N, remote: m.Remote, local: m.Local, ifIndex: m.IfIndex, ecn: m.ECN, via: s}
		if c == nil {
			e.unknown(s, &batch, id)
			r.last = nil
			continue
		}
		r.last = c
		if c.receive(&batch) {
			r.late.add(c)
		}
	}
}

// runOf returns the end of the run of datagrams at the start of data that all
// have the ID of the first.
func (e *Endpoint) runOf(data []byte, seg int, id wire.ConnID, ok bool) int {
	end := min(seg, len(data))
	if !ok {
		return end
	}
	if !wire.IsLong(data[0]) {
		// Short headers, the usual case: the IDs lie at the same place.
		n := 1 + e.layout.Size()
		for end+n <= len(data) && !wire.IsLong(data[end]) && bytes.Equal(data[1:n], data[end+1:end+n]) {
			end = min(end+seg, len(data))
		}
		return end
	}
	for end < len(data) {
		next, ok := e.dstOf(data[end:min(end+seg, len(data))])
		if !ok || next != id {
			break
		}
		end = min(end+seg, len(data))
	}
	return end
}
