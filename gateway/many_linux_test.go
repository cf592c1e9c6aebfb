package gateway_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway"
	"github.com/quic-fsgw/quic-fsgw/gateway/client"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/pki"
	"github.com/quic-fsgw/quic-fsgw/nfs/ganeshatest"
	"github.com/quic-fsgw/quic-fsgw/quic"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
)

const testName = "files.test"

// inProcess is a gateway in this process, in front of a real NFS server; TLS
// runs here too, so that every goroutine and buffer can be counted.
type inProcess struct {
	*gateway.Gateway
	addr   netip.AddrPort
	client *tls.Config // with a certificate
	server *tls.Config
	as     func(name string) *tls.Config // client, with a certificate of that name
}

// inProcessConfig is what tests vary.
type inProcessConfig struct {
	backends string    // of the list
	mount    string    // port
	nfs      string    // further lines of the nfs section, indented by six
	limits   string    // further lines of the limits section, indented by two
	exports  string    // of the list; "": ganeshatest.Pseudo
	listen   string    // "": a free port of loopback
	log      io.Writer // nil: nowhere
}

// syncBuffer is a buffer that may be written and read by several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newInProcess(t *testing.T, backend, mount string) *inProcess {
	return newInProcessConfig(t, inProcessConfig{backends: `"` + backend + `"`, mount: mount})
}

// config is the configuration of a gateway at that address.
func (g *inProcess) config(t *testing.T, c inProcessConfig) *config.Config {
	t.Helper()
	if c.exports == "" {
		c.exports = ganeshatest.Pseudo
	}
	cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, `
listen: [{udp: %q}]
tlshd: {certificates: [{names: [files.test], cert: /none.crt, key: /none.key}], client_ca: [/none.pem]}
access: {staff: {client_certificate: required, allow: [{any: true}]}}
limits:
  connections_per_client: 1000
%squic: {idle_timeout: 8s, keepalive: 3s}
routes:
  - name: home
    match: {alpn: sunrpc, server_name: files.test}
    access: staff
    nfs:
      backends: [%s]
      ports: {mount: %s}
      exports: [%s]
      identity: {otherwise: squash, squash_uid: 4711, squash_gid: 4712}
%s`, g.addr, c.limits, c.backends, c.mount, c.exports, c.nfs))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func newInProcessConfig(t *testing.T, c inProcessConfig) *inProcess {
	t.Helper()
	now := time.Now()
	ca, _, err := pki.NewCA(now, "test CA", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(r pki.Request) tls.Certificate {
		r.Life = time.Hour
		p, err := ca.Issue(now, r)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.X509KeyPair(p.Cert, p.Key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	server := &tls.Config{
		Certificates: []tls.Certificate{issue(pki.Request{Name: testName, Server: true, DNS: []string{testName}})},
		ClientCAs:    pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
	base := &inProcess{server: server, as: func(name string) *tls.Config {
		return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{issue(pki.Request{Name: name, Client: true, DNS: []string{name}})}}
	}}
	base.client = base.as("alice")
	return base.again(t, c)
}

// again starts another gateway with the same certificates.
func (g *inProcess) again(t *testing.T, c inProcessConfig) *inProcess {
	t.Helper()
	if c.listen == "" {
		c.listen = "127.0.0.1:0"
	}
	group, err := udp.ListenGroup(netip.MustParseAddrPort(c.listen), 2, udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	n := &inProcess{addr: group.Sockets()[0].LocalAddr(), server: g.server, client: g.client, as: g.as}
	cfg := n.config(t, c)
	log := slog.New(slog.DiscardHandler)
	if c.log != nil {
		log = slog.New(slog.NewTextHandler(c.log, nil))
	}
	n.Gateway, err = gateway.New(cfg, []gateway.Listener{{Addr: cfg.Listen[0].UDP, Group: group}}, gateway.Options{
		Handshaker: quic.TLS(g.server), Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// copyBothWays writes a file through the gateway on a connection of its own,
// reads it back and compares.
func (g *inProcess) copyBothWays(ctx context.Context, name string, size int) error {
	d := &client.Dialer{Handshaker: quic.TLS(g.client), ServerName: testName}
	defer d.Close()
	u, err := client.ParseURL(fmt.Sprintf("nfs://%s%s/%s", g.addr, ganeshatest.Pseudo, name))
	if err != nil {
		return err
	}
	f, p, err := client.OpenRemote(ctx, u, client.OpenOptions{Dial: d.Dial, Streams: 2})
	if err != nil {
		return err
	}
	defer f.Close()
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		return err
	}
	w, err := f.Create(ctx, p, 0o644)
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		w.Abort()
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	r, err := f.Open(ctx, p)
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err
	}
	if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
		return errors.New("what was read is not what was written")
	}
	return nil
}

// Two hundred clients at once get their files, and leave nothing behind: no
// goroutine, no buffer, no session.
func TestTwoHundredClientsLeaveNothing(t *testing.T) {
	nfs := ganeshatest.Start(t)
	_, mount, _ := bytes.Cut([]byte(nfs.Mount), []byte(":"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	before, buffers := runtime.NumGoroutine(), udp.Outstanding()
	g := newInProcess(t, nfs.NFS, string(mount))
	if err := g.copyBothWays(ctx, "first", 1<<20); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, "sessions", 0, func() int { return len(g.Status().Connections) })
	serving := runtime.NumGoroutine()

	var wg sync.WaitGroup
	errs := make([]error, 200)
	for i := range errs {
		wg.Go(func() { errs[i] = g.copyBothWays(ctx, fmt.Sprintf("f%d", i), 256<<10) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, "sessions", 0, func() int { return len(g.Status().Connections) })
	awaitCount(t, "goroutines while serving", serving, runtime.NumGoroutine)
	if err := g.Close(ctx); err != nil {
		t.Error(err)
	}
	awaitCount(t, "goroutines", before, runtime.NumGoroutine)
	awaitCount(t, "buffers", int(buffers), func() int { return int(udp.Outstanding()) })
}

// awaitCount waits until count is at most want.
func awaitCount(t *testing.T, what string, want int, count func() int) {
	t.Helper()
	// A CONNECTION_CLOSE may be lost: then the idle timeout ends the session.
	tick, limit := time.NewTicker(10*time.Millisecond), time.NewTimer(40*time.Second)
	defer tick.Stop()
	defer limit.Stop()
	for count() > want {
		select {
		case <-tick.C:
		case <-limit.C:
			stacks := make([]byte, 256<<10)
			t.Fatalf("%d %s are left, want %d\n%s", count(), what, want, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
