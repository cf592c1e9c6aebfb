package nfs3

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
)

// Writer writes a file from its beginning, with several unstable WRITEs
// under way. Data is kept until a COMMIT has confirmed it: a server that
// restarted meanwhile and so lost it is given it again. It holds at most
// Options.Retain buffers of the server's write size. It is for one goroutine.
type Writer struct {
	f       *FS
	ctx     context.Context
	cancel  context.CancelFunc
	path    string
	handle  Handle
	buf     []byte
	off     uint64        // of the next WRITE
	window  chan struct{} // one token for each WRITE under way
	sent    []*extent     // in the order of their offsets
	pending *commit
	spare   [][]byte
	err     error
	closed  bool
}

// extent is one WRITE that is not committed yet.
type extent struct {
	off    uint64
	data   []byte
	verfs  []Verifier // of the unstable replies; more than one if the server took it in parts
	stable bool       // on stable storage already
	err    error
	done   chan struct{}
}

// commit is a COMMIT under way for the extents that were written before it.
type commit struct {
	extents []*extent
	verf    Verifier
	err     error
	done    chan struct{}
}

// Create makes or truncates a file and opens it for writing. With exclusive
// it fails where the file exists. ctx bounds the whole life of the Writer.
func (f *FS) Create(ctx context.Context, p string, perm fs.FileMode, exclusive bool) (*Writer, error) {
	n, name, err := f.parent(ctx, "create", p)
	if err != nil {
		return nil, err
	}
	how := Unchecked
	if exclusive {
		how = Guarded
	}
	mode, zero := ProtocolMode(perm), uint64(0)
	h, _, err := f.c.Create(ctx, n.handle(), name, how, SetAttr{Mode: &mode, Size: &zero}, [8]byte{})
	if err != nil {
		return nil, pathError(err, "create", p)
	}
	if h == "" {
		if h, _, err = f.c.Lookup(ctx, n.handle(), name); err != nil {
			return nil, pathError(err, "create", p)
		}
	}
	w := &Writer{f: f, path: p, handle: h, window: make(chan struct{}, f.window)}
	w.ctx, w.cancel = context.WithCancel(ctx)
	return w, nil
}

// Name returns the file's path.
func (w *Writer) Name() string { return path.Clean("/" + w.path) }

// Write implements io.Writer; it copies p.
func (w *Writer) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		if err := w.room(); err != nil {
			return total, err
		}
		n := copy(w.buf[len(w.buf):cap(w.buf)], p)
		w.buf = w.buf[:len(w.buf)+n]
		p, total = p[n:], total+n
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return total, err
			}
		}
	}
	return total, w.err
}

// ReadFrom implements io.ReaderFrom: it reads straight into the buffers that
// are sent.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		if err := w.room(); err != nil {
			return total, err
		}
		n, err := r.Read(w.buf[len(w.buf):cap(w.buf)])
		if n < 0 || n > cap(w.buf)-len(w.buf) {
			return total, fmt.Errorf("nfs write %q: the source returned a count of %d", w.path, n)
		}
		w.buf = w.buf[:len(w.buf)+n]
		total += int64(n)
		if err == io.EOF {
			return total, w.err
		}
		if err != nil {
			return total, err
		}
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return total, err
			}
		}
	}
}

// room makes sure that w.buf has space.
func (w *Writer) room() error {
	switch {
	case w.err != nil:
		return w.err
	case w.closed:
		return fs.ErrClosed
	case w.buf != nil:
		return nil
	}
	if k := len(w.spare); k > 0 {
		w.buf, w.spare = w.spare[k-1][:0], w.spare[:k-1]
	} else {
		w.buf = make([]byte, 0, w.f.wsize)
	}
	return nil
}

