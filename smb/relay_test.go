package smb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// peers is a session under test: the far ends of both of its connections.
type peers struct {
	client, backend net.Conn
	result          chan Result
}

// tcpPair returns two ends of a loopback connection.
func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// startPeers serves a session between two pairs. What is read and written on
// the far ends has ten seconds.
func startPeers(t *testing.T, ctx context.Context, opts Options, pair func() (net.Conn, net.Conn)) *peers {
	t.Helper()
	client, stream := pair()
	backend, near := pair()
	p := &peers{client: client, backend: backend, result: make(chan Result, 1)}
	go func() { p.result <- Serve(ctx, stream, near, opts) }()
	return p
}

// negotiate plays both sides of the first exchange and checks that its octets
// arrive as they were sent.
func (p *peers) negotiate(t *testing.T) {
	t.Helper()
	request := negotiateRequest(ProbeConfig{Host: "h"})
	response := negotiateResponse(Dialect311, 0, map[uint16][]byte{ctxEncryption: {1, 0, 2, 0}})
	send(t, p.client, request)
	expect(t, p.backend, request)
	send(t, p.backend, response)
	expect(t, p.client, response)
}

func send(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(b); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func expect(t *testing.T, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("read: %d of %d: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got % x, want % x", got, want)
	}
}

// ended reads c to its end and returns what came.
func ended(t *testing.T, c net.Conn) ([]byte, error) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(c)
	if isTimeout(err) {
		t.Fatal("the connection was not ended within 10 s")
	}
	return b, err
}

func (p *peers) want(t *testing.T, reason Reason) Result {
	t.Helper()
	select {
	case r := <-p.result:
		if r.Reason != reason {
			t.Errorf("reason %s (%v), want %s", r.Reason, r.Err, reason)
		}
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("the session has not ended within 20 s")
	}
	return Result{}
}

// The client's FIN goes through after its last request; the answer still comes.
func TestRelayClientHalfClose(t *testing.T) {
	p := startPeers(t, t.Context(), Options{}, func() (net.Conn, net.Conn) { return tcpPair(t) })
	p.negotiate(t)
	request, answer := message("\xfdSMB", 5000), message("\xfdSMB", 300000)
	send(t, p.client, request)
	p.client.(*net.TCPConn).CloseWrite()
	if got, err := ended(t, p.backend); err != nil || !bytes.Equal(got, request) {
		t.Fatalf("the backend got %d octets, %v", len(got), err)
	}
	go func() {
		p.backend.Write(answer)
		p.backend.Close()
	}()
	if got, err := ended(t, p.client); err != nil || !bytes.Equal(got, answer) {
		t.Fatalf("the client got %d octets, %v", len(got), err)
	}
	r := p.want(t, ReasonClientClosed)
	if r.UpMessages != 2 || r.DownMessages != 2 || r.Err != nil {
		t.Errorf("%+v", r)
	}
}

// The backend's FIN comes after its last answer, and ends the session at once.
func TestRelayBackendCloses(t *testing.T) {
	p := startPeers(t, t.Context(), Options{}, func() (net.Conn, net.Conn) { return tcpPair(t) })
	p.negotiate(t)
	answer := message("\xfeSMB", 300000)
	go func() {
		p.backend.Write(answer)
		p.backend.(*net.TCPConn).CloseWrite()
	}()
	if got, err := ended(t, p.client); err != nil || !bytes.Equal(got, answer) {
		t.Fatalf("the client got %d octets, %v", len(got), err)
	}
	p.want(t, ReasonBackendClosed)
}

