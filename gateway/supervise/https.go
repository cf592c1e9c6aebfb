//go:build linux

package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/gateway/https"
	"github.com/quic-fsgw/quic-fsgw/gateway/kdcproxy"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// The process that ends TLS on TCP (package https). It inherits its
// configuration, its listening socket, and a pipe on which it says that the
// files for the helper are there; it begins as an account of its own that can
// write one directory and read what the configuration names for it.

const (
	httpsAccount = "quic-fsgw-https"
	httpsNumber  = 61445 // next to the helper's
	// httpsReady bounds the wait for its files; nothing of the network is in it.
	httpsReady = 20 * time.Second
)

// httpsConfig is what the process is told; nil: there is none.
func httpsConfig(h *config.HTTPS) *https.Config {
	if h == nil {
		return nil
	}
	out := &https.Config{}
	if a := h.ACME; a != nil {
		out.ACME = &https.ACME{Names: a.Names, Directory: a.Directory, CA: string(a.CA), Email: a.Email, Dir: string(a.Dir), RenewBefore: time.Duration(a.RenewBefore)}
	}
	if k := h.KDCProxy; k != nil {
		out.KDC = &https.KDC{Timeout: time.Duration(k.Timeout), Limit: k.Limit, Cert: string(k.Cert), Key: string(k.Key)}
		for _, r := range k.Realms {
			out.KDC.Realms = append(out.KDC.Realms, kdcproxy.Realm{Name: r.Name, KDCs: r.KDCs, Passwords: r.Passwords})
		}
	}
	return out
}

// httpsProcess keeps the process running, and exchanges it: its sandbox names the
// files that it may open, so that another configuration, or a renewed certificate
// in another place, is another process's. The old one goes when the new one is
// ready; both have the listening socket.
type httpsProcess struct {
	s        *Supervisor
	l        *os.File
	cancel   context.CancelFunc
	work     sync.WaitGroup
	requests chan httpsRequest
	over     chan struct{} // closed when nobody keeps it any more

	// Of the goroutine that keeps it.
	conf    *config.Config
	running *httpsRun // nil: none
	tried   map[string]os.FileInfo
}

// httpsRun is one process.
type httpsRun struct {
	ended  <-chan error
	cancel context.CancelFunc
	files  map[string]os.FileInfo // as they were before it began
}

// httpsRequest asks for another configuration.
type httpsRequest struct {
	conf *config.Config
	done chan error
}

// startHTTPS opens the socket and starts the process; it returns when the files
// that the helper needs are there.
func (s *Supervisor) startHTTPS(ctx context.Context) (stop func(), err error) {
	if s.cfg.HTTPS == nil {
		return func() {}, nil
	}
	p := &httpsProcess{s: s, conf: s.cfg, requests: make(chan httpsRequest), over: make(chan struct{})}
	l, err := net.Listen("tcp", p.conf.HTTPS.Listen.AddrPort().String())
	if err != nil {
		return nil, fmt.Errorf("https.listen: %w", err)
	}
	p.l, err = l.(*net.TCPListener).File()
	_ = l.Close() // the file keeps it open
	if err != nil {
		return nil, fmt.Errorf("https.listen: %w", err)
	}
	ctx, p.cancel = context.WithCancel(ctx)
	stop = func() {
		p.cancel()
		p.work.Wait()
		_ = p.l.Close()
	}
	if err := p.exchange(ctx, p.conf); err != nil {
		stop()
		return nil, fmt.Errorf("https process: %w", err)
	}
	s.https = p
	p.work.Go(func() { p.keep(ctx) })
	return stop, nil
}

