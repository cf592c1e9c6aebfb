package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A pair carries TCP connections over QUIC: what a client connects to, and what
// connects to the server.
type pair struct {
	name            string
	port            int    // TCP, for clients
	quic            string // UDP address of the gateway
	gateway, client *daemon
}

// A daemon is a process under way that writes what it does to standard error.
type daemon struct {
	cmd   *exec.Cmd
	lines chan string
	last  string
	done  chan struct{}
}

// daemonLimit is how long a daemon may take to start, and to end.
const daemonLimit = 20 * time.Second

func startDaemon(ctx context.Context, env []string, program string, args ...string) (*daemon, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = daemonLimit
	cmd.Env = append(os.Environ(), env...)
	logs, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &daemon{cmd: cmd, lines: make(chan string, 64), done: make(chan struct{})}
	go func() {
		in := bufio.NewScanner(logs)
		for in.Scan() {
			select {
			case d.lines <- in.Text():
			default: // nobody waits for a line any more
			}
		}
		_, _ = io.Copy(io.Discard, logs)
		_ = cmd.Wait() // it ends by the signal
		close(d.done)
	}()
	return d, nil
}

// wait returns the first line that holds text.
func (d *daemon) wait(text string) (string, error) {
	limit := time.NewTimer(daemonLimit)
	defer limit.Stop()
	for {
		select {
		case line := <-d.lines:
			if d.last = line; strings.Contains(line, text) {
				return line, nil
			}
		case <-d.done:
			return "", fmt.Errorf("%q ended: %s", d.cmd.Args, d.last)
		case <-limit.C:
			return "", fmt.Errorf("%q has not said %q within %s: %s", d.cmd.Args, text, daemonLimit, d.last)
		}
	}
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	<-d.done
}

func (d *daemon) cpu() float64 { return treeCPU(d.cmd.Process.Pid) }

// siteName is what the gateway of a site is called.
const siteName = "smbquic.test"

