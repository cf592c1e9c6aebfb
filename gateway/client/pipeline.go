package client

import (
	"errors"
	"io"
	"io/fs"
	"sync"
)

// pipeReader reads a file from its beginning with several ReadAt calls under
// way. It holds at most window buffers. It is for one goroutine.
type pipeReader struct {
	readAt func(p []byte, off int64) (int, error)
	shut   func() error
	size   int64 // where read-ahead stops
	window int
	chunk  int
	next   int64
	queue  []*piece
	spare  [][]byte
	hand   *piece
	rest   []byte
	err    error
}

// piece is one range under way.
type piece struct {
	buf  []byte
	n    int
	err  error
	done chan struct{}
}

func newPipeReader(readAt func([]byte, int64) (int, error), shut func() error, size int64, chunk, window int) *pipeReader {
	if size < int64(chunk) {
		chunk = int(size) + 1 // one octet more finds the end in the same call
	}
	return &pipeReader{readAt: readAt, shut: shut, size: size, window: window, chunk: chunk}
}

func (r *pipeReader) fill() {
	for len(r.queue) < r.window && (r.next < r.size || len(r.queue) == 0) {
		p := &piece{done: make(chan struct{})}
		if k := len(r.spare); k > 0 {
			p.buf, r.spare = r.spare[k-1], r.spare[:k-1]
		} else {
			p.buf = make([]byte, r.chunk)
		}
		off := r.next
		r.next += int64(len(p.buf))
		r.queue = append(r.queue, p)
		go func() {
			defer close(p.done)
			for p.n < len(p.buf) && p.err == nil {
				var n int
				n, p.err = r.readAt(p.buf[p.n:], off+int64(p.n))
				if p.n += n; n == 0 && p.err == nil {
					p.err = io.EOF
				}
			}
		}()
	}
}

// advance makes the next piece's data r.rest.
func (r *pipeReader) advance() error {
	if r.err != nil {
		return r.err
	}
	if r.hand != nil {
		r.err = r.hand.err
		r.spare, r.hand = append(r.spare, r.hand.buf), nil
		if r.err != nil {
			return r.err
		}
	}
	r.fill()
	p := r.queue[0]
	<-p.done
	r.queue = r.queue[1:]
	r.hand, r.rest = p, p.buf[:p.n]
	if p.err == nil {
		r.fill()
	}
	return nil
}

// Read implements io.Reader.
func (r *pipeReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if err := r.advance(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo without a copy.
func (r *pipeReader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if len(r.rest) > 0 {
			n, err := w.Write(r.rest)
			total += int64(n)
			r.rest = r.rest[n:]
			if err != nil {
				return total, err
			}
		}
		if err := r.advance(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
	}
}

func (r *pipeReader) Close() error {
	for _, p := range r.queue {
		<-p.done
	}
	r.queue, r.spare, r.rest, r.hand = nil, nil, nil, nil
	if errors.Is(r.err, fs.ErrClosed) {
		return r.err
	}
	r.err = fs.ErrClosed
	return r.shut()
}

// pipeWriter writes a file from its beginning with several WriteAt calls under
// way. It holds at most window+1 buffers. It is for one goroutine.
type pipeWriter struct {
	writeAt func(p []byte, off int64) (int, error)
	shut    func(sync bool) error
	buf     []byte
	off     int64
	tokens  chan struct{}
	free    chan []byte
	wg      sync.WaitGroup
	closed  bool

	mu  sync.Mutex
	err error
}

func newPipeWriter(writeAt func([]byte, int64) (int, error), shut func(bool) error, chunk, window int) *pipeWriter {
	w := &pipeWriter{writeAt: writeAt, shut: shut, tokens: make(chan struct{}, window), free: make(chan []byte, window+1)}
	w.buf = make([]byte, 0, chunk)
	return w
}

func (w *pipeWriter) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *pipeWriter) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// flush sends the buffer and takes another.
func (w *pipeWriter) flush() {
	w.tokens <- struct{}{}
	data, off := w.buf, w.off
	w.off += int64(len(data))
	w.wg.Go(func() {
		n, err := w.writeAt(data, off)
		if err == nil && n != len(data) {
			err = io.ErrShortWrite
		}
		if err != nil {
			w.fail(err)
		}
		w.free <- data[:0]
		<-w.tokens
	})
	select {
	case w.buf = <-w.free:
	default:
		w.buf = make([]byte, 0, cap(data))
	}
}

// Write implements io.Writer.
func (w *pipeWriter) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		if w.closed {
			return total, fs.ErrClosed
		}
		if err := w.failed(); err != nil {
			return total, err
		}
		n := copy(w.buf[len(w.buf):cap(w.buf)], p)
		w.buf = w.buf[:len(w.buf)+n]
		p, total = p[n:], total+n
		if len(w.buf) == cap(w.buf) {
			w.flush()
		}
	}
	return total, nil
}

func (w *pipeWriter) Close() error {
	if w.closed {
		return fs.ErrClosed
	}
	if len(w.buf) > 0 && w.failed() == nil {
		w.flush()
	}
	w.closed = true
	w.wg.Wait()
	err := w.failed()
	return errors.Join(err, w.shut(err == nil))
}

func (w *pipeWriter) Abort() {
	if !w.closed {
		w.closed = true
		w.wg.Wait()
		w.shut(false)
	}
}
