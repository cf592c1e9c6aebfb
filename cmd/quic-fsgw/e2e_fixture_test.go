//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-fsgw/quic-fsgw/gateway"
	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
)

// The fixture of the end-to-end tests: the built program, run as users run it.

// e2eDeadline bounds every wait for something that should happen at once.
const e2eDeadline = 20 * time.Second

// built is the program, built once for all tests.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// program returns the path of the built program, race detector included where
// the tests have it.
func program(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "quic-fsgw-test"); built.err != nil {
			return
		}
		args, cgo := []string{"build", "-o", filepath.Join(built.dir, "quic-fsgw")}, "CGO_ENABLED=0"
		if raceDetector() {
			args, cgo = append(args, "-race"), "CGO_ENABLED=1"
		}
		cmd := exec.Command("go", append(args, ".")...)
		cmd.Env = append(os.Environ(), cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "quic-fsgw")
}

// raceDetector tells whether the tests, and so the program, have it.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// shortDir is t.TempDir with a name short enough for Unix sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fsgw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// authority is a CA made by `quic-fsgw cert`, and what it has issued.
type authority struct {
	t   testing.TB
	dir string
	CA  string // certificate file
}

func newAuthority(t testing.TB, args ...string) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.CA = filepath.Join(a.dir, "ca.crt")
	a.run(append([]string{"init"}, args...)...)
	return a
}

func (a *authority) run(args ...string) {
	a.t.Helper()
	var out bytes.Buffer
	all := append([]string{"cert"}, args...)
	if code := run(context.Background(), stdio{&out, &out}, append(all, "--dir", a.dir)); code != 0 {
		a.t.Fatalf("quic-fsgw %q: exit status %d\n%s", all, code, out.String())
	}
}

// server issues a certificate for names, unless there is one for the first of
// them, and returns its files.
func (a *authority) server(names ...string) (cert, key string) {
	a.t.Helper()
	base := filepath.Join(a.dir, fileName(names[0]))
	if _, err := os.Stat(base + ".crt"); err != nil {
		a.run(append([]string{"server"}, names...)...)
	}
	return base + ".crt", base + ".key"
}

// client issues a client certificate and returns its files.
func (a *authority) client(name string, args ...string) (cert, key string) {
	a.t.Helper()
	a.run(append([]string{"client", name}, args...)...)
	base := filepath.Join(a.dir, fileName(name))
	return base + ".crt", base + ".key"
}

// gatewaySetup describes a gateway to run.
type gatewaySetup struct {
	Authority *authority // issues its certificate; nil: one of its own
	Names     []string   // of its certificate
	CertNames []string   // what the certificate says instead of Names
	Tlshd     string     // further lines of the tlshd section, indented by two
	Log       string     // log section's braces without level and format, such as ", audit: FILE"
	Rest      string     // access, routes, quic, limits: sections of YAML
	Admin     string     // admin section's braces beside the socket, such as ", http: ADDR"
	Wrap      []string   // a command that runs serve, such as strace
}

// gatewayProcess is a running `quic-fsgw serve`.
type gatewayProcess struct {
	t         testing.TB
	Authority *authority
	Port      int
	Addr      string // 127.0.0.1:port, UDP
	Dir       string
	Config    string // file
	Socket    string // admin
	Log       *logLines
	Pid       int // of the supervisor

	setup   gatewaySetup
	cmd     *exec.Cmd
	done    chan struct{}
	stopped bool
}

// startGateway runs `quic-fsgw serve -c FILE` and waits until it serves. At the
// end of the test it is stopped by SIGTERM and must exit with status 0.
func startGateway(t testing.TB, s gatewaySetup) *gatewayProcess {
	t.Helper()
	if s.Authority == nil {
		s.Authority = newAuthority(t)
	}
	g := &gatewayProcess{t: t, Authority: s.Authority, Port: freeUDPPort(t), Dir: shortDir(t), setup: s, Log: newLogLines(), done: make(chan struct{})}
	g.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(g.Port))
	g.Config, g.Socket = filepath.Join(g.Dir, "config.yaml"), filepath.Join(g.Dir, "admin.sock")
	if s.CertNames == nil {
		s.CertNames = s.Names
	}
	cert, key := s.Authority.server(s.CertNames...)
	head := fmt.Sprintf("listen:\n  - udp: %q\ntlshd:\n  certificates:\n    - names: [%s]\n      cert: %s\n      key: %s\n%s",
		g.Addr, strings.Join(s.Names, ", "), cert, key, s.Tlshd)
	tail := fmt.Sprintf("admin: {socket: %s%s}\nlog: {level: info, format: json%s}\n", g.Socket, s.Admin, s.Log)
	g.write(head + tail + s.Rest)
	words := append(slices.Clone(s.Wrap), program(t), "serve", "-c", g.Config)
	g.cmd = exec.Command(words[0], words[1:]...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	g.cmd.Stdout, g.cmd.Stderr = w, w
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = g.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	g.Pid = g.cmd.Process.Pid
	go func() {
		g.Log.readFrom(r) // until the last process that has the pipe is gone
		g.cmd.Wait()
		close(g.done)
	}()
	t.Cleanup(g.cleanup)
	g.waitReady()
	return g
}

