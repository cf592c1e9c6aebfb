package nfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipeStream is a stream without any buffer: what one end has written, the other has read.
type pipeStream struct {
	net.Conn // nil: the methods below are all that a stream needs
	r        *io.PipeReader
	w        *io.PipeWriter
}

type resetError uint64

func (e resetError) Error() string { return "stream reset" }

func (p *pipeStream) Read(b []byte) (int, error)       { return p.r.Read(b) }
func (p *pipeStream) Write(b []byte) (int, error)      { return p.w.Write(b) }
func (p *pipeStream) Close() error                     { p.r.Close(); return p.w.Close() }
func (p *pipeStream) CloseWrite() error                { return p.w.Close() }
func (p *pipeStream) CancelRead(code uint64)           { p.r.CloseWithError(resetError(code)) }
func (p *pipeStream) CancelWrite(code uint64)          { p.w.CloseWithError(resetError(code)) }
func (p *pipeStream) SetDeadline(time.Time) error      { return nil }
func (p *pipeStream) SetReadDeadline(time.Time) error  { return nil }
func (p *pipeStream) SetWriteDeadline(time.Time) error { return nil }
func (p *pipeStream) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} }

func newPipeStream() (server, client *pipeStream) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return &pipeStream{r: r1, w: w2}, &pipeStream{r: r2, w: w1}
}

// bubble runs a relay between a client and one backend connection, both without buffers, on synthetic time.
type bubble struct {
	client  *pipeStream
	backend net.Conn // the backend's end, once dialled
	outcome chan Outcome
}

func startBubble(t *testing.T, cfg Config) *bubble {
	b := &bubble{outcome: make(chan Outcome, 1)}
	cfg.Backends = []string{"backend:2049"}
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		b.backend = theirs
		return ours, nil
	}
	relay := newTestService(t, cfg).Relay(Client{Identity: testIdentity(t)})
	server, client := newPipeStream()
	b.client = client
	go func() { b.outcome <- relay.ServeStream(t.Context(), server) }()
	return b
}

func (b *bubble) call(t *testing.T, xid uint32) {
	t.Helper()
	mustWrite(t, b.client, callRecord(xid, ProgNFS, 3, 6, ""))
	synctest.Wait()
	mustRead(t, b.backend)
}

// HOSTILE 63: TestStalledBackend: of a WRITE that the backend does not take, the relay holds one read and no more.
func TestStalledBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBubble(t, Config{})
		record := callRecord(1, ProgNFS, 3, 7, string(pattern(1, 1<<20)))
		var sent atomic.Int64
		go func() {
			for p := record; len(p) > 0; {
				n, err := b.client.Write(p[:min(1000, len(p))])
				sent.Add(int64(n))
				if err != nil {
					return
				}
				p = p[n:]
			}
		}()
		synctest.Wait()
		if held := sent.Load(); held > 40<<10 {
			t.Errorf("the relay took %d bytes that the backend did not", held)
		}
		got := mustRead(t, b.backend)
		if !bytes.Equal(got[len(got)-1<<20:], pattern(1, 1<<20)) {
			t.Error("WRITE damaged")
		}
		b.client.CancelWrite(0)
		<-b.outcome
	})
}

// HOSTILE 63: TestStalledReader: of replies that the client does not read, the relay holds one read and no more,
// for minutes, and goes on when it reads again.
func TestStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBubble(t, Config{})
		const calls = 16
		for xid := range uint32(calls) {
			b.call(t, xid)
		}
		var sent atomic.Int64
		go func() {
			for xid := range uint32(calls) {
				for p := AppendSuccess(nil, xid, pattern(xid, 1<<20)); len(p) > 0; {
					n, err := b.backend.Write(p[:min(1000, len(p))])
					sent.Add(int64(n))
					if err != nil {
						return
					}
					p = p[n:]
				}
			}
		}()
		synctest.Wait()
		time.Sleep(5 * time.Minute) // synthetic
		if held := sent.Load(); held > 40<<10 {
			t.Errorf("the relay took %d bytes that the client did not", held)
		}
		for xid := range uint32(calls) {
			if got, err := successResults(mustRead(t, b.client)); err != nil || !bytes.Equal(got, pattern(xid, 1<<20)) {
				t.Fatalf("reply %d damaged, %v", xid, err)
			}
		}
		b.client.CloseWrite()
		if o := <-b.outcome; o.Err != nil || o.Replies != calls {
			t.Errorf("%+v", o)
		}
	})
}

// TestHalfClose: replies due when the client's FIN comes are delivered, and then the relay's FIN.
func TestHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBubble(t, Config{})
		b.call(t, 1)
		b.call(t, 2)
		b.client.CloseWrite()
		time.Sleep(20 * time.Second) // synthetic, less than DrainTimeout
		go b.backend.Write(append(AppendSuccess(nil, 2, nil), AppendSuccess(nil, 1, nil)...))
		for _, xid := range []uint32{2, 1} {
			if got := mustRead(t, b.client); binary.BigEndian.Uint32(got) != xid {
				t.Errorf("reply % x", got)
			}
		}
		if _, err := b.client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%v, want EOF", err)
		}
		if o := <-b.outcome; o.Err != nil || o.Code != CodeNoError {
			t.Errorf("%+v", o)
		}
	})
}

func TestTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		calls uint32
		fin   bool
		after time.Duration
		code  uint64
		err   error
		peer  error // what the client reads
	}{
		{"idle from the start", 0, false, 10 * time.Minute, CodeNoError, nil, io.EOF},
		{"backend silent", 1, false, 10 * time.Minute, CodeUnspecifiedError, ErrStalled, resetError(CodeUnspecifiedError)},
		{"silent after FIN", 1, true, 30 * time.Second, CodeRequestDropped, ErrUnanswered, resetError(CodeRequestDropped)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				b := startBubble(t, Config{})
				for xid := range tt.calls {
					b.call(t, xid)
				}
				if tt.fin {
					b.client.CloseWrite()
				}
				if _, err := b.client.Read(make([]byte, 1)); err != tt.peer {
					t.Errorf("client reads %v, want %v", err, tt.peer)
				}
				if o := <-b.outcome; o.Code != tt.code || !errors.Is(o.Err, tt.err) {
					t.Errorf("code %#x, %v", o.Code, o.Err)
				}
				if took := time.Since(start); took != tt.after {
					t.Errorf("after %v, want %v", took, tt.after)
				}
			})
		})
	}
}

// TestIdleIsPutOff: as long as something moves now and then, the stream stays.
func TestIdleIsPutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBubble(t, Config{IdleTimeout: time.Minute})
		for xid := range uint32(100) {
			time.Sleep(59 * time.Second) // synthetic
			b.call(t, xid)
			go b.backend.Write(AppendSuccess(nil, xid, nil))
			mustRead(t, b.client)
		}
		b.client.CloseWrite()
		if o := <-b.outcome; o.Err != nil || o.Replies != 100 {
			t.Errorf("%+v", o)
		}
	})
}