// flush sends the buffer. It starts a COMMIT when half of what may be
// retained is used, and waits for it when all of it is.
func (w *Writer) flush() error {
	if w.err != nil || len(w.buf) == 0 {
		return w.err
	}
	select {
	case w.window <- struct{}{}:
	case <-w.ctx.Done():
		return w.fail(w.ctx.Err())
	}
	e := &extent{off: w.off, data: w.buf, done: make(chan struct{})}
	w.off += uint64(len(w.buf))
	w.buf = nil
	w.sent = append(w.sent, e)
	go func() {
		w.f.writeExtent(w.ctx, w.handle, e, nfsv3.UNSTABLE)
		<-w.window
		close(e.done)
	}()
	if w.pending != nil && isDone(w.pending.done) {
		if err := w.settle(); err != nil {
			return err
		}
	}
	if w.pending == nil && len(w.sent) >= w.f.retain/2 {
		w.startCommit()
	}
	for w.pending != nil && len(w.sent)+len(w.pending.extents) >= w.f.retain {
		if err := w.settle(); err != nil {
			return err
		}
	}
	return nil
}

func isDone(done chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// writeExtent writes e.data whole.
func (f *FS) writeExtent(ctx context.Context, h Handle, e *extent, how nfsv3.StableHow) {
	e.verfs, e.stable, e.err = e.verfs[:0], true, nil
	for done := 0; done < len(e.data); {
		n, committed, verf, err := f.stream().Write(ctx, h, e.off+uint64(done), e.data[done:], how)
		if err != nil {
			e.err = err
			return
		}
		if committed == nfsv3.UNSTABLE {
			e.stable = false
			e.verfs = append(e.verfs, verf)
		}
		done += n
	}
}

// startCommit commits what has been sent so far, behind its last reply.
func (w *Writer) startCommit() {
	c := &commit{extents: w.sent, done: make(chan struct{})}
	w.sent, w.pending = nil, c
	go func() {
		defer close(c.done)
		needed := false
		for _, e := range c.extents {
			<-e.done
			if e.err != nil {
				c.err = e.err
				continue // every extent has to be waited for
			}
			needed = needed || !e.stable
		}
		if c.err == nil && needed {
			c.verf, c.err = w.f.c.Commit(w.ctx, w.handle, 0, 0)
		}
	}()
}

// settle waits for the COMMIT under way and writes again what it did not
// cover.
//
// A verifier that differs between a WRITE and the COMMIT (RFC 1813, Section
// 3.3.21) says that the server may have lost the data; FILE_SYNC makes the
// second attempt final, however often the server restarts.
func (w *Writer) settle() error {
	c := w.pending
	<-c.done
	w.pending = nil
	if c.err != nil {
		return w.fail(c.err)
	}
	for _, e := range c.extents {
		if !e.covered(c.verf) {
			w.f.writeExtent(w.ctx, w.handle, e, nfsv3.FILE_SYNC)
			if e.err != nil {
				return w.fail(e.err)
			}
		}
		w.spare = append(w.spare, e.data[:0])
	}
	return nil
}

func (e *extent) covered(verf Verifier) bool {
	if e.stable {
		return true
	}
	for _, v := range e.verfs {
		if v != verf {
			return false
		}
	}
	return true
}

func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = pathError(err, "write", w.path)
	}
	return w.err
}

// Close sends and commits what is left. Only when it returns nil is the file
// whole and on the server's stable storage.
func (w *Writer) Close() error {
	if w.closed {
		return fs.ErrClosed
	}
	w.flush()
	for w.err == nil && (w.pending != nil || len(w.sent) > 0) {
		if w.pending == nil {
			w.startCommit()
		}
		w.settle()
	}
	w.stop()
	return w.err
}

// Abort ends the Writer without committing. The file stays as it is.
func (w *Writer) Abort() {
	if !w.closed {
		w.fail(fs.ErrClosed)
		w.stop()
	}
}

// stop ends what is under way and waits for it.
func (w *Writer) stop() {
	w.closed = true
	w.cancel()
	if w.pending != nil {
		<-w.pending.done
	}
	for _, e := range w.sent {
		<-e.done
	}
	w.buf, w.sent, w.pending, w.spare = nil, nil, nil, nil
}
