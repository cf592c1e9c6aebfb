//go:build linux

package supervise

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/quic/udp"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// Config is what a Supervisor needs.
type Config struct {
	File       string   // the configuration file
	WorkerArgs []string // arguments that make this program call Worker
	HelperArgs []string // arguments that make this program call tlshd.RunHelper
	HTTPSArgs  []string // arguments that make this program call HTTPS
	Logger     *slog.Logger
	Ready      func() // called each time the packet process serves; may be nil
	// Profile opens a file for the CPU profile of a packet process, which can open
	// none, and finds it by ProfileFD; nil: there is none.
	Profile func() (*os.File, error)
}

// drainTimeout bounds the orderly end of sessions when the gateway stops.
const drainTimeout = 30 * time.Second

// Supervisor keeps a gateway running.
type Supervisor struct {
	conf   Config
	log    *slog.Logger
	cfg    *config.Config
	served atomic.Bool // some packet process has served
	reset  [32]byte    // of all packet processes: see gateway.Options.ResetKey
	files  []*os.File  // the UDP sockets, in the order of listen
	shards []int
	admin  []openFile // the listening sockets of the admin addresses
	helper helperSource
	https  *httpsProcess // nil: none
	lost   chan struct{} // the packet process lost its connection to a helper service

	mu       sync.Mutex
	content  *content       // what the configuration in force was read from
	proc     *tlshd.Process // the running helper, in mode spawn
	conn     *net.UnixConn  // a connection for the next packet process, in mode socket
	worker   *worker
	reloadMu sync.Mutex
}

// worker is the running packet process.
type worker struct {
	cmd  *exec.Cmd
	ch   *channel
	done chan struct{} // closed when it has ended
	err  error         // why, once done is closed
}

// Run opens the sockets, starts the processes, and keeps them running until ctx
// ends; then sessions are drained. reload asks for the file to be read again.
func Run(ctx context.Context, conf Config, reload <-chan os.Signal) error {
	text, err := config.Read(conf.File)
	if err != nil {
		return err
	}
	cfg, err := config.LoadFrom(conf.File, text)
	if err != nil {
		return err
	}
	s := &Supervisor{conf: conf, log: conf.Logger, cfg: cfg, content: gather(cfg, text), lost: make(chan struct{}, 1)}
	_, _ = rand.Read(s.reset[:]) // never fails
	if s.log == nil {
		s.log = slog.Default()
	}
	if err := s.listen(); err != nil {
		return err
	}
	defer s.closeFiles()
	if err := s.listenAdmin(); err != nil {
		return err
	}
	defer s.closeAdmin()
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stopHTTPS, err := s.startHTTPS(inner)
	if err != nil {
		return err
	}
	defer stopHTTPS()
	if err := s.startHelper(inner); err != nil {
		return err
	}
	defer func() { _ = s.helper.Close() }()
	go s.reloadLoop(inner, reload)
	return s.workerLoop(ctx)
}

// listen opens the UDP sockets, while the right to bind low ports is there.
func (s *Supervisor) listen() error {
	for _, l := range s.cfg.Listen {
		shards := int(l.Shards)
		if shards == 0 {
			shards = min(runtime.NumCPU(), 64)
		}
		g, err := udp.ListenGroup(l.UDP.AddrPort(), shards, socketConfig(&s.cfg.QUIC))
		if err != nil {
			s.closeFiles()
			return fmt.Errorf("listen on %s: %w", l.UDP, err)
		}
		for _, sock := range g.Sockets() {
			f, err := sock.File()
			if err != nil {
				_ = g.Close()
				s.closeFiles()
				return fmt.Errorf("listen on %s: %w", l.UDP, err)
			}
			s.files = append(s.files, f)
		}
		s.shards = append(s.shards, g.Shards())
		// The files keep the sockets open. Ours would be watched for packets that
		// are none of this process's business.
		_ = g.Close()
	}
	return nil
}

func socketConfig(q *config.QUIC) udp.Config {
	return udp.Config{GSO: mode(q.GSO), GRO: mode(q.GRO), Zerocopy: mode(q.ZeroCopy)}
}

func mode(s string) udp.Mode {
	switch s {
	case "on":
		return udp.On
	case "off":
		return udp.Off
	}
	return udp.Auto
}

func (s *Supervisor) closeFiles() {
	for _, f := range s.files {
		_ = f.Close()
	}
	s.files = nil
}

func (s *Supervisor) startHelper(ctx context.Context) error {
	if s.cfg.Tlshd.Mode == "socket" {
		s.helper = watchService(ctx, string(s.cfg.Tlshd.Socket), s.log, s.serviceUp, s.lost)
		return nil
	}
	h, err := tlshd.Supervise(ctx, tlshd.SpawnConfig{Args: s.conf.HelperArgs, Config: HelperConfig(s.cfg), Logger: s.log}, s.helperUp)
	if err != nil {
		return fmt.Errorf("handshake helper: %w", err)
	}
	s.helper = h
	return nil
}

