package quic

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

func TestReadAfterClose(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		tc.send(wire.Packet1RTT, streamFrame(tc.peerStream(0, false), 0, []byte("unread"), false))
		s := tc.acceptStream()
		tc.send(wire.Packet1RTT, wire.AppendConnectionClose(nil, true, 5, 0, []byte("gone")))
		_ = s.SetReadDeadline(time.Now().Add(time.Second))
		var ae *ApplicationError
		if _, err := io.ReadAll(s); !errors.As(err, &ae) || ae.Code != 5 || !ae.Remote {
			t.Errorf("Read: %v", err)
		}
		if _, err := s.Write([]byte("x")); !errors.As(err, &ae) {
			t.Errorf("Write: %v", err)
		}
		if err := s.Flush(context.Background()); !errors.As(err, &ae) {
			t.Errorf("Flush: %v", err)
		}
	})
}

func TestReadToFin(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		id := tc.peerStream(0, false)
		tc.send(wire.Packet1RTT, streamFrame(id, 3, []byte("def"), true))
		tc.send(wire.Packet1RTT, streamFrame(id, 0, []byte("abc"), false))
		s := tc.acceptStream()
		b, err := io.ReadAll(s)
		if string(b) != "abcdef" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("second Read = %d, %v", n, err)
		}
	})
}

func TestResetReceived(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		id := tc.peerStream(0, false)
		tc.send(wire.Packet1RTT, streamFrame(id, 0, []byte("abc"), false), wire.AppendResetStream(nil, id, 42, 10))
		s := tc.acceptStream()
		var se *StreamError
		if _, err := s.Read(make([]byte, 10)); !errors.As(err, &se) || se.Code != 42 || !se.Remote || se.StreamID != id {
			t.Errorf("Read: %v", err)
		}
		// RFC 9000, Section 4.5: the bytes up to the final size count for flow control, once
		if tc.conn.flow.received != 10 || tc.conn.flow.consumed != 10 {
			t.Errorf("received %d consumed %d", tc.conn.flow.received, tc.conn.flow.consumed)
		}
		tc.send(wire.Packet1RTT, wire.AppendResetStream(nil, id, 42, 10))
		tc.wantOpen()
		// Section 3.2: data after all of it arrived is still delivered
		id = tc.peerStream(1, false)
		tc.send(wire.Packet1RTT, streamFrame(id, 0, []byte("abc"), true), wire.AppendResetStream(nil, id, 42, 3))
		s = tc.acceptStream()
		if b, err := io.ReadAll(s); string(b) != "abc" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
	})
}

func TestStopSendingReceived(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		tc.write(s, []byte("abc"))
		tc.read()
		tc.queue = nil
		// RFC 9000, Section 3.5: "An endpoint that receives a STOP_SENDING frame MUST send a
		// RESET_STREAM frame if the stream is in the "Ready" or "Send" state."
		tc.send(wire.Packet1RTT, wire.AppendStopSending(nil, s.ID(), 9))
		f := tc.want(wire.FrameResetStream)
		if f.id != s.ID() || f.code != 9 || f.final != 3 {
			t.Errorf("got %v final size %d", f, f.final)
		}
		var se *StreamError
		if _, err := s.Write([]byte("x")); !errors.As(err, &se) || se.Code != 9 || !se.Remote {
			t.Errorf("Write: %v", err)
		}
		if err := s.Flush(context.Background()); !errors.As(err, &se) {
			t.Errorf("Flush: %v", err)
		}
		// once is enough, and the reading half goes on
		tc.send(wire.Packet1RTT, wire.AppendStopSending(nil, s.ID(), 10), streamFrame(s.ID(), 0, []byte("still"), true))
		tc.wantNone(wire.FrameResetStream)
		if b, err := io.ReadAll(s); string(b) != "still" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
	})
}

