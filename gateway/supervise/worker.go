//go:build linux

package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/gateway"
	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/upcall"
	"github.com/quic-fsgw/quic-fsgw/internal/headroom"
	"github.com/quic-fsgw/quic-fsgw/internal/procs"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// firstFile is the number of the first inherited descriptor: the control
// channel; the UDP sockets follow.
const firstFile = 3

// WorkerConfig is what the packet process gets from its command.
type WorkerConfig struct {
	// Loggers makes the logs that a configuration asks for. The files of access
	// and audit are open already, nil where there is none.
	Loggers func(cfg *config.Config, accessFile, auditFile *os.File) (log, access, audit *slog.Logger, err error)
}

// packetProcess is the process that talks to the network.
type packetProcess struct {
	ch     *channel
	log    *slog.Logger
	file   string
	client *tlshd.Client
	gw     *gateway.Gateway

	changed chan struct{} // what the helper trusts is another than before

	attachMu sync.Mutex // held while one helper takes the place of another
}

// Worker is the packet process: it serves until the supervisor says drain and
// ends it, or goes away. It opens no key file and holds no private key, and all
// that it listens on and logs to it has from the supervisor, which can do more.
func Worker(ctx context.Context, wc WorkerConfig) error {
	sandbox := tlshd.HardenPacketProcess()
	signal.Ignore(syscall.SIGHUP) // the supervisor reloads; this process is told
	ch, err := newChannel(os.NewFile(firstFile, "control"))
	if err != nil {
		return err
	}
	defer ch.close()
	start, f, err := ch.receive()
	if err == nil && start.Op != opStart {
		err = fmt.Errorf("%q came instead", start.Op)
	}
	if err != nil {
		return fmt.Errorf("packet process: no start message (this command is run by serve): %w", err)
	}
	cfg, err := loadFrom(start.Config, f)
	if err != nil {
		return err
	}
	files := inheritFiles(&start)
	log, access, audit, err := wc.Loggers(cfg, files[fileAccessLog], files[fileAuditLog])
	if err != nil {
		return err
	}
	log.Info("packet process runs", "uid", os.Getuid(), "sandbox", sandbox)
	w := &packetProcess{ch: ch, log: log, file: start.Config, changed: make(chan struct{}, 1)}
	w.client = tlshd.NewClient(tlshd.ClientOptions{Logger: log, Changed: func() {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}})
	defer w.client.Close()
	listeners, err := inherit(cfg, start.Shards, log)
	if err != nil {
		return err
	}
	reg := admin.NewRegistry()
	w.registerHelper(reg)
	w.gw, err = gateway.New(cfg, listeners, gateway.Options{
		Handshaker: upcall.Handshaker(w.client), Logger: log, Access: access, Audit: audit, Registry: reg, ResetKey: start.ResetKey,
		Trust: upcall.NewTrust(w.client),
	})
	if err != nil {
		return err
	}
	return w.run(ctx, cfg, reg, files)
}

// inherit takes over the sockets that the supervisor opened.
func inherit(cfg *config.Config, shards []int, log *slog.Logger) ([]gateway.Listener, error) {
	if len(shards) != len(cfg.Listen) {
		return nil, fmt.Errorf("packet process: %d listeners inherited, %d configured (the file changed meanwhile: restart)", len(shards), len(cfg.Listen))
	}
	sockets := socketConfig(&cfg.QUIC)
	sockets.Logger = log
	var out []gateway.Listener
	fd := uintptr(firstFile + 1)
	for i, n := range shards {
		var files []*os.File
		for range n {
			unix.CloseOnExec(int(fd))
			files = append(files, os.NewFile(fd, "udp"))
			fd++
		}
		g, err := udp.GroupFromFiles(files, sockets)
		for _, f := range files {
			_ = f.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("packet process: socket of %s: %w", cfg.Listen[i].UDP, err)
		}
		out = append(out, gateway.Listener{Addr: cfg.Listen[i].UDP, Group: g})
	}
	return out, nil
}