// helperUp is called with each helper that was started.
func (s *Supervisor) helperUp(p *tlshd.Process) error {
	s.mu.Lock()
	s.proc = p
	w := s.worker
	s.mu.Unlock()
	s.log.Info("handshake helper started", "pid", p.Pid())
	if w == nil {
		return nil
	}
	return s.connectHelper(w)
}

// serviceUp is called with each connection to a helper service.
func (s *Supervisor) serviceUp(conn *net.UnixConn) error {
	s.mu.Lock()
	w := s.worker
	if w == nil {
		if s.conn != nil {
			_ = s.conn.Close()
		}
		s.conn = conn
	}
	s.mu.Unlock()
	if w == nil {
		return nil
	}
	return w.giveHelper(conn)
}

// connectHelper gives the packet process a connection to the helper.
func (s *Supervisor) connectHelper(w *worker) error {
	s.mu.Lock()
	p, conn := s.proc, s.conn
	s.conn = nil
	s.mu.Unlock()
	if conn == nil {
		if p == nil {
			return nil // it comes when there is a helper
		}
		ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
		defer cancel()
		var err error
		if conn, err = p.Connect(ctx); err != nil {
			return err
		}
	}
	return w.giveHelper(conn)
}

func (w *worker) giveHelper(conn *net.UnixConn) error {
	defer conn.Close()
	f, err := conn.File()
	if err != nil {
		return err
	}
	defer f.Close()
	return w.ch.send(message{Op: opHelper}, f)
}

// workerLoop keeps the packet process running until ctx ends.
func (s *Supervisor) workerLoop(ctx context.Context) error {
	b := backoff{most: 5 * time.Second}
	for ctx.Err() == nil {
		started := time.Now()
		w, err := s.startWorker()
		if err == nil {
			select {
			case <-w.done:
				err = w.err
			case <-ctx.Done():
				return s.stopWorker(w)
			}
		}
		// What has never worked is wrong in a way that trying again does not mend.
		if !s.served.Load() {
			return fmt.Errorf("the packet process did not start: %w", err)
		}
		s.log.Error("packet process ended, starting it again", "error", err)
		if time.Since(started) > 10*time.Second {
			b.reset()
		}
		b.wait(ctx)
	}
	return nil
}

func (s *Supervisor) startWorker() (*worker, error) {
	extra, err := s.openFiles()
	if err != nil {
		return nil, err
	}
	defer closeOpened(extra)
	ch, theirs, err := newPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	w := &worker{ch: ch, done: make(chan struct{})}
	ended, err := s.launch(w, theirs, extra)
	if err != nil {
		ch.close()
		return nil, fmt.Errorf("packet process: %w", err)
	}
	go s.receiveLoop(w)
	go func() {
		w.err = <-ended
		if w.err == nil {
			w.err = errors.New("it ended by itself")
		}
		ch.close()
		s.mu.Lock()
		if s.worker == w {
			s.worker = nil
		}
		s.mu.Unlock()
		s.helperLost() // its connection to a helper service went with it
		close(w.done)
	}()
	if err := s.introduce(w, extra); err != nil {
		_ = w.cmd.Process.Kill()
		<-w.done
		return nil, fmt.Errorf("packet process: %w", err)
	}
	return w, nil
}

// introduce tells a new packet process what to serve, which has to be the
// first message, and how to reach the helper.
func (s *Supervisor) introduce(w *worker, extra []openFile) error {
	s.mu.Lock()
	c := s.content
	s.mu.Unlock()
	f, err := c.seal()
	if err != nil {
		return err
	}
	defer f.Close()
	start := message{Op: opStart, Config: s.conf.File, Shards: s.shards, ResetKey: &s.reset}
	for _, x := range extra {
		start.Files = append(start.Files, x.name)
	}
	if err := w.ch.send(start, f); err != nil {
		return err
	}
	s.mu.Lock()
	s.worker = w
	s.mu.Unlock()
	if err := s.connectHelper(w); err != nil {
		// The next helper is given to it as well: a helper that died just now is
		// no reason to end the packet process.
		s.log.Warn("handshake helper not connected yet", "error", err)
	}
	return nil
}

// helperLost asks for a new connection to a helper service.
func (s *Supervisor) helperLost() {
	select {
	case s.lost <- struct{}{}:
	default:
	}
}

// receiveLoop handles what the packet process says.
func (s *Supervisor) receiveLoop(w *worker) {
	for {
		m, f, err := w.ch.receive()
		if err != nil {
			return
		}
		if f != nil {
			_ = f.Close() // it has no business sending one
		}
		switch m.Op {
		case opReady:
			s.served.Store(true)
			if s.conf.Ready != nil {
				s.conf.Ready()
			}
		case opHelperLost:
			s.helperLost()
		case opRequestReload:
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), reloadTimeout)
				defer cancel()
				warnings, err := s.Reload(ctx)
				_ = w.ch.send(result(m.ID, warnings, err), nil)
			}()
		case opResult:
			w.ch.answered(m)
		}
	}
}

const reloadTimeout = 30 * time.Second

// lookInterval is how often the files that the configuration names for the
// packet process are looked at. The helper looks at its own.
const lookInterval = 2 * time.Second

