package sambatest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Realm is the Kerberos realm of a KDC.
const Realm = "QUIC.TEST"

// KDC is a running MIT key distribution centre that knows User and the service
// of a server under Host.
type KDC struct {
	Addr string // 127.0.0.1:port, UDP and TCP

	dir  string // of the KDC
	conf string // krb5.conf of its clients
}

// StartKDC runs a KDC until the end of the test.
func StartKDC(t testing.TB) *KDC {
	t.Helper()
	k := &KDC{Addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), dir: t.TempDir()}
	k.conf = k.ClientConfig(k.Addr)
	k.write(t, "krb5.conf", k.conf)
	k.write(t, "kdc.conf", fmt.Sprintf(`[kdcdefaults]
 kdc_listen = %[1]s
 kdc_tcp_listen = %[1]s
[realms]
 %[2]s = {
  database_name = %[3]s/principal
  key_stash_file = %[3]s/stash
 }
`, k.Addr, Realm, k.dir))
	k.must(t, "kdb5_util", "create", "-s", "-r", Realm, "-P", "of the database")
	service := "cifs/" + Host
	for _, query := range []string{
		"addprinc -pw " + Password + " " + User,
		"addprinc -randkey " + service,
		"ktadd -k " + k.dir + "/keytab " + service,
	} {
		k.must(t, "kadmin.local", "-r", Realm, "-q", query)
	}
	k.start(t)
	return k
}

// ClientConfig is the krb5.conf of somebody who reaches the KDC at kdc.
func (k *KDC) ClientConfig(kdc string) string {
	return fmt.Sprintf(`[libdefaults]
 default_realm = %[1]s
 dns_lookup_kdc = false
 dns_lookup_realm = false
 dns_canonicalize_hostname = false
 rdns = false
[realms]
 %[1]s = {
  kdc = %[2]s
 }
[domain_realm]
 %[3]s = %[1]s
`, Realm, kdc, Host)
}

func (k *KDC) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// command is a program of MIT Kerberos on this machine, not in the tree.
func (k *KDC) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
		"KRB5_CONFIG=" + k.dir + "/krb5.conf", "KRB5_KDC_PROFILE=" + k.dir + "/kdc.conf"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (k *KDC) must(t testing.TB, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	if out, err := k.command(ctx, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, tail(string(out)))
	}
}

// start runs the KDC and waits until it takes connections.
func (k *KDC) start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := k.command(ctx, "krb5kdc", "-n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatalf("the KDC does not start: %v (make deps installs it)", err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		cancel()
		<-exited
	})
	deadline := time.NewTimer(startLimit)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if conn, err := net.Dial("tcp", k.Addr); err == nil {
			conn.Close()
			return
		}
		select {
		case <-exited:
			t.Fatalf("the KDC ended:\n%s", tail(out.String()))
		case <-deadline.C:
			t.Fatalf("the KDC took no connection within %s", startLimit)
		case <-poll.C:
		}
	}
}

// Through is the KDC as clients see it that reach it by a KDC proxy alone. url is
// the proxy's, ca a PEM file that its certificate is trusted by.
func (k *KDC) Through(url, ca string) *KDC {
	far := *k
	far.conf = k.ClientConfig(url + "\n  http_anchors = FILE:" + ca)
	return &far
}

// Tickets logs User on, as kinit does, fetches the ticket of the service at Host,
// and returns a file with both: who has it needs no KDC any more.
func (k *KDC) Tickets(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	file, conf := filepath.Join(dir, "tickets"), filepath.Join(dir, "krb5.conf")
	if err := os.WriteFile(conf, []byte(k.conf), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"kinit", "-c", "FILE:" + file, User}, {"kvno", "-c", "FILE:" + file, "cifs/" + Host}} {
		ctx, cancel := context.WithTimeout(t.Context(), startLimit)
		cmd := k.command(ctx, args...)
		cmd.Env = append(cmd.Env, "KRB5_CONFIG="+conf)
		cmd.Stdin = strings.NewReader(Password + "\n")
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	return file
}

// lend writes what a program of the tree needs of the KDC into dir, its /mnt.
func (k *KDC) lend(t testing.TB, dir string, files ...string) {
	t.Helper()
	err := os.WriteFile(filepath.Join(dir, "krb5.conf"), []byte(k.conf), 0o600)
	for _, name := range files {
		var b []byte
		if b, err = os.ReadFile(name); err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(name)), b, 0o600)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
