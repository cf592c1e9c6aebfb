package quic

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// Reading in place. Handing what arrives from the reader to a goroutine that
// waits for it wakes a second thread for every packet, which costs a small
// exchange more than all the rest of the protocol. So where a connection takes
// turns (turns.go) and has its socket to itself, the goroutine that waits reads
// the socket meanwhile. In order:
//
//  1. The reader, seeing one connection take turns and no other, offers its
//     seat and goes to sleep.
//  2. Who would wait at a gate takes the seat, and receives and dispatches until
//     the gate opens. Whoever else opens the gate interrupts that.
//  3. It leaves the seat on offer, and goes about its business.
//  4. When the seat was empty for seatPatience, or somebody else's packets come,
//     or the connection no longer takes turns, the reader takes its seat back.
//
// While nothing arrives the reader sleeps without a timer.
//
// Who waits in the kernel keeps one of the runtime's processors (GOMAXPROCS)
// until its monitor takes that away, which takes it between 20 microseconds and
// 10 milliseconds. So one processor always remains for everybody else, and a
// connection's seat goes only to one who answers himself what he has read: in a
// relay others answer meanwhile, need that processor, and would wait for the
// monitor with each message. Where there is but one processor its guests share it:
// they look for what arrives with the others running between looks, and wait in
// the poller.

const (
	// seatPatience is how long a seat may be empty: nobody reads the socket then.
	seatPatience = time.Millisecond
	// seatRun is how many batches in a row one connection must have had.
	seatRun = 16
	// maxSeatPause bounds the batches that are read between two offers that
	// nobody took; the pause doubles each time.
	maxSeatPause = 1 << 14
)

// lentSeats counts the seats of this process that are on offer or taken.
var lentSeats atomic.Int32

// Who sits in a seat.
const (
	seatReader int32 = iota // the socket's reader
	seatEmpty
	seatGuest
)

// directConn is what a PacketConn needs so that its seat can be lent: see *udp.Socket.
type directConn interface {
	RecvDirect(m *udp.RecvMsg, share bool) error
	Interrupt()
}

// A seat is the right to read a socket, with what is needed to do so.
type seat struct {
	state   atomic.Int32
	woken   atomic.Bool // the guest's gate was opened
	waiting atomic.Bool // the guest is about to wait for the socket
	wanted  atomic.Bool // the reader wants the seat back
	dozing  atomic.Bool // the reader sleeps until it is called
	wasted  atomic.Bool // others answered while the guest waited
	visits  atomic.Uint32
	call    chan struct{} // calls the reader

	sh     *shard
	pc     udp.PacketConn
	direct directConn // nil: the seat is never lent
	socketReader
	end guestEnd // these two are of whoever has the seat

	// The reader's own.
	pause, skip int // batches
}

func newSeat(sh *shard, pc udp.PacketConn) *seat {
	st := &seat{sh: sh, pc: pc, call: make(chan struct{}, 1)}
	st.direct, _ = pc.(directConn)
	st.init()
	return st
}

// wake ends the stay of the guest whose gate has opened.
func (st *seat) wake() {
	st.woken.Store(true)
	if st.waiting.Load() {
		st.direct.Interrupt()
	}
}

func (st *seat) callReader() {
	select {
	case st.call <- struct{}{}:
	default:
	}
}

// waitInPlace waits at a gate by reading the socket, until ctx is done at the
// latest. It reports false at once if the socket has its reader.
func (c *Conn) waitInPlace(ctx context.Context, g *gate) bool {
	st := c.shard().seat.Load()
	if st == nil || st.wanted.Load() || st.state.Load() != seatEmpty || !st.state.CompareAndSwap(seatEmpty, seatGuest) {
		return false
	}
	st.woken.Store(false)
	g.seat.Store(st)
	st.end.watch(ctx, g)
	for ctx.Err() == nil && !st.wanted.Load() && !st.woken.Load() && !g.take() {
		if !st.step(c.ep, c) {
			break
		}
		// Nobody else is going to: the wait in RecvDirect has no end of its own.
		st.late.flush()
	}
	g.seat.Store(nil) // from here on the gate's channel is used again
	st.visits.Add(1)
	st.state.Store(seatEmpty)
	if st.wanted.Load() || st.dozing.Load() {
		st.callReader()
	}
	return true
}