// inheritFiles takes over what else the supervisor opened, by name.
func inheritFiles(start *message) map[string]*os.File {
	fd := uintptr(firstFile + 1)
	for _, n := range start.Shards {
		fd += uintptr(n)
	}
	out := make(map[string]*os.File)
	for i, name := range start.Files {
		unix.CloseOnExec(int(fd) + i)
		out[name] = os.NewFile(fd+uintptr(i), name)
	}
	return out
}

func (w *packetProcess) run(ctx context.Context, cfg *config.Config, reg *admin.Registry, files map[string]*os.File) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopAdmin, err := w.serveAdmin(ctx, reg, files)
	if err != nil {
		return err
	}
	defer stopAdmin()
	go procs.Fit(ctx, procs.Source{Stat: files[fileStat], Work: udp.Work})
	go headroom.Fit(ctx)
	go func() { cancel(w.receiveLoop(ctx)) }()
	go w.recheckLoop(ctx)
	if err := w.ch.send(message{Op: opReady}, nil); err != nil {
		return err
	}
	for _, l := range cfg.Listen {
		w.log.Info("serving", "address", string(l.UDP), "routes", len(cfg.Routes))
	}
	<-ctx.Done()
	cctx, ccancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer ccancel()
	return w.gw.Close(cctx)
}

// recheckLoop has live connections judged again when the helper's trust changes.
func (w *packetProcess) recheckLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
			w.gw.Recheck(ctx)
		}
	}
}

// receiveLoop does what the supervisor says until it is gone.
func (w *packetProcess) receiveLoop(ctx context.Context) error {
	for {
		m, f, err := w.ch.receive()
		if err != nil {
			return err
		}
		switch m.Op {
		case opHelper:
			w.attach(ctx, f)
			continue
		case opReload:
			go func() { _ = w.ch.send(result(m.ID, nil, w.reload(f)), nil) }()
			continue
		case opDrain:
			go func() {
				dctx, cancel := context.WithTimeout(ctx, m.Timeout)
				defer cancel()
				_ = w.ch.send(result(m.ID, nil, w.gw.Drain(dctx)), nil)
			}()
		case opResult:
			w.ch.answered(m)
		}
		if f != nil {
			_ = f.Close()
		}
	}
}

// attach gives the handshake client a new connection.
func (w *packetProcess) attach(ctx context.Context, f *os.File) {
	if f == nil {
		w.log.Error("helper message without a descriptor")
		return
	}
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		w.log.Error("handshake helper", "error", err)
		return
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		w.log.Error("handshake helper: not a unix socket")
		return
	}
	w.attachMu.Lock()
	defer w.attachMu.Unlock()
	err = w.client.Attach(uc)
	go w.watchHelper(ctx, w.client.Detached())
	if err != nil {
		w.log.Error("handshake helper", "error", err)
		return
	}
	w.log.Info("handshake helper connected")
}

// watchHelper tells the supervisor when a connection to the helper breaks and
// no other has taken its place.
func (w *packetProcess) watchHelper(ctx context.Context, lost <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-lost:
	}
	if ctx.Err() != nil {
		return // it was let go
	}
	w.attachMu.Lock()
	defer w.attachMu.Unlock()
	select {
	case <-w.client.Detached():
		w.log.Warn("handshake helper lost: connections go on, new ones wait for its restart")
		_ = w.ch.send(message{Op: opHelperLost}, nil)
	default:
	}
}

func (w *packetProcess) reload(f *os.File) error {
	cfg, err := loadFrom(w.file, f)
	if err != nil {
		return err
	}
	return w.gw.Reload(cfg)
}

// loadFrom reads the configuration that came with a message.
func loadFrom(name string, f *os.File) (*config.Config, error) {
	c, err := unseal(f)
	if err != nil {
		return nil, err
	}
	return c.load(name)
}