func (s *Supervisor) reloadLoop(ctx context.Context, reload <-chan os.Signal) {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	var tried map[string]os.FileInfo // what a reload was tried for
	for {
		var apply func(context.Context) ([]string, error)
		select {
		case <-ctx.Done():
			return
		case <-reload:
			apply = s.Reload
		case <-tick.C:
			s.mu.Lock()
			c := s.content
			s.mu.Unlock()
			now := look(slices.Collect(maps.Keys(c.seen)))
			if sameFiles(now, c.seen) || sameFiles(now, tried) {
				continue
			}
			tried = now
			s.log.Info("a file that the configuration names has changed")
			// The configuration file itself may be half written: it waits for a reload.
			apply = func(ctx context.Context) ([]string, error) { return s.apply(ctx, c.Text) }
		}
		rctx, cancel := context.WithTimeout(ctx, reloadTimeout)
		if _, err := apply(rctx); err != nil {
			s.log.Error("reload failed, the old configuration stays", "error", err)
		}
		cancel()
	}
}

// Reload reads the file again and applies it whole, or not at all.
func (s *Supervisor) Reload(ctx context.Context) (warnings []string, err error) {
	text, err := config.Read(s.conf.File)
	if err != nil {
		return nil, err
	}
	return s.apply(ctx, text)
}

// apply has everybody serve text: the https process first, then the helper, then
// the packet process; if one refuses, those before go back.
func (s *Supervisor) apply(ctx context.Context, text []byte) (warnings []string, err error) {
	s.reloadMu.Lock()
	defer s.reloadMu.Unlock()
	cfg, err := config.LoadFrom(s.conf.File, text)
	if err != nil {
		return nil, err
	}
	for _, p := range cfg.Warnings() {
		warnings = append(warnings, p.Error())
	}
	if cfg.RunAs != s.cfg.RunAs {
		return nil, errors.New("reload: run_as has changed (restart to apply it)")
	}
	old := s.cfg
	if (cfg.HTTPS == nil) != (old.HTTPS == nil) || cfg.HTTPS != nil && cfg.HTTPS.Listen != old.HTTPS.Listen {
		return nil, errors.New("reload: https is new or gone, or https.listen has changed (restart to apply it)")
	}
	if os.Geteuid() == 0 && len(capabilities(cfg)) > len(capabilities(s.cfg)) {
		return nil, errors.New("reload: privileged_port is new, and the packet process may not use low ports any more (restart to apply it)")
	}
	if cfg.Log.Qlog != s.cfg.Log.Qlog || cfg.Log.QlogEvery != s.cfg.Log.QlogEvery {
		return nil, errors.New("reload: log.qlog or log.qlog_every has changed (restart to apply it)")
	}
	if cfg.Tlshd.Mode != s.cfg.Tlshd.Mode || cfg.Tlshd.Socket != s.cfg.Tlshd.Socket {
		return nil, errors.New("reload: tlshd.mode or tlshd.socket has changed (restart to apply it)")
	}
	if err := s.reloadHTTPS(ctx, old, cfg); err != nil {
		return nil, fmt.Errorf("reload: https process: %w", err)
	}
	if err := s.helper.Reload(ctx, HelperConfig(cfg)); err != nil {
		return nil, errors.Join(fmt.Errorf("reload: handshake helper: %w", err), s.reloadHTTPS(ctx, cfg, old))
	}
	if err := s.reloadWorker(ctx, gather(cfg, text)); err != nil {
		return nil, errors.Join(fmt.Errorf("reload: packet process: %w", err), s.helper.Reload(ctx, HelperConfig(old)),
			s.reloadHTTPS(ctx, cfg, old))
	}
	s.cfg = cfg
	return warnings, nil
}

// reloadHTTPS comes first: the helper needs the files of names that are new.
func (s *Supervisor) reloadHTTPS(ctx context.Context, from, to *config.Config) error {
	if s.https == nil || reflect.DeepEqual(from.HTTPS, to.HTTPS) && from.Tlshd.User == to.Tlshd.User && from.Tlshd.Group == to.Tlshd.Group {
		return nil
	}
	return s.https.serve(ctx, to)
}

// reloadWorker has the packet process serve c from now on. Without one, the
// next will.
func (s *Supervisor) reloadWorker(ctx context.Context, c *content) error {
	s.mu.Lock()
	w := s.worker
	s.mu.Unlock()
	if w != nil {
		f, err := c.seal()
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := w.ch.call(ctx, message{Op: opReload}, f); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.content = c
	s.mu.Unlock()
	return nil
}

// stopWorker drains and ends the packet process.
func (s *Supervisor) stopWorker(w *worker) error {
	s.log.Info("draining", "timeout", drainTimeout)
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout+sendTimeout)
	defer cancel()
	_, err := w.ch.call(ctx, message{Op: opDrain, Timeout: drainTimeout}, nil)
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-w.done:
	case <-ctx.Done():
		_ = w.cmd.Process.Kill()
		<-w.done
	}
	if err != nil {
		s.log.Warn("sessions were cut off", "error", err)
	}
	return nil
}
