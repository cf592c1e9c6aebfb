package nfs3

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"
)

// maxEmptyFragments bounds fragments that carry nothing: they could go on for
// ever without reaching any size limit.
const maxEmptyFragments = 16

// errAbandoned: the reply's receiver has gone, the rest is to be skipped.
var errAbandoned = errors.New("abandoned")

// errShort: the record ended.
var errShort = fmt.Errorf("%w: too short", ErrMalformed)

// record reads one RPC message.
//
// RFC 5531, Section 11: "A record is composed of one or more record
// fragments. A record fragment is a four-byte header followed by 0 to
// (2**31) - 1 bytes of fragment data."
type record struct {
	c     *Conn
	left  int  // octets left in this fragment
	last  bool // this fragment is the record's last
	total int  // octets announced so far, this fragment included
	limit int  // most octets the record may have
	empty int
}

// readReplies is the reader's goroutine.
func (c *Conn) readReplies() {
	defer close(c.readerDone)
	for {
		if err := c.readReply(); err != nil {
			c.fail(err)
			return
		}
	}
}

// readReply receives one message and completes the call it answers. An error
// ends the connection.
func (c *Conn) readReply() error {
	// A reply nobody waits for is skipped, but not without bound.
	r := record{c: c, limit: MaxIO + replySlack}
	if err := r.start(); err != nil {
		return err
	}
	xid, err := r.uint32()
	if err != nil {
		return err
	}
	kind, err := r.uint32()
	if err != nil {
		return err
	}
	// draft-cel-nfsv4-rpc-over-quicv1-06, Section 3.4: messages that go in the
	// wrong direction are silently discarded.
	if kind != uint32(rpcv2.REPLY) {
		return r.skip()
	}
	cl := c.claim(xid)
	if cl == nil {
		return r.skip()
	}
	r.limit = cl.limit
	callErr := r.receive(cl)
	// skip comes before the call completes: an error of the stream must reach it.
	var streamErr error
	if errors.As(callErr, new(*fatal)) {
		streamErr = callErr
	} else {
		streamErr = r.skip()
	}
	c.complete(cl, callErr, streamErr)
	return streamErr
}

// fatal marks an error after which record boundaries are lost.
type fatal struct{ err error }

func (f *fatal) Error() string { return f.err.Error() }
func (f *fatal) Unwrap() error { return f.err }

func (c *Conn) claim(xid uint32) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.pending[xid]
	if cl != nil {
		delete(c.pending, xid)
		c.current = cl
	}
	return cl
}

func (c *Conn) complete(cl *call, callErr, streamErr error) {
	c.mu.Lock()
	c.current = nil
	c.mu.Unlock()
	select {
	case <-cl.done: // wake already released it
		return
	default:
	}
	cl.err = callErr
	if streamErr != nil {
		cl.err = streamErr
	}
	close(cl.done)
}

// start waits for a record to begin, without a deadline: calls have their own.
func (r *record) start() error {
	if r.c.br.Buffered() < 4 {
		r.c.mu.Lock()
		r.c.nc.SetReadDeadline(time.Time{})
		r.c.mu.Unlock()
	}
	return r.nextFragment()
}

// nextFragment reads record marks up to the next octet of data. At the end of
// the record it reports a reply that is too short.
func (r *record) nextFragment() error {
	for r.left == 0 {
		if r.last {
			return errShort
		}
		var mark [4]byte
		if err := r.fill(mark[:]); err != nil {
			return &fatal{err}
		}
		m := binary.BigEndian.Uint32(mark[:])
		r.last = m&lastMark != 0
		n := int(m &^ lastMark)
		if n > r.limit-r.total {
			return &fatal{fmt.Errorf("%w: a reply of more than %d octets", ErrMalformed, r.limit)}
		}
		if n == 0 {
			if r.empty++; r.empty > maxEmptyFragments {
				return &fatal{fmt.Errorf("%w: more than %d empty fragments", ErrMalformed, maxEmptyFragments)}
			}
		}
		r.total += n
		r.left = n
		r.guard()
	}
	return nil
}

// guard sets a deadline for the rest of a fragment that has not arrived yet.
func (r *record) guard() {
	if r.c.br.Buffered() >= r.left {
		return
	}
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if cl := r.c.current; cl == nil || !cl.abandoned {
		r.c.nc.SetReadDeadline(time.Now().Add(r.c.cfg.Timeout))
	}
}

// wake handles a read that timed out. It is either the signal of
// Conn.abandon, after which reading goes on, or a peer that stopped in the
// middle of a message.
func (r *record) wake(err error) error {
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("rpc receive: the server closed the stream: %w", io.ErrUnexpectedEOF)
		}
		return fmt.Errorf("rpc receive: %w", err)
	}
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	cl := r.c.current
	if cl == nil || !cl.abandoned {
		return fmt.Errorf("rpc receive: %w (a reply stopped half-way for %v)", ErrTimeout, r.c.cfg.Timeout)
	}
	r.c.nc.SetReadDeadline(time.Now().Add(r.c.cfg.Timeout))
	r.c.current = nil
	cl.err = errAbandoned
	close(cl.done)
	return errAbandoned
}

// fill reads len(p) octets of the stream. It keeps reading after wake
// released an abandoned call, unless p is that call's buffer.
func (r *record) fill(p []byte) error {
	_, err := r.fillFor(p, false)
	return err
}