func TestCancelRead(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		id := tc.peerStream(0, false)
		tc.send(wire.Packet1RTT, streamFrame(id, 0, pattern(0, 1000), false), streamFrame(id, 2000, []byte("late"), false))
		s := tc.acceptStream()
		s.CancelRead(7)
		if f := tc.want(wire.FrameStopSending); f.id != id || f.code != 7 {
			t.Errorf("got %v", f)
		}
		if held := tc.conn.Stats().HeldBytes; held != 0 {
			t.Errorf("%d bytes are held", held)
		}
		// what still comes is counted and dropped
		tc.send(wire.Packet1RTT, streamFrame(id, 2004, pattern(0, 96), false))
		if tc.conn.flow.received != 2100 || tc.conn.flow.consumed != 2100 || s.rcv.buf.unread() != 0 {
			t.Errorf("received %d consumed %d unread %d", tc.conn.flow.received, tc.conn.flow.consumed, s.rcv.buf.unread())
		}
		var se *StreamError
		if _, err := s.Read(make([]byte, 1)); !errors.As(err, &se) || se.Code != 7 || se.Remote {
			t.Errorf("Read: %v", err)
		}
		tc.send(wire.Packet1RTT, wire.AppendResetStream(nil, id, 7, 2100))
		_ = s.CloseWrite()
		tc.read()
		tc.ack(wire.Packet1RTT)
		if n := len(tc.conn.streams.all); n != 0 {
			t.Errorf("%d streams are left", n)
		}
	})
}

func TestCancelWriteRaces(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		tc.write(s, []byte("abcdef"))
		tc.read()
		tc.queue = nil
		s.CancelWrite(3)
		s.CancelWrite(4) // the first one counts
		tc.send(wire.Packet1RTT, wire.AppendStopSending(nil, s.ID(), 5))
		f := tc.want(wire.FrameResetStream)
		if f.code != 3 || f.final != 6 {
			t.Errorf("got %v final %d", f, f.final)
		}
		tc.wantNone(wire.FrameResetStream)
		tc.send(wire.Packet1RTT, wire.AppendMaxStreamData(nil, s.ID(), 1<<20)) // too late, harmless
		tc.ack(wire.Packet1RTT)
		s.CancelRead(1)
		tc.send(wire.Packet1RTT, wire.AppendResetStream(nil, s.ID(), 1, 0))
		tc.settle()
		if n := len(tc.conn.streams.all); n != 0 {
			t.Errorf("%d streams are left", n)
		}
		// frames for a stream that is over are ignored
		tc.send(wire.Packet1RTT, wire.AppendStopSending(nil, s.ID(), 5), wire.AppendMaxStreamData(nil, s.ID(), 1<<21), streamFrame(s.ID(), 0, nil, true))
		tc.wantOpen()
	})
}

// RFC 9000, Section 3.1: in "Data Sent" a reset is still possible; in "Data Recvd" it is not.
func TestResetAfterFin(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		tc.write(s, []byte("abc"))
		_ = s.CloseWrite()
		for f := tc.want(wire.FrameStream); !f.fin; f = tc.want(wire.FrameStream) {
		}
		tc.ack(wire.Packet1RTT)
		s.CancelWrite(3)
		tc.wantNone(wire.FrameResetStream)
		if err := s.Flush(context.Background()); err != nil {
			t.Errorf("Flush: %v", err)
		}
	})
}

func TestFlowControlOfPeer(t *testing.T) {
	for _, role := range []string{"server", "client"} {
		t.Run(role, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var tc *testConn
				if role == "server" {
					tc = newTestServer(t, nil)
				} else {
					tc = newTestClient(t, nil)
				}
				tc.params.InitialMaxData = 3000
				tc.params.InitialMaxStreamDataBidiLocal, tc.params.InitialMaxStreamDataBidiRemote = 2000, 2000
				tc.establish()
				got := map[uint64]uint64{}
				blocked := map[uint64]frame{}
				collect := func() {
					for range 10 {
						tc.wait(20 * time.Millisecond)
						for _, f := range tc.frames() {
							switch f.typ {
							case wire.FrameStream:
								got[f.id] = max(got[f.id], f.off+uint64(len(f.data)))
							case wire.FrameStreamDataBlocked, wire.FrameDataBlocked:
								blocked[f.typ] = f
							}
						}
						tc.ack(wire.Packet1RTT)
					}
				}
				a, b := tc.openStream(), tc.openStream()
				tc.write(a, pattern(0, 5000))
				tc.write(b, pattern(0, 5000))
				collect()
				// RFC 9000, Section 4.1: "Senders MUST NOT send data in excess of either limit."
				if got[a.ID()] != 2000 || got[b.ID()] != 1000 {
					t.Errorf("sent %v", got)
				}
				// "A sender SHOULD send a STREAM_DATA_BLOCKED or DATA_BLOCKED frame"
				if blocked[wire.FrameStreamDataBlocked].max != 2000 || blocked[wire.FrameDataBlocked].max != 3000 {
					t.Errorf("blocked %v", blocked)
				}
				tc.send(wire.Packet1RTT, wire.AppendMaxData(nil, 5500), wire.AppendMaxData(nil, 10), wire.AppendMaxStreamData(nil, a.ID(), 2500))
				collect()
				if got[a.ID()]+got[b.ID()] > 5500 || got[a.ID()] != 2500 || got[b.ID()] != 2000 {
					t.Errorf("sent %v after more credit", got)
				}
				tc.send(wire.Packet1RTT, wire.AppendMaxData(nil, 1<<20), wire.AppendMaxStreamData(nil, a.ID(), 1<<20), wire.AppendMaxStreamData(nil, b.ID(), 1<<20))
				collect()
				if got[a.ID()] != 5000 || got[b.ID()] != 5000 {
					t.Errorf("sent %v at last", got)
				}
			})
		})
	}
}

