package tlshd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// SpawnConfig says how to start a helper as a child process.
type SpawnConfig struct {
	Path   string    // the program; "": this one
	Args   []string  // hidden arguments, without argv[0], that make it call RunHelper
	Env    []string  // nil: an empty environment
	Stderr io.Writer // the helper's log; nil: os.Stderr
	Config Config
	// StartTimeout bounds the time until it has read its files; 0: 10 s.
	StartTimeout time.Duration
	Logger       *slog.Logger // nil: no log
	// HealthInterval is for Supervise: how often the helper is asked whether it
	// lives, and how long it may take to answer; 0: 2 s.
	HealthInterval time.Duration
}

// Process is a running helper, as its supervisor sees it.
type Process struct {
	cmd  *exec.Cmd
	sock *socket
	done chan struct{}
	err  error // of cmd.Wait; good once done is closed

	mu   sync.Mutex // one question at a time
	next uint64

	inherited []string // parts of its sandbox that were there before it
	hardening string
}

const (
	defaultStartTimeout = 10 * time.Second
	stopTimeout         = 2 * time.Second
)

// Spawn starts a helper and waits until it has read the files of its
// configuration and has put itself into its sandbox; an error of either is
// returned as the helper gave it. The helper ends when the Process does, when
// this process ends, or by Stop; ctx is for the start only.
//
// The control socket is the only thing it inherits; the configuration travels
// over that.
func Spawn(ctx context.Context, sc SpawnConfig) (*Process, error) {
	if sc.StartTimeout == 0 {
		sc.StartTimeout = defaultStartTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, sc.StartTimeout)
	defer cancel()
	p, err := start(&sc)
	if err != nil {
		return nil, err
	}
	if err := p.setUp(ctx, sc.Config); err != nil {
		p.kill()
		<-p.done
		if exit := p.Err(); errors.Is(err, io.EOF) && exit != nil {
			err = fmt.Errorf("it ended: %w (its log says why)", exit)
		}
		return nil, fmt.Errorf("tlshd: start the helper: %w", err)
	}
	return p, nil
}

func start(sc *SpawnConfig) (*Process, error) {
	path := sc.Path
	if path == "" {
		var err error
		if path, err = ownExecutable(); err != nil {
			return nil, fmt.Errorf("tlshd: find this program: %w", err)
		}
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	f, err := theirs.File()
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	defer f.Close()
	files := []*os.File{f}
	if name := sc.Config.UnsafeKeyLog; name != "" {
		k, err := openKeyLog(name)
		if err != nil {
			_ = ours.Close()
			return nil, err
		}
		defer k.Close()
		files = append(files, k)
	}
	build := func(level int) *exec.Cmd {
		cmd := exec.Command(path, sc.Args...)
		cmd.Args[0] = os.Args[0]                // what process lists show
		cmd.Env = append([]string{}, sc.Env...) // not nil, which would be ours
		cmd.Stderr = sc.Stderr
		if cmd.Stderr == nil {
			cmd.Stderr = os.Stderr
		}
		cmd.Stdout = cmd.Stderr
		cmd.ExtraFiles = files
		cmd.WaitDelay = stopTimeout
		cmd.SysProcAttr = sysProcAttr(level, &sc.Config)
		return cmd
	}
	p := &Process{sock: newSocket(ours), done: make(chan struct{})}
	started := make(chan error)
	go p.run(build, started)
	if err := <-started; err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("tlshd: start %s: %w", path, err)
	}
	return p, nil
}

// run starts the child and waits for it on one thread: the signal that a child
// gets when its parent dies is in truth for the death of the thread that made
// it. The thread also gives up new privileges for the child to inherit, so it
// is not used for anything else: a goroutine that ends locked takes it along.
func (p *Process) run(build func(int) *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	noNewPrivsThread()
	if restrictHelperThread() == nil {
		p.inherited = append(p.inherited, "landlock")
	}
	var err error
	for level := isolationLevels; level >= 0; level-- {
		p.cmd = build(level)
		if err = p.cmd.Start(); err == nil {
			unlimitLocking(p.cmd.Process.Pid)
			break
		}
	}
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	_ = p.sock.close()
	close(p.done)
}

