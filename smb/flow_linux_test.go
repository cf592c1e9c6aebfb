package smb

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

// viewStream does with a connection what a QUIC stream does: ReadFrom waits for
// the source's descriptor before it reads, WriteTo hands out lists of buffers.
type viewStream struct {
	*net.TCPConn
	t *testing.T
}

func (s viewStream) ReadFrom(r io.Reader) (n int64, err error) {
	sc, ok := r.(syscall.Conn)
	if !ok {
		s.t.Errorf("%T cannot be waited for", r)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 10_000)
	for {
		err = raw.Read(func(fd uintptr) bool {
			var b [1]byte
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			return !errors.Is(err, syscall.EAGAIN)
		})
		k := 0
		if err == nil {
			k, err = r.Read(buf)
		}
		if k > 0 {
			_, werr := s.Write(buf[:k])
			n += int64(k)
			err = errors.Join(werr, ignoreEOF(err))
		}
		if err != nil {
			return n, ignoreEOF(err)
		}
		if k == 0 {
			return n, nil
		}
	}
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

func (s viewStream) WriteTo(w io.Writer) (n int64, err error) {
	bw, ok := w.(interface {
		WriteBuffers(*net.Buffers) (int64, error)
	})
	if !ok {
		s.t.Errorf("%T takes no lists of buffers", w)
	}
	for {
		buf := make([]byte, 10_000)
		k, err := s.Read(buf)
		if k > 0 {
			bufs := net.Buffers{buf[:k/3], buf[k/3 : k/2], buf[k/2 : k]}
			m, werr := bw.WriteBuffers(&bufs)
			if n += m; werr != nil {
				return n, werr
			}
		}
		if err != nil {
			return n, ignoreEOF(err)
		}
	}
}

// A stream that uses the fast paths gets every octet across, and the inspection
// is not gone round.
func TestRelayFastPaths(t *testing.T) {
	for _, bad := range []bool{false, true} {
		p := startPeers(t, t.Context(), Options{}, func() (net.Conn, net.Conn) {
			a, b := tcpPair(t)
			return a, viewStream{b.(*net.TCPConn), t}
		})
		p.negotiate(t)
		var all []byte
		for i := range 40 {
			all = append(all, message("\xfdSMB", 100+i*997)...)
		}
		want := ReasonClientClosed
		go func() {
			p.client.Write(all)
			if bad {
				p.client.Write([]byte("not SMB2"))
			}
			p.client.(*net.TCPConn).CloseWrite()
		}()
		if bad {
			want = ReasonClientFraming
			if got, _ := ended(t, p.backend); !bytes.HasPrefix(all, got) {
				t.Errorf("%d octets at the backend are not the client's", len(got))
			}
			p.want(t, want)
			continue
		}
		if got, err := ended(t, p.backend); err != nil || !bytes.Equal(got, all) {
			t.Errorf("the backend got %d of %d octets, %v", len(got), len(all), err)
		}
		go func() {
			p.backend.Write(all)
			p.backend.Close()
		}()
		if got, err := ended(t, p.client); err != nil || !bytes.Equal(got, all) {
			t.Errorf("the client got %d of %d octets, %v", len(got), len(all), err)
		}
		if r := p.want(t, want); r.UpMessages != 41 || r.DownMessages != 41 {
			t.Errorf("%d messages up, %d down", r.UpMessages, r.DownMessages)
		}
	}
}

// lentBytes is a lentReader that has all its bytes at once.
type lentBytes []byte

func (l *lentBytes) ReadLent(lend func() [][]byte, _ func()) (n int, err error) {
	for _, b := range lend() {
		k := copy(b, *l)
		*l, n = (*l)[k:], n+k
	}
	if n == 0 {
		err = io.EOF
	}
	return n, err
}

// What is read into several buffers at once is inspected in all of them.
func TestLentInspection(t *testing.T) {
	good := append(message("\xfdSMB", 300), message("\xfdSMB", 100)...)
	for name, c := range map[string]struct {
		data []byte
		ok   int
		bad  bool
	}{
		"all of it":      {good, len(good), false},
		"and more":       {append(bytes.Clone(good), "not SMB2"...), len(good), true},
		"from the start": {[]byte("not SMB2"), 0, true},
	} {
		f := &flow{in: NewInspector(ToClient, 0)}
		from := lentBytes(c.data)
		r := newLentInspectingReader(&inspectingReader{flow: f}, &from)
		lend := func() [][]byte { return [][]byte{make([]byte, 50), make([]byte, 254), make([]byte, 1000)} }
		n, err := r.ReadLent(lend, func() {})
		if n != c.ok || (err != nil) != c.bad || (r.refused != nil) != c.bad || f.bytes.Load() != int64(c.ok) {
			t.Errorf("%s: %d, %v; refused %v, %d counted", name, n, err, r.refused, f.bytes.Load())
		}
		want := r.refused
		if want == nil {
			want = io.EOF
		}
		if n, err := r.ReadLent(lend, func() {}); n != 0 || err != want {
			t.Errorf("%s, again: %d, %v", name, n, err)
		}
	}
}