func TestCreditFollowsTheReader(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		id := tc.peerStream(0, false)
		const window = 512 << 10
		for off := 0; off < window; off += 1000 {
			n := min(1000, window-off)
			tc.send(wire.Packet1RTT, streamFrame(id, uint64(off), pattern(uint64(off), n), false))
		}
		// nothing was read: no credit
		for _, f := range tc.frames() {
			if f.typ == wire.FrameMaxStreamData || f.typ == wire.FrameMaxData {
				t.Fatalf("%v before anything was read", f)
			}
		}
		s := tc.acceptStream()
		buf := make([]byte, window)
		if _, err := io.ReadFull(s, buf); err != nil || !bytes.Equal(buf, pattern(0, window)) {
			t.Fatalf("read: %v", err)
		}
		if f := tc.want(wire.FrameMaxStreamData); f.id != id || f.max < window+window/2 {
			t.Errorf("got %v", f)
		}
	})
}

func TestStreamLimitOfPeer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tc := newTestClient(t, nil)
		tc.params.InitialMaxStreamsBidi = 2
		tc.establish()
		tc.openStream()
		tc.openStream()
		opened := make(chan *Stream, 3)
		for range 3 {
			go func() {
				s, err := tc.conn.OpenStream(context.Background())
				if err != nil {
					s = nil
				}
				opened <- s
			}()
		}
		// RFC 9000, Section 4.6: "An endpoint that is unable to open a new stream due to the
		// peer's limits SHOULD send a STREAMS_BLOCKED frame"
		if f := tc.want(wire.FrameStreamsBlockedBidi); f.max != 2 {
			t.Errorf("got %v", f)
		}
		tc.send(wire.Packet1RTT, wire.AppendMaxStreams(nil, false, 4))
		if n := len(opened); n != 2 {
			t.Errorf("%d streams were opened, 2 are allowed", n)
		}
		tc.send(wire.Packet1RTT, wire.AppendMaxStreams(nil, false, 1)) // smaller limits are ignored
		tc.conn.CloseTransport(NoError, "")
		synctest.Wait()
		if n := len(opened); n != 3 {
			t.Errorf("%d of 3 callers came back", n)
		}
		for range 3 {
			<-opened
		}
	})
}

func TestStreamsAreReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := serverConfig()
		cfg.MaxStreamsBidi = 8
		tc := establishedServer(t, cfg)
		for i := range uint64(100) {
			id := tc.peerStream(i, false)
			tc.send(wire.Packet1RTT, streamFrame(id, 0, []byte("q"), true))
			s := tc.acceptStream()
			if _, err := io.ReadAll(s); err != nil {
				t.Fatal(err)
			}
			_ = s.Close()
			tc.wait(30 * time.Millisecond)
			tc.settle()
			tc.wantOpen()
		}
		if n := len(tc.conn.streams.all); n != 0 {
			t.Errorf("%d streams are left", n)
		}
	})
}