// write replaces the configuration file.
func (g *gatewayProcess) write(yaml string) {
	g.t.Helper()
	if err := os.WriteFile(g.Config, []byte(yaml), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// waitReady waits until the admin socket answers and the helper is connected.
func (g *gatewayProcess) waitReady() {
	g.t.Helper()
	g.Log.wait(g.t, 0, "the packet process to serve", func(l logLine) bool { return l.Msg == "serving" })
	g.Log.wait(g.t, 0, "the helper to be connected", func(l logLine) bool { return l.Msg == "handshake helper connected" })
	g.Status()
}

// Status asks the admin socket.
func (g *gatewayProcess) Status() *gateway.Status {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), e2eDeadline)
	defer cancel()
	r, err := admin.Call(ctx, g.Socket, admin.Request{Command: admin.CommandStatus})
	if err != nil || !r.OK {
		g.t.Fatalf("status: %v %+v\n%s", err, r, g.Log.tail(20))
	}
	var st gateway.Status
	if err := json.Unmarshal(r.Status, &st); err != nil {
		g.t.Fatal(err)
	}
	return &st
}

// Stop ends the gateway by SIGTERM, which must drain it and give status 0.
func (g *gatewayProcess) Stop() {
	g.t.Helper()
	if g.stopped {
		return
	}
	g.stopped = true
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		g.t.Errorf("SIGTERM: %v", err)
	}
	select {
	case <-g.done:
	case <-time.After(45 * time.Second):
		g.t.Errorf("serve has not ended 45 s after SIGTERM\n%s", g.Log.tail(20))
		syscall.Kill(-g.Pid, syscall.SIGKILL) // the group that this test started
		<-g.done
		return
	}
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		g.t.Errorf("serve: exit status %d after SIGTERM\n%s", code, g.Log.tail(20))
	}
	for _, l := range g.Log.since(0) {
		if strings.HasPrefix(l.Raw, "panic:") || strings.Contains(l.Raw, "DATA RACE") || strings.HasPrefix(l.Raw, "fatal error:") {
			g.t.Errorf("serve wrote %q\n%s", l.Raw, g.Log.tail(60))
			break
		}
	}
}

func (g *gatewayProcess) cleanup() {
	g.Stop()
	if g.t.Failed() {
		g.t.Logf("the gateway's log ends with:\n%s", g.Log.tail(40))
	}
}

// Child returns the process id of a process that serve has started, by its word.
func (g *gatewayProcess) Child(word string) int {
	g.t.Helper()
	return childOf(g.t, g.Pid, word)
}

// childOf returns the process id of a process that another has started, by its word.
func childOf(t testing.TB, parent int, word string) int {
	t.Helper()
	deadline := time.Now().Add(e2eDeadline)
	for {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
		for _, f := range tasks {
			b, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			for _, field := range strings.Fields(string(b)) {
				cmdline, _ := os.ReadFile("/proc/" + field + "/cmdline")
				if args := strings.Split(string(cmdline), "\x00"); len(args) > 1 && args[1] == word {
					pid, _ := strconv.Atoi(field)
					return pid
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d has no child %q", parent, word)
		}
		poll(t)
	}
}

// poll spaces out looks at what cannot be waited for.
func poll(t testing.TB) {
	t.Helper()
	select {
	case <-time.After(10 * time.Millisecond):
	case <-t.Context().Done():
	}
}

// memory returns a process's resident set in bytes, now and at its peak.
func memory(t testing.TB, pid int) (now, peak int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			now = kb << 10
		} else if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			peak = kb << 10
		}
	}
	return now, peak
}

// resetPeak makes the peak of memory begin anew.
func resetPeak(t testing.TB, pid int) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

func freeUDPPort(t testing.TB) int {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}

func freeTCPPort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// logLine is one line of a process's log.
type logLine struct {
	Raw    string
	Msg    string
	Fields map[string]any // nil: not JSON
}

// str returns a field's text, "" if it is not there.
func (l logLine) str(key string) string {
	s, _ := l.Fields[key].(string)
	return s
}

// logLines collects the log of a process and lets tests wait for lines.
type logLines struct {
	mu    sync.Mutex
	lines []logLine
	more  chan struct{} // closed at the next line
}

