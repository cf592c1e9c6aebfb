package nfs3

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
)

// File gives access to any part of a file. Calls are independent of each
// other and may be made from any goroutine; nothing is cached.
type File struct {
	f      *FS
	handle Handle
}

// File returns access to the file with handle h.
func (f *FS) File(h Handle) *File { return &File{f: f, handle: h} }

// Handle returns the file's handle.
func (x *File) Handle() Handle { return x.handle }

// Stat returns the file's attributes.
func (x *File) Stat(ctx context.Context) (*Attr, error) { return x.f.c.Getattr(ctx, x.handle) }

// Truncate sets the file's size in octets.
func (x *File) Truncate(ctx context.Context, size uint64) error {
	_, err := x.f.c.Setattr(ctx, x.handle, SetAttr{Size: &size})
	return err
}

// parallel runs do for each piece of n octets, at most the window at once,
// and returns the error of the piece nearest the beginning.
func (f *FS) parallel(ctx context.Context, n, piece int, do func(ctx context.Context, from, to int) error) error {
	if n <= piece {
		return do(ctx, 0, n)
	}
	errs := make([]error, (n+piece-1)/piece)
	tokens := make(chan struct{}, f.window)
	var wg sync.WaitGroup
	for i := range errs {
		tokens <- struct{}{}
		wg.Go(func() {
			errs[i] = do(ctx, i*piece, min(n, (i+1)*piece))
			<-tokens
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// errShortRead carries the count of a read that met the end of the file.
type errShortRead int

func (errShortRead) Error() string { return "end of file" }

// ReadAt reads len(p) octets at off; fewer only with io.EOF at the end of the
// file or another error.
func (x *File) ReadAt(ctx context.Context, p []byte, off uint64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	err := x.f.parallel(ctx, len(p), x.f.rsize, func(ctx context.Context, from, to int) error {
		c := &chunk{buf: p[from:to], done: make(chan struct{})}
		x.f.readChunk(ctx, x.handle, off+uint64(from), c)
		if c.err == nil && c.n < to-from {
			return errShortRead(from + c.n)
		}
		return c.err
	})
	var short errShortRead
	if errors.As(err, &short) {
		return int(short), io.EOF
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteAt writes p at off. When it returns nil, all of p is on the server's
// stable storage.
func (x *File) WriteAt(ctx context.Context, p []byte, off uint64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	how := nfsv3.UNSTABLE
	if len(p) <= x.f.wsize {
		how = nfsv3.FILE_SYNC // one round trip instead of two
	}
	extents := make([]extent, (len(p)+x.f.wsize-1)/x.f.wsize)
	err := x.f.parallel(ctx, len(p), x.f.wsize, func(ctx context.Context, from, to int) error {
		e := &extents[from/x.f.wsize]
		e.off, e.data = off+uint64(from), p[from:to]
		x.f.writeExtent(ctx, x.handle, e, how)
		return e.err
	})
	if err != nil {
		return 0, err
	}
	if how == nfsv3.FILE_SYNC {
		return len(p), nil
	}
	count := uint32(0) // to the end of the file
	if len(p) < 1<<31 {
		count = uint32(len(p))
	}
	verf, err := x.f.c.Commit(ctx, x.handle, off, count)
	if err != nil {
		return 0, err
	}
	for i := range extents {
		if e := &extents[i]; !e.covered(verf) {
			if x.f.writeExtent(ctx, x.handle, e, nfsv3.FILE_SYNC); e.err != nil {
				return 0, e.err
			}
		}
	}
	return len(p), nil
}
