package nfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
)

// pattern fills n bytes that depend on the XID.
func pattern(xid uint32, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(xid), byte(xid >> 8)}).Read(b)
	return b
}

// bulkReplies answers every call at once and in its own time with a large reply, in fragments or not.
func bulkReplies(size int) func(net.Conn) {
	return func(c net.Conn) {
		var wg sync.WaitGroup
		defer wg.Wait()
		var mu sync.Mutex
		for {
			msg, err := readMessage(c, 16<<20)
			if err != nil {
				return
			}
			xid := binary.BigEndian.Uint32(msg)
			wg.Go(func() {
				record := AppendSuccess(nil, xid, pattern(xid, size))
				if xid%3 == 0 {
					record = fragments(record, 5000+int(xid))
				}
				mu.Lock()
				defer mu.Unlock()
				c.Write(record)
			})
		}
	}
}

// TestConcurrentReplies: 1 MiB replies of two services on one stream are not interleaved.
func TestConcurrentReplies(t *testing.T) {
	checkNoLeak(t)
	const size, calls = 1 << 20, 40
	nfs, nlm := startServer(t, bulkReplies(size)), startServer(t, bulkReplies(size))
	s := newTestService(t, Config{Backends: []string{nfs.addr}, Ports: Ports{NLM: nlm.port()}})
	g := startGateway(t, s, testIdentity(t))
	c := g.dial(t)
	var out []byte
	for xid := range uint32(calls) {
		program, version := ProgNFS, uint32(3)
		if xid%2 == 1 {
			program, version = ProgNLM, 4
		}
		out = append(out, callRecord(xid, program, version, 6, "")...)
	}
	mustWrite(t, c, out)
	c.CloseWrite()
	seen := map[uint32]bool{}
	for range calls {
		msg := mustRead(t, c)
		xid := binary.BigEndian.Uint32(msg)
		got, err := successResults(msg)
		if err != nil || seen[xid] || !bytes.Equal(got, pattern(xid, size)) {
			t.Fatalf("reply %d: damaged, %v", xid, err)
		}
		seen[xid] = true
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the last reply: %v, want EOF", err)
	}
	if o := g.outcome(t); o.Err != nil || o.Calls != calls || o.Replies != calls || o.BytesDown < calls*size {
		t.Errorf("%+v", o)
	}
	if len(nfs.conns) != 1 || len(nlm.conns) != 1 {
		t.Errorf("%d NFS and %d NLM connections, want one each", len(nfs.conns), len(nlm.conns))
	}
}

// TestSmallAndLargeReplies sends replies of every size around the sizes of the buffers.
func TestSmallAndLargeReplies(t *testing.T) {
	server := startServer(t, func(c net.Conn) {
		for {
			msg, err := readMessage(c, 1<<20)
			if err != nil {
				return
			}
			xid := binary.BigEndian.Uint32(msg)
			c.Write(AppendSuccess(nil, xid, pattern(xid, int(xid)*4)))
		}
	})
	g := startGateway(t, newTestService(t, Config{Backends: []string{server.addr}}), testIdentity(t))
	c := g.dial(t)
	var out []byte
	const last = 2600
	for xid := uint32(0); xid <= last; xid += 7 {
		out = append(out, callRecord(xid, ProgNFS, 3, 1, "")...)
	}
	go c.Write(out)
	for xid := uint32(0); xid <= last; xid += 7 {
		msg := mustRead(t, c)
		if got, err := successResults(msg); err != nil || !bytes.Equal(got, pattern(xid, int(xid)*4)) {
			t.Fatalf("reply %d: %v", xid, err)
		}
	}
}

