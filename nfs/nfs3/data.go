package nfs3

import (
	"context"
	"fmt"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
)

// Verifier changes when a server may have lost uncommitted data.
type Verifier [8]byte

// Read reads up to len(buf) octets at off into buf. It may return fewer
// before the end of the file; eof says that the end was reached. len(buf)
// must be 1 to [MaxIO] and should not exceed the server's rtmax. buf is not
// touched after Read returned, not even when ctx ended it.
func (c *Conn) Read(ctx context.Context, h Handle, off uint64, buf []byte) (n int, eof bool, err error) {
	if len(buf) == 0 || len(buf) > MaxIO {
		return 0, false, fmt.Errorf("nfs read: a buffer of %d octets (1 to %d are allowed)", len(buf), MaxIO)
	}
	p := c.nfs(procRead, h)
	defer c.buffers.Put(p)
	*p = appendUint32(appendUint64(*p, off), uint32(len(buf)))
	cl := new(call)
	err = c.retry(ctx, "read", "", func() (uint32, error) {
		*cl = call{into: buf, limit: len(buf) + replySlack}
		if err := c.roundTrip(ctx, *p, nil, cl); err != nil {
			return 0, err
		}
		d := decoder{b: cl.reply}
		return d.uint32(), d.err
	})
	if err != nil {
		return 0, false, err
	}
	if cl.n == 0 && !cl.eof {
		return 0, false, wrapCall("read", "", fmt.Errorf("%w: no data and no end of file", ErrMalformed))
	}
	return cl.n, cl.eof, nil
}

// Write writes data at off and returns how much the server took (1 to
// len(data)), how firmly, and the verifier that says whether data written
// with nfsv3.UNSTABLE is still there at [Conn.Commit]. len(data) must be 1 to [MaxIO].
func (c *Conn) Write(ctx context.Context, h Handle, off uint64, data []byte, stable nfsv3.StableHow) (n int, committed nfsv3.StableHow, verf Verifier, err error) {
	if len(data) == 0 || len(data) > MaxIO {
		return 0, 0, verf, fmt.Errorf("nfs write: %d octets (1 to %d are allowed)", len(data), MaxIO)
	}
	p := c.nfs(procWrite, h)
	defer c.buffers.Put(p)
	*p = appendUint32(appendUint64(*p, off), uint32(len(data)))
	*p = appendUint32(appendUint32(*p, uint32(stable)), uint32(len(data)))
	var d decoder
	err = c.retry(ctx, "write", "", func() (uint32, error) {
		cl := &call{limit: c.cfg.MaxReply}
		if err := c.roundTrip(ctx, *p, data, cl); err != nil {
			return 0, err
		}
		d = decoder{b: cl.reply}
		status := d.uint32()
		return status, d.err
	})
	if err != nil {
		return 0, 0, verf, err
	}
	d.wcc()
	count := d.uint32()
	committed = nfsv3.StableHow(d.uint32())
	verf = d.verifier()
	if err = finish("write", "", &d); err != nil {
		return 0, 0, verf, err
	}
	// A count of 0 would make the caller repeat for ever, and a server may
	// commit more than was asked for but not less (RFC 1813, Section 3.3.7).
	if count == 0 || uint64(count) > uint64(len(data)) || committed < stable || committed > nfsv3.FILE_SYNC {
		return 0, 0, verf, wrapCall("write", "", fmt.Errorf("%w: %d of %d octets written, stability %d where %d was asked for",
			ErrMalformed, count, len(data), committed, stable))
	}
	return int(count), committed, verf, nil
}

// Commit makes the server write a range to stable storage; count 0 means to
// the end of the file.
func (c *Conn) Commit(ctx context.Context, h Handle, off uint64, count uint32) (Verifier, error) {
	p := c.nfs(procCommit, h)
	*p = appendUint32(appendUint64(*p, off), count)
	d, err := c.do(ctx, "commit", "", p)
	if err != nil {
		return Verifier{}, err
	}
	d.wcc()
	v := Verifier(d.verifier())
	return v, finish("commit", "", d)
}
