package nfs3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
)

// Reader reads a file from its beginning, with several READs under way. It
// holds at most Options.Window buffers of the server's read size. It is for
// one goroutine.
type Reader struct {
	f      *FS
	ctx    context.Context
	cancel context.CancelFunc
	path   string
	info   *FileInfo
	size   uint64 // where read-ahead stops; the end is where the server says
	next   uint64 // offset of the next READ to start
	queue  []*chunk
	spare  [][]byte
	rest   []byte // what Read has not handed out of the chunk at hand
	hand   *chunk
	err    error
}

// chunk is one range under way.
type chunk struct {
	buf  []byte
	n    int
	eof  bool
	err  error
	done chan struct{}
}

// Open opens a regular file for reading. ctx bounds the whole life of the
// Reader.
func (f *FS) Open(ctx context.Context, p string) (*Reader, error) {
	info, err := f.Stat(ctx, p)
	if err != nil {
		return nil, err
	}
	switch info.attr.Type {
	case nfsv3.NF3REG:
	case nfsv3.NF3DIR:
		return nil, &Error{Op: "open", Name: p, Status: nfsv3.NFS3ERR_ISDIR}
	default:
		return nil, fmt.Errorf("nfs open %q: not a regular file", p)
	}
	r := &Reader{f: f, path: p, info: info, size: info.attr.Size}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r, nil
}

// Stat returns the attributes from the time the file was opened.
func (r *Reader) Stat() (fs.FileInfo, error) { return r.info, nil }

// fill keeps READs under way: up to the window below the known size, one at
// a time beyond it, because the file may have grown.
func (r *Reader) fill() {
	for len(r.queue) < r.f.window && (r.next < r.size || len(r.queue) == 0) {
		var buf []byte
		if k := len(r.spare); k > 0 {
			buf, r.spare = r.spare[k-1], r.spare[:k-1]
		} else {
			// A small file needs no full buffer; one octet more finds the end
			// of the file in the same READ.
			want := uint64(r.f.rsize)
			if r.next == 0 && r.size < want {
				want = max(r.size+1, minIO)
			}
			buf = make([]byte, min(want, uint64(r.f.rsize)))
		}
		c := &chunk{buf: buf, done: make(chan struct{})}
		go r.f.readChunk(r.ctx, r.info.handle, r.next, c)
		r.next += uint64(len(buf))
		r.queue = append(r.queue, c)
	}
}

// readChunk fills one chunk; READ may return less than it was asked for.
func (f *FS) readChunk(ctx context.Context, h Handle, off uint64, c *chunk) {
	defer close(c.done)
	for c.n < len(c.buf) && !c.eof && c.err == nil {
		var n int
		n, c.eof, c.err = f.stream().Read(ctx, h, off+uint64(c.n), c.buf[c.n:])
		c.n += n
	}
}

// advance makes the next chunk's data r.rest.
func (r *Reader) advance() error {
	if r.err != nil {
		return r.err
	}
	if r.hand != nil {
		eof := r.hand.eof
		r.spare, r.hand = append(r.spare, r.hand.buf), nil
		if eof {
			r.err = io.EOF
			return r.err
		}
	}
	r.fill()
	c := r.queue[0]
	<-c.done
	r.queue = r.queue[1:]
	if c.err != nil {
		r.err = pathError(c.err, "read", r.path)
		return r.err
	}
	r.hand, r.rest = c, c.buf[:c.n]
	r.fill()
	return nil
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if err := r.advance(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: the buffers go to w without a copy.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
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
		if err := r.advance(); err != nil {
			if err == io.EOF {
				return total, nil
			}
			return total, err
		}
	}
}

// Close ends the READs under way and waits for them.
func (r *Reader) Close() error {
	r.cancel()
	for _, c := range r.queue {
		<-c.done
	}
	r.queue, r.spare, r.rest = nil, nil, nil
	if r.err == nil || errors.Is(r.err, io.EOF) {
		r.err = fs.ErrClosed
	}
	return nil
}
