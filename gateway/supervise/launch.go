//go:build linux

package supervise

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/quic-fsgw/quic-fsgw/gateway/admin"
	"github.com/quic-fsgw/quic-fsgw/gateway/config"
	"github.com/quic-fsgw/quic-fsgw/tlshd"
)

// The packet process begins without the rights to open what it works with: the
// supervisor opens it, the packet process inherits descriptors. By the time it
// reads its first packet it is another user than root, if root started serve, it
// can open the few system files that the resolver reads and no other, and can
// change none.

// What can come after the UDP sockets.
const (
	fileAdminSocket = "admin.socket"
	fileAdminHTTP   = "admin.http"
	fileAccessLog   = "log.access"
	fileAuditLog    = "log.audit"
	fileStat        = "/proc/stat" // see procs.Source
)

// openFile is a descriptor for the packet process.
type openFile struct {
	name string // one of the above
	f    *os.File
}

// listenAdmin opens the admin addresses, for all packet processes to come.
func (s *Supervisor) listenAdmin() error {
	add := func(name string, l interface{ File() (*os.File, error) }) error {
		f, err := l.File()
		if err == nil {
			s.admin = append(s.admin, openFile{name, f})
		}
		return err
	}
	if a := s.cfg.Admin.HTTP; a != "" {
		l, err := net.Listen("tcp", a.AddrPort().String())
		if err != nil {
			return fmt.Errorf("admin.http: %w", err)
		}
		err = add(fileAdminHTTP, l.(*net.TCPListener))
		_ = l.Close() // the file keeps it open
		if err != nil {
			return fmt.Errorf("admin.http: %w", err)
		}
	}
	if p := s.cfg.Admin.Socket; p != "" {
		l, err := admin.ListenUnix(string(p))
		if err != nil {
			s.closeAdmin()
			return fmt.Errorf("admin.socket: %w", err)
		}
		l.SetUnlinkOnClose(false)
		err = add(fileAdminSocket, l)
		_ = l.Close()
		if err != nil {
			s.closeAdmin()
			return fmt.Errorf("admin.socket: %w", err)
		}
	}
	return nil
}

func (s *Supervisor) closeAdmin() {
	for _, a := range s.admin {
		_ = a.f.Close()
		if a.name == fileAdminSocket {
			_ = os.Remove(string(s.cfg.Admin.Socket))
		}
	}
	s.admin = nil
}

// openFiles lists what a packet process gets beside its UDP sockets. Its logs
// are opened anew each time.
func (s *Supervisor) openFiles() ([]openFile, error) {
	out := append([]openFile(nil), s.admin...)
	for _, l := range []struct {
		name   string
		target config.LogTarget
	}{{fileAccessLog, s.cfg.Log.Access}, {fileAuditLog, s.cfg.Log.Audit}} {
		if l.target == "" || l.target == "journal" {
			continue
		}
		f, err := os.OpenFile(string(l.target), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
		if err != nil {
			closeOpened(out)
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		out = append(out, openFile{l.name, f})
	}
	if f, err := os.Open(fileStat); err == nil { // it does without where there is none
		out = append(out, openFile{fileStat, f})
	}
	return out, nil
}

// closeOpened closes what openFiles has opened, and the packet process has its own
// descriptors of by now.
func closeOpened(files []openFile) {
	for _, x := range files {
		if x.name != fileAdminHTTP && x.name != fileAdminSocket {
			_ = x.f.Close()
		}
	}
}

// packetAccount is who the packet process is where no account is configured;
// the number is next to the helper's.
const (
	packetAccount = "quic-fsgw"
	packetNumber  = 61443
)

// credential is who the packet process is; nil: who we are.
func credential(c *config.RunAs) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		if c.User != "" && !isCurrentUser(c.User) {
			return nil, fmt.Errorf("run_as: only root can become user %q (start serve as root, or leave run_as empty)", c.User)
		}
		return nil, nil
	}
	uid, gid := tlshd.Account(packetAccount, packetNumber)
	var err error
	if c.User != "" {
		if uid, gid, err = userIDs(c.User); err != nil {
			return nil, err
		}
	}
	if c.Group != "" {
		if gid, err = groupID(c.Group); err != nil {
			return nil, err
		}
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{uint32(gid)}}, nil
}

