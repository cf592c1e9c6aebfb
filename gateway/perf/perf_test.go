package perf

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

// serve runs a server until the test ends and returns its address and reports.
func serve(t *testing.T) (netip.AddrPort, <-chan *Result) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, reports, done := make(chan netip.AddrPort, 1), make(chan *Result, 16), make(chan error, 1)
	s := &Server{
		Listen: netip.MustParseAddrPort("127.0.0.1:0"),
		Ready:  func(a netip.AddrPort) { ready <- a },
		Report: func(r *Result) { reports <- r },
	}
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case a := <-ready:
		return a, reports
	case err := <-done:
		done <- err
		t.Fatal(err)
	}
	panic("unreachable")
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestTransfers(t *testing.T) {
	addr, reports := serve(t)
	for name, c := range map[string]Client{
		"download":    {Download: 3<<20 + 7},
		"upload":      {Upload: 3<<20 + 7},
		"both ways":   {Upload: 1 << 20, Download: 2<<20 + 7},
		"many":        {Download: 3<<20 + 7, Streams: 8, Connections: 3},
		"1400 a time": {Download: 3<<20 + 7, UDPPayload: 1400},
	} {
		t.Run(name, func(t *testing.T) {
			c.Connect = addr
			r, err := c.Run(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			srv := <-reports
			want := c.Upload + c.Download
			if r.Bytes != want || srv.Bytes != want {
				t.Errorf("client counted %d bytes, server %d, want %d", r.Bytes, srv.Bytes, want)
			}
			if r.Role != "client" || srv.Role != "server" || srv.Connections != max(c.Connections, 1) {
				t.Errorf("client %+v, server %+v", r, srv)
			}
			if r.Seconds <= 0 || r.Gbps <= 0 || r.PacketsReceived == 0 || srv.PacketsSent == 0 {
				t.Errorf("nothing measured: client %+v, server %+v", r, srv)
			}
			if c.UDPPayload != 0 && (r.DatagramSize != c.UDPPayload || srv.DatagramSize != c.UDPPayload) {
				t.Errorf("datagrams of %d and %d bytes, want %d", r.DatagramSize, srv.DatagramSize, c.UDPPayload)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	addr, reports := serve(t)
	c := Client{Connect: addr, Requests: 303, Request: 512, Response: 4096, Parallel: 4}
	r, err := c.Run(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests != 303 || r.Bytes != 303*(512+4096) || r.P50us <= 0 || r.P99us < r.P50us || r.PerSec <= 0 {
		t.Errorf("%+v", r)
	}
	if srv := <-reports; srv.Bytes != 303*(512-headerLen+4096) {
		t.Errorf("server counted %d bytes", srv.Bytes)
	}
}

func TestTimeLimit(t *testing.T) {
	addr, reports := serve(t)
	c := Client{Connect: addr, Download: maxAnswer, For: 50 * time.Millisecond}
	r, err := c.Run(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if r.Bytes == 0 || r.Bytes >= maxAnswer {
		t.Errorf("%+v", r)
	}
	<-reports
}

func TestHandshakesAndIdle(t *testing.T) {
	addr, reports := serve(t)
	c := Client{Connect: addr, Handshakes: 5, Parallel: 2}
	r, err := c.Run(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if srv := <-reports; r.Handshakes != 5 || srv.Connections != 5 || r.HandshakesPerCPU <= 0 {
		t.Errorf("client %+v, server %+v", r, srv)
	}
	held := false
	c = Client{Connect: addr, Idle: 3, Hold: func(*Result) { held = true }}
	if r, err = c.Run(testContext(t)); err != nil || !held || r.Connections != 3 {
		t.Errorf("%+v, %v, held %t", r, err, held)
	}
	<-reports
}

// dial connects as a foreign client would.
func dial(t *testing.T, addr netip.AddrPort) *quic.Conn {
	t.Helper()
	ep, _, err := open(netip.MustParseAddrPort("127.0.0.1:0"), udp.Config{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = ep.Close(ctx)
	})
	c, err := ep.Dial(testContext(t), addr, clientConfig(0, quic.CUBIC))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestUnidirectional(t *testing.T) {
	addr, _ := serve(t)
	c := dial(t, addr)
	ctx := testContext(t)
	s, err := c.OpenUniStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(append(binary.BigEndian.AppendUint64(nil, 100_000), "thrown away"...)); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	in, err := c.AcceptUniStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, in); n != 100_000 || err != nil {
		t.Errorf("%d bytes came back, %v", n, err)
	}
}

// Requests no server can serve end the connection, and say why.
func TestBadRequests(t *testing.T) {
	addr, _ := serve(t)
	for name, b := range map[string][]byte{
		"short":    {0, 0, 0, 1},
		"empty":    nil,
		"too much": binary.BigEndian.AppendUint64(nil, maxAnswer+1),
		"all ones": binary.BigEndian.AppendUint64(nil, 1<<64-1),
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, addr)
			s, err := c.OpenStream(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := s.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-c.Done():
			case <-testContext(t).Done():
				t.Fatal("the connection lives on")
			}
			var ae *quic.ApplicationError
			if !errors.As(c.Err(), &ae) || ae.Code != codeRequest || !ae.Remote || ae.Reason == "" {
				t.Errorf("%v", c.Err())
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for name, c := range map[string]Client{
		"nothing":       {},
		"small request": {Requests: 1, Request: 7},
		"too much":      {Download: maxAnswer + 1},
		"streams":       {Download: 1, Streams: 1025},
	} {
		if _, err := c.Run(t.Context()); !errors.Is(err, ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c := Client{Connect: netip.MustParseAddrPort("127.0.0.1:1"), Download: 1}
	var de *DialError
	if _, err := c.Run(ctx); !errors.As(err, &de) {
		t.Errorf("%v", err)
	}
}

// The names that scripts read.
func TestJSON(t *testing.T) {
	var b strings.Builder
	if err := (&Result{Role: "client", Bytes: 1, Requests: 1, P50us: 1, P99us: 2, PerSec: 3}).Write(&b, true); err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "\n") != 1 {
		t.Errorf("not one line: %q", b.String())
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(b.String()), &m); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"bytes", "seconds", "gbps", "cpu_s_per_gib", "packets", "datagram_size", "user_copies_per_byte", "gso", "gro", "p50_us", "p99_us", "requests_per_second"} {
		if _, ok := m[k]; !ok {
			t.Errorf("no %q in %s", k, b.String())
		}
	}
}

func TestLatencies(t *testing.T) {
	var d []time.Duration
	for i := range 1000 {
		d = append(d, time.Duration(1000-i)*time.Microsecond)
	}
	r := Result{Seconds: 2}
	r.latencies(d)
	if r.P50us != 501 || r.P99us != 991 || r.PerSec != 500 || r.Requests != 1000 {
		t.Errorf("%+v", r)
	}
}

func TestMeterNeverNegative(t *testing.T) {
	if more(3, 5) != 0 || more(5, 3) != 2 {
		t.Error("counters")
	}
}