// TestBackendLost: a backend that goes away with replies due resets the stream with 0x4.
func TestBackendLost(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve func(c net.Conn)
	}{
		{"before the reply", func(c net.Conn) { readMessage(c, 1<<24) }},
		{"inside a mark", func(c net.Conn) { readMessage(c, 1<<24); c.Write([]byte{0x80, 0}) }},
		{"inside the reply", func(c net.Conn) {
			readMessage(c, 1<<24)
			c.Write(AppendSuccess(nil, 1, make([]byte, 1<<20))[:1<<19])
		}},
		{"inside the call", func(c net.Conn) { io.ReadFull(c, make([]byte, 1<<19)) }},
		{"by reset", func(c net.Conn) { readMessage(c, 1<<24); c.(*net.TCPConn).SetLinger(0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkNoLeak(t)
			server := startServer(t, tt.serve)
			g := startGateway(t, newTestService(t, Config{Backends: []string{server.addr}}), testIdentity(t))
			c := g.dial(t)
			go c.Write(callRecord(1, ProgNFS, 3, 7, string(make([]byte, 1<<20))))
			o := g.outcome(t)
			if o.Code != CodeUnspecifiedError || !errors.Is(o.Err, ErrBackendLost) || o.Backend != server.addr {
				t.Errorf("code %#x, %v, backend %s", o.Code, o.Err, o.Backend)
			}
			if len(o.cancelWrite) != 1 || o.cancelWrite[0] != CodeUnspecifiedError {
				t.Errorf("RESET_STREAM codes %v, want 4", o.cancelWrite)
			}
		})
	}
}

// TestBackendHangsUpIdle: without replies due, a lost NFS connection ends the stream in order, and
// a lost side connection is dialled again.
func TestBackendHangsUpIdle(t *testing.T) {
	once := func(c net.Conn) {
		msg, err := readMessage(c, 1<<20)
		if err == nil {
			c.Write(AppendSuccess(nil, binary.BigEndian.Uint32(msg), nil))
		}
	}
	nfs, mount := startServer(t, once), startServer(t, once)
	s := newTestService(t, Config{Backends: []string{nfs.addr}, Ports: Ports{Mount: mount.port()}})
	g := startGateway(t, s, testIdentity(t))
	c := g.dial(t)
	for xid := range uint32(3) {
		mustWrite(t, c, callRecord(xid, ProgMount, 3, mountMNT, "\x00\x00\x00\x01/\x00\x00\x00"))
		mustRead(t, c)
		eventually(t, "the relay notices that mountd hung up", func() bool { return s.Stats().Conns == 0 })
	}
	if len(mount.conns) != 3 {
		t.Errorf("%d MOUNT connections, want 3", len(mount.conns))
	}
	mustWrite(t, c, callRecord(9, ProgNFS, 3, 1, ""))
	mustRead(t, c)
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the server hung up: %d, %v; want EOF", n, err)
	}
	if o := g.outcome(t); o.Code != CodeNoError || o.Err != nil {
		t.Errorf("%+v", o)
	}
}

// TestLazyDial: no backend is dialled before a call needs it.
func TestLazyDial(t *testing.T) {
	server := noServer(t)
	g := startGateway(t, newTestService(t, Config{Backends: []string{server.addr}}), testIdentity(t))
	c := g.dial(t)
	mustWrite(t, c, callRecord(1, ProgPortmap, 2, pmapGetPort, string(be32(be32(be32(be32(nil, ProgNFS), 3), protoTCP), 0))))
	_, port, _ := net.SplitHostPort(g.addr)
	got, err := successResults(mustRead(t, c))
	if want, _ := net.LookupPort("tcp", port); err != nil || binary.BigEndian.Uint32(got) != uint32(want) {
		t.Errorf("GETPORT: % x, %v, want %d", got, err, want)
	}
	whole := callRecord(2, ProgNFS, 3, 1, "")
	mustWrite(t, c, whole[:len(whole)-1]) // the verifier has not ended
	c.CloseWrite()
	if o := g.outcome(t); !errors.Is(o.Err, ErrTruncated) || o.Answered != 1 {
		t.Errorf("%+v", o)
	}
}

// refusing returns an address where nothing listens.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

// TestFailover: a connection takes the first backend that answers and stays with it.
func TestFailover(t *testing.T) {
	server, other := startServer(t, echoCalls), startServer(t, echoCalls)
	s := newTestService(t, Config{Backends: []string{refusing(t), server.addr, other.addr}})
	g := startGateway(t, s, testIdentity(t))
	for range 5 {
		c := g.dial(t)
		mustWrite(t, c, callRecord(1, ProgNFS, 4, 1, ""))
		mustRead(t, c)
		c.CloseWrite()
		if o := g.outcome(t); o.Backend != server.addr || o.Err != nil {
			t.Errorf("%+v", o)
		}
	}
	if st := s.Stats(); st.Dials != 6 || st.DialErrors != 1 {
		t.Errorf("%d dials, %d failed; want 6 and 1", st.Dials, st.DialErrors)
	}
	if len(other.conns) != 0 {
		t.Error("the third backend was dialled")
	}
}

