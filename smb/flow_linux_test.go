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