// serve has the process serve another configuration.
func (p *httpsProcess) serve(ctx context.Context, conf *config.Config) error {
	r := httpsRequest{conf, make(chan error, 1)}
	select {
	case p.requests <- r:
		return <-r.done // within httpsReady
	case <-p.over:
		return errors.New("https process: the gateway ends")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exchange starts a process, and ends the one before when it is ready. After an
// error all is as it was.
func (p *httpsProcess) exchange(ctx context.Context, conf *config.Config) error {
	run := &httpsRun{files: look(httpsFiles(conf))}
	ctx, run.cancel = context.WithCancel(ctx)
	var err error
	if run.ended, err = p.start(ctx, conf); err != nil {
		run.cancel()
		return err
	}
	if old := p.running; old != nil {
		old.cancel()
		p.work.Go(func() { <-old.ended })
	}
	p.conf, p.running = conf, run
	return nil
}

// httpsFiles are the files that a change of makes another process.
func httpsFiles(conf *config.Config) []string {
	if k := conf.HTTPS.KDCProxy; k != nil && k.Cert != "" {
		return []string{string(k.Cert), string(k.Key)}
	}
	return nil
}

// keep starts the process again when it ends, or its files have changed.
func (p *httpsProcess) keep(ctx context.Context) {
	defer close(p.over)
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	b := backoff{most: time.Minute}
	began := time.Now()
	for {
		var ended <-chan error
		if p.running != nil {
			ended = p.running.ended
		}
		select {
		case <-ctx.Done():
			if p.running != nil {
				p.running.cancel()
				<-ended
			}
			return
		case r := <-p.requests:
			r.done <- p.exchange(ctx, r.conf)
			continue
		case <-tick.C:
			if p.running != nil {
				p.lookAgain(ctx)
				continue
			}
		case err := <-ended:
			if ctx.Err() != nil {
				return
			}
			p.running.cancel()
			p.running = nil
			p.s.log.Error("https process ended, starting it again", "error", exitError(err))
			if time.Since(began) > time.Minute {
				b.reset()
			}
			b.wait(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		began = time.Now()
		if err := p.exchange(ctx, p.conf); err != nil {
			p.s.log.Error("https process not started", "error", err)
			b.wait(ctx)
		}
	}
}

// lookAgain exchanges the process when its files have changed.
func (p *httpsProcess) lookAgain(ctx context.Context) {
	now := look(httpsFiles(p.conf))
	if sameFiles(now, p.running.files) || sameFiles(now, p.tried) {
		return
	}
	p.tried = now
	if err := p.exchange(ctx, p.conf); err != nil {
		p.s.log.Error("a file of the https process has changed but can not be used, the old one stays", "error", err)
	}
}

func exitError(err error) error {
	if err == nil {
		return errors.New("it ended by itself")
	}
	return err
}

// start runs the process and waits until it is ready.
func (p *httpsProcess) start(ctx context.Context, conf *config.Config) (<-chan error, error) {
	cred, err := p.credential(conf)
	if err != nil {
		return nil, err
	}
	if err := p.directory(conf, cred); err != nil {
		return nil, err
	}
	cmd, started, err := p.launch(ctx, conf.HTTPS, cred)
	if err != nil && cred != nil && conf.HTTPS.User == "" && errors.Is(err, os.ErrPermission) {
		p.s.log.Warn("the https process stays root: it may not become another user (give it CAP_SETUID and CAP_SETGID)", "error", err)
		cmd, started, err = p.launch(ctx, conf.HTTPS, nil)
	}
	if err != nil {
		return nil, err
	}
	p.s.log.Info("https process started", "pid", cmd.Process.Pid, "address", string(conf.HTTPS.Listen))
	return started, nil
}

// credential is who the process is; nil: who we are. Its group is the helper's
// where that has a user of its own, so that it can read what is published.
func (p *httpsProcess) credential(conf *config.Config) (*syscall.Credential, error) {
	h, t := conf.HTTPS, &conf.Tlshd
	if os.Geteuid() != 0 {
		if h.User != "" && !isCurrentUser(h.User) {
			return nil, fmt.Errorf("https.user: only root can become user %q", h.User)
		}
		return nil, nil
	}
	uid, gid := tlshd.Account(httpsAccount, httpsNumber)
	var err error
	if h.User != "" {
		if uid, gid, err = userIDs(h.User); err != nil {
			return nil, fmt.Errorf("https.user: %w", err)
		}
	}
	switch {
	case t.Group != "":
		gid, err = groupID(t.Group)
	case t.User != "":
		_, gid, err = userIDs(t.User)
	}
	if err != nil {
		return nil, fmt.Errorf("https: group of the helper: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{uint32(gid)}}, nil
}

// directory makes the directory of the certificates, if it is not there. Its group
// is the helper's where that has one of its own; else a group that an administrator
// has chosen stays, and tmpfiles.d's is that of the helper's account.
func (p *httpsProcess) directory(conf *config.Config, cred *syscall.Credential) error {
	a := conf.HTTPS.ACME
	if a == nil {
		return nil
	}
	dir := string(a.Dir)
	_, err := os.Stat(dir)
	made := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("https.acme.dir: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil || cred == nil {
		return err
	}
	group := made || conf.Tlshd.User != "" || conf.Tlshd.Group != ""
	if st, ok := info.Sys().(*syscall.Stat_t); ok && (st.Uid != cred.Uid || group && st.Gid != cred.Gid) {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return fmt.Errorf("https.acme.dir: %w (chown %d:%d %s)", err, cred.Uid, cred.Gid, dir)
		}
	}
	return nil
}

// httpsRules are the files that the process may open.
func httpsRules(h *config.HTTPS) tlshd.FileRules {
	r := tlshd.FileRules{Read: []string{"/proc", "/sys", "/dev/null", "/dev/urandom", "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/services",
		"/etc/localtime", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
		"/usr/lib", "/usr/share/zoneinfo", "/lib", "/lib64", "/run/systemd/resolve"}}
	if a := h.ACME; a != nil {
		r.Write = append(r.Write, string(a.Dir))
		if a.CA != "" {
			r.Read = append(r.Read, string(a.CA))
		}
	}
	if k := h.KDCProxy; k != nil && k.Cert != "" {
		r.Read = append(r.Read, string(k.Cert), string(k.Key))
	}
	return r
}

func (p *httpsProcess) launch(ctx context.Context, h *config.HTTPS, cred *syscall.Credential) (*exec.Cmd, <-chan error, error) {
	text, err := json.Marshal(httpsConfig(h))
	if err != nil {
		return nil, nil, err
	}
	conf, confW, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer conf.Close()
	ready, readyW, err := os.Pipe()
	if err != nil {
		_ = confW.Close()
		return nil, nil, err
	}
	defer ready.Close()
	const exe = "/proc/self/exe"
	cmd := exec.CommandContext(ctx, exe, p.s.conf.HTTPSArgs...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{conf, p.l, readyW}
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "QUIC_FSGW_") }) // it writes no profile
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, Credential: cred}
	if cred != nil {
		// As the helper: keys stay root's alone. Landlock leaves it the files that
		// the configuration names for it.
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_DAC_READ_SEARCH}
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = sendTimeout
	restrict := httpsRules(h)
	restrict.Read = append(restrict.Read, exe)
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // as in Supervisor.launchAs
		if err := restrict.RestrictThread(); err != nil {
			p.s.log.Warn("the https process is not kept from opening files", "error", err)
		}
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	err = <-started
	_ = readyW.Close()
	if err == nil {
		_ = confW.SetWriteDeadline(time.Now().Add(sendTimeout))
		_, err = confW.Write(text)
	}
	_ = confW.Close()
	if err != nil {
		return nil, nil, err
	}
	_ = ready.SetReadDeadline(time.Now().Add(httpsReady))
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		_ = cmd.Process.Kill()
		return nil, nil, fmt.Errorf("it did not become ready: %w", errors.Join(err, <-ended))
	}
	return cmd, ended, nil
}

// Descriptors of the process, in the order of launch.
const (
	httpsConfFD = 3 + iota
	httpsListenFD
	httpsReadyFD
)

const maxHTTPSConfig = 1 << 20

// HTTPS is the process itself.
func HTTPS(ctx context.Context, log *slog.Logger) error {
	sandbox := tlshd.HardenPacketProcess()
	f := os.NewFile(httpsConfFD, "config")
	b, err := io.ReadAll(io.LimitReader(f, maxHTTPSConfig))
	_ = f.Close()
	var cfg https.Config
	if err == nil {
		err = json.Unmarshal(b, &cfg)
	}
	if err != nil {
		return fmt.Errorf("https process: no configuration (this command is run by serve): %w", err)
	}
	lf := os.NewFile(httpsListenFD, "listener")
	l, err := net.FileListener(lf)
	_ = lf.Close()
	if err != nil {
		return fmt.Errorf("https process: %w", err)
	}
	log.Info("https process runs", "uid", strconv.Itoa(os.Getuid()), "sandbox", sandbox)
	ready := os.NewFile(httpsReadyFD, "ready")
	cfg.Ready = func() {
		_, _ = ready.Write([]byte{'R'}) // who does not read it is gone
		_ = ready.Close()
	}
	return https.Serve(ctx, l, cfg, log)
}

// fetched are the certificates that the https process publishes.
func fetched(cfg *config.Config) []tlshd.Certificate {
	if cfg.HTTPS == nil || cfg.HTTPS.ACME == nil {
		return nil
	}
	var out []tlshd.Certificate
	for _, name := range cfg.HTTPS.ACME.Names {
		file := filepath.Clean(cfg.HTTPS.ACME.File(name))
		out = append(out, tlshd.Certificate{Names: []string{name}, Cert: file, Key: file})
	}
	return out
}