// Each way a session is broken off has its reason.
func TestRelayReasons(t *testing.T) {
	half := message("\xfeSMB", 1000)[:500]
	reset := func(c net.Conn) {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	for _, c := range []struct {
		name string
		do   func(p *peers)
		want Reason
	}{
		{"client truncates", func(p *peers) { p.client.Write(half); p.client.(*net.TCPConn).CloseWrite() }, ReasonClientTruncated},
		{"client resets", func(p *peers) { reset(p.client) }, ReasonClientReset},
		{"client sends garbage", func(p *peers) { p.client.Write([]byte("GET / HTTP/1.1\r\n")) }, ReasonClientFraming},
		{"client sends SMB1", func(p *peers) { p.client.Write(message("\xffSMB", 100)) }, ReasonClientFraming},
		{"client sends length 0", func(p *peers) { p.client.Write([]byte{0, 0, 0, 0}) }, ReasonClientFraming},
		{"client is over the limit", func(p *peers) { p.client.Write(message("\xfdSMB", 70000)) }, ReasonClientFraming},
		{"backend truncates", func(p *peers) { p.backend.Write(half); p.backend.Close() }, ReasonBackendTruncated},
		{"backend resets", func(p *peers) { reset(p.backend) }, ReasonBackendReset},
		{"backend sends garbage", func(p *peers) { p.backend.Write([]byte("220 ready\r\n")) }, ReasonBackendFraming},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPeers(t, t.Context(), Options{MaxMessage: 1 << 16}, func() (net.Conn, net.Conn) { return tcpPair(t) })
			p.negotiate(t)
			c.do(p)
			r := p.want(t, c.want)
			if r.Err == nil && c.want != ReasonNone {
				t.Error("no error with the reason")
			}
			// Both ends are released; what broke a rule did not get through.
			if got, _ := ended(t, p.other(c.want)); bytes.Contains(got, []byte("HTTP")) || bytes.Contains(got, []byte("ready")) {
				t.Errorf("%q got through", got)
			}
		})
	}
}

// A client that closes its connection the clean way has not broken off, unless
// it did so inside a message.
func TestRelayCleanClose(t *testing.T) {
	clean := func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
	for _, c := range []struct {
		last []byte
		want Reason
	}{{message("\xfeSMB", 100), ReasonClientClosed}, {message("\xfeSMB", 100)[:50], ReasonClientReset}} {
		p := startPeers(t, t.Context(), Options{CleanClose: clean}, func() (net.Conn, net.Conn) { return tcpPair(t) })
		p.negotiate(t)
		send(t, p.client, c.last)
		expect(t, p.backend, c.last)
		p.client.(*net.TCPConn).SetLinger(0)
		p.client.Close()
		p.want(t, c.want)
	}
}

// other is the end that did not cause the reason.
func (p *peers) other(r Reason) net.Conn {
	if r.Side() == SideClient {
		return p.backend
	}
	return p.client
}

// HOSTILE 53, 61, 62: what does not begin as SMB2 must, reaches no backend.
func TestRelayFirstMessage(t *testing.T) {
	setup := plain(element(header{command: cmdSessionSetup}, make([]byte, 24)...))
	old := negotiateRequest(ProbeConfig{})
	for i, d := range []byte{2, 0x10, 0, 2, 0x11} { // 3.1.1 -> 2.0.2, 3.0* -> 2.1
		at := frameHeaderLen + headerLen + 36 + 2*i
		old[at], old[at+1] = map[bool]byte{true: 0x10, false: 2}[d == 0x10], 2
	}
	for _, c := range []struct {
		name  string
		first []byte
		opts  Options
		want  Reason
	}{
		{"RPC record of ALPN sunrpc", []byte{0x80, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0}, Options{}, ReasonClientFraming},
		{"SMB1 negotiate", message("\xffSMB", 60), Options{}, ReasonClientFraming},
		{"encrypted", message("\xfdSMB", 100), Options{}, ReasonNotNegotiate},
		{"session setup", setup, Options{}, ReasonNotNegotiate},
		{"endless negotiate", message("\xfeSMB", 1<<20), Options{}, ReasonNotNegotiate},
		{"old dialects", old, Options{MinDialect: Dialect311}, ReasonDialect},
		{"nothing", nil, Options{}, ReasonClientClosed},
		{"half a header", []byte{0, 0, 1}, Options{}, ReasonClientTruncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			backends, err := NewBackends(BackendsConfig{Addrs: []string{l.Addr().String()}})
			if err != nil {
				t.Fatal(err)
			}
			client, stream := tcpPair(t)
			done := make(chan Result, 1)
			go func() { done <- (&Relay{Backends: backends, Options: c.opts}).Serve(t.Context(), stream, "") }()
			client.Write(c.first)
			client.(*net.TCPConn).CloseWrite()
			p := &peers{result: done}
			p.want(t, c.want)
			if s := backends.State()[0]; s.Dials != 0 {
				t.Errorf("a backend was dialed: %+v", s)
			}
			// The kernel completes connections before accept: look there, too.
			l.(*net.TCPListener).SetDeadline(past)
			if conn, err := l.Accept(); err == nil {
				conn.Close()
				t.Error("a backend connection exists")
			}
		})
	}
}

