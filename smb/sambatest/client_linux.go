package sambatest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Target is where and how Samba's clients connect.
type Target struct {
	Port     int
	QUIC     bool          // over QUIC, otherwise TCP
	CA       string        // QUIC: PEM file with the CA that signed a certificate for Host; "": any certificate goes
	User     string        // default User
	Password string        // default Password
	KDC      *KDC          // log on by its tickets alone; nil: by the password and NTLM
	Options  []string      // smb.conf lines: "client signing = required", "client max protocol = SMB2_10"
	Limit    time.Duration // default 60 s
	Work     string        // directory the client sees as /mnt (local files: /mnt/name); default a temporary one
}

// TCP and QUIC are targets on loopback. ca may be "".
func TCP(port int) Target { return Target{Port: port} }

// QUIC returns a target for SMB over QUIC.
func QUIC(port int, ca string) Target { return Target{Port: port, QUIC: true, CA: ca} }

// args are the options common to Samba's client programs.
func (g *Target) args(t testing.TB) []string {
	t.Helper()
	if g.Work == "" {
		g.Work = t.TempDir()
	}
	if g.Limit == 0 {
		g.Limit = time.Minute
	}
	if g.User == "" {
		g.User, g.Password = User, Password
	}
	transport, verify := "tcp", "no_check"
	options := append([]string(nil), g.Options...)
	if g.QUIC {
		transport = "quic"
		if g.CA != "" {
			verify = "ca_and_name"
			pem, err := os.ReadFile(g.CA)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(g.Work, "ca.pem"), pem, 0o644); err != nil {
				t.Fatal(err)
			}
			options = append(options, "tls cafile = /mnt/ca.pem")
		}
		options = append(options, "tls verify peer = "+verify)
	}
	options = append(options, fmt.Sprintf("client smb transports = %s:%d", transport, g.Port))
	who := []string{"-U", g.User + "%" + g.Password}
	if g.KDC != nil {
		g.KDC.lend(t, g.Work, g.KDC.Tickets(t))
		who = []string{"--use-krb5-ccache=FILE:/mnt/tickets"}
		options = append(options, "client use kerberos = required")
	} else {
		options = append(options, "client use kerberos = off")
	}
	args := append([]string{"//" + Host + "/" + Share, "-s", "/dev/null"}, who...)
	for _, o := range options {
		args = append(args, "--option="+o)
	}
	return args
}

// smbclientArgs gives one request as long as the whole run. Alone it would be
// 20 s, and smbclient queues all of an upload's requests at once: how long the last one
// takes depends on the machine.
func (g *Target) smbclientArgs(t testing.TB) []string {
	t.Helper()
	args := g.args(t)
	return append(args, fmt.Sprintf("--timeout=%d", int(g.Limit.Seconds())))
}

// SMBClient runs smbclient with the commands joined by semicolons.
func SMBClient(t testing.TB, g Target, commands ...string) Output {
	t.Helper()
	args := append([]string{"smbclient"}, g.smbclientArgs(t)...)
	return run(t, g.Work, g.Limit, append(args, "-c", strings.Join(commands, "; "))...)
}

// MustSMBClient is SMBClient, and fails the test unless smbclient succeeds.
func MustSMBClient(t testing.TB, g Target, commands ...string) string {
	t.Helper()
	out := SMBClient(t, g, commands...)
	if out.Code != 0 {
		t.Fatalf("smbclient %q: exit status %d\n%s", commands, out.Code, tail(out.Text))
	}
	return out.Text
}

// Client is an smbclient under way.
type Client struct {
	// Lines are what it writes, standard output and error; closed at its end.
	Lines <-chan string

	cmd    *exec.Cmd
	exited chan struct{}
}

// StartSMBClient runs smbclient with the commands joined by semicolons. It is
// killed at g.Limit or the end of the test. Its output has to be read from Lines.
func StartSMBClient(t testing.TB, g Target, commands ...string) *Client {
	t.Helper()
	// Without stdbuf, what it writes to a pipe comes when it ends.
	args := append([]string{"stdbuf", "-oL", "smbclient"}, g.smbclientArgs(t)...)
	ctx, cancel := context.WithTimeout(context.Background(), g.Limit)
	cmd := command(t, ctx, g.Work, append(args, "-c", strings.Join(commands, "; "))...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1024)
	c := &Client{Lines: lines, cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(lines)
		defer r.Close()
		in := bufio.NewScanner(r)
		for in.Scan() {
			select {
			case lines <- in.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() {
		cmd.Wait()
		close(c.exited)
	}()
	t.Cleanup(func() {
		cancel()
		<-c.exited
	})
	return c
}

// Wait returns the exit status, or false if it is still running after limit.
func (c *Client) Wait(limit time.Duration) (code int, ended bool) {
	select {
	case <-c.exited:
		return c.cmd.ProcessState.ExitCode(), true
	case <-time.After(limit):
		return 0, false
	}
}
