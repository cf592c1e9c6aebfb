// Package ganeshatest runs NFS-Ganesha, a real NFS server in user space, for tests.
//
// It serves NFSv3 and v4.0 to v4.2 of one temporary directory on loopback, as root, without
// squashing, so that what arrives in the directory shows under which identity it was sent.
package ganeshatest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Pseudo is the path under which the directory is exported, in MOUNT and in NFSv4.
const Pseudo = "/export"

// Server is a running NFS-Ganesha.
type Server struct {
	NFS   string // host:port of NFS v3 and v4
	Mount string // host:port of mountd
	Dir   string // the directory that is exported as Pseudo; mode 1777

	cmd     *exec.Cmd
	output  *tail
	exited  chan struct{} // closed when the process has ended
	restart func() error
}

// Options change how Start sets the server up.
type Options struct {
	// RPCBind registers the programs with the portmapper of this network namespace. Without it
	// none is needed: a preloaded library answers in its place.
	RPCBind bool
}

const startTimeout = 30 * time.Second

// Start runs the server until the test ends and waits until it serves.
func Start(t testing.TB) *Server { return StartOptions(t, Options{}) }

// StartOptions is Start with options.
func StartOptions(t testing.TB, o Options) *Server {
	t.Helper()
	Require(t, "ganesha.nfsd", "gcc")
	if os.Geteuid() != 0 {
		t.Fatal("ganeshatest: nfs-ganesha needs root to act under other uids (hint: run `make test` as root or with sudo)")
	}
	run := t.TempDir()
	export := filepath.Join(run, "export")
	for _, dir := range []string{export, filepath.Join(run, "recovery")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(export, 0o1777); err != nil {
		t.Fatal(err)
	}
	preload := ""
	if !o.RPCBind {
		preload = buildPreload(t, run)
	}
	// Ports are picked before the server takes them; another process may be faster.
	var err error
	for range 5 {
		s := &Server{Dir: export, NFS: freeAddress(t), Mount: freeAddress(t)}
		if err = s.start(run, preload); err == nil {
			s.restart = func() error { return s.start(run, preload) }
			t.Cleanup(s.Stop)
			return s
		}
	}
	t.Fatalf("ganeshatest: %v", err)
	return nil
}

// Require fails the test if a program is not installed.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is not installed (hint: `make test` installs the Debian packages that the tests need: nfs-ganesha nfs-ganesha-vfs libnfs-utils rpcbind gcc libc6-dev iproute2)", p)
		}
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}

// preloadSource takes the place of the registration with rpcbind, which the server insists on.
const preloadSource = `
_Bool rpcb_set(unsigned prog, unsigned vers, const void *netconf, const void *addr) { return 1; }
_Bool rpcb_unset(unsigned prog, unsigned vers, const void *netconf) { return 1; }
`

func buildPreload(t testing.TB, dir string) string {
	t.Helper()
	out := filepath.Join(dir, "preload.so")
	cmd := exec.Command("gcc", "-shared", "-fPIC", "-x", "c", "-o", out, "-")
	cmd.Stdin = strings.NewReader(preloadSource)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ganeshatest: gcc: %v\n%s", err, msg)
	}
	return out
}

func (s *Server) config(run string) string {
	return fmt.Sprintf(`
NFS_CORE_PARAM {
	Protocols = 3, 4;
	NFS_Port = %s;
	MNT_Port = %s;
	Bind_addr = 127.0.0.1;
	Enable_NLM = false;
	Enable_RQUOTA = false;
	Enable_UDP = false;
	mount_path_pseudo = true;
}
NFSV4 {
	Graceless = true;
	RecoveryRoot = "%s/recovery";
	Minor_Versions = 0, 1, 2;
	Allow_Numeric_Owners = true;
	Only_Numeric_Owners = true;
}
EXPORT {
	Export_Id = 1;
	Path = "%s";
	Pseudo = "%s";
	Protocols = 3, 4;
	Transports = TCP;
	Access_Type = RW;
	Squash = none;
	SecType = sys;
	Attr_Expiration_Time = 0; # tests look at the directory from outside, too
	FSAL { Name = VFS; }
}
NFS_KRB5 { Active_krb5 = false; }
LOG { Default_Log_Level = EVENT; }
`, port(s.NFS), port(s.Mount), run, s.Dir, Pseudo)
}

// start runs the server and waits for the line in its log that says it serves.
func (s *Server) start(run, preload string) error {
	conf := filepath.Join(run, "ganesha.conf")
	if err := os.WriteFile(conf, []byte(s.config(run)), 0o600); err != nil {
		return err
	}
	s.cmd = exec.Command("ganesha.nfsd", "-F", "-f", conf, "-p", filepath.Join(run, "pid"), "-L", "STDOUT")
	s.cmd.Env = append(os.Environ(), "LD_PRELOAD="+preload)
	s.cmd.SysProcAttr = childAttr()
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.output, s.exited = &tail{up: make(chan struct{})}, make(chan struct{})
	go func() {
		s.output.read(stdout)
		s.cmd.Wait()
		close(s.exited)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	select {
	case <-s.output.up:
		return nil
	case <-s.exited:
		return fmt.Errorf("nfs-ganesha ended: %v\n%s", s.cmd.ProcessState, s.output.lines())
	case <-ctx.Done():
		s.Stop()
		return fmt.Errorf("nfs-ganesha does not serve after %v\n%s", startTimeout, s.output.lines())
	}
}

// Stop ends the server, by SIGKILL: nothing in it is worth keeping, and its orderly end takes
// seconds. It may be called more than once.
func (s *Server) Stop() {
	s.cmd.Process.Signal(syscall.SIGKILL)
	<-s.exited
}

// Restart runs a stopped server again, at the same addresses and with the same files.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.restart(); err != nil {
		t.Fatalf("ganeshatest: again: %v", err)
	}
}

// tail keeps the end of the server's log.
type tail struct {
	up   chan struct{} // closed when the server serves
	last []string      // owned by read until the process has ended
}

func (t *tail) read(r io.Reader) {
	up := false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if len(t.last) == 20 {
			t.last = t.last[1:]
		}
		t.last = append(t.last, lines.Text())
		if !up && strings.Contains(lines.Text(), "NFS SERVER INITIALIZED") {
			up = true
			close(t.up)
		}
	}
	io.Copy(io.Discard, r) // a line too long for the scanner must not block the server
}

func (t *tail) lines() string { return strings.Join(t.last, "\n") }