func TestDeadlines(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		start := time.Now()
		_ = s.SetReadDeadline(start.Add(time.Second))
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %v", err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("Read came back after %v", d)
		}
		var ne net.Error
		_, err := s.Read(make([]byte, 1))
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("Read: %v is no timeout", err)
		}
		// a deadline set while a reader waits wakes it
		_ = s.SetReadDeadline(time.Time{})
		done := make(chan error, 1)
		go func() { _, err := s.Read(make([]byte, 1)); done <- err }()
		synctest.Wait()
		_ = s.SetReadDeadline(time.Now())
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %v", err)
		}
		// writing
		_ = s.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := s.Write(make([]byte, 4<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || n < maxUnsent {
			t.Errorf("Write = %d, %v", n, err)
		}
		_ = s.SetWriteDeadline(time.Time{})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if err := s.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush: %v", err)
		}
		cancel()
		tc.conn.CloseTransport(NoError, "")
	})
}

func TestFlushWaitsForAcknowledgments(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		s := tc.openStream()
		tc.write(s, []byte("abc"))
		done := make(chan error, 1)
		go func() { done <- s.Flush(context.Background()) }()
		tc.read()
		if len(done) > 0 {
			t.Error("Flush came back before the acknowledgment")
		}
		tc.ack(wire.Packet1RTT)
		if err := <-done; err != nil {
			t.Errorf("Flush: %v", err)
		}
		_ = s.CloseWrite()
		go func() { done <- s.Flush(context.Background()) }()
		tc.read()
		if len(done) > 0 {
			t.Error("Flush came back before FIN was acknowledged")
		}
		tc.ack(wire.Packet1RTT)
		if err := <-done; err != nil {
			t.Errorf("Flush: %v", err)
		}
		tc.conn.CloseTransport(NoError, "")
		if err := s.Flush(context.Background()); err != nil {
			t.Errorf("Flush of what was acknowledged: %v", err)
		}
	})
}

// slowWriter takes a few bytes at a time.
type slowWriter struct{ bytes.Buffer }

func (w *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return w.Buffer.Write(p)
}

func TestWriteToAndReadFrom(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		id := tc.peerStream(0, false)
		want := pattern(0, 100<<10)
		go func() {
			for off := 0; off < len(want); off += 1000 {
				n := min(1000, len(want)-off)
				tc.wire.in <- datagram{data: tc.build(wire.Packet1RTT, streamFrame(id, uint64(off), want[off:off+n], off+n == len(want))), remote: tc.remote}
			}
		}()
		synctest.Wait()
		s := tc.acceptStream()
		var w slowWriter
		if n, err := s.WriteTo(&w); err != nil || n != int64(len(want)) || !bytes.Equal(w.Bytes(), want) {
			t.Errorf("WriteTo = %d, %v", n, err)
		}
		// io.Copy into the stream; the peer reads and acknowledges
		done := make(chan error, 1)
		go func() {
			_, err := s.ReadFrom(bytes.NewReader(want))
			if err == nil {
				err = s.CloseWrite()
			}
			done <- err
		}()
		var in cryptoStream
		in.limit = 1 << 20
		fin := false
		for range 200 {
			for _, f := range tc.frames() {
				if f.typ == wire.FrameStream {
					in.receive(f.off, f.data)
					fin = fin || f.fin
				}
			}
			if fin && len(in.ready()) == len(want) {
				break
			}
			tc.ack(wire.Packet1RTT)
			tc.wait(5 * time.Millisecond)
		}
		if err := <-done; err != nil || !fin || !bytes.Equal(in.ready(), want) {
			t.Errorf("ReadFrom: %v, fin %v, %d bytes", err, fin, len(in.ready()))
		}
	})
}

// Views are out while the connection is closed under the writer.
func TestCloseDuringWriteTo(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		id := tc.peerStream(0, false)
		tc.send(wire.Packet1RTT, streamFrame(id, 0, pattern(0, 1000), false))
		s := tc.acceptStream()
		enter, leave := make(chan bool), make(chan bool)
		done := make(chan error, 1)
		go func() {
			_, err := s.WriteTo(writerFunc(func(p []byte) (int, error) {
				enter <- true
				<-leave
				if !bytes.Equal(p, pattern(0, len(p))) {
					t.Error("bytes changed while they were written")
				}
				return len(p), nil
			}))
			done <- err
		}()
		<-enter
		_ = tc.conn.CloseWithError(1, "bye")
		tc.wait(5 * time.Second) // until nothing is left of the connection
		tc.send(wire.Packet1RTT, ping())
		leave <- true
		if err := <-done; err == nil {
			t.Error("WriteTo says all is well")
		}
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