func isCurrentUser(name string) bool {
	uid, _, err := userIDs(name)
	return err == nil && uid == os.Geteuid()
}

func userIDs(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return 0, 0, fmt.Errorf("run_as: there is no user %q", name)
		}
	}
	uid, err = strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(err, gidErr)
}

func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		if g, err = user.LookupGroupId(name); err != nil {
			return 0, fmt.Errorf("run_as: there is no group %q", name)
		}
	}
	return strconv.Atoi(g.Gid)
}

// capabilities are those that the packet process keeps beyond root: to connect
// to NFS servers from low ports, where the file asks for it.
func capabilities(cfg *config.Config) []uintptr {
	for i := range cfg.Routes {
		if n := cfg.Routes[i].NFS; n != nil && n.PrivilegedPort {
			return []uintptr{unix.CAP_NET_BIND_SERVICE}
		}
	}
	return nil
}

// rules are the files that the packet process may open: what the resolver and
// the Go runtime read, and the libraries of a build that has any. Key files are
// not among them. As a user of its own it may look at all of /etc, where a key
// is safe as root's, so that files exchanged there are seen; as our user it may
// look at the files that are there now.
func rules(own bool, qlog config.Path) tlshd.FileRules {
	r := tlshd.FileRules{Read: []string{"/proc", "/sys", "/dev/null", "/dev/urandom", "/usr/lib", "/usr/share/zoneinfo", "/lib", "/lib64", "/run/systemd/resolve"}}
	if own {
		r.Read = append(r.Read, "/etc")
	} else {
		for _, name := range []string{"resolv.conf", "hosts", "nsswitch.conf", "services", "protocols", "gai.conf", "localtime", "hostname", "ld.so.cache"} {
			r.Read = append(r.Read, filepath.Join("/etc", name))
		}
	}
	if qlog != "" {
		r.Write = append(r.Write, string(qlog))
	}
	return r
}

// launch starts the packet process. The channel yields how it ended.
func (s *Supervisor) launch(w *worker, control *os.File, extra []openFile) (<-chan error, error) {
	cred, err := credential(&s.cfg.RunAs)
	if err != nil {
		return nil, err
	}
	ended, err := s.launchAs(w, control, extra, cred)
	if err != nil && cred != nil && s.cfg.RunAs == (config.RunAs{}) && errors.Is(err, os.ErrPermission) {
		// Nobody has asked for another user, and a container may not have one.
		s.log.Warn("the packet process stays root: it may not become another user (give it CAP_SETUID and CAP_SETGID)", "error", err)
		return s.launchAs(w, control, extra, nil)
	}
	return ended, err
}

func (s *Supervisor) launchAs(w *worker, control *os.File, extra []openFile, cred *syscall.Credential) (<-chan error, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// By this name it can be executed by whoever, whatever folders it is in.
	const self = "/proc/self/exe"
	if _, err := os.Stat(self); err == nil {
		exe = self
	}
	cmd := exec.Command(exe, s.conf.WorkerArgs...)
	cmd.Args[0] = os.Args[0] // what process lists show
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = append([]*os.File{control}, s.files...)
	for _, x := range extra {
		cmd.ExtraFiles = append(cmd.ExtraFiles, x.f)
	}
	if s.conf.Profile != nil {
		f, err := s.conf.Profile()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", ProfileFD, 2+len(cmd.ExtraFiles)))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, Credential: cred}
	w.cmd = cmd
	if cred != nil {
		cmd.SysProcAttr.AmbientCaps = capabilities(s.cfg)
	}
	restrict := rules(cred != nil, s.cfg.Log.Qlog)
	restrict.Read = append(restrict.Read, exe) // to begin at all
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// The thread stays, as the child's Pdeathsig would fire when the thread
		// that started it ends. It has what Landlock leaves to the child, and so
		// the goroutine ends locked, which takes the thread along.
		runtime.LockOSThread()
		if err := restrict.RestrictThread(); err != nil {
			s.log.Warn("the packet process is not kept from opening files", "error", err)
		}
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	return ended, <-started
}
