package quic

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"time"
)

// A lentSource is a source that borrows: it has what was put into it.
type lentSource struct {
	mu      sync.Mutex
	changed sync.Cond
	data    []byte
	most    int // bytes a read takes, 0: all
	ended   error
	waiting bool // and so nothing is borrowed
	sizes   []int
}

func newLentSource() *lentSource {
	s := new(lentSource)
	s.changed.L = &s.mu
	return s
}

func (s *lentSource) put(b []byte, ended error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data, s.ended = append(s.data, b...), ended
	s.changed.Broadcast()
}

// awaitWaiting returns when a read has given back what it borrowed.
func (s *lentSource) awaitWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.waiting || len(s.data) > 0 {
		s.changed.Wait()
	}
}

func (s *lentSource) Read([]byte) (int, error) { return 0, errors.New("ReadLent was there to be used") }

func (s *lentSource) ReadLent(lend func() [][]byte, back func()) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		bufs := lend()
		if len(bufs) == 0 {
			return 0, nil
		}
		s.sizes = append(s.sizes, len(bufs))
		if len(s.data) > 0 || s.ended != nil {
			for _, b := range bufs {
				if s.most > 0 {
					b = b[:min(len(b), s.most-n)]
				}
				k := copy(b, s.data)
				s.data = s.data[k:]
				n += k
			}
			if n == 0 {
				err = s.ended
			}
			return n, err
		}
		back()
		s.waiting = true
		s.changed.Broadcast()
		s.changed.Wait()
		s.waiting = false
	}
}

// held is how many chunks of a stream are lent or hold bytes.
func (s *Stream) held() int {
	s.conn.lock()
	defer s.conn.unlock()
	return len(s.snd.buf.chunks)
}

func TestReadFromLent(t *testing.T) {
	client, server := connect(t, serverConfig(), clientConfig())
	ctx := testContext(t)
	s, err := client.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	from := newLentSource()
	done := make(chan error, 1)
	go func() { _, err := s.SendAll(from); done <- err }()
	from.awaitWaiting()
	if n := s.held(); n != 0 {
		t.Errorf("%d chunks are held for a source with nothing to read", n)
	}
	want := pattern(0, 5<<20+13)
	from.put(want[:1], nil)
	in, err := server.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(in); got <- b }()
	from.awaitWaiting()
	from.put(want[1:len(want)-7], nil)
	from.awaitWaiting()
	if err := client.awaitSent(ctx, s, uint64(len(want)-7)); err != nil {
		t.Fatal(err)
	}
	if n := s.held(); n != 0 {
		t.Errorf("%d chunks are held for a source with nothing to read", n)
	}
	from.put(want[len(want)-7:], io.EOF)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("%d of %d bytes, or others", len(b), len(want))
	}
	// A source that does not fill its chunks gets one, one that does gets more.
	most := 0
	for _, n := range from.sizes[:3] {
		if n != 1 {
			t.Errorf("%d chunks at first", n)
		}
	}
	for _, n := range from.sizes {
		most = max(most, n)
	}
	if most < 2 || most > maxLent {
		t.Errorf("at most %d chunks in one read", most)
	}
}

// Short reads leave no gap between the chunks, and get one chunk each.
func TestReadFromLentShort(t *testing.T) {
	client, server := connect(t, serverConfig(), clientConfig())
	ctx := testContext(t)
	s, err := client.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := pattern(0, 1<<20)
	from := newLentSource()
	from.most = 5000
	from.put(want, io.EOF)
	go func() { _, _ = s.SendAll(from) }()
	in, err := server.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, or others, %v", len(got), len(want), err)
	}
	for _, n := range from.sizes {
		if n != 1 {
			t.Errorf("%d chunks for a source that fills none", n)
		}
	}
}

// A source that fails, one that lies, and a stream that is reset while it waits.
func TestReadFromLentErrors(t *testing.T) {
	client, _ := connect(t, serverConfig(), clientConfig())
	ctx := testContext(t)
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		read func(lend func() [][]byte, back func()) (int, error)
		want error
	}{
		"fails": {func(lend func() [][]byte, _ func()) (int, error) { lend(); return 0, broken }, broken},
		"fails after it gave back": {func(lend func() [][]byte, back func()) (int, error) {
			lend()
			back()
			return 0, broken
		}, broken},
		"more than was lent":       {func(lend func() [][]byte, _ func()) (int, error) { return len(lend()[0]) + 1, nil }, errImpossible},
		"something of what is not": {func(func() [][]byte, func()) (int, error) { return 1, nil }, errImpossible},
		"less than nothing":        {func(lend func() [][]byte, _ func()) (int, error) { lend(); return -1, nil }, errImpossible},
	} {
		s, err := client.OpenStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := s.ReadFrom(lentFunc(c.read)); n != 0 || !errors.Is(err, c.want) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		if n := s.held(); n != 0 {
			t.Errorf("%s: %d chunks are held", name, n)
		}
	}
	s, err := client.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	from := newLentSource()
	done := make(chan error, 1)
	go func() { _, err := s.ReadFrom(from); done <- err }()
	from.awaitWaiting()
	s.CancelWrite(7)
	from.put([]byte("too late"), nil)
	var se *StreamError
	select {
	case err := <-done:
		if !errors.As(err, &se) || se.Code != 7 {
			t.Errorf("reset: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on")
	}
}

type lentFunc func(lend func() [][]byte, back func()) (int, error)

func (f lentFunc) ReadLent(lend func() [][]byte, back func()) (int, error) { return f(lend, back) }
func (f lentFunc) Read([]byte) (int, error)                                { return 0, io.ErrUnexpectedEOF }
