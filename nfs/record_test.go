package nfs

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

func TestFramer(t *testing.T) {
	f := framer{limits: Limits{MaxMessage: 10, MaxFragments: 3}}
	for range 3 { // each message is counted anew
		for _, m := range []uint32{4, 0, 6 | lastFrag} {
			if err := f.mark(m); err != nil {
				t.Fatal(err)
			}
			if f.atEnd() != (f.rem == 0 && f.last) {
				t.Fatal("end in the middle")
			}
			f.take(int(f.rem))
		}
		if !f.atEnd() {
			t.Fatal("no end")
		}
		f.open = false
	}
	f.mark(4)
	if err := f.mark(7); !errors.Is(err, ErrMessageSize) {
		t.Errorf("11 of 10 bytes: %v", err)
	}
	f.open = false
	f.mark(0)
	f.mark(0)
	f.mark(0)
	if err := f.mark(0); !errors.Is(err, ErrFragmentCount) {
		t.Errorf("4 of 3 fragments: %v", err)
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add(AppendSuccess(nil, 1, []byte("results.")))
	f.Add(fragments(AppendSuccess(nil, 1, []byte("results.")), 3))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		msg, err := readMessage(bytes.NewReader(b), 1<<20)
		if err != nil {
			return
		}
		if len(msg)+markLen > len(b) {
			t.Fatalf("%d bytes of %d", len(msg), len(b))
		}
		results, err := successResults(msg)
		if err == nil && len(results) > len(msg)-24 {
			t.Fatalf("%d bytes of results in a message of %d", len(results), len(msg))
		}
	})
}

// viewStream hands out what it received in many views at once, as a QUIC stream does.
type viewStream struct {
	*pipeStream
	views net.Buffers
}

func (v *viewStream) WriteTo(w io.Writer) (int64, error) {
	return w.(interface {
		WriteBuffers(*net.Buffers) (int64, error)
	}).WriteBuffers(&v.views)
}

// TestWriteBuffers: views of every size become the same calls.
func TestWriteBuffers(t *testing.T) {
	server := startServer(t, echoCalls)
	s := newTestService(t, Config{Backends: []string{server.addr}})
	id := testIdentity(t)
	for _, size := range []int{1, 13, 500, 600, 5000, 1 << 20} {
		var data []byte
		for xid := range uint32(20) {
			data = append(data, callRecord(xid, ProgNFS, 3, 7, string(pattern(xid, int(xid)*int(xid)*100)))...)
		}
		end, client := newPipeStream()
		stream := &viewStream{pipeStream: end}
		for len(data) > 0 {
			n := min(size, len(data))
			stream.views = append(stream.views, data[:n])
			data = data[n:]
		}
		done := make(chan Outcome, 1)
		go func() { done <- s.Relay(Client{Identity: id}).ServeStream(t.Context(), stream) }()
		for xid := range uint32(20) {
			want := append(bytes.Clone(id.cred), pattern(xid, int(xid)*int(xid)*100)...)
			if got, err := successResults(mustRead(t, client)); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("views of %d: call %d: %v", size, xid, err)
			}
		}
		if o := <-done; o.Err != nil || o.Replies != 20 {
			t.Errorf("%+v", o)
		}
	}
}
