package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/perf"
)

// blockSize is how much is written or read at a time.
const blockSize = 64 << 10

// A conn is a connection of a peer's client.
type conn interface {
	// open gives a stream for one exchange. A transport without streams gives
	// itself.
	open(ctx context.Context) (stream, error)
	close()
}

// A stream carries one exchange: the client sends 8 bytes (wanted back), 8
// bytes (what follows, only where streams do not end) and that much data.
type stream interface {
	io.ReadWriter
	CloseWrite() error
}

// sized streams go on after an exchange: lengths are sent.
type sized interface{ sized() }

func isSized(s stream) bool { _, ok := s.(sized); return ok }

var zeros [blockSize]byte

// exchange is the client's side of one exchange on s.
func exchange(s stream, want, up uint64, buf []byte) error {
	head := binary.BigEndian.AppendUint64(buf[:0], want)
	if isSized(s) {
		head = binary.BigEndian.AppendUint64(head, up)
	}
	// A small request goes out in one write, as a program would do it.
	n := min(up, uint64(len(buf)-len(head)))
	if _, err := s.Write(buf[:len(head)+int(n)]); err != nil {
		return err
	}
	if err := writeZeros(s, up-n); err != nil {
		return err
	}
	if err := s.CloseWrite(); err != nil {
		return err
	}
	if isSized(s) {
		return readExactly(s, max(want, 1), buf) // see answer
	}
	if err := readExactly(s, want, buf); err != nil {
		return err
	}
	if n, err := s.Read(buf); n > 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%d bytes and %v where the stream should end", n, err)
	}
	return nil
}

func writeZeros(s stream, n uint64) error {
	for n > 0 {
		k := min(n, blockSize)
		if _, err := s.Write(zeros[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

func readExactly(s stream, want uint64, buf []byte) error {
	for want > 0 {
		n, err := s.Read(buf[:min(want, uint64(len(buf)))])
		want -= uint64(n)
		if err != nil && (want > 0 || !errors.Is(err, io.EOF)) {
			return fmt.Errorf("%d bytes missing: %w", want, err)
		}
	}
	return nil
}

// answer is the server's side of one exchange; it returns the bytes moved.
func answer(s stream, buf []byte) (moved uint64, err error) {
	var head [16]byte
	k := 8
	if isSized(s) {
		k = 16
	}
	if _, err := io.ReadFull(s, head[:k]); err != nil {
		return 0, err
	}
	want := binary.BigEndian.Uint64(head[:])
	if isSized(s) {
		up := binary.BigEndian.Uint64(head[8:])
		if err := readExactly(s, up, buf); err != nil {
			return 0, err
		}
		// One byte at least tells the client that all has arrived.
		return up + want, writeZeros(s, max(want, 1))
	}
	for {
		n, err := s.Read(buf)
		moved += uint64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return moved, err
		}
	}
	if err := writeZeros(s, want); err != nil {
		return moved, err
	}
	return moved + want, s.CloseWrite()
}

// drive runs what o asks for.
func drive(ctx context.Context, o *options, dial func(context.Context) (conn, error)) (*perf.Result, error) {
	var m perf.Meter
	if o.handshakes > 0 {
		m.Start(nil)
		for range o.handshakes {
			c, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			c.close()
		}
		r := m.Stop(nil, "client", 0, time.Time{})
		r.Handshakes, r.HandshakesPerCPU = o.handshakes, float64(o.handshakes)/r.CPUSeconds
		return r, nil
	}
	var conns []conn
	for range max(o.connections, o.idle) {
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		defer c.close()
		conns = append(conns, c)
	}
	if o.idle > 0 {
		r := perf.Result{Role: "client", Connections: len(conns), Resident: perf.Resident()}
		if err := r.Write(os.Stdout, true); err != nil {
			return nil, err
		}
		select {
		case <-time.After(o.hold):
		case <-ctx.Done():
		}
		return &r, nil
	}
	m.Start(nil)
	if o.requests > 0 {
		times, err := ask(ctx, o, conns[0])
		r := m.Stop(nil, "client", uint64(len(times))*uint64(o.request+o.response), time.Time{})
		r.SetLatencies(times)
		return r, err
	}
	err := transfer(ctx, o, conns)
	r := m.Stop(nil, "client", o.download+o.upload, time.Time{})
	r.Connections, r.Streams, r.DatagramSize = o.connections, o.streams, o.payload
	return r, err
}

// ask makes requests one after the other.
func ask(ctx context.Context, o *options, c conn) ([]time.Duration, error) {
	buf := make([]byte, blockSize)
	times := make([]time.Duration, 0, o.requests)
	for began := time.Now(); len(times) < o.requests; {
		s, err := c.open(ctx)
		if err != nil {
			return times, err
		}
		if err := exchange(s, uint64(o.response), uint64(o.request-8), buf); err != nil {
			return times, err
		}
		now := time.Now()
		times = append(times, now.Sub(began))
		began = now
	}
	return times, nil
}

func transfer(ctx context.Context, o *options, conns []conn) error {
	n := uint64(o.connections * o.streams)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			s, err := conns[i%len(conns)].open(ctx)
			if err != nil {
				errs[i] = err
				return
			}
			errs[i] = exchange(s, o.download/n, o.upload/n, make([]byte, blockSize))
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// tally is what a server counts; it reports when its last client has left.
type tally struct {
	mu     sync.Mutex
	meter  perf.Meter
	since  time.Time
	active int
	conns  int
	bytes  uint64
	quiet  *time.Timer
	result *perf.Result
}

func newTally() *tally {
	t := &tally{}
	t.meter.Start(nil)
	return t
}

func (t *tally) arrive() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns == 0 {
		t.since = time.Now()
	}
	t.active++
	t.conns++
}

func (t *tally) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.active--; t.active > 0 {
		return
	}
	t.result = t.meter.Stop(nil, "server", t.bytes, t.since)
	t.result.Connections = t.conns
	if t.quiet == nil {
		t.quiet = time.AfterFunc(500*time.Millisecond, t.report)
	} else {
		t.quiet.Reset(500 * time.Millisecond)
	}
}

func (t *tally) report() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.active > 0 || t.result == nil {
		return
	}
	_ = t.result.Write(os.Stdout, true)
	t.result, t.bytes, t.conns = nil, 0, 0
	t.meter.Start(nil)
}

func (t *tally) count(n uint64) {
	t.mu.Lock()
	t.bytes += n
	t.mu.Unlock()
}

func ready(addr any) { fmt.Fprintf(os.Stderr, "listening on %v\n", addr) }
