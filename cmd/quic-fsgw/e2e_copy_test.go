//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/smb/sambatest"
)

// The file commands and connect, through a gateway that wants certificates.

// startSecureSMB is smbd behind a gateway whose route wants certificates of its
// own CA, and the flags with which a client command gets in.
func startSecureSMB(t testing.TB) (s *smbSite, flags []string) {
	t.Helper()
	s = &smbSite{smbd: sambatest.Start(t, sambatest.Options{})}
	a := newAuthority(t)
	s.gatewayProcess = startGateway(t, gatewaySetup{
		Authority: a, Names: []string{sambatest.Host}, Tlshd: fmt.Sprintf("  client_ca: [%s]\n", a.CA),
		Rest: fmt.Sprintf("access:\n  staff:\n    client_certificate: required\n    allow: [{any: true}]\nroutes:\n  - name: office\n    match: {alpn: smb, server_name: %s}\n    access: staff\n    smb: {backends: [%q]}\n",
			sambatest.Host, s.smbd.Addr),
	})
	cert, key := a.client("laptop.test")
	return s, []string{"--ca", a.CA, "--cert", cert, "--key", key, "--server-name", sambatest.Host}
}

// url names a file of the share.
func (s *smbSite) url(name string) string {
	return fmt.Sprintf("smb://%s@%s/%s/%s", sambatest.User, s.Addr, sambatest.Share, name)
}

var smbPassword = []string{"QUIC_FSGW_PASSWORD=" + sambatest.Password}

func TestCopySMB(t *testing.T) {
	s, flags := startSecureSMB(t)
	with := func(args ...string) []string { return append(args, flags...) }
	dir := t.TempDir()
	pid := s.Child(workerWord)
	const size = 1 << 30
	local, back := filepath.Join(dir, "up"), filepath.Join(dir, "back")
	want := randomBytesFile(t, local, size)

	mustCLI(t, e2eDeadline, smbPassword, with("mkdir", s.url("d"))...)
	up := mustCLI(t, 2*time.Minute, smbPassword, with("cp", local, s.url("d/file"))...)
	sameHash(t, want, s.path("d", "file"))
	t.Logf("up: %s", rate(size, up.Took))
	if up.Out != "" || up.Err != "" {
		t.Errorf("cp without a terminal wrote %q %q", up.Out, up.Err)
	}
	shown, took := onTerminal(t, 2*time.Minute, smbPassword, with("cp", s.url("d/file"), back)...)
	sameHash(t, want, back)
	t.Logf("down: %s", rate(size, took))
	// 42% 430 MiB of 1.0 GiB  210 MiB/s  0:02 left  file
	if !regexp.MustCompile(`\d+% [\d.]+ [KMG]iB of 1\.0 GiB +[\d.]+ [KMG]iB/s +\d+:\d\d left +.*file`).MatchString(shown) {
		t.Errorf("on a terminal cp wrote %q", shown)
	}
	if !strings.HasSuffix(shown, "\r\x1b[K") {
		t.Errorf("the progress line stays on the terminal: %q", shown[max(0, len(shown)-80):])
	}
	if out := mustCLI(t, e2eDeadline, smbPassword, with("ls", s.url("d"))...).Out; out != "file\n" {
		t.Errorf("ls wrote %q", out)
	}
	if out := mustCLI(t, e2eDeadline, smbPassword, with("ls", "-l", s.url("d"))...).Out; !strings.Contains(out, fmt.Sprint(size)) {
		t.Errorf("ls -l wrote %q", out)
	}
	small := filepath.Join(dir, "small")
	hash := randomBytesFile(t, small, 100_000)
	mustCLI(t, e2eDeadline, smbPassword, with("cp", small, s.url("d"))...)
	cat := filepath.Join(dir, "cat")
	if err := os.WriteFile(cat, []byte(mustCLI(t, e2eDeadline, smbPassword, with("cat", s.url("d/small"))...).Out), 0o644); err != nil {
		t.Fatal(err)
	}
	sameHash(t, hash, cat)
	if r := cli(t, e2eDeadline, []string{"QUIC_FSGW_PASSWORD=wrong"}, with("ls", s.url("d"))...); r.Code != 1 || !strings.Contains(r.Err, "refused") {
		t.Errorf("wrong password: exit status %d, %q", r.Code, r.Err)
	}
	if r := cli(t, e2eDeadline, smbPassword, with("cat", s.url("d/none"))...); r.Code != 1 || !strings.HasPrefix(r.Err, "quic-fsgw: cat: ") {
		t.Errorf("no such file: exit status %d, %q", r.Code, r.Err)
	}
	mustCLI(t, e2eDeadline, smbPassword, with("rm", "-r", s.url("d"))...)
	if _, err := os.Stat(s.path("d")); !os.IsNotExist(err) {
		t.Errorf("after rm -r: %v", err)
	}
	now, peak := memory(t, pid)
	t.Logf("packet process: %d MiB resident, %d MiB at its peak", now>>20, peak>>20)
	if peak > 256<<20 {
		t.Errorf("the packet process took %d MiB", peak>>20)
	}
}

// onTerminal runs a command with a terminal for its standard error and returns
// what it wrote there.
func onTerminal(t testing.TB, limit time.Duration, env []string, args ...string) (shown string, took time.Duration) {
	t.Helper()
	master, slave := openTerminal(t)
	defer master.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = slave
	var out bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(&out, master) // ends with EIO when nobody has the other end open
	}()
	start := time.Now()
	err := cmd.Run()
	took = time.Since(start)
	slave.Close()
	select {
	case <-done:
	case <-time.After(e2eDeadline):
		t.Fatal("somebody keeps the terminal open")
	}
	if err != nil {
		t.Fatalf("quic-fsgw %q: %v\n%s", args, err, out.String())
	}
	return out.String(), took
}

// openTerminal makes a terminal of 120 columns: what is written to slave can be
// read from master.
func openTerminal(t testing.TB) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// smbclient on TCP, carried by `quic-fsgw connect`.
func TestConnectSMB(t *testing.T) {
	s, flags := startSecureSMB(t)
	port := startConnect(t, "smb://"+s.Addr, flags...)
	g := sambatest.TCP(port)
	g.Work, g.Limit = t.TempDir(), 2*time.Minute
	const size = 256 << 20
	want := randomBytesFile(t, filepath.Join(g.Work, "up"), size)
	start := time.Now()
	sambatest.MustSMBClient(t, g, "put /mnt/up up")
	t.Logf("put: %s", rate(size, time.Since(start)))
	sameHash(t, want, s.path("up"))
	start = time.Now()
	sambatest.MustSMBClient(t, g, "get up /mnt/back", "ls")
	t.Logf("get: %s", rate(size, time.Since(start)))
	sameHash(t, want, filepath.Join(g.Work, "back"))
}