func (r *record) fillFor(p []byte, callers bool) (int, error) {
	done := 0
	for done < len(p) {
		n, err := r.c.br.Read(p[done:])
		done += n
		if err == nil || done == len(p) {
			continue
		}
		if err = r.wake(err); err == errAbandoned && !callers {
			continue
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// read fills p from the record's data, across fragments. callers says that p
// belongs to the caller of the procedure.
func (r *record) read(p []byte, callers bool) error {
	for len(p) > 0 {
		if err := r.nextFragment(); err != nil {
			return err
		}
		n, err := r.fillFor(p[:min(len(p), r.left)], callers)
		r.left -= n
		p = p[n:]
		if err == errAbandoned {
			return err
		}
		if err != nil {
			return &fatal{err}
		}
	}
	return nil
}

func (r *record) uint32() (uint32, error) {
	var b [4]byte
	if err := r.read(b[:], false); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b[:]), nil
}

// skip discards the rest of the record.
func (r *record) skip() error {
	for {
		for r.left > 0 {
			n, err := r.c.br.Discard(r.left)
			r.left -= n
			if err == nil {
				continue
			}
			if err = r.wake(err); err != nil && err != errAbandoned {
				return err
			}
		}
		if r.last {
			return nil
		}
		if err := r.nextFragment(); err != nil && err != errShort {
			return err
		}
	}
}

// receive reads the reply of cl behind XID and message type. An error that
// is not a *fatal is the call's alone.
func (r *record) receive(cl *call) error {
	if err := r.header(); err != nil {
		return err
	}
	if cl.into == nil {
		var err error
		cl.reply, err = r.rest(nil)
		return err
	}
	return r.receiveData(cl)
}

// header reads reply_stat up to accept_stat.
func (r *record) header() error {
	stat, err := r.uint32()
	if err != nil {
		return err
	}
	if stat == uint32(rpcv2.MSG_DENIED) {
		return r.denied()
	}
	if stat != uint32(rpcv2.MSG_ACCEPTED) {
		return fmt.Errorf("%w: reply status %d", ErrMalformed, stat)
	}
	if _, err = r.uint32(); err != nil { // verifier's flavor
		return err
	}
	n, err := r.uint32()
	if err != nil {
		return err
	}
	if n > maxAuthBody {
		return fmt.Errorf("%w: verifier of %d octets", ErrMalformed, n)
	}
	var body [maxAuthBody]byte
	if err = r.read(body[:int(n)+padLen(int(n))], false); err != nil {
		return err
	}
	accept, err := r.uint32()
	if err != nil || accept == uint32(rpcv2.SUCCESS) {
		return err
	}
	return &RPCError{Accept: rpcv2.AcceptStat(accept)}
}

func (r *record) denied() error {
	reason, err := r.uint32()
	if err != nil {
		return err
	}
	if reason == uint32(rpcv2.RPC_MISMATCH) {
		return &RPCError{Denied: true, VersionMismatch: true}
	}
	stat, err := r.uint32()
	if err != nil {
		return err
	}
	return &RPCError{Denied: true, Auth: rpcv2.AuthStat(stat)}
}

// rest appends the remaining data of the record to b. nextFragment has bounded
// every fragment by the call's limit before it is allocated here; memory is
// taken as data arrives, at most 64 KiB ahead of it.
func (r *record) rest(b []byte) ([]byte, error) {
	for {
		for r.left > 0 {
			n := min(r.left, 64<<10)
			at := len(b)
			b = append(b, make([]byte, n)...)
			if err := r.read(b[at:], false); err != nil {
				return nil, err
			}
		}
		if r.last {
			return b, nil
		}
		if err := r.nextFragment(); err != nil {
			if err == errShort { // the last fragment is empty
				return b, nil
			}
			return nil, err
		}
	}
}

// receiveData reads READ3res with the data going straight to cl.into. What
// comes before the data is kept in cl.reply in case of an error status.
func (r *record) receiveData(cl *call) error {
	var head [8 + nfsv3.Fattr3EncodedSizeBytes + 12]byte
	if err := r.read(head[:8], false); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(head[:]) != uint32(nfsv3.NFS3_OK) {
		var err error
		cl.reply, err = r.rest(append([]byte(nil), head[:8]...))
		return err
	}
	b := head[:8+12]
	if binary.BigEndian.Uint32(head[4:]) != 0 {
		b = head[:]
	}
	if err := r.read(b[8:], false); err != nil {
		return err
	}
	d := decoder{b: b[4:]}
	d.optAttr()
	count, eof, length := d.uint32(), d.bool(), d.uint32()
	if err := d.end(); err != nil {
		return err
	}
	if count != length || uint64(length) > uint64(len(cl.into)) {
		return fmt.Errorf("%w: READ of %d octets answered with count %d and %d octets", ErrMalformed, len(cl.into), count, length)
	}
	if err := r.read(cl.into[:length], true); err != nil {
		return err
	}
	var pad [4]byte
	if err := r.read(pad[:padLen(int(length))], false); err != nil {
		return err
	}
	cl.n, cl.eof = int(length), eof
	cl.reply = appendUint32(nil, uint32(nfsv3.NFS3_OK))
	return nil
}