// registerHelper registers what is known of the helper from this side.
func (w *packetProcess) registerHelper(reg *admin.Registry) {
	reg.PullCounter("quicfsgw_helper_requests_total", "Handshake requests to the helper, by outcome.", func(emit func(float64, ...string)) {
		st := w.client.Stats()
		emit(float64(st.Done), "done")
		emit(float64(st.Failed), "failed")
	}, "outcome")
	reg.PullCounter("quicfsgw_helper_outcomes_total", "Handshakes that ended, by the helper's reason: ok, or one of the named failures of docs/tlshd.md.", func(emit func(float64, ...string)) {
		outcomes := w.client.Stats().Outcomes
		emit(float64(outcomes[tlshd.ReasonOK]), string(tlshd.ReasonOK))
		delete(outcomes, tlshd.ReasonOK)
		for r, n := range outcomes {
			emit(float64(n), string(r))
		}
	}, "reason")
	reg.PullCounter("quicfsgw_helper_restarts_total", "Times the helper went away on its own.", func(emit func(float64, ...string)) {
		emit(float64(w.client.Stats().Lost))
	})
	reg.PullGauge("quicfsgw_expiry_timestamp_seconds", "When the first certificate (kind certificate), CA (ca) or revocation list (crl) in a file ends, in seconds since 1970.", w.pullExpiries, "kind", "file")
	reg.PullGauge("quicfsgw_helper_in_flight", "Handshakes under way in the helper.", func(emit func(float64, ...string)) {
		emit(float64(w.client.Stats().InFlight))
	})
}

// helperAskTimeout bounds a question to the helper for a page of metrics.
const helperAskTimeout = time.Second

// pullExpiries asks the helper, which alone has read the files.
func (w *packetProcess) pullExpiries(emit func(float64, ...string)) {
	ctx, cancel := context.WithTimeout(context.Background(), helperAskTimeout)
	defer cancel()
	st, err := w.client.ServerStats(ctx)
	if err != nil {
		return // between two helpers
	}
	seen := map[[2]string]bool{}
	for _, e := range st.Expiries { // the soonest first
		if k := [2]string{e.Kind, e.File}; !seen[k] {
			seen[k] = true
			emit(float64(e.At.Unix()), e.Kind, e.File)
		}
	}
}

// serveAdmin answers the admin addresses.
func (w *packetProcess) serveAdmin(ctx context.Context, reg *admin.Registry, files map[string]*os.File) (stop func(), err error) {
	srv := admin.NewServer(reg, admin.Source{
		Healthy: w.gw.Healthy,
		Ready:   w.gw.Ready,
		Status:  func() any { return w.gw.Status() },
		Reload: func(ctx context.Context) ([]string, error) {
			r, err := w.ch.call(ctx, message{Op: opRequestReload}, nil)
			return r.Warnings, err
		},
		Drain: w.gw.Drain,
	}, w.log)
	var closers []func()
	ctx, cancel := context.WithCancel(ctx)
	serve := func(f func() error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := f(); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				w.log.Error("admin", "error", err)
			}
		}()
		closers = append(closers, func() { <-done })
	}
	stop = func() {
		cancel()
		for _, c := range closers {
			c()
		}
	}
	if f := files[fileAdminHTTP]; f != nil {
		l, err := listenerOf(f)
		if err != nil {
			stop()
			return nil, fmt.Errorf("admin.http: %w", err)
		}
		serve(func() error { return srv.ServeHTTP(ctx, l) })
	}
	if f := files[fileAdminSocket]; f != nil {
		l, err := listenerOf(f)
		ul, ok := l.(*net.UnixListener)
		if err == nil && !ok {
			_ = l.Close()
			err = errors.New("not a Unix socket")
		}
		if err != nil {
			stop()
			return nil, fmt.Errorf("admin.socket: %w", err)
		}
		serve(func() error { return srv.ServeUnix(ctx, ul) })
	}
	return stop, nil
}

// listenerOf takes over an inherited listening socket.
func listenerOf(f *os.File) (net.Listener, error) {
	l, err := net.FileListener(f)
	_ = f.Close() // the listener has its own duplicate
	return l, err
}
