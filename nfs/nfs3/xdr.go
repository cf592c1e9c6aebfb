package nfs3

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
)

// ErrMalformed is wrapped by every error about a reply that does not follow
// the protocol.
var ErrMalformed = errors.New("malformed reply")

var zeroPad [4]byte

// padLen is the number of zero octets that follow n octets of opaque data.
//
// RFC 4506, Section 3: "If the n bytes needed to contain the data are not a
// multiple of four, then the n bytes are followed by enough (0 to 3) residual
// zero bytes, r, to make the total byte count a multiple of 4."
func padLen(n int) int { return -n & 3 }

func appendUint32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

func appendUint64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

func appendBool(b []byte, v bool) []byte {
	if v {
		return appendUint32(b, 1)
	}
	return appendUint32(b, 0)
}

func appendOpaque[T ~string | ~[]byte](b []byte, v T) []byte {
	b = appendUint32(b, uint32(len(v)))
	b = append(b, v...)
	return append(b, zeroPad[:padLen(len(v))]...)
}

// decoder consumes XDR from b. The first error sticks; values read after it
// are zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, what)
		d.b = nil
	}
}

func (d *decoder) uint32() uint32 {
	if len(d.b) < 4 {
		d.fail("too short")
		return 0
	}
	v := binary.BigEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

func (d *decoder) uint64() uint64 {
	if len(d.b) < 8 {
		d.fail("too short")
		return 0
	}
	v := binary.BigEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) bool() bool {
	switch d.uint32() {
	case 0:
		return false
	case 1:
		return true
	}
	d.fail("a boolean is neither 0 nor 1")
	return false
}

// opaque returns variable-length data of at most limit octets. It aliases the
// reply.
func (d *decoder) opaque(limit int) []byte {
	n := d.uint32()
	if d.err != nil {
		return nil
	}
	if uint64(n) > uint64(limit) {
		d.fail(fmt.Sprintf("opaque of %d octets where at most %d are allowed", n, limit))
		return nil
	}
	return d.fixed(int(n))
}

func (d *decoder) fixed(n int) []byte {
	if len(d.b) < n+padLen(n) {
		d.fail("too short")
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n+padLen(n):]
	return v
}

func (d *decoder) verifier() (v [8]byte) {
	copy(v[:], d.fixed(8))
	return v
}

func (d *decoder) handle() Handle {
	h := Handle(d.opaque(nfsv3.NFS3_FHSIZE))
	if d.err == nil && len(h) == 0 {
		d.fail("an empty file handle")
	}
	return h
}

func (d *decoder) time() nfsv3.Nfstime3 {
	return nfsv3.Nfstime3{Seconds: d.uint32(), Nseconds: d.uint32()}
}

func (d *decoder) attr(a *Attr) {
	a.Type = nfsv3.Ftype3(d.uint32())
	a.Mode, a.Nlink, a.Uid, a.Gid = d.uint32(), d.uint32(), d.uint32(), d.uint32()
	a.Size, a.Used = d.uint64(), d.uint64()
	a.Rdev = nfsv3.Specdata3{Specdata1: d.uint32(), Specdata2: d.uint32()}
	a.Fsid, a.Fileid = d.uint64(), d.uint64()
	a.Atime, a.Mtime, a.Ctime = d.time(), d.time(), d.time()
	if d.err == nil && (a.Type < nfsv3.NF3REG || a.Type > nfsv3.NF3FIFO) {
		d.fail("an unknown file type")
	}
}

// optAttr decodes post_op_attr: nil where the server sent none.
func (d *decoder) optAttr() *Attr {
	if !d.bool() {
		return nil
	}
	a := new(Attr)
	d.attr(a)
	return a
}

func (d *decoder) optHandle() Handle {
	if !d.bool() {
		return ""
	}
	return d.handle()
}

// wcc decodes wcc_data and returns the attributes after the operation.
func (d *decoder) wcc() *Attr {
	if d.bool() {
		d.fixed(24)
	}
	return d.optAttr()
}

// end reports the sticky error. Octets that are left over are no error:
// servers exist that send them (go-nfs does after FSSTAT).
func (d *decoder) end() error { return d.err }
