package quic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// aGuest is a client that exchanges single bytes with an echo until its reading
// goroutine sits in the seat of its socket, and then waits there.
type aGuest struct {
	conn, server *Conn
	stream       *Stream
	read         chan error // what ended the waiting Read
}

// echo answers every byte on the streams of c.
func echo(t *testing.T, c *Conn) {
	ctx := testContext(t)
	go func() {
		for {
			s, err := c.AcceptStream(ctx)
			if err != nil {
				return
			}
			go func() {
				b := make([]byte, 1)
				for {
					if _, err := s.Read(b); err != nil {
						return
					}
					if _, err := s.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// guestProcs is with how many processors guests are tried: with four both ends have
// one that keeps a processor, with one both have one that shares it.
var guestProcs = []int{4, 1}

// withGuests runs f for each number of processors.
func withGuests(t *testing.T, f func(*testing.T, *aGuest)) {
	for _, n := range guestProcs {
		t.Run(fmt.Sprintf("%d processors", n), func(t *testing.T) { f(t, newGuest(t, n)) })
	}
}

func newGuest(t *testing.T, procs int) *aGuest {
	t.Helper()
	before := runtime.GOMAXPROCS(procs)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	g := &aGuest{read: make(chan error, 1)}
	g.conn, g.server = connect(t, serverConfig(), clientConfig())
	seat := g.conn.shard().seat.Load()
	if seat.direct == nil {
		t.Fatal("the socket is not one that can be read in place")
	}
	echo(t, g.server)
	s, err := g.conn.OpenStream(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	g.stream = s
	var ask atomic.Bool
	ask.Store(true)
	go func() {
		b := make([]byte, 1)
		for {
			if ask.Load() {
				if _, err := s.Write(b); err != nil {
					g.read <- err
					return
				}
			}
			if _, err := s.Read(b); err != nil {
				g.read <- err
				return
			}
		}
	}()
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end); {
		for n := seat.visits.Load() + 8; seat.visits.Load() < n && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		ask.Store(false)
		for range 100 {
			time.Sleep(time.Millisecond)
			if seat.state.Load() == seatGuest && seat.waiting.Load() && seat.dozing.Load() {
				return g
			}
		}
		ask.Store(true) // it waits elsewhere, as the reader took its seat back
		if _, err := s.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("nobody ever reads in place")
	return nil
}

func (g *aGuest) ends(t *testing.T, how func(error) bool) {
	t.Helper()
	select {
	case err := <-g.read:
		if !how(err) {
			t.Errorf("Read failed with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Read goes on")
	}
}

// TestGuestLeaves: whatever ends a Read ends one that waits in place.
func TestGuestLeaves(t *testing.T) {
	tests := []struct {
		name string
		do   func(*aGuest)
		how  func(error) bool
	}{
		{"deadline set", func(g *aGuest) { _ = g.stream.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) },
			func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }},
		{"deadline passed", func(g *aGuest) { _ = g.stream.SetReadDeadline(time.Unix(1, 0)) },
			func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }},
		{"CancelRead", func(g *aGuest) { g.stream.CancelRead(7) },
			func(err error) bool { var se *StreamError; return errors.As(err, &se) && se.Code == 7 }},
		{"CloseWithError", func(g *aGuest) { _ = g.conn.CloseWithError(3, "") },
			func(err error) bool { var ae *ApplicationError; return errors.As(err, &ae) && ae.Code == 3 }},
		{"the peer closes", func(g *aGuest) { _ = g.server.CloseWithError(4, "") },
			func(err error) bool {
				var ae *ApplicationError
				return errors.As(err, &ae) && ae.Code == 4 && ae.Remote
			}},
		{"endpoint closed", func(g *aGuest) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_ = g.conn.ep.Close(ctx)
		}, func(err error) bool { return err != nil && err != io.EOF }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			withGuests(t, func(t *testing.T, g *aGuest) {
				tt.do(g)
				g.ends(t, tt.how)
			})
		})
	}
}

// TestGuestReadsForOthers: who reads in place hands out what is for others, a
// second connection's handshake among it, and the reader takes its seat back.
func TestGuestReadsForOthers(t *testing.T) { withGuests(t, testGuestReadsForOthers) }

func testGuestReadsForOthers(t *testing.T, g *aGuest) {
	ctx := testContext(t)
	remote := g.conn.RemoteAddrPort()
	second, err := g.conn.ep.Dial(ctx, remote, clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	server, err := g.server.ep.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, server)
	s, err := second.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{9}
	for range 50 {
		if _, err := s.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.stream.Write(b); err != nil { // the first one goes on as well
		t.Fatal(err)
	}
	g.stream.CancelRead(1)
	g.ends(t, func(err error) bool { var se *StreamError; return errors.As(err, &se) })
}

// TestGuestThatDoesNotAnswer: where somebody else answers what a guest has read,
// the reader takes its seat back, and does not offer it again soon.
func TestGuestThatDoesNotAnswer(t *testing.T) { withGuests(t, testGuestThatDoesNotAnswer) }

func testGuestThatDoesNotAnswer(t *testing.T, g *aGuest) {
	seat := g.conn.shard().seat.Load()
	if _, err := g.stream.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); seat.state.Load() != seatReader; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the guest keeps the seat while others answer")
		}
	}
	_ = g.conn.CloseWithError(0, "")
	<-g.read
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := g.conn.ep.Close(ctx); err != nil { // the reader has ended
		t.Fatal(err)
	}
	if seat.pause < seatRun {
		t.Errorf("the next offer comes after %d batches", seat.pause)
	}
}

