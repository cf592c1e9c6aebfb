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
	"testing"
	"time"
)

// Options of a server. The zero value is a server for SMB 2.1 to 3.1.1 that
// neither demands signing nor encryption.
type Options struct {
	Global []string // further lines of smb.conf's [global], "server smb encrypt = required"
	Share  []string // further lines of the share's section
	KDC    *KDC     // takes its tickets, too; nil: NTLM only
}

// Server is a running smbd.
type Server struct {
	Addr string // 127.0.0.1:port
	Port int
	Dir  string // of the share, on this machine
	Base string // the directory that is the chroot's /mnt; Work is below it

	cmd    *exec.Cmd
	stderr bytes.Buffer
	exited chan struct{}
}

// startLimit is how long smbd may take until it accepts connections.
const startLimit = 30 * time.Second

// Start runs smbd until the end of the test.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	s := &Server{Base: t.TempDir()}
	s.Dir = filepath.Join(s.Base, "share")
	for _, d := range []string{"share", "private", "lock", "state", "cache", "pid", "log", "ncalrpc", "work"} {
		if err := os.Mkdir(filepath.Join(s.Base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The test's parent directories are for root alone; inside the chroot only
	// this one counts.
	for _, d := range []string{s.Base, s.Dir} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	// A free port may be taken by another before smbd has it: a few attempts.
	for attempt := 0; ; attempt++ {
		s.Port = freePort(t)
		s.Addr = fmt.Sprintf("127.0.0.1:%d", s.Port)
		s.configure(t, opts)
		if attempt == 0 {
			s.addUsers(t)
		}
		err := s.start(t)
		if err == nil {
			break
		}
		if attempt == 2 {
			t.Fatalf("smbd did not start: %v\n%s\n%s", err, tail(s.stderr.String()), tail(s.Log()))
		}
	}
	t.Cleanup(s.Stop)
	return s
}

// configure writes smb.conf. The settings below "as Samba's selftest" are those
// smbtorture expects of a server.
func (s *Server) configure(t testing.TB, opts Options) {
	t.Helper()
	global := []string{
		"workgroup = WORKGROUP", "netbios name = SMBTEST", "server role = standalone server", "security = user",
		"map to guest = never", "restrict anonymous = 2", "interfaces = lo", "bind interfaces only = yes",
		fmt.Sprintf("smb ports = %d", s.Port), "disable netbios = yes", "server min protocol = SMB2_10",
		"load printers = no", "printcap name = /dev/null", "disable spoolss = yes",
		"log file = /mnt/log/log.%m", "max log size = 0", "log level = 1", "logging = file",
		// As Samba's selftest.
		"kernel oplocks = no", "kernel share modes = no", "kernel change notify = no", "posix locking = no",
		"durable handles = yes", "smb2 leases = yes", "map archive = no", "map hidden = no", "map system = no",
		"map readonly = no", "store dos attributes = yes", "ea support = yes", "dos filemode = yes",
		"strict rename = yes", "strict sync = yes", "mangled names = yes", "smbd:validate_oplock_types = yes",
		"vfs objects = acl_xattr streams_xattr",
	}
	for _, d := range []string{"private dir", "lock directory", "state directory", "cache directory", "pid directory", "ncalrpc dir"} {
		name, _, _ := strings.Cut(d, " ")
		global = append(global, d+" = /mnt/"+name)
	}
	if opts.KDC != nil {
		opts.KDC.lend(t, s.Base, filepath.Join(opts.KDC.dir, "keytab"))
		global = append(global, "realm = "+Realm, "kerberos method = dedicated keytab", "dedicated keytab file = FILE:/mnt/keytab")
	}
	share := []string{"path = /mnt/share", "read only = no", "guest ok = no", "valid users = " + User + " " + OtherUser}
	conf := section("global", append(global, opts.Global...)) + section(Share, append(share, opts.Share...))
	if err := os.WriteFile(filepath.Join(s.Base, "smb.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
}

func section(name string, lines []string) string {
	return "[" + name + "]\n  " + strings.Join(lines, "\n  ") + "\n"
}

func (s *Server) addUsers(t testing.TB) {
	t.Helper()
	script := fmt.Sprintf("for u in %s %s; do printf '%%s\\n%%s\\n' '%s' '%s' | smbpasswd -c /mnt/smb.conf -s -a $u; done",
		User, OtherUser, Password, Password)
	if out := run(t, s.Base, startLimit, "/bin/sh", "-ec", script); out.Code != 0 {
		t.Fatalf("smbpasswd failed:\n%s", tail(out.Text))
	}
}

// start runs smbd and waits until it accepts a connection.
func (s *Server) start(t testing.TB) error {
	t.Helper()
	s.stderr.Reset()
	// Not the test's context: it ends before the clean-up, which stops smbd itself.
	s.cmd = command(t, context.Background(), s.Base, "smbd", "-F", "--no-process-group", "-s", "/mnt/smb.conf", "-l", "/mnt/log")
	s.cmd.Stdout, s.cmd.Stderr = &s.stderr, &s.stderr
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	deadline := time.NewTimer(startLimit)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		conn, err := net.Dial("tcp", s.Addr)
		if err == nil {
			conn.Close()
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("it ended: %s", s.cmd.ProcessState)
		case <-deadline.C:
			s.Stop()
			return fmt.Errorf("no connection to %s within %s: %w", s.Addr, startLimit, err)
		case <-poll.C:
		}
	}
}

// Stop kills smbd and every process it has started, and returns when they are
// gone. It may be called again.
func (s *Server) Stop() {
	s.cmd.Process.Kill() // of a process that has ended: nothing to do
	<-s.exited
}

// Restart runs a stopped smbd again, at the same address and with the same files.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.start(t); err != nil {
		t.Fatalf("smbd did not start again: %v\n%s\n%s", err, tail(s.stderr.String()), tail(s.Log()))
	}
}

// Log returns smbd's logs so far.
func (s *Server) Log() string {
	files, _ := filepath.Glob(filepath.Join(s.Base, "log", "*"))
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil {
			fmt.Fprintf(&all, "== %s\n%s", filepath.Base(f), b)
		}
	}
	return all.String()
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