func newLogLines() *logLines { return &logLines{more: make(chan struct{})} }

func (ls *logLines) readFrom(r io.ReadCloser) {
	defer r.Close()
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		raw, err := in.ReadString('\n')
		if raw = strings.TrimRight(raw, "\n"); raw != "" {
			l := logLine{Raw: raw}
			if json.Unmarshal([]byte(raw), &l.Fields) == nil {
				l.Msg, _ = l.Fields["msg"].(string)
			}
			ls.mu.Lock()
			ls.lines = append(ls.lines, l)
			close(ls.more)
			ls.more = make(chan struct{})
			ls.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// mark is a position: the lines that come from now on.
func (ls *logLines) mark() int {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.lines)
}

func (ls *logLines) since(mark int) []logLine {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return append([]logLine(nil), ls.lines[mark:]...)
}

// wait returns the first line from mark on that matches.
func (ls *logLines) wait(t testing.TB, mark int, what string, match func(logLine) bool) logLine {
	t.Helper()
	timeout := time.NewTimer(e2eDeadline)
	defer timeout.Stop()
	for {
		ls.mu.Lock()
		lines, more := ls.lines[mark:], ls.more
		ls.mu.Unlock()
		for _, l := range lines {
			if match(l) {
				return l
			}
		}
		mark += len(lines)
		select {
		case <-more:
		case <-timeout.C:
			t.Fatalf("no log line for %s within %s; the last ones:\n%s", what, e2eDeadline, ls.tail(20))
		}
	}
}

func (ls *logLines) tail(n int) string {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	var b strings.Builder
	for _, l := range ls.lines[max(0, len(ls.lines)-n):] {
		b.WriteString(l.Raw + "\n")
	}
	return b.String()
}

// cliResult is how a command of the program ended.
type cliResult struct {
	Code     int
	Out, Err string
	Took     time.Duration
}

// cli runs a command of the program to its end, or kills it after limit. env
// are further variables.
func cli(t testing.TB, limit time.Duration, env []string, args ...string) cliResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	start := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		t.Fatalf("quic-fsgw %q: %v after %s\n%s", args, err, time.Since(start), errOut.String())
	}
	return cliResult{cmd.ProcessState.ExitCode(), out.String(), errOut.String(), time.Since(start)}
}

// mustCLI is cli, and fails the test unless the command succeeds.
func mustCLI(t testing.TB, limit time.Duration, env []string, args ...string) cliResult {
	t.Helper()
	r := cli(t, limit, env, args...)
	if r.Code != 0 {
		t.Fatalf("quic-fsgw %q: exit status %d\n%s%s", args, r.Code, r.Out, r.Err)
	}
	return r
}

// service is a command that runs until it is stopped, such as connect.
type service struct {
	Log  *logLines
	cmd  *exec.Cmd
	done chan struct{}
}

// startService runs a command and stops it by SIGTERM at the end of the test.
func startService(t testing.TB, args ...string) *service {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &service{Log: newLogLines(), cmd: exec.Command(program(t), args...), done: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = w, w
	err = s.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		s.Log.readFrom(r)
		s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.done:
			if code := s.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("quic-fsgw %q: exit status %d after SIGTERM\n%s", args, code, s.Log.tail(20))
			}
		case <-time.After(e2eDeadline):
			t.Errorf("quic-fsgw %q has not ended %s after SIGTERM\n%s", args, e2eDeadline, s.Log.tail(20))
			s.cmd.Process.Kill()
			<-s.done
		}
		if t.Failed() {
			t.Logf("quic-fsgw %q wrote:\n%s", args, s.Log.tail(20))
		}
	})
	return s
}

// startConnect runs `quic-fsgw connect` and returns the TCP port it serves.
func startConnect(t testing.TB, url string, flags ...string) int {
	t.Helper()
	port := freeTCPPort(t)
	s := startService(t, append([]string{"connect", "--listen", fmt.Sprintf("127.0.0.1:%d", port), url}, flags...)...)
	s.Log.wait(t, 0, "connect to listen", func(l logLine) bool { return strings.Contains(l.Raw, "carries to") })
	return port
}

// randomBytesFile makes a file of n octets that do not compress and returns
// their SHA-256. The octets are a keyed stream, cheap to make.
func randomBytesFile(t testing.TB, path string, n int64) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, h), newOctets(), n); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fileHash returns a file's SHA-256.
func fileHash(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// rate writes an amount and a time as people do.
func rate(n int64, d time.Duration) string {
	return fmt.Sprintf("%d MiB in %.2f s, %.0f MB/s", n>>20, d.Seconds(), float64(n)/1e6/d.Seconds())
}