// TestSeatsLent: one processor at least is left to those who do not read in place,
// unless there is but one, which is shared.
func TestSeatsLent(t *testing.T) {
	for procs, want := range map[int]int{3: 2, 1: 5} {
		seatsLent(t, procs, want)
	}
}

func seatsLent(t *testing.T, procs, want int) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
	for end := time.Now().Add(20 * time.Second); lentSeats.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d seats are still lent by endpoints of other tests", lentSeats.Load())
		}
	}
	sock := socketOf(t)
	c := &Conn{}
	c.inTurns.Store(true)
	lent := 0
	for range 5 {
		st := newSeat(nil, sock)
		defer st.buf.Release()
		st.last, st.run = c, seatRun
		if st.mayLend() {
			lent++
		}
	}
	defer lentSeats.Add(-int32(lent))
	if lent != want {
		t.Errorf("with %d processors %d seats are lent, want %d", procs, lent, want)
	}
}

func socketOf(t *testing.T) *udp.Socket {
	t.Helper()
	s, err := udp.ListenOne(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestGuestAcknowledges: what arrives while somebody reads in place is
// acknowledged, although it is no part of the turns and nobody else reads.
func TestGuestAcknowledges(t *testing.T) { withGuests(t, testGuestAcknowledges) }

func testGuestAcknowledges(t *testing.T, g *aGuest) {
	s, err := g.server.OpenUniStream(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Second)
	defer cancel()
	for i := range 60 { // the first ends the turns; unheard, each would cost probe timeouts
		if _, err := s.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(ctx); err != nil {
			t.Fatalf("byte %d is not acknowledged: %v", i, err)
		}
	}
	_ = g.conn.CloseWithError(0, "")
	<-g.read
}

// A guest's context opens its gate, also when the guest has come back, and not when
// it has left for good.
func TestGuestEnd(t *testing.T) {
	var e guestEnd
	var g, other gate
	ctx, cancel := context.WithCancel(context.Background())
	e.watch(ctx, &g)
	e.watch(ctx, &other)
	e.watch(ctx, &other)
	cancel()
	select {
	case <-other.wait():
	case <-time.After(20 * time.Second):
		t.Fatal("the gate stays closed")
	}
	if g.take() {
		t.Error("the gate that the guest has left was opened")
	}
	ctx, cancel = context.WithCancel(context.Background())
	e.watch(ctx, &g)
	e.drop()
	cancel()
	e.watch(context.Background(), &g) // has no end
	if e.stop != nil || g.take() {
		t.Error("it was not dropped")
	}
}

// Who waits in place for what does not come leaves when its context is done,
// however often it has waited with it.
func TestGuestWithContext(t *testing.T) {
	client, server := connect(t, serverConfig(), clientConfig())
	echo(t, server)
	s, err := client.OpenStream(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	st, b := client.shard().seat.Load(), make([]byte, 1)
	waited := 0
	for end := time.Now().Add(25 * time.Second); waited < 3 && time.Now().Before(end); {
		for range 2 * seatRun {
			if _, err := s.Write(b); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Read(b); err != nil {
				t.Fatal(err)
			}
		}
		time.AfterFunc(time.Millisecond, client.streams.accept[0].open)
		if client.waitInPlace(ctx, &client.streams.accept[0]) {
			waited++
		}
	}
	if waited < 3 {
		t.Fatal("the seat is never free")
	}
	left := make(chan error, 1)
	go func() {
		_, err := client.AcceptStream(ctx)
		left <- err
	}()
	for st.state.Load() != seatReader && !st.waiting.Load() {
		time.Sleep(time.Millisecond)
	}
	cancel()
	select {
	case err := <-left:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("AcceptStream goes on")
	}
}
