package smb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-fsgw/quic-fsgw/internal/tcpio"
)

// past is a deadline that has passed: it interrupts what waits on a connection.
var past = time.Unix(1, 0)

// closeWriter and canceller are what a QUIC stream and a TCP connection have
// beyond net.Conn; the relay uses them where they are there.
type closeWriter interface{ CloseWrite() error }

type canceller interface {
	CancelRead(code uint64)
	CancelWrite(code uint64)
}

func closeWrite(c net.Conn) {
	if cw, ok := c.(closeWriter); ok {
		cw.CloseWrite() // fails only on a connection that is gone, which the copies notice
	}
}

// waitState is what a copy is waiting for.
type waitState uint32

const (
	waitSource    waitState = iota // the next bytes, between messages
	waitSourceMid                  // the next bytes of a message begun
	waitSink                       // the other side taking bytes
	waitPaced                      // a limit on bytes or messages in time
	waitDone                       // the copy has ended
)

// flow is one direction of a session. Its copy alone writes it; the watchdog
// reads the atomics.
type flow struct {
	in    *Inspector
	bytes atomic.Int64
	state atomic.Uint32
	since atomic.Int64 // unix nanoseconds of the last change of state

	meter   func(bytes, messages int) error // nil: no limits
	metered int64                           // messages that meter has been told of
	paced   error                           // by meter
}

// pace tells the meter of n bytes and waits until more may be moved.
func (f *flow) pace(n int64) error {
	if f.meter == nil || n == 0 {
		return nil
	}
	f.begin(waitPaced)
	messages := f.in.Messages() - f.metered
	f.metered += messages
	f.paced = f.meter(int(n), int(messages))
	return f.paced
}

func (f *flow) begin(w waitState) {
	f.since.Store(time.Now().UnixNano())
	f.state.Store(uint32(w))
}

// wantSource notes that the copy waits for its source.
func (f *flow) wantSource() {
	if f.in.Midway() {
		f.begin(waitSourceMid)
	} else {
		f.begin(waitSource)
	}
}

func (f *flow) finish() { f.begin(waitDone) }

// inspectingWriter passes a client's bytes on to the backend after a look at
// them. Between its calls the copy waits for the client.
type inspectingWriter struct {
	flow    *flow
	conn    net.Conn
	refused error // by the inspector
	failed  error // by the backend
}

// Write passes on what the inspector lets through.
func (w *inspectingWriter) Write(b []byte) (int, error) {
	n, refused := w.flow.in.Inspect(b)
	if n > 0 {
		w.flow.begin(waitSink)
		k, err := w.conn.Write(b[:n])
		w.flow.bytes.Add(int64(k))
		if err != nil {
			w.failed = err
			return k, err
		}
		if err := w.flow.pace(int64(k)); err != nil {
			return k, err
		}
	}
	w.refused = refused
	w.flow.wantSource()
	return n, refused
}

// WriteBuffers is Write for a list of buffers, with one system call where the
// backend is a socket. Like net.Buffers.WriteTo it consumes what it has written.
func (w *inspectingWriter) WriteBuffers(bufs *net.Buffers) (int64, error) {
	for i, b := range *bufs {
		n, refused := w.flow.in.Inspect(b)
		if refused == nil {
			continue
		}
		w.refused = refused
		head := append(append(net.Buffers(nil), (*bufs)[:i]...), b[:n])
		k, err := w.writev(&head)
		if err == nil {
			err = refused
		}
		return k, err
	}
	return w.writev(bufs)
}

func (w *inspectingWriter) writev(bufs *net.Buffers) (int64, error) {
	w.flow.begin(waitSink)
	k, err := tcpio.WriteBuffers(w.conn, bufs)
	w.flow.bytes.Add(k)
	if err != nil {
		w.failed = err
		return k, err
	}
	err = w.flow.pace(k)
	w.flow.wantSource()
	return k, err
}

// inspectingReader hands out the backend's bytes after a look at them. Between
// its calls the copy waits for the client.
type inspectingReader struct {
	flow    *flow
	conn    net.Conn
	refused error // by the inspector
	failed  error // by the backend
}

// Read reads from the backend into b and inspects it there. A count of 0 comes
// only with an error.
func (r *inspectingReader) Read(b []byte) (int, error) {
	if r.refused != nil {
		return 0, r.refused
	}
	r.flow.wantSource()
	n, err := r.conn.Read(b)
	return r.read(n, err, b)
}

// read inspects n bytes that were read into bufs.
func (r *inspectingReader) read(n int, err error, bufs ...[]byte) (int, error) {
	r.flow.begin(waitSink)
	if err != nil && !errors.Is(err, io.EOF) {
		r.failed = err
	}
	ok, left := 0, n
	for _, b := range bufs {
		b = b[:min(left, len(b))]
		left -= len(b)
		var k int
		k, r.refused = r.flow.in.Inspect(b)
		ok += k
		if r.refused != nil {
			r.flow.bytes.Add(int64(ok))
			return ok, r.refused
		}
	}
	r.flow.bytes.Add(int64(ok))
	if r.flow.pace(int64(n)) != nil {
		return 0, r.flow.paced
	}
	r.flow.begin(waitSink)
	return n, err
}

// SyscallConn lets the stream wait until the backend has something to read, so
// that it takes a buffer only then. It is for that alone: reading through it
// would go round the inspection, so callbacks see the descriptor only to poll it.
func (r *inspectingReader) SyscallConn() (syscall.RawConn, error) {
	sc, ok := r.conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("smb: %T has no descriptor", r.conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &readiness{RawConn: raw, flow: r.flow}, nil
}

// A lentReader reads into buffers that it borrows when there may be something for
// them: see quic.Stream.ReadFrom, which looks for it.
type lentReader interface {
	ReadLent(lend func() [][]byte, back func()) (int, error)
}

// lentInspectingReader is an inspectingReader of such a backend.
type lentInspectingReader struct {
	*inspectingReader
	from lentReader

	lend   func() [][]byte
	lent   [][]byte // by lend, last
	borrow func() [][]byte
}

func newLentInspectingReader(r *inspectingReader, from lentReader) *lentInspectingReader {
	l := &lentInspectingReader{inspectingReader: r, from: from}
	l.borrow = func() [][]byte {
		l.lent = l.lend()
		return l.lent
	}
	return l
}

// ReadLent reads from the backend and inspects what came.
func (r *lentInspectingReader) ReadLent(lend func() [][]byte, back func()) (int, error) {
	if r.refused != nil {
		return 0, r.refused
	}
	r.lend = lend
	r.flow.wantSource()
	n, err := r.from.ReadLent(r.borrow, back)
	return r.read(n, err, r.lent...)
}

// readiness notes for the watchdog that a wait in RawConn.Read is one for the backend.
type readiness struct {
	syscall.RawConn
	flow *flow
}

func (r *readiness) Read(f func(fd uintptr) bool) error {
	r.flow.wantSource()
	err := r.RawConn.Read(f)
	r.flow.begin(waitSink)
	return err
}

// withDeadline runs f, which uses c, for at most d and no longer than ctx.
func withDeadline(ctx context.Context, c net.Conn, d time.Duration, f func() error) error {
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(past) })
	err := f()
	if !stop() {
		return &reasonError{ReasonShutdown, context.Cause(ctx)}
	}
	c.SetDeadline(time.Time{})
	return err
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