func TestNoBackend(t *testing.T) {
	s := newTestService(t, Config{Backends: []string{refusing(t), refusing(t)}})
	g := startGateway(t, s, testIdentity(t))
	c := g.dial(t)
	mustWrite(t, c, callRecord(1, ProgNFS, 4, 1, ""))
	if o := g.outcome(t); o.Code != CodeUnspecifiedError || !errors.Is(o.Err, ErrBackendLost) {
		t.Errorf("%+v", o)
	}
}

// TestOverload: over a limit, a stream is reset with 0x2 and others go on.
func TestOverload(t *testing.T) {
	server := startServer(t, echoCalls)
	for _, cfg := range []Config{{MaxStreams: 1}, {MaxBackends: 1}} {
		cfg.Backends = []string{server.addr}
		g := startGateway(t, newTestService(t, cfg), testIdentity(t))
		first := g.dial(t)
		mustWrite(t, first, callRecord(1, ProgNFS, 4, 1, ""))
		mustRead(t, first)
		// The relay may reset it before the dial has returned, or the call was written.
		if second, err := net.Dial("tcp", g.addr); err == nil {
			defer second.Close()
			_, _ = second.Write(callRecord(1, ProgNFS, 4, 1, ""))
		} else if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		if o := g.outcome(t); o.Code != CodeServerBusy || !errors.Is(o.Err, ErrBusy) {
			t.Errorf("%+v", o)
		}
		mustWrite(t, first, callRecord(2, ProgNFS, 4, 1, ""))
		mustRead(t, first)
	}
}

func TestPrivilegedPort(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("ports below 1024 need root (hint: run `make test` as root or with sudo)")
	}
	server := startServer(t, echoCalls)
	s := newTestService(t, Config{Backends: []string{server.addr}, PrivilegedPort: true})
	g := startGateway(t, s, testIdentity(t))
	for range 20 {
		c := g.dial(t)
		mustWrite(t, c, callRecord(1, ProgNFS, 4, 1, ""))
		mustRead(t, c)
		if port := (<-server.conns).RemoteAddr().(*net.TCPAddr).Port; port < lowPrivileged || port > highPrivileged {
			t.Errorf("source port %d", port)
		}
	}
}

// TestClientGone: a client that vanishes takes its backend connection with it, whatever is under way.
func TestClientGone(t *testing.T) {
	checkNoLeak(t)
	server := startServer(t, bulkReplies(4<<20))
	g := startGateway(t, newTestService(t, Config{Backends: []string{server.addr}}), testIdentity(t))
	for range 10 {
		c := g.dial(t)
		mustWrite(t, c, append(callRecord(1, ProgNFS, 3, 6, ""), callRecord(2, ProgNFS, 3, 6, "")...))
		if _, err := io.ReadFull(c, make([]byte, 10000)); err != nil {
			t.Fatal(err)
		}
		c.SetLinger(0)
		c.Close()
		if o := g.outcome(t); !errors.Is(o.Err, ErrClientGone) || o.Code != CodeNoError {
			t.Errorf("code %#x, %v", o.Code, o.Err)
		}
	}
}

// TestCancel: cancelling the context ends streams, with 0x3 if replies are due.
func TestCancel(t *testing.T) {
	checkNoLeak(t)
	arrived := make(chan struct{})
	server := startServer(t, func(c net.Conn) {
		readMessage(c, 1<<20)
		close(arrived)
		io.Copy(io.Discard, c)
	})
	s := newTestService(t, Config{Backends: []string{server.addr}})
	g := startGateway(t, s, testIdentity(t))
	c := g.dial(t)
	mustWrite(t, c, callRecord(1, ProgNFS, 3, 6, ""))
	<-arrived
	g.cancel()
	if o := g.outcome(t); !errors.Is(o.Err, context.Canceled) || o.Code != CodeRequestDropped {
		t.Errorf("%+v", o)
	}
}
