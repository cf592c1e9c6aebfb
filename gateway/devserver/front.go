package devserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"
)

const (
	lastMark = 1 << 31
	// maxFragments bounds the pieces of one record.
	maxFragments = 4096
	maxAuth      = 400
)

// frontListener hands the library connections that pass through a front.
type frontListener struct {
	net.Listener
	s *Server
}

func (l *frontListener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		f := &front{Conn: nc, s: l.s, lock: make(chan struct{}, 1), done: make(chan struct{}), turn: make(chan struct{}, 1)}
		if l.s.admit(f) {
			l.s.wg.Add(1)
			return f, nil
		}
		nc.Close()
	}
}

// front is one connection. Read hands the library whole calls that it is to
// answer, one at a time: the library's writer must never fall behind, because
// its reader would then wait for ever after a failed write.
type front struct {
	net.Conn
	s      *Server
	in     []byte // the record at hand, with its mark
	buf    []byte // the memory behind it
	passed bool   // the library has a call it has not answered

	lock    chan struct{} // held while a reply is written
	turn    chan struct{} // gets a token when the library's reply is out
	left    int           // octets of the library's reply that are still to come
	done    chan struct{}
	closing sync.Once
}

// Close ends the connection.
func (f *front) Close() error {
	var err error
	f.closing.Do(func() {
		close(f.done)
		err = f.Conn.Close()
		f.s.leave(f)
		f.s.wg.Done()
	})
	return err
}

// Read implements net.Conn for the library. The library does not close a
// connection whose Read failed in the middle, so that is done here.
func (f *front) Read(p []byte) (int, error) {
	for len(f.in) == 0 {
		if err := f.next(); err != nil {
			f.Close()
			return 0, err
		}
	}
	n := copy(p, f.in)
	f.in = f.in[n:]
	return n, nil
}

// next gets the next call for the library; calls that the front answers may
// come before it.
func (f *front) next() error {
	if f.passed {
		select {
		case <-f.turn:
			f.passed = false
		case <-f.done:
			return net.ErrClosed
		}
	}
	rec, err := f.record()
	if err != nil {
		return err
	}
	c, err := parseCall(rec[4:])
	if err != nil {
		return err
	}
	reply, mine := f.s.answer(c)
	if !mine {
		f.in, f.passed = rec, true
		return nil
	}
	return f.reply(reply)
}

// record reads one record whole and returns it as a single fragment with its mark.
func (f *front) record() ([]byte, error) {
	f.Conn.SetReadDeadline(time.Time{})
	f.buf = append(f.buf[:0], 0, 0, 0, 0)
	for fragments := 0; ; fragments++ {
		var mark [4]byte
		if _, err := io.ReadFull(f.Conn, mark[:]); err != nil {
			return nil, err
		}
		f.Conn.SetReadDeadline(time.Now().Add(stallTime))
		m := binary.BigEndian.Uint32(mark[:])
		n, at := int(m&^lastMark), len(f.buf)
		if n > maxRecord-at || fragments >= maxFragments {
			return nil, fmt.Errorf("dev server: a record of more than %d octets or %d fragments", maxRecord, maxFragments)
		}
		f.buf = append(f.buf, make([]byte, n)...)
		if _, err := io.ReadFull(f.Conn, f.buf[at:]); err != nil {
			return nil, err
		}
		if m&lastMark != 0 {
			binary.BigEndian.PutUint32(f.buf, uint32(len(f.buf)-4)|lastMark)
			return f.buf, nil
		}
	}
}

// acquire takes the write lock unless the connection ends.
func (f *front) acquire() error {
	select {
	case f.lock <- struct{}{}:
		f.Conn.SetWriteDeadline(time.Now().Add(stallTime))
		return nil
	case <-f.done:
		return net.ErrClosed
	}
}

// reply writes a reply of the front's, its mark included.
func (f *front) reply(b []byte) error {
	if err := f.acquire(); err != nil {
		return err
	}
	defer func() { <-f.lock }()
	binary.BigEndian.PutUint32(b, uint32(len(b)-4)|lastMark)
	_, err := f.Conn.Write(b)
	return err
}

// Write implements net.Conn for the library, whose writer begins each reply
// with a Write of its own, and may need several.
func (f *front) Write(p []byte) (int, error) {
	if f.left == 0 {
		if len(p) < 4 {
			return 0, errors.New("dev server: a reply without a whole record mark")
		}
		if err := f.acquire(); err != nil {
			return 0, err
		}
		f.left = 4 + int(binary.BigEndian.Uint32(p)&^lastMark)
	}
	n, err := f.Conn.Write(p)
	f.left -= n
	if err != nil {
		f.Close()
		return n, err
	}
	if f.left == 0 {
		<-f.lock
		f.turn <- struct{}{}
	}
	return n, nil
}

// call is a parsed RPC call; args is what follows the header.
type call struct {
	xid, rpcvers, prog, vers, proc uint32
	args                           args
}

var errBadCall = errors.New("dev server: malformed RPC call")

// parseCall parses a call's header. What is no call cannot be answered and
// ends the connection.
func parseCall(b []byte) (call, error) {
	a := args{b: b}
	c := call{xid: a.uint32()}
	kind := a.uint32()
	c.rpcvers, c.prog, c.vers, c.proc = a.uint32(), a.uint32(), a.uint32(), a.uint32()
	a.uint32()
	a.opaque(maxAuth)
	a.uint32()
	a.opaque(maxAuth)
	c.args = a
	if a.bad || kind != uint32(rpcv2.CALL) {
		return c, errBadCall
	}
	return c, nil
}

// args consumes XDR; bad is set where it does not parse.
type args struct {
	b   []byte
	bad bool
}

func (a *args) take(n int) []byte {
	if a.bad || n > len(a.b) {
		a.bad = true
		return nil
	}
	v := a.b[:n:n]
	a.b = a.b[n:]
	return v
}

func (a *args) uint32() uint32 {
	if v := a.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (a *args) uint64() uint64 {
	if v := a.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (a *args) opaque(limit int) []byte {
	n := a.uint32()
	if uint64(n) > uint64(limit) {
		a.bad = true
		return nil
	}
	v := a.take(int(n))
	a.take(int(-n & 3))
	return v
}

// sattr passes over sattr3: mode, uid, gid, size, atime, mtime.
func (a *args) sattr() {
	for _, n := range []int{4, 4, 4, 8} {
		if a.uint32() != 0 {
			a.take(n)
		}
	}
	for range 2 {
		if a.uint32() == uint32(nfsv3.SET_TO_CLIENT_TIME) {
			a.take(8)
		}
	}
}

// accepted begins a reply with accept_stat; 4 octets are left for the mark.
func accepted(xid uint32, stat rpcv2.AcceptStat) []byte {
	b := put32(make([]byte, 4, 256), xid)
	return put32(b, uint32(rpcv2.REPLY), uint32(rpcv2.MSG_ACCEPTED), uint32(rpcv2.AUTH_NONE), 0, uint32(stat))
}

func put32(b []byte, v ...uint32) []byte {
	for _, v := range v {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func putOpaque(b, v []byte) []byte {
	b = append(put32(b, uint32(len(v))), v...)
	return append(b, make([]byte, -len(v)&3)...)
}