// A guestEnd opens a gate when a context is done. It stays for the next guest, who
// is mostly the same: to set it up costs as much as to open a packet.
type guestEnd struct {
	done <-chan struct{}
	gate *gate
	stop func() bool
}

func (e *guestEnd) watch(ctx context.Context, g *gate) {
	done := ctx.Done()
	if done == nil || done == e.done && g == e.gate {
		return
	}
	e.drop()
	e.done, e.gate, e.stop = done, g, context.AfterFunc(ctx, g.open)
}

func (e *guestEnd) drop() {
	if e.stop != nil {
		e.stop()
	}
	*e = guestEnd{}
}

// step receives once as a guest of connection c. It reports false when the
// reader has to take over.
func (st *seat) step(e *Endpoint, c *Conn) bool {
	st.waiting.Store(true)
	if st.woken.Load() {
		st.waiting.Store(false)
		return true
	}
	st.msg.Buf = st.buf.Bytes()
	share := lentSeats.Load() >= int32(runtime.GOMAXPROCS(0))
	err := st.direct.RecvDirect(&st.msg, share)
	st.waiting.Store(false)
	if errors.Is(err, udp.ErrInterrupted) {
		return true
	}
	if err != nil {
		st.wanted.Store(true) // the reader will meet it, too
		return false
	}
	st.process(e, st.sh)
	if st.last != c || st.run == 0 || !c.inTurns.Load() {
		st.wanted.Store(true)
	}
	return true
}

// answered is called where stream data is sent in answer to what was received. If
// somebody waits in place, it is not he who answers.
func (st *seat) answered() {
	if st.waiting.Load() {
		st.wasted.Store(true)
		st.wanted.Store(true)
		st.wake()
	}
}

// mayLend tells whether the reader should offer its seat.
func (st *seat) mayLend() bool {
	if st.direct == nil || st.run < seatRun || st.last == nil || !st.last.inTurns.Load() {
		return false
	}
	if st.skip > 0 {
		st.skip--
		return false
	}
	procs := int32(runtime.GOMAXPROCS(0))
	if lentSeats.Add(1) < procs || procs == 1 {
		return true
	}
	lentSeats.Add(-1)
	st.skip = seatRun
	return false
}

// lend offers the seat, once mayLend has allowed it, and returns when the reader
// has it back.
func (st *seat) lend(e *Endpoint) {
	defer lentSeats.Add(-1)
	closed := e.closed
	if isClosed(closed) {
		return
	}
	st.late.flush()
	seen := st.visits.Load()
	first := seen
	st.wanted.Store(false)
	st.state.Store(seatEmpty)
	t := time.NewTimer(seatPatience)
	defer t.Stop()
	for {
		called := false
		select {
		case <-st.call:
			called = st.wanted.Load()
		case <-closed:
			closed, called = nil, true
			st.wanted.Store(true)
		case <-t.C:
		}
		st.dozing.Store(false)
		now := st.visits.Load()
		if (called || now == seen) && st.state.CompareAndSwap(seatEmpty, seatReader) {
			break
		}
		if st.state.Load() == seatGuest && now == seen {
			// The guest has been waiting for a while. When it leaves it calls.
			st.dozing.Store(true)
			if st.state.Load() == seatGuest {
				continue
			}
			st.dozing.Store(false)
		}
		seen = now
		t.Reset(seatPatience)
	}
	st.wanted.Store(false)
	st.end.drop() // the guest may be gone for long, and its connection with it
	st.run = 0
	if st.wasted.Swap(false) || st.visits.Load() == first {
		st.pause = min(2*st.pause+seatRun, maxSeatPause)
	} else {
		st.pause = 0
	}
	st.skip = st.pause
}