// HOSTILE 52: a backend that takes TCP for a secure transport would bare the
// network behind the gateway.
func TestRelayTransportSecurity(t *testing.T) {
	p := startPeers(t, t.Context(), Options{}, func() (net.Conn, net.Conn) { return tcpPair(t) })
	request := negotiateRequest(ProbeConfig{OfferTransportSecurity: true})
	send(t, p.client, request)
	expect(t, p.backend, request) // the offer itself is the client's and is not touched
	send(t, p.backend, negotiateResponse(Dialect311, 0, map[uint16][]byte{ctxTransport: {1, 0, 0, 0}}))
	p.want(t, ReasonTransportSecurity)
	if got, _ := ended(t, p.client); len(got) != 0 {
		t.Errorf("%d octets of the answer got through", len(got))
	}
}

func TestRelayDialectChosen(t *testing.T) {
	p := startPeers(t, t.Context(), Options{MinDialect: Dialect300}, func() (net.Conn, net.Conn) { return tcpPair(t) })
	request := negotiateRequest(ProbeConfig{})
	send(t, p.client, request)
	expect(t, p.backend, request)
	send(t, p.backend, negotiateResponse(Dialect210, 0, nil))
	p.want(t, ReasonDialect)
	if got, _ := ended(t, p.client); len(got) != 0 {
		t.Errorf("%d octets of the answer got through", len(got))
	}
}

// HOSTILE 63: a reader that stops closes the sender's window, costs no memory,
// and finds every octet when it goes on; in both directions.
func TestRelayStalledReader(t *testing.T) {
	for _, dir := range []Direction{ToClient, ToBackend} {
		t.Run(dir.String(), func(t *testing.T) {
			p := startPeers(t, t.Context(), Options{}, func() (net.Conn, net.Conn) { return tcpPair(t) })
			p.negotiate(t)
			from, to := p.client, p.backend
			if dir == ToClient {
				from, to = p.backend, p.client
			}
			msg := message("\xfdSMB", 1<<20)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			sent := int64(0)
			for { // until half a second brings no progress at all
				from.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
				rest := msg[sent%int64(len(msg)):]
				n, err := from.Write(rest[:min(len(rest), 1<<16)])
				sent += int64(n)
				if n == 0 && isTimeout(err) {
					break
				}
				if sent > 256<<20 {
					t.Fatal("256 MiB were taken while nobody read")
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
				t.Errorf("the heap has grown by %d octets", grown)
			}
			to.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.CopyN(io.Discard, to, sent); err != nil {
				t.Fatalf("of the %d octets sent, some did not arrive: %v", sent, err)
			}
		})
	}
}

// A revoked or drained session ends at once, whatever it is doing.
func TestRelayShutdown(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	p := startPeers(t, ctx, Options{}, func() (net.Conn, net.Conn) { return tcpPair(t) })
	p.negotiate(t)
	why := errors.New("certificate revoked")
	cancel(why)
	if r := p.want(t, ReasonShutdown); !errors.Is(r.Err, why) {
		t.Errorf("error %v", r.Err)
	}
	ended(t, p.client)
	ended(t, p.backend)
}

// The timeouts, on a clock of their own. net.Pipe has no buffer, so a side that
// does not read stalls the other at once.
func TestRelayTimeouts(t *testing.T) {
	opts := Options{NegotiateTimeout: 7 * time.Second, MessageTimeout: 11 * time.Second, StallTimeout: 13 * time.Minute, IdleTimeout: time.Hour}
	half := message("\xfeSMB", 1000)[:500]
	whole := message("\xfeSMB", 1000)
	for _, c := range []struct {
		name      string
		negotiate bool
		do        func(p *peers)
		want      Reason
		after     time.Duration
	}{
		{"client says nothing", false, func(p *peers) {}, ReasonFirstMessageTimeout, 7 * time.Second},
		{"client begins to say something", false, func(p *peers) { p.client.Write([]byte{0, 0}) }, ReasonFirstMessageTimeout, 7 * time.Second},
		{"backend says nothing", false, func(p *peers) {
			m := negotiateRequest(ProbeConfig{})
			p.client.Write(m)
			io.ReadFull(p.backend, m)
		}, ReasonBackendUnreachable, 7 * time.Second},
		{"idle", true, func(p *peers) {}, ReasonIdleTimeout, time.Hour},
		{"client stops inside a message", true, func(p *peers) { go io.Copy(io.Discard, p.backend); p.client.Write(half) }, ReasonClientMessageTimeout, 11 * time.Second},
		{"client stops inside a header", true, func(p *peers) { go io.Copy(io.Discard, p.backend); p.client.Write(half[:2]) }, ReasonClientMessageTimeout, 11 * time.Second},
		{"backend stops inside a message", true, func(p *peers) { go io.Copy(io.Discard, p.client); p.backend.Write(half) }, ReasonBackendMessageTimeout, 11 * time.Second},
		{"backend takes nothing", true, func(p *peers) { p.client.Write(whole) }, ReasonBackendStalled, 13 * time.Minute},
		{"client takes nothing", true, func(p *peers) { p.backend.Write(whole) }, ReasonClientStalled, 13 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startPeers(t, t.Context(), opts, net.Pipe)
				if c.negotiate {
					p.negotiate(t)
					p.client.SetDeadline(time.Time{})
					p.backend.SetDeadline(time.Time{})
				}
				start := time.Now()
				c.do(p)
				r := <-p.result
				if r.Reason != c.want || time.Since(start) < c.after || time.Since(start) > c.after+time.Second {
					t.Errorf("%s after %s (%v); want %s after %s", r.Reason, time.Since(start), r.Err, c.want, c.after)
				}
			})
		})
	}
}

