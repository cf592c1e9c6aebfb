package tlshd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const helperArg = "tlshd-helper"

// TestMain is also the helper's main function: the tests run it as a process of
// its own, as the gateway does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == helperArg {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := RunHelper(ctx, slog.New(slog.NewJSONHandler(os.Stderr, nil))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const testWait = 20 * time.Second

// logBuffer collects a helper's log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	t.Cleanup(cancel)
	return ctx
}

func spawnConfig(cfg Config, log *logBuffer) SpawnConfig {
	return SpawnConfig{Args: []string{helperArg}, Config: cfg, Stderr: log}
}

// startHelper runs a helper process with a Client attached.
func startHelper(t testing.TB, cfg Config) (*Process, *Client, *logBuffer) {
	t.Helper()
	leakCheck(t)
	log := &logBuffer{}
	p, err := Spawn(testContext(t), spawnConfig(cfg, log))
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	c := NewClient(ClientOptions{})
	t.Cleanup(func() {
		c.Close()
		p.Stop(context.Background())
	})
	conn, err := p.Connect(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Attach(conn); err != nil {
		t.Fatal(err)
	}
	return p, c, log
}

// startLocal is startHelper without the process.
func startLocal(t testing.TB, cfg Config) *Local {
	t.Helper()
	leakCheck(t)
	l, err := NewLocal(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func openFDs() int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(d)
}

// leakCheck fails the test if it leaves goroutines or descriptors behind. It
// has to come before the cleanups that end them are registered.
func leakCheck(t testing.TB) {
	t.Helper()
	fds, gs := openFDs(), runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for openFDs() > fds || runtime.NumGoroutine() > gs {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Errorf("%d descriptors, before %d; %d goroutines, before %d\n%s", openFDs(), fds, runtime.NumGoroutine(), gs, buf[:runtime.Stack(buf, true)])
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

// shaker is one side of a handshake: a *Handshake, or a rawPeer.
type shaker interface {
	Crypto(Level, []byte)
	TransportParams([]byte)
	Close()
}

// rawPeer is crypto/tls without a helper, for peers that do odd things.
type rawPeer struct {
	mu   sync.Mutex
	q    *tls.QUICConn
	sink func(Event)
}

func newRawClient(conf *tls.Config, sink func(Event)) *rawPeer {
	conf.MinVersion = tls.VersionTLS13
	p := &rawPeer{q: tls.QUICClient(&tls.QUICConfig{TLSConfig: conf}), sink: sink}
	p.q.SetTransportParameters([]byte("client parameters"))
	p.start()
	return p
}

func newRawServer(conf *tls.Config, sink func(Event)) *rawPeer {
	conf.MinVersion = tls.VersionTLS13
	p := &rawPeer{q: tls.QUICServer(&tls.QUICConfig{TLSConfig: conf}), sink: sink}
	p.q.SetTransportParameters([]byte("server parameters"))
	p.start()
	return p
}

func (p *rawPeer) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.q.Start(context.Background()); err != nil {
		p.fail(err)
		return
	}
	p.pump()
}

func (p *rawPeer) fail(err error) {
	e := &Error{Status: StatusEACCES, Reason: ReasonTLS, Detail: err.Error()}
	if a, ok := errors.AsType[tls.AlertError](err); ok {
		e.Alert = uint8(a)
	}
	p.sink(Event{Kind: EventFailed, Alert: e.Alert, Err: e})
}

func (p *rawPeer) pump() {
	done := false
	for {
		switch e := p.q.NextEvent(); e.Kind {
		case tls.QUICNoEvent:
			if done {
				cs := p.q.ConnectionState()
				st := &State{Version: cs.Version, Suite: cs.CipherSuite, ServerName: cs.ServerName, ALPN: cs.NegotiatedProtocol, Resumed: cs.DidResume}
				st.Exporter, _ = cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
				p.sink(Event{Kind: EventDone, State: st})
			}
			return
		case tls.QUICErrorEvent:
			p.fail(e.Err)
			return
		case tls.QUICSetReadSecret, tls.QUICSetWriteSecret:
			p.sink(Event{Kind: EventSecret, Level: Level(e.Level), Write: e.Kind == tls.QUICSetWriteSecret, Suite: e.Suite, Data: clone(e.Data)})
		case tls.QUICWriteData:
			p.sink(Event{Kind: EventCrypto, Level: Level(e.Level), Data: clone(e.Data)})
		case tls.QUICTransportParameters:
			p.sink(Event{Kind: EventPeerTransportParams, Data: clone(e.Data)})
		case tls.QUICHandshakeDone:
			done = true
		}
	}
}

func (p *rawPeer) Crypto(l Level, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.q.HandleData(tls.QUICEncryptionLevel(l), b); err != nil {
		p.fail(err)
		return
	}
	p.pump()
}

func (p *rawPeer) TransportParams([]byte) {}

func (p *rawPeer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.q.Close()
}

// side is what became of one side.
type side struct {
	shaker  shaker
	state   *State
	err     *Error
	peerTP  string
	secrets map[string]string
	early   string // what EventEarlyParams brought back
	refused bool   // EventEarlyRejected
}

// pair is a handshake between two sides.
type pair struct {
	t              testing.TB
	server, client side
	events         chan pairEvent
}

type pairEvent struct {
	server bool
	e      Event
}

type starter func(sink func(Event)) shaker

// shake runs a handshake until both sides have a result, or one has failed and
// the other can not get any further.
func shake(t testing.TB, server, client starter) *pair {
	t.Helper()
	p := &pair{t: t, events: make(chan pairEvent, 1024)}
	p.server.secrets, p.client.secrets = map[string]string{}, map[string]string{}
	p.server.shaker = server(func(e Event) { p.events <- pairEvent{true, e} })
	p.client.shaker = client(func(e Event) { p.events <- pairEvent{false, e} })
	t.Cleanup(func() {
		p.server.shaker.Close()
		p.client.shaker.Close()
	})
	for !p.over() {
		p.step()
	}
	return p
}

func (p *pair) over() bool {
	return p.server.err != nil || p.client.err != nil || p.server.state != nil && p.client.state != nil
}

// step passes one event on.
func (p *pair) step() Event {
	p.t.Helper()
	select {
	case ev := <-p.events:
		from, to := &p.server, &p.client
		if !ev.server {
			from, to = to, from
		}
		switch e := ev.e; e.Kind {
		case EventCrypto:
			to.shaker.Crypto(e.Level, e.Data)
		case EventSecret:
			dir := ev.server == e.Write
			from.secrets[fmt.Sprint(e.Level, dir, e.Suite)] = string(e.Data)
		case EventPeerTransportParams:
			from.peerTP = string(e.Data)
			from.shaker.TransportParams([]byte("server parameters"))
		case EventDone:
			from.state = e.State
		case EventEarlyParams:
			from.early = string(e.Data)
		case EventEarlyRejected:
			from.refused = true
		case EventFailed:
			if !errors.As(e.Err, &from.err) {
				p.t.Fatalf("an error without a reason: %v", e.Err)
			}
		}
		return ev.e
	case <-time.After(testWait):
		p.t.Fatal("nothing happens")
		return Event{}
	}
}

// ok checks that both sides agree on everything.
func (p *pair) ok() *pair {
	p.t.Helper()
	if p.server.err != nil || p.client.err != nil {
		p.t.Fatalf("server: %v, client: %v", p.server.err, p.client.err)
	}
	if p.server.peerTP != "client parameters" || p.client.peerTP != "server parameters" {
		p.t.Errorf("transport parameters: server has %q, client %q", p.server.peerTP, p.client.peerTP)
	}
	if len(p.server.secrets) != 4 || fmt.Sprint(p.server.secrets) != fmt.Sprint(p.client.secrets) {
		p.t.Errorf("%d and %d secrets, not the same 4", len(p.server.secrets), len(p.client.secrets))
	}
	s, c := p.server.state, p.client.state
	if s.Suite != c.Suite || s.ALPN != c.ALPN || s.Resumed != c.Resumed || !bytes.Equal(s.Exporter, c.Exporter) || len(s.Exporter) != 32 || s.Version != tls.VersionTLS13 {
		p.t.Errorf("server says %+v, client %+v", s, c)
	}
	return p
}

// refused checks the server's reason.
func (p *pair) refused(status Status, alert uint8, reason Reason) {
	p.t.Helper()
	checkRefused(p.t, p.server.err, status, alert, reason)
}

func checkRefused(t testing.TB, e *Error, status Status, alert uint8, reason Reason) {
	t.Helper()
	if e == nil {
		t.Fatalf("not refused, want %s", reason)
	}
	if e.Status != status || e.Alert != alert || e.Reason != reason {
		t.Fatalf("refused with %v, want %s, %s, alert %d", e, reason, status, alert)
	}
	if strings.ContainsFunc(e.Detail, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		t.Errorf("detail is not printable: %q", e.Detail)
	}
}

func serverRequest(edit func(*Request)) *Request {
	r := &Request{ID: "t", Server: true, NextProtos: []string{"smb", "sunrpc"}, Timeout: testWait,
		Remote: netip.MustParseAddrPort("192.0.2.1:443"), Options: Options{Route: "office", ClientCert: ClientCertNone}}
	if edit != nil {
		edit(r)
	}
	return r
}

func viaHelper(c *Client, r *Request) starter {
	return func(sink func(Event)) shaker { return c.Start(r, sink) }
}

func clientRequest(name string, protos ...string) *Request {
	return &Request{ID: "c", ServerName: name, NextProtos: protos, Timeout: testWait, TransportParams: []byte("client parameters")}
}

// raw is a client without a helper that trusts the site.
func (s *site) raw(edit func(*tls.Config)) starter {
	conf := &tls.Config{ServerName: "files.example.com", NextProtos: []string{"smb"}, InsecureSkipVerify: true}
	if edit != nil {
		edit(conf)
	}
	return func(sink func(Event)) shaker { return newRawClient(conf, sink) }
}

func withCert(c tls.Certificate) func(*tls.Config) {
	return func(conf *tls.Config) {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	}
}
