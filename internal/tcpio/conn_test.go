package tcpio

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// pair is a wrapped connection and its plain peer.
func pair(t testing.TB) (wrapped net.Conn, peer *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(accepted)
			return
		}
		accepted <- c
	}()
	var d Dialer
	if wrapped, err = d.DialContext(t.Context(), "tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	c, ok := <-accepted
	if !ok {
		t.Fatal("no connection")
	}
	t.Cleanup(func() { wrapped.Close(); c.Close() })
	return wrapped, c.(*net.TCPConn)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// Both directions at once, more than socket buffers hold, in pieces of all sizes.
func TestEcho(t *testing.T) {
	c, peer := pair(t)
	go func() {
		io.Copy(struct{ io.Writer }{peer}, struct{ io.Reader }{peer})
		peer.CloseWrite()
	}()
	want := randomBytes(20<<20 + 7)
	written := make(chan error, 1)
	go func() {
		rest := want
		for i := 0; len(rest) > 0; i++ {
			var bufs net.Buffers
			total := 0
			for j := range 1 + i*37%1500 { // beyond maxVector, and empty ones
				n := min(len(rest), j*i%4099)
				bufs = append(bufs, rest[:n:n])
				rest = rest[n:]
				total += n
			}
			n, err := WriteBuffers(c, &bufs)
			if err != nil || n != int64(total) || len(bufs) != 0 {
				written <- errors.Join(err, errors.New("short write"))
				return
			}
		}
		written <- c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(struct{ io.Reader }{c})
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(want), err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
}

func TestDeadlines(t *testing.T) {
	c, _ := pair(t)
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for block := make([]byte, 1<<20); ; { // nobody reads
		if _, err := c.Write(block); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("write: %v", err)
			}
			break
		}
	}
	var ne net.Error
	c.SetReadDeadline(time.Unix(1, 0))
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("read: %v", err)
	}
}

// A deadline set meanwhile, and Close, end what waits.
func TestInterrupted(t *testing.T) {
	for name, interrupt := range map[string]func(net.Conn) error{
		"deadline": func(c net.Conn) error { return c.SetDeadline(time.Unix(1, 0)) },
		"close":    net.Conn.Close,
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := pair(t)
			done := make(chan error, 1)
			started := make(chan struct{})
			go func() {
				b := make([]byte, 1)
				c.Read(b)
				close(started)
				_, err := c.Read(b)
				done <- err
			}()
			peer.Write([]byte{1})
			<-started
			if err := interrupt(c); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestReset(t *testing.T) {
	c, peer := pair(t)
	peer.SetLinger(0)
	peer.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	var oe *net.OpError
	if _, err := c.Write([]byte{1}); !errors.As(err, &oe) || oe.Op != "write" {
		t.Errorf("write: %v", err)
	}
}

func TestClosed(t *testing.T) {
	c, _ := pair(t)
	c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
}

// What is no TCP stays what it is.
func TestWrapOther(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Wrap(a) != a {
		t.Error("a pipe was wrapped")
	}
	go func() {
		bufs := net.Buffers{[]byte("ab"), []byte("c")}
		WriteBuffers(a, &bufs)
	}()
	got := make([]byte, 3)
	if _, err := io.ReadFull(b, got); err != nil || string(got) != "abc" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNoGarbage(t *testing.T) {
	c, peer := pair(t)
	b, bufs := make([]byte, 512), make(net.Buffers, 0, 2)
	allocs := testing.AllocsPerRun(100, func() {
		vec := append(bufs, b[:256], b[256:])
		if _, err := WriteBuffers(c, &vec); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, b); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Write(b); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(b); {
			k, err := c.Read(b[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
	})
	if allocs > 2 { // bufs, through an interface
		t.Errorf("%v allocations a round trip", allocs)
	}
}

// What a relay's read costs, beside the same without Wrap.
func BenchmarkRead(b *testing.B) {
	for _, wrapped := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "wrapped"}[wrapped], func(b *testing.B) {
			c, peer := pair(b)
			var r io.Reader = c
			if !wrapped {
				r, peer = peer, nil
			}
			go func() {
				var w io.Writer = c
				if wrapped {
					w = peer
				}
				for block := make([]byte, 64<<10); ; {
					if _, err := w.Write(block); err != nil {
						return
					}
				}
			}()
			buf := make([]byte, 64<<10)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := io.ReadFull(r, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