// A client that has ended its side is waited for only so long.
func TestRelayHalfCloseTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeers(t, t.Context(), Options{}, net.Pipe)
		p.negotiate(t)
		p.backend.SetDeadline(time.Time{})
		start := time.Now()
		p.client.Close() // net.Pipe: the far end reads EOF
		if r := <-p.result; r.Reason != ReasonClientClosed || time.Since(start) > 31*time.Second {
			t.Errorf("%s after %s", r.Reason, time.Since(start))
		}
	})
}

// Refusals wait one after the other, and not for ever.
func TestLogonThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := NewLogonThrottle(0)
		start := time.Now()
		var wg sync.WaitGroup
		var mu sync.Mutex
		passed, cut := 0, 0
		for range 1000 {
			wg.Go(func() {
				err := throttle.hold(t.Context(), 0xC000006D)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					passed++
				} else if reasonOf(err, ReasonNone) == ReasonLogons {
					cut++
				}
			})
		}
		wg.Wait()
		if passed != 15 || cut != 985 || time.Since(start) != 30*time.Second || throttle.Failures() != 1000 {
			t.Errorf("%d passed, %d cut, in %s", passed, cut, time.Since(start))
		}
	})
}

// A peer with a stream's extras sees the reason's code.
func TestRelayStreamCodes(t *testing.T) {
	client, near := tcpPair(t)
	backend, far := tcpPair(t)
	s := &codedStream{Conn: near}
	p := &peers{client: client, backend: backend, result: make(chan Result, 1)}
	go func() { p.result <- Serve(t.Context(), s, far, Options{}) }()
	p.negotiate(t)
	send(t, client, []byte("garbage"))
	p.want(t, ReasonClientFraming)
	if want := fmt.Sprint([]uint64{CodeProtocol, CodeProtocol}); fmt.Sprint(s.codes) != want {
		t.Errorf("codes %v, want %s", s.codes, want)
	}
}

type codedStream struct {
	net.Conn
	codes []uint64
}

func (s *codedStream) CancelRead(code uint64)  { s.codes = append(s.codes, code) }
func (s *codedStream) CancelWrite(code uint64) { s.codes = append(s.codes, code) }
