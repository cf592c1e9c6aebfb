package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func text(t *testing.T, r *Registry) string {
	t.Helper()
	var b strings.Builder
	n, err := r.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("WriteTo: %d, %v; wrote %d", n, err, b.Len())
	}
	return b.String()
}

func TestMetricsText(t *testing.T) {
	r := NewRegistry()
	r.Counter(Prefix+"packets_total", "Packets.\nAll of them").Add(3)
	drops := r.Counters(Prefix+"drops_total", "Drops", "reason")
	drops.With(`a"b\c`).Inc()
	drops.With("").Add(2)
	g := r.Gauge(Prefix+"memory_bytes", "Memory")
	g.Set(10)
	g.Add(-2.5)
	h := r.Histograms(Prefix+"dial_seconds", "Dial", []float64{0.1, 1}, "backend")
	for _, v := range []float64{0.1, 0.5, 1, 7} {
		h.With("nas").Observe(v)
	}
	r.PullGauge(Prefix+"connections", "Now", func(emit func(float64, ...string)) { emit(4, "office"); emit(5, "home") }, "route")
	want := `# HELP quicfsgw_connections Now
# TYPE quicfsgw_connections gauge
quicfsgw_connections{route="office"} 4
quicfsgw_connections{route="home"} 5
# HELP quicfsgw_dial_seconds Dial
# TYPE quicfsgw_dial_seconds histogram
quicfsgw_dial_seconds_bucket{backend="nas",le="0.1"} 1
quicfsgw_dial_seconds_bucket{backend="nas",le="1"} 3
quicfsgw_dial_seconds_bucket{backend="nas",le="+Inf"} 4
quicfsgw_dial_seconds_sum{backend="nas"} 8.6
quicfsgw_dial_seconds_count{backend="nas"} 4
# HELP quicfsgw_drops_total Drops
# TYPE quicfsgw_drops_total counter
quicfsgw_drops_total{reason=""} 2
quicfsgw_drops_total{reason="a\"b\\c"} 1
# HELP quicfsgw_memory_bytes Memory
# TYPE quicfsgw_memory_bytes gauge
quicfsgw_memory_bytes 7.5
# HELP quicfsgw_packets_total Packets.\nAll of them
# TYPE quicfsgw_packets_total counter
quicfsgw_packets_total 3
`
	if got := text(t, r); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// Whatever peers send, one metric keeps a bounded number of series.
func TestSeriesAreBounded(t *testing.T) {
	r := NewRegistry()
	c := r.Counters(Prefix+"x_total", "x", "name")
	for i := range 3 * MaxSeries {
		c.With(fmt.Sprint(i)).Inc()
	}
	lines := strings.Count(text(t, r), "\n") - 2
	if lines != MaxSeries+1 {
		t.Errorf("%d series, want %d and one for the rest", lines, MaxSeries)
	}
	if got := c.With("another").Value(); got != 2*MaxSeries {
		t.Errorf("the rest counts %d, want %d", got, 2*MaxSeries)
	}
}

func TestMetricsConcurrently(t *testing.T) {
	r := NewRegistry()
	c := r.Counters(Prefix+"c_total", "c", "k")
	h := r.Histograms(Prefix+"h_seconds", "h", Seconds, "k")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 1000 {
				c.With(fmt.Sprint(i % 5)).Inc()
				h.With("a").Observe(float64(i) / 100)
				if i%100 == 0 {
					if _, err := r.WriteTo(io.Discard); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if got := c.With("3").Value(); got != 800 {
		t.Errorf("count %d, want 800", got)
	}
	if !strings.Contains(text(t, r), `quicfsgw_h_seconds_count{k="a"} 4000`) {
		t.Error("histogram lost observations")
	}
}

func TestMistakesPanic(t *testing.T) {
	for name, f := range map[string]func(*Registry){
		"name":   func(r *Registry) { r.Counter("packets", "") },
		"twice":  func(r *Registry) { r.Counter(Prefix+"a", ""); r.Gauge(Prefix+"a", "") },
		"labels": func(r *Registry) { r.Counters(Prefix+"a", "", "x").With() },
		"bounds": func(r *Registry) { r.Histograms(Prefix+"a", "", []float64{2, 1}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f(NewRegistry())
		}()
	}
}

// state is what the tests' gateway answers.
type state struct {
	mu      sync.Mutex
	ready   error
	reload  error
	drained chan struct{}
}

func (s *state) source() Source {
	return Source{
		Healthy: func() error { return nil },
		Ready:   func() error { s.mu.Lock(); defer s.mu.Unlock(); return s.ready },
		Status:  func() any { return map[string]any{"connections": 3, "name": "<b>"} },
		Reload: func(context.Context) ([]string, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return []string{"w"}, s.reload
		},
		Drain: func(ctx context.Context) error {
			select {
			case <-s.drained:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}
}

func newServer(s *state) *Server {
	r := NewRegistry()
	r.Counter(Prefix+"packets_total", "Packets").Inc()
	return NewServer(r, s.source(), slog.New(slog.DiscardHandler))
}

func TestHTTP(t *testing.T) {
	st := &state{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- newServer(st).ServeHTTP(ctx, l) }()
	get := func(path, host string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for _, tt := range []struct {
		path, host string
		code       int
		want       string
	}{
		{"/metrics", "", 200, "quicfsgw_packets_total 1\n"},
		{"/healthz", "", 200, "ok"},
		{"/readyz", "", 200, "ok"},
		{"/status", "", 200, `"connections": 3`},
		{"/status", "localhost:1", 200, ""},
		{"/status", "rebound.example:9443", 421, ""},
		{"/status", "rebound.example", 421, ""},
		{"/", "", 200, "welcome"},
		{"/", "", 200, `\u003cb\u003e`},
		{"/nothing", "", 404, ""},
	} {
		code, body := get(tt.path, tt.host)
		if code != tt.code || !strings.Contains(body, tt.want) {
			t.Errorf("GET %s (%s): %d %q, want %d %q", tt.path, tt.host, code, body, tt.code, tt.want)
		}
	}
	st.mu.Lock()
	st.ready = errors.New("draining")
	st.mu.Unlock()
	if code, body := get("/readyz", ""); code != 503 || !strings.Contains(body, "draining") {
		t.Errorf("readyz while draining: %d %q", code, body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func startSocket(t *testing.T, st *state) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.sock")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- newServer(st).ServeUnix(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestSocketCommands(t *testing.T) {
	st := &state{drained: make(chan struct{})}
	path := startSocket(t, st)
	call := func(req Request) *Response {
		t.Helper()
		r, err := Call(t.Context(), path, req)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := call(Request{Command: CommandStatus}); !r.OK || !json.Valid(r.Status) || !strings.Contains(string(r.Status), "connections") {
		t.Errorf("status: %+v", r)
	}
	if r := call(Request{Command: CommandReload}); !r.OK || len(r.Warnings) != 1 {
		t.Errorf("reload: %+v", r)
	}
	st.mu.Lock()
	st.reload = errors.New("c.yaml:1:1: bad")
	st.mu.Unlock()
	if r := call(Request{Command: CommandReload}); r.OK || r.Error != "c.yaml:1:1: bad" {
		t.Errorf("failed reload: %+v", r)
	}
	if r := call(Request{Command: CommandDrain, TimeoutMS: 1}); r.OK || !strings.Contains(r.Error, "deadline") {
		t.Errorf("drain that times out: %+v", r)
	}
	close(st.drained)
	if r := call(Request{Command: CommandDrain}); !r.OK {
		t.Errorf("drain: %+v", r)
	}
	for _, req := range []Request{{Command: "stop"}, {Command: CommandDrain, TimeoutMS: -1}} {
		if r := call(req); r.OK || r.Error == "" {
			t.Errorf("%+v: %+v", req, r)
		}
	}
}

func TestSocketBounds(t *testing.T) {
	path := startSocket(t, &state{drained: make(chan struct{})})
	for name, line := range map[string]string{"long": strings.Repeat("x", 2*maxRequest), "no JSON": "hello\n"} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		// The server may close before it has read all of it.
		_, _ = io.WriteString(conn, line)
		answer, _ := bufio.NewReader(conn).ReadString('\n')
		if !strings.Contains(answer, `"ok":false`) {
			t.Errorf("%s: %q", name, answer)
		}
		conn.Close()
	}
	var conns []net.Conn
	for range maxAdminConns {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, `{"command":"status"}`+"\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	if r, err := Call(t.Context(), path, Request{Command: CommandStatus}); err == nil && r.OK {
		t.Error("one client too many was served")
	}
	for _, c := range conns {
		c.Close()
	}
}

// A drain that waits must not keep the server from ending.
func TestSocketEndsDuringDrain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	src := (&state{}).source()
	src.Drain = func(ctx context.Context) error { close(started); <-ctx.Done(); return ctx.Err() }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewServer(NewRegistry(), src, slog.New(slog.DiscardHandler)).ServeUnix(ctx, l) }()
	called := make(chan struct{})
	go func() {
		defer close(called)
		_, _ = Call(t.Context(), path, Request{Command: CommandDrain})
	}()
	<-started
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server did not end")
	}
	<-called
}

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quic-fsgw", "a.sock") // the folder is made
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Errorf("second listener: %v", err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	l, err = ListenUnix(path)
	if err != nil {
		t.Fatalf("left-over file: %v", err)
	}
	l.Close()
	if _, err := Call(t.Context(), path, Request{}); err == nil {
		t.Error("call without a server succeeded")
	}
}

// What a scraper reads is well formed whatever the labels hold.
func FuzzLabel(f *testing.F) {
	line := regexp.MustCompile(`^quicfsgw_x_total\{k="(?:[^"\\\n]|\\[\\"n])*"\} 1$`)
	f.Add("a")
	f.Add("\"\\\n\xff{}")
	f.Fuzz(func(t *testing.T, label string) {
		r := NewRegistry()
		r.Counters(Prefix+"x_total", "x", "k").With(label).Inc()
		lines := strings.Split(strings.TrimSuffix(text(t, r), "\n"), "\n")
		if len(lines) != 3 || !line.MatchString(lines[2]) {
			t.Errorf("%q", lines)
		}
	})
}