// startOurs runs `quic-fsgw serve` in front of a backend and `quic-fsgw connect`
// in front of that, helpers included. payload is the datagram size, 0: as large
// as the path carries. Profiles of the processes begin with profile, if not "".
func (r *runner) startOurs(ctx context.Context, dir, backend string, payload int, profile string) (p *pair, err error) {
	p = &pair{name: ours}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	var env []string
	if profile != "" {
		env = []string{"QUIC_FSGW_CPUPROFILE=" + profile + ".gateway"}
	}
	gateway, port, config, err := r.startServe(ctx, dir, payload, fmt.Sprintf(`  - name: office
    match: {alpn: smb, server_name: %s}
    access: public
    smb: {backends: ["%s"], min_dialect: "2.1"}
`, siteName, backend), env)
	if p.gateway = gateway; err != nil {
		return nil, err
	}
	p.quic = fmt.Sprintf("127.0.0.1:%d", port)
	if profile != "" {
		env = []string{"QUIC_FSGW_CPUPROFILE=" + profile + ".connect"}
	}
	p.client, err = startDaemon(ctx, env, r.fsgw, "connect", "-c", config, "--listen", "127.0.0.1:0", "--ca", filepath.Join(dir, "ca.crt"),
		"--server-name", siteName, fmt.Sprintf("smb://127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	return p, p.listensAt(" carries to ")
}

// startServe makes certificates in dir and runs `quic-fsgw serve` with routes,
// YAML. payload is as for startOurs.
func (r *runner) startServe(ctx context.Context, dir string, payload int, routes string, env []string) (d *daemon, port int, config string, err error) {
	if err = r.makeCertificates(ctx, dir); err != nil {
		return nil, 0, "", err
	}
	if port, err = freeUDPPort(); err != nil {
		return nil, 0, "", err
	}
	size := "auto"
	if payload > 0 {
		size = strconv.Itoa(payload)
	}
	config = filepath.Join(dir, "config.yaml")
	err = os.WriteFile(config, fmt.Appendf(nil, `listen: [{udp: "127.0.0.1:%d"}]
tlshd: {certificates: [{names: [%s], cert: %s/%[2]s.crt, key: %[3]s/%[2]s.key}]}
admin: {socket: %[3]s/admin.sock}
quic: {max_udp_payload: %s}
log: {level: info, format: text}
routes:
%s`, port, siteName, dir, size, routes), 0o644)
	if err != nil {
		return nil, 0, "", err
	}
	if d, err = startDaemon(ctx, env, r.fsgw, "serve", "-c", config); err != nil {
		return nil, 0, "", err
	}
	// It serves before its helper is there; the first handshake waits for that.
	_, err = d.wait("serving")
	return d, port, config, err
}

// makeCertificates makes a CA in dir and a certificate for the site.
func (r *runner) makeCertificates(ctx context.Context, dir string) error {
	for _, args := range [][]string{{"init"}, {"server", siteName}} {
		args = append(append([]string{"cert"}, args...), "--dir", dir)
		if out, err := exec.CommandContext(ctx, r.fsgw, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w: %s", args, err, out)
		}
	}
	return nil
}

// startQuicgo runs the same pair on quic-go.
func (r *runner) startQuicgo(ctx context.Context, backend string, payload int) (p *pair, err error) {
	p = &pair{name: "quic-go"}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	size := strconv.Itoa(payload)
	if p.gateway, err = startDaemon(ctx, nil, r.self, "forward", "--end", "server", "--to", backend, "--udp-payload", size); err != nil {
		return nil, err
	}
	line, err := p.gateway.wait("listening on ")
	if err != nil {
		return nil, err
	}
	if p.client, err = startDaemon(ctx, nil, r.self, "forward", "--end", "client", "--to", strings.TrimPrefix(line, "listening on "), "--udp-payload", size); err != nil {
		return nil, err
	}
	return p, p.listensAt("listening on ")
}

// listensAt finds the port in the line in which the client's end says it.
func (p *pair) listensAt(text string) error {
	line, err := p.client.wait(text)
	if err != nil {
		return err
	}
	for _, word := range strings.Fields(line) {
		if host, port, err := net.SplitHostPort(word); err == nil && host == "127.0.0.1" {
			p.port, err = strconv.Atoi(port)
			return err
		}
	}
	return fmt.Errorf("no address in %q", line)
}

func (p *pair) stop() {
	for _, d := range []*daemon{p.client, p.gateway} {
		if d != nil {
			d.stop()
		}
	}
}

func freeUDPPort() (int, error) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return c.LocalAddr().(*net.UDPAddr).Port, c.Close()
}

// A site is smbd with ways to it: directly, through both ends of quic-fsgw, and
// through a pair on quic-go.
type site struct {
	share *share
	dir   string
	pairs []*pair
}

// direct is the way to smbd without anything between.
const direct = "direct TCP"

// startSite starts smbd, with a file of size bytes to read, and the pairs.
func (r *runner) startSite(ctx context.Context, size int64, profile string) (s *site, err error) {
	s = &site{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.share, err = startShare(ctx, size); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "fsgw"); err != nil {
		return nil, err
	}
	backend := fmt.Sprintf("127.0.0.1:%d", s.share.port())
	our, err := r.startOurs(ctx, s.dir, backend, relayPayload, profile)
	if err != nil {
		return nil, err
	}
	s.pairs = append(s.pairs, our)
	theirs, err := r.startQuicgo(ctx, backend, relayPayload)
	if err != nil {
		return nil, err
	}
	s.pairs = append(s.pairs, theirs, &pair{name: direct, port: s.share.port()})
	return s, nil
}

func (s *site) close() {
	for _, p := range s.pairs {
		p.stop()
	}
	if s.share != nil {
		s.share.close()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

var errNoRate = errors.New("no rate in what the client wrote")