// setUp greets the helper and gives it its configuration.
func (p *Process) setUp(ctx context.Context, cfg Config) error {
	var hello body
	hello.u8(attrVersion, protoVersion)
	hello.u8(attrRole, roleControl)
	if err := p.sock.write(msgHello, 0, false, hello); err != nil {
		return p.goneOr(err)
	}
	p.mu.Lock()
	_, err := p.await(ctx, msgCaps, 0)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	detail, err := p.configure(ctx, cfg)
	p.hardening = detail
	return err
}

// Hardening lists what the helper says its sandbox consists of.
func (p *Process) Hardening() []string { return append(strings.Fields(p.hardening), p.inherited...) }

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the helper has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns how the helper ended, nil while it runs.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Connect returns the end of a new connection for a packet process: Client.Attach
// takes it here, SendConn hands it to another process.
func (p *Process) Connect(ctx context.Context) (*net.UnixConn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	err = sendFD(theirs, func(oob []byte) error {
		as, err := p.ask(ctx, msgAttach, nil, oob)
		if err == nil {
			err = replyError(as)
		}
		return err
	})
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("tlshd: connect to the helper: %w", err)
	}
	return ours, nil
}

// Reload gives the helper a new configuration; after an error it goes on with
// the old one.
func (p *Process) Reload(ctx context.Context, cfg Config) error {
	_, err := p.configure(ctx, cfg)
	if err != nil {
		return fmt.Errorf("tlshd: reload: %w", err)
	}
	return nil
}

func (p *Process) configure(ctx context.Context, cfg Config) (string, error) {
	j, err := json.Marshal(cfg)
	if err != nil {
		return "", err
	}
	var b body
	b.bytes(attrJSON, j)
	as, err := p.ask(ctx, msgReload, b, nil)
	if err != nil {
		return "", err
	}
	if err := replyError(as); err != nil {
		return "", &ConfigError{err}
	}
	return as.str(attrDetail), nil
}

// Stats returns the helper's counters.
func (p *Process) Stats(ctx context.Context) (ServerStats, error) {
	var st ServerStats
	as, err := p.ask(ctx, msgStats, nil, nil)
	if err == nil {
		err = json.Unmarshal(as.bytes(attrJSON), &st)
	}
	if err != nil {
		return st, fmt.Errorf("tlshd: counters of the helper: %w", err)
	}
	return st, nil
}

func replyError(as attributes) error {
	if as.u32(attrStatus) != 0 {
		return errors.New(strings.TrimPrefix(as.str(attrDetail), "tlshd: "))
	}
	return nil
}

// ask sends a question on the control socket and returns the answer.
func (p *Process) ask(ctx context.Context, t msgType, b body, oob []byte) (attributes, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	if err := p.sock.writeFDs(t, p.next, false, b, oob); err != nil {
		return nil, p.goneOr(err)
	}
	return p.await(ctx, t, p.next)
}

// await reads until the answer comes, past answers that nobody waited for any
// more. p.mu is held.
func (p *Process) await(ctx context.Context, t msgType, request uint64) (attributes, error) {
	if err := p.sock.c.SetReadDeadline(time.Time{}); err != nil {
		return nil, p.goneOr(err)
	}
	interrupt := context.AfterFunc(ctx, func() { _ = p.sock.c.SetReadDeadline(time.Unix(1, 0)) })
	defer interrupt()
	for {
		m, err := p.sock.read()
		if err != nil {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("no answer to %v: %w", t, ctx.Err())
			}
			return nil, p.goneOr(err)
		}
		if m.request != request {
			continue
		}
		if m.typ != t {
			return nil, protocolError("%v is answered with %v", t, m.typ)
		}
		return parseAttributes(m.typ, clone(m.body))
	}
}

func (p *Process) goneOr(err error) error {
	if peerGone(err) || errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("%w: %w", ErrHelperGone, io.EOF)
	}
	return err
}

// Stop ends the helper: it is asked to by the end of its control socket, and
// killed when it does not within two seconds or ctx.
func (p *Process) Stop(ctx context.Context) error {
	_ = p.sock.close()
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	p.kill()
	<-p.done
	return nil
}

func (p *Process) kill() {
	_ = p.cmd.Process.Kill() // it is gone, or going
}
