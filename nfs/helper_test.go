package nfs

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// testTimeout bounds every wait on a peer in these tests.
const testTimeout = 20 * time.Second

func newTestService(t testing.TB, cfg Config) *Service {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := NewService(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testIdentity(t testing.TB) *Identity {
	t.Helper()
	id, err := NewIdentity(4242, 4243, []uint32{4244, 4245}, RootRefused)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// codedConn is a TCP connection that can be reset with a code, as a QUIC stream can.
type codedConn struct {
	*net.TCPConn
	mu          sync.Mutex
	read, write []uint64
}

func (c *codedConn) CancelRead(code uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = append(c.read, code)
	c.SetReadDeadline(time.Unix(1, 0))
}

func (c *codedConn) CancelWrite(code uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write = append(c.write, code)
	c.SetWriteDeadline(time.Unix(1, 0))
}

// served keeps an Outcome together with the codes that the peer saw.
type served struct {
	Outcome
	cancelRead, cancelWrite []uint64
}

// gateway listens on TCP and serves each connection as a stream of one client connection.
type gateway struct {
	addr     string
	outcomes chan served
	cancel   context.CancelFunc
}

func startGateway(t testing.TB, s *Service, id *Identity) *gateway {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &gateway{addr: l.Addr().String(), outcomes: make(chan served, 10000), cancel: cancel}
	relay := s.Relay(Client{Identity: id})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				cc := &codedConn{TCPConn: c.(*net.TCPConn)}
				o := relay.ServeStream(ctx, cc)
				cc.mu.Lock()
				defer cc.mu.Unlock()
				g.outcomes <- served{o, cc.read, cc.write}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		wg.Wait()
		st := s.Stats()
		if st.Streams != 0 || st.Conns != 0 {
			t.Errorf("after the end: %d streams and %d backend connections are counted", st.Streams, st.Conns)
		}
		if n := relay.Due(); n != 0 {
			t.Errorf("after the end: %d replies are due", n)
		}
	})
	return g
}

// outcome waits for the next stream to end.
func (g *gateway) outcome(t testing.TB) served {
	t.Helper()
	select {
	case o := <-g.outcomes:
		return o
	case <-time.After(testTimeout):
		buf := make([]byte, 1<<20)
		t.Fatalf("stream did not end; goroutines:\n%s", buf[:runtime.Stack(buf, true)])
		panic("unreachable")
	}
}

func (g *gateway) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testTimeout))
	return c.(*net.TCPConn)
}

// rpcServer is a small ONC RPC server on loopback: serve gets each connection.
type rpcServer struct {
	addr  string
	conns chan net.Conn // every connection accepted
}

func startServer(t testing.TB, serve func(c net.Conn)) *rpcServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rpcServer{addr: l.Addr().String(), conns: make(chan net.Conn, 1000)}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			s.conns <- c
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *rpcServer) port() uint16 { return netip.MustParseAddrPort(s.addr).Port() }

// echoCalls answers every call with success and, as results, credential, verifier and arguments as they came.
func echoCalls(c net.Conn) {
	for {
		msg, err := readMessage(c, 16<<20)
		if err != nil {
			return
		}
		if _, err := c.Write(AppendSuccess(nil, binary.BigEndian.Uint32(msg), msg[24:])); err != nil {
			return
		}
	}
}

func noServer(t testing.TB) *rpcServer {
	return startServer(t, func(c net.Conn) { t.Error("a backend was dialled") })
}

// claimedAuth is the credential of a client that claims to be root.
func claimedAuth() []byte {
	sys := AuthSysCred{Stamp: 7, Machine: "evil", UID: 0, GID: 0, Groups: []uint32{0, 1, 2, 3, 4, 5}}
	return appendAuth(appendAuth(nil, OpaqueAuth{AuthSys, sys.append(nil)}), OpaqueAuth{})
}

func callRecord(xid, program, version, procedure uint32, args string) []byte {
	return appendCall(nil, xid, program, version, procedure, claimedAuth(), []byte(args))
}

func mustRead(t testing.TB, r io.Reader) []byte {
	t.Helper()
	msg, err := readMessage(r, 16<<20)
	if err != nil {
		t.Fatalf("reading a reply: %v", err)
	}
	return msg
}

func mustWrite(t testing.TB, w io.Writer, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatalf("writing a call: %v", err)
	}
}

// eventually waits until a condition without an event of its own holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !holds(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", testTimeout, what)
		}
	}
}

// checkNoLeak fails if goroutines of a stream outlive the test.
func checkNoLeak(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		eventually(t, "all goroutines of streams end", func() bool {
			buf := make([]byte, 1<<20)
			stacks := string(buf[:runtime.Stack(buf, true)])
			return !strings.Contains(stacks, "nfs.(*stream)") && !strings.Contains(stacks, "nfs.(*backendConn)")
		})
	})
}
