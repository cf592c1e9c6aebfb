package quic

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic/wire"
)

func tempFile(t *testing.T, content []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// What was sent at an offset is sent there again, whatever became of the file.
func TestSendFileChangesUnderneath(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		const skip, n = 100, 6000
		f := tempFile(t, pattern(0, skip+n))
		s := tc.openStream()
		if sent, err := s.SendFile(f, skip, n); err != nil || sent != n {
			t.Fatalf("SendFile = %d, %v", sent, err)
		}
		if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != 0 {
			t.Errorf("the file's own offset is %d, %v", at, err)
		}
		seen := make([]int, n) // how often each byte was sent
		look := func() {
			for _, x := range tc.frames() {
				if x.typ != wire.FrameStream {
					continue
				}
				if want := pattern(skip+x.off, len(x.data)); !bytes.Equal(x.data, want) {
					t.Fatalf("other bytes at %d", x.off)
				}
				for i := range x.data {
					seen[int(x.off)+i]++
				}
			}
		}
		look()
		if _, err := f.WriteAt(make([]byte, skip+n), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(skip + n/2); err != nil {
			t.Fatal(err)
		}
		again := false
		for range 20 { // nothing is acknowledged: probe timeouts
			tc.wait(time.Second)
			look()
		}
		for i, k := range seen {
			if k == 0 {
				t.Fatalf("byte %d was never sent", i)
			}
			again = again || k > 1
		}
		if !again {
			t.Error("nothing was sent again")
		}
	})
}

func TestSendFileErrors(t *testing.T) {
	either(t, func(t *testing.T, tc *testConn) {
		f := tempFile(t, pattern(0, 1000))
		s := tc.openStream()
		if n, err := s.SendFile(f, 600, 500); n != 400 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a file that is too short: %d, %v", n, err)
		}
		if n, err := s.SendFile(f, -1, 10); n != 0 || err == nil {
			t.Errorf("a negative offset: %d, %v", n, err)
		}
		_ = f.Close()
		if n, err := s.SendFile(f, 0, 10); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("a closed file: %d, %v", n, err)
		}
	})
}

// tcpPair is both ends of a TCP connection.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	y, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = x.Close(), y.Close() })
	return x.(*net.TCPConn), y.(*net.TCPConn)
}

// Every source of ReadFrom and every sink of WriteTo carries the same bytes.
func TestCopySourcesAndSinks(t *testing.T) {
	client, server := connect(t, serverConfig(), clientConfig())
	ctx := testContext(t)
	want := pattern(0, 3<<20+17)
	sources := map[string]func(s *Stream) error{
		"file": func(s *Stream) error { _, err := io.Copy(s, tempFile(t, want)); return err },
		"SendFile": func(s *Stream) error {
			_, err := s.SendFile(tempFile(t, append(make([]byte, 10), want...)), 10, int64(len(want)))
			return err
		},
		"reader": func(s *Stream) error { _, err := s.ReadFrom(bytes.NewReader(want)); return err },
		"TCP": func(s *Stream) error {
			a, b := tcpPair(t)
			go func() { _, _ = a.Write(want); _ = a.CloseWrite() }()
			_, err := io.Copy(s, b)
			return err
		},
	}
	sinks := map[string]func(s *Stream) ([]byte, error){
		"writer": func(s *Stream) ([]byte, error) { var w bytes.Buffer; _, err := s.WriteTo(&w); return w.Bytes(), err },
		"TCP": func(s *Stream) ([]byte, error) {
			a, b := tcpPair(t)
			done := make(chan []byte, 1)
			go func() { got, _ := io.ReadAll(b); done <- got }()
			_, err := io.Copy(a, s)
			_ = a.CloseWrite()
			return <-done, err
		},
		"file": func(s *Stream) ([]byte, error) {
			f := tempFile(t, nil)
			if _, err := io.Copy(f, s); err != nil {
				return nil, err
			}
			return os.ReadFile(f.Name())
		},
	}
	for from, send := range sources {
		for to, receive := range sinks {
			t.Run(from+" to "+to, func(t *testing.T) {
				s, err := client.OpenStream(ctx)
				if err != nil {
					t.Fatal(err)
				}
				sent := make(chan error, 1)
				go func() { sent <- errors.Join(send(s), s.CloseWrite()) }()
				in, err := server.AcceptStream(ctx)
				if err != nil {
					t.Fatal(err)
				}
				got, err := receive(in)
				if err = errors.Join(err, <-sent); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d of %d bytes, the same: %t, %v", len(got), len(want), bytes.Equal(got, want), err)
				}
			})
		}
	}
}

// A ReadFrom that waits for its source holds no chunk, before and after it
// carried something: sessions are many, and most have nothing to say.
func TestReadFromHoldsNothingWhileItWaits(t *testing.T) {
	client, server := connect(t, serverConfig(), clientConfig())
	ctx := testContext(t)
	s, err := client.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a, b := tcpPair(t)
	done := make(chan error, 1)
	go func() { _, err := io.Copy(s, b); done <- err }()
	idle := func() {
		t.Helper()
		for {
			client.lock()
			n, empty := len(s.snd.buf.chunks), s.snd.buf.start == s.snd.buf.end
			client.unlock()
			if n == 0 && empty {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%d chunks are held for a source with nothing to read", n)
			case <-time.After(time.Millisecond):
			}
		}
	}
	idle()
	for round := range 3 {
		want := pattern(uint64(round), 100<<10)
		if _, err := a.Write(want); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			in, err := server.AcceptStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer context.AfterFunc(ctx, func() { in.CancelRead(0) })()
			go func() { _, _ = io.Copy(io.Discard, in) }()
		}
		if err := s.Conn().awaitSent(ctx, s, uint64((round+1)*len(want))); err != nil {
			t.Fatal(err)
		}
		idle()
	}
	_ = a.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// awaitSent waits until so many bytes of a stream are acknowledged.
func (c *Conn) awaitSent(ctx context.Context, s *Stream, n uint64) error {
	for {
		c.lock()
		start := s.snd.buf.start
		c.unlock()
		if start >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}
